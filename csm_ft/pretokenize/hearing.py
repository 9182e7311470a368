"""What a recogniser hears of each row, kept beside the output so that no row is heard twice."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.console import console
from csm_ft.data import audio
from csm_ft.data.rows import Row
from csm_ft.device import choose_device
from csm_ft.errors import AudioError, ConfigError


def hear_rows(config: PretokenizeConfig, rows: Sequence[Row]) -> dict[str, str]:
    """Return what `--heard_by` hears of the rows that do not say it themselves, by Row.where.

    Rows whose sound cannot be read are left out; they are rejected later, with their reason. Every
    text is written to `<output>.heard.jsonl` at once, so that a stopped command goes on there, and
    another --max_heard_distance hears nothing again. ConfigError as open_recogniser raises it.
    """
    column = config.heard_column.lower()
    unheard = [row for row in rows if not row.tags.get(column, "")]
    if not config.heard_by or not unheard:
        return {}
    from csm_ft.evaluate.recognise import RECOGNISER_HZ, open_recogniser

    try:
        recogniser = open_recogniser(config.heard_by, "", choose_device(config.device))
    except ConfigError as error:
        raise ConfigError(str(error).replace("--asr", "--heard_by")) from error
    if isinstance(recogniser, str):
        raise ConfigError(
            f"--heard_by {config.heard_by}: {recogniser}; name a recogniser, as transformers:NAME,"
            " or leave the option out"
        )
    path = Path(f"{config.output}.heard.jsonl")
    known = {tuple(key): text for key, text in _read(path)}
    console.print(f"hearing {len(unheard)} rows by {recogniser.name}", markup=False)
    digests: dict[Path, str] = {}
    heard: dict[str, str] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in unheard:
            try:
                if row.path not in digests:
                    digests[row.path] = audio.digest(row.path)
                channel = row.channel or config.channel
                key = (recogniser.name, digests[row.path], row.start_sec, row.end_sec, channel)
                if key not in known:
                    wave = audio.load(
                        row.path,
                        sample_rate_hz=RECOGNISER_HZ,
                        start_sec=row.start_sec,
                        end_sec=row.end_sec,
                        channel=channel,
                    )
                    known[key] = recogniser.hear(wave)
                    file.write(f"{json.dumps([key, known[key]], ensure_ascii=False)}\n")
                    file.flush()
            except AudioError:
                continue
            heard[row.where] = known[key]
    return heard


def _read(path: Path) -> Iterator[tuple[list[str | float | None], str]]:
    """Yield what was heard earlier; a line that was cut off by a kill is heard again."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            key, text = json.loads(line)
        except ValueError:
            continue
        yield key, text

"""The page of an evaluation: every number beside its recording."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from csm_ft.atomic import write_whole
from csm_ft.evaluate.expression import Expression
from csm_ft.evaluate.judge import JudgedClip
from csm_ft.evaluate.metrics import MAIN, METRICS
from csm_ft.evaluate.results import MODELS, EvaluatedRow, Evaluation
from csm_ft.evaluate.summary import Estimate
from csm_ft.evaluate.verdicts import show
from csm_ft.report import templating
from csm_ft.report.data import Take
from csm_ft.report.listen import PLAYER_BYTES, Player, Row, load_player
from csm_ft.report.spoken import PAGE_BYTES
from csm_ft.runs.folder import EvaluationFolder

_ROLES = {
    "model": "best",
    "default": "default",
    "base": "base",
    "codec": "reference",
    "recordings": "reference",
}
_BESIDE = ("similarity", "dnsmos", "level_dbfs", "f0_mean_st")  # beside each recording


@dataclass(frozen=True)
class Column:
    """A metric of the table."""

    name: str
    title: str
    unit: str
    better: str
    meaning: str


def write_page(evaluation: Evaluation, folder: Path) -> Path:
    """Write `folder`/index.html, with sounds of up to 10 MB in the page itself; return its path."""
    notes = evaluation.all_notes()
    sentences = _sentences(evaluation, folder, notes)
    environment = templating.environment()
    text = templating.template_text(environment, "players.js", "sort.js")
    script, script_hash = templating.script(text)
    page = environment.get_template("evaluation.html.j2").render(
        evaluation=evaluation,
        notes=notes,
        columns=_columns(evaluation.rows, lambda name: name in MAIN),
        more_columns=_columns(evaluation.rows, lambda name: name not in MAIN),
        show=show,
        interval=interval,
        data_names=_data_names(evaluation.rows),
        expressions=[row for row in evaluation.rows if isinstance(row.expression, Expression)],
        rows=sentences,
        confusion_table=confusion_table,
        metrics=METRICS,
        style=templating.style(environment),
        script=script,
        script_hash=script_hash,
    )
    path = EvaluationFolder(folder).page
    write_whole(path, page)
    return path


def interval(name: str, found: Estimate) -> str:
    """Write the interval of a metric; "" where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"{show(name, found.low)} to {show(name, found.high)}"


def _columns(rows: Sequence[EvaluatedRow], wanted: Callable[[str], bool]) -> list[Column]:
    present = {name for row in rows for name in row.summary}
    return [
        Column(name, metric.title, metric.unit, metric.better, metric.meaning)
        for name, metric in METRICS.items()
        if name in present and wanted(name)
    ]


def _data_names(rows: Sequence[EvaluatedRow]) -> list[str]:
    names: dict[str, None] = {}
    for row in rows:
        names |= dict.fromkeys(row.on_data)
    return list(names)


def _sentences(evaluation: Evaluation, folder: Path, notes: list[str]) -> list[Row]:
    """Put the clips of all rows that say the same side by side."""
    sentences: dict[tuple[str, str], Row] = {}
    num_takes = Counter(
        (row.name, one.clip.prompt) for row in evaluation.rows for one in row.judged
    )
    takes: Counter[tuple[str, str]] = Counter()
    space_bytes = PAGE_BYTES
    for row in evaluation.rows:
        for one in row.judged:
            player = _player(row, one, folder)
            takes[row.name, one.clip.prompt] += 1
            if row.kind in MODELS and num_takes[row.name, one.clip.prompt] > 1:
                player.who += f", take {takes[row.name, one.clip.prompt]}"
            sound = load_player(player, notes)
            if sound is not None:
                space_bytes -= len(sound.uri) + PLAYER_BYTES
                player.sound = sound if space_bytes >= 0 else None
            for sentence in _places(sentences, row, one):
                sentence.players[f"{row.name}/{one.clip.id}"] = player
    return list(sentences.values())


def _places(
    sentences: dict[tuple[str, str], Row], row: EvaluatedRow, one: JudgedClip
) -> Iterable[Row]:
    """Return the sentence of a clip; a real clip stands beside each emotion of its text."""
    clip = one.clip
    who = ", ".join(word for word in (clip.speaker, *clip.tags.values()) if word)
    if row.kind in ("codec", "recordings"):
        same = [
            place
            for (text, speaker), place in sentences.items()
            if text == clip.text and speaker.split(", ")[0] == clip.speaker
        ]
        if same:
            return same[:1]
    return [sentences.setdefault((clip.text, who), Row(clip.text, who))]


def _player(row: EvaluatedRow, one: JudgedClip, folder: Path) -> Player:
    clip, values = one.clip, one.values
    facts = []
    if one.heard is not None:
        facts.append(f"heard “{one.heard or '(nothing)'}”, {values['wer']:.0%} word errors")
    facts += [
        f"{METRICS[name].title.lower()} {show(name, values[name])} {METRICS[name].unit}".strip()
        for name in _BESIDE
        if name in values
    ]
    failed = [f"{judge} failed: {reason}" for judge, reason in one.failed.items()]
    take = Take(
        folder / clip.id,
        clip.text,
        clip.speaker,
        seconds=len(clip.wave) / clip.sample_rate_hz,
        is_complete=clip.is_complete,
        notes=failed,
        facts=facts,
    )
    return Player(_ROLES[row.kind], row.name, take, quote(clip.id))


def confusion_table(expression: Expression) -> Mapping[str, Sequence[tuple[str, int, float]]]:
    """Return the rows of a confusion matrix: asked for -> (nearest, clips, share)."""
    return {
        asked: [
            (name, count, count / max(1, sum(counts.values()))) for name, count in counts.items()
        ]
        for asked, counts in expression.confusion.items()
    }

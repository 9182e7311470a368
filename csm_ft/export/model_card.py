"""The README.md of exported weights.

What they learned from, with which settings, how well, how to load them, and what not to do with
them. Everything put into the template is escaped, unless it is Markdown of our own; of paths only
the last part is shown.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from csm_ft import assets
from csm_ft.config.base import build
from csm_ft.config.train import TrainConfig
from csm_ft.data.split import Store
from csm_ft.evaluate.metrics import MAIN, as_cost
from csm_ft.families.base import Family
from csm_ft.families.exporter import Exporter, Proof
from csm_ft.hub import is_hub_name
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.source import Source, data_fingerprint, is_same_data

_DEMO = assets.path_of("demo")
_VOICES = ("text-to-speech", "audio-to-audio")  # kinds of models that give speech
_PATHS = ("data", "output_dir", "model_name_or_checkpoint_path")
_TOP_TRIALS = 10
_SHOWN_SPEAKERS = 10


class Markdown(str):
    """Text that goes into the card as it is."""

    __slots__ = ()


def model_card(
    source: Source, store: Store | None, family: Family, exporter: Exporter, proof: Proof
) -> str:
    """Return the card as Markdown with YAML front matter."""
    environment = Environment(
        loader=PackageLoader("csm_ft.export"),
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markdown) else escape(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown: `finalize` escapes
    )
    card = environment.get_template("model_card.md.j2").render(
        front_matter=Markdown(_front_matter(exporter)),
        title=source.label,
        summary=exporter.summary,
        provenance=_provenance(source, exporter),
        snippet=Markdown(exporter.snippet()),
        data=_data(source, store, family),
        scores=_scores(source),
        yardstick=family.yardstick,
        trials=_trials(source) if source.sweep is not None else None,
        configuration=_configuration(source.config) if source.config is not None else None,
        proof=proof,
        is_voice=exporter.pipeline_tag in _VOICES,
        table=_table,
    )
    return ModelCard(card).content


def escape(value: object) -> Markdown:
    """Escape what Markdown, its tables or HTML would take for their own; one line."""
    html = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    line = " ".join(str(value).split())
    letters = (html.get(c, f"\\{c}" if c in "\\`*_[]|#!~" else c) for c in line)
    return Markdown("".join(letters))


def _front_matter(exporter: Exporter) -> str:
    licence = exporter.licence
    return ModelCardData(
        library_name=exporter.library,
        pipeline_tag=exporter.pipeline_tag or None,
        base_model=exporter.base if is_hub_name(exporter.base) else None,
        base_model_relation="adapter" if exporter.library == "peft" else None,
        license=licence or "other",
        license_name=None if licence else "not-chosen-yet",
        tags=[*exporter.tags, "csm-ft"],
    ).to_yaml()


def _provenance(source: Source, exporter: Exporter) -> Markdown:
    """Say where the weights come from, after what they are."""
    if source.config is None:
        return Markdown(f": converted from {_name(source.weights)} by csm-ft")
    started = "trained from random weights"
    if exporter.base:
        started = f"fine-tuned from {_name(exporter.base)}"
    at = ""
    if source.state is not None:
        at = f", at step {source.state.step} (epoch {source.state.epoch:.2f})"
    return Markdown(f": {started} by csm-ft (method {escape(source.config.method)}){at}")


def _data(source: Source, store: Store | None, family: Family) -> dict[str, Any] | None:
    """Describe the token file; None where no run is known."""
    if source.config is None:
        return None
    facts = {"name": Path(source.config.data).name, "content": data_fingerprint(source)}
    if store is None or not is_same_data(source, store.info):
        return {**facts, "splits": []}
    rows: list[tuple[object, ...]] = []
    speakers: set[str] = set()
    for name, split in store.splits.items():
        own = {split.speaker(row) for row in range(len(split))} - {""}
        hours = f"{split.durations_sec.sum() / 3600:.2f}"
        rows.append((name, len(split), hours, len(own) or "not named"))
        speakers |= own
    shown = [_code(speaker) for speaker in sorted(speakers)[:_SHOWN_SPEAKERS]]
    if len(speakers) > _SHOWN_SPEAKERS:
        shown.append(Markdown("..."))
    return {
        **facts,
        "splits": rows,
        "lines": _lines(family.describe(store), store),
        "speakers": Markdown(", ".join(shown)),
    }


def _lines(lines: Sequence[str], store: Store) -> list[str]:
    """Join lines with those indented below them, and cut the paths in them to their last part."""
    joined: list[str] = []
    for line in lines:
        if line.startswith(" ") and joined:
            joined[-1] += f", {line.strip()}"
        else:
            joined.append(line)
    facts = [value for value in store.info.facts.values() if isinstance(value, str)]
    for path in (fact for fact in facts if Path(fact).is_absolute()):
        joined = [line.replace(path, Path(path).name) for line in joined]
    return joined


def _scores(source: Source) -> dict[str, Any] | None:
    """Return the validations of these weights, those before training and the best, as a table."""
    if source.run is None or source.state is None:
        return None
    rows = _validations(source.run)
    before = rows.get(0)
    if before is None and source.sweep is not None:
        before = _validations(source.sweep.baseline).get(0)
    best, state = source.state.best, source.state
    named = {
        "before training": before,
        f"these weights: step {state.step}, epoch {state.epoch:.2f}": rows.get(state.step),
    }
    if best and best["step"] != state.step:
        label = f"best of the run: step {best['step']}, epoch {best['epoch']:.2f}"
        named[label] = rows.get(best["step"])
    measured = {name: row for name, row in named.items() if row is not None}
    if not measured:
        return None
    found = {key for row in rows.values() for key in row if key.startswith("val_")}
    judged = [name for name in MAIN if any(name in row for row in measured.values())]
    keys = ["val_loss", *sorted(found - {"val_loss"}), *judged]
    cells = [[name, *(_score(row.get(key)) for key in keys)] for name, row in measured.items()]
    names = [key.removeprefix("val_") for key in keys[1:]]
    rules = source.run.read_environment().get("scored_by", "")
    return {"header": ["weights", "val_loss", *names], "rows": cells, "rules": rules}


def _score(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""


def _validations(run: RunFolder) -> dict[int, dict[str, Any]]:
    """Return the validations by step, that of the best as measured on all targets at the end."""
    rows = {row["step"]: row for row in run.rows("val")}
    for row in run.rows("best"):
        step = row["best_step"]
        rows[step] = {**rows.get(step, {}), **row, "step": step}
    return rows


def _trials(source: Source) -> dict[str, Any]:
    """Return the best trials of trials.csv, and the default's, as a table."""
    assert source.sweep is not None, "asked for a sweep only"
    metric = source.config.best_by if source.config is not None else ""
    with source.sweep.table.open(encoding="utf-8", newline="") as file:
        trials = [row for row in csv.DictReader(file) if row["value"]]
    trials.sort(key=lambda r: (r["state"] != "completed", as_cost(metric, float(r["value"]))))
    params = [name for name in (trials[0] if trials else ()) if name.startswith("params.")]
    rows: list[list[str]] = []
    for rank, row in enumerate(trials, 1):
        is_default = row["is_default"] == "True"
        if rank <= _TOP_TRIALS or is_default:
            number = f"{row['number']} (default)" if is_default else row["number"]
            values = [_number(row[name]) for name in ("value", "best_epoch")]
            rows.append(
                [str(rank), number, *values, row["state"], *(_number(row[name]) for name in params)]
            )
    names = [name.removeprefix("params.") for name in params]
    return {
        "num_shown": min(_TOP_TRIALS, len(trials)),
        "num_trials": len(trials),
        "header": ["rank", "trial", "value", "epoch", "state", *names],
        "rows": rows,
    }


def _configuration(config: TrainConfig) -> dict[str, Any]:
    """Return what is not the default, and all options as YAML in a fence that they do not close."""
    values, defaults = _portable(config), build(type(config), {}).model_dump(mode="json")
    changed = [
        (_code(key), _code(values[key]))
        for key in config.training_keys()
        if values[key] != defaults[key]
    ]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = Markdown("`" * max(3, 1 + longest))
    return {"changed": changed, "yaml": Markdown(text), "fence": fence}


def _portable(config: TrainConfig) -> dict[str, Any]:
    """Return the options with paths cut to their last part: the folders here are private."""
    values = config.model_dump(mode="json")
    return {key: _short(value) if _is_path(key, value) else value for key, value in values.items()}


def _is_path(key: str, value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return key in _PATHS or Path(value).is_absolute() or ("/" in value and Path(value).exists())


def _short(name: str) -> str:
    return name if is_hub_name(name) else Path(name).name


def _name(weights: str) -> Markdown:
    if is_hub_name(weights):
        return Markdown(f"[{escape(weights)}](https://huggingface.co/{weights})")
    path = Path(weights).resolve()
    if path.is_relative_to(_DEMO):
        return escape(f"csm-ft's {path.relative_to(_DEMO.parent)}")
    return escape(Path(weights).name)


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> Markdown:
    lines = [header, [Markdown("---")] * len(header), *rows]
    return Markdown("\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))


def _cell(value: object) -> Markdown:
    return value if isinstance(value, Markdown) else escape(value)


def _code(value: object) -> Markdown:
    """Return a value as inline code; HTML's way, for backticks cannot be escaped."""
    return Markdown(f"<code>{escape(value)}</code>")


def _number(value: str) -> str:
    try:
        return f"{float(value):.6g}"
    except ValueError:
        return value

"""The README.md of exported weights.

What they learned from, with which settings, how well, how to load them, and what not to do with
them.

Texts that come from data are escaped; of paths only the last part is told.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import ModelCardData

from csm_ft.config import TrainConfig, build
from csm_ft.data.describe import summarise
from csm_ft.data.token_file import Store
from csm_ft.families.csm.family import EMBEDDED_BASE
from csm_ft.runs.source import Origin, is_hub_name, is_same_data

Layout = Literal["sesame", "transformers", "adapter"]
_LIBRARY: Mapping[Layout, str] = {
    "sesame": "csm",
    "transformers": "transformers",
    "adapter": "peft",
}
_PATHS = ("data", "output_dir", "model_name_or_checkpoint_path", "gen_prompts")
_TOP_TRIALS = 10
_SHOWN_SPEAKERS = 10
_LIMITS = """\
Speech in a person's voice needs that person's consent: do not use these weights to imitate
somebody without it, to deceive, or for anything unlawful. They say what they are told to, and may
also say it wrongly, in another voice, or not stop; listen before you publish. They were scored only
on the validation clips described here: other speakers, languages, rooms and styles have not been
measured."""


def model_card(
    origin: Origin,
    store: Store | None,
    layout: Layout,
    *,
    base: str,
    load: str,
    proof: Sequence[str],
) -> str:
    """Return the card as Markdown with YAML front matter.

    `base` are the weights that training began with ("" = random ones), of adapters those that they
    belong to; `load` is code that loads the weights; `proof` says what was compared before the
    export counted.
    """
    sections = {
        "How to load it": load,
        "Data": _data(origin, store),
        "Scores": _scores(origin),
        "The sweep": _leaderboard(origin.sweep) if origin.sweep else "",
        "Configuration": _configuration(origin.config) if origin.config else "",
        "Checked": "\n".join(f"- {line}" for line in proof),
        "Limits and intended use": _LIMITS,
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    return (
        f"---\n{_front_matter(base, layout)}\n---\n\n#"
        f" {_text(origin.label)}\n\n{_summary(origin, base, layout)}\n\n{body}\n"
    )


def _front_matter(base: str, layout: Layout) -> str:
    is_embedded = bool(base) and Path(base).resolve() == EMBEDDED_BASE
    licence = "apache-2.0" if is_embedded or base == "sesame/csm-1b" else None
    return ModelCardData(
        library_name=_LIBRARY[layout],
        pipeline_tag="text-to-speech",
        base_model=base if is_hub_name(base) else None,
        base_model_relation="adapter" if layout == "adapter" else None,
        license=licence or "other",
        license_name=None if licence else "not-chosen-yet",
        tags=["csm", "speech", "csm-ft", *(["lora"] if layout == "adapter" else [])],
    ).to_yaml()


def _summary(origin: Origin, base: str, layout: Layout) -> str:
    what = {
        "sesame": "weights in Sesame's layout",
        "transformers": "weights for transformers",
        "adapter": "LoRA adapters for peft",
    }[layout]
    if origin.config is None:
        return (
            f"Conversational Speech Model: {what}, converted from {_name(origin.weights)} by"
            " csm-ft."
        )
    how = f"method {origin.config.method}"
    started = f"fine-tuned from {_name(base)}" if base else "trained from random weights"
    at = f", at step {origin.state.step} (epoch {origin.state.epoch:.2f})" if origin.state else ""
    return f"Conversational Speech Model, {started} by csm-ft ({how}){at}: {what}."


def _data(origin: Origin, store: Store | None) -> str:
    if origin.config is None:
        return ""
    name = Path(origin.config.data).name
    if store is None or not is_same_data(origin, store):
        return (
            f"The token file {_text(name)}, which is not as it was then; content"
            f" {_recorded(origin)}."
        )
    facts = summarise(store)
    rows = [
        [
            split,
            found["clips"],
            f"{found['seconds'] / 3600:.2f}",
            len(found["speakers"]) or "not named",
        ]
        for split, found in facts["splits"].items()
    ]
    info = store.info
    speakers = {speaker for split in facts["splits"].values() for speaker in split["speakers"]}
    shown = ", ".join(_code(speaker) for speaker in sorted(speakers)[:_SHOWN_SPEAKERS]) + (
        ", ..." if len(speakers) > _SHOWN_SPEAKERS else ""
    )
    return "\n\n".join(
        [
            _table(["split", "clips", "hours", "speakers"], rows),
            (
                f"Token file {_text(name)}: codec {info.codec}, {info.num_codebooks} codebooks,"
                f" {info.sample_rate_hz} Hz, {1 / info.frame_sec:g} frames per second; text as"
                f" {_code(info.template)}; content {info.content_fingerprint}."
            ),
            *([f"Speakers: {shown}"] if speakers else []),
        ]
    )


def _scores(origin: Origin) -> str:
    if origin.run is None or origin.state is None:
        return ""
    rows = _validations(origin.run)
    before = rows.get(0) or (
        _validations(origin.sweep / "baseline").get(0) if origin.sweep else None
    )
    best, state = origin.state.best, origin.state
    named = {
        "before training": before,
        f"these weights: step {state.step}, epoch {state.epoch:.2f}": rows.get(state.step),
    }
    if best and best["step"] != state.step:
        named[f"best of the run: step {best['step']}, epoch {best['epoch']:.2f}"] = rows.get(
            best["step"]
        )
    parts = sorted(
        {key for row in rows.values() for key in row if key.startswith("val_")} - {"val_loss"}
    )
    cells = [
        [name, *(f"{row[key]:.4f}" if key in row else "" for key in ("val_loss", *parts))]
        for name, row in named.items()
        if row
    ]
    if not cells:
        return ""
    explained = (
        "Nats per frame on all frames of the validation split: codebook 0 plus the mean over the"
        " other codebooks; lower is better."
    )
    header = ["weights", "val_loss", *(key.removeprefix("val_") for key in parts)]
    return f"{_table(header, cells)}\n\n{explained}"


def _validations(run: Path) -> dict[int, dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    rows = [
        json.loads(line) for line in lines if line.endswith("\n")
    ]  # a run that goes on may be writing the last one
    return {row["step"]: row for row in rows if row["kind"] == "val"}


def _leaderboard(sweep: Path) -> str:
    """Return the best trials of trials.csv, and the default's."""
    with (sweep / "trials.csv").open(encoding="utf-8", newline="") as file:
        trials = [row for row in csv.DictReader(file) if row["value"]]
    trials.sort(key=lambda row: (row["state"] != "completed", float(row["value"])))
    shown = [
        (rank, row)
        for rank, row in enumerate(trials, 1)
        if rank <= _TOP_TRIALS or row["is_default"] == "True"
    ]
    params = [name for name in (trials[0] if trials else ()) if name.startswith("params.")]
    header = [
        "rank",
        "trial",
        "val_loss",
        "epoch",
        "state",
        *(name.removeprefix("params.") for name in params),
    ]
    cells = [
        [
            rank,
            f"{row['number']} (default)" if row["is_default"] == "True" else row["number"],
            _number(row["value"]),
            _number(row["best_epoch"]),
            row["state"],
            *(_number(row[name]) for name in params),
        ]
        for rank, row in shown
    ]
    return (
        f"The first {min(_TOP_TRIALS, len(trials))} of {len(trials)} trials, and the"
        f" default's.\n\n{_table(header, cells)}"
    )


def _configuration(config: TrainConfig) -> str:
    values, defaults = _portable(config), build(type(config), {}).model_dump(mode="json")
    trains = config.training_keys()
    changed = [
        [_code(key), _code(value)]
        for key, value in values.items()
        if key in trains and value != defaults[key]
    ]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    fence = "`" * max(
        3,
        1
        + max(
            (len(run) for run in "".join(c if c == "`" else " " for c in text).split()), default=0
        ),
    )
    table = _table(["option", "value"], changed, escaped=True) if changed else ""
    details = f"<details><summary>All options</summary>\n\n{fence}yaml\n{text}{fence}\n\n</details>"
    return f"What is not the default:\n\n{table or 'nothing'}\n\n{details}"


def _portable(config: TrainConfig) -> dict[str, Any]:
    """Return the options with paths cut to their last part.

    Where things lie on this machine is nobody's business.
    """
    values = config.model_dump(mode="json")
    paths = [
        key
        for key, value in values.items()
        if isinstance(value, str) and (key in _PATHS or Path(value).is_absolute())
    ]
    return values | {key: _short(values[key]) for key in paths}


def _recorded(origin: Origin) -> str:
    assert origin.run is not None, "a run's config"
    return json.loads((origin.run / "env.json").read_text(encoding="utf-8"))["data_fingerprint"]


def _short(name: str) -> str:
    return name if is_hub_name(name) else Path(name).name


def _name(weights: str) -> str:
    if Path(weights).resolve() == EMBEDDED_BASE:
        return "the tiny base of csm-ft's demo"
    if not is_hub_name(weights):
        return _text(Path(weights).name)
    return f"[{_text(weights)}](https://huggingface.co/{weights})"


def _table(
    header: Sequence[str], rows: Sequence[Sequence[object]], *, escaped: bool = False
) -> str:
    shown = [[str(cell) if escaped else _text(cell) for cell in row] for row in rows]
    lines = [[_text(name) for name in header], ["---"] * len(header), *shown]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _text(value: object) -> str:
    """Escape what Markdown, its tables or HTML would take for their own; one line."""
    line = " ".join(str(value).split())
    return "".join(
        {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.get(c, f"\\{c}" if c in "\\`*_[]|#!~" else c)
        for c in line
    )


def _code(value: object) -> str:
    """Return a value as inline code; HTML's way, for backticks cannot be escaped."""
    return f"<code>{_text(value)}</code>"


def _number(value: str) -> str:
    try:
        return f"{float(value):.6g}"
    except ValueError:
        return value

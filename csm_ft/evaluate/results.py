"""What an evaluation found: rows of one table, clips, and evaluation.json."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from csm_ft.atomic import write_whole
from csm_ft.data.text import NORMALISER
from csm_ft.evaluate.expression import Expression
from csm_ft.evaluate.judge import JudgedClip, summarise
from csm_ft.evaluate.on_data import ByGroup, Measures
from csm_ft.evaluate.summary import CONFIDENCE, NUM_RESAMPLES, Estimate
from csm_ft.runs.folder import EvaluationFolder

Kind = Literal["model", "default", "base", "codec", "recordings"]
MODELS: Sequence[Kind] = ("model", "default", "base")


@dataclass(frozen=True)
class EvaluatedRow:
    """One row of the table: a model, its base, or the real recordings."""

    name: str
    kind: Kind
    judged: Sequence[JudgedClip]
    summary: Mapping[str, Estimate]
    on_data: Measures = field(default_factory=dict)
    by_group: ByGroup = field(default_factory=dict)
    expression: Expression | str = ""

    def failures(self) -> dict[str, tuple[int, str]]:
        """Return {judge: (clips that it failed on, the first reason)}."""
        counts = Counter(judge for one in self.judged for judge in one.failed)
        reasons: dict[str, str] = {}
        for one in self.judged:
            for judge, reason in one.failed.items():
                reasons.setdefault(judge, f"{one.clip.id}: {reason}")
        return {judge: (count, reasons[judge]) for judge, count in counts.items()}


@dataclass(frozen=True)
class Evaluation:
    """All that was found."""

    title: str
    rows: Sequence[EvaluatedRow]
    judges: Mapping[str, str]  # with versions
    missing: Sequence[str]  # judges that are not there, and why
    notes: Sequence[str]  # for people
    verdicts: Sequence[str] = ()  # what differs, in words
    normaliser: str = NORMALISER  # of the words
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)

    def all_notes(self) -> list[str]:
        """Return the notes, and the judges that are missing or failed."""
        failed = [
            f"{row.name}: {judge} failed on {count} of {len(row.judged)} clips, whose numbers are"
            f" missing ({reason})"
            for row in self.rows
            for judge, (count, reason) in row.failures().items()
        ]
        return [*self.notes, *self.missing, *failed]


def make_row(name: str, kind: Kind, judged: Sequence[JudgedClip], **more: Any) -> EvaluatedRow:
    """Make a row from judged clips."""
    return EvaluatedRow(name, kind, judged, summarise(judged), **more)


def write_results(evaluation: Evaluation, folder: Path) -> None:
    """Write evaluation.json."""
    content = {
        "title": evaluation.title,
        "judges": evaluation.judges,
        "normaliser": evaluation.normaliser,
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap over prompts, {NUM_RESAMPLES} draws",
        "data": evaluation.data,
        "options": evaluation.options,
        "verdicts": evaluation.verdicts,
        "notes": evaluation.all_notes(),
        "rows": [_row(row) for row in evaluation.rows],
    }
    write_whole(EvaluationFolder(folder).results, json.dumps(content, ensure_ascii=False, indent=1))


def _row(row: EvaluatedRow) -> dict[str, Any]:
    expression = row.expression
    return {
        "name": row.name,
        "kind": row.kind,
        "metrics": {name: found._asdict() for name, found in row.summary.items()},
        "on_data": row.on_data,
        "by_group": row.by_group,
        "expression": expression if isinstance(expression, str) else _expression(expression),
        "clips": [_clip(one) for one in row.judged],
    }


def _expression(found: Expression) -> dict[str, Any]:
    values = asdict(found)
    for side in ("real", "model"):
        values[side] = {name: moved._asdict() for name, moved in getattr(found, side).items()}
    return values


def _clip(one: JudgedClip) -> dict[str, Any]:
    clip = one.clip
    return {
        "id": clip.id,
        "prompt": clip.prompt or clip.id,
        "text": clip.text,
        "speaker": clip.speaker,
        "tags": dict(clip.tags),
        "heard": one.heard,
        "metrics": dict(one.values),
        "failed": dict(one.failed),
    }

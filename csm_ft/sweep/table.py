"""trials.csv: one row per trial, for a spreadsheet or pandas."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from csm_ft.sweep.records import Preference, TrialRecord, keys_of

_FORMULA_SIGNS = ("=", "+", "-", "@")
_NESTED = ("params", "metrics")  # one column per key, after the others
_VOTED = ["preference", "preference_low", "preference_high"]


def to_csv(records: Sequence[TrialRecord], preference: Preference | None = None) -> str:
    """Return the table as CSV, with one column per searched option and per metric.

    Where there are votes it has the score of those that were voted on, and its 95 % interval.
    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    columns = _columns(records) + (_VOTED if preference else [])
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for record in records:
        facts = record.model_dump(mode="json")
        row = {name: value for name, value in facts.items() if name not in _NESTED}
        row["violated"] = "; ".join(record.violated)
        for nested in _NESTED:
            row |= {f"{nested}.{name}": value for name, value in facts[nested].items()}
        if preference and (score := preference.of(record.number)):
            row |= dict(zip(_VOTED, (score.score, score.low, score.high), strict=True))
        table.writerow({name: _harmless(value) for name, value in row.items()})
    return text.getvalue()


def _columns(records: Sequence[TrialRecord]) -> list[str]:
    fields = TrialRecord.model_fields.items()
    names = [name for name, field in fields if name not in _NESTED and not field.exclude]
    names += [f"params.{name}" for name in keys_of(record.params for record in records)]
    return names + [f"metrics.{name}" for name in keys_of(record.metrics for record in records)]


def _harmless(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(_FORMULA_SIGNS)
    return f"'{value}" if is_formula else value

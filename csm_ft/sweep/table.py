"""trials.csv: one row per trial, for a spreadsheet or pandas."""

from collections.abc import Sequence
from typing import Any

from csm_ft.sweep.records import TrialRecord, keys_of

_FORMULA_SIGNS = ("=", "+", "-", "@")
_NESTED = ("params", "metrics")  # one column per key, after the others


def to_csv(records: Sequence[TrialRecord]) -> str:
    """Return the table as CSV, with one column per searched option and per metric.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    import pandas as pd  # here: it takes a second to import

    rows = []
    for record in records:
        facts = record.model_dump(mode="json")
        row = {name: value for name, value in facts.items() if name not in _NESTED}
        row["violated"] = "; ".join(record.violated)
        for nested in _NESTED:
            row |= {f"{nested}.{name}": value for name, value in facts[nested].items()}
        rows.append({name: _harmless(value) for name, value in row.items()})
    # As objects: whole numbers stay whole in columns with gaps.
    return pd.DataFrame(rows, columns=_columns(records), dtype=object).to_csv(
        index=False, lineterminator="\n"
    )


def _columns(records: Sequence[TrialRecord]) -> list[str]:
    fields = TrialRecord.model_fields.items()
    names = [name for name, field in fields if name not in _NESTED and not field.exclude]
    names += [f"params.{name}" for name in keys_of(record.params for record in records)]
    return names + [f"metrics.{name}" for name in keys_of(record.metrics for record in records)]


def _harmless(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(_FORMULA_SIGNS)
    return f"'{value}" if is_formula else value

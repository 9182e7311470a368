"""Says in words how one row of an evaluation differs from the others."""

from collections.abc import Sequence

from csm_ft.evaluate.judge import JudgedClip
from csm_ft.evaluate.metrics import METRICS
from csm_ft.evaluate.results import MODELS, EvaluatedRow
from csm_ft.evaluate.summary import Share, difference

COMPARED = {  # metric -> what it is called in a sentence
    "wer": "words",
    "similarity": "voice",
    "dnsmos": "sound quality",
    "stopped": "stopping",
}
_NAMES = {
    "base": "the base model",
    "default": "the default settings",
    "codec": "real recordings after the codec",
    "recordings": "the recordings before it",
}


def verdicts(rows: Sequence[EvaluatedRow]) -> list[str]:
    """Say in words how the first model differs from the real clips and from the other models.

    Without a model: how the clips after the codec differ from the recordings. Only a difference
    whose 95 % interval leaves out 0 is called better or worse.
    """
    models = [row for row in rows if row.kind in MODELS and row.summary]
    ceiling = next((row for row in rows if row.kind == "codec"), None)
    recorded = next((row for row in rows if row.kind == "recordings"), None)
    if not models:
        return [_compare(ceiling, recorded)] if ceiling and recorded else []
    others = [ceiling] if ceiling else []
    lines = [_compare(models[0], other) for other in (*others, *models[1:])]
    return [line for line in lines if line]


def _compare(one: EvaluatedRow, other: EvaluatedRow) -> str:
    parts: dict[str, list[str]] = {"better": [], "worse": [], "no clear difference": []}
    for name, what in COMPARED.items():
        own, their = one.summary.get(name), other.summary.get(name)
        if own is None or their is None:
            continue
        found = difference(_by_text(one.judged, name), _by_text(other.judged, name))
        detail = f"{show(name, own.value)} against {show(name, their.value)}"
        if found is None or found.low <= 0 <= found.high:
            parts["no clear difference"].append(f"{what} ({detail})")
            continue
        detail += f", difference {show(name, found.low)} to {show(name, found.high)}"
        is_better = (found.low > 0) == (METRICS[name].better == "high")
        parts["better" if is_better else "worse"].append(f"{what} ({detail})")
    said = [f"{how} in {', '.join(what)}" for how, what in parts.items() if what]
    whom = _NAMES.get(other.kind, other.name)
    return f"{one.name}, compared with {whom}: {'; '.join(said)}." if said else ""


def _by_text(judged: Sequence[JudgedClip], metric: str) -> list[Share]:
    """Return what each clip adds to a metric, by speaker and text: what rows have in common."""
    return [
        one.shares[metric]._replace(prompt=f"{one.clip.speaker}\n{one.clip.text}")
        for one in judged
        if metric in one.shares
    ]


def show(name: str, value: float) -> str:
    """Write a metric with as many digits as it deserves."""
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 20 else 2
    if name in ("wer", "cer", "similarity", "similarity_others") or size < 0.1:
        digits = 3
    return f"{value:.{digits}f}".replace("-", "−")

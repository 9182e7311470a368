"""Settings that run again with other seeds, and what is recommended by what those reach.

The runs of the default give the noise of seeds. Those of the best, which the search chose for their
values, give values that were not chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from csm_ft.report.templating import duration
from csm_ft.sweep.confirm import Confirm
from csm_ft.sweep.noise import Noise
from csm_ft.sweep.optuna_trials import key_of
from csm_ft.sweep.records import Confirmation, Finalist, Objective, Purpose, TrialRecord, best_of

_SAME_COST = 1.05  # times this close are equal: the better value decides


@dataclass(frozen=True)
class Rerun:
    """A setting that runs again."""

    params: dict[str, Any]
    seed: int
    purpose: Purpose


def due_reruns(
    records: Sequence[TrialRecord],
    confirm: Confirm,
    objective: Objective,
    seed: int,
) -> list[Rerun]:
    """Return the runs that are due once all trials of the search have ended; `seed` is theirs."""
    due: list[Rerun] = []
    if records and not records[0].has_failed:
        due += _missing(records, records[0].params, confirm, seed, "noise")
    for record in finalists(records, confirm, objective):
        due += _missing(records, record.params, confirm, seed, "confirm")
    return due


def num_planned_reruns(records: Sequence[TrialRecord], confirm: Confirm) -> int:
    """Return how many runs are still to begin before the best are known, at most."""
    num_begun = sum(record.purpose != "search" for record in records)
    return max(0, (1 + confirm.num_settings) * confirm.num_seeds - num_begun)


def finalists(
    records: Sequence[TrialRecord], confirm: Confirm, objective: Objective
) -> list[TrialRecord]:
    """Return the trials of the best settings, without the default's, best first."""
    default = key_of(records[0].params) if records else ()
    completed = [
        (objective.cost(r.value), r.number, r)
        for r in records
        if r.state == "completed" and r.purpose == "search" and r.value is not None
    ]
    best: dict[object, TrialRecord] = {}
    for *_, record in sorted(completed):
        if key_of(record.params) != default:
            best.setdefault(key_of(record.params), record)
    return list(best.values())[: confirm.num_settings]


def _missing(
    records: Sequence[TrialRecord],
    params: dict[str, Any],
    confirm: Confirm,
    seed: int,
    purpose: Purpose,
) -> list[Rerun]:
    num_runs = sum(key_of(record.params) == key_of(params) for record in records)
    seeds = range(seed + num_runs, seed + 1 + confirm.num_seeds)
    return [Rerun(params, one, purpose) for one in seeds]


def judge_finalists(
    records: Sequence[TrialRecord], confirm: Confirm | None, objective: Objective, noise: Noise
) -> Confirmation | None:
    """Say what the runs with other seeds found; None before the default has two.

    Settings are compared by the means of their fresh runs. Once all have run, the recommended one
    is the cheapest of those that tie with the best.
    """
    if confirm is None or noise.deviation is None:
        return None
    said = (
        f"Runs of one setting differ by {objective.write(noise.deviation)} between seeds (standard"
        f" deviation, {noise.degrees} degrees of freedom)."
    )
    found = Confirmation(text=said, deviation=noise.deviation, degrees=noise.degrees)
    candidates = [records[0], *finalists(records, confirm, objective)]
    num_due = [confirm.num_seeds + record.is_default for record in candidates]
    runs = [_runs(records, record) for record in candidates]
    if len(candidates) < 2 or any(
        sum(run.has_ended for run in own) < num for own, num in zip(runs, num_due, strict=True)
    ):
        return found
    entries = [
        _finalist(record, own)
        for record, own in zip(candidates, runs, strict=True)
        if all(run.state == "completed" for run in own)
    ]
    if not entries:
        return found
    entries = _compare(records, entries, objective, noise)
    recommended = _recommend(entries)
    words = _describe(entries, recommended, objective)
    return found.model_copy(
        update={"text": f"{words} {said}", "finalists": entries, "recommended": recommended.trial}
    )


def choose_best(
    records: Sequence[TrialRecord], confirmation: Confirmation | None, objective: Objective
) -> TrialRecord | None:
    """Return the trial whose settings and weights the sweep leaves: the recommended or the best."""
    if confirmation is not None and confirmation.recommended is not None:
        return records[confirmation.recommended]
    return best_of(records, objective)


def _runs(records: Sequence[TrialRecord], record: TrialRecord) -> list[TrialRecord]:
    """Return the runs of a setting that count for it: those that had no part in its choice."""
    own = [r for r in records if key_of(r.params) == key_of(record.params)]
    return own if record.is_default else [r for r in own if r.number != record.number]


def _finalist(record: TrialRecord, runs: Sequence[TrialRecord]) -> Finalist:
    values = [run.value for run in runs if run.value is not None]
    seconds = [run.seconds for run in (record, *runs) if run.seconds is not None]
    return Finalist(
        trial=record.number,
        runs=[run.number for run in runs],
        mean=fmean(values),
        seconds=fmean(seconds) if seconds else None,
    )


def _compare(
    records: Sequence[TrialRecord],
    entries: Sequence[Finalist],
    objective: Objective,
    noise: Noise,
) -> list[Finalist]:
    """Return the entries, best first, compared with the best and with the default."""
    ranked = sorted(entries, key=lambda entry: (objective.cost(entry.mean), entry.trial))
    default = next((entry for entry in ranked if records[entry.trial].is_default), None)

    def gain(of: Finalist, over: Finalist) -> float:
        return objective.cost(over.mean) - objective.cost(of.mean)

    def least(one: Finalist, other: Finalist) -> float:
        pair = (records[one.trial], records[other.trial])
        return noise.between(*pair, len(one.runs), len(other.runs))

    return [
        entry.model_copy(
            update={
                "ties_with_best": -gain(entry, ranked[0]) <= least(entry, ranked[0]),
                "gain_over_default": gain(entry, default) if default else None,
                "noise": least(entry, default) if default and entry is not default else None,
            }
        )
        for entry in ranked
    ]


def _recommend(ranked: Sequence[Finalist]) -> Finalist:
    """Return the cheapest of those that tie with the best; of equally cheap ones the best."""
    ties = [entry for entry in ranked if entry.ties_with_best]
    least_sec = min(entry.seconds or 0.0 for entry in ties)
    return next(entry for entry in ties if (entry.seconds or 0.0) <= _SAME_COST * least_sec)


def _describe(ranked: Sequence[Finalist], chosen: Finalist, objective: Objective) -> str:
    """Return what was confirmed, in words."""
    name = "the default" if chosen.trial == 0 else f"the setting of trial {chosen.trial}"
    sentences = [f"Confirmed with other seeds: {name} reaches {objective.write(chosen.mean)}."]
    gain, noise = chosen.gain_over_default, chosen.noise
    if gain is not None and noise is not None:
        side = "better" if gain >= 0 else "worse"
        how = f"{objective.write(abs(gain))} {side} than the default, by the means of both"
        rule = f"below {objective.write(noise)} it would be a tie" if abs(gain) > noise else ""
        rule = rule or f"a tie, as it is within the noise of {objective.write(noise)}"
        sentences.append(f"That is {how}: {rule}.")
    ties = [entry.trial for entry in ranked if entry.ties_with_best and entry is not chosen]
    if ties:
        others = ", ".join("the default" if trial == 0 else f"trial {trial}" for trial in ties)
        cost = f" ({duration(chosen.seconds)} a run)" if chosen.seconds is not None else ""
        sentences.append(f"It ties with {others}, and is the cheapest of them{cost}.")
    return " ".join(sentences)

"""Seeds that tell luck from gain: which runs are due, the noise, ties, and what is recommended."""

import math
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t as student

from csm_ft.sweep.confirm import Confirm
from csm_ft.sweep.finalists import due_reruns, finalists, judge_finalists
from csm_ft.sweep.noise import Noise, measure_noise
from csm_ft.sweep.records import Confirmation, Objective, TrialRecord, best_of
from csm_ft.sweep.request import parse
from csm_ft.sweep.verdict import Clips, Contest, reach_verdict
from tests.unit.sweep.test_study import Opener, complete, opener, validated

__all__ = ["opener"]  # the fixture
LOSS = Objective("val_loss", "nats")
NO_CLIPS = lambda _: None  # noqa: E731


def trial(number: int, value: float | None, setting: int, **facts: Any) -> TrialRecord:
    given: dict[str, Any] = {
        "state": "completed",
        "value": value,
        "params": {"learning_rate": setting / 1000},
        "seconds": 60.0,
        "is_default": number == 0,
        "dir": "",
    }
    return TrialRecord(number=number, **(given | facts))


def searched() -> list[TrialRecord]:
    """Setting 0 is the default; settings 3, 2 and 5 are the best, in this order."""
    values = {0: 2.5, 1: 2.4, 2: 2.2, 3: 2.1, 4: 2.6, 5: 2.3}
    records = [trial(n, value, n) for n, value in values.items()]
    return [*records, trial(6, 2.0, 6, state="stopped"), trial(7, 1.9, 7, state="infeasible")]


def with_seeds(values: dict[int, tuple[float, ...]], **facts: Any) -> list[TrialRecord]:
    """The search, and runs of settings with other seeds."""
    records = searched()
    for setting, reached in values.items():
        for value in reached:
            purpose = "confirm" if setting else "noise"
            records.append(trial(len(records), value, setting, purpose=purpose, **facts))
    return records


def judge(
    records: list[TrialRecord], confirm: str = "3x2", clips: dict[int, Clips] | None = None
) -> Confirmation | None:
    noise = measure_noise(records, LOSS, lambda record: (clips or {}).get(record.number))
    return judge_finalists(records, Confirm.parse(confirm), LOSS, noise)


@pytest.mark.parametrize("text", ["3", "x2", "3x0", "3x2x1", "1.5x2", "all"])
def test_what_is_no_request(text: str) -> None:
    with pytest.raises(Exception, match="write 3x2 for the best three with two more"):
        parse(["--confirm", text])


def test_best_settings_run_again() -> None:
    assert [r.number for r in finalists(searched(), Confirm(3, 2), LOSS)] == [3, 2, 5]
    lucky = [*searched(), trial(8, 1.0, 3, purpose="confirm"), trial(9, 1.1, 0, purpose="noise")]
    assert [r.number for r in finalists(lucky, Confirm(3, 2), LOSS)] == [3, 2, 5]
    best = best_of(lucky, LOSS)
    assert best is not None
    assert best.number == 3, "the value of a lucky seed does not make a best"


def test_due_runs_have_seeds_of_their_own() -> None:
    records = searched()
    due = due_reruns(records, Confirm(1, 2), LOSS, 7)
    assert [(d.params["learning_rate"], d.seed, d.purpose) for d in due] == [
        (0.0, 8, "noise"),
        (0.0, 9, "noise"),
        (0.003, 8, "confirm"),
        (0.003, 9, "confirm"),
    ]
    records.append(trial(8, None, 0, state="running", purpose="noise", seed=8))
    left = due_reruns(records, Confirm(0, 2), LOSS, 7)
    assert [d.seed for d in left] == [9]
    failed = [trial(0, None, 0, state="diverged")]
    assert not due_reruns(failed, Confirm(0, 2), LOSS, 7)


def test_noise_is_the_pooled_deviation_of_fresh_runs() -> None:
    records = with_seeds({0: (2.52, 2.47), 3: (2.15, 2.13)})
    noise = measure_noise(records, LOSS, NO_CLIPS)
    default, best = [2.5, 2.52, 2.47], [2.15, 2.13]
    pooled = (2 * statistics.variance(default) + statistics.variance(best)) / 3
    assert noise.deviation == pytest.approx(math.sqrt(pooled))
    assert noise.degrees == 3
    expected = student.ppf(0.975, 3) * math.sqrt(pooled * (1 / 2 + 1 / 3))
    assert noise.of_seeds(2, 3) == pytest.approx(expected)
    assert measure_noise(searched(), LOSS, NO_CLIPS).of_seeds() is None


def test_larger_noise_decides() -> None:
    frames = {f"c{i}": 10 for i in range(8)}
    clips: dict[int, Clips] = {
        n: {c: (10 * (v + 0.3 * math.sin(n + i)), 10) for i, c in enumerate(frames)}
        for n, v in ((0, 2.5), (3, 2.1))
    }
    first, second = trial(0, 2.5, 0), trial(3, 2.1, 3)
    noise = Noise(0.001, 5, lambda record: clips.get(record.number))
    of_data = noise.of_data(first, second)
    assert of_data is not None
    assert noise.between(first, second) == of_data > 0.1
    louder = Noise(9.0, 5, noise.clips)
    assert louder.between(first, second) == louder.of_seeds()
    assert Noise(None, 0, NO_CLIPS).between(first, second) == 0


def test_clear_gain_is_confirmed_by_its_mean() -> None:
    found = judge(with_seeds({0: (2.51, 2.49), 3: (2.15, 2.17), 2: (2.3, 2.32), 5: (2.31, 2.33)}))
    assert found is not None
    assert found.recommended == 3
    assert [f.trial for f in found.finalists] == [3, 2, 5, 0]
    assert found.finalists[0].mean == pytest.approx(2.16), "without 2.1, which was chosen"
    assert found.finalists[0].gain_over_default == pytest.approx(0.34)
    assert [f.ties_with_best for f in found.finalists] == [True, False, False, False]
    assert found.text.startswith(
        "Confirmed with other seeds: the setting of trial 3 reaches 2.160 nats. That is 0.340 nats"
        " better than the default, by the means of both: below 0."
    )


def test_cheapest_of_ties_is_recommended() -> None:
    records = with_seeds({0: (2.51, 2.49), 3: (2.15, 2.25), 2: (2.18, 2.24), 5: (2.41, 2.43)})
    cheap = [r.model_copy(update={"seconds": 20.0}) if r.params == records[2].params else r for r in records]  # fmt: skip
    found = judge(cheap)
    assert found is not None
    assert found.finalists[0].trial == 3
    assert found.recommended == 2
    assert "It ties with trial 3, and is the cheapest of them (20 s a run)." in found.text
    similar = [r.model_copy(update={"seconds": 59.0}) if r.params == records[2].params else r for r in records]  # fmt: skip
    again = judge(similar)
    assert again is not None
    assert again.recommended == 3, "times within 5 % are the same"


def test_default_within_the_noise_is_a_tie() -> None:
    records = with_seeds({0: (2.2, 2.35), 3: (2.2, 2.5), 2: (2.5, 2.3), 5: (2.4, 2.3)})
    found = judge(records)
    assert found is not None
    verdict = reach_verdict(Contest(records[0], records[0], 3.0, {}, confirmation=found), LOSS)
    assert verdict is not None
    assert verdict.tie
    assert found.recommended is not None
    assert all(f.ties_with_best for f in found.finalists)


def test_nothing_is_recommended_before_all_have_run() -> None:
    found = judge(with_seeds({0: (2.51, 2.49), 3: (2.15, 2.17), 2: (2.3,)}))
    assert found is not None
    assert (found.recommended, found.finalists, found.degrees) == (None, [], 3)
    assert judge(with_seeds({0: ()})) is None
    only_noise = judge(with_seeds({0: (2.51, 2.49)}), "0x2")
    assert only_noise is not None
    assert only_noise.recommended is None


def test_a_setting_with_a_failed_seed_is_not_recommended() -> None:
    records = with_seeds({0: (2.51, 2.49), 3: (2.15,), 2: (2.3, 2.32), 5: (2.31, 2.33)})
    records.append(trial(len(records), None, 3, state="diverged", purpose="confirm"))
    found = judge(records)
    assert found is not None
    assert found.recommended == 2


def test_seeds_turn_a_small_gain_into_a_tie() -> None:
    default, best = trial(0, 2.5, 0), trial(3, 2.48, 3)
    frames = {f"c{i}": 10 for i in range(8)}
    clips = {n: dict.fromkeys(frames, (10 * v, 10)) for n, v in ((0, 2.5), (3, 2.48))}
    verdict = reach_verdict(Contest(best, default, 3.0, clips, least_by_seeds=0.05), LOSS)
    assert verdict is not None
    assert verdict.tie
    assert (
        "within the noise of seeds (two runs of one setting differ by up to 0.050" in verdict.text
    )
    known = reach_verdict(Contest(best, default, 3.0, clips, least_by_seeds=0.01), LOSS)
    assert known is not None
    assert not known.tie
    error = reach_verdict(
        Contest(best, default, 3.0, {}, least_by_seeds=0.01), Objective("val_wer")
    )
    assert error is not None
    assert "Two runs of one setting differ by up to 0.010." in error.text


def run_to_end(study: Any, values: dict[str, float] | None = None) -> None:
    """Run what can begin now; better for larger rates, with luck by number."""
    while study.num_new:
        number = study.ask()
        rate = study.params(number)["learning_rate"]
        value = 2 - 100 * min(rate, 1e-3) + 0.001 * (number % 3)
        if validated(study, number, 100, value):
            complete(study, number, value)
        else:
            study.finish(number, "stopped")


def test_study_counts_exactly_over_restarts(opener: Opener, tmp_path: Path) -> None:
    argv = ("--n_trials", "9", "--confirm", "2x2")
    study = opener(*argv)
    study.set_baseline({"val_loss": 4.0})
    assert study.num_planned == 9 + 2 + 4
    for _ in range(60):  # a process for each trial
        study = opener(*argv)
        if not study.num_new:
            break
        number = study.ask()
        rate = study.params(number)["learning_rate"]
        study.begin_attempt(number, "cpu0")
        study = opener(*argv)  # and a kill within it
        value = 2 - 100 * rate + 0.001 * (number % 3)
        if validated(study, number, 100, value):
            complete(study, number, value)
        else:
            study.finish(number, "stopped")
    records = study.records()
    purposes = [record.purpose for record in records]
    assert [purposes.count(one) for one in ("search", "noise", "confirm")] == [9, 2, 4]
    assert purposes[9:11] == ["noise", "noise"], "after the search, which they would mislead"
    assert all(r.state == "completed" for r in records if r.purpose != "search")
    seeds = {(r.params["learning_rate"], r.params["batch_size"], r.seed) for r in records}
    assert len(seeds) == 15
    undisturbed = opener(*argv, folder="other")
    undisturbed.set_baseline({"val_loss": 4.0})
    run_to_end(undisturbed)
    assert [(r.params, r.seed, r.purpose) for r in undisturbed.records()] == [
        (r.params, r.seed, r.purpose) for r in records
    ]
    longer = opener("--n_trials", "12", "--confirm", "2x2", folder="other")
    assert longer.num_new == 3
    run_to_end(longer)
    assert sum(r.purpose == "search" for r in longer.records()) == 12


def test_best_wait_for_all_trials_of_the_search(opener: Opener) -> None:
    study = opener("--n_trials", "4", "--confirm", "1x1")
    study.set_baseline({"val_loss": 4.0})
    for number in range(4):
        assert study.ask() == number
    for number in range(3):
        complete(study, number, 2.0 + number)
    assert (study.num_new, study.num_planned) == (0, 6), "the last could still be the best"
    complete(study, 3, 1.0)
    assert (study.num_new, study.num_planned) == (2, 6)
    for number in (4, 5):
        assert study.ask() == number
    assert [study.record(n).purpose for n in (4, 5)] == ["noise", "confirm"]
    assert study.params(5) == study.record(3).params


def test_noise_of_a_long_study_takes_no_time() -> None:
    """It is asked for after every trial: every pair of trials compared would take a minute."""
    records = [trial(number, 2.0 + number, number) for number in range(2000)]
    records += [trial(2000 + seed, 3.0 + seed, 0, purpose="noise") for seed in range(2)]
    began_sec = time.process_time()
    noise = measure_noise(records, LOSS, NO_CLIPS)
    assert time.process_time() - began_sec < 2
    assert noise.degrees == 2
    assert noise.deviation == pytest.approx(statistics.stdev([2.0, 3.0, 4.0]))

"""The study: one writer, nothing lost, failures that teach the sampler."""

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_trials
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from csm_ft.errors import ConfigError, SweepError
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.asha import Rungs
from csm_ft.sweep.records import Objective, Outcome, best_of
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import read_rows
from csm_ft.sweep.space import Space, make_space
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.trials import DataFacts, Plan, plan_study

SPACE = (
    "learning_rate: {type: float, min: 1e-6, max: 1e-3, log: true}\nbatch_size: {type: categorical,"
    " values: [8, 16]}\n"
)
RUNGS = Rungs([Fraction(1, 9), Fraction(1, 3)], Fraction(1, 9), 900)
Opener = Callable[..., SweepStudy]


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """Open the study in tmp_path, closing the one opened before, as a new process would find it."""
    last: list[SweepStudy] = []
    (tmp_path / "space.yaml").write_text(SPACE)

    def open_study(
        *argv: str, folder: str = "out", agreement: dict[str, Any] | None = None, close: bool = True
    ) -> SweepStudy:
        while close and last:
            last.pop().close()
        request = parse(list(argv))
        space = make_space(read_rows(tmp_path / "space.yaml", request), 100)
        plan = Plan(request.sweep, space, RUNGS, agreement or {"n_epochs": 5})
        last.append(SweepStudy.open(SweepFolder(tmp_path / folder), plan))
        return last[-1]

    yield open_study
    for study in last:
        study.close()


def validated(study: SweepStudy, number: int, examples: int, value: float) -> bool:
    return study.validated(number, examples, {"val_loss": value, "val_c0": value / 2})


def complete(study: SweepStudy, number: int, value: float) -> None:
    validated(study, number, 900, value)
    study.finish(
        number,
        "completed",
        best={"val_loss": value, "step": 9, "examples": 900, "epoch": 9.0},
        final_value=value,
    )


def as_optuna(folder: Path) -> optuna.Study:
    return optuna.load_study(
        study_name="csm-sweep",
        storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))),
    )


def test_default_comes_before_its_neighbours(opener: Opener) -> None:
    study = opener()
    points = [study.params(study.ask()) for _ in range(4)]
    assert points[0] == {"learning_rate": 3e-5, "batch_size": 8}
    assert [p["learning_rate"] for p in points[1:3]] == [pytest.approx(9e-5), pytest.approx(1e-5)]
    assert points[3]["learning_rate"] not in [p["learning_rate"] for p in points[:3]]


def test_running_trials_are_adopted(opener: Opener) -> None:
    study = opener()
    numbers = [study.ask() for _ in range(5)]
    params = [study.params(n) for n in numbers]
    validated(study, 3, 100, 2.0)
    study.begin_attempt(3, "cpu0")
    again = opener()
    assert again.running == numbers
    assert [again.params(n) for n in numbers] == params
    assert again.record(3).curve == {100: 2.0}
    assert again.begin_attempt(3, "cpu1") == 2
    complete(again, 3, 1.0)
    assert opener().running == [0, 1, 2, 4]
    assert opener().ask() == 5


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_kill_between_asking_and_drawing(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = opener(folder="other")
    expected = [undisturbed.params(undisturbed.ask()) for _ in range(4)]
    for number in range(4):
        study = opener()
        # The first three are enqueued and not asked for, the last is asked for and not drawn.
        place = (optuna.Study, "ask") if number < 3 else (Space, "suggest")
        with monkeypatch.context() as patch:
            patch.setattr(*place, interrupt)
            with pytest.raises(KeyboardInterrupt):
                study.ask()
        study = opener()
        if number < 3:
            assert study.num_started == number
            assert study.ask() == number
        assert study.params(number) == expected[number]


def test_kill_between_deciding_and_telling(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opener()
    study.set_baseline({"val_loss": 4.0})
    outcomes: tuple[Outcome, ...] = ("completed", "diverged")
    for number, outcome in enumerate(outcomes):
        study.ask()
        best = {"val_loss": 2.0, "examples": 900, "epoch": 9.0}
        with monkeypatch.context() as patch:
            patch.setattr(optuna.Study, "tell", interrupt)
            with pytest.raises(KeyboardInterrupt):
                study.finish(number, outcome, reason="r", best=best, final_value=2.0)
    again = opener()
    assert again.running == []
    assert [r.state for r in again.records()] == ["completed", "diverged"]


def test_restarted_sampler_draws_anew(opener: Opener) -> None:
    drawn = []
    for _ in range(6):
        study = opener("--sampler", "random")
        drawn.append(study.params(study.ask())["learning_rate"])
    assert len(set(drawn)) == 6


def test_seed_decides_the_draws(opener: Opener) -> None:
    def draws(folder: str, *argv: str) -> list[dict[str, Any]]:
        study = opener(*argv, folder=folder)
        for value in range(12):
            complete(study, study.ask(), 2 + value % 5)
        return [dict(r.params) for r in study.records()]

    assert draws("a") == draws("b")
    assert draws("a") != draws("c", "--seed", "1")


def test_repeated_validations_change_nothing(opener: Opener) -> None:
    study = opener()
    for _ in range(4):
        study.ask()
    for number, value in enumerate((1.2, 1.1, 1.0)):
        assert validated(study, number, 100, value)
    assert not validated(study, 3, 100, 9.0)
    again = opener()
    assert not validated(again, 3, 100, 9.0)
    assert not validated(again, 3, 100, 0.1)
    assert again.record(3).curve == {100: 9.0}
    assert validated(again, 1, 100, 5.0)
    again.finish(
        3, "stopped", best={"val_loss": 9.0, "examples": 100, "epoch": 1.0}, final_value=9.0
    )
    assert again.record(3).reason == "behind the best 1/3 after 100 examples"


def test_stop_is_written_before_its_value(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opener()
    for number, value in enumerate((1.0, 1.1)):
        study.ask()
        validated(study, number, 100, value)
    number = study.ask()
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "report", interrupt)
        with pytest.raises(KeyboardInterrupt):
            validated(study, number, 100, 9.0)
    assert not validated(opener(), number, 100, 9.0)


def test_default_is_never_stopped(opener: Opener) -> None:
    study = opener()
    for _ in range(4):
        study.ask()
    assert validated(study, 1, 0, 0.1)
    assert study.record(1).curve == {}
    for number in (1, 2, 3):
        validated(study, number, 100, 1.0)
    assert validated(study, 0, 100, 9.0)


def write_clips(study: SweepStudy, number: int, nats: list[float]) -> None:
    """Write what a trial's best weights score on each validation clip, of 10 frames."""
    path = study.folder.trial(number).best_val_clips
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({f"clip{i}": [10 * one, 10] for i, one in enumerate(nats)}))


@pytest.mark.parametrize(
    ("margin", "continues"), [("auto", True), ("0", False), ("0.2", True), ("0.05", False)]
)
def test_noise_stops_no_trial(opener: Opener, margin: str, continues: bool) -> None:
    """Trial 3 is behind by 0.1, and its difference to the default has an error of 0.13."""
    study = opener("--stop_margin", margin)
    numbers = [study.ask() for _ in range(4)]
    for number, value in zip(numbers[:3], (2.0, 3.0, 3.0), strict=True):
        validated(study, number, 100, value)
    write_clips(study, 0, [2.0, 2.0, 2.0, 2.0])
    write_clips(study, 3, [2.4, 1.8, 2.0, 2.2])
    assert validated(study, 3, 100, 2.1) is continues


def test_no_pruner_stops_nothing(opener: Opener) -> None:
    study = opener("--pruner", "none")
    for _ in range(6):
        number = study.ask()
        assert validated(study, number, 100, 1.0 + number)


def test_copies_do_not_fill_the_best_third(opener: Opener) -> None:
    """Three trials of one good setting are one rival: the second of three others continues."""
    study = opener()
    point = study.params(study.ask())
    for _ in range(2):
        study._study.enqueue_trial(point)
        study.ask()
    for number in range(3):
        validated(study, number, 100, 1.0)
    number = study.ask()
    assert study.params(number) != point
    assert validated(study, number, 100, 2.0), "two settings are too few to stop one"


def test_a_repetition_that_has_just_begun_hides_nothing(opener: Opener) -> None:
    study = opener()
    for number in range(3):
        study.ask()
        validated(study, number, 100, 1.0 + number)
    study._study.enqueue_trial(study.params(0))
    study.ask()
    number = study.ask()
    assert study.params(number) != study.params(0)
    assert not validated(study, number, 100, 5.0), "behind three settings"


def test_failed_trial_stops_nobody(opener: Opener) -> None:
    study = opener()
    study.set_baseline({"val_loss": 4.0})
    for number, value in enumerate((5.0, 5.1, 0.1)):
        study.ask()
        validated(study, number, 100, value)
    study.finish(2, "diverged", reason="step 20")
    number = study.ask()
    assert validated(study, number, 100, 4.0)


@pytest.mark.parametrize("reports_first", [False, True])
@pytest.mark.parametrize("state", ["diverged", "infeasible", "poison"])
def test_failed_trials_rank_last(
    opener: Opener, tmp_path: Path, state: Any, reports_first: bool
) -> None:
    """Also when TPE's good set is larger than the number of completed trials.

    Behind every stopped trial, never the best.
    """
    study = opener()
    study.set_baseline({"val_loss": 4.0})
    complete(study, study.ask(), 2.0)
    for _ in range(5):
        number = study.ask()
        if validated(study, number, 100, 3.5):
            complete(study, number, 3.4)
        else:
            study.finish(number, "stopped")
    failed = study.ask()
    if reports_first:
        validated(study, failed, 100, 0.5)  # looked splendid before it failed
    study.finish(failed, state, reason="why")
    found = as_optuna(tmp_path / "out")
    for num_good in range(1, len(found.trials)):
        good, bad = _split_trials(found, found.trials, num_good)
        assert failed not in [t.number for t in good]
        assert failed in [t.number for t in bad]
    assert found.trials[failed].value == 8.0
    assert found.best_trial.number == 0
    best = best_of(study.records(), Objective())
    assert best is not None
    assert best.number == 0
    record = study.record(failed)
    assert (record.state, record.reason, record.value) == (state, "why", None)


def test_tpe_avoids_diverged_region(opener: Opener) -> None:
    study = opener("--startup_trials", "5")
    study.set_baseline({"val_loss": 4.0})
    rates = []
    for _ in range(40):
        number = study.ask()
        rate = study.params(number)["learning_rate"]
        rates.append(rate)
        if rate > 1e-4:
            study.finish(number, "diverged", reason="cliff")
        else:
            complete(study, number, 3 - rate * 1e4)  # the best is at the very edge
    # Of 30; told FAIL instead, all 30 go over the cliff.
    assert sum(rate > 1e-4 for rate in rates[10:]) <= 15


def test_second_sweep_is_refused(opener: Opener) -> None:
    first = opener()
    with pytest.raises(ConfigError, match=r"out: another sweep is running there; .*--output_dir"):
        opener(close=False)
    first.ask()


def test_another_study_is_refused(opener: Opener) -> None:
    opener()
    with pytest.raises(
        SweepError, match=r"holds the study 'csm-sweep', not 'other'; .*--study_name csm-sweep"
    ):
        opener("--study_name", "other")


def test_changed_agreement_is_refused(opener: Opener) -> None:
    opener(agreement={"n_epochs": 5, "seed": 0, "rungs": (1, 2)})
    opener(agreement={"n_epochs": 5, "seed": 0, "rungs": [1, 2]})
    with pytest.raises(SweepError, match="n_epochs: 5 there, 3 now\n") as error:
        opener(agreement={"n_epochs": 3, "seed": 0, "rungs": [1, 2]})
    assert "seed" not in str(error.value)
    assert "--output_dir" in str(error.value)


def test_options_added_since_had_their_defaults(opener: Opener) -> None:
    opener(agreement={"n_epochs": 5})
    opener(agreement={"n_epochs": 5, "data_fraction": 1.0, "value of trial 0 for lora_rank": 32})
    with pytest.raises(SweepError, match=r"data_fraction: 1.0 there, 0.5 now"):
        opener(agreement={"n_epochs": 5, "data_fraction": 0.5})


def test_less_data_is_not_behind(opener: Opener, tmp_path: Path) -> None:
    curve = "data_fraction: {type: categorical, values: [0.2, 0.4, 0.6, 0.8, 1.0]}\n"
    (tmp_path / "space.yaml").write_text(curve)
    study = opener()
    for _ in range(5):
        number = study.ask()
        assert validated(study, number, 100, 1.0 + number)


def test_torn_journal_is_repaired(opener: Opener, tmp_path: Path) -> None:
    study = opener()
    for _ in range(3):
        study.ask()
    journal = tmp_path / "out" / "study.journal"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    study.close()
    (tmp_path / "out" / "study.journal.lock").symlink_to(journal)
    for cut in (
        len(whole) - 1,
        len(whole) - len(lines[-1]) + 1,
        len(whole) - len(lines[-1]) - len(lines[-2]) // 2,
    ):
        journal.write_bytes(whole[:cut])
        again = opener()
        assert again.running == [0, 1, 2]
        assert all(set(again.params(n)) == {"learning_rate", "batch_size"} for n in again.running)
        assert again.ask() == 3
    assert [t.number for t in as_optuna(tmp_path / "out").trials] == [0, 1, 2, 3]


def test_metrics_are_kept_per_validation(opener: Opener) -> None:
    study = opener()
    study.ask()
    study.validated(0, 100, {"val_loss": 2.0, "val_c0": 0.7, "val_odd": None})
    study.validated(0, 300, {"val_loss": 3.0, "val_c0": 0.9, "val_odd": 1.0})
    again = opener()
    assert again.record(0).metrics == {"val_loss": 2.0, "val_c0": 0.7, "val_odd": None}
    best = {"val_loss": 2.0, "val_c0": 0.7, "step": 9, "examples": 100, "epoch": 1.0}
    record = again.finish(0, "completed", best=best, final_value=3.0)
    assert record.metrics == {"val_loss": 2.0, "val_c0": 0.7, "val_odd": None}
    assert (record.value, record.final_value, record.best_examples) == (2.0, 3.0, 100)


def test_failed_trial_has_no_metrics(opener: Opener) -> None:
    study = opener()
    study.set_baseline({"val_loss": 4.0, "val_c0": 1.0})
    study.ask()
    validated(study, 0, 100, 2.0)
    assert study.finish(0, "diverged", reason="why").metrics == {}
    assert opener().baseline_metrics == {"val_loss": 4.0, "val_c0": 1.0}


def test_another_objective_decides(opener: Opener, tmp_path: Path) -> None:
    study = opener("--best_by", "val_wer")
    study.set_baseline({"val_loss": 4.0, "val_wer": 0.0})
    for wer in (0.3, 0.2):
        number = study.ask()
        study.validated(number, 900, {"val_loss": 1 / wer, "val_wer": wer})
        best = {"val_loss": 1 / wer, "val_wer": wer, "examples": 900, "epoch": 9.0}
        study.finish(number, "completed", best=best, final_value=wer)
    failed = study.ask()
    study.finish(failed, "diverged", reason="why")
    best = best_of(study.records(), Objective())
    assert best is not None
    assert (best.number, best.value) == (1, 0.2)
    told = [trial.value for trial in as_optuna(tmp_path / "out").trials]
    assert told == [0.3, 0.2, 1.0], "a failed trial ranks last, whatever the baseline"
    assert study.importance()[0] == "lowest val_wer"


def test_objective_is_agreed_unless_the_loss(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)

    def agreed(*argv: str) -> dict[str, Any]:
        request = parse(list(argv))
        space = make_space(read_rows(tmp_path / "space.yaml", request), 9)
        return dict(plan_study(request.sweep, space, DataFacts(9, "f")).agreement)

    assert "best_by" not in agreed()
    assert "best_by" not in agreed("--best_by", "val_loss")
    assert agreed("--best_by", "val_wer") == {**agreed(), "best_by": "val_wer"}


def test_importance_names_what_matters(opener: Opener) -> None:
    study = opener("--sampler", "random", "--pruner", "none")
    assert study.importance()[1] == {}
    for _ in range(25):
        number = study.ask()
        complete(study, number, 2 + abs(study.params(number)["learning_rate"] - 5e-5) * 1e4)
    explained, importance = study.importance()
    assert explained == "lowest validation loss"
    assert set(importance) == {"PED-ANOVA", "MDI"}
    for shares in importance.values():
        assert shares["learning_rate"] > shares["batch_size"]
        assert sum(shares.values()) == pytest.approx(1)


def test_smaller_micro_batch_outlives_the_process(opener: Opener) -> None:
    opener().facts.lower_micro_batch(16384, 4096)
    facts = opener().facts
    assert facts.micro_batch_tokens(16384) == 4096
    assert facts.micro_batch_tokens(9000) == 9000, "another option is tried anew"


def test_events_are_json_lines(opener: Opener, tmp_path: Path) -> None:
    study = opener()
    study.event("worker died", slot="cpu0", how="killed by SIGKILL")
    row = json.loads((tmp_path / "out" / "events.jsonl").read_text())
    assert (row["event"], row["how"]) == ("worker died", "killed by SIGKILL")


JUDGING = ("--judge_every", "1/3", "--constraint", "cer<=0.1")


def judged(study: SweepStudy, number: int, value: float, cer: float) -> None:
    metrics = {"val_loss": value, "cer": cer, "similarity": 1 - cer}
    study.validated(number, 900, metrics)
    best = {**metrics, "step": 9, "examples": 900, "epoch": 9.0}
    study.finish(number, "completed", best=best, final_value=value)


def test_a_trial_that_violates_a_constraint_is_never_best(opener: Opener, tmp_path: Path) -> None:
    study = opener(*JUDGING)
    study.set_baseline({"val_loss": 4.0, "cer": 1.0})
    for value, cer in ((3.0, 0.1), (1.0, 0.5), (2.0, 0.05), (1.5, 0.11)):
        judged(study, study.ask(), value, cer)
    best = best_of(study.records(), Objective())
    assert best is not None
    assert best.number == 2
    record = study.record(1)
    assert (record.state, record.value, record.metrics["cer"]) == ("infeasible", 1.0, 0.5)
    assert record.violated == ["cer<=0.1"]
    assert record.reason == "cer is 0.5, cer<=0.1 is asked for"
    assert not record.has_failed
    found = as_optuna(tmp_path / "out")
    assert found.best_trial.number == 2
    assert found.trials[1].constraints == {"cer<=0.1": pytest.approx(4.0)}
    good, _ = _split_trials(found, found.trials, 2)
    assert [trial.number for trial in good] == [0, 2], "TPE ranks the others behind"


def test_constraints_are_the_same_after_a_resume(opener: Opener) -> None:
    study = opener(*JUDGING, "--startup_trials", "2")
    study.set_baseline({"val_loss": 4.0, "cer": 1.0})
    for place in range(6):
        judged(study, study.ask(), 3.0 - place / 10, 0.05 * place)
    before, following = study.records(), study.params(study.ask())
    again = opener(*JUDGING, "--startup_trials", "2")
    assert again.records()[:6] == before
    assert again.params(6) == following


def test_the_highest_value_can_be_the_best(opener: Opener, tmp_path: Path) -> None:
    argv = ("--judge_every", "1/3", "--best_by", "similarity")
    study = opener(*argv)
    study.set_baseline({"val_loss": 4.0, "similarity": 0.3})
    going = []
    for value in (0.5, 0.9, 0.7, 0.1):
        number = study.ask()
        going.append(study.validated(number, 100, {"val_loss": 3.0, "similarity": value}))
        metrics = {"val_loss": 3.0, "similarity": value, "step": 9, "examples": 900, "epoch": 9.0}
        if going[-1]:
            study.validated(number, 900, {"val_loss": 3.0, "similarity": value})
            study.finish(number, "completed", best=metrics, final_value=value)
        else:
            study.finish(number, "stopped")
    assert going == [True, True, False, False], "those that are behind stop"
    failed = study.ask()
    study.finish(failed, "diverged", reason="why")
    best = best_of(study.records(), study.plan.objective)
    assert best is not None
    assert (best.number, best.value) == (1, 0.9)
    found = as_optuna(tmp_path / "out")
    assert found.direction == optuna.study.StudyDirection.MAXIMIZE
    assert found.best_trial.number == 1
    assert found.trials[failed].value < 0.1

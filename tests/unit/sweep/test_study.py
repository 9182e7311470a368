"""The study: one writer, nothing lost, failures that teach the sampler."""

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers._tpe.sampler import _split_trials
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from csm_ft.sweep.asha import Rungs
from csm_ft.sweep.config import parse
from csm_ft.sweep.space import read_space
from csm_ft.sweep.study import SweepError, SweepStudy, best_of, cut_torn_line

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
        space = read_space(tmp_path / "space.yaml", request, num_train_examples=100)
        last.append(
            SweepStudy.open(
                tmp_path / folder, request.sweep, space, RUNGS, agreement or {"n_epochs": 5}
            )
        )
        return last[-1]

    yield open_study
    for study in last:
        study.close()


def complete(study: SweepStudy, number: int, value: float) -> None:
    study.validated(number, 900, value)
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


def test_the_default_comes_first_then_its_neighbours(opener: Opener) -> None:
    study = opener()
    points = [study.params(study.ask()) for _ in range(4)]
    assert points[0] == {"learning_rate": 3e-5, "batch_size": 8}
    assert [p["learning_rate"] for p in points[1:3]] == [pytest.approx(9e-5), pytest.approx(1e-5)]
    assert points[3]["learning_rate"] not in [p["learning_rate"] for p in points[:3]]


def test_running_trials_are_adopted_with_number_params_and_history(opener: Opener) -> None:
    study = opener()
    numbers = [study.ask() for _ in range(5)]
    params = [study.params(n) for n in numbers]
    study.validated(3, 100, 2.0)
    study.begin_attempt(3, "cpu0")
    again = opener()
    assert again.running == numbers
    assert [again.params(n) for n in numbers] == params
    assert again.record(3).curve == {100: 2.0}
    assert again.begin_attempt(3, "cpu1") == 2
    complete(again, 3, 1.0)
    assert opener().running == [0, 1, 2, 4]
    assert opener().ask() == 5


def test_a_kill_between_asking_and_drawing_is_made_good(opener: Opener, tmp_path: Path) -> None:
    undisturbed = opener(folder="other")
    expected = [undisturbed.params(undisturbed.ask()) for _ in range(4)]
    study = opener()
    for number in range(4):
        if number < 3:
            study._study.enqueue_trial(
                study._first_points[number]
            )  # killed here: enqueued, not asked
            study = opener()
            assert study.num_started == number
            assert study.ask() == number
        else:
            study._study.ask()  # killed here: asked, nothing drawn
            study = opener()
        assert study.params(number) == expected[number]


def test_a_kill_between_deciding_and_telling_is_made_good(opener: Opener) -> None:
    study = opener()
    study.set_baseline(4.0)
    for number, state in enumerate(("completed", "diverged")):
        study.ask()
        study._running[number].set_user_attr(
            "outcome",
            {
                "state": state,
                "reason": "r",
                "best": {"val_loss": 2.0, "examples": 900, "epoch": 9.0},
                "final_value": 2.0,
            },
        )
    again = opener()
    assert again.running == []
    assert [r.state for r in again.records()] == ["completed", "diverged"]


def test_a_restarted_sampler_does_not_repeat_its_draws(opener: Opener) -> None:
    drawn = []
    for _ in range(6):
        study = opener("--sampler", "random")
        drawn.append(study.params(study.ask())["learning_rate"])
    assert len(set(drawn)) == 6


def test_the_same_seed_draws_the_same_and_another_does_not(opener: Opener) -> None:
    def draws(folder: str, *argv: str) -> list[dict[str, Any]]:
        study = opener(*argv, folder=folder)
        for value in range(12):
            complete(study, study.ask(), 2 + value % 5)
        return [dict(r.params) for r in study.records()]

    assert draws("a") == draws("b")
    assert draws("a") != draws("c", "--seed", "1")


def test_validations_told_again_change_nothing(opener: Opener) -> None:
    study = opener()
    for _ in range(4):
        study.ask()
    for number, value in enumerate((1.2, 1.1, 1.0)):
        assert study.validated(number, 100, value)
    assert not study.validated(3, 100, 9.0)
    again = opener()
    assert not again.validated(3, 100, 9.0)
    assert not again.validated(3, 100, 0.1)
    assert again.record(3).curve == {100: 9.0}
    assert again.validated(1, 100, 5.0)
    again.finish(
        3, "stopped", best={"val_loss": 9.0, "examples": 100, "epoch": 1.0}, final_value=9.0
    )
    assert again.record(3).reason == "behind the best 1/3 after 100 examples"


def test_a_stop_is_written_down_before_the_value_that_caused_it(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opener()
    for number, value in enumerate((1.0, 1.1)):
        study.ask()
        study.validated(number, 100, value)
    number = study.ask()
    monkeypatch.setattr(optuna.Trial, "report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        study.validated(number, 100, 9.0)
    monkeypatch.undo()
    assert not opener().validated(number, 100, 9.0)


def test_step_0_is_no_value_and_the_default_is_never_stopped(opener: Opener) -> None:
    study = opener()
    for _ in range(4):
        study.ask()
    assert study.validated(1, 0, 0.1)
    assert study.record(1).curve == {}
    for number in (1, 2, 3):
        study.validated(number, 100, 1.0)
    assert study.validated(0, 100, 9.0)


def test_no_pruner_stops_nothing(opener: Opener) -> None:
    study = opener("--pruner", "none")
    for _ in range(6):
        number = study.ask()
        assert study.validated(number, 100, 1.0 + number)


def test_a_failed_trial_does_not_raise_the_bar(opener: Opener) -> None:
    study = opener()
    study.set_baseline(4.0)
    for number, value in enumerate((5.0, 5.1, 0.1)):
        study.ask()
        study.validated(number, 100, value)
    study.finish(2, "diverged", reason="step 20")
    number = study.ask()
    assert study.validated(number, 100, 4.0)


@pytest.mark.parametrize("reports_first", [False, True])
@pytest.mark.parametrize("state", ["diverged", "infeasible", "poison"])
def test_failed_trials_land_among_the_bad_ones(
    opener: Opener, tmp_path: Path, state: Any, reports_first: bool
) -> None:
    """Also when TPE's good set is larger than the number of completed trials.

    Behind every stopped trial, never the best.
    """
    study = opener()
    study.set_baseline(4.0)
    complete(study, study.ask(), 2.0)
    for _ in range(5):
        number = study.ask()
        study.validated(number, 100, 3.5)
        (
            study.finish(number, "stopped")
            if "stop_at" in study._running[number].user_attrs
            else complete(study, number, 3.4)
        )
    failed = study.ask()
    if reports_first:
        study.validated(failed, 100, 0.5)  # looked splendid before it failed
    study.finish(failed, state, reason="why")
    found = as_optuna(tmp_path / "out")
    for num_good in range(1, len(found.trials)):
        good, bad = _split_trials(found, found.trials, num_good)
        assert failed not in [t.number for t in good]
        assert failed in [t.number for t in bad]
    assert found.trials[failed].value == 8.0
    assert found.best_trial.number == 0
    best = best_of(study.records())
    assert best is not None
    assert best.number == 0
    record = study.record(failed)
    assert (record.state, record.reason, record.value) == (state, "why", None)


def test_tpe_moves_away_from_a_cliff_of_diverged_trials(opener: Opener) -> None:
    study = opener("--startup_trials", "5")
    study.set_baseline(4.0)
    rates = []
    for _ in range(40):
        number = study.ask()
        rate = study.params(number)["learning_rate"]
        rates.append(rate)
        if rate > 1e-4:
            study.finish(number, "diverged", reason="cliff")
        else:
            complete(study, number, 3 - rate * 1e4)  # the best is at the very edge
    assert (
        sum(rate > 1e-4 for rate in rates[10:]) <= 15
    )  # of 30; told FAIL instead, all 30 go over the cliff


def test_a_second_sweep_in_the_folder_is_refused(opener: Opener) -> None:
    first = opener()
    with pytest.raises(SweepError, match=r"another sweep is running there \(process \d+\)"):
        opener(close=False)
    first.ask()


def test_another_study_in_the_folder_is_refused(opener: Opener) -> None:
    opener()
    with pytest.raises(
        SweepError, match=r"holds the study 'csm-sweep', not 'other'; .*--study_name csm-sweep"
    ):
        opener("--study_name", "other")


def test_a_changed_agreement_is_refused_with_a_diff(opener: Opener) -> None:
    opener(agreement={"n_epochs": 5, "seed": 0, "rungs": (1, 2)})
    opener(agreement={"n_epochs": 5, "seed": 0, "rungs": [1, 2]})
    with pytest.raises(SweepError, match="n_epochs: 5 there, 3 now\n") as error:
        opener(agreement={"n_epochs": 3, "seed": 0, "rungs": [1, 2]})
    assert "seed" not in str(error.value)
    assert "--output_dir" in str(error.value)


def test_a_torn_journal_is_cut_and_stale_locks_go(opener: Opener, tmp_path: Path) -> None:
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


@given(
    st.lists(st.binary(max_size=30).filter(lambda b: b"\n" not in b), max_size=6),
    st.binary(max_size=30).filter(lambda b: b"\n" not in b),
)
def test_cutting_keeps_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("j") / "lines"
    whole = b"".join(line + b"\n" for line in lines)
    path.write_bytes(whole + torn)
    cut_torn_line(path)
    assert path.read_bytes() == whole
    cut_torn_line(path)
    assert path.read_bytes() == whole


def test_a_torn_line_longer_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"a\n" + b"x" * 200_000)
    cut_torn_line(path)
    assert path.read_bytes() == b"a\n"


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


def test_events_are_one_json_a_line(opener: Opener, tmp_path: Path) -> None:
    study = opener()
    study.event("worker died", slot="cpu0", how="killed by SIGKILL")
    row = json.loads((tmp_path / "out" / "events.jsonl").read_text())
    assert (row["event"], row["how"]) == ("worker died", "killed by SIGKILL")

"""A search space that changes while the study grows: trials are taken over, or the change refused.

All with Optuna's own storage, as a new process would find it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from csm_ft.errors import SweepError
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep import journal
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import read_rows
from csm_ft.sweep.space import make_space
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.trials import DataFacts, plan_study

RATE = "learning_rate: {type: float, min: 1e-5, max: 1e-4, log: true}\n"
SIZE = "batch_size: {type: categorical, values: [8, 16]}\n"
WIDER = "learning_rate: {type: float, min: 1e-6, max: 1e-3, log: true}\n"
Opener = Callable[..., SweepStudy]


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """Open the study in tmp_path with a space, closing the one opened before."""
    last: list[SweepStudy] = []

    def open_study(space: str, *argv: str) -> SweepStudy:
        while last:
            last.pop().close()
        (tmp_path / "space.yaml").write_text(space)
        request = parse(["--family", "csm", *argv])
        plan = plan_study(
            request.sweep,
            make_space(read_rows(tmp_path / "space.yaml", request), 100),
            DataFacts(100, "f"),
        )
        last.append(SweepStudy.open(SweepFolder(tmp_path / "out"), plan))
        return last[-1]

    yield open_study
    for study in last:
        study.close()


def begin(study: SweepStudy) -> int:
    number = study.ask()
    study.begin_attempt(number, "cpu0")
    return number


def fill(study: SweepStudy) -> None:
    """Six trials: four completed, one diverged, one running after its first validation."""
    study.set_baseline({"val_loss": 4.0})
    for value in range(4):
        number = begin(study)
        loss = 3.0 - value / 10
        study.validated(number, 500, {"val_loss": loss, "val_c0": loss / 2})
        best = {"val_loss": loss, "step": 9, "examples": 500, "epoch": 5.0}
        study.finish(number, "completed", best=best, final_value=loss)
    study.finish(begin(study), "diverged", reason="the loss is not finite")
    study.validated(begin(study), 55, {"val_loss": 3.2, "val_c0": 1.6})


def stored(folder: Path, name: str = "study.journal") -> list[FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / name)))
    return optuna.load_study(study_name="csm-sweep", storage=storage).trials


def facts(trial: FrozenTrial) -> tuple[Any, ...]:
    """All that must survive, but for the parameters."""
    times = trial.datetime_start, trial.datetime_complete
    kept = trial.user_attrs, trial.intermediate_values, trial.constraints
    return trial.number, trial.state, trial.values, *times, *kept


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            WIDER + SIZE,
            "learning_rate from 1e-05..0.0001 (log) to 1e-06..0.001 (log)): 6 trials are kept",
        ),
        (RATE + SIZE.replace("[8,", "[4, 8, 32,"), "batch_size from [8, 16] to [4, 8, 32, 16])"),
        (RATE.replace(", log: true", "") + SIZE, "(learning_rate from 1e-05..0.0001 (log) to 1e-0"),
        (RATE + SIZE.replace("categorical, values: [8, 16]", "int, min: 8, max: 64"), "to 8..64)"),
        (
            RATE + SIZE + "weight_decay: {type: float, min: 0, max: 0.1}\n",
            "weight_decay from the fixed 0.002 to 0.0..0.1)",
        ),
    ],
)
def test_wider_space_keeps_all_trials(
    opener: Opener, tmp_path: Path, capsys: pytest.CaptureFixture[str], space: str, words: str
) -> None:
    fill(opener(RATE + SIZE))
    before, content = stored(tmp_path / "out"), (tmp_path / "out/study.journal").read_bytes()
    study = opener(space)
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("the search space has changed (")
    assert words in told
    assert told.endswith(f"the old journal is {tmp_path}/out/study.before-1.journal")
    assert (tmp_path / "out/study.before-1.journal").read_bytes() == content
    after = stored(tmp_path / "out")
    assert [facts(trial) for trial in after] == [facts(trial) for trial in before]
    fixed = {"weight_decay": 0.002} if "weight_decay" in space else {}
    assert [t.params for t in after] == [{**t.params, **fixed} for t in before]
    assert [record.state for record in study.records()][3:] == ["completed", "diverged", "running"]
    assert (study.baseline, study.running) == (4.0, [5])


def test_running_trial_goes_on(opener: Opener) -> None:
    study = opener(RATE + SIZE)
    fill(study)
    params = study.params(5)
    study = opener(WIDER + SIZE)
    assert study.params(5) == params
    assert study.record(5).curve == {55: 3.2}
    assert study.begin_attempt(5, "cpu0") == 2
    best = {"val_loss": 2.0, "step": 9, "examples": 500, "epoch": 5.0}
    assert study.finish(5, "completed", best=best, final_value=2.0).value == 2.0
    assert begin(study) == 6
    assert opener(WIDER + SIZE).running == [6], "the same command again changes nothing"


def test_trial_without_attempt_is_drawn_again(opener: Opener) -> None:
    study = opener(RATE + SIZE)
    fill(study)
    study.ask()  # and a kill before it was dispatched
    study = opener(WIDER + SIZE)
    assert study.running == [5]
    assert study.ask() == 6


def test_sampler_sees_what_was_taken_over(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[str], list[int]]] = []
    original = TPESampler._sample

    def sample(self: TPESampler, study: Any, trial: Any, space: Any, **more: Any) -> Any:
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        used = [
            t.number for t in complete if all(t.distributions.get(n) == space[n] for n in space)
        ]
        seen.append((set(space), used))
        return original(self, study, trial, space, **more)

    fill(opener(RATE + SIZE))
    study = opener(WIDER + SIZE.replace("16]", "16, 32]"), "--startup_trials", "2")
    monkeypatch.setattr(TPESampler, "_sample", sample)
    study.ask()
    assert seen == [({"learning_rate", "batch_size"}, [0, 1, 2, 3, 4])]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (RATE.replace("1e-4", "5e-5") + SIZE, "trial 1 .* learning_rate 9e-05, .* 1e-05..5e-05 "),
        (RATE + SIZE.replace("8, 16", "16, 32"), r"trial 0 .* batch_size 8, .* in \[16, 32\]"),
        (RATE, "trial 0 .* batch_size 8, which is not searched any more"),
        (WIDER.replace("true", "true, default: 5e-5") + SIZE, "`default: 3e-05` in its row"),
        (
            RATE + SIZE + "weight_decay: {type: float, min: 0.01, max: 0.1}\n",
            "trial 0 .* weight_decay 0.002, which is not in 0.01..0.1",
        ),
        (
            RATE + SIZE.replace("]", "], when: {method: [lora]}") + "method: {type: categorical,"
            " values: [full, lora]}\n",
            "trial 0 .* batch_size 8, which its condition leaves out now",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    opener: Opener, tmp_path: Path, space: str, message: str
) -> None:
    fill(opener(RATE + SIZE))
    content = (tmp_path / "out/study.journal").read_bytes()
    with pytest.raises(SweepError, match=f"{message}.*another --output_dir"):
        opener(space)
    assert (tmp_path / "out/study.journal").read_bytes() == content
    assert not list((tmp_path / "out").glob("study.before-*"))


def test_condition_that_was_wider_keeps_the_fixed_value(opener: Opener) -> None:
    """A trial without a parameter had the value of its option: this is what it is taken over as."""
    method = "method: {type: categorical, values: [full, lora]}\n"
    decay = "weight_decay: {type: float, min: 0, max: 0.1, when: {method: [lora]}}\n"
    study = opener(RATE + method + decay)
    fill(study)
    assert "weight_decay" not in study.params(5) or study.params(5)["method"] == "lora"
    study = opener(RATE + method + decay.replace("[lora]", "[lora, full]"))
    assert {record.params["method"] for record in study.records()} >= {"full"}
    for record in study.records():
        assert (record.params["weight_decay"] == 0.002) == (record.params["method"] == "full")


def test_other_differences_stay_refused(opener: Opener) -> None:
    fill(opener(RATE + SIZE))
    with pytest.raises(SweepError, match="eta: 3 there, 4 now") as error:
        opener(WIDER + SIZE, "--eta", "4")
    assert "space" not in str(error.value)


@pytest.mark.parametrize("num_writes", [0, 1])
def test_kill_between_the_steps(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_writes: int
) -> None:
    """Before the old journal is set aside, and before the new one takes its place."""
    fill(opener(RATE + SIZE))
    content = (tmp_path / "out/study.journal").read_bytes()
    write, writes = journal.write_whole, iter(range(9))

    def killed(path: Path, text: str | bytes) -> None:
        if next(writes) == num_writes:
            raise KeyboardInterrupt
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            opener(WIDER + SIZE)
    assert (tmp_path / "out/study.journal").read_bytes() == content
    assert len(list((tmp_path / "out").glob("study.before-*"))) == num_writes
    study = opener(RATE + SIZE)  # the old study still goes on, too
    assert begin(study) == 6
    content = (tmp_path / "out/study.journal").read_bytes()
    assert opener(WIDER + SIZE).num_started == 7
    assert [p.name for p in (tmp_path / "out").glob("study.before-*")] == ["study.before-1.journal"]
    assert (tmp_path / "out/study.before-1.journal").read_bytes() == content


def test_each_change_sets_its_journal_aside(opener: Opener, tmp_path: Path) -> None:
    fill(opener(RATE + SIZE))
    opener(WIDER + SIZE)
    opener(WIDER + SIZE.replace("16]", "16, 32]"))
    numbers = [
        [t.number for t in stored(tmp_path / "out", name.name)]
        for name in sorted((tmp_path / "out").glob("study.*"))
    ]
    assert numbers == [list(range(6))] * 3

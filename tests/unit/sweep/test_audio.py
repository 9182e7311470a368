"""Trials whose examples differ are compared after equal seconds of audio."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from csm_ft.data.examples import Examples
from csm_ft.data.sampling import take_fraction
from csm_ft.data.split import ArrayKind, Clip, Split, clip_columns
from csm_ft.errors import ConfigError
from csm_ft.families import open_family
from csm_ft.runs.checkpoint import TrainState
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import read_rows
from csm_ft.sweep.space import make_space
from csm_ft.sweep.trials import Configs, DataFacts, EpochAudio, Plan, changes_examples, plan_study
from csm_ft.training.plan import RunPlan
from tests.unit.families.moshi.test_data import split_of

RATE_HZ = 16000


def dialogues() -> Split:
    """Of 4 to 100 s."""
    return split_of(*np.random.default_rng(0).integers(50, 1250, 80).tolist())


def clips() -> Split:
    """Of 1 to 6 s, ten in each conversation."""
    lengths = np.random.default_rng(0).integers(RATE_HZ, 6 * RATE_HZ, 120).tolist()
    rows = [
        Clip(
            f"{number:032}",
            *("text", "ann", f"{number}.wav"),
            *(0.0, length / RATE_HZ, length / RATE_HZ),
            conversation=str(number // 10),
            turn=number % 10,
        )
        for number, length in enumerate(lengths)
    ]
    columns = clip_columns(rows)
    columns["samples"] = np.zeros(sum(lengths), "<i2")
    columns["samples_offsets"] = np.cumsum([0, *lengths])
    columns["text_tokens"] = np.full(5 * len(rows), 7, "<u4")
    columns["text_tokens_offsets"] = np.arange(len(rows) + 1) * 5
    kinds = {"samples": ArrayKind("<i2"), "text_tokens": ArrayKind("<u4")}
    return Split("train", columns, kinds)


class Search:
    """A sweep over one row, on a split of a family; nothing is trained."""

    def __init__(self, folder: Path, family: str, row: str, split: Split) -> None:
        (folder / "space.yaml").write_text(f"{row}\nbatch_size: {{type: int, min: 1, max: 16}}\n")
        request = parse(["--family", family, "--n_epochs", "6", "--device", "cpu"])
        self.split, self.family = split, open_family(family)
        space = make_space(read_rows(folder / "space.yaml", request), 100)
        assert changes_examples(space)
        facts = self._describe(space.base)
        self.plan: Plan = plan_study(request.sweep, space, facts)
        machine: Any = SimpleNamespace(device="cpu", threads=1, slots=[])
        audio = EpochAudio(self._describe)
        out = SweepFolder(folder / "out")
        self.configs = Configs(out, request.sweep, space.base, machine, audio=audio)

    def examples(self, config: Any) -> Examples:
        arranged = self.family.arrange(self.split, config, evaluate=False)
        return take_fraction(arranged, config.data_fraction, seed=config.seed)

    def _describe(self, config: Any) -> DataFacts:
        examples = self.examples(config)
        return DataFacts(len(examples), "x", epoch_sec=examples.epoch_sec)

    def validated_at(self, **params: Any) -> tuple[list[float], float]:
        """Return the seconds of audio at each validation of a trial, and the longest step."""
        config = self.configs.trial(1, params, threads=1)
        examples = self.examples(config)
        plan, state = RunPlan(config, examples, only_measure=False), TrainState()
        seconds, seen, at, first_best = 0.0, [], list[float](), None
        for step in plan.steps(state):
            before = state.examples
            state.step, state.examples = step.number, state.examples + step.examples
            drawn = [i for micro in step.micro_batches for i in micro]
            seen.append(float(examples.audio_sec[drawn].sum()))
            seconds += seen[-1]
            assert plan.distance(state) == round(seconds)
            if plan.is_due("val", state, before):
                at.append(seconds)
                if plan.counts_as_best(state, {"val_loss": 1.0}):
                    first_best = first_best or seconds
        assert first_best == at[0], "the first rung's validation can be the best"
        return at, max(seen)


CASES = {
    "moshi": (dialogues, "window_sec: {type: float, min: 2, max: 100}"),
    "moonshine": (clips, "instance_max_sec: {type: categorical, values: [0, 12.0, 30.0]}"),
    "csm-like share": (dialogues, "data_fraction: {type: float, min: 0.25, max: 1}"),
}
SETTINGS = {
    "moshi": [{"window_sec": 3.0}, {"window_sec": 20.0, "batch_size": 2}, {"window_sec": 100.0}],
    "moonshine": [{"instance_max_sec": 0.0}, {"instance_max_sec": 12.0, "batch_size": 3}],
    "csm-like share": [{"data_fraction": 0.3}, {"data_fraction": 1.0}],
}


@pytest.mark.parametrize("case", CASES)
def test_trials_are_validated_after_equal_seconds(tmp_path: Path, case: str) -> None:
    make: Callable[[], Split]
    make, row = CASES[case]
    family = "moonshine" if case == "moonshine" else "moshi"
    search = Search(tmp_path, family, row, make())
    horizon_sec, every = search.plan.rungs.horizon_examples, search.plan.rungs.validation_share
    assert search.plan.rungs.unit == "seconds of audio"
    assert search.plan.agreement["compared in"] == "seconds of audio"
    for params in SETTINGS[case]:
        at, longest_step_sec = search.validated_at(**params)
        points = [float(every) * horizon_sec * k for k in range(1, round(1 / every))]
        assert len(at) in (9, 10), "the end may lie just behind the last point"
        assert all(0 <= a - p < longest_step_sec for a, p in zip(at, points, strict=False))
        assert abs(at[-1] - horizon_sec) <= 1.5 * longest_step_sec


def test_examples_of_a_conversation_are_fewer_and_longer(tmp_path: Path) -> None:
    search = Search(tmp_path, "moonshine", CASES["moonshine"][1], clips())
    base = search.configs.base
    short, long = (search.examples(base.replace(instance_max_sec=sec)) for sec in (0.0, 30.0))
    assert len(long) < len(short) / 3
    assert long.audio_sec.sum() == pytest.approx(short.audio_sec.sum(), rel=1e-3)


def test_full_windows_stay_whatever_is_too_short(tmp_path: Path) -> None:
    search = Search(tmp_path, "moshi", CASES["moshi"][1], split_of(100, 10))
    assert len(search.examples(search.configs.base.replace(window_sec=4.0))) == 3
    assert len(search.examples(search.configs.base.replace(window_sec=4.08))) == 2


def test_lengths_that_leave_nothing_are_no_trial(tmp_path: Path) -> None:
    search = Search(tmp_path, "moonshine", CASES["moonshine"][1], clips())
    with pytest.raises(ConfigError, match="no train example has instance_min_sec 50"):
        search.configs.trial(1, {"instance_min_sec": 50.0}, threads=1)


@pytest.mark.parametrize(
    ("family", "row"),
    [
        ("moshi", "val_window_sec: {type: float, min: 2, max: 100}"),
        ("moonshine", "val_wer_clips: {type: categorical, values: [10, 20]}"),
        ("csm", "val_turns: {type: categorical, values: [all, last]}"),
    ],
)
def test_validation_examples_are_not_searched(tmp_path: Path, family: str, row: str) -> None:
    (tmp_path / "space.yaml").write_text(row)
    request = parse(["--family", family])
    with pytest.raises(
        ConfigError, match=r"cannot be searched: trials (validated|scored) on other"
    ):
        read_rows(tmp_path / "space.yaml", request)


def test_steps_are_no_length_of_trials_with_other_examples(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(CASES["moshi"][1])
    request = parse(["--family", "moshi", "--max_steps", "100"])
    with pytest.raises(ConfigError, match="use --n_epochs instead"):
        read_rows(tmp_path / "space.yaml", request)

"""Encoding what is new: interrupted runs resume, and a fitted encoder is kept."""

import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from csm_ft import atomic
from csm_ft.data import audio, token_file
from tests.helpers.pretokenizing import FakeEncoder, Work

# Interrupted runs


def test_measures_survive_an_interruption(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0, 1.1, 1.2])

    def interrupt(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    encoder.on_batch = interrupt
    flags = ("--batch_sec", "1", "--save_every", "1")
    assert work.run(rows, rows[:1], *flags) == 130
    assert work.run(rows, rows[:1], *flags) == 0
    split = work.store().splits["train"]
    for i, row in enumerate(rows):
        _, measures = audio.load_measured(work.folder / row["path"], sample_rate_hz=16000)
        assert split.clip(i).measures == pytest.approx(measures, nan_ok=True)


def test_new_text_keeps_measures(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0, 1.1])
    assert work.run(rows, rows[:1]) == 0
    before = work.store().splits["train"].clip(1).measures
    rows[1]["text"] = "Another transcript."
    assert work.run(rows, rows[:1]) == 0
    assert before.are_known
    assert work.store().splits["train"].clip(1).measures == pytest.approx(before, nan_ok=True)


@pytest.mark.parametrize("stop_at", [1, 2, 4, 6])
def test_interrupted_run_resumes_same_groups(
    work: Work, encoder: FakeEncoder, stop_at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([0.5 + 0.05 * i for i in range(18)])
    flags = ("--batch_sec", "3", "--save_every", "5")
    assert work.run(rows, rows[:2], *flags) == 0
    calm, calm_batches = work.store(), encoder.batches
    work.output.unlink()

    def interrupt(number: int) -> None:
        if number == stop_at:
            raise KeyboardInterrupt

    encoder.batches, encoder.on_batch = [], interrupt
    assert work.run(rows, rows[:2], *flags) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert not work.output.exists()
    interrupted, encoder.batches, encoder.on_batch = encoder.batches, [], lambda number: None
    assert work.run(rows, rows[:2], *flags) == 0
    assert work.store().info == calm.info
    assert {tuple(b) for b in [*interrupted, *encoder.batches]} == {tuple(b) for b in calm_batches}
    lost = Counter(n for b in encoder.batches for n in b) + Counter(
        n for b in interrupted[:-1] for n in b
    )
    assert lost.total() <= 18 + 5 + max(map(len, calm_batches)), "at most one part is encoded twice"


def tensors(work: Work) -> dict[str, np.ndarray]:
    """Everything in the parts, by name."""
    found: dict[str, np.ndarray] = {}
    for part in Path(f"{work.output}.parts").glob("part_*"):
        found |= load_file(part)
    return found


class Death(BaseException):
    """Nothing in the program catches this."""


def test_death_before_any_write_costs_nothing(
    work: Work, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = work.clips([0.5 + 0.1 * i for i in range(5)])
    flags = ("--batch_sec", "1", "--save_every", "2")
    assert work.run(rows, rows[:1], *flags) == 0
    calm = work.store().info
    fsync, deaths = atomic.fsync, 0
    for fatal in range(1, 100):
        shutil.rmtree(f"{work.output}.parts", ignore_errors=True)
        work.output.unlink()
        calls = 0

        def die(path: Path, fatal: int = fatal) -> None:
            nonlocal calls
            calls += 1
            if calls == fatal:
                raise Death
            fsync(path)

        for module in (atomic, token_file):
            monkeypatch.setattr(module, "fsync", die)
        try:
            assert work.run(rows, rows[:1], *flags) == 0
            break
        except Death:
            deaths += 1
        for module in (atomic, token_file):
            monkeypatch.setattr(module, "fsync", fsync)
        assert not work.output.exists() or work.store().info == calm
        assert work.run(rows, rows[:1], *flags) == 0
        assert work.store().info == calm
        assert not Path(f"{work.output}.parts").exists()
    assert deaths > 8


def test_rows_may_change_between_runs(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([0.5 + 0.1 * i for i in range(10)])

    def interrupt(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    encoder.on_batch = interrupt
    assert work.run(rows, rows[:1], "--batch_sec", "2", "--save_every", "1") == 130
    plan = json.loads((Path(f"{work.output}.parts") / "plan.json").read_text())["groups"]
    encoder.batches, encoder.on_batch = [], lambda number: None
    kept = len({name.split("/")[0] for name in tensors(work)})
    assert kept > 0
    rows += work.clips([0.77, 0.78], first=20)
    assert work.run(rows[1:], rows[1:2], "--batch_sec", "100") == 0
    assert len(encoder.batches) == len(plan) - 2 + 1, (
        "groups that were planned stand; new clips make a new one"
    )
    assert encoder.num_encoded == 12 - kept
    assert len(work.store().splits["train"]) == 11


def test_damaged_part_is_encoded_again(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0, 1.1])

    def interrupt(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    encoder.on_batch = interrupt
    assert work.run(rows, rows[:1], "--batch_sec", "1", "--save_every", "1") == 130
    (part,) = Path(f"{work.output}.parts").glob("part_*")
    os.truncate(part, part.stat().st_size // 2)
    encoder.batches, encoder.on_batch = [], lambda number: None
    assert work.run(rows, rows[:1]) == 0
    assert encoder.num_encoded == 2
    assert len(work.store().splits["train"]) == 2


def test_parts_hold_every_audio_array(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0, 1.1])

    def interrupt(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    encoder.on_batch = interrupt
    assert work.run(rows, rows[:1], "--batch_sec", "1", "--save_every", "1") == 130
    kept = tensors(work)
    (id_,) = (name for name in kept if "/" not in name)
    assert kept.keys() == {id_, f"{id_}/peaks", f"{id_}/.measures"}, (
        "the text is made again in every run"
    )
    encoder.on_batch = lambda number: None
    assert work.run(rows, rows[:1]) == 0
    split = work.store().splits["train"]
    index = split.ids.index(id_)
    np.testing.assert_array_equal(split.array("sums", index), kept[id_])
    np.testing.assert_array_equal(split.array("peaks", index), kept[f"{id_}/peaks"])


def test_plan_of_version_0_2_is_resumed(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([0.5, 1.0, 1.5])
    assert work.run(rows, rows[:1]) == 0
    assert len(encoder.batches) == 1
    ids = work.store().splits["train"].ids
    work.output.unlink()
    folder = Path(f"{work.output}.parts")
    folder.mkdir()
    plan = {"codec_fingerprint": "fake-1", "groups": [[ids[2]], [ids[0], ids[1]]]}
    (folder / "plan.json").write_text(json.dumps(plan))
    encoder.batches = []
    assert work.run(rows, rows[:1]) == 0
    assert encoder.batches == [[24000], [8000, 16000]]


def test_clip_id_names_sound_and_encoder(work: Work, encoder: FakeEncoder) -> None:
    (row,) = work.clips([1.0])
    assert work.run([{**row, "start": 0.25, "end": 0.75}], [row]) == 0
    digest = audio.digest(work.folder / row["path"])
    name = f"{digest} 4000-12000 mix fake-1"
    expected = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    assert work.store().splits["train"].ids == [expected]


# Encoders that are fitted


def test_encoder_is_fitted_once_per_output(work: Work, encoder: FakeEncoder) -> None:
    encoder.fit_sec = 5.0
    rows = work.clips([2.0] * 5)
    assert work.run(rows[:4], rows[4:]) == 0
    assert encoder.fitted_on == [[32000] * 3], "until 5 s are reached, none of them held out"
    assert work.store().info.audio_fingerprint == "fake-fitted on 3"
    encoder.version = "1"
    assert work.run(rows[:3], rows[4:]) == 0
    assert len(encoder.fitted_on) == 1, "the token file holds it"
    assert work.report()["encoded_now"] == 0


def test_fitted_encoder_survives_interruption(work: Work, encoder: FakeEncoder) -> None:
    encoder.fit_sec = 5.0
    rows = work.clips([2.0] * 5)

    def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    encoder.on_batch = interrupt
    assert work.run(rows[:4], rows[4:]) == 130
    encoder.version, encoder.on_batch = "1", lambda number: None
    assert work.run(rows[:4], rows[4:]) == 0
    assert len(encoder.fitted_on) == 1
    assert work.store().assets == {"version": b"fitted on 3"}

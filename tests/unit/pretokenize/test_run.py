"""pretokenize.py.

Rows are checked, only what is new is encoded, and nothing that fails touches the old file.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file

import pretokenize
from csm_ft import atomic as files
from csm_ft import codecs
from csm_ft.data import audio
from csm_ft.data import token_file as store_module
from csm_ft.data.split import DUPLICATE
from csm_ft.families.csm.encoder import open_tokenizer
from csm_ft.pretokenize import run as pretokenizer
from csm_ft.pretokenize_config import PretokenizeConfig
from tests.helpers.pretokenizing import FakeCodec, Json, Work, write_wave


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> FakeCodec:
    fake = FakeCodec()
    monkeypatch.setattr(codecs, "open_codec", lambda *args, **kwargs: fake)
    return fake


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_the_file_is_what_encoding_one_clip_after_another_gives(
    work: Work, codec: FakeCodec
) -> None:
    train = work.clips([1.0, 0.5, 2.31, 0.7])
    train += [{"path": "audio/2.wav", "text": "A span.", "start": 0.25, "end": 1.5, "speaker": 3}]
    write_wave(work.folder / "stereo.flac", 1.3, seed=9, rate_hz=44100, channels=2)
    train += [{"path": "stereo.flac", "text": "Grüße, 你好", "speaker": "Ann"}]
    val = work.clips([0.9], first=7)
    assert work.run(train, val, "--batch_sec", "3", "--save_every", "2") == 0

    tokenizer, store = open_tokenizer("auto", codec="melrvq"), work.store()
    for split, rows in (("train", train), ("val", val)):
        assert len(store.splits[split]) == len(rows)
        for i, row in enumerate(rows):
            start, end = row.get("start"), row.get("end")
            path = work.folder / row["path"]
            wave = audio.load(path, sample_rate_hz=16000, start_sec=start, end_sec=end)
            speaker = str(row.get("speaker", "999"))
            clip = store.splits[split].clip(i)
            np.testing.assert_array_equal(
                store.splits[split].codes(i), FakeCodec().encode([wave])[0]
            )
            np.testing.assert_array_equal(
                store.splits[split].text_tokens(i), tokenizer.encode(row["text"], speaker)
            )
            assert (clip.text, clip.speaker, clip.source, clip.flags) == (
                row["text"],
                speaker,
                str(path),
                0,
            )
            assert clip.start_sec == (start or 0.0)
            assert clip.duration_sec == pytest.approx(len(wave) / 16000, abs=1e-4)
    info = store.info
    assert (info.codec, info.codec_fingerprint, info.num_codebooks, info.codec_vocab_size) == (
        "melrvq",
        "fake-1",
        4,
        256,
    )
    assert (info.tokenizer_fingerprint, info.text_vocab_size) == (
        tokenizer.fingerprint,
        tokenizer.vocab_size,
    )
    assert (info.template, store.asset("tokenizer")) == ("[{speaker}]{text}", tokenizer.to_bytes())
    assert not Path(f"{work.output}.parts").exists()
    assert work.rejected() == []


def test_batches_are_of_like_lengths_and_within_the_budget(work: Work, codec: FakeCodec) -> None:
    seconds = [0.5 + 0.1 * (7 * i % 20) for i in range(20)]
    assert work.run(work.clips(seconds), None, "--batch_sec", "6") == 0
    assert codec.num_encoded == 20
    for lengths in codec.batches:
        assert max(lengths) * len(lengths) <= 6 * 16000 + 1280 * len(lengths)
    flat = [length for lengths in codec.batches for length in lengths]
    frames = [-(-length // 1280) for length in flat]
    assert frames == sorted(frames)
    assert len(codec.batches) > 3


# What is encoded again


def changed(work: Work, codec: FakeCodec, train: list[Json], *more: str) -> int:
    """Run again and return how many clips went through the codec."""
    before = codec.num_encoded
    assert work.run(train, train[:1], *more) == 0
    return codec.num_encoded - before


def test_only_what_is_new_is_encoded(work: Work, codec: FakeCodec) -> None:
    rows = work.clips([1.0, 1.1, 1.2, 1.3])
    assert changed(work, codec, rows) == 4
    first = work.store()
    assert changed(work, codec, rows) == 0
    assert work.store().info == first.info
    assert changed(work, codec, rows[::-1]) == 0
    assert work.store().splits["train"].ids == first.splits["train"].ids[::-1]
    np.testing.assert_array_equal(
        work.store().splits["train"].codes(0), first.splits["train"].codes(3)
    )
    rows[1]["text"] = "Another transcript."
    assert changed(work, codec, rows) == 0
    assert work.store().splits["train"].clip(1).text == "Another transcript."
    assert work.store().info.content_fingerprint != first.info.content_fingerprint
    assert changed(work, codec, rows + work.clips([0.9], first=4)) == 1
    assert changed(work, codec, [{**rows[0], "end": 0.8}, *rows[1:]]) == 1
    write_wave(work.folder / "audio/2.wav", 1.2, seed=77)
    assert changed(work, codec, rows) == 2, "the changed file, and the first clip at its old length"
    shutil.copy(work.folder / "audio/2.wav", work.folder / "copy.wav")
    assert changed(work, codec, [*rows, {"path": "copy.wav", "text": "The same sound."}]) == 0
    assert changed(work, codec, rows, "--omit_speaker_id") == 0
    assert changed(work, codec, rows, "--channel", "left") == 4
    codec.version = "2"
    assert changed(work, codec, rows) == 4


@pytest.mark.parametrize("channel", ["left", "right", "mix"])
def test_one_channel_of_stereo(
    work: Work, codec: FakeCodec, channel: Literal["left", "right", "mix"]
) -> None:
    path = write_wave(work.folder / "stereo.wav", 1.0, channels=2)
    row = {"path": "stereo.wav", "text": "Two voices."}
    assert work.run([row], [row], "--channel", channel) == 0
    wave = audio.load(path, sample_rate_hz=16000, channel=channel)
    np.testing.assert_array_equal(
        work.store().splits["train"].codes(0), FakeCodec().encode([wave])[0]
    )


def test_the_same_audio_is_encoded_once_and_repeats_are_flagged(
    work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = work.clips([1.0])
    other = {**row, "text": "Other words."}
    assert work.run([row, other, row, {**row, "speaker": 2}], [row]) == 0
    assert codec.num_encoded == 1
    split = work.store().splits["train"]
    assert [split.clip(i).flags for i in range(4)] == [0, 0, DUPLICATE, 0]
    assert len(set(split.ids)) == 1
    assert work.report()["splits"]["train"]["duplicates"] == 1
    out = capsys.readouterr().out
    assert "1 clips repeat an earlier one" in out
    assert "1 validation clips are training clips, too" in out


def test_without_speakers_in_the_text(work: Work, codec: FakeCodec) -> None:
    rows = work.clips([1.0], speaker=5) + work.clips([1.0], first=1)
    assert work.run(rows, rows[:1], "--omit_speaker_id", "--default_speaker", "x") == 0
    store = work.store()
    assert store.info.template == "{text}"
    np.testing.assert_array_equal(
        store.splits["train"].text_tokens(0),
        open_tokenizer("auto", codec="melrvq").encode(rows[0]["text"], None),
    )
    assert [store.splits["train"].clip(i).speaker for i in range(2)] == ["5", "x"], (
        "who speaks is known all the same"
    )


# Interrupted runs


@pytest.mark.parametrize("stop_at", [1, 2, 4, 6])
def test_an_interrupted_run_goes_on_with_the_same_groups(
    work: Work, codec: FakeCodec, stop_at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([0.5 + 0.05 * i for i in range(18)])
    flags = ("--batch_sec", "3", "--save_every", "5")
    assert work.run(rows, rows[:2], *flags) == 0
    calm, calm_batches = work.store(), codec.batches
    work.output.unlink()

    def interrupt(number: int) -> None:
        if number == stop_at:
            raise KeyboardInterrupt

    codec.batches, codec.on_batch = [], interrupt
    assert work.run(rows, rows[:2], *flags) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not work.output.exists()
    interrupted, codec.batches, codec.on_batch = codec.batches, [], lambda number: None
    assert work.run(rows, rows[:2], *flags) == 0
    assert work.store().info == calm.info
    assert {tuple(b) for b in [*interrupted, *codec.batches]} == {tuple(b) for b in calm_batches}
    lost = Counter(n for b in codec.batches for n in b) + Counter(
        n for b in interrupted[:-1] for n in b
    )
    assert lost.total() <= 18 + 5 + max(map(len, calm_batches)), "at most one part is encoded twice"


class Death(BaseException):
    """Nothing in the program catches this."""


def test_death_before_any_write_to_disk_costs_no_content(
    work: Work, codec: FakeCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = work.clips([0.5 + 0.1 * i for i in range(5)])
    flags = ("--batch_sec", "1", "--save_every", "2")
    assert work.run(rows, rows[:1], *flags) == 0
    calm = work.store().info
    fsync, deaths = files.fsync, 0
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

        for module in (files, store_module):
            monkeypatch.setattr(module, "fsync", die)
        try:
            assert work.run(rows, rows[:1], *flags) == 0
            break
        except Death:
            deaths += 1
        for module in (files, store_module):
            monkeypatch.setattr(module, "fsync", fsync)
        assert not work.output.exists() or work.store().info == calm
        assert work.run(rows, rows[:1], *flags) == 0
        assert work.store().info == calm
        assert not Path(f"{work.output}.parts").exists()
    assert deaths > 8


def test_rows_may_change_while_a_run_is_interrupted(work: Work, codec: FakeCodec) -> None:
    rows = work.clips([0.5 + 0.1 * i for i in range(10)])

    def interrupt(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    codec.on_batch = interrupt
    assert work.run(rows, rows[:1], "--batch_sec", "2", "--save_every", "1") == 130
    plan = json.loads((Path(f"{work.output}.parts") / "plan.json").read_text())["groups"]
    codec.batches, codec.on_batch = [], lambda number: None
    kept = sum(len(load_file(part)) for part in Path(f"{work.output}.parts").glob("part_*"))
    assert kept > 0
    rows += work.clips([0.77, 0.78], first=20)
    assert work.run(rows[1:], rows[1:2], "--batch_sec", "100") == 0
    assert len(codec.batches) == len(plan) - 2 + 1, (
        "groups that were planned stand; new clips make a new one"
    )
    assert codec.num_encoded == 12 - kept
    assert len(work.store().splits["train"]) == 11


def test_a_damaged_part_is_encoded_again(work: Work, codec: FakeCodec) -> None:
    rows = work.clips([1.0, 1.1])

    def interrupt(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    codec.on_batch = interrupt
    assert work.run(rows, rows[:1], "--batch_sec", "1", "--save_every", "1") == 130
    (part,) = Path(f"{work.output}.parts").glob("part_*")
    os.truncate(part, part.stat().st_size // 2)
    codec.batches, codec.on_batch = [], lambda number: None
    assert work.run(rows, rows[:1]) == 0
    assert codec.num_encoded == 2
    assert len(work.store().splits["train"]) == 2


def test_two_runs_do_not_write_the_same_file(
    work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([1.0])
    with (work.folder / ".tokens.hdf5.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert work.run(rows, rows) == 2
        assert "another pretokenize.py is writing it" in capsys.readouterr().err
    assert work.run(rows, rows) == 0


def test_what_is_no_token_file_of_ours_is_not_overwritten(
    work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    import h5py

    rows = work.clips([1.0])
    with h5py.File(work.output, "w") as file:
        for name in ("audio", "text", "length"):
            file[f"train/{name}"] = np.zeros(0, np.int32)
    for content in (work.output.read_bytes(), b"path,text\n"):
        work.output.write_bytes(content)
        assert work.run(rows, rows) == 2
        assert "is not overwritten" in capsys.readouterr().err
        assert work.output.read_bytes() == content
    work.output.unlink()
    assert work.run(rows, rows) == 0
    with h5py.File(work.output, "r+") as file:
        file["train/codes"][0, 0] ^= 1
    assert work.run(rows, rows) == 2
    assert "bytes have changed" in capsys.readouterr().err, (
        "codes that rotted on disk are not taken over"
    )


# The fitted codec


def test_a_fitted_codec_is_kept_until_it_is_fitted_again(work: Work) -> None:
    from csm_ft.codecs import from_store

    rows = work.clips([3.0] * 8)
    flags = ("--fit_codec", "--num_codebooks", "2")
    assert work.run(rows[:7], rows[7:], "--num_codebooks", "2") == 0
    embedded = work.store().info.codec_fingerprint
    assert work.run(rows[:7], rows[7:], *flags) == 0
    assert work.store().info.codec_fingerprint != embedded, (
        "the embedded codec was not fitted for this file"
    )
    store = work.store()
    assert (store.info.codec_source, store.info.num_codebooks) == ("fitted", 2)
    assert from_store(store).fingerprint == store.info.codec_fingerprint
    more = rows[:7] + work.clips([3.0], first=8)
    assert work.run(more, rows[7:], *flags) == 0
    assert work.store().info.codec_fingerprint == store.info.codec_fingerprint, (
        "new rows do not refit it"
    )
    assert work.report()["encoded_now"] == 1
    assert work.run(more, rows[7:], *flags, "--refit_codec") == 0
    assert work.store().info.codec_fingerprint != store.info.codec_fingerprint
    assert work.report()["encoded_now"] == 9
    assert work.run(more, rows[7:], "--fit_codec", "--num_codebooks", "3") == 0
    assert work.store().info.num_codebooks == 3


@pytest.mark.parametrize(
    ("num_clips", "flags", "num_held"),
    [(20, (), 4), (60, (), 8), (20, ("--val_fraction", "0.05"), 1)],
)
def test_small_data_holds_out_enough_to_judge_by_unless_told_otherwise(
    work: Work, codec: FakeCodec, num_clips: int, flags: tuple[str, ...], num_held: int
) -> None:
    assert work.run(work.clips([0.5] * num_clips), None, *flags) == 0
    assert len(work.store().splits["val"]) == num_held


def test_rows_without_a_speaker_are_told(
    work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([0.5] * 3)
    rows[0]["speaker"] = "Ann"
    assert work.run(rows[:2], rows[2:]) == 0
    assert (
        "2 rows name no speaker: they are speaker 999 (--default_speaker names another)"
        in capsys.readouterr().out
    )
    assert work.run(rows[:2], rows[2:], "--default_speaker", "bob") == 0
    assert "name no speaker" not in capsys.readouterr().out


def test_a_codec_is_fitted_on_some_minutes_of_training_clips(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    from csm_ft.codecs import melrvq

    given: list[list[int]] = []
    fit = melrvq.fit
    monkeypatch.setattr(pretokenizer, "_FIT_SEC", 20)
    monkeypatch.setattr(
        melrvq,
        "fit",
        lambda waves, **more: (
            given.append([len(wave) for wave in waves]) or fit(waves, vocab_size=32, **more)
        ),
    )
    rows = work.clips([3.0] * 9)
    assert work.run(rows[:8], rows[8:], "--fit_codec", "--num_codebooks", "2") == 0
    assert given == [[48000] * 7], "21 of 24 seconds, none of them held out"


def test_a_codec_fitted_by_a_run_that_was_killed_is_used_again(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    from csm_ft.codecs import melrvq

    rows = work.clips([3.0] * 8)
    encode, calls = melrvq.MelRVQ.encode, []

    def interrupted(self: melrvq.MelRVQ, waves: Any) -> Any:
        calls.append(len(waves))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, waves)

    monkeypatch.setattr(melrvq.MelRVQ, "encode", interrupted)
    flags = ("--fit_codec", "--num_codebooks", "2", "--batch_sec", "6", "--save_every", "2")
    assert work.run(rows[:7], rows[7:], *flags) == 130
    kept = hashlib.sha256(
        (Path(f"{work.output}.parts") / "codec.safetensors").read_bytes()
    ).hexdigest()
    monkeypatch.setattr(melrvq, "fit", lambda *args, **more: pytest.fail("fitted again"))
    assert work.run(rows[:7], rows[7:], *flags) == 0
    assert hashlib.sha256(work.store().asset("codec") or b"").hexdigest() == kept


# Options


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--val_fraction", "1"), "val_fraction 1.0 is not between 0 and 1"),
        (("--max_rejected", "many"), "write 5% or 0.05"),
        (("--max_rejected", "120%"), "not between 0 and 100%"),
        (("--num_workers", "0"), "num_workers 0 is not above 0"),
        (("--refit_codec",), "goes with --fit_codec"),
        (("--codec", "mimi", "--fit_codec"), "add --codec melrvq"),
        (("--fit_codec", "--codec_source", "x"), "give one of the two"),
        (("--codec", "vorbis"), "vorbis"),
        (("--trian_data", "x"), "did you mean"),
        (("--device", "cuda"), "sees no GPU"),
        (("--channel", "middle"), "middle"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    work: Work,
    codec: FakeCodec,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = work.clips([1.0])
    assert work.run(rows, rows, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert pretokenize.main([]) == 2
    assert "--train_data is missing" in capsys.readouterr().err


def test_shares_may_be_written_in_two_ways() -> None:
    shares = {
        text: PretokenizeConfig(train_data="x", max_rejected=text).max_rejected_share
        for text in ("5%", "0.05", "0", "100%", "12.5 %")
    }
    assert shares == {"5%": 0.05, "0.05": 0.05, "0": 0.0, "100%": 1.0, "12.5 %": 0.125}


def test_the_report_tells_what_is_in_the_file(
    work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([1.0, 2.0, 3.0])
    assert work.run(rows, rows[:1]) == 0
    report = work.report()
    assert report["splits"]["train"]["seconds"] == pytest.approx(6.0)
    assert report["splits"]["train"]["frames"] == 13 + 25 + 38
    assert report["splits"]["val"]["speakers"] == {"999": 1}
    assert (report["encoded_now"], report["rejected"], report["codec"]) == (3, 0, "melrvq")
    assert report["times_real_time"] > 0
    out = capsys.readouterr().out
    assert "3 clips encoded now" in out
    assert "times real time" in out
    assert [line.split()[:3] for line in out.splitlines() if "##" in line] == [
        ["1-2", "s", "2"],
        ["2-4", "s", "2"],
    ]

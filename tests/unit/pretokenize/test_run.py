"""pretokenize.py.

Rows are checked, only what is new is encoded, and nothing that fails touches the old file.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import pretokenize
from csm_ft import atomic
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.data import audio
from csm_ft.data.split import DUPLICATE
from csm_ft.pretokenize import run
from tests.helpers.pretokenizing import FakeEncoder, Json, Work, write_wave


def test_file_matches_encoding_clip_by_clip(work: Work, encoder: FakeEncoder) -> None:
    train = work.clips([1.0, 0.5, 2.31, 0.7])
    train += [{"path": "audio/2.wav", "text": "A span.", "start": 0.25, "end": 1.5, "speaker": 3}]
    write_wave(work.folder / "stereo.flac", 1.3, seed=9, rate_hz=44100, channels=2)
    train += [{"path": "stereo.flac", "text": "Grüße, 你好", "speaker": "Ann"}]
    val = work.clips([0.9], first=7)
    assert work.run(train, val, "--batch_sec", "3", "--save_every", "2") == 0

    store = work.store()
    for split, rows in (("train", train), ("val", val)):
        assert len(store.splits[split]) == len(rows)
        for i, row in enumerate(rows):
            start, end = row.get("start"), row.get("end")
            path = work.folder / row["path"]
            wave = audio.load(path, sample_rate_hz=16000, start_sec=start, end_sec=end)
            speaker = str(row.get("speaker", "999"))
            clip = store.splits[split].clip(i)
            (expected,) = FakeEncoder().encode_audio([wave])
            expected |= {"letters": [ord(letter) for letter in f"{speaker}|{row['text']}"]}
            arrays = store.splits[split].arrays(i)
            assert arrays.keys() == expected.keys()
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, expected[name])
            assert (clip.text, clip.speaker, clip.source, clip.flags) == (
                row["text"],
                speaker,
                str(path),
                0,
            )
            assert clip.start_sec == (start or 0.0)
            assert clip.duration_sec == pytest.approx(len(wave) / 16000, abs=1e-4)
    info = store.info
    assert (info.family, info.arrays) == ("fake", FakeEncoder.arrays)
    assert (info.sample_rate_hz, info.frame_sec) == (16000, 0.08)
    assert (info.audio_fingerprint, info.text_fingerprint) == ("fake-1", "letters")
    assert (info.facts, store.assets) == ({"version": "1"}, {"version": b"1"})
    assert not Path(f"{work.output}.parts").exists()
    assert work.rejected() == []


def test_batches_have_similar_lengths(work: Work, encoder: FakeEncoder) -> None:
    seconds = [0.5 + 0.1 * (7 * i % 20) for i in range(20)]
    assert work.run(work.clips(seconds), None, "--batch_sec", "6") == 0
    assert encoder.num_encoded == 20
    for lengths in encoder.batches:
        assert max(lengths) * len(lengths) <= 6 * 16000 + 1280 * len(lengths)
    flat = [length for lengths in encoder.batches for length in lengths]
    frames = [-(-length // 1280) for length in flat]
    assert frames == sorted(frames)
    assert len(encoder.batches) > 3


# What is encoded again


def changed(work: Work, encoder: FakeEncoder, train: list[Json], *more: str) -> int:
    """Run again and return how many clips went through the encoder."""
    before = encoder.num_encoded
    assert work.run(train, train[:1], *more) == 0
    return encoder.num_encoded - before


def test_only_what_is_new_is_encoded(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0, 1.1, 1.2, 1.3])
    assert changed(work, encoder, rows) == 4
    first = work.store()
    assert changed(work, encoder, rows) == 0
    assert work.store().info == first.info
    assert changed(work, encoder, rows[::-1]) == 0
    assert work.store().splits["train"].ids == first.splits["train"].ids[::-1]
    for name in encoder.arrays:
        again = work.store().splits["train"].array(name, 0)
        np.testing.assert_array_equal(again, first.splits["train"].array(name, 3))
    rows[1]["text"] = "Another transcript."
    assert changed(work, encoder, rows) == 0
    assert work.store().splits["train"].clip(1).text == "Another transcript."
    assert work.store().info.content_fingerprint != first.info.content_fingerprint
    assert changed(work, encoder, rows + work.clips([0.9], first=4)) == 1
    assert changed(work, encoder, [{**rows[0], "end": 0.8}, *rows[1:]]) == 1
    write_wave(work.folder / "audio/2.wav", 1.2, seed=77)
    assert changed(work, encoder, rows) == 2, (
        "the changed file, and the first clip at its old length"
    )
    shutil.copy(work.folder / "audio/2.wav", work.folder / "copy.wav")
    assert changed(work, encoder, [*rows, {"path": "copy.wav", "text": "The same sound."}]) == 0
    assert changed(work, encoder, rows, "--default_speaker", "Ann") == 0
    assert changed(work, encoder, rows, "--channel", "left") == 4
    encoder.version = "2"
    assert changed(work, encoder, rows) == 4


@pytest.mark.parametrize("channel", ["left", "right", "mix"])
def test_one_channel_of_stereo_is_encoded(
    work: Work, encoder: FakeEncoder, channel: Literal["left", "right", "mix"]
) -> None:
    path = write_wave(work.folder / "stereo.wav", 1.0, channels=2)
    row = {"path": "stereo.wav", "text": "Two voices."}
    assert work.run([row], [row], "--channel", channel) == 0
    wave = audio.load(path, sample_rate_hz=16000, channel=channel)
    (expected,) = FakeEncoder().encode_audio([wave])
    np.testing.assert_array_equal(work.store().splits["train"].array("sums", 0), expected["sums"])


def test_each_row_has_its_channel(work: Work, encoder: FakeEncoder) -> None:
    path = write_wave(work.folder / "stereo.wav", 1.0, channels=2)
    row = {"path": "stereo.wav", "text": "One voice."}
    rows = [{**row, "channel": "left"}, {**row, "channel": "right"}, row]
    assert work.run(rows, [row], "--channel", "left") == 0
    split = work.store().splits["train"]
    for index, channel in enumerate(("left", "right", "left")):
        wave = audio.load(path, sample_rate_hz=16000, channel=channel)
        (expected,) = FakeEncoder().encode_audio([wave])
        np.testing.assert_array_equal(split.array("sums", index), expected["sums"])
    assert [split.clip(i).flags for i in range(3)] == [0, 0, DUPLICATE]


def test_right_channel_of_mono_is_rejected(work: Work, encoder: FakeEncoder) -> None:
    good, bad = work.clips([1.0, 1.0])
    assert work.run([good, {**bad, "channel": "right"}], [good], "--max_rejected", "1") == 0
    assert [one["reason"] for one in work.rejected()] == [
        "1.wav is mono, there is no right channel; write mix in its row"
    ]


@pytest.mark.parametrize("has_val", [True, False])
def test_splits_of_the_data_are_kept(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str], has_val: bool
) -> None:
    rows = work.clips([0.8, 0.9, 1.0, 1.1])
    for row, split in zip(rows, ("train", "dev", "test", "train"), strict=True):
        row["split"] = split
    (other,) = work.clips([1.2], first=9)
    assert work.run(rows, [other] if has_val else None) == 0
    splits = work.store().splits
    assert [splits["train"].clip(i).text[-2] for i in range(2)] == ["0", "3"]
    assert [splits["val"].clip(i).text[-2] for i in range(1)] == ["9" if has_val else "1"]
    out = capsys.readouterr().out
    assert "1 of the split test" in out
    assert ("1 of the split val" in out) == has_val
    assert ("they are the validation" in out) != has_val


def test_rejected_rows_of_unused_splits_do_not_count(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([0.8, 0.9, 1.0, 1.1])
    for row, split in zip(rows, ("train", "dev", "test", "hold-out"), strict=True):
        row["split"] = split
    rows[2]["text"] = rows[3]["text"] = ""
    assert work.run(rows, None, "--strict") == 0
    assert {name: len(split) for name, split in work.store().splits.items()} == {
        "train": 1,
        "val": 1,
    }


def test_rows_that_end_before_their_files_are_told(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([1.3, 1.6, 2.0])
    for row, duration in zip(rows, (1, 1, 2), strict=True):
        row["duration"] = duration
    assert work.run(rows[:2], rows[2:]) == 0
    out = capsys.readouterr().out
    assert "2 rows end before their files do, by up to 0.60 s" in out
    assert "that sound is left out" not in out
    (row,) = work.clips([3.0], first=20)
    assert work.run([{**row, "duration": 0.5}, {**row, "start": 0, "end": 0.6}], rows[2:]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 rows name no start, and end up to 2.5 s before their files do" in out


def test_data_of_one_split_are_taken_as_they_are(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([0.8, 0.9], split="test")
    (other,) = work.clips([1.2], first=9, split="train")
    assert work.run(rows, [other]) == 0
    assert {name: len(split) for name, split in work.store().splits.items()} == {
        "train": 2,
        "val": 1,
    }


def test_repeats_are_encoded_once_and_flagged(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = work.clips([1.0])
    other = {**row, "text": "Other words."}
    assert work.run([row, other, row, {**row, "speaker": 2}], [row]) == 0
    assert encoder.num_encoded == 1
    split = work.store().splits["train"]
    assert [split.clip(i).flags for i in range(4)] == [0, 0, DUPLICATE, 0]
    assert len(set(split.ids)) == 1
    assert work.report()["splits"]["train"]["duplicates"] == 1
    out = capsys.readouterr().out
    assert "1 clips repeat an earlier one" in out
    assert "1 validation clips are training clips, too" in out


# The output


def test_two_runs_never_share_output(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([1.0])
    with (work.folder / ".tokens.hdf5.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert work.run(rows, rows) == 2
        assert "another pretokenize.py is writing it" in capsys.readouterr().err
    assert work.run(rows, rows) == 0


def test_other_files_are_not_overwritten(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
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
        file["train/sums"][0, 0] ^= 1
    assert work.run(rows, rows) == 2
    assert "bytes have changed" in capsys.readouterr().err, "damaged arrays are not used again"


def test_output_of_other_family_is_kept(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    import h5py

    rows = work.clips([1.0])
    assert work.run(rows, rows) == 0
    with h5py.File(work.output, "r+") as file:
        file.attrs["family"] = "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "verify", lambda path: [])
        assert work.run(rows, rows) == 2
    assert "pretokenised for the family toy, not for fake" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("num_clips", "flags", "num_held"),
    [(20, (), 4), (60, (), 8), (20, ("--val_fraction", "0.05"), 1)],
)
def test_small_data_holds_out_more(
    work: Work, encoder: FakeEncoder, num_clips: int, flags: tuple[str, ...], num_held: int
) -> None:
    assert work.run(work.clips([0.5] * num_clips), None, *flags) == 0
    assert len(work.store().splits["val"]) == num_held


def test_rows_without_speaker_are_reported(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
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


# Both sides of stereo files


def test_both_sides_are_encoded_and_mono_rejected(work: Work, encoder: FakeEncoder) -> None:
    encoder.channels = "both"
    path = write_wave(work.folder / "call.wav", 1.0, channels=2)
    stereo = {"path": "call.wav", "text": "Two voices."}
    (mono,) = work.clips([1.0])
    assert work.run([stereo, mono], [stereo], "--max_rejected", "50%") == 0
    (rejected,) = work.rejected()
    assert rejected["reason"] == (
        "0.wav has 1 channel; the family fake needs both sides of a stereo file"
    )
    wave = audio.load(path, sample_rate_hz=16000, channel="both")
    (expected,) = FakeEncoder().encode_audio([wave])
    np.testing.assert_array_equal(work.store().splits["train"].array("sums", 0), expected["sums"])
    name = f"{audio.digest(path)} 0-16000 both fake-1"
    assert work.store().splits["train"].ids == [
        hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    ]


def test_channel_conflicts_with_both_sides(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder.channels = "both"
    rows = work.clips([1.0])
    assert work.run(rows, rows, "--channel", "left") == 2
    assert "channel left: the family fake needs both sides" in capsys.readouterr().err


# Options


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--val_fraction", "1"), "val_fraction 1 is not below 1"),
        (("--max_rejected", "many"), "write 5% or 0.05"),
        (("--max_rejected", "120%"), "not between 0 and 100%"),
        (("--num_workers", "0"), "num_workers 0 is not above 0"),
        (("--trian_data", "x"), "did you mean"),
        (("--device", "cuda"), "sees no GPU"),
        (("--channel", "middle"), "middle"),
    ],
)
def test_mistakes_are_reported_without_traceback(
    work: Work,
    encoder: FakeEncoder,
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


def test_shares_are_percent_or_fraction() -> None:
    shares = {
        text: PretokenizeConfig(train_data="x", max_rejected=text).max_rejected_share
        for text in ("5%", "0.05", "0", "100%", "12.5 %")
    }
    assert shares == {"5%": 0.05, "0.05": 0.05, "0": 0.0, "100%": 1.0, "12.5 %": 0.125}


def test_report_describes_token_file(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([1.0, 2.0, 3.0])
    assert work.run(rows, rows[:1]) == 0
    report = work.report()
    assert report["splits"]["train"]["seconds"] == pytest.approx(6.0)
    assert report["splits"]["val"]["speakers"] == {"999": 1}
    assert (report["encoded_now"], report["rejected"], report["family"]) == (3, 0, "fake")
    assert report["times_real_time"] > 0
    out = capsys.readouterr().out
    assert "3 clips encoded now" in out
    assert "times real time" in out
    assert [line.split()[:3] for line in out.splitlines() if "##" in line] == [
        ["1-2", "s", "2"],
        ["2-4", "s", "2"],
    ]


# What is a mistake of the user, and what is a bug


def test_full_disk_is_reported_without_traceback(
    work: Work,
    encoder: FakeEncoder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = work.clips([1.0])

    def full_disk(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "fsync", full_disk)
    assert work.run(rows, rows) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "the same command continues" in error


def test_bug_keeps_its_traceback(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0])

    def fail(number: int) -> None:
        raise ValueError("a bug")

    encoder.on_batch = fail
    with pytest.raises(ValueError, match="a bug"):
        work.run(rows, rows)


HEAVY = ("torch", "transformers", "h5py", "pyarrow", "pandas", "soundfile", "soxr", "safetensors")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, pretokenize\n"
        "try: pretokenize.main(['--help'])\n"
        f"finally: print('heavy:', [m for m in {HEAVY} if m in sys.modules])"
    )
    root = Path(pretokenize.__file__).parent
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "--train_data" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"

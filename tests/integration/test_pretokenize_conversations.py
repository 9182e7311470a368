"""Conversations and folders from the user's data to the token file, and back out of old files."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import pretokenize
from csm_ft.data import __main__ as data_main
from csm_ft.data.split import DUPLICATE, Split
from csm_ft.families.stores import verify
from tests.helpers.pretokenizing import FakeEncoder, Json, Work, use_fake_family, write_wave


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    fake = FakeEncoder()
    use_fake_family(fake, monkeypatch.setattr)
    return fake


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def places(split: Split) -> list[tuple[str, str, int]]:
    """Text, conversation and turn of each clip."""
    clips = [split.clip(i) for i in range(len(split))]
    assert [clip.conversation for clip in clips] == [
        split.conversation(i) for i in range(len(split))
    ]
    assert [clip.turn for clip in clips] == split.turns.tolist()
    return [
        (clip.text.removesuffix(".").split()[-1], clip.conversation, clip.turn) for clip in clips
    ]


def test_turns_reach_the_token_file(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([1.0] * 9)
    rows[4]["end"] = 0.2  # too short: found when the sound file is looked at
    silent = {
        "path": "silent.wav",
        "text": "Nothing at all.",
    }  # found when it is encoded
    import soundfile

    soundfile.write(work.folder / "silent.wav", np.zeros(16000), 16000)
    train: list[Json] = [
        *({**row, "conversation": 1, "turn": -turn} for turn, row in enumerate(rows[:3])),
        {"speaker": "Ann", "turns": [rows[3], rows[4], rows[5]]},
        {"conversation": "b", "turns": [rows[6], silent, {"text": "No path."}, rows[7]]},
        rows[8],
    ]
    val = work.clips([0.7], first=20, conversation=3.0)
    assert work.run(train, val, "--max_rejected", "50%") == 0
    store = work.store()
    assert places(store.splits["train"]) == [
        *(("0", "1", 2), ("1", "1", 1), ("2", "1", 0)),
        *(("3", "row 4", 0), ("5", "row 4", 2)),
        *(("6", "b", 0), ("7", "b", 3)),
        ("8", "", 0),
    ]
    assert store.splits["train"].clip(3).speaker == "Ann"
    assert store.splits["train"].has_conversations
    assert places(store.splits["val"]) == [("20", "3", 0)]
    assert [r["where"].split("json ")[1] for r in work.rejected()] == [
        "row 5 turn 3",
        "row 4 turn 2",
        "row 5 turn 2",
    ]
    facts = work.report()["splits"]["train"]
    assert (facts["conversations"], facts["conversations_with_holes"]) == (3, 2)
    assert facts["turns_per_conversation"] == {"min": 2, "median": 2, "max": 3}
    told = "3 conversations of 2-3 turns (median 2); 2 were cut at rejected turns"
    assert told in capsys.readouterr().out
    assert data_main.main([str(work.output)]) == 0
    assert told in capsys.readouterr().out


def test_fingerprint_covers_turns(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0, 1.1])

    def fingerprint(*places: Json) -> str:
        assert (
            work.run([{**row, **place} for row, place in zip(rows, places, strict=True)], rows[:1])
            == 0
        )
        return work.store().info.content_fingerprint

    plain = fingerprint({}, {})
    found = [
        fingerprint({"conversation": "a"}, {"conversation": "a"}),
        fingerprint({"conversation": "b"}, {"conversation": "b"}),
        fingerprint({"conversation": "a", "turn": 2}, {"conversation": "a", "turn": 1}),
        fingerprint({"conversation": "a"}, {}),
        fingerprint({}, {"conversation": "a"}),
    ]
    assert len({plain, *found}) == 6
    assert encoder.num_encoded == 2, "who answers whom has nothing to do with the audio"


def test_repeat_in_other_conversation_is_no_duplicate(work: Work, encoder: FakeEncoder) -> None:
    (row,) = work.clips([1.0])
    talks = [None, "a", "b", "a", None]
    assert work.run([{**row, "conversation": talk} for talk in talks], [row]) == 0
    split = work.store().splits["train"]
    assert [split.clip(i).flags for i in range(5)] == [0, 0, 0, DUPLICATE, DUPLICATE]


def test_held_out_conversations_are_whole(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([0.5] * 12)
    assert (
        work.run(
            [{**row, "conversation": i % 4} for i, row in enumerate(rows)],
            None,
            "--val_fraction",
            "0.3",
        )
        == 0
    )
    assert "held out 3 of 12 clips, 3 of 12 files, 1 of 4 conversations" in capsys.readouterr().out
    (held,) = {conversation for _, conversation, _ in places(work.store().splits["val"])}
    assert held not in {conversation for _, conversation, _ in places(work.store().splits["train"])}
    assert work.run([{"turns": rows}], None) == 2
    assert "hang together" in capsys.readouterr().err


def test_two_turns_in_one_place_are_reported(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0, 1.1, 1.2])
    assert work.run([{"turns": rows}], rows[:1]) == 0
    with h5py.File(work.output, "r+") as file:
        turns = file["train/turn"]
        assert isinstance(turns, h5py.Dataset)
        turns[2] = 0
    problems = verify(work.output)
    assert (
        problems[0]
        == "train: 1 clips with the place of an earlier clip in its conversation: 2; pretokenise"
        " again"
    )
    assert "bytes have changed" in problems[1]
    assert data_main.main([str(work.output)]) == 1


# Folders


def folder_of_wavs(folder: Path, seconds: list[float]) -> Path:
    for i, sec in enumerate(seconds):
        write_wave(folder / f"{i}.wav", sec, seed=i)
        (folder / f"{i}.txt").write_text(f"This is sentence {i}.\n")
    return folder


def test_folder_of_wavs_is_pretokenized(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    train, val = (
        folder_of_wavs(work.folder / "train", [1.0, 1.1]),
        folder_of_wavs(work.folder / "val", [0.9]),
    )
    argv = [*work.command(), "--train_data", str(train), "--val_data", str(val)]
    assert pretokenize.main(argv) == 0
    out = capsys.readouterr().out
    assert f"{train} is a folder without metadata: its sound files are the clips" in out
    assert [places(work.store().splits[name]) for name in ("train", "val")] == [
        [("0", "", 0), ("1", "", 0)],
        [("0", "", 0)],
    ]
    (train / "1.txt").unlink()
    assert pretokenize.main(argv) == 1
    assert "1 of 3 rows (33.3%) are rejected" in capsys.readouterr().err
    assert pretokenize.main([*argv, "--max_rejected", "40%"]) == 0
    assert (
        f"rejected {train / '1.wav'}: no transcript; write what is said into 1.txt beside it"
        in capsys.readouterr().out
    )
    assert work.report()["rejected_by_reason"] == {"no transcript": 1}
    assert encoder.num_encoded == 3


def test_output_may_lie_in_data_folder(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of_wavs(work.folder / "voice", [1.0] * 4)
    (folder / "4.wav").write_text("no sound")
    (folder / "4.txt").write_text("Nothing.")
    work.output = folder / "tokens.hdf5"
    argv = [*work.command(), "--train_data", str(folder)]
    for _ in range(2):
        assert pretokenize.main([*argv, "--max_rejected", "50%"]) == 0
    assert encoder.num_encoded == 4
    (folder / "metadata.csv").write_text("path,text\n0.wav,Zero.\n1.wav,One.\n")
    assert pretokenize.main(argv) == 0
    assert f"{folder} is a folder: its metadata is metadata.csv" in capsys.readouterr().out
    (folder / "more.jsonl").write_text("{}")
    assert pretokenize.main(argv) == 2
    assert (
        "2 metadata files, metadata.csv, more.jsonl; name the one to read"
        in capsys.readouterr().err
    )
    shutil.rmtree(folder)
    folder.mkdir()
    assert pretokenize.main(argv) == 2
    assert "neither a metadata file" in capsys.readouterr().err

"""python -m csm_ft.datasets merge: several sets as one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from csm_ft.data.rows import Row
from csm_ft.datasets.__main__ import main
from csm_ft.datasets.metadata import read_metadata

Json = dict[str, Any]
EMOTIONS = ("neutral", "happy", "sad")


def save(path: Path, seed: int, seconds: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * 8000))
    soundfile.write(path, noise, 8000)


def write(path: Path, rows: list[Json]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def acted(
    folder: Path, *, source: str = "acted", first_seed: int = 0, num_speakers: int = 6
) -> Path:
    """Write a set of actors who say two sentences in three emotions, neutral twice as often."""
    rows = []
    for actor in range(num_speakers):
        for number, emotion in enumerate((*EMOTIONS, "neutral")):
            path = f"Actor {actor}/{number}.wav"
            save(folder / path, first_seed + 10 * actor + number)
            text = "Kids are talking." if number % 2 else "Dogs are sitting."
            rows.append(
                {"path": path, "text": text, "speaker": actor, "emotion": emotion, "source": source}
            )
    return write(folder / f"{source}.jsonl", rows)


def plain(folder: Path, *, name: str = "plain", num_rows: int = 6) -> Path:
    """Write a set that names neither speaker nor source."""
    for number in range(num_rows):
        save(folder / f"{number}.wav", 1000 + number, seconds=0.2)
    rows = [{"path": f"{n}.wav", "text": f"Sentence {n}.", "mood": "calm"} for n in range(num_rows)]
    return write(folder / f"{name}.jsonl", rows)


def run(*argv: object) -> int:
    return main(["merge", *map(str, argv), "--num_workers", "2"])


def merged(output: Path) -> list[Row]:
    return read_metadata(output, keep=None)[0]


def rejected(output: Path) -> list[Json]:
    path = Path(f"{output}.rejected.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(output: Path) -> Json:
    return json.loads(Path(f"{output}.report.json").read_text())


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return acted(folder / "a b"), plain(folder / "b")


@pytest.mark.parametrize("place", [".", "deep/er", "../beside"])
def test_paths_stay_right_wherever_the_result_lies(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    output = Path(place) / "all.jsonl"
    assert run(*sets, "--output", output) == 0
    rows = merged(output)
    assert [row.path for row in rows] == [row.path for one in sets for row in read_metadata(one)[0]]
    assert all(row.path.is_file() for row in rows)


def test_paths_below_the_result_are_relative(tmp_path: Path) -> None:
    one = acted(tmp_path / "a")
    assert run(one, "--output", tmp_path / "all.jsonl") == 0
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name} moved"))
    assert all(row.path.is_file() for row in merged(moved / "all.jsonl"))


def test_speakers_and_columns_are_kept_apart(sets: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "all.jsonl"
    assert run(*sets, "--output", output) == 0
    rows = merged(output)
    assert {row.speaker for row in rows} == {"plain", *(f"acted-{n}" for n in range(6))}
    assert Counter(row.tags["source"] for row in rows) == {"acted": 24, "plain": 6}
    assert {row.tags.get("mood") for row in rows[24:]} == {"calm"}


def test_merging_twice_doubles_no_name(sets: tuple[Path, Path], tmp_path: Path) -> None:
    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    other = acted(tmp_path / "c", source="more", first_seed=500, num_speakers=2)
    assert run(*sets, "--output", once, "--balance", "source") == 0
    assert run(once, other, "--output", twice) == 0
    speakers = {row.speaker for row in merged(once)}
    assert {row.speaker for row in merged(twice)} == speakers | {"more-0", "more-1"}


def test_files_of_one_name_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = plain(tmp_path / "x"), acted(tmp_path / "y", source="plain")
    rows = [json.loads(line) for line in other.read_text().splitlines()]
    write(other, [{k: v for k, v in row.items() if k != "source"} for row in rows])
    output = tmp_path / "all.jsonl"
    assert run(one, other, "--output", output) == 0
    assert {row.tags["source"] for row in merged(output)} == {"x-plain", "y-plain"}
    third = plain(tmp_path / "z/x")
    assert run(one, third, "--output", output) == 2
    assert "rename the files" in capsys.readouterr().err


def test_conversations_of_sets_stay_apart(tmp_path: Path) -> None:
    for name in "ab":
        turns = [
            {"path": f"{n}.wav", "text": f"Turn {n}", "conversation": 1, "turn": n}
            for n in range(3)
        ]
        del turns[1]["text"]
        for n in range(3):
            save(tmp_path / name / f"{n}.wav", ord(name) + n * 7)
        write(tmp_path / name / f"{name}.jsonl", turns)
    output = tmp_path / "all.jsonl"
    assert run(tmp_path / "a/a.jsonl", tmp_path / "b/b.jsonl", "--output", output) == 0
    rows, holes = read_metadata(output)
    assert [(row.conversation, row.turn) for row in rows] == [
        ("a-1", 0), ("a-1", 2), ("b-1", 0), ("b-1", 2)
    ]  # fmt: skip
    assert len(holes) == len(rejected(output)) == 2


def test_duplicates_are_found_across_sets(sets: tuple[Path, Path], tmp_path: Path) -> None:
    first = read_metadata(sets[0])[0][0]
    twin = tmp_path / "t/twin.flac"
    twin.parent.mkdir()
    soundfile.write(twin, soundfile.read(first.path)[0], 8000)
    rows = [
        {"path": "twin.flac", "text": first.text, "emotion": "angry"},
        {"path": str(first.path), "text": first.text},
    ]
    output = tmp_path / "all.jsonl"
    assert run(*sets, write(tmp_path / "t/t.jsonl", rows), "--output", output) == 0
    assert len(merged(output)) == 30
    conflict, copy = rejected(output)
    assert "emotion 'angry' against 'neutral'" in conflict["reason"]
    assert "acted.jsonl row 1" in copy["reason"]
    assert report(output)["left_out"]["with the sound of another row and other labels"] == 1


def test_balance_makes_emotions_alike(sets: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "all.jsonl"
    assert run(sets[0], "--output", output, "--balance", "emotion", "--val_fraction", "0.3") == 0
    rows = merged(output)
    train = [row for row in rows if row.split == "train"]
    total = {e: sum(row.weight for row in train if row.tags["emotion"] == e) for e in EMOTIONS}
    assert list(total.values()) == pytest.approx([len(train) / 3] * 3, rel=1e-4)
    assert {row.weight for row in rows if row.split == "val"} == {1.0}
    assert report(output)["by_emotion"]["neutral"]["drawn"] == pytest.approx(1 / 3, rel=1e-4)
    assert report(output)["by_emotion"]["neutral"]["share"] == pytest.approx(1 / 2)


def test_balance_by_hours_counts_seconds(sets: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "all.jsonl"
    assert run(*sets, "--output", output, "--balance", "hours", "--val_fraction", "0") == 0
    weights = {row.tags["source"]: row.weight for row in merged(output)}
    # 24 clips of 0.1 s and 6 of 0.2 s.
    assert weights["acted"] * 2.4 == pytest.approx(weights["plain"] * 1.2, rel=1e-4)


def test_weights_stay_without_a_balance(tmp_path: Path) -> None:
    save(tmp_path / "a/a.wav", 1)
    path = write(tmp_path / "a/a.jsonl", [{"path": "a.wav", "text": "A.", "weight": 2.5}])
    assert run(path, "--output", tmp_path / "all.jsonl") == 0
    assert [row.weight for row in merged(tmp_path / "all.jsonl")] == [2.5]


def test_cap_leaves_rows_out_with_a_reason(sets: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "all.jsonl"
    capped = ("--output", output, "--cap_hours", 1.05 / 3600, "--val_fraction", 0.2)
    assert run(*sets, *capped) == 0
    train = [row for row in merged(output) if row.is_training]
    assert Counter(row.tags["source"] for row in train) == {"acted": 10, "plain": 5}
    assert "acted has more training than --cap_hours" in rejected(output)[0]["reason"]
    again = tmp_path / "again.jsonl"
    assert run(*sets, "--output", again, *capped[2:]) == 0
    assert [row.path for row in merged(again)] == [row.path for row in merged(output)]


def test_official_splits_are_kept(sets: tuple[Path, Path], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in sets[1].read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {
            "path": str(sets[1].parent / row["path"]),
            "split": ("train", "dev", "test")[number % 3],
        }
    official = write(tmp_path / "o/official.jsonl", rows)
    output = tmp_path / "all.jsonl"
    assert run(official, sets[0], "--output", output) == 0
    found = merged(output)
    assert [row.split for row in found[:6]] == ["train", "val", "test"] * 2
    assert Counter(row.split for row in found[6:]) == {"train": 20, "val": 4}
    assert run(official, sets[0], "--output", output, "--split_by", "sentence") == 0
    assert [row.split for row in merged(output)[:6]] != ["train", "val", "test"] * 2


def test_what_stands_on_both_sides_is_told(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all.jsonl"
    assert run(sets[0], "--output", output) == 0
    out = capsys.readouterr().out
    assert "0 of 1 speakers that are held out stand in training" in out
    assert "2 of 2 sentences that are held out stand in training, too: dogs are sitting" in out
    assert report(output)["sentences_on_both_sides"] == ["dogs are sitting", "kids are talking"]


def test_rare_group_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(40):
        save(tmp_path / f"a/{n}.wav", n)
    rows = [
        {"path": f"{n}.wav", "text": "A.", "emotion": "awe" if n == 0 else "calm"}
        for n in range(40)
    ]
    path = write(tmp_path / "a/a.jsonl", rows)
    assert run(path, "--output", tmp_path / "all.jsonl", "--balance", "emotion") == 0
    assert "emotion awe has few clips: each is drawn 20 times" in capsys.readouterr().out


def test_options_may_come_from_a_file(sets: tuple[Path, Path], tmp_path: Path) -> None:
    output, config = tmp_path / "all.jsonl", tmp_path / "merge.yaml"
    values = {"paths": [str(path) for path in sets], "output": str(output), "seed": 3}
    config.write_text(json.dumps(values))  # JSON is YAML
    assert run("--config", config) == 0
    from_file = output.read_text()
    assert run("--output", output, "--seed", 3, *sets) == 0
    assert output.read_text() == from_file


def test_a_test_set_alone_cannot_be_balanced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a/a.wav", 1)
    rows = [{"path": "a.wav", "text": "A.", "emotion": "sad", "split": "test"}]
    path = write(tmp_path / "a/a.jsonl", rows)
    assert run(path, "--output", tmp_path / "all.jsonl", "--balance", "emotion") == 2
    assert "no row is for training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cap_hours", "0.00003"], "no clip or conversation of plain is so short"),
        (["--balance", "mood"], "20 training rows have no mood, the first is"),
        (["--split_by", "speaker"], "plain: its 6 rows cannot be split by speaker"),
        (["--temperature", "0.5"], "0.5 is below 1"),
        (["--val_fraction", "0.5", "--test_fraction", "0.5"], "leave nothing to train on"),
        (["--split_by", "actor"], "split_by"),
    ],
)
def test_mistakes_write_nothing(
    sets: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    output = tmp_path / "all.jsonl"
    assert run(*sets, "--output", output, *argv) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_sets_that_cannot_be_merged(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all.jsonl"
    lost = write(tmp_path / "lost.jsonl", [{"path": "none.wav", "text": "A."}])
    for argv, message in (
        (["--output", output], "nothing to merge"),
        ([sets[0]], "name a file .jsonl"),
        ([sets[0], sets[0], "--output", output], "named twice"),
        ([sets[0], "--output", sets[0]], "name another place"),
        ([lost, "--output", output], "lost: none of its sounds can be read, of 1; the first: "),
        ([tmp_path / "none.jsonl", "--output", output], "no such file"),
    ):
        assert run(*argv) == 2
        assert message in capsys.readouterr().err
    assert not output.exists()


def test_unusable_rows_are_left_out_with_a_reason(sets: tuple[Path, Path], tmp_path: Path) -> None:
    save(tmp_path / "x/c.wav", 77)
    rows = [{"path": name, "text": "A."} for name in ("none.wav", "c.wav")]
    rows.append({"path": "b.wav", "text": ""})
    rows.append({"path": str(sets[1].parent / "0.wav"), "text": "A.", "start": 9})
    output = tmp_path / "all.jsonl"
    assert run(*sets, write(tmp_path / "x/x.jsonl", rows), "--output", output) == 0
    reasons = {one["path"]: one["reason"] for one in rejected(output)}
    assert len(merged(output)) == 31
    assert "no such file" in reasons[str(tmp_path / "x/none.wav")]
    assert "text is missing" in reasons["b.wav"]
    assert (
        "start_sec 9.0 is past the end of 0.wav (0.200 s)" in reasons[str(sets[1].parent / "0.wav")]
    )


def test_emotions_are_merged_in_all_sets(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all.jsonl"
    assert run(*sets, "--output", output, "--map", "sad=gloomy", "--split_by", "none") == 0
    emotions = Counter(row.tags.get("emotion", "") for row in merged(output))
    assert emotions == {"neutral": 12, "happy": 6, "gloomy": 6, "": 6}
    assert run(*sets, "--output", output, "--map", "calm=neutral") == 2
    assert "--map calm=neutral: no row has it" in capsys.readouterr().err

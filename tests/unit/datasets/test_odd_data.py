"""Data that are wrong though well-formed, or unusual: read right, refused or told, never silently."""

import json
import unicodedata
from pathlib import Path

import pytest

from csm_ft.config.pretokenize import FIELDS
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.tables import ALIASES, Columns
from csm_ft.errors import MetadataError
from tests.helpers.metadata import make, read

HEADER = "client_id\tpath\tsentence\tup_votes\n"


# Names and columns


def test_names_are_found_in_other_spellings(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Zoë/café.WAV")
    make(tmp_path, decomposed)
    rows = "".join(
        f'{{"path": "{path}", "text": "{unicodedata.normalize("NFD", "Café é")}"}}\n'
        for path in ("Zoë/café.WAV", "Zoë/café.wav", "Zoë\\\\café.wav", "Zoë/other.wav")
    )
    make(tmp_path, **{"t.jsonl": rows})
    found, rejections, _ = read(tmp_path / "t.jsonl")
    assert rejections == []
    assert [row.path.is_file() for row in found] == [True, True, True, False]
    assert {row.text for row in found} == {unicodedata.normalize("NFC", "Café é")}
    assert found[3].path == tmp_path / "Zoë/other.wav", "as it is spelled where there is none"


def test_columns_can_be_named(tmp_path: Path) -> None:
    make(tmp_path, **{"t.csv": "wav,Normalised Text,text,speakr\na.wav,Two.,2.,anna\n"})
    columns = Columns({"path": "wav", "text": "normalised text", "speaker": "speakr"})
    (row,), rejections = read_metadata(tmp_path / "t.csv", columns=columns)
    assert (row.path.name, row.text, row.speaker, rejections) == ("a.wav", "Two.", "anna", [])
    with pytest.raises(MetadataError, match="has no column 'words'"):
        read_metadata(tmp_path / "t.csv", columns=Columns({"path": "wav", "text": "words"}))
    with pytest.raises(MetadataError, match="--columns path=NAME"):
        read(tmp_path / "t.csv")


def test_unused_columns_are_told_once(tmp_path: Path) -> None:
    make(tmp_path, **{"t.csv": "path,text,mood,speakr\na.wav,A.,sad,anna\nb.wav,B.,sad,ben\n"})
    _, _, told = read(tmp_path / "t.csv")
    assert told.count("mood") == 1
    assert "--columns speaker=speakr" in told


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("left", "R"), ["left", "right"]),
        ((0, 1), ["left", "right"]),
        ((1, 2), ["left", "right"]),
        (("mix", ""), ["mix", ""]),
        ((1, 1), []),
        (("third", "left"), ["left"]),
    ],
)
def test_channel_of_a_row(tmp_path: Path, given: tuple[object, ...], expected: list[str]) -> None:
    rows = [{"path": "a.wav", "text": "A.", "channel": one} for one in given]
    make(tmp_path, **{"t.json": json.dumps(rows)})
    found, rejections, _ = read(tmp_path / "t.json")
    assert [row.channel for row in found] == expected
    assert all("channel" in one.reason and "left" in one.reason for one in rejections)
    assert len(found) + len(rejections) == len(given)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("t.xlsx", "libreoffice --headless --convert-to csv t.xlsx"),
        ("my data.zip", "unzip 'my data.zip'"),
        ("t.tar.gz", "tar -xf t.tar.gz"),
        ("t.TextGrid", "export its intervals"),
        ("t.m4a", "ffmpeg -i t.m4a t.wav"),
        ("t.pkl", "may run code"),
        ("t.what", "convert or rename the file"),
    ],
)
def test_what_is_not_read_is_named_with_what_helps(tmp_path: Path, name: str, way_out: str) -> None:
    make(tmp_path, name)
    with pytest.raises(MetadataError) as error:
        read(tmp_path / name)
    assert way_out in str(error.value)


def test_labels_beside_a_sound_are_named(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "a.TextGrid", "b.wav", **{"b.txt": "B."})
    _, (one,), _ = read(tmp_path)
    assert "a.TextGrid is not read: export its intervals" in one.reason


# What a careless reader would take without a word


@pytest.mark.parametrize("kind", ["list", "libri", "vctk", "common voice", "kaldi", "folder"])
def test_relative_paths_are_those_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "data"
    match kind:
        case "list":
            make(folder, "wavs/a.wav", **{"metadata.csv": "a|A.\n"})
        case "libri":
            make(folder, "1/2/1-2-0000.flac", **{"1/2/1-2.trans.txt": "1-2-0000 A\n"})
        case "vctk":
            make(folder, "wav48/p1/p1_001.wav", **{"txt/p1/p1_001.txt": "A."})
        case "common voice":
            table = HEADER + "c\ta.mp3\tA.\t0\n"
            make(folder, "clips/a.mp3", **{"train.tsv": table})
        case "kaldi":
            make(folder, "a.wav", **{"wav.scp": "u a.wav\n", "text": "u A\n"})
        case _:
            make(folder, "sub/a.wav", **{"sub/a.txt": "A."})
    monkeypatch.chdir(tmp_path)
    (row,), rejections, _ = read(Path("data"))
    assert rejections == []
    assert row.path.is_file()
    monkeypatch.chdir(folder)
    (row,), _, _ = read(Path())
    assert row.path.is_file()


def test_conversations_of_two_parts_stay_apart(tmp_path: Path) -> None:
    turns = json.dumps({"path": "a.wav", "turns": [{"text": "A."}, {"text": "B."}]})
    for name in ("train-00000-of-00002", "train-00001-of-00002", "val-00000-of-00001"):
        make(tmp_path, **{f"{name}.jsonl": f"{turns}\n"})
    rows, rejections, _ = read(tmp_path)
    assert rejections == []
    assert len({row.conversation for row in rows}) == 3
    assert [row.turn for row in rows] == [0, 1] * 3


def test_unknown_words_are_splits_of_their_own(tmp_path: Path) -> None:
    rows = [{"path": "a.wav", "text": "A.", "split": one} for one in ("Train", "hold-out", "dev")]
    make(tmp_path, **{"t.json": json.dumps(rows)})
    found, _, _ = read(tmp_path / "t.json")
    assert [row.split for row in found] == ["train", "hold-out", "val"]


@pytest.mark.parametrize("has_table", [True, False])
def test_folders_in_paths_are_splits(tmp_path: Path, has_table: bool) -> None:
    """As data sets of the hub have them, with one metadata.csv or none."""
    names = ("audio/train/a.wav", "audio/train/b.wav", "audio/Test/c.wav")
    make(tmp_path, *names)
    if has_table:
        rows = "".join(f"{name},Said.\n" for name in names)
        make(tmp_path, **{"metadata.csv": f"file_name,transcription\n{rows}"})
    else:
        make(tmp_path, **{name.replace("wav", "txt"): "Said." for name in names})
    found, _, told = read(tmp_path)
    assert sorted(row.split for row in found) == ["test", "train", "train"]
    assert "the folders in its paths are its splits: test, train" in told


@pytest.mark.parametrize("folders", [("train", "train"), ("train", "more"), ("test", "val")])
def test_other_folders_are_no_splits(tmp_path: Path, folders: tuple[str, str]) -> None:
    rows = [{"path": f"{folder}/a.wav", "text": "A."} for folder in folders]
    make(tmp_path, **{"t.json": json.dumps(rows)})
    assert {row.split for row in read(tmp_path / "t.json")[0]} == {""}


def test_what_splits_leave_out_is_told(tmp_path: Path) -> None:
    for folder in ("train", "test", "more"):
        make(tmp_path / folder, "a.wav", **{"a.txt": "A."})
    rows, _, told = read(tmp_path)
    assert {row.split for row in rows} == {"train", "test"}
    assert "left out: more" in told
    found, _ = read_metadata(tmp_path, splits=("train", "val"))
    assert [row.split for row in found] == ["train"]


def test_other_tables_beside_clips_are_no_common_voice(tmp_path: Path) -> None:
    make(tmp_path, "clips/a.wav", **{"meta.tsv": "path\ttext\tspeaker\nclips/a.wav\tA.\tanna\n"})
    (row,), rejections, _ = read(tmp_path)
    assert (row.path, row.speaker, rejections) == (tmp_path / "clips/a.wav", "anna", [])


@pytest.mark.parametrize(
    ("command", "channel"),
    [
        ("flac -c -d -s a.wav |", ""),
        ("sph2pipe -f wav -p -c 2 a.wav |", "right"),
        ("sox a.wav -t wav - remix 1 |", "left"),
        ("ffmpeg -i a.wav -f wav -ar 16000 - |", ""),
        ("cat a.wav |", ""),
        ("sox a.wav -t wav - remix 1 2 |", None),
        ("sox a.wav -t wav - speed 1.1 |", None),
        ("sph2pipe -t 1:2 a.wav |", None),
        ("ffmpeg -i a.wav -t 5 -f wav - |", None),
        ("cat a.wav | sox - b.wav |", None),
        ("rm a.wav |", None),
    ],
)
def test_commands_of_kaldi_that_change_the_sound_are_refused(
    tmp_path: Path, command: str, channel: str | None
) -> None:
    make(tmp_path, "a.wav", **{"wav.scp": f"u {command}\n", "text": "u A\n"})
    rows, rejections, _ = read(tmp_path)
    assert [row.channel for row in rows] == ([] if channel is None else [channel])
    assert ["is not run" in one.reason for one in rejections] == ([True] if channel is None else [])
    assert (tmp_path / "a.wav").exists()


def test_channels_of_kaldis_segments_are_read(tmp_path: Path) -> None:
    segments = "u1 r 0 1 0\nu2 r 0 1 1\nu3 r 0 1 x\n"
    files = {"wav.scp": "r a.wav\n", "segments": segments, "text": "u1 A\nu2 B\nu3 C\n"}
    make(tmp_path, "a.wav", **files)
    rows, rejections, _ = read(tmp_path)
    assert [row.channel for row in rows] == ["left", "right"]
    assert ["is no channel" in one.reason for one in rejections] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "0 46797 Printing, in",
        "0.5\t1.5\tHello",
        "[00:00.000 --> 00:02.000] Hi",
        "1\n00:01 --> 00:02\nHi",
    ],
)
def test_texts_with_times_are_refused(tmp_path: Path, text: str) -> None:
    make(tmp_path, "a.wav", "b.wav", **{"a.txt": text, "b.txt": "2 apples and 3 pears."})
    (row,), (one,), _ = read(tmp_path)
    assert row.text == "2 apples and 3 pears."
    assert "has times in it" in one.reason or "captions cannot be read" in one.reason


def test_captions_that_cannot_be_read_are_no_text(tmp_path: Path) -> None:
    good = "1\n00:00:01,000 --> 00:00:02,000\nHi\n\n"
    make(tmp_path, "a.wav", "b.wav", **{"a.srt": good + "2\n0:2,000 --> 0:4,000\nx\n"})
    make(tmp_path, **{"b.wav.srt": good + "2\n00:00:04,000 --> 00:00:03,000\nback\n"})
    rows, rejections, _ = read(tmp_path)
    assert [(row.path.name, row.text) for row in rows] == [("b.wav", "Hi")]
    reasons = "\n".join(one.reason for one in rejections)
    assert "1 of 2 captions cannot be read" in reasons
    assert "end_sec 3.0 is not after start_sec 4.0" in reasons


def test_copies_in_other_formats_are_read_once(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "a.flac", "b.flac", **{"a.txt": "A.", "b.txt": "B."})
    rows, rejections, told = read(tmp_path)
    assert [row.path.name for row in rows] == ["a.wav", "b.flac"]
    assert rejections == []
    assert "1 sounds are there in another format, too, and not read again: a.flac" in told


def test_other_sounds_of_a_corpus_are_told(tmp_path: Path) -> None:
    make(tmp_path, "1/2/1-2-0000.flac", "mine/x.wav", **{"1/2/1-2.trans.txt": "1-2-0000 A\n"})
    rows, _, told = read(tmp_path)
    assert len(rows) == 1
    assert "1 other sound files" in told
    assert "mine/x.wav" in told


def test_lists_with_a_header_of_ids_or_a_stray_bar(tmp_path: Path) -> None:
    make(tmp_path, "wavs/a.wav", **{"metadata.csv": "id|text|speaker\na|A.|anna\n"})
    (row,), _, told = read(tmp_path)
    assert (row.text, row.speaker, row.path) == ("A.", "anna", tmp_path / "wavs/a.wav")
    assert "it gives path, text, speaker" in told or "speaker" in told
    lines = "".join(f"a|Text {number}.\n" for number in range(9))
    make(tmp_path, **{"metadata.csv": f"{lines}a|For|although\n"})
    rows, (one,), _ = read(tmp_path)
    assert len(rows) == 9
    assert "has 3 fields between bars" in one.reason
    make(tmp_path, **{"metadata.csv": "a|One.|train\nwavs\\a.wav|Two.|val\n"})
    rows, _, _ = read(tmp_path)
    assert [(row.text, row.split, row.path.is_file()) for row in rows] == [
        ("One.", "train", True),
        ("Two.", "val", True),
    ]


def test_a_torn_line_keeps_its_place_where_rows_name_splits(tmp_path: Path) -> None:
    turn = '{"path": "a.wav", "text": "A.", "conversation": "c", "split": "train"}'
    make(tmp_path, **{"t.jsonl": f"{turn}\n{{torn\n{turn}\n"})
    rows, _, _ = read(tmp_path / "t.jsonl")
    assert [row.turn for row in rows] == [0, 2]


def test_options_and_tables_know_the_same_fields() -> None:
    assert set(FIELDS) == set(ALIASES)

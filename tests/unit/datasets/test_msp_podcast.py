"""Miniatures of MSP-Podcast, in both formats of its list of labels."""

import json
from pathlib import Path

import pytest

from csm_ft.errors import MetadataError
from tests.helpers.metadata import put, read, sound

COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
LABELS = (
    ("MSP-PODCAST_0001_0008.wav", "A", "4", "3", "4", "127", "Male", "Train"),
    ("MSP-PODCAST_0001_0019.wav", "X", "4", "3", "4", "Unknown", "Unknown", "Development"),
    ("MSP-PODCAST_0002_0033.wav", "C", "4", "3", "4", "9", "Female", "Test1"),
    ("MSP-PODCAST_0003_0001.wav", "N", "4", "3", "4", "9", "Female", "Test2"),
    ("MSP-PODCAST_0004_0001.wav", "N", "4", "3", "4", "9", "Female", "Train"),
)


def write_csv(folder: Path, labels: tuple[tuple[str, ...], ...] = LABELS) -> None:
    lines = [",".join(row) for row in (COLUMNS, *labels)]
    put(folder / "Labels/labels_consensus.csv", "\n".join(lines).encode())


def write_json(folder: Path) -> None:
    facts = {row[0]: dict(zip(COLUMNS[1:], row[1:], strict=True)) for row in LABELS}
    put(folder / "Labels/labels_concensus.json", json.dumps(facts).encode())


@pytest.fixture
def podcast(tmp_path: Path) -> Path:
    folder = tmp_path / "MSP-Podcast"
    for place, row in enumerate(LABELS[:4]):
        sound(folder / "Audios" / row[0], hz=200 + 10 * place)
    for row in LABELS[:3]:
        put(folder / "Transcripts" / f"{Path(row[0]).stem}.txt", b"So  what\nhappened?\n")
    put(folder / "Partitions.txt", b"Train; MSP-PODCAST_0001_0008.wav\n")
    return folder


@pytest.mark.parametrize("write", [write_csv, write_json])
def test_labels_speakers_and_splits(podcast: Path, write: object) -> None:
    assert callable(write)
    write(podcast)
    rows, rejections, told = read(podcast)
    assert [(row.text, row.speaker, row.split) for row in rows] == [
        ("So what happened?", "127", "train"),
        ("So what happened?", None, "val"),
        ("So what happened?", "9", "test"),
    ]
    assert [row.tags.get("emotion") for row in rows] == ["angry", None, "contempt"]
    assert [row.tags.get("gender") for row in rows] == ["male", None, "female"]
    assert {row.tags["source"] for row in rows} == {"msp-podcast"}
    assert ["put Transcripts/ below" in one.reason for one in rejections] == [True]
    assert "is MSP-Podcast" in told
    assert "1 clips with labels have no sound: MSP-PODCAST_0004_0001" in told
    assert "1 clips without emotion" in told


def test_sounds_without_a_label(podcast: Path) -> None:
    write_csv(podcast, LABELS[1:])
    _, rejections, _ = read(podcast)
    assert "the list of labels has no line for it" in rejections[0].reason


def test_unknown_label_is_named(podcast: Path) -> None:
    write_csv(podcast, (("MSP-PODCAST_0001_0008.wav", "Q", *LABELS[0][2:]), *LABELS[1:]))
    _, rejections, _ = read(podcast)
    assert "is none of A S H U F D C N O X" in rejections[0].reason


def test_another_list_is_refused(podcast: Path) -> None:
    put(podcast / "Labels/labels_consensus.csv", b"FileName,EmoClass\na.wav,A\n")
    with pytest.raises(MetadataError, match=r"row 1: has no SpkrID, Gender, Split_Set"):
        read(podcast)

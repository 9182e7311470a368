"""Acted speech as it lies on disks: what is read of it, and what is rejected, each for a reason."""

import json
from collections import Counter
from pathlib import Path

import pytest

from csm_ft.datasets.__main__ import main
from csm_ft.errors import MetadataError
from tests.helpers.acted_sets import write_cremad, write_esd, write_ravdess
from tests.helpers.metadata import put, read, sound


@pytest.fixture
def ravdess(tmp_path: Path) -> Path:
    return write_ravdess(tmp_path)


@pytest.fixture
def cremad(tmp_path: Path) -> Path:
    return write_cremad(tmp_path)


@pytest.fixture
def esd(tmp_path: Path) -> Path:
    return write_esd(tmp_path)


def reasons(path: Path) -> dict[str, str]:
    _, rejections, _ = read(path)
    return {Path(one.path or one.where).name: one.reason for one in rejections}


def test_ravdess_names_say_everything(ravdess: Path) -> None:
    rows, _, told = read(ravdess)
    (neutral, fearful) = sorted(rows, key=lambda row: row.tags["emotion"] == "fearful")
    assert fearful.text == "Dogs are sitting by the door"
    assert fearful.speaker == "01"
    assert fearful.tags == {
        **{"emotion": "fearful", "intensity": "strong", "gender": "male"},
        **{"language": "en", "source": "ravdess"},
    }
    assert "intensity" not in neutral.tags
    assert neutral.tags["gender"] == "female"
    assert "2 of 24 actors" in told
    assert "01 (1 of 60)" in told


def test_ravdess_leaves_out_what_is_told(ravdess: Path) -> None:
    _, _, told = read(ravdess)
    for part in ("2 videos", "1 songs", "1 copies", "2 hidden files"):
        assert part in told, told
    assert "1 other sound files" in told
    assert list(reasons(ravdess)) == ["03-01-06-02-02-01-25.wav"]


def test_same_names_with_other_sound_are_rejected(ravdess: Path) -> None:
    sound(ravdess / "other/Actor_01/03-01-06-02-02-01-01.wav", hz=500)
    assert "keep the right one" in reasons(ravdess)["03-01-06-02-02-01-01.wav"]


def test_cremad_rows(cremad: Path) -> None:
    rows, _, told = read(cremad)
    assert {row.path.name: (row.text, row.tags["emotion"]) for row in rows} == {
        "1001_IEO_ANG_HI.wav": ("It's eleven o'clock", "angry"),
        "1002_DFA_FEA_XX.wav": ("Don't forget a jacket", "fearful"),
        "1040_ITH_SAD_X.wav": ("I think I have a doctor's appointment", "sad"),
    }
    assert [row.tags.get("intensity") for row in rows] == ["high", None, None]
    assert [row.tags.get("gender") for row in rows] == ["male", "female", None]
    for part in ("1 videos", "1 sounds in another format", "1006_TIE_NEU_XX", "1 clips with as"):
        assert part in told, told


def test_unusable_clips_have_their_own_reasons(cremad: Path) -> None:
    found = reasons(cremad)
    assert {name: part in found[name] for name, part in EXPECTED.items()} == dict.fromkeys(
        EXPECTED, True
    ), found
    assert found.keys() == EXPECTED.keys()


EXPECTED = {
    "1003_TSI_HAP_XX.wav": "git lfs pull",
    "1076_MTI_SAD_XX.wav": "is silent",
    "1064_IEO_DIS_MD.wav": "runs 61.0 s",
    "1064_TIE_SAD_XX.wav": "cut off",
    "1001_ABC_ANG_XX.wav": "none of CREMA-D",
}


def test_esd_texts_in_every_encoding(esd: Path) -> None:
    rows, _, told = read(esd)
    assert {row.path.stem: (row.text, row.tags["emotion"], row.split) for row in rows} == {
        "0001_000051": ("我们今天去学校。", "neutral", "train"),
        "0001_000351": ("打远一看，它们的确很是美丽。", "angry", "val"),
        "0011_000001": ("The nine the eggs, I keep.", "neutral", "val"),
        "0011_000371": ("It’s not a café.", "angry", "test"),
        "0012_001051": ("Sixteen bits.", "sad", "val"),
        "0013_001051": ("No mark.", "sad", "val"),
    }
    assert Counter(row.tags["language"] for row in rows) == {"zh": 2, "en": 4}
    assert "ESD 0011: 1 sentences have other words" in told
    assert "4 of 20 speakers" in told


def test_esd_rejects_what_is_not_listed(esd: Path) -> None:
    found = reasons(esd)
    assert "0011.txt has no line" in found.pop("0011_000999.wav")
    assert "0002.txt: makes no text in Chinese" in found.pop("0002_001051.wav")
    assert "is not `0011_000001" in found.pop("0011.txt line 4")
    assert not found


def test_two_sets_in_one_folder_are_refused(ravdess: Path, cremad: Path) -> None:
    with pytest.raises(MetadataError, match=r"CREMA-D and RAVDESS.*csm_ft\.datasets cremad"):
        read(ravdess.parent)


def test_prepared_sounds_have_their_json(tmp_path: Path) -> None:
    facts = {"text": "Go.", "emotion": "fear", "style": "acted", "intensity": "strong"}
    for actor in (1, 2):
        name = f"ravdess/wavs/03-01-06-02-02-01-0{actor}"
        sound(tmp_path / f"{name}.wav")
        told = {**facts, "actor_id": f"0{actor}", "gender": "male", "segments": []}
        put(tmp_path / f"{name}.json", json.dumps(told).encode())
    line = {"path": "wavs/03-01-06-02-02-01-01.wav", "duration": 1.0, "emotion": "fear"}
    for name in ("train.jsonl", "val.jsonl"):
        put(tmp_path / name, json.dumps({**line, "style": "acted"}).encode())
    sound(tmp_path / "ravdess/wavs/other.wav")
    rows, rejections, told = read(tmp_path)
    assert [(row.text, row.speaker, row.split) for row in rows] == [
        ("Go.", "01", ""),
        ("Go.", "02", ""),
    ]
    assert rows[0].tags["emotion"] == "fearful"
    assert ["no other.json" in one.reason for one in rejections] == [True]
    assert "2 manifests are not read" in told


def test_ljspeech_is_told_by_its_names(tmp_path: Path) -> None:
    sound(tmp_path / "wavs/LJ001-0001.wav")
    put(tmp_path / "metadata.csv", b'LJ001-0001|He said "1.|He said "one.\n')
    (row,), rejections, told = read(tmp_path)
    assert (row.text, row.speaker, rejections) == ('He said "one.', "LJ", [])
    assert row.tags == {"gender": "female", "language": "en", "source": "ljspeech"}
    assert "is LJSpeech" in told or "LJSpeech" in told


def convert(*argv: str | Path) -> list[dict[str, str]]:
    assert main([*map(str, argv)]) == 0
    lines = Path(argv[-1]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_listeners_votes_and_ties(cremad: Path, tmp_path: Path) -> None:
    output = tmp_path / "out/rows.jsonl"
    rows = convert("cremad", cremad, "--label", "voice", "--output", output)
    assert [(row["emotion"], row["emotion_acted"]) for row in rows] == [
        ("angry", "angry"),
        ("neutral", "sad"),
    ]
    rejected = Path(f"{output}.rejected.jsonl").read_text(encoding="utf-8")
    assert "listeners heard fearful and sad alike" in rejected


def test_labels_are_merged_and_counted(
    ravdess: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["ravdess", ravdess, "--map", "fearful=neutral", "--output", tmp_path / "out/r.jsonl"]
    rows = convert(*argv)
    assert {row["emotion"] for row in rows} == {"neutral"}
    assert "emotion: neutral 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--map", "calm=neutral"], "no row has it; the emotions are"),
        (["--map", "calm"], "write OLD=NEW"),
        (["--label", "voice"], "no row has votes"),
    ],
)
def test_bad_labels_name_the_way_out(
    ravdess: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    output = str(ravdess.parent / "x.jsonl")
    assert main(["ravdess", str(ravdess), *options, "--output", output]) == 2
    assert message in capsys.readouterr().err


def test_another_set_is_named(ravdess: Path) -> None:
    from csm_ft.datasets.metadata import read_metadata

    with pytest.raises(MetadataError, match="it looks like RAVDESS"):
        read_metadata(ravdess, corpus="esd")

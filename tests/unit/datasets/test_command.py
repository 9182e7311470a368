"""python -m csm_ft.datasets: a corpus to metadata that say the same."""

import json
from pathlib import Path

import pytest

from csm_ft.datasets.__main__ import main
from csm_ft.datasets.corpora import CORPORA
from csm_ft.datasets.metadata import read_metadata


def kaldi(folder: Path) -> Path:
    files = {
        "a.wav": "sound",
        "wav.scp": "rec a.wav\n",
        "segments": "u1 rec 0 1.5\nu2 rec 2 3\nu3 rec 4 5\n",
        "text": "u1 Grüße\nu2 Two\n",
        "utt2spk": "u1 anna\nu2 ben\n",
    }
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("corpus", ["auto", "kaldi"])
@pytest.mark.parametrize("place", [".", "elsewhere"])
def test_rows_say_the_same_as_the_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], corpus: str, place: str
) -> None:
    folder, output = kaldi(tmp_path / "train"), tmp_path / place / "rows.jsonl"
    assert main([corpus, str(folder), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "2 rows (2 no split), 2 speakers" in out
    assert "1 that cannot be used" in out
    wanted, _ = read_metadata(folder)
    rows, rejections = read_metadata(output)
    assert rejections == []
    assert [row.path.resolve() for row in rows] == [row.path.resolve() for row in wanted]
    assert [(r.text, r.speaker, r.start_sec, r.end_sec) for r in rows] == [
        ("Grüße", "anna", 0.0, 1.5),
        ("Two", "ben", 2.0, 3.0),
    ]
    path = json.loads(output.read_text(encoding="utf-8").split("\n")[0])["path"]
    assert path == ("train/a.wav" if place == "." else str(folder / "a.wav"))


def test_mistakes_name_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(kaldi(tmp_path / "train"))
    for argv, message in (
        (
            ["vctk", folder, "--output", "a.jsonl"],
            "it looks like a Kaldi data directory: python -m csm_ft.datasets kaldi ",
        ),
        (["nothing", folder, "--output", "a.jsonl"], f"one of auto, {', '.join(CORPORA)}"),
        (["auto", folder, "--output", "a.csv"], "name a file .jsonl"),
        (["auto", "--output", "a.jsonl"], "CORPUS FOLDER"),
    ):
        assert main(argv) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl").exists()


def test_nothing_that_is_read_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"path": "a.wav", "text": "A."}\n')
    before = own.read_text()
    for path, output in ((own, own), (tmp_path, tmp_path / "rows.jsonl")):
        assert main(["auto", str(path), "--output", str(output)]) == 2
        assert "name another place" in capsys.readouterr().err
    assert own.read_text() == before


def test_a_rejected_turn_stays_a_gap(tmp_path: Path) -> None:
    turns = [{"text": "One."}, {"text": ""}, {"text": "Three."}]
    rows = [{"path": "a.wav", "conversation": "c", **turn} for turn in turns]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/rows.json").write_text(json.dumps(rows))
    output = tmp_path / "out.jsonl"
    assert main(["auto", str(tmp_path / "in"), "--output", str(output)]) == 0
    found, rejections = read_metadata(output)
    assert [(row.text, row.turn) for row in found] == [("One.", 0), ("Three.", 2)]
    assert len(rejections) == 1

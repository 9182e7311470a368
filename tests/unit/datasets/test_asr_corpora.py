"""Miniatures of corpora of speech recognition, with the oddities that are known of them."""

import json
from pathlib import Path

import pytest

from csm_ft.data.rows import Row
from csm_ft.datasets.__main__ import main
from csm_ft.errors import MetadataError
from tests.helpers.metadata import make, read


def said(rows: list[Row]) -> list[tuple[str, str, str | None, str]]:
    return [(row.path.name, row.text, row.speaker, row.split) for row in rows]


def rejected_spans(path: Path) -> list[tuple[float | None, float | None]]:
    return [(one.start_sec, one.end_sec) for one in read(path)[1]]


def reasons(path: Path) -> list[str]:
    return [one.reason for one in read(path)[1]]


@pytest.fixture
def mls(tmp_path: Path) -> Path:
    folder = tmp_path / "mls_german_opus"
    make(
        folder,
        "train/audio/10/200/10_200_000000.opus",
        "train/audio/10/200/10_200_000001.flac",
        "train/audio/10/200/10_200_000007.flac",
        "dev/audio/11/201/11_201_000000.flac",
        **{
            "train/transcripts.txt": "10_200_000000\tguten tag\n10_200_000001 ohne tab\n"
            "10_200_000003\tkein ton\n",
            "train/segments.txt": "10_200_000000\thttp://x\t1.0\t12.0\n",
            "dev/transcripts.txt": "11_201_000000\tja\r\n",
            "metainfo.txt": "SPEAKER | GENDER | PARTITION\n10  |  M  |  train\n11|F|dev\n",
        },
    )
    return folder


def test_mls(mls: Path) -> None:
    rows, rejections, told = read(mls)
    assert said(rows) == [
        ("11_201_000000.flac", "ja", "11", "val"),
        ("10_200_000000.opus", "guten tag", "10", "train"),
        ("10_200_000003.flac", "kein ton", "10", "train"),
    ]
    assert rows[1].tags == {"gender": "male", "language": "de", "source": "mls"}
    found = [one.reason for one in rejections]
    assert "is no reader_book_number, tab and text" in found[0]
    assert sum("has no line for it" in one for one in found) == 2
    assert "is Multilingual LibriSpeech" in told
    alone, _, _ = read(mls / "dev")
    assert said(alone) == [("11_201_000000.flac", "ja", "11", "val")]


def gigaspeech(folder: Path) -> Path:
    def segment(sid: int, text: str, **more: object) -> dict[str, object]:
        return {"sid": f"S{sid}", "begin_time": sid, "end_time": sid + 0.5, "text_tn": text, **more}

    spoken = [
        segment(1, "WELL <COMMA> YES <QUESTIONMARK>", subsets=["{XL}", "{L}"]),
        segment(2, "<MUSIC>"),
        segment(3, "BACKWARDS", end_time=2.0),
        {"sid": "S4"},
        segment(5, "AFTER IT"),
    ]
    held_out = [segment(1, "I SEE <PERIOD>", subsets=["{DEV}"])]
    audios = [
        {"aid": "POD1", "path": "audio/podcast/P0000/POD1.opus", "segments": spoken},
        {"aid": "YOU2", "path": "audio/youtube/P0001/YOU2.opus", "segments": held_out},
        {"aid": "AUD3", "path": "audio/audiobook/P0002/AUD3.opus", "segments": held_out},
    ]
    make(
        folder,
        "audio/podcast/P0000/POD1.opus",
        "audio/youtube/P0001/YOU2.wav",  # converted
        **{"GigaSpeech.json": json.dumps({"dataset": "GigaSpeech", "audios": audios})},
    )
    return folder


def test_gigaspeech(tmp_path: Path) -> None:
    folder = gigaspeech(tmp_path / "GigaSpeech")
    rows, _, told = read(folder)
    assert said(rows) == [
        ("POD1.opus", "WELL, YES?", None, "train"),
        ("POD1.opus", "AFTER IT", None, "train"),
        ("YOU2.wav", "I SEE.", None, "val"),
    ]
    assert (rows[0].start_sec, rows[0].end_sec) == (1.0, 1.5)
    found = reasons(folder)
    for reason, words in zip(found, ("'<MUSIC>'", "not after", "lacks 'text_tn'"), strict=True):
        assert words in reason, found
    assert rejected_spans(folder)[0] == (2.0, 2.5)
    assert "1 recordings of its lists have no sound: AUD3" in told
    (folder / "GigaSpeech.json").write_text('{"audios"')
    with pytest.raises(MetadataError, match="is not the list of GigaSpeech"):
        read(folder)


STM = """\
;; a comment
Talk_1 1 Talk_1 0.0 2.5 <o,f0,male> i 'm here {NOISE} and the(2) cat 's fine
Talk_1 1 Talk_1 2.5 4.0 <o,f0,male> ignore_time_segment_in_scoring
Talk_1 1 Talk_1 4.0 5.0 <o,f0,male> so <unk> said
Talk_1 1 Talk_1 5.0 6.0 <o,f0,male> {BREATH}
Talk_1 1 Talk_1 7.0 6.0 <o,f0,male> backwards
torn
"""


def test_tedlium(tmp_path: Path) -> None:
    folder = tmp_path / "TEDLIUM_release-3"
    make(
        folder,
        "legacy/train/sph/Talk_1.sph",
        "legacy/dev/sph/Talk_2.sph",
        **{
            "legacy/train/stm/Talk_1.stm": STM,
            "data/stm/Talk_1.stm": STM,
            "legacy/dev/stm/Talk_2.stm": "Talk_2 1 unknown 0 1.5 <NA,f0,female> we 'll see\n",
            "legacy/test/stm/Talk_3.stm": "Talk_3 1 Talk_3 0 1 <o,f0,male> gone\n",
        },
    )
    rows, _, told = read(folder)
    assert said(rows) == [
        ("Talk_2.sph", "we'll see", "Talk_2", "val"),
        ("Talk_1.sph", "i'm here and the cat's fine", "Talk_1", "train"),
    ]
    assert [row.tags["gender"] for row in rows] == ["female", "male"]
    assert (rows[1].start_sec, rows[1].end_sec) == (0.0, 2.5)
    expected = ("not transcribed", "nobody wrote down", "no speech", "not after", "no line of STM")
    assert [words in one for words, one in zip(expected, reasons(folder), strict=True)] == [
        True
    ] * 5
    assert rejected_spans(folder)[:3] == [(2.5, 4.0), (4.0, 5.0), (5.0, 6.0)]
    assert "1 lists of talks that are there twice" in told
    assert "1 recordings of its lists have no sound: Talk_3" in told


def ami(folder: Path) -> Path:
    nite = 'xmlns:nite="http://nite.sourceforge.net/"'
    head = '<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>\n'

    def word(number: int, text: str, more: str = "") -> str:
        return f'<w nite:id="ES2011a.A.words{number}" starttime="1" endtime="2"{more}>{text}</w>'

    words = word(0, "Hello") + word(1, ",", ' punc="true"') + word(2, "caf\u00e9")
    words += '<vocalsound nite:id="ES2011a.A.words3" type="laugh"/>' + word(4, "it&#39;s")
    words += word(5, "?", ' punc="true"')

    def segment(number: int, href: str, start: float = 1.0) -> str:
        ids = "..".join(f"id(ES2011a.A.words{one})" for one in href.split("-"))
        return (
            f'<segment nite:id="seg{number}" transcriber_start="{start}" transcriber_end="2.5">'
            f'<nite:child href="ES2011a.A.words.xml#{ids}"/></segment>'
        )

    segments = segment(0, "0-5") + segment(1, "4") + segment(2, "3") + segment(3, "4-99")
    segments += segment(4, "0", start=3.0)
    files = {
        "words/ES2011a.A.words.xml": f"{head}<nite:root {nite}>{words}</nite:root>",
        "segments/ES2011a.A.segments.xml": f"{head}<nite:root {nite}>{segments}</nite:root>",
        "segments/ES2011a.B.segments.xml": f"{head}<nite:root {nite}></nite:root>",
        "segments/ES2011a.C.segments.xml": f"{head}<nite:root {nite}><torn",
        "segments/IB4005.D.segments.xml": f"{head}<nite:root {nite}/>",
        "words/ES2011a.C.words.xml": f"{head}<nite:root {nite}/>",
        "corpusResources/meetings.xml": f'{head}<nite:root {nite}><meeting observation="ES2011a">'
        '<speaker nxt_agent="A" channel="0" global_name="FEE041"/>'
        '<speaker nxt_agent="B" channel="1" global_name="MEE042"/>'
        '<speaker nxt_agent="C" channel="2" global_name="MEE043"/></meeting></nite:root>',
    }
    audio = "amicorpus/ES2011a/audio/ES2011a"
    make(folder, f"{audio}.Headset-0.wav", f"{audio}.Headset-2.wav", f"{audio}.Mix-Headset.wav")
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("iso-8859-1"))
    return folder


def test_ami(tmp_path: Path) -> None:
    folder = ami(tmp_path / "ami")
    rows, _, told = read(folder)
    assert said(rows) == [
        ("ES2011a.Headset-0.wav", "Hello, caf\u00e9 it's?", "FEE041", "val"),
        ("ES2011a.Headset-0.wav", "it's", "FEE041", "val"),
    ]
    assert rows[0].tags == {"gender": "female", "language": "en", "source": "ami"}
    assert (rows[0].start_sec, rows[0].end_sec) == (1.0, 2.5)
    assert (1.0, 2.5) in rejected_spans(folder)
    found = reasons(folder)
    expected = ("no words", "names the word", "not after", "as XML", "names nobody")
    assert [any(words in one for one in found) for words in expected] == [True] * 5, found
    assert "1 recordings of its lists have no sound: ES2011a.Headset-1" in told
    (folder / "corpusResources/meetings.xml").unlink()
    with pytest.raises(MetadataError, match=r"without corpusResources/meetings\.xml"):
        read(folder)


def recording(names: list[str], labels: list[str]) -> str:
    clips = {"duration_ms": [1000] * len(names), "label": labels, "name": names}
    return json.dumps({"identifier": "talk", "training_data": clips}) + "\n"


def test_peoples_speech(tmp_path: Path) -> None:
    make(
        tmp_path,
        "train/clean/a/one.flac",
        "train/clean/a/two.flac",
        "validation/validation/b.flac",
        **{
            "train/clean.json": recording(
                ["a/one.flac", "a/two.flac"], ["yes sir", "\u00e9t\u00e9"]
            )
            + recording(["a/x.flac"], [])
            + "{torn\n",
            "validation/validation.json": recording(["b.flac"], ["no"]),
            "train/other.json": "{}",
        },
    )
    rows, rejections, told = read(tmp_path)
    assert said(rows) == [
        ("one.flac", "yes sir", None, "train"),
        ("two.flac", "\u00e9t\u00e9", None, "train"),
        ("b.flac", "no", None, "val"),
    ]
    assert ["0 texts for 1" in rejections[0].reason, "fetch again" in rejections[1].reason] == [
        True
    ] * 2
    assert "read are train/clean.json, validation/validation.json" in told


def test_two_corpora_in_one_folder_are_refused(tmp_path: Path, mls: Path) -> None:
    gigaspeech(tmp_path / "GigaSpeech")
    with pytest.raises(MetadataError, match="holds Multilingual LibriSpeech and GigaSpeech"):
        read(tmp_path)
    rows, _, _ = read(mls)
    assert rows


def test_command_names_what_it_found(
    tmp_path: Path, mls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "rows.jsonl"
    assert main(["tedlium", str(mls), "--output", str(output)]) == 2
    assert "it looks like Multilingual LibriSpeech" in capsys.readouterr().err
    assert main(["mls", str(mls), "--output", str(output)]) == 0
    assert "2 speakers" in capsys.readouterr().out


def test_written_rows_keep_the_places_of_what_was_rejected(tmp_path: Path) -> None:
    folder, output = tmp_path / "TEDLIUM_release-3", tmp_path / "rows.jsonl"
    make(folder, "data/sph/Talk_1.sph", **{"data/stm/Talk_1.stm": STM})
    spans = [span for span in rejected_spans(folder) if span[0] is not None]
    assert len(spans) >= 3
    assert main(["tedlium", str(folder), "--output", str(output)]) == 0
    assert rejected_spans(output) == spans
    assert [row.text for row in read(output)[0]] == [row.text for row in read(folder)[0]]

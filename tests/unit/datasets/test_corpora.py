"""Miniatures of corpora as they are downloaded: rows, speakers, splits, and what is left out."""

import json
from pathlib import Path

import pytest

from csm_ft.data.rows import Row
from csm_ft.errors import MetadataError
from tests.helpers.metadata import make, read


def said(rows: list[Row], folder: Path) -> dict[str, tuple[str, str | None, str]]:
    return {str(row.path.relative_to(folder)): (row.text, row.speaker, row.split) for row in rows}


def test_librispeech(tmp_path: Path) -> None:
    train, dev = "train-clean-100/84/121/84-121", "dev-clean/19/198/19-198"
    make(
        tmp_path,
        *(f"{train}-0000.flac", f"{train}-0001.flac", f"{train}-0003.flac", f"{dev}-0000.flac"),
        **{
            f"{train}.trans.txt": "84-121-0000 GO AND SEE\n84-121-0001 YES\n84-121-0002 NO FILE\n",
            f"{dev}.trans.txt": "19-198-0000 NORTHANGER ABBEY\n",
            "SPEAKERS.TXT": ";ID |SEX\n84 | F | dev | 8.0 | A|B\n",
        },
    )
    rows, rejections, told = read(tmp_path)
    assert said(rows, tmp_path) == {
        f"{dev}-0000.flac": ("NORTHANGER ABBEY", "19", "val"),
        f"{train}-0000.flac": ("GO AND SEE", "84", "train"),
        f"{train}-0001.flac": ("YES", "84", "train"),
        f"{train}-0002.flac": ("NO FILE", "84", "train"),
    }
    assert ["has no line for it" in one.reason for one in rejections] == [True]
    assert {row.tags.get("gender") for row in rows if row.speaker == "84"} == {"female"}
    assert {row.tags.get("gender") for row in rows if row.speaker == "19"} == {None}
    assert "is LibriSpeech" in told
    alone, _, _ = read(tmp_path / "dev-clean")
    assert [row.split for row in alone] == ["val"], "the name of the given folder counts"


def test_libritts(tmp_path: Path) -> None:
    one = "train-clean-100/84/121/84_121_000001_000000"
    make(
        tmp_path,
        f"{one}.wav",
        "train-clean-100/84/121/84_121_000001_000001.wav",
        **{
            f"{one}.normalized.txt": "Mister Smith.\n",
            f"{one}.original.txt": "Mr. Smith.\n",
            "train-clean-100/84/121/84_121.trans.tsv": "a\tb\tc\n",
            "speakers.tsv": "READER\tGENDER\n84\tF\n",
        },
    )
    rows, rejections, told = read(tmp_path)
    assert said(rows, tmp_path) == {f"{one}.wav": ("Mister Smith.", "84", "train")}
    assert ["no transcript" in one.reason for one in rejections] == [True]
    assert rows[0].tags == {"gender": "female", "language": "en", "source": "libritts"}
    assert "is LibriTTS" in told


PEOPLE = "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English    Southern  England\n"


@pytest.mark.parametrize("sounds", ["wav48_silence_trimmed", "wav48"])
def test_vctk(tmp_path: Path, sounds: str) -> None:
    mic = "_mic1.flac" if "trimmed" in sounds else ".wav"
    make(
        tmp_path / "VCTK",
        *(f"{sounds}/p225/p225_001{mic}", f"{sounds}/p315/p315_001{mic}"),
        **{"txt/p225/p225_001.txt": "Please call Stella.\n", "speaker-info.txt": PEOPLE},
    )
    if "trimmed" in sounds:
        make(tmp_path / "VCTK", f"{sounds}/p225/p225_001_mic2.flac")
    rows, rejections, told = read(tmp_path)
    folder = tmp_path / "VCTK"
    assert said(rows, folder) == {
        f"{sounds}/p225/p225_001{mic}": ("Please call Stella.", "p225", "")
    }
    assert rows[0].tags == {"gender": "female", "language": "en", "source": "vctk"}
    assert [Path(one.path).name for one in rejections] == [f"p315_001{mic}"]
    assert ("1 sounds of other microphones" in told) == ("trimmed" in sounds)


HEADER = "client_id\tpath\tsentence\tup_votes\n"


def test_common_voice(tmp_path: Path) -> None:
    language = tmp_path / "cv-corpus" / "de"
    client = "0123456789abcdef" * 8
    row = f'{client}\tcommon_voice_de_1.mp3\tEr sagte: "Halt\t2\n'
    make(
        language,
        "clips/common_voice_de_1.mp3",
        "clips/common_voice_de_2.mp3",
        **{
            "train.tsv": HEADER + row,
            "dev.tsv": HEADER + f"{client}\tcommon_voice_de_2\tNein.\t2\n",
            "test.tsv": HEADER + f"{client}\tcommon_voice_de_3.mp3\tJa.\t2\n",
            "other.tsv": HEADER,
            "validated.tsv": HEADER + row,
        },
    )
    for folder in (language, language.parent):
        rows, rejections, told = read(folder)
        assert rejections == []
        assert said(rows, language) == {
            "clips/common_voice_de_1.mp3": ('Er sagte: "Halt', client[:12], "train"),
            "clips/common_voice_de_2.mp3": ("Nein.", client[:12], "val"),
            "clips/common_voice_de_3.mp3": ("Ja.", client[:12], "test"),
        }
        assert "left out are other.tsv, validated.tsv" in told
    (row_of_file,), _, _ = read(language / "validated.tsv")
    assert row_of_file.path == language / "clips/common_voice_de_1.mp3"
    assert row_of_file.speaker == client[:12], "one importer, whatever is named"


def test_kaldi(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("audio/one.wav", "audio/two.sph", "audio/three.flac"),
        **{
            "data/train/wav.scp": (
                "rec1 audio/one.wav\n"
                f"rec2 sph2pipe -f wav -p -c 2 {tmp_path}/audio/two.sph |\n"
                "rec3 flac -c -d -s audio/three.flac |\n"
                "rec4 sox audio/one.wav -t wav - trim 0 3 |\n"
                "rec5 touch ran.wav |\n"
                "rec6 raw.ark:1234\n"
            ),
            "data/train/segments": "".join(f"u{n} rec{n} 0.5 1.5\n" for n in range(1, 8)),
            "data/train/text": "".join(f"u{n} SAID {n}\n" for n in (1, 2, 3, 4, 5, 6, 9)),
            "data/train/utt2spk": "u1 anna\nu2 ben\n",
        },
    )
    rows, rejections, told = read(tmp_path / "data/train")
    assert [(row.path.name, row.text, row.speaker, row.channel) for row in rows] == [
        ("one.wav", "SAID 1", "anna", ""),
        ("two.sph", "SAID 2", "ben", "right"),
        ("three.flac", "SAID 3", None, ""),
    ]
    assert all(row.path.is_file() for row in rows), "found from the folder of the recipe"
    assert {(row.start_sec, row.end_sec) for row in rows} == {(0.5, 1.5)}
    reasons = [one.reason for one in rejections]
    for part in ("sox", "touch", "is a part of a Kaldi archive", "segments has no line `u9", "u7"):
        assert any(part in f"{one.where} {one.reason}" for one in rejections), (part, reasons)
    assert not (tmp_path / "ran.wav").exists(), "no command is run"
    assert "a Kaldi data directory" in told


def test_kaldi_directories_are_splits(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        make(
            tmp_path / "data" / split,
            "a.wav",
            **{"wav.scp": "u1 a.wav\n", "text": f"u1 {split}\n"},
        )
    rows, _, told = read(tmp_path / "data")
    assert [(row.text, row.split, row.path.is_file()) for row in rows] == [
        ("dev", "val", True),
        ("train", "train", True),
    ]
    assert "dev is val, train is train" in told


def test_mailabs(tmp_path: Path) -> None:
    book = tmp_path / "de_DE/by_book/female/angela_merkel/merkel_reden"
    mixed = tmp_path / "de_DE/by_book/mix/kleine_lord"
    for folder in (book, mixed):
        make(
            folder,
            "wavs/a_f000001.wav",
            **{
                "metadata.csv": "a_f000001|1900 kam er.|Neunzehnhundert kam er.\n",
                "metadata_mls.json": json.dumps({"a_f000001.wav": {"clean": "x"}}),
            },
        )
    rows, rejections, _ = read(tmp_path)
    assert rejections == []
    assert [(row.text, row.speaker) for row in rows] == [
        ("Neunzehnhundert kam er.", "angela_merkel"),
        ("Neunzehnhundert kam er.", None),
    ]
    (row,), _, _ = read(book)
    assert (row.speaker, row.path) == ("angela_merkel", book / "wavs/a_f000001.wav")


def test_wav_lists_of_several_speakers(tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        make(tmp_path / name, "wavs/a.wav", **{"metadata.csv": f"a|I am {name}.\n"})
    rows, _, _ = read(tmp_path)
    assert [(row.text, row.speaker) for row in rows] == [
        ("I am anna.", "anna"),
        ("I am ben.", "ben"),
    ]


def test_piper_keeps_its_sounds_in_wav(tmp_path: Path) -> None:
    make(tmp_path, "wav/1.wav", **{"metadata.csv": "1|Hello.\n"})
    (row,), _, _ = read(tmp_path)
    assert (row.path, row.text) == (tmp_path / "wav/1.wav", "Hello.")


def test_audiofolder_with_splits(tmp_path: Path) -> None:
    for split, text in (("train", "A."), ("validation", "B."), ("test", "C.")):
        make(
            tmp_path / split,
            "a.wav",
            **{"metadata.csv": f"file_name,transcription\na.wav,{text}\n"},
        )
    rows, _, _ = read(tmp_path)
    assert {(row.text, row.split) for row in rows} == {
        ("A.", "train"),
        ("B.", "val"),
        ("C.", "test"),
    }
    assert {row.path.parent.name for row in rows} == {"train", "validation", "test"}


def test_tables_named_after_splits(tmp_path: Path) -> None:
    lists = {
        "metadata_train.csv": "audio_file|text|speaker_name\nwavs/a.wav|A.|anna\n",
        "metadata_eval.csv": "audio_file|text|speaker_name\nwavs/b.wav|B.|anna\n",
    }
    make(tmp_path, "wavs/a.wav", "wavs/b.wav", **lists)
    rows, _, _ = read(tmp_path)
    assert {(row.text, row.split) for row in rows} == {("A.", "train"), ("B.", "test")}
    make(tmp_path, **{"metadata_train_old.csv": lists["metadata_train.csv"]})
    with pytest.raises(MetadataError, match="3 metadata files"):
        read(tmp_path)


def test_the_only_folder_is_looked_into(tmp_path: Path) -> None:
    """As the hub's data sets and unpacked archives are."""
    table = "path,text\na.wav,A.\n"
    make(tmp_path, **{"README.md": "x", "data/train-00000-of-00001.csv": table})
    make(tmp_path, **{"data/test-00000-of-00001.csv": table})
    rows, _, _ = read(tmp_path)
    assert [(row.split, row.path) for row in rows] == [
        ("test", tmp_path / "data/a.wav"),
        ("train", tmp_path / "data/a.wav"),
    ]


@pytest.mark.parametrize(
    ("name", "captions"),
    [
        (
            "talk.srt",
            "1\r\n00:00:00,500 --> 00:00:01,500\r\n<i>Hello</i>\r\nyou.\r\n\r\n2\r\n00:00:02,000 -->"
            " 00:00:03,000\r\nBye.\r\n",
        ),
        (
            "talk.vtt",
            "WEBVTT\n\nNOTE another\nblock\n\n8f3c/13-0\n00:00.500 --> 00:01.500 align:start\nHello\n"
            "<00:00:00.700><c>you</c>.\n\nchapter two\n00:02.000 --> 00:03.000\n<v Anna>Bye.\n",
        ),
        (
            "talk.json",
            json.dumps(
                {
                    "text": "Hello you. Bye.",
                    "segments": [
                        {"id": 0, "start": 0.5, "end": 1.5, "text": " Hello you.", "tokens": [1]},
                        {"id": 1, "start": 2, "end": 3, "text": " Bye."},
                    ],
                }
            ),
        ),
    ],
)
def test_captions_beside_a_recording(tmp_path: Path, name: str, captions: str) -> None:
    make(tmp_path, "talk.wav", **{name: captions, "talk.txt": "Hello you. Bye."})
    rows, rejections, _ = read(tmp_path)
    assert rejections == []
    assert [(row.text, row.start_sec, row.end_sec) for row in rows] == [
        ("Hello you.", 0.5, 1.5),
        ("Bye.", 2.0, 3.0),
    ]
    assert rows[1].speaker == ("Anna" if name.endswith("vtt") else None)


def test_json_without_captions_leaves_the_text(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("a.wav", "b.wav", "c.wav"),
        **{
            "a.json": '{"alignments": []}',
            "a.txt": "A.",
            "b.json": '{"text": "B.", "speaker": "ben"}',
            "c.json": '{"alignments": []}',
        },
    )
    rows, rejections, _ = read(tmp_path)
    assert [(row.text, row.speaker) for row in rows] == [("A.", None), ("B.", "ben")]
    assert ["holds neither captions nor a text" in one.reason for one in rejections] == [True]

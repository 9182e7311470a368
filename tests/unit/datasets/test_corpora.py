"""Miniatures of corpora as they are downloaded: rows, speakers, splits, and what is left out."""

import json
import unicodedata
from pathlib import Path

import pytest

from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.tables import Columns
from csm_ft.errors import MetadataError


def make(folder: Path, *files: str, **texts: str) -> None:
    """Make sound files by their names, and text files with their contents."""
    for name in (*files, *texts):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts.get(name, "sound"), encoding="utf-8")


def read(path: Path) -> tuple[list[Row], list[Rejection], str]:
    told: list[str] = []
    rows, rejections = read_metadata(path, tell=told.append)
    return rows, rejections, "\n".join(told)


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
            "SPEAKERS.TXT": "84 | F | dev | 8.0 | A|B\n",
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
    assert "is LibriTTS" in told


@pytest.mark.parametrize("sounds", ["wav48_silence_trimmed", "wav48"])
def test_vctk(tmp_path: Path, sounds: str) -> None:
    mic = "_mic1.flac" if "trimmed" in sounds else ".wav"
    make(
        tmp_path / "VCTK",
        *(f"{sounds}/p225/p225_001{mic}", f"{sounds}/p315/p315_001{mic}"),
        **{"txt/p225/p225_001.txt": "Please call Stella.\n", "speaker-info.txt": "ID AGE\n"},
    )
    if "trimmed" in sounds:
        make(tmp_path / "VCTK", f"{sounds}/p225/p225_001_mic2.flac")
    rows, rejections, told = read(tmp_path)
    folder = tmp_path / "VCTK"
    assert said(rows, folder) == {
        f"{sounds}/p225/p225_001{mic}": ("Please call Stella.", "p225", "")
    }
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
    make(tmp_path, **{"t.csv": "path,text,emotion,speakr\na.wav,A.,sad,anna\nb.wav,B.,sad,ben\n"})
    _, _, told = read(tmp_path / "t.csv")
    assert told.count("emotion") == 1
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

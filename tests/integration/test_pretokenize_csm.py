"""pretokenize.py with CSM's own encoder: text, fitted codecs, and token files of old versions."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from csm_ft.codecs import melrvq
from csm_ft.data.split import Store
from csm_ft.data.token_file import open_store, write_store
from csm_ft.families import open_family
from csm_ft.families.csm import encoder as csm_encoder
from csm_ft.families.csm.encoder import open_tokenizer
from csm_ft.families.stores import verify
from tests.helpers.pretokenizing import Work

FIT = ("--fit_codec", "--num_codebooks", "2")


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work = Work(tmp_path)
    work.flags = ["--codec", "melrvq"]
    return work


def to_schema_1(path: Path) -> None:
    """Make a token file what the version before conversations wrote."""
    with h5py.File(path, "r+") as file:
        facts = json.loads(file.attrs["facts"])
        for name in ("arrays", "facts", "frame_sec", "audio_fingerprint", "text_fingerprint"):
            del file.attrs[name]
        for name, value in {**facts, "schema_version": 1}.items():
            file.attrs[name] = value
        for split in ("train", "val"):
            group = file[split]
            assert isinstance(group, h5py.Group)
            for name in ("conversation", "conversation_offsets", "turn"):
                del group[name]


def test_text_tokens_name_the_speaker(work: Work) -> None:
    rows = work.clips([1.0], speaker=5) + work.clips([1.0], first=1)
    assert work.run(rows, rows[:1]) == 0
    store, tokenizer = work.store(), open_tokenizer("auto", codec="melrvq")
    for row, speaker in enumerate(("5", "999")):
        expected = tokenizer.encode(f"[{speaker}]{rows[row]['text']}")
        np.testing.assert_array_equal(store.splits["train"].array("text_tokens", row), expected)
    assert store.info.text_fingerprint == tokenizer.fingerprint
    assert store.asset("tokenizer") == tokenizer.to_bytes()


def test_speaker_can_be_omitted_from_text(work: Work) -> None:
    rows = work.clips([1.0], speaker=5) + work.clips([1.0], first=1)
    assert work.run(rows, rows[:1], "--omit_speaker_id", "--default_speaker", "x") == 0
    store = work.store()
    assert store.info.facts["template"] == "{text}"
    split = store.splits["train"]
    expected = open_tokenizer("auto", codec="melrvq").encode(rows[0]["text"])
    np.testing.assert_array_equal(split.array("text_tokens", 0), expected)
    assert [split.clip(i).speaker for i in range(2)] == ["5", "x"]


def test_clip_longer_than_the_model_is_rejected(work: Work) -> None:
    rows = work.clips([1.0])
    assert work.run(rows, rows) == 0
    split = work.store().splits["train"]
    positions = int(split.lengths("text_tokens")[0] + split.lengths("codes")[0]) + 1
    assert work.run(rows, rows, "--max_positions", str(positions)) == 0
    assert work.run(rows, rows, "--max_positions", str(positions - 1)) == 1
    assert f"1 are more than --max_positions {positions - 1}" in work.rejected()[0]["reason"]


def test_report_counts_frames_and_tokens(work: Work) -> None:
    rows = work.clips([1.0, 2.0, 3.0])
    assert work.run(rows, rows[:1]) == 0
    report = work.report()
    assert report["splits"]["train"]["frames"] == 13 + 25 + 38
    assert report["splits"]["train"]["text_tokens"] > 0
    assert (report["codec"], report["num_codebooks"]) == ("melrvq", 8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--refit_codec",), "goes with --fit_codec"),
        (("--codec", "mimi", "--fit_codec"), "add --codec melrvq"),
        (("--fit_codec", "--codec_source", "x"), "give one of the two"),
        (("--codec", "vorbis"), "vorbis"),
    ],
)
def test_codec_options_must_fit(
    work: Work, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    rows = work.clips([1.0])
    assert work.run(rows, rows, *flags) == 2
    assert message in capsys.readouterr().err


# Fitted codecs


def test_fitted_codec_is_kept_until_refitted(work: Work) -> None:
    rows = work.clips([3.0] * 8)
    assert work.run(rows[:7], rows[7:], "--num_codebooks", "2") == 0
    embedded = work.store().info.audio_fingerprint
    assert work.run(rows[:7], rows[7:], *FIT) == 0
    fitted = work.store().info
    assert fitted.audio_fingerprint != embedded, "the embedded codec was not fitted for this file"
    assert (fitted.facts["codec_source"], fitted.facts["num_codebooks"]) == ("fitted", 2)
    more = rows[:7] + work.clips([3.0], first=8)
    assert work.run(more, rows[7:], *FIT) == 0
    assert work.store().info.audio_fingerprint == fitted.audio_fingerprint
    assert work.report()["encoded_now"] == 1, "new rows do not refit it"
    assert work.run(more, rows[7:], *FIT, "--refit_codec") == 0
    assert work.store().info.audio_fingerprint != fitted.audio_fingerprint
    assert work.report()["encoded_now"] == 9
    assert work.run(more, rows[7:], "--fit_codec", "--num_codebooks", "3") == 0
    assert work.store().info.facts["num_codebooks"] == 3


def test_fitted_codec_opens_from_token_file(work: Work) -> None:
    rows = work.clips([3.0] * 8)
    assert work.run(rows[:7], rows[7:], *FIT) == 0
    store = work.store()
    encoder = open_family("csm").open_encoder(store, "cpu")
    assert encoder.audio_fingerprint == store.info.audio_fingerprint


def test_codec_is_fitted_on_training_clips(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[int]] = []
    fit = melrvq.fit

    def fit_small(waves: Any, **more: Any) -> melrvq.MelRVQ:
        given.append([len(wave) for wave in waves])
        return fit(waves, vocab_size=32, **more)

    monkeypatch.setattr(csm_encoder, "_FIT_SEC", 20.0)
    monkeypatch.setattr(melrvq, "fit", fit_small)
    rows = work.clips([3.0] * 9)
    assert work.run(rows[:8], rows[8:], *FIT) == 0
    assert given == [[48000] * 7], "21 of 24 seconds, none of them held out"


def test_fitted_codec_survives_interruption(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = work.clips([3.0] * 8)
    encode, calls = melrvq.MelRVQ.encode, []

    def interrupted(self: melrvq.MelRVQ, waves: Any) -> Any:
        calls.append(self.to_bytes())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, waves)

    monkeypatch.setattr(melrvq.MelRVQ, "encode", interrupted)
    flags = (*FIT, "--batch_sec", "6", "--save_every", "2")
    assert work.run(rows[:7], rows[7:], *flags) == 130
    monkeypatch.setattr(melrvq, "fit", lambda *args, **more: pytest.fail("fitted again"))
    assert work.run(rows[:7], rows[7:], *flags) == 0
    assert work.store().asset("codec") == calls[0]


# Token files of old versions


def turns(store: Store) -> list[tuple[str, int]]:
    split = store.splits["train"]
    return [(split.conversation(i), int(split.turns[i])) for i in range(len(split))]


def test_schema_1_opens_with_same_content(work: Work) -> None:
    rows = work.clips([1.0, 1.1, 1.2])
    assert work.run(rows, rows[:1]) == 0
    new = work.store()
    to_schema_1(work.output)
    assert verify(work.output) == []
    for in_memory in (True, False):
        old = open_store(work.output, in_memory=in_memory)
        assert old.info.schema_version == 1
        assert old.info.content_fingerprint == new.info.content_fingerprint
        assert turns(old) == [("", 0)] * 3
        codes = [store.splits["train"].array("codes", 2) for store in (old, new)]
        np.testing.assert_array_equal(*codes)


def test_schema_1_is_used_as_cache(work: Work) -> None:
    rows = work.clips([1.0, 1.1, 1.2])
    assert work.run(rows, rows[:1]) == 0
    to_schema_1(work.output)
    assert work.run([{"turns": rows}], rows[:1]) == 0
    assert work.report()["encoded_now"] == 0
    assert work.store().info.schema_version == 3
    assert turns(work.store()) == [("row 1", i) for i in range(3)]
    again = work.folder / "again.hdf5"
    written = write_store(again, work.store().info, work.store().splits)
    assert written.content_fingerprint == work.store().info.content_fingerprint
    assert open_store(again).splits["train"].conversation(2) == "row 1"

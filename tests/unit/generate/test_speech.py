"""Which codec and tokenizer a model speaks with, wherever it lies."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from csm_ft.codecs import CodecError, guess
from csm_ft.config import ConfigError
from csm_ft.data.token_file import StoreError, open_store, write_store
from csm_ft.families.csm.config import CsmConfig, CsmSize
from csm_ft.generate.speech import Flags, open_speech
from csm_ft.runs.encoder_record import write_speech
from csm_ft.runs.folder import _environment
from csm_ft.runs.source import Origin, find
from tests.conftest import ROOT

BASE = ROOT / "demo/base"
SIZE = CsmSize.from_json(json.loads((BASE / "config.json").read_text()), "base")


@pytest.fixture
def run(tokens: Path, tmp_path: Path) -> Path:
    """Return the folder of a run, without weights.

    Whose token file lies in another folder above it.
    """
    shutil.copy(tokens, tmp_path / "tokens.hdf5")
    folder = tmp_path / "exp/run"
    (folder / "checkpoints/best").mkdir(parents=True)
    (folder / "config.yaml").write_text(CsmConfig(data="tokens.hdf5", gen_speaker="5").to_yaml())
    (folder / "env.json").write_text(json.dumps(_environment(open_store(tokens))))
    return folder


def test_weights_alone_speak_as_their_size_says() -> None:
    speech = open_speech(Origin(str(BASE)), SIZE, Flags(), "cpu")
    assert (speech.codec.name, speech.codec.num_codebooks, speech.tokenizer.vocab_size) == (
        "melrvq",
        8,
        512,
    )
    assert speech.found == "its size (8 codebooks)"
    assert speech.names_speakers
    assert speech.speakers == speech.foreign == ()


def test_sizes_of_the_published_codecs() -> None:
    assert (guess(32, 2051), guess(8, 256)) == ("mimi", "melrvq")
    with pytest.raises(CodecError, match="16 codebooks of 2051 ids"):
        guess(16, 2051)


def test_a_size_that_tells_nothing_names_the_flags() -> None:
    with pytest.raises(
        ConfigError,
        match=(
            r"base cannot be heard: 5 codebooks of 256 ids .*--data tokens.hdf5.*--codec"
            r" mimi\|melrvq"
        ),
    ):
        open_speech(Origin(str(BASE)), replace(SIZE, num_codebooks=5), Flags(), "cpu")


def test_a_run_speaks_with_its_token_file_wherever_one_stands(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for here in (run.parents[1], run, ROOT):
        monkeypatch.chdir(here)
        speech = open_speech(find(str(run)), SIZE, Flags(), "cpu")
        assert Path(speech.found).resolve() == run.parents[1] / "tokens.hdf5"
        assert speech.speakers == ("nora",)
        assert speech.foreign == ()


def test_a_run_whose_token_file_is_gone(run: Path, tokens: Path) -> None:
    (run.parents[1] / "tokens.hdf5").unlink()
    with pytest.raises(
        ConfigError,
        match=r"token file cannot be read .*--data.*--codec mimi\|melrvq.*csm_ft\.export",
    ):
        open_speech(find(str(run)), SIZE, Flags(), "cpu")
    assert open_speech(find(str(run)), SIZE, Flags(data=str(tokens)), "cpu").speakers == ("nora",)
    assert open_speech(find(str(run)), SIZE, Flags(codec="melrvq"), "cpu").foreign == ()
    with pytest.raises(StoreError, match="no such token file"):
        open_speech(find(str(run)), SIZE, Flags(data="gone.hdf5"), "cpu")


def test_a_codec_that_is_not_that_of_the_training_is_told(run: Path) -> None:
    env = json.loads((run / "env.json").read_text())
    (run / "env.json").write_text(json.dumps({**env, "codec_fingerprint": "another"}))
    with pytest.raises(ConfigError, match="made with another codec"):
        open_speech(find(str(run)), SIZE, Flags(), "cpu")
    assert open_speech(find(str(run)), SIZE, Flags(codec="melrvq"), "cpu").foreign == ("codec",)


def test_an_export_carries_what_it_speaks_with(tokens: Path, tmp_path: Path) -> None:
    shutil.copy(BASE / "config.json", tmp_path / "config.json")
    write_speech(tmp_path, open_store(tokens), Origin(str(BASE)))
    speech = open_speech(Origin(str(tmp_path)), SIZE, Flags(), "cpu")
    assert speech.found == str(tmp_path / "speech.json")
    assert speech.speakers == ("nora",)
    assert speech.codec.fingerprint == open_store(tokens).info.codec_fingerprint
    (tmp_path / "tokenizer.json").write_bytes((ROOT / "demo/tokenizer.json").read_bytes() + b" ")
    with pytest.raises(
        ConfigError, match=r"tokenizer.*is not the one that made the tokens.*--tokenizer"
    ):
        open_speech(Origin(str(tmp_path)), SIZE, Flags(), "cpu")
    named = Flags(tokenizer=str(ROOT / "demo/tokenizer.json"))
    assert open_speech(Origin(str(tmp_path)), SIZE, named, "cpu").foreign == ()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"codec": "opus"}', "null"])
def test_a_speech_json_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "speech.json").write_text(text)
    with pytest.raises(ConfigError, match=r"speech\.json: .*export again"):
        open_speech(Origin(str(tmp_path)), SIZE, Flags(), "cpu")


def test_files_outside_of_an_export_are_not_read(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    monkeypatch.chdir(folder)  # from where the file outside is in reach
    write_speech(folder, open_store(tokens), Origin(str(BASE)))
    facts = json.loads((folder / "speech.json").read_text())
    (folder / "codec.safetensors").rename(tmp_path / "codec.safetensors")
    (folder / "speech.json").write_text(
        json.dumps({**facts, "codec_source": "../codec.safetensors"})
    )
    with pytest.raises(ConfigError, match="codec"):
        open_speech(Origin(str(folder)), SIZE, Flags(), "cpu")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (replace(SIZE, num_codebooks=4), "has 4 codebooks, the melrvq .* has 8"),
        (replace(SIZE, audio_vocab_size=100), "has 100 audio ids, the melrvq .* has 256"),
        (replace(SIZE, text_vocab_size=100), "has 100 text ids, the tokenizer .* has 512"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(tokens: Path, size: CsmSize, words: str) -> None:
    with pytest.raises(ConfigError, match=words + ": they were not made for each other.*--data"):
        open_speech(Origin(str(BASE)), size, Flags(data=str(tokens)), "cpu")


def test_a_model_without_speakers(tokens: Path, tmp_path: Path) -> None:
    store = open_store(tokens)
    write_store(
        tmp_path / "t.hdf5", replace(store.info, template="{text}"), store.splits, store.assets
    )
    assert not open_speech(
        Origin(str(BASE)), SIZE, Flags(data=str(tmp_path / "t.hdf5")), "cpu"
    ).names_speakers

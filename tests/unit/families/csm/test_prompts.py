"""What CSM is asked to speak, and through which codec and tokenizer."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from csm_ft import codecs
from csm_ft.codecs import guess
from csm_ft.data.split import Split, Store, clip_columns
from csm_ft.data.token_file import open_store
from csm_ft.errors import CodecError, ConfigError, PromptError
from csm_ft.families.base import EncoderRecord
from csm_ft.families.csm.config import CsmConfig, CsmGenerateConfig
from csm_ft.families.csm.encoder import CsmEncoder, open_tokenizer
from csm_ft.families.csm.model import empty_model
from csm_ft.families.csm.prompts import (
    check_lengths,
    check_prompts,
    generate_prompts,
    open_generator,
    sample_prompts,
)
from csm_ft.families.csm.size import CsmSize
from csm_ft.families.prompts import make_prompt
from csm_ft.families.template import DEFAULT_TEMPLATE
from csm_ft.runs.encoder_record import find_record, write_record
from csm_ft.runs.source import Source
from tests.conftest import ROOT
from tests.helpers.splits import INFO, FakeSplit, make_split

BASE = ROOT / "demo/base"
SIZE = CsmSize.from_json(json.loads((BASE / "config.json").read_text()), "base")
CLIP = ROOT / "demo/speech/nora/0081.flac"
NOT_KNOWN = EncoderRecord("base", None)


def options(**more: Any) -> CsmGenerateConfig:
    return CsmGenerateConfig(model="m", **more)


def an_encoder(template: str = DEFAULT_TEMPLATE) -> CsmEncoder:
    codec, tokenizer = codecs.open_codec("melrvq"), open_tokenizer(codec="melrvq")
    return CsmEncoder(codec, tokenizer, template)


def a_record(speakers: tuple[str, ...] = (), **more: Any) -> EncoderRecord:
    return EncoderRecord("run", None, speakers=speakers, **more)


def prompts_file(tmp_path: Path) -> str:
    question = {"path": str(CLIP), "text": "Could you give me the yellow camera?"}
    context = [{**question, "speaker": "nora"}]
    entries = [{"text": "Of course.", "speaker": "anna", "context": context}, "Of course."]
    (tmp_path / "prompts.json").write_text(json.dumps(entries))
    return str(tmp_path / "prompts.json")


def store_of(split: FakeSplit, template: str = "[{speaker}]{text}") -> Store:
    info = replace(INFO, facts={"template": template})
    return Store(Path("t.hdf5"), info, {"train": split, "val": split})


# What is asked for


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, 'nothing to speak; give --text "Hello."'),
        ({"text": [" "]}, "--text is empty"),
        ({"context": ["a.wav:b:"], "prompts": "p.json"}, "--context goes with --text"),
        ({"text": ["a"], "context": ["a.wav:b"]}, "has 1 colons"),
        ({"text": ["a"], "context": ["a.wav:b:c]"]}, "speaker 'c]' has brackets"),
        ({"text": ["a\udcff"]}, "is not UTF-8"),
        ({"text": ["a"], "speaker": " "}, "--speaker: speaker ' ' is empty"),
        ({"text": ["a"], "speaker": "a]b"}, "--speaker: speaker 'a]b' has brackets"),
        ({"text": ["a"], "context": ["none.wav:b:"]}, "none.wav: no such file"),
        ({"prompts": "none.json"}, "none.json: No such file"),
    ],
)
def test_bad_requests_are_found_early(
    asked: Mapping[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "p.json").write_text('["Hello."]')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PromptError, match=re.escape(reason)):
        check_prompts(CsmGenerateConfig.model_construct(**{**vars(options()), **asked}))


def test_bad_speakers_of_training_samples_are_found(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"--gen_speaker: speaker 'a\]b' has brackets"):
        check_prompts(CsmConfig(gen_speaker="a]b"))
    (tmp_path / "p.json").write_text('[{"text": "Hi.", "speaker": "a]b"}]')
    with pytest.raises(PromptError, match='entry 1 speaker: "a]b" has brackets'):
        check_prompts(CsmConfig(gen_prompts=str(tmp_path / "p.json")))


def test_missing_context_clip_is_found_early(tmp_path: Path) -> None:
    entry = {"text": "Yes.", "context": [{"path": "none.wav", "text": "Well?"}]}
    (tmp_path / "p.json").write_text(json.dumps([entry]))
    with pytest.raises(PromptError, match=r"p\.json entry 1 context 1: .*none\.wav: no such file"):
        check_prompts(CsmConfig(gen_prompts=str(tmp_path / "p.json")))


def test_sentences_come_before_prompt_files(tmp_path: Path) -> None:
    config = CsmConfig(gen_sentences=["Hi."], gen_prompts=prompts_file(tmp_path), gen_speaker="ben")
    prompts, sampling = sample_prompts(config, store_of(make_split([])), an_encoder())
    assert [(one.text, one.speaker, len(one.context)) for one in prompts] == [
        ("Hi.", "ben", 0),
        ("Of course.", "anna", 1),
        ("Of course.", "ben", 0),
    ]
    assert (sampling.temperature, sampling.topk, sampling.max_sec, sampling.seed) == (
        0.9,
        50,
        10,
        0,
    )


def test_context_is_encoded_by_the_codec(tmp_path: Path) -> None:
    config, encoder = CsmConfig(gen_prompts=prompts_file(tmp_path)), an_encoder()
    prompts, _ = sample_prompts(config, store_of(make_split([])), encoder)
    (turn,) = prompts[0].context
    (codes,) = encoder.codec.encode([soundfile.read(CLIP, dtype="float32")[0]])
    np.testing.assert_array_equal(turn.arrays["codes"], codes)
    assert turn.seconds == pytest.approx(len(codes) * 0.08)


def test_validation_clips_are_the_default_prompts(tokens: Path) -> None:
    store = open_store(tokens)
    clips = [store.splits["val"].clip(row) for row in range(2)]
    prompts, _ = sample_prompts(CsmConfig(), store, an_encoder())
    wanted = [(clip.text, "nora", ()) for clip in clips]
    assert [(one.text, one.speaker, one.context) for one in prompts] == wanted
    without, _ = sample_prompts(CsmConfig(), store, an_encoder("{text}"))
    assert [one.speaker for one in without] == ["", ""]


def test_validation_prompts_follow_their_turns(tokens: Path) -> None:
    store = open_store(tokens)
    val = store.splits["val"]
    split = make_conversation(val)
    prompts, _ = sample_prompts(CsmConfig(), replace(store, splits={"val": split}), an_encoder())
    last, middle = prompts
    texts = [val.clip(row).text for row in range(3)]
    assert (last.text, [turn.text for turn in last.context]) == (texts[0], [texts[2], texts[1]])
    assert [turn.text for turn in middle.context] == [texts[2]]
    (turn,) = middle.context
    np.testing.assert_array_equal(turn.arrays["codes"], val.array("codes", 2))
    assert (turn.path, turn.seconds) == (val.clip(2).source, len(val.array("codes", 2)) * 0.08)


def make_conversation(val: Split) -> Split:
    """The first three clips as one conversation, the first clip last."""
    clips = [replace(val.clip(row), conversation="a", turn=3 - row) for row in range(3)]
    columns = clip_columns(clips)
    for name in val.kinds:
        arrays = [val.array(name, row) for row in range(3)]
        columns[name] = np.concatenate(arrays)
        columns[f"{name}_offsets"] = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
    return Split("val", columns, val.kinds)


@pytest.mark.parametrize(
    ("speakers", "config", "speaker", "why"),
    [
        ((), None, "0", "the default"),
        ((), CsmConfig(gen_speaker="5"), "5", "the default"),
        (("nora",), None, "nora", "the one the model was trained on"),
        (("ben", "anna"), CsmConfig(gen_speaker="5"), "ben", "trained on most"),
    ],
)
def test_speaker_defaults_to_the_known_one(
    speakers: tuple[str, ...],
    config: CsmConfig | None,
    speaker: str,
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = a_record(speakers, config=config)
    prompts, _ = generate_prompts(options(text=["Hi."]), record, an_encoder())
    assert prompts[0].speaker == speaker
    assert f"speaker {speaker} ({why}); --speaker names another" in capsys.readouterr().out


def test_unknown_speakers_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    asked = options(text=["Hi."], speaker="zoe")
    generate_prompts(asked, a_record(("nora",)), an_encoder())
    said = capsys.readouterr().out
    assert "the model was not trained on speaker zoe, but on nora" in said
    generate_prompts(options(text=["Hi."]), a_record(("nora",)), an_encoder())
    assert "was not trained on" not in capsys.readouterr().out


def test_speakers_without_use_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(prompts=prompts_file(tmp_path))
    prompts, _ = generate_prompts(asked, a_record(), an_encoder("{text}"))
    assert [one.speaker for one in prompts] == ["", ""]
    assert "trained without speakers (--omit_speaker_id)" in capsys.readouterr().out


# Lengths


def test_seconds_beyond_the_model_are_refused() -> None:
    prompts = [make_prompt("Hello.", "0")]
    check_lengths(prompts, an_encoder(), 10, option="max_sec")
    with pytest.raises(PromptError, match="--max_sec 200 is more than the 163 s"):
        check_lengths(prompts, an_encoder(), 200, option="max_sec")


def test_text_must_leave_space_for_seconds() -> None:
    encoder, long = an_encoder(), make_prompt("word " * 300, "0")
    num_tokens = len(encoder.encode_words(long.text, "0"))
    room_sec = int((2048 - num_tokens) * 0.08)
    wanted = rf"takes {num_tokens} of the model's 2048 positions.*give --max_sec {room_sec},"
    with pytest.raises(PromptError, match=wanted):
        check_lengths([make_prompt("Hello.", "0"), long], encoder, room_sec + 1, option="max_sec")
    check_lengths([long], encoder, room_sec, option="max_sec")
    longer = make_prompt("word " * 3000, "0")
    with pytest.raises(PromptError, match="give a shorter text"):
        check_lengths([longer], encoder, 1, option="max_sec")


def test_training_samples_are_checked_for_length(tokens: Path) -> None:
    config = CsmConfig(gen_sentences=["Hi."], gen_max_sec=200.0)
    with pytest.raises(PromptError, match="--gen_max_sec 200 is more than the 163 s"):
        sample_prompts(config, open_store(tokens), an_encoder())


# Codec and tokenizer


def opened(record: EncoderRecord, size: CsmSize = SIZE, **flags: Any) -> CsmEncoder:
    return open_generator(options(**flags), record, empty_model(size), "cpu")


def recorded(tokens: Path, **facts: Any) -> EncoderRecord:
    """The record of a token file, as csm_ft.export writes it, with other facts."""
    store = open_store(tokens)
    info = replace(store.info, facts={**store.info.facts, **facts})
    return EncoderRecord("export", replace(store, info=info, splits={}), "speech.json", ("nora",))


def test_size_alone_tells_the_codec(capsys: pytest.CaptureFixture[str]) -> None:
    encoder = opened(NOT_KNOWN)
    assert (encoder.codec.name, encoder.codec.num_codebooks) == ("melrvq", 8)
    assert encoder.tokenizer.vocab_size == 512
    assert encoder.template.names_speakers
    said = capsys.readouterr().out
    assert said == "base: melrvq and tokenizer by its size (8 codebooks)\n"


def test_sizes_of_the_published_codecs() -> None:
    assert (guess(32, 2051), guess(8, 256)) == ("mimi", "melrvq")
    with pytest.raises(CodecError, match="16 codebooks of 2051 ids"):
        guess(16, 2051)


def test_unknown_size_names_the_options() -> None:
    wanted = r"base: 5 codebooks of 256 ids .*--data tokens.hdf5.*--codec mimi\|melrvq"
    with pytest.raises(ConfigError, match=wanted):
        opened(NOT_KNOWN, replace(SIZE, num_codebooks=5))


def test_run_without_its_token_file_is_refused() -> None:
    record = EncoderRecord("run", None, "t.hdf5: no such token file", config=CsmConfig())
    wanted = r"run: t.hdf5: no such token file. Put it back, .*--data.*csm_ft\.export"
    with pytest.raises(ConfigError, match=wanted):
        opened(record)
    assert opened(record, codec="melrvq").codec.name == "melrvq"


def test_foreign_codec_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"audio": "another", "text": open_tokenizer(codec="melrvq").fingerprint}
    record = EncoderRecord("run", None, config=CsmConfig(), fingerprints=known)
    opened(record, codec="melrvq")
    assert "warning: not the codec that the model was trained with" in capsys.readouterr().out


def test_export_has_its_own_encoder(tokens: Path, tmp_path: Path) -> None:
    shutil.copy(BASE / "config.json", tmp_path / "config.json")
    write_record(tmp_path, open_store(tokens), str(BASE))
    record = find_record(Source(str(tmp_path)))
    assert opened(record).codec.fingerprint == open_store(tokens).info.audio_fingerprint
    (tmp_path / "tokenizer.json").write_bytes((ROOT / "demo/tokenizer.json").read_bytes() + b" ")
    changed = find_record(Source(str(tmp_path)))
    with pytest.raises(ConfigError, match=r"tokenizer.*is not the one that made .*--tokenizer"):
        opened(changed)
    assert opened(changed, tokenizer=str(ROOT / "demo/tokenizer.json")).tokenizer.vocab_size == 512


@pytest.mark.parametrize(
    "facts",
    [
        {"codec": "opus"},
        {"codec": None},
        {"template": 3},
        {"num_codebooks": "8"},
        {"codec_source": "../codec.safetensors"},
        {"tokenizer": "./tokenizer.json"},
    ],
)
def test_damaged_facts_are_refused(tokens: Path, facts: dict[str, Any]) -> None:
    (name,) = facts
    with pytest.raises(ConfigError, match=rf"speech\.json: {name} is not what .*export again"):
        opened(recorded(tokens, **facts))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (replace(SIZE, num_codebooks=4), "has 4 codebooks, the melrvq .* has 8"),
        (replace(SIZE, audio_vocab_size=100), "has 100 audio ids, the melrvq .* has 256"),
        (replace(SIZE, text_vocab_size=100), "has 100 text ids, the tokenizer .* has 512"),
    ],
)
def test_unfitting_encoder_is_refused(tokens: Path, size: CsmSize, words: str) -> None:
    with pytest.raises(ConfigError, match=words + ": they were not made for each other.*--data"):
        opened(recorded(tokens), size)


def test_template_without_speakers(tokens: Path) -> None:
    assert not opened(recorded(tokens, template="{text}")).template.names_speakers

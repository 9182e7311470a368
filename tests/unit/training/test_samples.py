"""What a run speaks: which prompts, in which folders, with which facts."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import pretokenize
from csm_ft import codecs
from csm_ft.config import ConfigError
from csm_ft.data.token_file import open_store
from csm_ft.families.base import Prompt, Sample, SamplingOptions
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.prompts import VoicedPrompt
from csm_ft.training.samples import ask, of_validation, open_voice, write_take
from tests.conftest import ROOT

CLIP = ROOT / "demo/speech/nora/0081.flac"


class Rows:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []

    def row(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        self.rows.append({"kind": kind, "step": step, **values})

    def audio(self, step: int, name: str, wav: Path, caption: str) -> None:
        assert wav.is_file()


class Says:
    """A model that says `num_frames` frames whatever it is asked."""

    def __init__(self, num_frames: int = 3, left_out: int = 0) -> None:
        self.num_frames, self.left_out = num_frames, left_out

    def sample(
        self, prompts: Sequence[Prompt], *, tokenizer: Any, options: SamplingOptions
    ) -> list[Sample]:
        return [
            Sample(p, np.full((self.num_frames, 8), 5, np.uint16), True, self.left_out)
            for p in prompts
        ]


def config(tokens: Path, **more: Any) -> CsmConfig:
    return CsmConfig(data=str(tokens), device="cpu", **more)


def prompts_file(tmp_path: Path) -> Path:
    context = [
        {"path": str(CLIP), "text": "Could you give me the yellow camera?", "speaker": "nora"}
    ]
    path = tmp_path / "prompts.json"
    path.write_text(
        json.dumps([{"text": "Of course.", "speaker": "anna", "context": context}, "Of course."])
    )
    return path


def test_without_sentences_two_validation_clips_are_spoken(tokens: Path, tmp_path: Path) -> None:
    store = open_store(tokens)
    clips = [store.splits["val"].clip(i) for i in range(2)]
    voice = open_voice(config(tokens), store, tmp_path)
    assert voice is not None
    assert [(one.prompt.text, one.prompt.speaker, one.prompt.context) for one in voice.prompts] == [
        (c.text, "nora", ()) for c in clips
    ]


def test_validation_clips_are_spoken_after_the_turns_before_them(tmp_path: Path) -> None:
    rows = json.loads((ROOT / "demo/new_voice/val.json").read_text())
    for row in rows:
        row["path"] = str((ROOT / "demo/new_voice" / row["path"]).resolve())
    talk = [
        {"conversation": "a", "turn": 3 - i, **row} for i, row in enumerate(rows[:3])
    ]  # the first clip is the last turn
    (tmp_path / "train.json").write_text(json.dumps(rows[3:6]))
    (tmp_path / "val.json").write_text(json.dumps(talk))
    paths = [
        word
        for split in ("train", "val")
        for word in (f"--{split}_data", str(tmp_path / f"{split}.json"))
    ]
    assert (
        pretokenize.main([*paths, "--codec", "melrvq", "--output", str(tmp_path / "tokens.hdf5")])
        == 0
    )
    store = open_store(tmp_path / "tokens.hdf5")
    last, middle = of_validation(store)
    assert [turn.text for turn in last.prompt.context] == [rows[2]["text"], rows[1]["text"]]
    assert [turn.text for turn in middle.prompt.context] == [rows[2]["text"]]
    np.testing.assert_array_equal(middle.prompt.context[0].codes, store.splits["val"].codes(2))
    assert last.prompt.text == rows[0]["text"]
    assert middle.facts[0] == {
        "path": rows[2]["path"],
        "text": rows[2]["text"],
        "speaker": "nora",
        "seconds": pytest.approx(len(middle.prompt.context[0].codes) * 0.08),
    }


def test_sentences_and_prompts_are_both_asked_for(tokens: Path, tmp_path: Path) -> None:
    path = str(prompts_file(tmp_path))
    assert [one.text for one in ask(config(tokens, gen_sentences=["Hi."], gen_prompts=path))] == [
        "Hi.",
        "Of course.",
        "Of course.",
    ]
    assert [one.text for one in ask(config(tokens, gen_prompts=path))] == ["Of course."] * 2


def test_prompts_are_spoken_after_their_context(tokens: Path, tmp_path: Path) -> None:
    voice = open_voice(
        config(tokens, gen_prompts=str(prompts_file(tmp_path)), gen_speaker="ben"),
        open_store(tokens),
        tmp_path / "samples",
    )
    assert voice is not None
    after, alone = (one.prompt for one in voice.prompts)
    (turn,) = after.context
    (codes,) = voice.codec.encode([soundfile.read(CLIP, dtype="float32")[0]])
    np.testing.assert_array_equal(turn.codes, codes)
    assert (after.speaker, turn.speaker, alone.speaker, alone.context) == (
        "anna",
        "nora",
        "ben",
        (),
    )
    tracker: Any = Rows()
    model: Any = Says(left_out=1)
    voice.speak(model, tmp_path / "samples", step=7, examples=56, tracker=tracker)
    facts = json.loads((tmp_path / "samples" / after.id / "step_000007.json").read_text())
    assert facts["context"] == [
        {
            "path": str(CLIP),
            "text": "Could you give me the yellow camera?",
            "speaker": "nora",
            "seconds": len(codes) * 0.08,
        }
    ]
    assert (facts["step"], facts["examples"], facts["turns_left_out"], facts["stopped_by_eos"]) == (
        7,
        56,
        1,
        True,
    )
    assert [row["prompt"] for row in tracker.rows] == [after.id, alone.id]
    assert tracker.rows[0] == {"kind": "sample", **facts}
    assert (tmp_path / "samples" / alone.id / "step_000007.wav").is_file()


@pytest.mark.parametrize("key", ["gen_prompts", "gen_sentences"])
def test_prompts_of_ones_own_that_cannot_be_spoken_are_an_error(
    tokens: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("no codec here")

    monkeypatch.setattr(codecs, "from_store", fails)
    asked = {"gen_prompts": str(prompts_file(tmp_path)), "gen_sentences": ["Hi."]}
    with pytest.raises(ConfigError, match=f"cannot speak {key}: no codec here"):
        open_voice(config(tokens, **{key: asked[key]}), open_store(tokens), tmp_path)
    assert open_voice(config(tokens), open_store(tokens), tmp_path) is None


def test_a_missing_context_clip_stops_the_run(tokens: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(
        json.dumps([{"text": "Yes.", "context": [{"path": "none.wav", "text": "Well?"}]}])
    )
    with pytest.raises(ConfigError, match=r"p\.json entry 1 context 1: .*none\.wav: no such file"):
        open_voice(config(tokens, gen_prompts=str(path)), open_store(tokens), tmp_path / "samples")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            {"gen_sentences": ["word " * 3000]},
            "positions, and --gen_max_sec 10 125 more, which is too much; give a shorter text",
        ),
        (
            {"gen_sentences": ["Hi."], "gen_max_sec": 200.0},
            "--gen_max_sec 200 is more than the 163 s",
        ),
        ({"gen_speaker": "a]b"}, "--gen_speaker: speaker 'a]b' has brackets"),
    ],
)
def test_what_the_model_cannot_speak_is_told_before_it_is_trained(
    tokens: Path, tmp_path: Path, more: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        open_voice(config(tokens, **more), open_store(tokens), tmp_path / "samples")


def test_no_speech_is_a_silent_frame_that_can_be_played(tmp_path: Path) -> None:
    codec, prompt = codecs.open_codec("melrvq"), Prompt("id", "Hello.", "anna")
    sample = Sample(prompt, np.zeros((0, 8), np.uint16), True)
    facts = write_take(tmp_path / "a", VoicedPrompt(prompt), sample, codec, {"step": 1})
    wave, rate = soundfile.read(tmp_path / "a.wav")
    assert (len(wave), rate, np.abs(wave).max()) == (1280, 16000, 0)
    assert (facts["seconds"], facts["silence_share"], facts["step"]) == (0.0, 1.0, 1)
    assert json.loads((tmp_path / "a.json").read_text()) == facts

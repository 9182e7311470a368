"""Samples while training: which prompts, in which folders, with which facts."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import pretokenize
from csm_ft.errors import CodecError, ConfigError, PromptError
from csm_ft.families import open_family
from csm_ft.families.base import Prompt, Sample, SamplingOptions
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.encoder import CsmEncoder
from csm_ft.families.stores import open_store
from csm_ft.generate.recordings import Recorder
from csm_ft.runs.checkpoint import TrainState
from csm_ft.runs.folder import RunFolder
from csm_ft.training.samples import Sampler, open_sampler
from tests.conftest import ROOT

CLIP = ROOT / "demo/speech/nora/0081.flac"
CSM = open_family("csm")


class Rows:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []

    def row(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        self.rows.append({"kind": kind, "step": step, **values})

    def samples(self, step: int) -> None:
        assert [row["step"] for row in self.rows] == [step] * len(self.rows)

    def page(self, key: str, make: Callable[[], str], step: int) -> None:
        assert make() == "", "no words run along with samples of this family"


class Says(torch.nn.Module):
    """A model that says three frames whatever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def sample(
        self, prompts: Sequence[Prompt], encoder: Any, options: SamplingOptions
    ) -> list[Sample]:
        codes = np.full((3, 8), 5, np.uint16)
        return [Sample(prompt, {"codes": codes}, turns_left_out=1) for prompt in prompts]


def config(tokens: Path, **more: Any) -> CsmConfig:
    return CsmConfig(data=str(tokens), device="cpu", dtype="fp32", **more)


def sampler(tokens: Path, folder: Path, **more: Any) -> Sampler:
    opened = open_sampler(config(tokens, **more), open_store(tokens), CSM, RunFolder(folder))
    assert opened is not None
    return opened


def prompts_file(tmp_path: Path) -> Path:
    context = [
        {"path": str(CLIP), "text": "Could you give me the yellow camera?", "speaker": "nora"}
    ]
    path = tmp_path / "prompts.json"
    entry = {"text": "Of course.", "speaker": "anna", "context": context}
    path.write_text(json.dumps([entry, "Of course."]))
    return path


def test_two_validation_clips_by_default(tokens: Path, tmp_path: Path) -> None:
    clips = [open_store(tokens).splits["val"].clip(i) for i in range(2)]
    opened = sampler(tokens, tmp_path)
    found = [(prompt.text, prompt.speaker, prompt.context) for prompt in opened.prompts]
    assert found == [(clip.text, "nora", ()) for clip in clips]
    references = sorted((tmp_path / "samples/reference").glob("*.wav"))
    assert [path.stem for path in references] == sorted(clip.id[:12] for clip in clips)


def test_validation_prompts_follow_their_turns(tmp_path: Path) -> None:
    rows = json.loads((ROOT / "demo/new_voice/val.json").read_text())
    for row in rows:
        row["path"] = str((ROOT / "demo/new_voice" / row["path"]).resolve())
    # The first clip is the last turn.
    talk = [{"conversation": "a", "turn": 3 - i, **row} for i, row in enumerate(rows[:3])]
    (tmp_path / "train.json").write_text(json.dumps(rows[3:6]))
    (tmp_path / "val.json").write_text(json.dumps(talk))
    paths = ["--train_data", str(tmp_path / "train.json"), "--val_data", str(tmp_path / "val.json")]
    output = tmp_path / "tokens.hdf5"
    assert pretokenize.main([*paths, "--codec", "melrvq", "--output", str(output)]) == 0
    codes = open_store(output).splits["val"].array("codes", 2)
    last, middle = sampler(output, tmp_path / "run").prompts
    assert [turn.text for turn in last.context] == [rows[2]["text"], rows[1]["text"]]
    assert [turn.text for turn in middle.context] == [rows[2]["text"]]
    np.testing.assert_array_equal(middle.context[0].arrays["codes"], codes)
    assert last.text == rows[0]["text"]
    assert middle.context[0].facts() == {
        "path": rows[2]["path"],
        "text": rows[2]["text"],
        "speaker": "nora",
        "seconds": pytest.approx(len(codes) * 0.08),
    }


def test_sentences_come_before_prompts(tokens: Path, tmp_path: Path) -> None:
    path = str(prompts_file(tmp_path))
    both = sampler(tokens, tmp_path, gen_sentences=["Hi."], gen_prompts=path)
    assert [prompt.text for prompt in both.prompts] == ["Hi.", "Of course.", "Of course."]
    one = sampler(tokens, tmp_path, gen_prompts=path)
    assert [prompt.text for prompt in one.prompts] == ["Of course."] * 2


def test_samples_follow_their_context(tokens: Path, tmp_path: Path) -> None:
    path = str(prompts_file(tmp_path))
    opened = sampler(tokens, tmp_path, gen_prompts=path, gen_speaker="ben")
    after, alone = opened.prompts
    (turn,) = after.context
    (arrays,) = opened.recorder.encoder.encode_audio([soundfile.read(CLIP, dtype="float32")[0]])
    assert not isinstance(arrays, str)
    np.testing.assert_array_equal(turn.arrays["codes"], arrays["codes"])
    speakers = (after.speaker, turn.speaker, alone.speaker, alone.context)
    assert speakers == ("anna", "nora", "ben", ())
    tracker: Any = Rows()
    model: Any = Says()
    opened.run(model, TrainState(step=7, examples=56), RunFolder(tmp_path), tracker)
    facts = json.loads((tmp_path / "samples" / after.id / "step_000007.json").read_text())
    text = "Could you give me the yellow camera?"
    said = {"path": str(CLIP), "text": text, "speaker": "nora"}
    assert facts["context"] == [{**said, "seconds": len(arrays["codes"]) * 0.08}]
    assert (facts["step"], facts["examples"], facts["turns_left_out"]) == (7, 56, 1)
    assert facts["stopped_by_eos"] is True
    assert [row["prompt"] for row in tracker.rows] == [after.id, alone.id]
    assert tracker.rows[0] == {"kind": "sample", **facts}
    assert (tmp_path / "samples" / alone.id / "step_000007.wav").is_file()


@pytest.mark.parametrize("key", ["gen_prompts", "gen_sentences"])
def test_asked_samples_need_their_encoder(
    tokens: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise CodecError("no codec here")

    monkeypatch.setattr(CsmEncoder, "from_store", fails)
    asked = {"gen_prompts": str(prompts_file(tmp_path)), "gen_sentences": ["Hi."]}
    with pytest.raises(ConfigError, match=r"cannot be sampled: no codec here; .*--gen_every 0"):
        sampler(tokens, tmp_path, **{key: asked[key]})
    folder = RunFolder(tmp_path)
    assert open_sampler(config(tokens), open_store(tokens), CSM, folder) is None


def test_missing_context_clip_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    context = [{"path": "none.wav", "text": "Well?"}]
    path.write_text(json.dumps([{"text": "Yes.", "context": context}]))
    with pytest.raises(PromptError, match=r"p\.json entry 1 context 1: .*none\.wav: no such file"):
        CSM.check_prompts(config(tmp_path, gen_prompts=str(path)))


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
    ],
)
def test_overlong_prompts_are_refused_early(
    tokens: Path, tmp_path: Path, more: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        sampler(tokens, tmp_path, **more)


def test_speaker_with_brackets_is_refused(tokens: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("--gen_speaker: speaker 'a]b' has brackets")):
        CSM.check_prompts(config(tokens, gen_speaker="a]b"))


def test_silence_is_a_playable_frame(tokens: Path, tmp_path: Path) -> None:
    encoder = CSM.open_encoder(open_store(tokens), "cpu")
    sample = Sample(Prompt("id", "Hello.", "anna"), {"codes": np.zeros((0, 8), np.uint16)})
    facts = Recorder(encoder).write(tmp_path / "a", sample, {"step": 1})
    wave, rate = soundfile.read(tmp_path / "a.wav")
    assert (len(wave), rate, np.abs(wave).max()) == (1280, 16000, 0)
    assert (facts["seconds"], facts["silence_share"], facts["step"]) == (0.0, 1.0, 1)
    assert json.loads((tmp_path / "a.json").read_text()) == facts

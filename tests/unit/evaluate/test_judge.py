"""From clips to metrics, with judges whose answers are known."""

import numpy as np
import pytest

from csm_ft.errors import ConfigError
from csm_ft.evaluate.judge import References, SpokenClip, embed_voices, judge, summarise
from csm_ft.evaluate.summary import Share, estimate
from tests.helpers.judging import RATE_HZ, FakeEmbedder, FakeRecogniser, clip, judges


def test_word_errors_are_those_of_the_corpus() -> None:
    clips = [clip("a", "one two three", 1.0), clip("b", "yes", 0.5)]
    heard = {RATE_HZ: "one two three", RATE_HZ // 2: "no"}
    summary = summarise(judge(clips, judges(heard), References()))
    assert summary["wer"].value == pytest.approx(1 / 4)
    assert summary["wer"].num_clips == summary["wer"].num_prompts == 2


def test_clip_that_a_judge_fails_on_is_counted() -> None:
    clips = [clip("a", "one", 1.0), clip("b", "two", 0.5)]
    judged = judge(clips, judges({RATE_HZ: "one"}), References())
    assert "KeyError" in judged[1].failed["words"]
    assert "wer" not in judged[1].values
    assert summarise(judged)["wer"].num_clips == 1


def test_users_mistake_is_no_failure_of_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FakeRecogniser, wave: np.ndarray) -> str:
        raise ConfigError("wrong recogniser")

    monkeypatch.setattr(FakeRecogniser, "hear", refuse)
    with pytest.raises(ConfigError, match="wrong recogniser"):
        judge([clip("a", "one")], judges({}), References())


def test_missing_judges_leave_their_metrics_out() -> None:
    (judged,) = judge([clip("a", "one")], judges(None), References())
    assert not {"wer", "dnsmos"} & judged.values.keys()
    assert judges(None).missing()[:2] == ["no recogniser", "no DNSMOS"]


def test_empty_sound_is_all_missing_words() -> None:
    (judged,) = judge([clip("a", "one two three", 0.0)], judges({}), References())
    assert judged.values["wer"] == 1
    assert judged.values["missing_words"] == 3
    assert not judged.failed


def test_duration_is_compared_with_the_recording() -> None:
    references = References(seconds={("ann", "one", "sad"): 2.0}, sec_per_char={"ann": 0.1})
    sad = clip("a", "one", speaker="ann", tags={"emotion": "sad"})
    pair = [sad, clip("b", "ten chars.", speaker="ann")]
    judged = judge(pair, judges(None), references)
    assert [one.values["duration_ratio"] for one in judged] == [0.5, pytest.approx(1.0)]


def test_clip_is_no_reference_of_its_own() -> None:
    clips = [clip(name, "one", speaker=name[:3]) for name in ("ann-1", "ben-1")]
    voices = embed_voices(clips, judges(None))
    judged = judge(clips, judges(None), References(voices))
    assert "similarity" not in judged[0].values
    assert "similarity_others" in judged[0].values


def test_reference_that_the_embedder_fails_on_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embed = FakeEmbedder.embed

    def moody(self: FakeEmbedder, wave: np.ndarray) -> np.ndarray:
        if len(wave) < RATE_HZ:
            raise RuntimeError("too short")
        return embed(self, wave)

    monkeypatch.setattr(FakeEmbedder, "embed", moody)
    clips = [clip("a", "one", 1.0, speaker="ann"), clip("b", "two", 0.5, speaker="ann")]
    assert list(embed_voices(clips, judges(None))["ann"]) == ["a"]
    told = " ".join(capsys.readouterr().out.split())
    assert "fake 2 failed on 1 reference clips, which are left out (b: RuntimeError" in told


def test_references_of_another_rate_are_the_same_voice() -> None:
    times = np.arange(3 * RATE_HZ // 2) / (3 * RATE_HZ / 2)  # a second at 24 kHz
    wave = (0.3 * np.sin(2 * np.pi * 200 * times)).astype(np.float32)
    other = SpokenClip("b", wave, 3 * RATE_HZ // 2, "one", "ann")
    voices = embed_voices([other], judges(None))
    (judged,) = judge([clip("a", "one", 1.0, speaker="ann")], judges(None), References(voices))
    assert judged.values["similarity"] == pytest.approx(1, abs=1e-3)


def test_stopping_is_known_of_models_only() -> None:
    made, real = clip("a", "one", is_complete=False), clip("b", "one")
    judged = judge([made, real], judges(None), References())
    assert judged[0].values["stopped"] == 0
    assert "stopped" not in judged[1].values


def test_interval_resamples_prompts() -> None:
    same = [Share(f"p{place}", 1.0) for place in range(20)]
    takes = [Share(f"p{place % 2}", float(place % 2)) for place in range(200)]
    fixed, wide = estimate(same), estimate(takes)
    assert fixed is not None
    assert (fixed.low, fixed.value, fixed.high) == (1.0, 1.0, 1.0)
    assert wide is not None
    assert (wide.low, wide.value, wide.high) == (0.0, 0.5, 1.0)


def test_interval_covers_the_mean() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        shares = [Share(str(i), x) for i, x in enumerate(random.normal(3, 1, 30).tolist())]
        found = estimate(shares, seed)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 3 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_one_prompt_has_no_interval() -> None:
    found = estimate([Share("a", 1.0), Share("a", 0.0)])
    assert found is not None
    assert found[:3] == (0.5, None, None)
    assert estimate([]) is None

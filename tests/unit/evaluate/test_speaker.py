"""Embedders: the same voice is nearer than another one, on the bundled speakers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from csm_ft.data import audio
from csm_ft.errors import ConfigError
from csm_ft.evaluate.speaker import (
    EMBEDDER_HZ,
    Embedder,
    Embedding,
    centroid,
    open_embedder,
    score_voices,
    similarity,
)
from tests.conftest import ROOT
from tests.helpers.tiny_judges import write_xvector

SPEAKERS = ("anna", "ben", "diego", "lucia", "nora")


def clips_of(speaker: str, count: int) -> Sequence[np.ndarray]:
    files = sorted((ROOT / "demo/speech" / speaker).glob("*.flac"))[:count]
    return [audio.load(path, sample_rate_hz=EMBEDDER_HZ) for path in files]


@pytest.mark.parametrize("name", ["spectral", "resemblyzer"])
def test_own_voice_is_nearest(name: str) -> None:
    embedder = open_embedder(name, "cpu")
    assert not isinstance(embedder, str)
    found = {who: [embedder.embed(wave) for wave in clips_of(who, 6)] for who in SPEAKERS}
    references = {who: clips[:3] for who, clips in found.items()}
    wrong = [
        score_voices(who, clip, references)["wrong_voice"]
        for who, clips in found.items()
        for clip in clips[3:]
    ]
    assert len(wrong) == 15
    assert sum(wrong) <= 1


@pytest.mark.parametrize("name", ["spectral", "resemblyzer"])
@pytest.mark.parametrize("num_samples", [1, 300, 5000])
def test_short_and_silent_sounds_have_an_embedding(name: str, num_samples: int) -> None:
    embedder = open_embedder(name, "cpu")
    assert not isinstance(embedder, str)
    assert np.isfinite(embedder.embed(np.zeros(num_samples, np.float32))).all()


def test_level_changes_nothing() -> None:
    embedder: Embedder | str = open_embedder("resemblyzer", "cpu")
    assert not isinstance(embedder, str)
    (wave,) = clips_of("anna", 1)
    quiet = embedder.embed((0.05 * wave).astype(np.float32))
    quieter = embedder.embed((0.02 * wave).astype(np.float32))
    assert similarity(quiet, quieter) > 0.99


def test_centroid_has_length_one() -> None:
    one: Embedding = np.array([1, 0], np.float32)
    assert np.linalg.norm(centroid([one, np.array([0, 1], np.float32)])) == pytest.approx(1)


def test_xvector_model_of_a_folder(tmp_path: Path) -> None:
    embedder = open_embedder(str(write_xvector(tmp_path / "xvector")), "cpu")
    assert not isinstance(embedder, str)
    assert embedder.name.endswith(", xvector")
    (wave,) = clips_of("anna", 1)
    assert np.linalg.norm(embedder.embed(wave)) == pytest.approx(1)


def test_unknown_embedder_names_the_ways_out() -> None:
    with pytest.raises(ConfigError, match="resemblyzer or spectral"):
        open_embedder("nowhere/at-all", "cpu")
    assert open_embedder("none", "cpu") == "--embedder none"

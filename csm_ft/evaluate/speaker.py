"""Likeness of voices: embeddings of clips, and their cosine similarity.

auto              Resemblyzer's encoder where its wheel is installed, else `spectral`
resemblyzer       a GE2E encoder (Wan et al. 2018, arXiv:1710.10467); weights from the wheel
spectral          mean and spread of log-mel bands: tells the bundled voices apart, but is no
                  speaker recogniser, and says so
owner/name, DIR   a transformers x-vector model (WavLM, UniSpeech, wav2vec 2.0), by name or folder
none              no embedder
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from csm_ft.data.audio import Wave
from csm_ft.data.measures import mean_power
from csm_ft.data.silence import WINDOW_SEC
from csm_ft.errors import ConfigError, first_line
from csm_ft.evaluate.sound import is_silent

EMBEDDER_HZ = 16000
Embedding = NDArray[np.float32]  # [D], of length 1
Voices = Mapping[str, Mapping[str, Embedding]]  # speaker -> reference clip -> its embedding

_WINDOW, _HOP, _NUM_BANDS = 400, 160, 40  # Resemblyzer's hparams.py: 25 ms, 10 ms, 40 bands
_PARTIAL_FRAMES, _PARTIAL_STEP = 160, 77  # 1.6 s windows, 1.3 of them a second
_LEVEL_DBFS = -30.0
_WIDTH, _NUM_LAYERS = 256, 3


class Embedder(Protocol):
    """Turns sound into an embedding of its voice."""

    name: str  # with its version, for the results

    def embed(self, wave: Wave) -> Embedding:
        """Return the embedding of a wave [N] at 16 kHz, of length 1."""
        ...


def open_embedder(source: str, device: str) -> "Embedder | str":
    """Open an embedder; a str says that there is none. ConfigError when it cannot be opened."""
    if source == "none":
        return "--embedder none"
    has_resemblyzer = find_spec("resemblyzer") is not None
    if source == "spectral" or (source == "auto" and not has_resemblyzer):
        return Spectral()
    if source in ("auto", "resemblyzer"):
        if not has_resemblyzer:
            raise ConfigError(
                "--embedder resemblyzer: not installed; pip install --no-deps Resemblyzer==0.1.4,"
                " or --embedder spectral"
            )
        return Resemblyzer(device)
    return XVector(source, device)


def similarity(one: Embedding, other: Embedding) -> float:
    """Return the cosine similarity of two embeddings."""
    return float(one @ other / max(1e-9, float(np.linalg.norm(one) * np.linalg.norm(other))))


def centroid(embeddings: Sequence[Embedding]) -> Embedding:
    """Return the mean embedding of clips, of length 1."""
    return _unit(np.mean(embeddings, axis=0))


class Resemblyzer(nn.Module):
    """Resemblyzer's VoiceEncoder: an LSTM over mel windows of 1.6 s, averaged over the clip.

    Its weights are read from the wheel as tensors; its code, which needs a compiler to install, is
    not imported. Silence is cut by level, where the original uses webrtcvad.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.name = f"Resemblyzer {version('Resemblyzer')}"
        self.lstm = nn.LSTM(_NUM_BANDS, _WIDTH, _NUM_LAYERS, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)
        spec = find_spec("resemblyzer")
        assert spec is not None, "installed"
        assert spec.origin is not None, "checked by open_embedder"
        path = Path(spec.origin).parent / "pretrained.pt"
        weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        own = {name: tensor for name, tensor in weights.items() if name in self.state_dict()}
        self.load_state_dict(own)
        self.to(device).eval().requires_grad_(False)

    def forward(self, mels: Tensor) -> Tensor:
        """Return the embeddings [B, 256] of mel windows [B, 160, 40]."""
        _, (hidden, _) = self.lstm(mels)
        embedded = torch.relu(self.linear(hidden[-1]))
        return embedded / embedded.norm(dim=1, keepdim=True).clamp(min=1e-9)

    def embed(self, wave: Wave) -> Embedding:
        """Return the embedding of a wave."""
        mel = _mel(_levelled(wave))  # [T, 40]
        last = max(0, len(mel) - _PARTIAL_FRAMES)
        starts = [*range(0, last, _PARTIAL_STEP), last]
        short = max(0, _PARTIAL_FRAMES - len(mel))
        mel = np.pad(mel, ((0, short), (0, 0)))
        windows = np.stack([mel[start : start + _PARTIAL_FRAMES] for start in starts])
        device = self.linear.weight.device
        partial = self(torch.from_numpy(windows.astype(np.float32)).to(device)).cpu().numpy()
        return _unit(partial.mean(axis=0))


class Spectral:
    """Mean and spread over time of log-mel bands, each clip's own level taken out."""

    name = "spectral (mean and spread of 40 log-mel bands; no speaker recogniser)"

    def embed(self, wave: Wave) -> Embedding:
        """Return the embedding of a wave."""
        bands = np.log(_mel(_levelled(wave)) + 1e-6)
        mean, spread = bands.mean(axis=0), bands.std(axis=0)
        return _unit(np.concatenate([mean - mean.mean(), spread - spread.mean()]))


class XVector:
    """A transformers model with an x-vector head."""

    def __init__(self, source: str, device: str) -> None:
        import transformers

        try:
            self.features = transformers.AutoFeatureExtractor.from_pretrained(source)
            self.model: Any = transformers.AutoModelForAudioXVector.from_pretrained(source)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"--embedder {source}: transformers cannot open it as an x-vector model"
                f" ({first_line(error)}); name one on the hub or its folder, or resemblyzer or"
                " spectral"
            ) from error
        self.model.to(device).eval().requires_grad_(False)
        label = Path(source).name if Path(source).exists() else source
        self.name = f"transformers {transformers.__version__}, {label}"

    def embed(self, wave: Wave) -> Embedding:
        """Return the embedding of a wave."""
        inputs = self.features(wave, sampling_rate=EMBEDDER_HZ, return_tensors="pt")
        found = self.model(**inputs.to(self.model.device)).embeddings[0]
        return _unit(found.float().cpu().numpy())


def score_voices(
    own: str, embedding: Embedding, references: Mapping[str, Sequence[Embedding]]
) -> dict[str, float]:
    """Compare a clip with the reference clips of all speakers.

    `similarity` is that to the centroid of its own speaker, `similarity_others` the highest to
    another's, `wrong_voice` 1 where the latter is higher. What there are no references for is left
    out.
    """
    centroids = {name: centroid(clips) for name, clips in references.items() if len(clips)}
    near = {name: similarity(embedding, middle) for name, middle in centroids.items()}
    values: dict[str, float] = {}
    others = [value for name, value in near.items() if name != own]
    if own in near:
        values["similarity"] = near[own]
    if others:
        values["similarity_others"] = max(others)
    if len(values) == 2:
        values["wrong_voice"] = float(max(others) > near[own])
    return values


def _levelled(wave: Wave) -> Wave:
    """Return a wave raised to -30 dBFS where it is below, without its silent windows."""
    gain = 10 ** (_LEVEL_DBFS / 20) / max(mean_power(wave), 1e-12) ** 0.5
    raised = wave * np.float32(max(1.0, gain))
    size = round(WINDOW_SEC * EMBEDDER_HZ)
    kept = raised[~np.repeat(is_silent(raised, EMBEDDER_HZ), size)[: len(wave)]]
    return kept if len(kept) else raised


def _mel(wave: Wave) -> NDArray[np.float64]:
    """Return power in mel bands [T, 40] as librosa.feature.melspectrogram computes it."""
    padded = np.pad(wave, _WINDOW // 2)
    padded = np.pad(padded, (0, max(0, _WINDOW - len(padded))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    window = np.hanning(_WINDOW + 1)[:-1]
    return np.square(np.abs(np.fft.rfft(frames * window, axis=1))) @ _filters()


@cache
def _filters() -> NDArray[np.float64]:
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(
        num_frequency_bins=_WINDOW // 2 + 1,
        num_mel_filters=_NUM_BANDS,
        min_frequency=0.0,
        max_frequency=EMBEDDER_HZ / 2,
        sampling_rate=EMBEDDER_HZ,
        norm="slaney",
        mel_scale="slaney",
    )


def _unit(vector: NDArray[Any]) -> Embedding:
    return (vector / max(1e-9, float(np.linalg.norm(vector)))).astype(np.float32)

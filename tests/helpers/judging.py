"""Judges whose answers are known, and clips to give them."""

import numpy as np

from csm_ft.data.audio import Wave
from csm_ft.evaluate.judge import Judges, SpokenClip

RATE_HZ = 16000


class FakeRecogniser:
    """Hears what it is told to by the length of the wave; raises for other lengths."""

    name = "fake 1"
    languages: tuple[str, ...] = ("en",)

    def __init__(self, heard: dict[int, str]) -> None:
        self.heard = heard

    def hear(self, wave: Wave) -> str:
        return self.heard[len(wave)]


class FakeEmbedder:
    """Embeds a wave as (its mean, its spread)."""

    name = "fake 2"

    def embed(self, wave: Wave) -> np.ndarray:
        found = np.array([wave.mean(), wave.std()], np.float32)
        return found / np.linalg.norm(found)


def judges(heard: dict[int, str] | None = None) -> Judges:
    recogniser = FakeRecogniser(heard) if heard is not None else "no recogniser"
    return Judges(recogniser, FakeEmbedder(), "no DNSMOS")


def tone(sec: float, hz: float = 200.0) -> Wave:
    time = np.arange(round(sec * RATE_HZ)) / RATE_HZ
    return (0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def clip(id_: str, text: str, sec: float = 1.0, **more: object) -> SpokenClip:
    return SpokenClip(id_, tone(sec), RATE_HZ, text, **more)  # pyright: ignore[reportArgumentType]

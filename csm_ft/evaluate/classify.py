"""Which emotion does a classifier hear? A second opinion, beside the acoustic distances.

A transformers audio-classification model by hub name or folder. Classifiers take words, noise and
voices for emotions, too, so that theirs is never the only number, and no run is chosen by it.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import soxr

from csm_ft.data.audio import Wave
from csm_ft.datasets.labels import EMOTIONS
from csm_ft.errors import ConfigError, first_line

NO_CLASSIFIER = "--emotion_classifier none"
_CLASSIFIER_HZ = 16000  # of the waves that are given
# What models call emotions -> what data sets here call them.
_SAME = {
    label: emotion
    for name in ("cremad", "esd", "dailytalk", "prepared")
    for label, emotion in EMOTIONS[name].items()
    if emotion
}


class Classifier:
    """A transformers pipeline."""

    def __init__(self, source: str, device: str) -> None:
        transformers: Any = import_module("transformers")
        try:
            self._pipe = transformers.pipeline("audio-classification", model=source, device=device)
            self._hz = int(self._pipe.feature_extractor.sampling_rate)
        except Exception as error:
            raise ConfigError(
                f"--emotion_classifier {source}: transformers cannot open it as a classifier of"
                f" sound ({first_line(error)}); name one for audio-classification on the hub, or"
                " its folder, or none"
            ) from error
        labels = [str(label) for label in self._pipe.model.config.id2label.values()]
        self.emotions = tuple(dict.fromkeys(map(_emotion, labels)))
        if all(label.startswith("LABEL_") for label in labels):
            raise ConfigError(
                f"--emotion_classifier {source}: its labels have no names ({', '.join(labels[:3])},"
                " ...); write them into id2label of its config.json"
            )
        label = Path(source).name if Path(source).exists() else source
        self.name = f"transformers {transformers.__version__}, {label}"

    def score(self, wave: Wave, emotion: str) -> Mapping[str, float]:
        """Compare what is heard in a wave [N] at 16 kHz with the emotion that it should have.

        `emotion_right` is 1 where that is the most probable one, `emotion_probability` is its
        probability; {} for an emotion that the classifier does not know.
        """
        if not self.knows(emotion):
            return {}
        own = wave if self._hz == _CLASSIFIER_HZ else soxr.resample(wave, _CLASSIFIER_HZ, self._hz)
        heard = dict.fromkeys(self.emotions, 0.0)
        for found in self._pipe({"raw": own, "sampling_rate": self._hz}, top_k=None):
            heard[_emotion(str(found["label"]))] += float(found["score"])
        right = max(heard, key=heard.__getitem__) == _emotion(emotion)
        return {"emotion_right": float(right), "emotion_probability": heard[_emotion(emotion)]}

    def knows(self, emotion: str) -> bool:
        """Tell whether an emotion is among its labels."""
        return _emotion(emotion) in self.emotions


def open_classifier(source: str, device: str) -> "Classifier | str":
    """Open a classifier; a str says that there is none. ConfigError when it cannot be opened."""
    return NO_CLASSIFIER if source == "none" else Classifier(source, device)


def _emotion(label: str) -> str:
    """Return a label in the vocabulary of csm_ft/datasets/labels.py."""
    return _SAME.get(label.strip().lower(), label.strip().lower())

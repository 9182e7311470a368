"""A classifier of emotions: a second opinion on clips that should have one."""

from pathlib import Path

import numpy as np
import pytest

from csm_ft.errors import ConfigError
from csm_ft.evaluate.classify import Classifier, open_classifier
from csm_ft.evaluate.judge import Judges, References, SpokenClip, judge, summarise
from csm_ft.evaluate.metrics import check_best_by
from tests.helpers.tiny_judges import write_classifier

HZ = 16000
WAVE = np.random.default_rng(0).normal(0, 0.1, HZ).astype(np.float32)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    folder = write_classifier(tmp_path_factory.mktemp("hub") / "four", ["ang", "Happiness", "neu"])
    found = open_classifier(str(folder), "cpu")
    assert isinstance(found, Classifier)
    return found


def test_labels_are_those_of_data_sets(classifier: Classifier) -> None:
    assert classifier.emotions == ("angry", "happy", "neutral")
    assert classifier.name.endswith(", four")
    scores = {one: classifier.score(WAVE, one) for one in classifier.emotions}
    assert sum(score["emotion_probability"] for score in scores.values()) == pytest.approx(1)
    best = max(scores, key=lambda one: scores[one]["emotion_probability"])
    assert {one: score["emotion_right"] for one, score in scores.items()} == {
        one: float(one == best) for one in scores
    }


def test_clips_with_a_known_emotion_are_scored(classifier: Classifier) -> None:
    emotions = ("angry", "happy", "neutral", "calm", "")
    clips = [
        SpokenClip(one, WAVE, HZ, "Hi.", tags={"emotion": one} if one else {}) for one in emotions
    ]
    judges = Judges("no words", "no voice", "no quality", classifier)
    judged = judge(clips, judges, References())
    assert ["emotion_right" in one.values for one in judged] == [True, True, True, False, False]
    assert all("energy_mean_db" in one.values for one in judged)  # never alone
    assert summarise(judged)["emotion_right"].value == pytest.approx(1 / 3)
    assert judges.versions()["emotion"] == classifier.name


def test_failure_on_one_clip_is_noted(classifier: Classifier) -> None:
    short = SpokenClip("short", WAVE[:5], HZ, "Hi.", tags={"emotion": "angry"})
    (one,) = judge([short], Judges("", "", "", classifier), References())
    assert "emotion" in one.failed
    assert "emotion_right" not in one.values


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    assert open_classifier("none", "cpu") == "--emotion_classifier none"
    with pytest.raises(ConfigError, match="cannot open it as a classifier of sound"):
        open_classifier(str(tmp_path / "nothing"), "cpu")
    nameless = write_classifier(tmp_path / "hub", ["LABEL_0", "LABEL_1"])
    with pytest.raises(ConfigError, match="its labels have no names"):
        open_classifier(str(nameless), "cpu")


def test_nothing_is_chosen_by_it_alone() -> None:
    with pytest.raises(ConfigError, match="a second opinion"):
        check_best_by("emotion_right", judge_every="1/3")

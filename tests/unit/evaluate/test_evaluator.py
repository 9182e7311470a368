"""What an evaluation says of its own recogniser."""

from pathlib import Path

import numpy as np
import soundfile

from csm_ft.data.split import Arrays, Clip, Split, Store, clip_columns
from csm_ft.evaluate.evaluator import Evaluator
from tests.helpers.judging import RATE_HZ, clip, judges
from tests.helpers.pretokenizing import FakeEncoder
from tests.helpers.splits import INFO


def store_in(language: str) -> Store:
    clips = [Clip("a", "Bonjour.", "ann", "", 0.0, 1.0, 1.0, tags={"language": language})]
    split = Split("val", clip_columns(clips), {})
    return Store(Path("tokens.hdf5"), INFO, {"train": split, "val": split})


def test_texts_in_another_language_are_told(tmp_path: Path) -> None:
    evaluator = Evaluator(tmp_path, judges({}), store_in("fr-FR"), None)
    evaluator.tell_judges()
    assert "clips in fr-FR: the recogniser fake 1 knows en only" in evaluator.notes[0]


def test_texts_in_a_known_language_are_not(tmp_path: Path) -> None:
    evaluator = Evaluator(tmp_path, judges({}), store_in("en-US"), None)
    evaluator.tell_judges()
    assert evaluator.notes == []


def test_deaf_recogniser_is_called_unfit(tmp_path: Path) -> None:
    evaluator = Evaluator(tmp_path, judges({RATE_HZ // 10: "wrong words"}), None, None)
    evaluator.add("real recordings", "recordings", [clip("a", "right words here", 0.1)])
    evaluator.tell_deafness()
    assert "does not know this language or these voices" in evaluator.notes[0]


def test_codec_that_loses_words_is_called_so(tmp_path: Path) -> None:
    heard = judges({RATE_HZ // 10: "right words here", RATE_HZ // 5: "right words gone"})
    evaluator = Evaluator(tmp_path, heard, None, None)
    evaluator.add("after the codec", "codec", [clip("a", "right words here", 0.2)])
    evaluator.add("real recordings", "recordings", [clip("a", "right words here", 0.1)])
    evaluator.tell_deafness()
    assert "after the codec, 33% of the words" in evaluator.notes[0]
    assert "0% before it" in evaluator.notes[0]


class BothSides(FakeEncoder):
    """Gives a dialogue back as it is: a tone on the left, a softer one on the right."""

    def decode(self, arrays: Arrays) -> np.ndarray:
        return dialogue()


def dialogue() -> np.ndarray:
    tone = np.sin(2 * np.pi * 200 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    return np.stack([0.4 * tone, 0.2 * tone])


def test_both_sides_of_a_dialogue_are_judged_as_one_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", dialogue().T, RATE_HZ)
    clips = [Clip("a", "Hello. Yes?", "ann", str(tmp_path / "talk.wav"), 0.0, 1.0, 1.0)]
    split = Split("val", clip_columns(clips), {})
    store = Store(tmp_path / "tokens.hdf5", INFO, {"train": split, "val": split})
    evaluator = Evaluator(tmp_path, judges({}), store, BothSides())
    evaluator.add_real([("val", 0)])
    coded, recorded = evaluator.rows
    assert (coded.kind, recorded.kind) == ("codec", "recordings")
    levels = [row.summary["level_dbfs"].value for row in (coded, recorded)]
    expected = 20 * np.log10(0.3 / np.sqrt(2))  # of the mean of both sides
    np.testing.assert_allclose(levels, expected, atol=0.05)
    for row in (coded, recorded):
        wave, _ = soundfile.read(tmp_path / row.judged[0].clip.id)
        assert wave.shape == (RATE_HZ,)

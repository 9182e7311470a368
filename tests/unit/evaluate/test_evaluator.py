"""What an evaluation says of its own recogniser."""

from pathlib import Path

from csm_ft.data.split import Clip, Split, Store, clip_columns
from csm_ft.evaluate.evaluator import Evaluator
from tests.helpers.judging import RATE_HZ, clip, judges
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

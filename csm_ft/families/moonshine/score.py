"""Error rates of greedy transcripts on validation clips."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.split import Split
from csm_ft.data.text import (
    ErrorCounts,
    character_errors,
    open_normaliser,
    set_case,
    word_errors,
)
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.model import MoonshineModel
from csm_ft.families.moonshine.sample import transcribe
from csm_ft.families.moonshine.size import SAMPLE_RATE_HZ

_LONGEST_PHRASE, _FEWEST_TIMES = 8, 4  # words, and times in a row
_BATCH_SEC = 300.0  # of sound that is transcribed at once


def score(
    model: MoonshineModel, split: Split, rows: Sequence[int], config: MoonshineConfig
) -> dict[str, float]:
    """Return val_wer and its parts, val_cer, val_wer_raw, val_capped and val_repeated of `rows`.

    Errors are summed over the corpus and divided once.
    """
    found = errors_of(model, split, rows, config)
    totals = {name: pair.sum(axis=1) for name, pair in found.items()}
    return {f"val_{name}": float(sums / max(1, count)) for name, (sums, count) in totals.items()}


def errors_of(
    model: MoonshineModel, split: Split, rows: Sequence[int], config: MoonshineConfig
) -> dict[str, NDArray[np.float64]]:
    """Return the errors of each clip and what they are counted against, [2, n] by name.

    After the rules of the language on both sides, and raw, as the texts are trained on.
    """
    assert model.tokenizer is not None, "a model with the tokenizer of its token file"
    rules = open_normaliser(language_of(split, config)).apply
    errors: dict[int, dict[str, tuple[float, float]]] = {}
    for batch in batches_of(split.lengths("samples").tolist(), rows):
        samples = split.many("samples", batch, config.decode_workers)
        clips = [samples[row] for row in batch]
        for row, found in zip(batch, transcribe(model, clips, config.cap), strict=True):
            wanted = set_case(split.clip(row).text, str(split.facts.get("text_case", "keep")))
            written = model.tokenizer.decode(found.ids)
            errors[row] = {
                **_errors(rules(wanted), rules(written)),
                "wer_raw": _rate(word_errors([wanted], [written])),
                "capped": (float(not found.is_complete), 1.0),
                "repeated": (float(repeats(rules(written))), 1.0),
            }
    names = list(errors[rows[0]])
    return {name: np.array([errors[row][name] for row in rows]).T for name in names}


def _errors(wanted: str, written: str) -> dict[str, tuple[float, float]]:
    words = word_errors([wanted], [written])
    count = float(words.num_reference)
    return {
        "wer": _rate(words),
        "insertions": (words.insertions, count),
        "deletions": (words.deletions, count),
        "substitutions": (words.substitutions, count),
        "cer": _rate(character_errors([wanted], [written])),
    }


def _rate(counts: ErrorCounts) -> tuple[float, float]:
    """Return errors, and what they are divided by for a rate."""
    return counts.num_errors, float(counts.num_reference)


def repeats(text: str) -> bool:
    """Tell whether a text says the same one to eight words four times or more in a row."""
    words = text.split()
    for length in range(1, _LONGEST_PHRASE + 1):
        same = 0  # words in a row that equal those so many words before
        for before, word in zip(words, words[length:], strict=False):
            same = same + 1 if word == before else 0
            if same >= (_FEWEST_TIMES - 1) * length:
                return True
    return False


def language_of(split: Split, config: MoonshineConfig) -> str:
    """Return the language that options name, or else most clips; "" = not known."""
    if config.language != "auto":
        return config.language
    languages = Counter(split.tags(row).get("language", "") for row in range(len(split)))
    return languages.most_common(1)[0][0] if languages else ""


def batches_of(lengths: Sequence[int], rows: Sequence[int]) -> Iterator[list[int]]:
    """Yield rows of similar lengths in samples, with at most 300 s of sound at once."""
    batch: list[int] = []
    num_samples = 0
    for row in sorted(rows, key=lengths.__getitem__):
        num_samples += lengths[row]
        if batch and num_samples > _BATCH_SEC * SAMPLE_RATE_HZ:
            yield batch
            batch, num_samples = [], lengths[row]
        batch.append(row)
    if batch:
        yield batch

"""Error rates of greedy transcripts on validation clips."""

from collections.abc import Iterator, Sequence

from csm_ft.data.split import Split
from csm_ft.data.text import character_errors, normalise, word_errors
from csm_ft.families.moonshine.model import MoonshineModel
from csm_ft.families.moonshine.sample import transcribe
from csm_ft.families.moonshine.size import SAMPLE_RATE_HZ

_BATCH_SEC = 120.0  # of sound that is transcribed at once, the longest clip times their number


def score(
    model: MoonshineModel, split: Split, rows: Sequence[int], max_tokens_per_sec: float
) -> dict[str, float]:
    """Return val_wer, val_cer and val_capped over the clips `rows`.

    Errors are summed over the corpus and divided once, after data.text.normalise on both sides.
    """
    assert model.tokenizer is not None, "a model with the tokenizer of its token file"
    references, hypotheses, num_capped = [], [], 0
    for batch in _batches(split, rows):
        clips = [split.array("samples", row) for row in batch]
        for row, found in zip(batch, transcribe(model, clips, max_tokens_per_sec), strict=True):
            references.append(normalise(split.clip(row).text))
            hypotheses.append(normalise(model.tokenizer.decode(found.ids)))
            num_capped += not found.is_complete
    return {
        "val_wer": word_errors(references, hypotheses).rate,
        "val_cer": character_errors(references, hypotheses).rate,
        "val_capped": num_capped / len(rows),
    }


def _batches(split: Split, rows: Sequence[int]) -> Iterator[list[int]]:
    """Yield clips of similar lengths, at most _BATCH_SEC of the longest times their number."""
    lengths = split.lengths("samples")
    budget = _BATCH_SEC * SAMPLE_RATE_HZ
    batch: list[int] = []
    for row in sorted(rows, key=lengths.__getitem__):
        if batch and lengths[row] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch

"""Error rates of greedy transcripts on validation clips."""

from collections import Counter
from collections.abc import Iterator, Sequence

from csm_ft.data.split import Split
from csm_ft.data.text import character_errors, open_normaliser, set_case, word_errors
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.model import MoonshineModel
from csm_ft.families.moonshine.sample import transcribe
from csm_ft.families.moonshine.size import SAMPLE_RATE_HZ

_LONGEST_PHRASE, _FEWEST_TIMES = 8, 4  # words, and times in a row
_BATCH_SEC = 120.0  # of sound that is transcribed at once, the longest clip times their number


def score(
    model: MoonshineModel, split: Split, rows: Sequence[int], config: MoonshineConfig
) -> dict[str, float]:
    """Return val_wer and its parts, val_cer, val_wer_raw, val_capped and val_repeated of `rows`.

    Errors are summed over the corpus and divided once: after the rules of the language on both
    sides, and raw, as the texts are trained on.
    """
    assert model.tokenizer is not None, "a model with the tokenizer of its token file"
    rules = open_normaliser(language_of(split, config)).apply
    texts: list[tuple[str, str]] = []  # reference and hypothesis
    num_capped = 0
    for batch in batches_of(split.lengths("samples").tolist(), rows):
        samples = split.many("samples", batch, config.decode_workers)
        clips = [samples[row] for row in batch]
        for row, found in zip(batch, transcribe(model, clips, config.cap), strict=True):
            wanted = set_case(split.clip(row).text, str(split.facts.get("text_case", "keep")))
            texts.append((wanted, model.tokenizer.decode(found.ids)))
            num_capped += not found.is_complete
    wanted, written = zip(*texts, strict=True)
    references, hypotheses = list(map(rules, wanted)), list(map(rules, written))
    words = word_errors(references, hypotheses)
    num_words = max(1, words.num_reference)
    return {
        "val_wer": words.rate,
        "val_insertions": words.insertions / num_words,
        "val_deletions": words.deletions / num_words,
        "val_substitutions": words.substitutions / num_words,
        "val_cer": character_errors(references, hypotheses).rate,
        "val_wer_raw": word_errors(wanted, written).rate,
        "val_capped": num_capped / len(rows),
        "val_repeated": sum(map(repeats, hypotheses)) / len(rows),
    }


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
    """Yield rows of similar lengths in samples, at most 120 s of sound with its padding at once."""
    budget = _BATCH_SEC * SAMPLE_RATE_HZ
    batch: list[int] = []
    for row in sorted(rows, key=lengths.__getitem__):
        if batch and lengths[row] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch

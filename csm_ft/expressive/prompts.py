"""What is spoken at the end: the same neutral sentences with every tag, and without."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_ft.atomic import write_whole
from csm_ft.console import console, shorten
from csm_ft.data.split import Split
from csm_ft.errors import ConfigError
from csm_ft.evaluate.expression import NEUTRAL
from csm_ft.evaluate.judge import EMOTION
from csm_ft.families.stores import open_store
from csm_ft.families.template import TextTemplate

MAX_TAGS = 8  # the most frequent ones
# Words that are neither angry nor glad, so that only the voice can tell.
SENTENCES = (
    "The bus to the library leaves at noon.",
    "There is a letter for you on the table.",
    "We can meet in front of the station.",
    "The shop on the corner opens at nine.",
    "I put the keys into the blue box.",
    "They painted the door of the garage.",
    "The next train goes from platform four.",
    "She wrote the number on a piece of paper.",
    "You will find the cups in the kitchen.",
    "The class begins in about ten minutes.",
    "He walked along the river to the bridge.",
    "It takes an hour to get to the village.",
    "The window of the office is open.",
    "I have read this page before.",
    "My brother works at the hospital.",
    "The road to the north is closed today.",
)


def write_prompts(tokens: Path, template: str, num_sentences: int, output: Path) -> None:
    """Write prompts for the speaker with most training clips: every tag that was heard, and none.

    Sentences that stand in the training are left out, which is told.
    """
    split = open_store(tokens, in_memory=False).splits["train"]
    columns = TextTemplate(template).columns
    heard = {split.clip(row).text.casefold().strip() for row in range(len(split))}
    new = [text for text in SENTENCES if text.casefold() not in heard]
    if len(new) < len(SENTENCES):
        known = [text for text in SENTENCES if text not in new]
        console.print(f"sentences that were trained on are not spoken: {shorten(known)}")
    if not new:
        new = SENTENCES
        console.print(
            "but these are all there are, so they are spoken: their numbers say how well the model"
            " repeats",
            style="yellow",
        )
    speakers = Counter(split.speaker(row) for row in range(len(split)))
    speaker = speakers.most_common(1)[0][0]
    prompts = list(_prompts(new[:num_sentences], speaker, _tags(split, columns)))
    write_whole(output, json.dumps(prompts, indent=2, ensure_ascii=False))


def check_comparable(prompts: Path) -> None:
    """Raise ConfigError where expression cannot be compared: there is no neutral, or only that."""
    emotions = {one.get(EMOTION, "") for one in json.loads(prompts.read_text("utf-8"))} - {""}
    if NEUTRAL not in emotions or len(emotions) < 2:
        raise ConfigError(
            f"--sweep ranks trials by expression_distance, how far emotions are from {NEUTRAL}, and"
            f" the sentences are spoken with {shorten(sorted(emotions)) or 'no emotion'}; merge"
            f" labels (--map calm={NEUTRAL}), or name another number in the file of"
            " --train_config: best_by: wer, judge_every: 1/3"
        )


def _tags(split: Split, columns: Sequence[str]) -> list[Mapping[str, str]]:
    """Return the most frequent combinations of tags, and no tags."""
    counts: Counter[tuple[tuple[str, str], ...]] = Counter()
    for row in range(len(split)):
        tags = split.tags(row)
        counts[tuple((name, tags[name]) for name in columns if name in tags)] += 1
    frequent = [dict(tags) for tags, _ in counts.most_common() if tags]
    return [{}, *frequent[:MAX_TAGS]]


def _prompts(
    sentences: Sequence[str], speaker: str, tags: Sequence[Mapping[str, str]]
) -> Iterator[dict[str, Any]]:
    for text in sentences:
        for chosen in tags:
            named = {"speaker": speaker} if speaker else {}
            yield {"text": text, **named, **chosen}

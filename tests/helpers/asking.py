"""The questions of the Moshi demo as recordings of a user, and what a model answers to them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import soundfile

from csm_ft.data.audio import load
from csm_ft.families.moshi.turns import find_turns
from csm_ft.generate.__main__ import main as generate
from tests.helpers.recognise import recognise

RATE_HZ = 16000
BEFORE_SEC, AFTER_SEC = 5 * 0.08, 5.0  # around a question; whole frames, as in the dialogues


class Question(NamedTuple):
    """A question as the user asks it in a dialogue."""

    answer: str
    sound: Path  # the user alone
    answered_sec: float  # in it, when the real answer begins


class Answer(NamedTuple):
    """What a model says to a question."""

    heard: str  # one of the candidates, or ""
    written: str
    begins_sec: float


def write_questions(
    metadata: Path, pairs: Sequence[tuple[str, str]], folder: Path
) -> list[Question]:
    """Write the first recording of each question in the dialogues of `metadata`."""
    found: dict[str, Question] = {}
    answers = dict(pairs)
    for row in map(json.loads, metadata.read_text().splitlines()):
        sound = metadata.parent / row["path"]
        words = json.loads(sound.with_suffix(".json").read_text())["alignments"]
        asked = [word for word in words if word[2] == "SPEAKER_OTHER"]
        said = [word for word in words if word[2] == "SPEAKER_MAIN"]
        for first in range(len(asked)):
            for text in answers.keys() - found.keys():
                last = first + len(text.split()) - 1
                if " ".join(word[0] for word in asked[first : last + 1]) != text:
                    continue
                start_sec, end_sec = asked[first][1][0] - BEFORE_SEC, asked[last][1][1]
                real_sec = next(t for _, (t, _), _ in said if t > end_sec - 0.5)
                path = folder / f"{len(found):02d}.wav"
                _cut(sound, path, start_sec, end_sec)
                found[text] = Question(answers[text], path, real_sec - start_sec)
    return [found[text] for text in answers]


def _cut(sound: Path, path: Path, start_sec: float, end_sec: float) -> None:
    """Write the user's channel of a span, with silence behind it."""
    wave = load(sound, sample_rate_hz=RATE_HZ, channel="right")
    start = round(start_sec * RATE_HZ)
    asked = wave[max(0, start) : round(end_sec * RATE_HZ)]
    before, after = [0.0] * max(0, -start), [0.0] * round(AFTER_SEC * RATE_HZ)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, [*before, *asked, *after], RATE_HZ)


def ask(model: Path, questions: Sequence[Question], folder: Path) -> list[Answer]:
    """Ask a model by `csm_ft.generate --user`, greedily, and hear which answer it gives."""
    sounds = [word for one in questions for word in ("--user", str(one.sound))]
    argv = ["--model", str(model), *sounds, "--output", str(folder), "--device", "cpu"]
    greedy = ["--temperature", "0", "--text_temperature", "0", "--batch_size", "20"]
    assert generate([*argv, *greedy]) == 0
    candidates = [one.answer for one in questions]
    answers: list[Answer] = []
    for path in sorted(folder.glob("*.wav")):
        wave = load(path, sample_rate_hz=RATE_HZ, channel="left")
        turns = find_turns(wave, RATE_HZ)
        begins_sec = turns[0].start * 0.02 if turns else float("inf")
        written = json.loads(path.with_suffix(".json").read_text())["answer"]
        answers.append(Answer(recognise(wave, RATE_HZ, candidates), written, begins_sec))
    return answers

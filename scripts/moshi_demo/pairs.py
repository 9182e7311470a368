"""What is said in the Moshi demo: questions, and the answers to them.

Every English word is in the CMU dictionary, so that a recogniser can tell the answers apart. The
Japanese ones are in kana, a blank between words only because each is spoken by itself.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple


class Pair(NamedTuple):
    """A question of the user, and Moshi's answer."""

    question: str
    answer: str


ENGLISH = (
    Pair("what is your name", "my name is anna"),
    Pair("where do you live", "i live near the sea"),
    Pair("how old are you", "i am seven years old"),
    Pair("what time is it", "it is half past nine"),
    Pair("when does the shop open", "the shop opens at ten"),
    Pair("which train do i take", "the train leaves from platform two"),
    Pair("how much is the bread", "bread costs three dollars"),
    Pair("what would you drink", "green tea with milk"),
    Pair("how is the weather", "the sun is shining today"),
    Pair("can you help me", "yes tell me what you need"),
    Pair("who is your friend", "my best friend is peter"),
    Pair("what color is your car", "my car is blue and white"),
    Pair("do you have a dog", "no but i have two cats"),
    Pair("where are the keys", "look under the kitchen table"),
    Pair("what is for dinner", "we eat fish and rice"),
    Pair("how do i get home", "turn left behind the river"),
    Pair("what did you buy", "a new book for my sister"),
    Pair("are you tired", "yes i worked all night"),
    Pair("when do we meet", "on friday in the morning"),
    Pair("what do you play", "the piano almost every day"),
)
JAPANESE = (
    Pair("なまえ は なん です か", "わたし は はなこ です"),
    Pair("いま なんじ です か", "いま ごじ はん です"),
    Pair("どこ に すんで います か", "とうきょう に います"),
    Pair("なに が すき です か", "さかな が すき です"),
)
BACKCHANNELS = {"en": ("okay", "yes"), "ja": ("はい",)}


class Talk(NamedTuple):
    """What is said in a dialogue."""

    language: str  # of espeak-ng
    pairs: Sequence[Pair]


def demo_talks(turns: int, name: str) -> list[Talk]:
    """Return dialogues of so many pairs: every pair is once the first, once the second, ..."""
    random_source = dice(name)
    talks: list[Talk] = []
    for language, pairs in (("en", ENGLISH), ("ja", JAPANESE)):
        decks = [random_source.sample(pairs, len(pairs)) for _ in range(turns)]
        talks += [Talk(language, chosen) for chosen in zip(*decks, strict=True)]
    return talks


def corpus_talks(count: int, each: int, name: str) -> list[Talk]:
    """Return dialogues for the base: the demo's words, but none of its questions.

    Half of the questions are words in no order, to be repeated after "tell"; the others are those
    of forty pairs of such phrases. So a base learns to hear and to speak the words, and to answer
    by heart, and what the demo teaches is new to it.
    """
    random_source = dice(name)
    words = {"en": words_of(ENGLISH), "ja": words_of(JAPANESE)}
    known = {
        "en": _nonsense(words["en"], 32, "english"),
        "ja": _nonsense(words["ja"], 8, "japanese"),
    }
    talks: list[Talk] = []
    for _ in range(count):
        language = random_source.choices(("en", "ja"), (0.85, 0.15))[0]
        pairs: list[Pair] = []
        for _ in range(each):
            if random_source.random() < 0.5:
                pairs.append(random_source.choice(known[language]))
            else:
                phrase = _phrase(words[language], random_source)
                pairs.append(Pair(f"{'tell' if language == 'en' else 'なに'} {phrase}", phrase))
        talks.append(Talk(language, pairs))
    return talks


def words_of(pairs: Sequence[Pair]) -> list[str]:
    """Return all words of questions and answers, sorted."""
    return sorted({word for pair in pairs for text in pair for word in text.split()})


def dice(name: str) -> random.Random:
    """Return a generator that always draws the same for the same name."""
    return random.Random(name)  # noqa: S311 - reproducible, not secret


def _nonsense(words: Sequence[str], count: int, name: str) -> list[Pair]:
    random_source = dice(name)
    phrases = [_phrase(words, random_source) for _ in range(2 * count)]
    return [Pair(*both) for both in zip(phrases[::2], phrases[1::2], strict=True)]


def _phrase(words: Sequence[str], random_source: random.Random) -> str:
    return " ".join(random_source.sample(words, random_source.randint(3, 5)))

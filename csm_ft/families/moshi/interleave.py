"""The text stream: words with times laid over frames, one token per frame. Imports no torch.

Padding stands where nothing is said; the frame before a word is end-of-padding. A picture of one
window, with E = end of padding and _ = padding:

    frame    0    1    2    3    4    5    6    7
    text     _    E   ▁he  llo   _    _    E  ▁you
    sound   c0   c0   c0   c0   c0   c0   c0   c0

Three rules:

- drop: that of kyutai's trainer. A word begins at its frame, and cuts off what is left of the word
  before it.
- shift: the same, but what is left of a word is said first, so that later words are late.
- characters: that of J-Moshi. Every piece has a time of its own, by its characters' share of the
  word; it goes to that frame or the next free one, and each piece that follows padding has an
  end-of-padding before it, also within a word.

On purpose different from those programs: words in any order are sorted by their start; words that
end at their start, which drop and shift leave out, are counted; and text beyond the sound is cut.

drop and shift lay out each window by itself: words that start in it. characters lays out the whole
dialogue, of which a window is a part.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rule = Literal["drop", "shift", "characters"]


class TimedTokens(NamedTuple):
    """Tokens that begin at a time: a word, or with the rule `characters` a piece."""

    start_sec: float
    end_sec: float
    tokens: Sequence[int]


@dataclass(frozen=True)
class Interleaver:
    """How tokens are laid over frames."""

    rule: Rule
    frame_sec: float
    padding_id: int
    end_id: int  # of padding

    def window(
        self, words: Sequence[TimedTokens], start: int, stop: int
    ) -> tuple[NDArray[np.int64], int]:
        """Return the text of frames [start, stop), and how many tokens were left out of it.

        `words` are those of one speaker in the dialogue, by their start.
        """
        rate_hz = 1 / self.frame_sec
        if self.rule == "characters":
            stream, lost = self._pieces(words, stop)
            return stream[start:stop], lost
        start_sec, stop_sec = start * self.frame_sec, stop * self.frame_sec
        begin_here = [word for word in words if start_sec <= word.start_sec < stop_sec]
        inside = [
            word._replace(start_sec=word.start_sec - start_sec)
            for word in begin_here
            if word.start_sec < word.end_sec
        ]
        text, lost = self._words(inside, stop - start, rate_hz)
        instants = (word for word in begin_here if word.start_sec >= word.end_sec)
        return text, lost + sum(len(word.tokens) for word in instants)

    def _words(
        self, words: Sequence[TimedTokens], num_frames: int, rate_hz: float
    ) -> tuple[NDArray[np.int64], int]:
        """Lay out words: each at its frame, or after what is left of the one before it."""
        text = np.full(num_frames, self.padding_id, dtype=np.int64)
        waiting: deque[int] = deque()
        coming, lost = deque(words), 0
        for frame in range(num_frames):
            while coming and coming[0].start_sec * rate_hz < frame + 1:
                word = coming.popleft()
                if self.rule == "drop":
                    lost += len(waiting)
                    waiting.clear()
                waiting.extend(word.tokens)
            if waiting:
                if frame and text[frame - 1] == self.padding_id:
                    text[frame - 1] = self.end_id
                text[frame] = waiting.popleft()
        return text, lost + len(waiting) + sum(len(word.tokens) for word in coming)

    def _pieces(
        self, pieces: Sequence[TimedTokens], num_frames: int
    ) -> tuple[NDArray[np.int64], int]:
        """Lay out pieces: each at its frame, or the next one without a piece."""
        text = np.full(num_frames, self.padding_id, dtype=np.int64)
        free, lost = 0, 0  # the first frame after the last piece
        for piece in pieces:
            frame = max(free, int(piece.start_sec // self.frame_sec))
            if frame >= num_frames:
                lost += len(piece.tokens)
                continue
            for token in piece.tokens:
                if frame < num_frames:
                    if frame and text[frame - 1] == self.padding_id:
                        text[frame - 1] = self.end_id
                    text[frame] = token
                    frame += 1
                else:
                    lost += 1
            free = frame
        return text, lost


def timed_tokens(
    words: NDArray[np.float64], tokens: NDArray[np.uint32], speaker: int
) -> list[TimedTokens]:
    """Return the words of one speaker from the arrays of a clip, by their start.

    `words` [W, 4] are start, end, speaker and number of tokens; `tokens` are those of all words.
    """
    stops = np.cumsum(words[:, 3]).astype(np.int64)
    found = []
    for (start_sec, end_sec, who, count), stop in zip(words.tolist(), stops.tolist(), strict=True):
        if int(who) == speaker:
            own = tokens[stop - int(count) : stop].tolist()
            found.append(TimedTokens(start_sec, end_sec, own))
    return sorted(found, key=lambda word: word.start_sec)

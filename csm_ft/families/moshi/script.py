"""Texts that Moshi is made to speak: when a word begins is its choice, which word comes is not.

In each frame its text is drawn from what the rules of the text stream (interleave.py) allow next:

- within a word, the next token of it;
- behind an end of padding, the first token of the next word;
- elsewhere padding, the end of it, and behind another word or at the start that first token, too;
- behind the last word, padding alone.

A sample ends TAIL_SEC behind the last token, as Moshi itself never ends.
"""

from collections.abc import Sequence

import numpy as np

from csm_ft.data.split import Arrays

TAIL_SEC = 1.0  # of the last word and the silence behind it


class Script:
    """The words of one sample, and how far it is."""

    def __init__(self, words: Sequence[Sequence[int]], padding_id: int, end_id: int) -> None:
        self._words = [list(word) for word in words if len(word)]
        self._padding_id, self._end_id = padding_id, end_id
        self._word, self._token = 0, 0  # what comes next
        self._last: int | None = None
        self._num_frames = 0
        self.num_spoken_frames = 0  # up to the last token of the script

    @classmethod
    def of_prompt(cls, arrays: Arrays, silent_ids: Sequence[int]) -> "Script | None":
        """Return the script in the arrays of a prompt, if it has one."""
        if "script" not in arrays:
            return None
        ends = np.cumsum(arrays["script_words"])[:-1]
        words = [word.tolist() for word in np.split(arrays["script"], ends)]
        padding_id, end_id = silent_ids
        return cls(words, padding_id, end_id)

    @staticmethod
    def to_arrays(words: Sequence[Sequence[int]]) -> Arrays:
        """Return the arrays of a prompt: tokens [L], and how many of them each word has [W]."""
        tokens = [token for word in words for token in word]
        lengths = [len(word) for word in words]
        return {"script": np.array(tokens), "script_words": np.array(lengths)}

    @property
    def is_spoken(self) -> bool:
        """Whether all words are out."""
        return self._word == len(self._words)

    def allowed(self) -> list[int]:
        """Return the ids that the next frame is drawn from."""
        if self.is_spoken:
            return [self._padding_id]
        token = self._words[self._word][self._token]
        if self._token or self._last == self._end_id:
            return [token]
        silent = [self._padding_id, self._end_id]
        return silent if self._last == self._padding_id else [*silent, token]

    def advance(self, id_: int) -> None:
        """Take what was drawn for a frame."""
        self._num_frames += 1
        self._last = id_
        if self.is_spoken or (not self._token and id_ in (self._padding_id, self._end_id)):
            return
        self._token += 1
        if self._token == len(self._words[self._word]):
            self._word, self._token = self._word + 1, 0
        self.num_spoken_frames = self._num_frames

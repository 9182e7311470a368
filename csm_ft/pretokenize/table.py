"""The clips of a split as the token file is written from them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.references import Reference
from csm_ft.data.split import DUPLICATE, Clip
from csm_ft.pretokenize.clips import Job, Span
from csm_ft.pretokenize.encode import ClipCache
from csm_ft.pretokenize.note_kinds import Place


class Table:
    """The clips of one split as write_store reads them.

    Arrays of the sound come from the cache as they are asked for, those of the text from memory.
    """

    def __init__(self, split: str, spans: Sequence[Span], job: Job, cache: ClipCache) -> None:
        self._split, self._spans, self._job, self._cache = split, spans, job, cache
        self._ids = [span.clip_id(job.encoder.audio_fingerprint) for span in spans]
        seen: set[tuple[str, ...]] = set()
        self._flags = []
        for id_, span in zip(self._ids, spans, strict=True):
            row = span.row
            said = (id_, row.text, row.speaker or "", row.conversation)
            self._flags.append(DUPLICATE if said in seen else 0)
            seen.add(said)

    def __len__(self) -> int:
        return len(self._spans)

    def lengths(self, array: str) -> NDArray[np.int64]:
        """Return the rows of an array for each clip, [n]."""
        lengths = [self._length(i, array) for i in range(len(self))]
        return np.array(lengths, dtype=np.int64)

    def array(self, name: str, index: int) -> NDArray[Any]:
        """Return one array of one clip, [T] or [T, width]."""
        text = self._spans[index].text
        return text[name] if name in text else self._cache.array(self._ids[index], name)

    def clip(self, index: int) -> Clip:
        """Return the row of the clip table."""
        span = self._spans[index]
        row = span.row
        return Clip(
            id=self._ids[index],
            text=row.text,
            speaker=row.speaker or "",
            source=str(row.path.absolute() if self._job.encoder.referenced else row.path),
            start_sec=span.start_sec,
            end_sec=span.end_sec,
            duration_sec=span.duration_sec,
            flags=self._flags[index],
            conversation=row.conversation,
            turn=row.turn,
            tags=row.tags,
            weight=row.weight,
            measures=self._cache.measures(self._ids[index]),
        )

    def reference(self, index: int) -> Reference:
        """Return where the sound of a clip comes from."""
        span = self._spans[index]
        return Reference(span.file, self._job.channel(span.row))

    def places(self) -> Iterator[Place]:
        """Yield every clip with the row that it comes from."""
        for index, span in enumerate(self._spans):
            yield Place(self._split, index, span.row.where, self.clip(index))

    def _length(self, index: int, array: str) -> int:
        text = self._spans[index].text
        return len(text[array]) if array in text else self._cache.lengths(self._ids[index])[array]

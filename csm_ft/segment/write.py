"""Clips to metadata: spans into the recordings; beside them what is rejected, and a summary."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_ft.atomic import write_whole
from csm_ft.console import clock, shorten
from csm_ft.data.rows import Rejection
from csm_ft.datasets.write import as_line, shown_path
from csm_ft.segment.cut import WAYS_OUT, Clip
from csm_ft.segment.hear import Recording


@dataclass(frozen=True)
class Cut:
    """A clip, and the recording that it is of."""

    recording: Recording
    clip: Clip

    @property
    def speaker(self) -> str:
        """Who speaks: as told apart by voices, else the name of the recording."""
        return self.clip.stretches[0].speaker or self.recording.name

    @property
    def length_sec(self) -> float:
        """Length of the clip."""
        return self.clip.end_sec - self.clip.start_sec

    def rejection(self) -> Rejection:
        """Return it as one that is rejected."""
        clip, recording = self.clip, self.recording
        side = "" if recording.channel == "mix" else f" {recording.channel}"
        where = f"{recording.path.name}{side} {clip.start_sec:.3f}-{clip.end_sec:.3f} s"
        reason = f"{clip.problem}: {clip.reason}; {WAYS_OUT[clip.problem]}"
        return Rejection(where, str(recording.path), clip.text, reason)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count} {noun}{'s' * (count != 1)}"


def in_order(cuts: Sequence[Cut]) -> list[Cut]:
    """Return clips by file and time, the sides of a call among one another."""
    return sorted(cuts, key=lambda cut: (str(cut.recording.path), cut.clip.start_sec))


def write_clips(
    output: Path, cuts: Sequence[Cut], files: Sequence[Rejection], *, source: str, turns: bool
) -> Path:
    """Write the clips that are kept to `output`, all else to `<output>.rejected.jsonl`.

    With `turns`, the clips of a file are turns of a conversation; where one is rejected, the next
    one begins another, so that nothing is taken for the answer to something that is missing.
    """
    rejected = Path(f"{output}.rejected.jsonl")
    lines = list(_lines(cuts, output.parent.resolve(), source, turns=turns))
    rejections = [*files, *(cut.rejection() for cut in cuts if cut.clip.problem)]
    if rejections:
        write_whole(rejected, "".join(f"{one.to_json()}\n" for one in rejections))
    else:
        rejected.unlink(missing_ok=True)
    write_whole(output, "".join(f"{line}\n" for line in lines))
    return rejected


def _lines(cuts: Sequence[Cut], folder: Path, source: str, *, turns: bool) -> Iterator[str]:
    conversations = Counter[Path]()
    num_turns = 0
    before: Cut | None = None
    for cut in cuts:
        clip, recording = cut.clip, cut.recording
        is_next = before and not before.clip.problem and before.recording.path == recording.path
        before = cut
        if clip.problem:
            continue
        values: dict[str, Any] = {"path": shown_path(recording.path, folder)}
        if not is_next:
            conversations[recording.path] += 1
            num_turns = 0
        num_turns += 1
        if turns:
            name = f"{values['path']} {conversations[recording.path]}"
            values |= {"conversation": name, "turn": num_turns}
        confidence = clip.confidence
        values |= {
            "start_sec": round(clip.start_sec, 3),
            "end_sec": round(clip.end_sec, 3),
            "text": clip.text,
            "speaker": cut.speaker,
            "channel": "" if recording.channel == "mix" else recording.channel,
            "language": clip.stretches[0].language,
            "confidence": None if confidence is None else round(confidence, 3),
            "source": source,
        }
        yield as_line(values)


def describe(output: Path, cuts: Sequence[Cut], num_recordings: int) -> Iterator[str]:
    """Yield the summary: what is kept, by speaker and language, and what is rejected, by reason."""
    kept = [cut for cut in cuts if not cut.clip.problem]
    all_sec, kept_sec = (sum(cut.length_sec for cut in some) for some in (cuts, kept))
    lengths = sorted(cut.length_sec for cut in kept)
    yield (
        f"{output}: {len(kept)} clips of {lengths[0]:.1f} to {lengths[-1]:.1f} s (median"
        f" {lengths[len(lengths) // 2]:.1f} s), {clock(kept_sec)} of {clock(all_sec)} of speech, in"
        f" {plural(num_recordings, 'recording')}"
    )
    known = [cut.clip.confidence for cut in kept if cut.clip.confidence is not None]
    if known:
        yield f"confidence: mean {sum(known) / len(known):.2f}, lowest {min(known):.2f}"
    else:
        yield "confidence: this recogniser gives none, so --min_confidence rejects nothing"
    for title, values in (
        ("languages", [cut.clip.stretches[0].language or "unknown" for cut in kept]),
        ("speakers", [cut.speaker for cut in kept]),
    ):
        seconds = Counter[str]()
        for value, cut in zip(values, kept, strict=True):
            seconds[value] += cut.length_sec  # pyright: ignore[reportArgumentType]
        shown = shorten(f"{value} {clock(sec)}" for value, sec in seconds.most_common())
        yield f"{title}: {shown}"
    yield from describe_rejected(cuts)


def describe_rejected(cuts: Sequence[Cut]) -> Iterator[str]:
    """Yield how much is rejected for each reason, and what helps."""
    for problem, way_out in WAYS_OUT.items():
        own = [cut for cut in cuts if cut.clip.problem == problem]
        if own:
            seconds = sum(cut.length_sec for cut in own)
            yield f"rejected, {problem}: {plural(len(own), 'clip')}, {clock(seconds)}; {way_out}"

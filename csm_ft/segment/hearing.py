"""All recordings to blocks of speech with words: resumable, with the reason for what fails."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from csm_ft.console import clock, console, track
from csm_ft.data.rows import Rejection
from csm_ft.device import choose_device
from csm_ft.errors import AudioError, ConfigError
from csm_ft.evaluate.recognise import TimedRecogniser, open_recogniser
from csm_ft.segment.hear import Block, Recording, hear
from csm_ft.segment.parts import Part, block_from_json, block_to_json
from csm_ft.segment.speech import SpeechFinder, Stretch, join_touching


@dataclass
class Hearing:
    """Recordings, what was heard of them, and what is wrong with them."""

    folder: Path  # of the parts
    facts: Sequence[str]  # what decides what is heard
    recordings: Sequence[Recording]
    find_speech: SpeechFinder  # voice activity
    blocks: dict[Recording, list[Block]] = field(default_factory=dict)
    problems: list[Rejection] = field(default_factory=list)

    def reject(self, recording: Recording, reason: str) -> None:
        """Note why nothing, or no more, is used of a recording."""
        side = "" if recording.channel == "mix" else f" ({recording.channel})"
        path = str(recording.path)
        self.problems.append(Rejection(f"{path}{side}", path, "", reason))

    def stretches(self, recording: Recording) -> list[Stretch]:
        """Return all speech of a recording."""
        blocks = self.blocks[recording]
        return list(join_touching([one for block in blocks for one in block.stretches]))

    def heard_sec(self, recording: Recording) -> float:
        """Return up to where a recording was heard."""
        blocks = self.blocks[recording]
        return blocks[-1].end_sec if blocks else 0.0

    def part(self, kind: str, recording: Recording, *facts: str) -> Part:
        """Return the file that keeps what was found of a recording."""
        return Part(self.folder, kind, recording, [*self.facts, *facts])

    def hear_all(self, recogniser: TimedRecogniser) -> Iterator[Recording]:
        """Hear what was not heard before, block by block; each is kept at once.

        Yields each recording when it was heard whole, or as far as it can be read.
        """
        parts = {one: self.part("words", one) for one in self.recordings}
        for recording, part in parts.items():
            self.blocks[recording] = [block_from_json(value) for value in part.read()]
        heard_sec = sum(map(self.heard_sec, parts))
        left_sec = sum(recording.duration_sec for recording in parts) - heard_sec
        kept = f"; {clock(heard_sec)} were heard before" if heard_sec else ""
        count = f"{len(parts)} recording{'s' * (len(parts) != 1)}"
        console.print(f"{count}, {clock(left_sec)} to hear{kept}; {recogniser.name}", markup=False)
        lengths_sec: list[float] = []
        ended: list[Recording] = []

        def blocks() -> Iterator[Block]:
            for recording, part in parts.items():
                for block in self._hear(recording, part, recogniser):
                    lengths_sec.append(block.end_sec - block.start_sec)
                    yield block
                ended.append(recording)

        weights = (lengths_sec[-1] for _ in itertools.count())
        for _ in track(blocks(), "recognising", left_sec, weights=weights):
            yield from ended
            ended.clear()
        yield from ended

    def _hear(
        self, recording: Recording, part: Part, recogniser: TimedRecogniser
    ) -> Iterator[Block]:
        known = self.blocks[recording]
        last = known[-1] if known else None
        try:
            for block in hear(recording, recogniser, last, self.find_speech):
                part.append(block_to_json(block))
                known.append(block)
                yield block
        except AudioError as error:
            reason = str(error).removeprefix(f"{recording.path}: ")
            heard = clock(self.heard_sec(recording))
            since = f"used up to {heard} only: " if known else ""
            self.reject(recording, f"{since}{reason}")

    def has_words(self, recording: Recording) -> bool:
        """Tell whether words were heard; if not, and it was read, note what it is instead."""
        blocks = self.blocks[recording]
        stretches = [stretch for block in blocks for stretch in block.stretches]
        if any(stretch.words for stretch in stretches):
            return True
        if not blocks:  # noted already
            return False
        speech_sec = sum(stretch.end_sec - stretch.start_sec for stretch in stretches)
        if all(block.is_silent for block in blocks):
            reason = "is silent: below -60 dBFS; look for a muted track, or another channel"
        elif not stretches:
            reason = "has no speech that voice activity finds (music, noise?); listen to it"
        else:
            reason = (
                f"has {speech_sec:.1f} s of what may be speech, of which no word was heard; name"
                " its --language, or a larger recogniser with --asr"
            )
        self.reject(recording, reason)
        return False


def open_timed_recogniser(asr: str, language: str, device: str, program: str) -> TimedRecogniser:
    """Open a recogniser with word times; ConfigError where there is none."""
    recogniser = open_recogniser(asr, language, choose_device(device))
    if isinstance(recogniser, str):
        raise ConfigError(f"{recogniser}; {program} cannot do without one")
    if not isinstance(recogniser, TimedRecogniser):
        raise ConfigError(
            f"--asr {asr}: {recogniser.name} does not tell when words are said; name a model"
            " of faster-whisper, or transformers:NAME"
        )
    return recogniser


def recogniser_facts(asr: str, language: str, recogniser: TimedRecogniser) -> list[str]:
    """Return what decides what a recogniser hears; faster-whisper brings the voice activity."""
    silero = version("faster-whisper") if find_spec("faster_whisper") else ""
    return [asr, recogniser.name, language, silero]

"""The program: find recordings, hear them, tell speakers apart, cut, write."""

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from csm_ft.atomic import exclusive
from csm_ft.console import clock, console, track
from csm_ft.data.rows import Rejection
from csm_ft.device import choose_device
from csm_ft.errors import AudioError, ConfigError, DataError
from csm_ft.evaluate.recognise import TimedRecogniser, open_recogniser
from csm_ft.evaluate.speaker import Embedder, open_embedder
from csm_ft.segment.config import SPEAKERS_AUTO, SPEAKERS_BY_CHANNEL, SegmentConfig
from csm_ft.segment.cut import Rules, cut
from csm_ft.segment.hear import Block, Recording, hear
from csm_ft.segment.parts import Part, block_from_json, block_to_json
from csm_ft.segment.recordings import find_recordings
from csm_ft.segment.speech import Stretch, check_voice_activity, join_touching
from csm_ft.segment.voices import Voices, embed_block, label_speakers
from csm_ft.segment.write import Cut, describe, describe_rejected, in_order, plural, write_clips


@dataclass
class Job:
    """Recordings, what was heard of them, and what is wrong with them."""

    config: SegmentConfig
    folder: Path  # of the parts
    facts: Sequence[str]  # what decides what is heard
    recordings: list[Recording]
    blocks: dict[Recording, list[Block]] = field(default_factory=dict)
    problems: list[Rejection] = field(default_factory=list)

    def reject(self, recording: Recording, reason: str) -> None:
        """Note why nothing, or no more, is cut from a recording."""
        side = "" if recording.channel == "mix" else f" ({recording.channel})"
        path = str(recording.path)
        self.problems.append(Rejection(f"{path}{side}", path, "", reason))

    def stretches(self, recording: Recording) -> list[Stretch]:
        """Return all speech of a recording."""
        return list(
            join_touching([one for block in self.blocks[recording] for one in block.stretches])
        )


def segment(config: SegmentConfig) -> None:
    """Write the clips of all recordings, and print a summary.

    Raises ConfigError, MachineError, and DataError where not a single clip can be used; then
    nothing is written but what was heard, from which the same command continues.
    """
    check_voice_activity()
    output, path = Path(config.output), Path(config.path)
    by_channel = config.speakers == SPEAKERS_BY_CHANNEL
    found = find_recordings(path, output, by_channel=by_channel)
    for note in found.notes:
        _tell(note)
    recogniser = _open_recogniser(config)
    embedder = _open_embedder(config)
    folder = Path(f"{output}.parts")
    busy = f"{output}: another process cuts recordings into this file; wait, or name another"
    with exclusive(folder / ".lock", busy):
        facts = [config.asr, recogniser.name, config.language, version("faster-whisper")]
        problems = [Rejection(str(one), str(one), "", why) for one, why in found.problems.items()]
        job = Job(config, folder, facts, found.recordings, problems=problems)
        try:
            hear_all(job, recogniser)
            cuts = _cut_all(job, embedder)
        except KeyboardInterrupt:
            _tell("interrupted; the same command continues")
            raise
        _check_any(job, cuts)
        source = path.resolve().name if path.is_dir() else path.resolve().stem
        rejected = write_clips(
            output, cuts, job.problems, source=source, turns=config.conversations
        )
    for line in describe(output, cuts, len({one.recording for one in cuts})):
        _tell(line)
    _tell_problems(job)
    if rejected.exists():
        _tell(f"{rejected}: all that is rejected, each with its reason")
    _tell(f"next: python pretokenize.py --train_data {shlex.quote(str(output))}")


def hear_all(job: Job, recogniser: TimedRecogniser) -> None:
    """Hear what was not heard before, block by block; each is kept at once."""
    parts: dict[Recording, Part] = {}
    for recording in job.recordings:
        parts[recording] = Part(job.folder, "words", recording, job.facts)
        job.blocks[recording] = [block_from_json(value) for value in parts[recording].read()]
    left_sec = sum(recording.duration_sec - _heard_sec(job, recording) for recording in parts)
    heard_sec = sum(_heard_sec(job, recording) for recording in parts)
    kept = f"; {clock(heard_sec)} were heard before" if heard_sec else ""
    count = plural(len(parts), "recording")
    _tell(f"{count}, {clock(left_sec)} to hear{kept}; {recogniser.name}")
    lengths_sec: list[float] = []

    def blocks() -> Iterator[Block]:
        for recording, part in parts.items():
            known = job.blocks[recording]
            try:
                for block in hear(recording, recogniser, known[-1] if known else None):
                    part.append(block_to_json(block))
                    known.append(block)
                    lengths_sec.append(block.end_sec - block.start_sec)
                    yield block
            except AudioError as error:
                reason = str(error).removeprefix(f"{recording.path}: ")
                since = f"used up to {clock(_heard_sec(job, recording))} only: " if known else ""
                job.reject(recording, f"{since}{reason}")

    weights = (lengths_sec[-1] for _ in itertools.count())
    for _ in track(blocks(), "recognising", left_sec, weights=weights):
        pass


def _cut_all(job: Job, embedder: Embedder | None) -> list[Cut]:
    """Return the clips of all recordings; a recording without words is noted."""
    config = job.config
    heard = {one: job.stretches(one) for one in job.recordings if _check_heard(job, one)}
    if heard and (config.num_speakers or config.speakers == SPEAKERS_AUTO):
        heard = _with_speakers(job, heard, embedder)
    rules = Rules(
        config.min_sec,
        config.max_sec,
        config.min_pause_sec,
        config.max_pause_sec,
        config.min_confidence,
    )
    return in_order(
        [
            Cut(recording, clip)
            for recording, stretches in heard.items()
            for clip in cut(stretches, recording.duration_sec, rules)
        ]
    )


def _with_speakers(
    job: Job, heard: Mapping[Recording, list[Stretch]], embedder: Embedder | None
) -> dict[Recording, list[Stretch]]:
    """Return the speech with its speakers, told apart in all recordings together or in each.

    ConfigError where there is too little speech to tell them apart; of one file, it is left out.
    """
    config = job.config
    voices = {one: _voices(job, one, embedder) if embedder else {} for one in heard}
    if not config.are_others_in_each_file:
        labelled = label_speakers(list(heard.values()), list(voices.values()), config.num_speakers)
        if labelled.note:
            _tell(f"--speakers {config.speakers}: {labelled.note}")
        return dict(zip(heard, labelled.recordings, strict=True))
    named: dict[Recording, list[Stretch]] = {}
    for one, stretches in heard.items():
        try:
            labelled = label_speakers(
                [stretches], [voices[one]], config.num_speakers, f"{one.name}-"
            )
        except ConfigError as error:
            job.reject(one, str(error))
            continue
        named[one] = labelled.recordings[0]
        _tell(f"{one.name}: {labelled.note}")
    return named


def _voices(job: Job, recording: Recording, embedder: Embedder) -> Voices:
    """Return the embeddings of a recording, from its part or anew."""
    facts = [*job.facts, job.config.embedder, embedder.name]
    part = Part(job.folder, "voices", recording, facts)
    known = part.read()
    blocks = job.blocks[recording][len(known) :]
    for block in track(blocks, f"comparing voices of {recording.name}", len(blocks)):
        found = embed_block(recording, block, embedder)
        known.append([(start, [round(float(x), 5) for x in vector]) for start, vector in found])
        part.append(known[-1])
    return {start: np.array(vector, np.float32) for block in known for start, vector in block}


def _check_heard(job: Job, recording: Recording) -> bool:
    """Tell whether words were heard; if not, and it was read, say what it is instead."""
    blocks = job.blocks[recording]
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
            f"has {speech_sec:.1f} s of what may be speech, of which no word was heard; name its"
            " --language, or a larger recogniser with --asr"
        )
    job.reject(recording, reason)
    return False


def _check_any(job: Job, cuts: Sequence[Cut]) -> None:
    """Raise DataError, after all reasons, where no clip can be used."""
    if any(not one.clip.problem for one in cuts):
        return
    for line in describe_rejected(cuts):
        _tell(line)
    _tell_problems(job)
    raise DataError(
        f"{job.config.path}: no clip can be used, of {plural(len(cuts), 'clip')} in"
        f" {plural(len(job.recordings), 'recording')}; the reasons stand above. Nothing was written"
    )


def _open_recogniser(config: SegmentConfig) -> TimedRecogniser:
    recogniser = open_recogniser(config.asr, config.language, choose_device(config.device))
    if isinstance(recogniser, str):
        raise ConfigError(f"{recogniser}; segment cannot do without one")
    if not isinstance(recogniser, TimedRecogniser):
        raise ConfigError(
            f"--asr {config.asr}: {recogniser.name} does not tell when words are said; name a model"
            " of faster-whisper, or transformers:NAME"
        )
    return recogniser


def _open_embedder(config: SegmentConfig) -> Embedder | None:
    """Return what tells voices apart, where it is needed; ConfigError where there is none."""
    if config.num_speakers < 2 and config.speakers != SPEAKERS_AUTO:
        return None
    if config.embedder == "auto" and find_spec("resemblyzer") is None:
        raise ConfigError(
            f"--speakers {config.speakers}: Resemblyzer is not installed (pip install --no-deps"
            " Resemblyzer==0.1.4); or name another --embedder"
        )
    embedder = open_embedder(config.embedder, choose_device(config.device))
    if isinstance(embedder, str):
        raise ConfigError(f"--speakers {config.speakers} needs voices to be compared: {embedder}")
    return embedder


def _heard_sec(job: Job, recording: Recording) -> float:
    blocks = job.blocks[recording]
    return blocks[-1].end_sec if blocks else 0.0


def _tell_problems(job: Job) -> None:
    if job.problems:
        _tell(f"not used, or not wholly: {plural(len(job.problems), 'file')}")
    for problem in job.problems:
        _tell(f"  {problem}")


def _tell(line: str) -> None:
    console.print(line, markup=False)

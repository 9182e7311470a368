"""The program: find recordings, hear them, tell speakers apart, cut, write."""

import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from csm_ft.atomic import exclusive
from csm_ft.console import console, track
from csm_ft.data.rows import Rejection
from csm_ft.device import choose_device
from csm_ft.errors import ConfigError, DataError
from csm_ft.evaluate.speaker import Embedder, open_embedder
from csm_ft.segment.config import SPEAKERS_AUTO, SPEAKERS_BY_CHANNEL, SegmentConfig
from csm_ft.segment.cut import Rules, cut
from csm_ft.segment.hear import Recording
from csm_ft.segment.hearing import Hearing, open_timed_recogniser, recogniser_facts
from csm_ft.segment.recordings import find_recordings
from csm_ft.segment.speech import Stretch, check_voice_activity, find_speech
from csm_ft.segment.voices import Voices, embed_block, label_speakers
from csm_ft.segment.write import Cut, describe, describe_rejected, in_order, plural, write_clips


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
    recogniser = open_timed_recogniser(config.asr, config.language, config.device, "segment")
    embedder = _open_embedder(config)
    folder = Path(f"{output}.parts")
    busy = f"{output}: another process cuts recordings into this file; wait, or name another"
    with exclusive(folder / ".lock", busy):
        facts = recogniser_facts(config.asr, config.language, recogniser)
        problems = [Rejection(str(one), str(one), "", why) for one, why in found.problems.items()]
        hearing = Hearing(folder, facts, found.recordings, find_speech, problems=problems)
        try:
            list(hearing.hear_all(recogniser))
            cuts = _cut_all(config, hearing, embedder)
        except KeyboardInterrupt:
            _tell("interrupted; the same command continues")
            raise
        _check_any(config, hearing, cuts)
        source = path.resolve().name if path.is_dir() else path.resolve().stem
        rejected = write_clips(
            output, cuts, hearing.problems, source=source, turns=config.conversations
        )
    for line in describe(output, cuts, len({one.recording for one in cuts})):
        _tell(line)
    _tell_problems(hearing)
    if rejected.exists():
        _tell(f"{rejected}: all that is rejected, each with its reason")
    _tell(f"next: python pretokenize.py --train_data {shlex.quote(str(output))}")


def _cut_all(config: SegmentConfig, hearing: Hearing, embedder: Embedder | None) -> list[Cut]:
    """Return the clips of all recordings; a recording without words is noted."""
    heard = {one: hearing.stretches(one) for one in hearing.recordings if hearing.has_words(one)}
    if heard and (config.num_speakers or config.speakers == SPEAKERS_AUTO):
        heard = _with_speakers(config, hearing, heard, embedder)
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
    config: SegmentConfig,
    hearing: Hearing,
    heard: Mapping[Recording, list[Stretch]],
    embedder: Embedder | None,
) -> dict[Recording, list[Stretch]]:
    """Return the speech with its speakers, told apart in all recordings together or in each.

    ConfigError where there is too little speech to tell them apart; of one file, it is left out.
    """
    voices = {one: _voices(config, hearing, one, embedder) if embedder else {} for one in heard}
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
            hearing.reject(one, str(error))
            continue
        named[one] = labelled.recordings[0]
        _tell(f"{one.name}: {labelled.note}")
    return named


def _voices(
    config: SegmentConfig, hearing: Hearing, recording: Recording, embedder: Embedder
) -> Voices:
    """Return the embeddings of a recording, from its part or anew."""
    part = hearing.part("voices", recording, config.embedder, embedder.name)
    known = part.read()
    blocks = hearing.blocks[recording][len(known) :]
    for block in track(blocks, f"comparing voices of {recording.name}", len(blocks)):
        found = embed_block(recording, block, embedder)
        known.append([(start, [round(float(x), 5) for x in vector]) for start, vector in found])
        part.append(known[-1])
    return {start: np.array(vector, np.float32) for block in known for start, vector in block}


def _check_any(config: SegmentConfig, hearing: Hearing, cuts: Sequence[Cut]) -> None:
    """Raise DataError, after all reasons, where no clip can be used."""
    if any(not one.clip.problem for one in cuts):
        return
    for line in describe_rejected(cuts):
        _tell(line)
    _tell_problems(hearing)
    raise DataError(
        f"{config.path}: no clip can be used, of {plural(len(cuts), 'clip')} in"
        f" {plural(len(hearing.recordings), 'recording')}; the reasons stand above. Nothing was"
        " written"
    )


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


def _tell_problems(hearing: Hearing) -> None:
    if hearing.problems:
        _tell(f"not used, or not wholly: {plural(len(hearing.problems), 'file')}")
    for problem in hearing.problems:
        _tell(f"  {problem}")


def _tell(line: str) -> None:
    console.print(line, markup=False)

"""From sound files to transcripts: parts of several files are recognised as one batch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from csm_ft.console import console
from csm_ft.data import audio
from csm_ft.device import choose_device, choose_dtype
from csm_ft.errors import AudioError, ConfigError
from csm_ft.families.base import Family, Prompt, Sample, SamplingOptions
from csm_ft.generate.run import Generator
from csm_ft.runs.encoder_record import find_record
from csm_ft.runs.source import Source
from csm_ft.transcribe.config import TranscribeConfig
from csm_ft.transcribe.parts import Part, cut
from csm_ft.transcribe.results import Segment, Transcript, write

SAVES_MEMORY = "a smaller --batch_sec, or --device cpu"
_BATCHES_AHEAD = 8  # of sound that is read before it is recognised: more give fuller batches


class Recording(NamedTuple):
    """A sound file, read and cut."""

    path: Path
    wave: audio.Wave  # [N]
    parts: Sequence[Part]


def run(config: TranscribeConfig, source: Source, family: Family) -> int:
    """Transcribe all files; return 0, or 2 if one of them cannot be read."""
    stems = _stems(config)
    device = choose_device(config.device)
    record = find_record(source, config.data)
    encoder = family.open_listener(record, device)
    model = family.load_model(source.weights).requires_grad_(False).to(device)
    dtype = choose_dtype(config.dtype, device)
    generator = Generator(model, encoder, source.label, device, dtype, saves_memory=SAVES_MEMORY)
    unreadable: list[str] = []
    for recordings in _groups(config, encoder.sample_rate_hz, unreadable):
        for transcript in transcribe(generator, recordings, config.batch_sec):
            if len(config.files) > 1:
                print(f"{transcript.path}:")
            print(transcript.text, flush=True)
            _warn(transcript)
            if config.output:
                write(transcript, stems[transcript.path], config.format, source.label)
    for message in unreadable:
        console.print(f"not transcribed: {message}", markup=False, style="red")
    return 2 if unreadable else 0


def transcribe(
    generator: Generator, recordings: Sequence[Recording], batch_sec: float
) -> Iterator[Transcript]:
    """Yield the transcript of each recording, in order; parts of similar lengths go together."""
    rate = generator.encoder.sample_rate_hz
    parts = [(number, part) for number, one in enumerate(recordings) for part in one.parts]
    answers: dict[tuple[int, Part], Sample] = {}
    for batch in _batches(parts, batch_sec * rate):
        waves = [recordings[number].wave[part.start : part.stop] for number, part in batch]
        prompts: list[Prompt] = []
        for arrays in generator.encoder.encode_audio(waves):
            if isinstance(arrays, str):
                raise ConfigError(f"a part of a recording cannot be encoded: {arrays}")
            prompts.append(Prompt("heard", "", arrays=arrays))
        samples = generator.sample(prompts, SamplingOptions())
        answers |= dict(zip(batch, samples, strict=True))
    for number, recording in enumerate(recordings):
        segments = [
            _segment(part, answers[number, part], rate, generator.label) for part in recording.parts
        ]
        yield Transcript(recording.path, len(recording.wave) / rate, segments)


def _segment(part: Part, sample: Sample, rate_hz: int, label: str) -> Segment:
    if sample.text is None:
        raise ConfigError(f"{label} answers with sound, not with text; name a recogniser")
    times = (round(part.start / rate_hz, 3), round(part.stop / rate_hz, 3))
    return Segment(*times, sample.text, sample.is_complete)


def _batches(parts: Sequence[tuple[int, Part]], budget: float) -> Iterator[list[tuple[int, Part]]]:
    """Yield parts of similar lengths, the longest times their number within the budget."""
    batch: list[tuple[int, Part]] = []
    for number, part in sorted(parts, key=lambda one: one[1].stop - one[1].start):
        if batch and (part.stop - part.start) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append((number, part))
    if batch:
        yield batch


def _groups(
    config: TranscribeConfig, rate_hz: int, unreadable: list[str]
) -> Iterator[list[Recording]]:
    """Yield recordings, several of them if they are short; so memory does not grow with files."""
    group: list[Recording] = []
    for path in map(Path, config.files):
        try:
            wave = audio.load(path, sample_rate_hz=rate_hz, channel=config.channel)
        except AudioError as error:
            unreadable.append(str(error))
            continue
        group.append(Recording(path, wave, cut(wave, rate_hz, max_sec=config.max_sec)))
        if sum(len(one.wave) for one in group) > _BATCHES_AHEAD * config.batch_sec * rate_hz:
            yield group
            group = []
    if group:
        yield group


def _stems(config: TranscribeConfig) -> Mapping[Path, Path]:
    """Return where the transcript of each file goes; ConfigError if two go to one place."""
    paths = list(map(Path, config.files))
    if not config.output:
        return {}
    folder = Path(config.output)
    twice = [name for name, count in Counter(path.stem for path in paths).items() if count > 1]
    if twice:
        raise ConfigError(
            f"--output {folder}: several files are named {twice[0]}; transcribe them into folders"
            " of their own"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error.strerror}; choose another folder") from error
    return {path: folder / path.stem for path in paths}


def _warn(transcript: Transcript) -> None:
    cut_short = [segment for segment in transcript.segments if not segment.is_complete]
    if cut_short:
        times = ", ".join(f"{segment.start_sec:.1f}" for segment in cut_short[:5])
        console.print(
            f"{transcript.path}: {len(cut_short)} of {len(transcript.segments)} parts did not end"
            f" by themselves (at {times} s); their text may repeat or be cut",
            markup=False,
            style="yellow",
        )

"""From prompts to files: every prompt, as often as asked, into one folder with a page of it all."""

import re
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.markup import escape

from csm_ft.atomic import exclusive
from csm_ft.config.generate import GenerateConfig
from csm_ft.config.shard import parse_shard
from csm_ft.console import console
from csm_ft.device import autocast, choose_device, choose_dtype
from csm_ft.errors import ConfigError, MachineError, first_line
from csm_ft.families.base import EncoderRecord, Family, Prompt, Sample, SamplingOptions
from csm_ft.families.encoder import Encoder
from csm_ft.families.model import SpeechModel
from csm_ft.generate.done import Facts, find_done, is_empty, read_facts
from csm_ft.generate.recordings import Recorder
from csm_ft.generate.tokens import save_tokens
from csm_ft.report.spoken import build_index
from csm_ft.runs.encoder_record import find_record
from csm_ft.runs.source import Source
from csm_ft.watermark.silentcipher import Watermark, key_of_environment

_SLUG_CHARS = 40


@dataclass(frozen=True)
class Generator:
    """A model that is ready to be sampled."""

    model: SpeechModel
    encoder: Encoder
    label: str  # of the model, for the facts
    device: str
    dtype: str
    watermark: Watermark | None = None
    saves_memory: str = "--batch_size 1, shorter samples, or --device cpu"  # options, for people

    def sample(self, prompts: Sequence[Prompt], options: SamplingOptions) -> list[Sample]:
        """Answer prompts as one batch; MachineError when they do not fit the memory."""
        try:
            with autocast(self.device, self.dtype):
                return self.model.sample(prompts, self.encoder, options)
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"out of memory on {self.device} ({first_line(error)}); {self.saves_memory}"
            ) from error


class Take(NamedTuple):
    """A sample that is written: `stem`.json, and `stem`.wav if it has sound."""

    stem: Path
    sample: Sample
    facts: dict[str, Any]


class Job(NamedTuple):
    """Prompts that are answered as one batch."""

    number: int  # of the first one, in the names of files
    prompts: Sequence[Prompt]
    take: int  # from 0


class Plan(NamedTuple):
    """What is to be made, and what the folder has already."""

    jobs: Sequence[Job]
    kept: Sequence[Facts]


def run(config: GenerateConfig, source: Source, family: Family) -> int:
    """Generate what `config` asks for; return 0, or 1 if nothing of it has anything in it."""
    watermark = Watermark(key_of_environment()) if config.watermark == "on" else None
    with _messages_on_stderr(), _without_denormals():
        device = choose_device(config.device)
        model = family.load_model(source.weights).requires_grad_(False)
        record = find_record(source, config.data)
        _check_family(record, family)
        encoder = family.open_generator(config, record, model, device)
        dtype = choose_dtype(config.dtype, device)
        console.print(f"{device}, {dtype}", markup=False)
        prompts, options = family.generate_prompts(config, record, encoder)
        prompts = parse_shard(config.shard).take(prompts)
        model.to(device)
        model.join_weights()
        generator = Generator(model, encoder, config.model, device, dtype, watermark)
        return 0 if generate(generator, prompts, options, config) else 1


def _check_family(record: EncoderRecord, family: Family) -> None:
    if record.store is not None and record.store.info.family != family.name:
        raise ConfigError(
            f"{record.found} is of the family {record.store.info.family}, {record.label} of"
            f" {family.name}; name the token file of its training with --data"
        )


def generate(
    generator: Generator,
    prompts: Sequence[Prompt],
    options: SamplingOptions,
    config: GenerateConfig,
) -> bool:
    """Answer every prompt `num_takes` times into `config.output`, with a line on each sample.

    The path of each that has anything in it goes to stdout once it is written. Returns whether any
    sample has, those included that the folder has already. ConfigError when the folder is in use;
    nothing is written then.
    """
    folder = Path(config.output)
    with _opened(folder), _indexed(folder):
        jobs, kept = _plan(generator, prompts, options, config)
        has_any = _describe_kept(kept, folder)
        total = sum(len(job.prompts) for job in jobs)
        for done, take in enumerate(_write(generator, jobs, options, config), 1):
            path = _describe(f"{done}/{total}", take, generator.model)
            if path is not None:
                print(path, flush=True)
                has_any = True
    return has_any


def write_takes(
    generator: Generator,
    prompts: Sequence[Prompt],
    options: SamplingOptions,
    config: GenerateConfig,
) -> Iterator[Take]:
    """Answer every prompt `num_takes` times into `config.output`, a folder that is there."""
    jobs = _plan(generator, prompts, options, config).jobs
    return _write(generator, jobs, options, config)


def _plan(
    generator: Generator,
    prompts: Sequence[Prompt],
    options: SamplingOptions,
    config: GenerateConfig,
) -> Plan:
    """Divide the prompts into batches; with `resume`, without what the folder has already."""
    folder = Path(config.output)
    number = _next_number(folder)
    written = read_facts(folder) if config.resume else {}
    jobs: list[Job] = []
    kept: list[Facts] = []
    for take in range(config.num_takes):
        sampling = replace(options, seed=options.seed + take)
        wanted = _sampling_facts(generator, sampling)
        found = [find_done(written.get(one.id, ()), wanted) for one in prompts]
        kept += [facts for facts in found if facts is not None]
        left = [one for one, facts in zip(prompts, found, strict=True) if facts is None]
        for start in range(0, len(left), config.batch_size):
            jobs.append(Job(number + start, left[start : start + config.batch_size], take))
    return Plan(sorted(jobs, key=lambda job: (job.number, job.take)), kept)


def _sampling_facts(generator: Generator, sampling: SamplingOptions) -> dict[str, Any]:
    return {"model": generator.label, **asdict(sampling), "dtype": generator.dtype}


def _write(
    generator: Generator, jobs: Sequence[Job], options: SamplingOptions, config: GenerateConfig
) -> Iterator[Take]:
    folder = Path(config.output)
    recorder = Recorder(generator.encoder, generator.watermark)
    for job in jobs:
        sampling = replace(options, seed=options.seed + job.take)
        began = time.perf_counter()
        samples = generator.sample(job.prompts, sampling)
        facts = {
            **_sampling_facts(generator, sampling),
            "take": job.take + 1,
            "compute_sec": (time.perf_counter() - began) / len(job.prompts),
        }
        for place, sample in enumerate(samples):
            suffix = f"-take{job.take + 1}" if config.num_takes > 1 else ""
            slug = _slug(sample.prompt.name or sample.prompt.text)
            stem = folder / f"{job.number + place:03d}-{slug}{suffix}"
            if config.save_tokens:
                save_tokens(stem, sample, generator.encoder)
            yield Take(stem, sample, recorder.write(stem, sample, facts))


def _describe_kept(kept: Sequence[Facts], folder: Path) -> bool:
    """Say what the folder has already; return whether any of it has anything in it."""
    num_empty = sum(map(is_empty, kept))
    if kept:
        console.print(f"{len(kept)} samples are in {folder} already", markup=False)
    if num_empty:
        console.print(
            f"  [yellow]{num_empty} of them have no speech: the model stopped at once, and would"
            " again; try another --seed, or a longer text[/]"
        )
    return num_empty < len(kept)


def _describe(progress: str, take: Take, model: SpeechModel) -> Path | None:
    """Print a line on a sample, warn where it is not what was asked for, and return its file.

    None: there is nothing in it.
    """
    stem, sample, facts = take
    has_sound = "seconds" in facts
    path = stem.with_suffix(".wav" if has_sound else ".json")
    line = escape(f"{progress}  {path}")
    if has_sound and not facts["seconds"]:
        console.print(
            f"{line}  [yellow]no speech: the model stopped at once; try another --seed, or a longer"
            " text[/]"
        )
        return None
    if has_sound:
        ended = "stopped by itself"
        if not sample.is_complete:
            ended = f"[yellow]cut at {facts['max_sec']:g} s (max_sec)[/]"
        speed = facts["seconds"] / facts["compute_sec"]
        line += f"  {facts['seconds']:.2f} s, {ended}, {speed:.2f}x real time"
    if sample.text is not None:
        line += f"  {escape(sample.text)}"
        line += "" if has_sound or sample.is_complete else "  [yellow](cut short)[/]"
    console.print(line)
    if sample.turns_left_out:
        console.print(
            f"  [yellow]the oldest {sample.turns_left_out} of {len(sample.prompt.context)} turns of"
            f" context were left out: the model has {model.max_positions} positions; use shorter"
            " clips, or a smaller max_sec[/]"
        )
    return path


@contextmanager
def _indexed(folder: Path) -> Iterator[None]:
    """Write the page of the folder at the end, also when the rest was interrupted."""
    try:
        yield
    finally:
        console.print(f"all samples: {build_index(folder)}", markup=False)


@contextmanager
def _opened(folder: Path) -> Iterator[None]:
    """Hold the output folder for this process, so that each finds its own numbers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error.strerror}; choose another folder") from error
    message = (
        f"--output {folder}: another process is writing into this folder; wait for it, or choose"
        " another"
    )
    with exclusive(folder / ".lock", message):
        yield


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Leave stdout to the paths of the samples."""
    before, console.stderr = console.stderr, True
    try:
        yield
    finally:
        console.stderr = before


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Flush denormals to zero: peaked logits make many, and they are 20 times slower on CPUs."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _next_number(folder: Path) -> int:
    """Return the number after the highest that a file in the folder begins with."""
    found = (re.match(r"(\d{3,9})-", path.name) for path in folder.iterdir())
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _slug(text: str) -> str:
    """Return a file name that a person recognises: the first words in lower case, any script."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", text).lower().replace("_", " "))
    slug = ""
    for word in words:
        if slug and len(slug) + len(word) >= _SLUG_CHARS:
            break
        slug = f"{slug}-{word}" if slug else word[:_SLUG_CHARS]
    return slug or "sample"

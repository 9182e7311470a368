"""Speak.

Texts in, recordings out, with any weights that train.py, sweep.py or csm_ft.export left, or that
others publish.

    python -m csm_ft.generate --model exp/run --text "Hello." --text "How are you?"
    python -m csm_ft.generate --model exp/run --text "Yes, I did." \
        --context "question.wav:Did you see it?:ben"
    python -m csm_ft.generate --model sesame/csm-1b --prompts prompts.json --num_takes 3

Writes 001-hello.wav, its facts as 001-hello.json, and index.html to listen to all that the folder
holds. Only the paths of the recordings go to stdout. The same seed, model and prompt give the same
recording; take n of seed s is take 1 of seed s + n - 1.
"""

import argparse
import fcntl
import math
import re
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from csm_ft.config import ConfigError, load_env_files
from csm_ft.families.base import SamplingOptions
from csm_ft.families.csm.config import MAX_POSITIONS
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.weights import load_model
from csm_ft.families.prompts import (
    AskedPrompt,
    VoicedPrompt,
    check_clips,
    check_lengths,
    check_speaker,
    check_text,
    parse_context,
    read_prompts,
    voiced,
)
from csm_ft.generate.speech import Flags, Speech, open_speech
from csm_ft.report.spoken import build_index
from csm_ft.runs.source import Origin, find
from csm_ft.training.samples import write_take

console = Console(stderr=True, highlight=False, soft_wrap=True)
_DEFAULT_SPEAKER = "0"
_SLUG_CHARS = 40


@dataclass(frozen=True)
class Options:
    """How to speak."""

    output: Path
    temperature: float
    topk: int
    max_sec: float
    seed: int
    num_takes: int
    batch_size: int
    device: str
    dtype: str


def generate(
    model: CsmModel,
    speech: Speech,
    prompts: Sequence[VoicedPrompt],
    options: Options,
    *,
    label: str,
) -> Iterator[Path]:
    """Speak every prompt `num_takes` times into `options.output`.

    Yield each recording with speech in it once it is written.

    ConfigError when the folder is in use, or a text is too long for the model; nothing is written
    then.
    """
    max_frames = check_lengths(
        prompts, speech.tokenizer, speech.codec, options.max_sec, option="max_sec"
    )
    asked = {
        "model": label,
        **{name: getattr(options, name) for name in ("max_sec", "temperature", "topk", "dtype")},
    }
    total = len(prompts) * options.num_takes
    with _locked(options.output), _indexed(options.output):
        number, done = _next_number(options.output), 0
        for start in range(0, len(prompts), options.batch_size):
            batch = prompts[start : start + options.batch_size]
            for take in range(options.num_takes):
                sampling = SamplingOptions(
                    max_frames, options.temperature, options.topk, options.seed + take
                )
                began = time.perf_counter()
                with torch.autocast(
                    options.device.split(":")[0],
                    dtype=torch.bfloat16,
                    enabled=options.dtype == "bf16",
                ):
                    samples = model.sample(
                        [one.prompt for one in batch], tokenizer=speech.tokenizer, options=sampling
                    )
                asked |= {
                    "seed": sampling.seed,
                    "take": take + 1,
                    "compute_sec": (time.perf_counter() - began) / len(batch),
                }
                for place, (one, sample) in enumerate(zip(batch, samples, strict=True)):
                    suffix = f"-take{take + 1}" if options.num_takes > 1 else ""
                    slug = _slug(one.name or one.prompt.text)
                    stem = options.output / f"{number + start + place:03d}-{slug}{suffix}"
                    facts = write_take(stem, one, sample, speech.codec, asked)
                    done += 1
                    _tell(f"{done}/{total}  {stem}.wav", facts, options)
                    if facts["seconds"]:
                        yield stem.with_suffix(".wav")


@contextmanager
def _indexed(folder: Path) -> Iterator[None]:
    """Write the page to listen to at the end, also when the rest was interrupted."""
    try:
        yield
    finally:
        console.print(f"listen: {build_index(folder)}", markup=False)


def _tell(what: str, facts: dict[str, Any], options: Options) -> None:
    """One line per recording, and a warning where it is not what was asked for."""
    what = escape(what)
    if not facts["seconds"]:
        console.print(
            f"{what}  [yellow]no speech: the model stopped at once; try another --seed, or a longer"
            " text[/]"
        )
        return
    ended = (
        "stopped by itself (EOS)"
        if facts["stopped_by_eos"]
        else f"[yellow]cut at {options.max_sec:g} s (--max_sec)[/]"
    )
    console.print(
        f"{what}  {facts['seconds']:.2f} s, {ended}, {facts['seconds'] / facts['compute_sec']:.2f}x"
        " real time"
    )
    if facts["turns_left_out"]:
        console.print(
            f"  [yellow]the oldest {facts['turns_left_out']} of {len(facts['context'])} turns of"
            f" context were left out: the model has {MAX_POSITIONS} positions; shorter clips, or a"
            " smaller --max_sec[/]"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time in a folder, so that each finds its own numbers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error.strerror}; choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"--output {folder}: another process is speaking into this folder; wait for it, or"
                " choose another"
            ) from None
        yield


def _next_number(folder: Path) -> int:
    """Return the number after the highest that a file in the folder begins with."""
    return 1 + max(
        (
            int(found[1])
            for path in folder.iterdir()
            if (found := re.match(r"(\d{3,9})-", path.name))
        ),
        default=0,
    )


def _slug(text: str) -> str:
    """Return a file name that a person recognises.

    Letters and digits of any script, small, the first words.
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFC", text).lower().replace("_", " "))
    slug = ""
    for word in words:
        if slug and len(slug) + len(word) >= _SLUG_CHARS:
            break
        slug = f"{slug}-{word}" if slug else word[:_SLUG_CHARS]
    return slug or "speech"


def _asked(arguments: argparse.Namespace) -> list[AskedPrompt]:
    """Return the prompts of --text (each after the clips of --context) and of --prompts.

    ConfigError for none, or an empty one.
    """
    context = tuple(parse_context(value) for value in arguments.context)
    texts = [check_text("--text", text) for text in arguments.text]
    if not texts and not arguments.prompts:
        raise ConfigError(
            'nothing to speak; give --text "Hello." (once or more), or --prompts file.json'
        )
    if arguments.speaker is not None:
        check_speaker("--speaker", arguments.speaker)
    if context and not texts:
        raise ConfigError(
            "--context goes with --text; the prompts of --prompts have their context in the file"
        )
    asked = [AskedPrompt("--text", text, context=context) for text in texts]
    return asked + (read_prompts(Path(arguments.prompts)) if arguments.prompts else [])


def _find(name: str) -> Origin:
    """Resolve --model.

    A file of weights that lies in a run belongs to it, and so does the folder of its checkpoints.
    """
    path = Path(name)
    if (
        path.resolve().name == "checkpoints"
        and (beside := find(str(path.resolve().parent))).run is not None
    ):
        return beside
    if path.is_file() and (beside := find(str(path.parent))).run is not None:
        return replace(beside, weights=name)
    return find(name)


def _choose_speaker(wanted: str | None, speech: Speech, origin: Origin) -> str:
    """Return --speaker, or else who the model knows best, or else whom its run let speak."""
    if wanted is not None:
        return wanted.strip()
    speaker = (
        speech.speakers[0]
        if speech.speakers
        else origin.config.gen_speaker
        if origin.config
        else _DEFAULT_SPEAKER
    )
    if speech.names_speakers:
        why = (
            "the one the model was trained on"
            if len(speech.speakers) == 1
            else "trained on most"
            if speech.speakers
            else "the default"
        )
        console.print(f"speaker {speaker} ({why}); --speaker names another", markup=False)
    return speaker


def _warn_of_speakers(asked: Sequence[AskedPrompt], speaker: str, speech: Speech) -> None:
    """Name the speakers that the model was not trained on."""
    named = {one.speaker or speaker for one in asked} | {
        clip.speaker for one in asked for clip in one.context if clip.speaker
    }
    if not speech.names_speakers:
        if any(one.speaker or any(clip.speaker for clip in one.context) for one in asked):
            console.print(
                "[yellow]this model was trained without speakers (--omit_speaker_id): the prompts'"
                " speakers are not used[/]"
            )
        return
    unknown = sorted(named - set(speech.speakers)) if speech.speakers else []
    if unknown:
        shown = ", ".join(speech.speakers[:12]) + (
            f" and {len(speech.speakers) - 12} more" if len(speech.speakers) > 12 else ""
        )
        console.print(
            f"warning: the model was not trained on speaker {', '.join(unknown)}, but on {shown};"
            " expect a voice of its own choice",
            style="yellow",
            markup=False,
        )


def _options(arguments: argparse.Namespace) -> Options:
    """Check the numbers, and choose device and arithmetic where they are "auto"."""
    for name, least in (
        ("temperature", 0),
        ("topk", 0),
        ("num_takes", 1),
        ("batch_size", 1),
        ("max_sec", 0.08),
    ):
        value = getattr(arguments, name)
        if not (math.isfinite(value) and value >= least):
            raise ConfigError(f"--{name} {value} is not {least} or more")
    device = (
        arguments.device
        if arguments.device != "auto"
        else "cuda"
        if torch.cuda.is_available()
        else "cpu"
    )
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--device {device}: {reason}; check the driver with nvidia-smi, or use --device cpu"
        ) from error
    has_bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = arguments.dtype if arguments.dtype != "auto" else "bf16" if has_bf16 else "fp32"
    numbers = {
        name: getattr(arguments, name)
        for name in ("temperature", "topk", "max_sec", "seed", "num_takes", "batch_size")
    }
    return Options(Path(arguments.output), **numbers, device=device, dtype=dtype)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m csm_ft.generate",
        description=(__doc__ or "").split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        help="run, sweep, checkpoint or export folder, a file of weights, or a hub name",
    )
    add("--text", action="append", default=[], help="what to speak; once or more")
    add("--speaker", help="who speaks (default: who the model was trained on most, or 0)")
    add(
        "--context",
        action="append",
        default=[],
        metavar="WAV:TEXT:SPEAKER",
        help="a turn said before --text; repeatable, oldest first",
    )
    add(
        "--prompts",
        metavar="JSON",
        help="file of prompts with speakers and context (README, Speak)",
    )
    add("--output", default="out", help="folder to write; what is there stays (default: out)")
    add(
        "--temperature",
        type=float,
        default=0.9,
        help="sampling temperature; 0 = greedy (default: 0.9)",
    )
    add(
        "--topk",
        type=int,
        default=50,
        help="sample among the k likeliest codes; 0 = all (default: 50)",
    )
    add("--max_sec", type=float, default=10.0, help="longest recording in seconds (default: 10)")
    add(
        "--seed",
        type=int,
        default=0,
        help="seed of the first take; the next one has the next seed (default: 0)",
    )
    add("--num_takes", type=int, default=1, help="recordings of each prompt (default: 1)")
    add(
        "--batch_size",
        type=int,
        default=1,
        help="prompts spoken at once: faster on a GPU, equal up to rounding (default: 1)",
    )
    add("--device", default="auto", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    add(
        "--dtype",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="arithmetic (default: bf16 where the hardware has it)",
    )
    add(
        "--codec",
        choices=("auto", "mimi", "melrvq"),
        default="auto",
        help="default: that of the model's training data",
    )
    add("--codec_source", default="", help="weights of the codec: hub name, folder or file")
    add(
        "--tokenizer",
        default="",
        help="hub name, folder or tokenizer.json (default: that of the model's training data)",
    )
    add(
        "--data",
        default="",
        help="token file of the model's training, where it is not found by itself",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Command line.

    0 spoken, 1 the model said nothing, 2 a mistake of the user, 130 interrupted (what is written
    stays).
    """
    load_env_files()
    arguments = _parser().parse_args(argv)
    try:
        asked, options = _asked(arguments), _options(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        check_clips(asked)
        origin = _find(arguments.model)
        model = load_model(origin.weights).requires_grad_(False)
        flags = Flags(arguments.data, arguments.codec, arguments.codec_source, arguments.tokenizer)
        speech = open_speech(origin, model.size, flags, options.device)
        console.print(
            f"{origin.label}: {speech.codec.name} and tokenizer by {speech.found};"
            f" {options.device}, {options.dtype}",
            markup=False,
        )
        if speech.foreign:
            console.print(
                f"warning: not the {' and '.join(speech.foreign)} that the model was trained with:"
                " it may say noise",
                style="yellow",
            )
        speaker = _choose_speaker(arguments.speaker, speech, origin)
        _warn_of_speakers(asked, speaker, speech)
        prompts = voiced(asked, speech.codec, speaker=speaker, names_speakers=speech.names_speakers)
        if len(prompts) < len(asked):
            console.print(
                f"{len(asked) - len(prompts)} prompts are asked for twice; each is spoken once"
                " (--num_takes for more)"
            )
        torch.set_flush_denormal(True)  # peaked logits make denormals, 20 times slower on CPUs
        num_spoken = 0
        for path in generate(
            model.to(options.device), speech, prompts, options, label=arguments.model
        ):
            print(path, flush=True)
            num_spoken += 1
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        print(
            f"error: out of memory on {options.device} ({reason}); --batch_size 1, a smaller"
            " --max_sec, or --device cpu",
            file=sys.stderr,
        )
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        torch.set_flush_denormal(False)
    return 0 if num_spoken else 1

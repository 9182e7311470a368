"""Moonshine beside its peers: transformers' trainer and generate, and the vendor's LoRA trainer.

All take the same weights, clips and number of steps in fp32: Seq2SeqTrainer with batches at random
and grouped by length, padded and masked; moonshine_voice.lora on a streaming model, its adapters
beside ours of the same rank. Decoding is greedy; no model ends its texts, which are cut at a cap.
"""

import contextlib
import gc
import importlib
import io
import math
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    MoonshineConfig as TheirConfig,
)
from transformers import (
    MoonshineForConditionalGeneration,
    MoonshineStreamingConfig,
    MoonshineStreamingForConditionalGeneration,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Wav2Vec2FeatureExtractor,
)

from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Found, median, ratio
from benchmarks.timing import Times, interleave
from csm_ft.data.batches import BatchOptions, BatchPlan, Step
from csm_ft.device import reproducible
from csm_ft.errors import CheckError
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moonshine.export import voice_runtime
from csm_ft.families.moonshine.family import MoonshineFamily
from csm_ft.families.moonshine.model import MoonshineModel, init_weights
from csm_ft.families.moonshine.sample import transcribe
from csm_ft.families.moonshine.score import batches_of
from csm_ft.families.moonshine.size import END, PRESETS, SAMPLE_RATE_HZ, START, MoonshineSize
from csm_ft.families.moonshine.streaming_size import (
    WINDOW_SAMPLES,
    Block,
    StreamingSize,
    default_windows,
)
from csm_ft.families.moonshine.weights import empty_model
from csm_ft.training.optim import build_optimizer, choose_parameters
from csm_ft.training.step import optimizer_step

MAX_DIFFERENCE = 1e-5  # of losses of one clip, beyond which nothing is timed
FAMILY = MoonshineFamily()
FULL = MoonshineConfig(method="full", device="cpu", dtype="fp32", threads=1, learning_rate=1e-12)
LORA = MoonshineConfig(
    method="lora",
    lora_rank=8,
    lora_targets="self_attn.q_proj,self_attn.k_proj,self_attn.v_proj",
    encoder_lr_factor=0.0,
    device="cpu",
    dtype="fp32",
    threads=1,
    learning_rate=1e-12,
)
ONE_OF = 8  # clips that the library writes one by one, which take their time alone
TOKENS_PER_SEC = 3.0  # of the texts that are trained on
CAP_PER_SEC = 6.5  # of those that are written
TINY = MoonshineSize(32, 64, 1, 1, 2, 0.9, vocab_size=300)
STREAMING = StreamingSize(Block(160, 640, 4, 40), Block(160, 640, 4, 40), 4, 4, default_windows(4))
TINY_STREAMING = StreamingSize(Block(32, 64, 2, 16), Block(32, 64, 2, 16), 1, 1, ((16, 4),))


class Scale(NamedTuple):
    """How much is measured."""

    size: MoonshineSize
    streaming: StreamingSize
    batch_size: int
    num_clips: int  # of bimodal lengths, for training steps
    num_short: int  # for adapters, and for decoding
    longest_sec: float  # of these


SCALES = {
    "small": Scale(PRESETS["tiny"], replace(STREAMING, vocab_size=4096), 4, 8, 64, 8.0),
    "tiny": Scale(TINY, replace(TINY_STREAMING, vocab_size=300), 2, 4, 4, 1.0),
}


class Clip(NamedTuple):
    """Sound and the tokens of its text, which end with the end token."""

    samples: NDArray[np.int16]  # [n], n a multiple of 80
    tokens: NDArray[np.uint32]  # [l]

    @property
    def sound(self) -> NDArray[np.float32]:
        """As the library hears it, [n]."""
        return self.samples.astype(np.float32) / np.float32(32768)


def measure(config: BenchmarkConfig) -> Found:
    """Measure steps of all weights and of adapters, the loader, and greedy decoding."""
    scale, rounds = SCALES[config.size], min(config.rounds, 2)
    model = empty_model(scale.size)
    init_weights(model, 0)
    theirs = _in_transformers(model)
    clips = _clips(_bimodal_sec(scale.num_clips, config.size), scale.size.vocab_size)
    _check_losses(model, theirs, clips[0])
    steps = _training(model, theirs, clips, scale.batch_size, rounds)
    loader = interleave({"loader": lambda n: _batches(clips, scale.batch_size, n)}, rounds=rounds)
    shares = [100 * a / b for a, b in zip(loader["loader"], steps["ours"], strict=True)]
    short = _clips(_uniform_sec(scale.num_short, scale.longest_sec), scale.size.vocab_size)
    decoding = _decoding(model, theirs, short, rounds)
    return {
        "moonshine.step.random_ratio": ratio(steps["random"], steps["ours"]),
        "moonshine.step.grouped_ratio": ratio(steps["grouped"], steps["ours"]),
        "moonshine.step.audio_sec_per_cpu_sec": median(
            [_audio_sec(clips) / sec for sec in steps["ours"]]
        ),
        "moonshine.step.loader_percent": median(shares),
        "moonshine.decode.single_ratio": ratio(
            [ONE_OF * sec for sec in decoding["single"]], decoding["ours"]
        ),
        "moonshine.decode.batched_ratio": ratio(decoding["batched"], decoding["ours"]),
        "moonshine.lora.vendor_ratio": _adapters(scale, rounds),
    }


def _bimodal_sec(count: int, size: str) -> list[float]:
    """Three in eight of 2 to 6 s, the others of 11 to 15 s: a random batch is a third padding."""
    dice = np.random.default_rng(0)
    times = 1.0 if size == "small" else 0.1
    ranges = [(2.0, 6.0) if place % 8 < 3 else (11.0, 15.0) for place in range(count)]
    return [float(dice.uniform(*bounds)) * times for bounds in ranges]


def _uniform_sec(count: int, longest: float) -> list[float]:
    return np.random.default_rng(1).uniform(0.5, longest, count).tolist()


def _clips(seconds: Sequence[float], vocab_size: int) -> list[Clip]:
    dice, clips = np.random.default_rng(2), []
    for sec in seconds:
        length = round(sec * SAMPLE_RATE_HZ) // WINDOW_SAMPLES * WINDOW_SAMPLES
        samples = (dice.normal(size=length) * 3000).astype(np.int16)
        tokens = dice.integers(3, vocab_size, math.ceil(sec * TOKENS_PER_SEC))
        clips.append(Clip(samples, np.append(tokens, END).astype(np.uint32)))
    return clips


def _audio_sec(clips: Sequence[Clip]) -> float:
    return sum(len(clip.samples) for clip in clips) / SAMPLE_RATE_HZ


def _in_transformers(model: MoonshineModel) -> Any:
    """Return the library's model with the same weights."""
    values = {name: v for name, v in model.size.to_json().items() if name != "architectures"}
    theirs: Any
    if isinstance(model.size, StreamingSize):
        theirs = MoonshineStreamingForConditionalGeneration(MoonshineStreamingConfig(**values))
    else:
        theirs = MoonshineForConditionalGeneration(TheirConfig(**values))
    theirs.load_state_dict(model.state_dict(), strict=False)
    theirs.tie_weights()
    return theirs


@torch.no_grad()
def _check_losses(model: MoonshineModel, theirs: Any, clip: Clip) -> None:
    ours = float(model.eval()(collate_clips([clip.samples], [clip.tokens]))["tokens"].sum())
    found = float(theirs.eval()(**_padded([clip])).loss)
    if abs(ours / len(clip.tokens) - found) > MAX_DIFFERENCE * found:
        raise CheckError(
            f"the losses differ, so that times do not compare: {ours / len(clip.tokens)}, {found}"
        )


def _padded(clips: Sequence[Clip]) -> dict[str, Tensor]:
    """Return a batch as the library's documentation makes it: zeros, a mask, labels of -100."""
    samples = torch.zeros(len(clips), max(len(clip.samples) for clip in clips))
    mask = torch.zeros(samples.shape, dtype=torch.int64)
    labels = torch.full((len(clips), max(len(clip.tokens) for clip in clips)), -100)
    for place, clip in enumerate(clips):
        samples[place, : len(clip.samples)] = torch.from_numpy(clip.sound)
        mask[place, : len(clip.samples)] = 1
        labels[place, : len(clip.tokens)] = torch.from_numpy(clip.tokens.astype(np.int64))
    return {"input_values": samples, "attention_mask": mask, "labels": labels}


def _training(
    model: MoonshineModel, theirs: Any, clips: Sequence[Clip], batch_size: int, rounds: int
) -> Times:
    """Train on all clips once in every round."""
    with tempfile.TemporaryDirectory() as folder:
        peers = {
            name: _trainer(theirs, clips, batch_size, strategy, folder)
            for name, strategy in (("random", "random"), ("grouped", "group_by_length"))
        }
        ours = _our_epoch(model, FULL, clips, batch_size)
        warm = _our_epoch(model, FULL, clips[:1], 1)
        warm(0)
        _trainer(theirs, clips[:1], 1, "random", folder)(0)
        gc.freeze()  # the library looks through all objects once a run, which is longer elsewhere
        times = interleave({"ours": ours, **peers}, rounds=rounds, warm_up=False)
        gc.unfreeze()
        return times


def _trainer(
    theirs: Any, clips: Sequence[Clip], batch_size: int, strategy: str, folder: str
) -> Callable[[int], object]:
    arguments = Seq2SeqTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        num_train_epochs=1,
        learning_rate=FULL.learning_rate,
        lr_scheduler_type="constant",
        train_sampling_strategy=strategy,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )

    def run(number: int) -> None:
        arguments.data_seed = number
        trainer = Seq2SeqTrainer(
            model=theirs,
            args=arguments,
            # What it knows the lengths by.
            train_dataset=[{"input_values": clip.sound, "clip": clip} for clip in clips],  # pyright: ignore[reportArgumentType]
            data_collator=lambda rows: _padded([row["clip"] for row in rows]),
            processing_class=Wav2Vec2FeatureExtractor(),
        )
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()

    return run


def _batches(clips: Sequence[Clip], batch_size: int, number: int) -> list[Any]:
    """Return the batches of an epoch as our training makes them."""
    costs = np.array([len(clip.samples) for clip in clips])
    plan = BatchPlan(costs, BatchOptions(batch_size, 0, 1, 1 << 60, seed=0))
    chosen = [[clips[place] for place in batches[0]] for batches in plan.epoch(number)]
    return [
        collate_clips([clip.samples for clip in batch], [clip.tokens for clip in batch])
        for batch in chosen
    ]


def _our_epoch(
    model: MoonshineModel, config: MoonshineConfig, clips: Sequence[Clip], batch_size: int
) -> Callable[[int], object]:
    terms, optimizer = FAMILY.loss_terms(config), build_optimizer(model, FAMILY, config)

    def run(number: int) -> None:
        with reproducible("cpu", threads=1, seed=0):
            for batch in _batches(clips, batch_size, number):
                whole = Step(1, 0, batch.num_sequences, [], [])
                optimizer_step(model, optimizer, whole, [batch], config, terms)

    return run


def _decoding(model: MoonshineModel, theirs: Any, clips: Sequence[Clip], rounds: int) -> Times:
    """Write texts of all clips: by ours, by the library one by one, and in batches of 16."""
    order = sorted(clips, key=lambda clip: len(clip.samples))
    batches = [order[start : start + 16] for start in range(0, len(order), 16)]
    lengths = [len(clip.samples) for clip in clips]
    theirs.eval()
    same = _generate(theirs, clips[:1])[0, 1:].tolist()
    if transcribe(model, [clips[0].samples], CAP_PER_SEC)[0].ids != same:
        raise CheckError("the library writes other tokens, so that times do not compare")

    def ours(_: int) -> None:
        for rows in batches_of(lengths, range(len(clips))):
            transcribe(model, [clips[row].samples for row in rows], CAP_PER_SEC)

    def single(number: int) -> None:
        for clip in order[ONE_OF // 2 - 1 + number :: ONE_OF]:
            _generate(theirs, [clip])

    variants = {
        "ours": ours,
        "single": single,
        "batched": lambda _: [_generate(theirs, batch) for batch in batches],
    }
    return interleave(variants, rounds=rounds, warm_up=False)


@torch.no_grad()
def _generate(theirs: Any, clips: Sequence[Clip]) -> Tensor:
    """Return the start token and as many as the longest clip may have, [B, 1 + l]."""
    heard = _padded(clips)
    del heard["labels"]
    cap = math.ceil(heard["input_values"].shape[1] / SAMPLE_RATE_HZ * CAP_PER_SEC)
    return theirs.generate(**heard, max_new_tokens=cap, do_sample=False)


def _adapters(scale: Scale, rounds: int) -> Any:
    """Compare an epoch of adapters with the vendor's trainer, which evaluates nothing here."""
    if not voice_runtime.is_installed():
        return "moonshine-voice is not installed"
    model = empty_model(scale.streaming)
    init_weights(model, 0)
    theirs = _in_transformers(model)
    clips = _clips(_uniform_sec(scale.num_short, scale.longest_sec), scale.streaming.vocab_size)
    _check_losses(model, theirs, clips[0])
    choose_parameters(model, FAMILY, LORA)
    batch_size = min(8, len(clips))
    times = interleave(
        {
            "ours": _our_epoch(model, LORA, clips, batch_size),
            "theirs": _vendor(theirs, clips, batch_size),
        },
        rounds=rounds,
        warm_up=False,
    )
    return ratio(times["theirs"], times["ours"])


def _vendor(theirs: Any, clips: Sequence[Clip], batch_size: int) -> Callable[[int], object]:
    trainer: Any = importlib.import_module("moonshine_voice.lora.train")
    starts = np.cumsum([0, *(len(clip.samples) for clip in clips)])
    entries = [
        {
            "offset": int(start),
            "samples": len(clip.samples),
            "tokens": [START, *map(int, clip.tokens)],
        }
        for start, clip in zip(starts, clips, strict=False)
    ]
    sound = np.concatenate([clip.samples for clip in clips])

    def run(number: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.fit_adapter(
                "",
                None,
                {"entries": entries},
                sound,
                train_hours=None,
                dev_hours=0.0,
                lr=LORA.learning_rate,
                batch_size=batch_size,
                max_steps=math.ceil(len(clips) / batch_size),
                eval_every=1 << 30,
                seed=number,
                device="cpu",
                model=deepcopy(theirs),
            )

    return run

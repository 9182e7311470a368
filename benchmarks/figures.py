"""Every figure that is measured: its name, what it means, its unit and what it should reach.

Imports no torch. A name is flat (`step.lj.transformers_ratio`), so that a script can read one
figure from a results file.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

PARTS = (
    *("counts", "data", "startup", "step", "generate", "moshi", "moonshine", "lanes", "sweep"),
    *("codec", "pretokenize"),  # the last: they change how this process keeps memory
)
# CSM-1B by several recipes: what is told of each, and its options.
FULL_RECIPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bf16": ("bf16", {"dtype": "bf16", "micro_batch_tokens": 8192}),
    "compiled": (
        "bf16, layers compiled",
        {"dtype": "bf16", "micro_batch_tokens": 8192, "compile": "on"},
    ),
    "recomputed": (
        "bf16, activations recomputed",
        {"dtype": "bf16", "micro_batch_tokens": 16384, "activation_checkpointing": "full"},
    ),
    "pure": (
        "bf16_pure, adamw8bit, activations recomputed",
        {
            **{"dtype": "bf16_pure", "optimizer": "adamw8bit", "micro_batch_tokens": 16384},
            "activation_checkpointing": "full",
        },
    ),
    "lora": ("LoRA, bf16", {"method": "lora", "dtype": "bf16", "micro_batch_tokens": 8192}),
}


class Figure(NamedTuple):
    """What a figure means. Ratios are peer / ours, so that above 1 is faster than the peer."""

    text: str
    unit: str  # "x" = a ratio
    better: Literal["high", "low"]
    target: float | None = None


@dataclass(frozen=True)
class Measured:
    """The median of some rounds with their lowest and highest value."""

    value: float
    low: float
    high: float
    rounds: int  # 0 = exact: counted or computed, with nothing that varies


Found = Mapping[str, Measured | str]  # name -> value, or why it was not measured

_FULL_BATCHES = ((1, "one prompt"), (16, "sixteen prompts"))
_FULL_FIGURES: Sequence[tuple[str, str, str, Literal["high", "low"]]] = (
    ("tokens_per_sec", "positions trained per second", "1/s", "high"),
    ("audio_hours_per_hour", "hours of speech trained on per hour", "h", "high"),
    ("mfu_percent", "share of the card's peak, by its data sheet", "%", "high"),
    ("peak_gb", "memory at its highest", "GB", "low"),
    ("peak_predicted_ratio", "the same / as predicted by --dry_run", "x", "low"),
    ("kernels", "kernels of a step, optimiser included", "", "low"),
)
FIGURES: Mapping[str, Figure] = {
    "step.lj.transformers_ratio": Figure(
        "training step, batch of 8 read sentences, transformers / ours, 1/16 of the frames",
        *("x", "high", 1.7),
    ),
    "step.lj.transformers_all_ratio": Figure(
        "the same, transformers with all frames, as it is documented", "x", "high", 8
    ),
    "step.lj.peer_ratio": Figure(
        "the same, public trainer / ours, 1/16 of the frames", "x", "high", 1.35
    ),
    "step.conversation.transformers_ratio": Figure(
        "training step, batch of 8 turns of conversations, transformers / ours", "x", "high", 1.7
    ),
    "step.conversation.peer_ratio": Figure("the same, public trainer / ours", "x", "high", 1.35),
    "step.lj.tokens_per_cpu_sec": Figure(
        "positions trained per CPU-second, read sentences", "1/s", "high"
    ),
    "step.validation_ratio": Figure(
        "validation / training pass over the same clips", "x", "low", 0.4
    ),
    "step.loader_percent": Figure(
        "making a batch, as a share of the training step", "%", "low", 0.1
    ),
    **{
        f"data.{kind}.padding_bs{size}_percent": Figure(
            f"padding, {text}, batches of {size}", "%", "low", target
        )
        for kind, text, target in (
            ("lj", "read sentences", 0.3),
            ("conversation", "conversations", 1.3),
        )
        for size in (8, 16, 32)
    },
    "data.conversation.padding_budget_percent": Figure(
        "padding, conversations, batches of 8192 tokens", "%", "low", 1.3
    ),
    "data.conversation.sorted_bs8_percent": Figure(
        "padding, conversations, batches of 8 sorted once and the same in every epoch", "%", "low"
    ),
    "data.conversation.tokens_cv_bs8": Figure(
        "variation of tokens per step, conversations, batches of 8", "", "low"
    ),
    "data.conversation.tokens_cv_budget": Figure(
        "variation of tokens per step, conversations, batches of 8192 tokens", "", "low", 0.05
    ),
    "data.batches_repeated_percent": Figure(
        "batches of an epoch that the next epoch has, too", "%", "low", 5
    ),
    "data.depth_frames_ratio": Figure(
        "depth frames drawn / 1/16 of the frames, read sentences", "x", "low", 1.02
    ),
    "data.open_100k_ms": Figure("opening a mapped store of 100,000 clips", "ms", "low", 57),
    "data.read_clip_us": Figure("reading one clip of it at random", "us", "low", 7),
    "pretokenize.check_first_sec": Figure(
        "pretokenize.py checks 60,000 rows of spans in 1,041 files, for the first time", "s", "low"
    ),
    "pretokenize.check_first_cores": Figure("cores that are busy meanwhile", "cores", "high"),
    "pretokenize.check_again_sec": Figure("the same with nothing new", "s", "low", 10),
    "pretokenize.two_processes_ratio": Figure(
        "Mimi at its true size: batches in one process / in two, wall time", "x", "high", 1.8
    ),
    "pretokenize.two_processes_alone_ratio": Figure(
        "the same: clips one at a time / batches in two processes, wall time", "x", "high"
    ),
    "pretokenize.alone_ratio": Figure(
        "the same: clips one at a time / batches in two processes, per CPU-second", "x", "high", 1.0
    ),
    "pretokenize.system_percent": Figure("system time of these processes' CPU time", "%", "low", 5),
    "codec.batched_ratio": Figure(
        "Mimi at its true size: clips one at a time / in batches, per CPU-second", "x", "high", 1.0
    ),
    "codec.kept_memory_ratio": Figure(
        "freed memory returned to the system / kept, in batches", "x", "high"
    ),
    "codec.system_percent": Figure("system time of the batches' CPU time", "%", "low", 5),
    "codec.dialogue_ratio": Figure(
        "Moshi's dialogues per second and channel, against CSM's clips", "x", "high", 1.0
    ),
    "codec.times_real_time": Figure("seconds of sound encoded per CPU-second", "x", "high"),
    "codec.padding_percent": Figure(
        "padding of pretokenize.py's batches, read sentences", "%", "low", 2
    ),
    "generate.batch1.transformers_ratio": Figure(
        "generation, one prompt, transformers / ours", "x", "high", 1.3
    ),
    "generate.batch8.transformers_ratio": Figure(
        "generation, eight prompts, transformers / ours", "x", "high", 1.3
    ),
    "generate.batch1.peer_ratio": Figure(
        "generation, one prompt, public trainer / ours", "x", "high", 1.3
    ),
    "generate.batch16.peer_ratio": Figure(
        "a prompt by the public trainer, which takes one / one of sixteen together, ours",
        *("x", "high", 10),
    ),
    "generate.batch8.clip_ratio": Figure(
        "one clip alone / a clip of eight together, both ours", "x", "high"
    ),
    "generate.batch1.frame_ms": Figure("CPU-ms of one frame, one prompt", "ms", "low"),
    "moshi.step.full_ratio": Figure(
        "Moshi, training step, full windows of 100 s, moshi package / ours", "x", "high", 1.3
    ),
    "moshi.step.dialogues_ratio": Figure(
        "the same, dialogues of 5 to 100 s (28 in the mean) in windows of 100 s",
        *("x", "high", 2.5),
    ),
    "moshi.step.depth_quarter_ratio": Figure(
        "Moshi, training step, depth_fraction 1 / depth_fraction 0.25, both ours", "x", "high"
    ),
    "moshi.generate.batch1_ratio": Figure("Moshi answers one user, LMGen / ours", "x", "high", 1.5),
    "moshi.generate.batch16_ratio": Figure(
        "the same, a dialogue of LMGen / one of sixteen together", "x", "high", 5
    ),
    "moonshine.step.random_ratio": Figure(
        "Moonshine, training step, clips of 2 to 15 s, Seq2SeqTrainer with random batches / ours",
        *("x", "high", 1.3),
    ),
    "moonshine.step.grouped_ratio": Figure("the same, batches grouped by length", "x", "high", 1.1),
    "moonshine.step.audio_sec_per_cpu_sec": Figure(
        "seconds of sound trained on per CPU-second, ours", "x", "high"
    ),
    "moonshine.step.loader_percent": Figure(
        "making its batches, as a share of the training step", "%", "low", 3
    ),
    "moonshine.decode.single_ratio": Figure(
        "greedy texts of 64 clips of 0.5 to 8 s, transformers one by one / ours",
        *("x", "high", 5),
    ),
    "moonshine.decode.batched_ratio": Figure(
        "the same, transformers in batches of 16 of similar length / ours", "x", "high", 1.5
    ),
    "moonshine.lora.vendor_ratio": Figure(
        "streaming Moonshine, adapters, moonshine-voice's trainer / ours", "x", "high", 1.2
    ),
    "lanes.steps_ratio": Figure(
        "steps of 8 runs that train adapters by one clip each, one after the other / side by side"
        " (--packed_lora 8)",
        *("x", "high", 2),
    ),
    "sweep.gap_ms": Figure(
        "wall time between the end of a trial that does nothing and the next", "ms", "low", 50
    ),
    "startup.help_train_ms": Figure("CPU-ms of train.py --help", "ms", "low"),
    "startup.help_pretokenize_ms": Figure("CPU-ms of pretokenize.py --help", "ms", "low"),
    "startup.help_sweep_ms": Figure("CPU-ms of sweep.py --help", "ms", "low"),
    "startup.help_generate_ms": Figure("CPU-ms of csm_ft.generate --help", "ms", "low"),
    "startup.import_model_ms": Figure(
        "CPU-ms of importing torch and the model of CSM", "ms", "low"
    ),
    "startup.import_torch_ms": Figure("CPU-ms of importing torch alone", "ms", "low"),
    "counts.csm1b.gemm": Figure(
        "matrix products and attentions of forward + backward, CSM-1B, bf16", "", "low", 300
    ),
    "counts.csm1b.other": Figure(
        "other operations of forward + backward, CSM-1B, bf16", "", "low", 1850
    ),
    "counts.csm1b.other_mb_per_token": Figure(
        "MB read and written by them per position", "MB", "low", 24
    ),
    "counts.csm1b.compiled_other_mb_per_token": Figure(
        "the same with compiled layers, by kernels of the compiler's choice for a CPU",
        "MB",
        "low",
        8,
    ),
    "counts.csm1b.saved_mb_per_token": Figure(
        "MB kept for the backward pass per position", "MB", "low", 2.8
    ),
    "counts.csm1b.update_bytes_per_weight": Figure(
        "bytes read and written per weight by the norm of gradients and AdamW", "B", "low", 32
    ),
    "counts.csm1b.clipped_update_bytes_per_weight": Figure(
        "the same in a step whose gradient is above max_grad_norm, and clipped", "B", "low"
    ),
    "counts.csm1b.host_reads": Figure("values that forward + backward wait for", "", "low", 0),
    "counts.frame.operations": Figure("operations per generated frame, CSM-1B", "", "low", 3000),
    "counts.frame.host_reads": Figure("values that a generated frame waits for", "", "low", 0.2),
    **{
        f"full.{name}.{figure}": Figure(f"CSM-1B, {recipe}: {text}", unit, better)
        for name, (recipe, _) in FULL_RECIPES.items()
        for figure, text, unit, better in _FULL_FIGURES
    },
    **{
        f"full.generate.batch{count}.times_real_time": Figure(
            f"CSM-1B, bf16, {text}: seconds of speech generated per second", "x", "high"
        )
        for count, text in _FULL_BATCHES
    },
    **{
        f"full.generate.batch{count}.graph_ratio": Figure(
            f"the same, {text}: every frame step by step / as a CUDA graph", "x", "high"
        )
        for count, text in _FULL_BATCHES
    },
}


def exact(value: float) -> Measured:
    """Return a figure that does not vary."""
    return Measured(float(value), float(value), float(value), 0)


def median(values: Sequence[float]) -> Measured:
    """Return the median of some rounds."""
    return Measured(statistics.median(values), min(values), max(values), len(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> Measured:
    """Return the median of the ratios of rounds that were measured side by side."""
    return median([a / b for a, b in zip(above, below, strict=True)])


def total_ratio(above: Sequence[float], below: Sequence[float]) -> Measured:
    """Return the ratio of the sums over rounds of unlike work, as in an epoch, and its range."""
    return replace(ratio(above, below), value=sum(above) / sum(below))


def reaches(name: str, value: float) -> bool | None:
    """Tell whether a value reaches the figure's target; None = it has none."""
    figure = FIGURES[name]
    if figure.target is None:
        return None
    return value >= figure.target if figure.better == "high" else value <= figure.target

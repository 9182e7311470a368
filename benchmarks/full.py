"""CSM-1B on a GPU: throughput, share of the card's peak and memory of each recipe, and speech.

`python -m benchmarks --device cuda --full` measures it by the wall clock, as a GPU works beside the
processor. On a CPU, with `--size tiny`, it checks the program itself.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.clips import FRAMES_PER_SEC, SIZES, split_of
from benchmarks.config import BenchmarkConfig
from benchmarks.counts import CSM_1B
from benchmarks.figures import FULL_RECIPES, Found, Measured, exact, median, ratio
from csm_ft.data.batches import Step, fill
from csm_ft.device import autocast, choose_device, reproducible
from csm_ft.errors import OutOfMemoryError
from csm_ft.families.base import Draw
from csm_ft.families.captured import Capture, graph_capture
from csm_ft.families.csm.arrange import arrange
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import CsmBatch, collate
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import CsmModel, empty_model, random_model
from csm_ft.families.csm.sample import generate
from csm_ft.families.csm.size import CsmSize
from csm_ft.training.compiling import compile_blocks
from csm_ft.training.duration import card_tflops
from csm_ft.training.memory import LiveBytes, measure_pass, memory_of, prepare
from csm_ft.training.optim import build_optimizer
from csm_ft.training.step import optimizer_step

FAMILY = CsmFamily()
MODELS = {"small": CSM_1B, "tiny": SIZES["tiny"]}
STEPS_PER_ROUND = 3
NUM_TOKENS, NUM_FRAMES = 24, 50  # of a prompt, and generated
BATCHES = (1, 16)  # of prompts


class Predicted(NamedTuple):
    """What is known of a step before it is taken."""

    memory_bytes: int
    flops: float


def measure(config: BenchmarkConfig) -> Found:
    """Measure each recipe on a model of its own, then generation."""
    device, size = choose_device(config.device), MODELS[config.size]
    found: dict[str, Measured | str] = {}
    for name, (_, options) in FULL_RECIPES.items():
        recipe = CsmConfig.model_validate({"device": device, "learning_rate": 1e-6, **options})
        measured = _train(recipe, size, config)
        found |= {f"full.{name}.{figure}": value for figure, value in measured.items()}
    return {**found, **_speak(size, device, config)}


def largest_batch(size: CsmSize, config: CsmConfig) -> CsmBatch:
    """Make the micro-batch of most read sentences within micro_batch_tokens padded positions."""
    examples = arrange(split_of("lj", 400, size), config, evaluate=False)
    order = sorted(range(len(examples)), key=lambda row: int(examples.costs[row]))
    indices = max(fill(order, examples.costs, config.micro_batch_tokens), key=len)
    return collate(examples, indices, depth_fraction=config.depth_fraction, draw=Draw(0, 0))


def _train(recipe: CsmConfig, size: CsmSize, config: BenchmarkConfig) -> Found:
    """Take steps by a recipe; its figures by their last names."""
    batch, device = largest_batch(size, recipe), recipe.device
    expected = _predict(recipe, size, batch)
    names = ("tokens_per_sec", "audio_hours_per_hour", "mfu_percent")
    try:
        with reproducible(device, threads=recipe.threads or 1, seed=0):
            take_step = _trainer(recipe, size, batch)
            _reset_peak(device)
            take_step()  # allocates the optimiser's state
            seconds = [
                _time(take_step, device, times=STEPS_PER_ROUND) for _ in range(config.rounds)
            ]
            peak_bytes, kernels = _peak(device), _count_kernels(take_step, device)
    except OutOfMemoryError:
        needed = f"out of memory: it was predicted to need {expected.memory_bytes / 1e9:.1f} GB"
        return dict.fromkeys((*names, "peak_gb", "peak_predicted_ratio", "kernels"), needed)
    audio_sec = len(batch.codes) / FRAMES_PER_SEC
    tflops = card_tflops(device, is_16_bit=recipe.dtype != "fp32")
    no_peak = "no data sheet of this device is known"
    no_gpu = "it takes a GPU"
    return {
        "tokens_per_sec": median([batch.num_positions / sec for sec in seconds]),
        "audio_hours_per_hour": median([audio_sec / sec for sec in seconds]),
        "mfu_percent": median([expected.flops / sec / tflops / 1e10 for sec in seconds])
        if tflops
        else no_peak,
        "peak_gb": exact(peak_bytes / 1e9) if peak_bytes else no_gpu,
        "peak_predicted_ratio": exact(peak_bytes / expected.memory_bytes) if peak_bytes else no_gpu,
        "kernels": exact(kernels) if kernels else no_gpu,
    }


def _predict(recipe: CsmConfig, size: CsmSize, batch: CsmBatch) -> Predicted:
    """Predict a step as `train.py --dry_run` does."""
    model = empty_model(size)
    prepare(model, FAMILY, recipe)
    counted: LiveBytes = measure_pass(model, batch, FAMILY.loss_terms(recipe), recipe)
    return Predicted(memory_of(model, counted, recipe).total, counted.flops)


def _trainer(recipe: CsmConfig, size: CsmSize, batch: CsmBatch) -> Callable[[], object]:
    """Build model and optimiser as train.py does; the result takes one step."""
    model = random_model(size, 0)
    prepare(model, FAMILY, recipe)
    if recipe.compile == "on":
        compile_blocks(model)
    model.to(recipe.device)
    optimizer = build_optimizer(model, FAMILY, recipe)
    terms, step = FAMILY.loss_terms(recipe), Step(1, 0, batch.num_sequences, [], [])
    return lambda: optimizer_step(model, optimizer, step, [batch], recipe, terms)


def _speak(size: CsmSize, device: str, config: BenchmarkConfig) -> Found:
    """Generate frames for prompts of random text, as many for each."""
    model = random_model(size, 0).eval().to(device)
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Measured | str] = {}
    for num_prompts in BATCHES:
        shape = (num_prompts, NUM_TOKENS)
        tokens = torch.randint(0, size.text_vocab_size, shape, generator=generator).to(device)
        speak, speak_eagerly = (
            _greedy(model, tokens, capture) for capture in (graph_capture(model), None)
        )
        speak()
        times = [(_time(speak, device), _time(speak_eagerly, device)) for _ in range(config.rounds)]
        seconds, eager = zip(*times, strict=True)
        spoken_sec = num_prompts * NUM_FRAMES / FRAMES_PER_SEC
        name = f"full.generate.batch{num_prompts}"
        found[f"{name}.times_real_time"] = median([spoken_sec / sec for sec in seconds])
        has_graph = graph_capture(model) is not None  # nor did a capture fail
        found[f"{name}.graph_ratio"] = ratio(eager, seconds) if has_graph else "no graph captured"
    return found


def _greedy(model: CsmModel, tokens: torch.Tensor, capture: Capture | None) -> Callable[[], object]:
    def choose(logits: torch.Tensor, _: int) -> torch.Tensor:
        return logits.argmax(-1)

    @torch.no_grad()
    def speak() -> object:
        with autocast(model.device.type, "bf16"):
            contexts = list(model.text_embeddings(tokens))
            return generate(model, contexts, choose, NUM_FRAMES, capture=capture)

    return speak


def _time(run: Callable[[], object], device: str, *, times: int = 1) -> float:
    """Return the seconds of one call, the mean of some, until the device is done."""
    began = time.perf_counter()
    for _ in range(times):
        run()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / times


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: str) -> int:
    """Return the most bytes of tensors that were there at once; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0


def _count_kernels(run: Callable[[], object], device: str) -> int:
    """Return how many kernels the GPU runs in one call, copies left out; 0 on a CPU."""
    if not device.startswith("cuda"):
        return 0
    with profile(activities=[ProfilerActivity.CUDA]) as traced:
        _time(run, device)
    events: Any = traced.events()
    on_gpu = [one.name for one in events if one.device_type.name == "CUDA"]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in on_gpu)

"""Encoding by Mimi at its true size, with random weights: in batches, and one clip at a time."""

import os

import numpy as np
import torch
from transformers import MimiConfig, MimiModel

from benchmarks.clips import durations_sec
from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Found, exact, median, ratio
from benchmarks.timing import Times, interleave
from csm_ft.codecs.mimi import Mimi
from csm_ft.device import keep_freed_memory
from csm_ft.families.csm.export.transformers import random_codec
from csm_ft.families.moshi.encoder import MoshiEncoder
from csm_ft.pretokenize.encode import CPU_BATCH_SEC, group_by_length

NUM_CLIPS = 2000  # that padding is computed of


def measure(config: BenchmarkConfig) -> Found:
    """Encode one batch of pretokenize.py's default size, and its clips one at a time."""
    torch.manual_seed(0)
    model = MimiModel(MimiConfig()) if config.size == "small" else random_codec()
    codec = Mimi(model, num_codebooks=32, source="random", weights_digest="")
    groups, rate_hz = _groups(codec), codec.sample_rate_hz
    group = groups[len(groups) // 2]
    if config.size == "tiny":
        group = group[:2]
    random = np.random.default_rng(0)
    waves = [random.normal(0, 0.1, int(sec * rate_hz)).astype(np.float32) for sec in group]
    codec.encode([waves[0][:rate_hz]])
    system_share = list[float]()

    def batched(_: int) -> None:
        before = os.times()
        codec.encode(waves)
        after = os.times()
        system, user = after.system - before.system, after.user - before.user
        system_share.append(100 * system / max(system + user, 1e-9))

    variants = {
        "alone": lambda _: [codec.encode([wave]) for wave in waves],
        "batched": batched,
    }
    rounds = min(config.rounds, 2)
    before = interleave({"batched": batched}, rounds=rounds, warm_up=False)
    keep_freed_memory()  # as pretokenize.py does; it cannot be undone, so this part is late
    system_share.clear()
    times = interleave(variants, rounds=rounds, warm_up=False)
    audio_sec = sum(group)
    dialogues = _dialogues(model, 4 if config.size == "small" else 1, rounds)
    return {
        "codec.dialogue_ratio": ratio(dialogues["clips"], dialogues["dialogues"]),
        "codec.kept_memory_ratio": ratio(before["batched"], times["batched"]),
        "codec.batched_ratio": ratio(times["alone"], times["batched"]),
        "codec.system_percent": median(system_share),
        "codec.times_real_time": median([audio_sec / sec for sec in times["batched"]]),
        "codec.padding_percent": exact(_padding(groups)),
    }


def _dialogues(model: MimiModel, seconds: int, rounds: int) -> Times:
    """Encode stereo dialogues for Moshi, and as much sound as clips for CSM."""
    for_clips, for_dialogues = (
        Mimi(model, num_codebooks=number, source="random", weights_digest="") for number in (32, 8)
    )
    encoder = MoshiEncoder(for_dialogues, None, {})
    shape = (2, 2, seconds * for_clips.sample_rate_hz)  # dialogues, channels, samples
    sounds = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    variants = {
        "clips": lambda _: for_clips.encode(list(sounds.reshape(4, -1))),
        "dialogues": lambda _: encoder.encode_audio(list(sounds)),
    }
    return interleave(variants, rounds=rounds, warm_up=False)


def _groups(codec: Mimi) -> list[list[float]]:
    """Return the durations of the clips of each batch, as pretokenize.py makes them."""
    frame_sec = codec.frame_samples / codec.sample_rate_hz
    seconds = durations_sec("lj", NUM_CLIPS)
    frames = {str(i): int(np.ceil(sec / frame_sec)) for i, sec in enumerate(seconds)}
    groups = group_by_length(frames, max_rows=CPU_BATCH_SEC / frame_sec)
    return [[float(seconds[int(id_)]) for id_ in group] for group in groups]


def _padding(groups: list[list[float]]) -> float:
    padded = sum(len(group) * max(group) for group in groups)
    return 100 * (1 - sum(map(sum, groups)) / padded)

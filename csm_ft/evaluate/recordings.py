"""Clips to judge: real ones through the codec, the same as recorded, and samples of a folder."""

import json
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from csm_ft.data import audio
from csm_ft.data.audio import Wave
from csm_ft.data.measures import FLOOR_DBFS, mean_power, to_dbfs
from csm_ft.data.split import Split, Store
from csm_ft.errors import AudioError, ConfigError
from csm_ft.evaluate.judge import Judges, References, SpokenClip, embed_voices, recording_key
from csm_ft.families.encoder import Encoder

NUM_REFERENCES = 8  # training clips per speaker that voices are compared with
MAX_SPEAKERS = 20
_NOTHING_BELOW_OTHER_DB = 20.0  # a side this far below the other says nothing


def through_codec(split: Split, rows: Sequence[int], encoder: Encoder) -> Iterator[SpokenClip]:
    """Yield clips as the encoder gives them back; none for a family that keeps no sound."""
    for row in rows:
        wave = encoder.decode(split.arrays(row))
        if wave is not None:
            wave, rate_hz = one_channel(wave), encoder.sample_rate_hz
            yield replace(_clip(split, row), wave=wave, sample_rate_hz=rate_hz)


def one_channel(wave: Wave) -> Wave:
    """Return what judges hear of a wave [N] or [2, N]: both sides at once, as in a recording.

    A side that says nothing, as a user who is silent, is left out.
    """
    if wave.ndim == 1:
        return wave
    levels = [to_dbfs(mean_power(side)) if side.size else FLOOR_DBFS for side in wave]
    if abs(levels[0] - levels[1]) > _NOTHING_BELOW_OTHER_DB:
        return wave[int(np.argmax(levels))]
    return wave.mean(axis=0)


def as_recorded(
    split: Split, rows: Sequence[int], sample_rate_hz: int, notes: list[str]
) -> Iterator[SpokenClip]:
    """Yield the original recordings of clips; those that cannot be read are counted in `notes`."""
    problems: list[str] = []
    for row in rows:
        clip = split.clip(row)
        try:
            wave = audio.load(
                Path(clip.source),
                sample_rate_hz=sample_rate_hz,
                start_sec=clip.start_sec,
                end_sec=clip.end_sec,
            )
        except AudioError as error:
            problems.append(str(error))
            continue
        yield replace(_clip(split, row), wave=wave, sample_rate_hz=sample_rate_hz)
    if problems:
        notes.append(
            f"{len(problems)} of {len(rows)} original recordings cannot be read and are left out of"
            f" the row `recordings`: {problems[0]}"
        )


def samples_of(folder: Path) -> dict[str, list[SpokenClip]]:
    """Read the samples of a folder that csm_ft.generate wrote, by the model that made them.

    ConfigError where there are none, or none with sound.
    """
    found: dict[str, list[SpokenClip]] = {}
    for path in sorted(folder.glob("*.json")):
        facts = _facts(path)
        if facts is None or not path.with_suffix(".wav").is_file():
            continue
        header = audio.probe(path.with_suffix(".wav"))
        rate, channel = header.sample_rate_hz, "both" if header.num_channels == 2 else "mix"
        wave = one_channel(
            audio.load(path.with_suffix(".wav"), sample_rate_hz=rate, channel=channel)
        )
        clip = SpokenClip(
            path.with_suffix(".wav").name,
            wave if facts.get("seconds", 1) else wave[:0],
            rate,
            text=str(facts["text"]),
            speaker=str(facts.get("speaker", "")),
            tags={str(name): str(value) for name, value in facts.get("tags", {}).items()},
            prompt=str(facts["prompt"]),
            is_complete=bool(facts.get("is_complete", True)),
        )
        found.setdefault(str(facts.get("model", folder.name)), []).append(clip)
    if not found:
        raise ConfigError(
            f"{folder}: holds no samples with sound (a wav and its json, as csm_ft.generate writes"
            " them); name a folder of samples, a run or weights"
        )
    return found


def is_samples(folder: Path) -> bool:
    """Tell whether a folder holds samples: a wav with a json beside it."""
    return any(path.with_suffix(".json").is_file() for path in folder.glob("*.wav"))


def choose_references(store: Store, seed: int) -> list[int]:
    """Choose up to eight training clips of each speaker.

    At most 20 speakers: those of the validation split first, then the most frequent.
    """
    train, val = store.splits["train"], store.splits["val"]
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row in range(len(train)):
        rows_of[train.speaker(row)].append(row)
    wanted = dict.fromkeys(val.speaker(row) for row in range(len(val)))
    wanted |= dict.fromkeys(sorted(rows_of, key=lambda name: -len(rows_of[name])))
    random = np.random.default_rng(seed)
    chosen: list[int] = []
    for speaker in [name for name in wanted if name in rows_of][:MAX_SPEAKERS]:
        chosen += random.permutation(rows_of[speaker])[:NUM_REFERENCES].tolist()
    return chosen


def make_references(
    store: Store, encoder: Encoder, judges: Judges, rows: Sequence[int]
) -> References:
    """Embed training clips as the codec keeps them, and take the durations of all clips."""
    train, val = store.splits["train"], store.splits["val"]
    seconds: dict[Hashable, float] = {}
    for row in range(len(val)):
        key = recording_key(val.speaker(row), val.clip(row).text, val.tags(row))
        seconds[key] = float(val.durations_sec[row])
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row in range(len(train)):
        rows_of[train.speaker(row)].append(row)
    rates = {name: _sec_per_char(train, own) for name, own in rows_of.items()}
    voices = embed_voices(through_codec(train, rows, encoder), judges)
    return References(voices, seconds, rates)


def _sec_per_char(split: Split, rows: Sequence[int]) -> float:
    letters = sum(len(split.clip(row).text) for row in rows)
    return float(split.durations_sec[list(rows)].sum()) / max(1, letters)


def _clip(split: Split, row: int) -> SpokenClip:
    clip = split.clip(row)
    empty = np.zeros(0, np.float32)
    return SpokenClip(f"{split.name}-{row}", empty, 1, clip.text, clip.speaker, clip.tags)


def _facts(path: Path) -> dict[str, Any] | None:
    """Return the facts beside a sample; None for another JSON file."""
    try:
        facts = json.loads(path.read_bytes())
    except ValueError:
        return None
    is_sample = isinstance(facts, dict) and {"text", "prompt"} <= facts.keys()
    return facts if is_sample else None

"""Encoding what is new. Encoded arrays are kept in parts until the token file is written.

`<output>.parts/plan.json` holds the groups of clips that are encoded together, made before the
first is encoded, so that a resumed run encodes the same groups. `part_00012.safetensors` holds the
arrays of some groups, by clip id (the first array of a clip), `id/name` (its further ones) and
`id/.measures` (what was measured on its sound, float32, in the order of Measures). A share has such
a folder of its own (shards.py).
`fitted.safetensors` holds an encoder that was fitted for this output. Each file is written whole or
not at all.
"""

import functools
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from csm_ft.atomic import write_whole
from csm_ft.config.shard import Shard
from csm_ft.console import console, track
from csm_ft.data.audio import Wave
from csm_ft.data.measures import Measures
from csm_ft.data.split import SPLITS, Arrays, Split, Store
from csm_ft.errors import AudioError
from csm_ft.pretokenize.clips import Job, Span
from csm_ft.pretokenize.shards import find_shards, folder_of
from csm_ft.pretokenize.workers import call_in_processes, num_cores

Group = list[str]  # clip ids
Heard = tuple[Wave, Measures]
# More than fits into the caches of a CPU makes it slower.
BATCH_SEC, CPU_BATCH_SEC = 120.0, 30.0
_LEAST_SEC = 60.0  # of sound for each process: to start one takes a second or two
_MEASURES = ".measures"  # as an array of a clip, in the parts


class ClipCache:
    """The arrays of all sound that was encoded before.

    Those of the token file that is about to be replaced, and those of the parts.
    """

    def __init__(self, output: Path, old: Store | None, part: Shard) -> None:
        """Take the token file at `output`, opened, or None if there is none.

        A share knows its own parts only, the whole those of all shares.
        """
        self.folder = folder_of(output, part)
        self._shards = list(find_shards(output).values()) if part.num_parts == 1 else []
        self._store = old
        self._arrays: Sequence[str] = ()  # that come from the sound, the first array first
        self._old: dict[str, tuple[Split, int]] = {}
        self._parts: dict[str, Path] = {}  # name of a tensor -> its part
        self._lengths: dict[str, int] = {}  # name of a tensor -> its rows

    def find(self, arrays: Sequence[str]) -> None:
        """Look up which clips have all of `arrays` in the old token file or in the parts.

        Clip ids name the encoder, too, so what another one encoded does no harm.
        """
        self._arrays = arrays
        store = self._store
        if store is not None and set(arrays) <= set(store.info.arrays):
            for split in (store.splits[name] for name in SPLITS):
                self._old |= {id_: (split, i) for i, id_ in enumerate(split.ids)}
        for folder in (self.folder, *self._shards):
            for path in sorted(folder.glob("part_*.safetensors")):
                self._add_part(path)

    def is_old(self, clip_id: str) -> bool:
        """Tell whether the old token file has a clip."""
        return clip_id in self._old

    def __contains__(self, clip_id: str) -> bool:
        return self._is_in_parts(clip_id) or clip_id in self._old

    def lengths(self, clip_id: str) -> dict[str, int]:
        """Return the rows of each array of a clip."""
        if self._is_in_parts(clip_id):
            return {name: self._lengths[self._tensor(clip_id, name)] for name in self._arrays}
        split, index = self._old[clip_id]
        return {name: int(split.lengths(name)[index]) for name in self._arrays}

    def array(self, clip_id: str, name: str) -> NDArray[Any]:
        """Return one array of a clip, [T] or [T, width]."""
        if self._is_in_parts(clip_id):
            tensor = self._tensor(clip_id, name)
            with safe_open(self._parts[tensor], framework="numpy") as part:
                return part.get_tensor(tensor)
        split, index = self._old[clip_id]
        return split.array(name, index)

    def measures(self, clip_id: str) -> Measures:
        """Return what was measured on the sound of a clip; NaN where an old file does not say."""
        if not self._is_in_parts(clip_id):
            split, index = self._old[clip_id]
            return split.clip(index).measures
        tensor = f"{clip_id}/{_MEASURES}"
        if tensor not in self._parts:  # of a version that did not measure
            return Measures()
        with safe_open(self._parts[tensor], framework="numpy") as part:
            return Measures(*part.get_tensor(tensor).tolist())

    def add(self, clips: Mapping[str, Arrays]) -> None:
        """Keep the arrays of some groups, and their measures, as the next part."""
        parts = self.folder.glob("part_*.safetensors")
        number = 1 + max((int(part.stem.split("_")[1]) for part in parts), default=-1)
        tensors: dict[str, NDArray[Any]] = {}
        for id_, arrays in clips.items():
            for name in self._arrays:
                tensors[self._tensor(id_, name)] = np.ascontiguousarray(arrays[name])
            tensors[f"{id_}/{_MEASURES}"] = arrays[_MEASURES]
        path = self.folder / f"part_{number:05d}.safetensors"
        write_whole(path, save(tensors))
        self._add_part(path)

    def plan(self, missing: Mapping[str, Span], job: Job) -> list[Group]:
        """Return the groups to encode.

        Those of the stored plan, then new ones, sorted by length, for clips that no plan names.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path, fingerprint = self.folder / "plan.json", job.encoder.audio_fingerprint
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        # Version 0.2 wrote `codec_fingerprint`.
        planned_for = stored.get("audio_fingerprint", stored.get("codec_fingerprint"))
        groups: list[Group] = stored["groups"] if planned_for == fingerprint else []
        planned = set(itertools.chain.from_iterable(groups))
        new = {id_: span.num_rows for id_, span in missing.items() if id_ not in planned}
        batch_sec = job.config.batch_sec or (CPU_BATCH_SEC if job.device == "cpu" else BATCH_SEC)
        max_rows = batch_sec * job.encoder.sample_rate_hz / job.frame_samples
        groups += group_by_length(new, max_rows=max_rows)
        write_whole(path, json.dumps({"audio_fingerprint": fingerprint, "groups": groups}))
        wanted = [[id_ for id_ in group if id_ in missing] for group in groups]
        return [group for group in wanted if group]

    def fitted(self) -> Iterator[tuple[Mapping[str, Any], Mapping[str, bytes]]]:
        """Yield facts and assets of encoders that may have been fitted for this output before.

        What an interrupted run fitted comes first, then what the old token file holds.
        """
        path = self.folder / "fitted.safetensors"
        if path.is_file():
            with safe_open(path, framework="numpy") as file:
                facts = json.loads(file.metadata()["facts"])
                names = file.keys()
                assets = {name: file.get_tensor(name).tobytes() for name in names}
            yield facts, assets
        if self._store is not None:
            yield self._store.info.facts, self._store.assets

    def keep_fitted(self, facts: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        """Keep a fitted encoder until the token file holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.frombuffer(blob, np.uint8) for name, blob in assets.items()}
        blob = save(tensors, metadata={"facts": json.dumps(dict(facts))})
        write_whole(self.folder / "fitted.safetensors", blob)

    def remove(self) -> None:
        """Remove the parts, once the token file has it all."""
        for folder in (self.folder, *self._shards):
            shutil.rmtree(folder, ignore_errors=True)

    def _tensor(self, clip_id: str, name: str) -> str:
        return clip_id if name == self._arrays[0] else f"{clip_id}/{name}"

    def _is_in_parts(self, clip_id: str) -> bool:
        return all(self._tensor(clip_id, name) in self._parts for name in self._arrays)

    def _add_part(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy") as part:
                for tensor in part.keys():  # noqa: SIM118 - not a dict
                    self._parts[tensor] = path
                    self._lengths[tensor] = part.get_slice(tensor).get_shape()[0]
        except (SafetensorError, ValueError, OSError) as error:
            message = f"{path} is damaged ({error}); its clips are encoded again"
            console.print(message, markup=False, style="yellow")
            path.unlink()


@dataclass(frozen=True)
class Encoded:
    """What one run added."""

    num_clips: int = 0
    audio_sec: float = 0.0
    wall_sec: float = 0.0
    rejected: Mapping[str, str] = field(
        default_factory=dict
    )  # clip ids that cannot be used, with the reason

    @property
    def times_real_time(self) -> float:
        """Seconds of audio per second."""
        return self.audio_sec / max(self.wall_sec, 1e-9)


def encode_missing(wanted: Mapping[str, Span], cache: ClipCache, job: Job) -> Encoded:
    """Encode every wanted clip that the cache does not have.

    A clip that could not be used is tried again in the next run.
    """
    missing = {id_: span for id_, span in wanted.items() if id_ not in cache}
    if not missing:
        console.print(f"nothing to encode: all {len(wanted)} clips are already encoded")
        return Encoded()
    groups = cache.plan(missing, job)
    seconds = [sum(missing[id_].duration_sec for id_ in group) for group in groups]
    console.print(
        f"encoding {len(missing)} of {len(wanted)} clips, {sum(seconds) / 60:.1f} minutes, in"
        f" {len(groups)} batches"
    )
    started = time.monotonic()
    clips: dict[str, Arrays] = {}  # encoded, and not yet in a part
    rejected: dict[str, str] = {}
    num_processes = choose_processes(job.config.num_workers, sum(seconds))
    outcomes = _encode_groups(groups, missing, job, num_processes)
    for outcome_of in track(outcomes, "encoding", sum(seconds), weights=seconds):
        for id_, outcome in outcome_of.items():
            if isinstance(outcome, str):
                rejected[id_] = outcome
            else:
                clips[id_] = outcome
        if len(clips) >= job.config.save_every:
            cache.add(clips)
            clips = {}
    if clips:
        cache.add(clips)
    return Encoded(len(missing) - len(rejected), sum(seconds), time.monotonic() - started, rejected)


def group_by_length(num_rows: Mapping[str, int], *, max_rows: float) -> list[Group]:
    """Group clips of similar lengths, each group padded to no more than `max_rows`."""
    groups: list[Group] = []
    group: Group = []
    for rows, id_ in sorted((rows, id_) for id_, rows in num_rows.items()):
        if group and rows * (len(group) + 1) > max_rows:
            groups.append(group)
            group = []
        group.append(id_)
    return [*groups, group] if group else groups


def choose_processes(num_workers: int, total_sec: float) -> int:
    """Return how many processes repay their start, for so many seconds of sound."""
    return max(1, min(num_workers, num_cores(), int(total_sec / _LEAST_SEC)))


def _encode_groups(
    groups: Sequence[Group], spans: Mapping[str, Span], job: Job, num_processes: int
) -> Iterator[dict[str, Arrays | str]]:
    """Yield the outcomes of each group; a GPU encodes in this process what the others have read."""
    load = functools.partial(_load_group, spans, job)
    if job.device == "cpu":
        encode = functools.partial(_load_and_encode, spans, job)
        yield from call_in_processes(encode, groups, num_processes)
    else:
        for group in call_in_processes(load, groups, num_processes):
            yield _encode_group(group, job)


def _load_and_encode(spans: Mapping[str, Span], job: Job, group: Group) -> dict[str, Arrays | str]:
    return _encode_group(_load_group(spans, job, group), job)


def _encode_group(group: Mapping[str, Heard | str], job: Job) -> dict[str, Arrays | str]:
    """Return the arrays of each clip, its measures among them, or why it cannot be used."""
    outcomes: dict[str, Arrays | str] = {
        id_: heard for id_, heard in group.items() if isinstance(heard, str)
    }
    good = {id_: heard for id_, heard in group.items() if not isinstance(heard, str)}
    encoded = job.encoder.encode_audio([wave for wave, _ in good.values()]) if good else []
    for (id_, (_, measures)), outcome in zip(good.items(), encoded, strict=True):
        measured = {_MEASURES: np.array(measures, np.float32)}
        outcomes[id_] = outcome if isinstance(outcome, str) else {**outcome, **measured}
    return outcomes


def _load_group(spans: Mapping[str, Span], job: Job, group: Group) -> dict[str, Heard | str]:
    """Return the waves of a group with their measures, or why one cannot be read."""
    heard: dict[str, Heard | str] = {}
    for id_ in group:
        try:
            heard[id_] = job.load(spans[id_])
        except AudioError as error:
            heard[id_] = f"{error}; fix the span or drop the row"
    return heard

"""Encoding what is new.

Codes are kept in parts, each there whole or not at all, until the token file is written.

`<output>.parts/plan.json` holds the groups of clips that go through the codec together, made before
the first is encoded, so that a resumed run encodes the same groups; `part_00012.safetensors` holds
the codes of some groups, by clip id.
"""

import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from csm_ft.atomic import write_whole
from csm_ft.codecs.base import Codec, Wave
from csm_ft.console import console, track
from csm_ft.data import audio
from csm_ft.data.split import SPLITS, Split, Store
from csm_ft.pretokenize.clips import Span
from csm_ft.pretokenize_config import PretokenizeConfig

Group = list[str]  # clip ids
FITTED = "fitted"  # codec_source of a codec that only the token file holds


class CodeCache:
    """All codes that are at hand.

    Those of the token file that is about to be replaced, and those of the parts.
    """

    def __init__(self, output: Path, old: Store | None) -> None:
        """Take the token file at `output`, opened, or None if there is none."""
        self.folder = Path(f"{output}.parts")
        self._store = old
        self._old: dict[str, tuple[Split, int]] = {}
        self._parts: dict[str, Path] = {}
        self._frames: dict[str, int] = {}

    def find(self) -> None:
        """Look up what the old token file and the parts hold.

        Ids name the codec, too, so other codecs' codes do no harm.
        """
        store = self._store
        if store is not None:
            self._old = {
                id_: (store.splits[name], i)
                for name in SPLITS
                for i, id_ in enumerate(store.splits[name].ids)
            }
        for path in sorted(self.folder.glob("part_*.safetensors")):
            self._add_part(path)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._parts or clip_id in self._old

    def num_frames(self, clip_id: str) -> int:
        """Return the frames of a clip."""
        if clip_id in self._frames:
            return self._frames[clip_id]
        split, index = self._old[clip_id]
        return int(split.num_frames[index])

    def codes(self, clip_id: str) -> NDArray[np.uint16]:
        """Return the codes of a clip, [T, K]."""
        if clip_id in self._parts:
            with safe_open(self._parts[clip_id], framework="numpy") as part:
                return part.get_tensor(clip_id)
        split, index = self._old[clip_id]
        return split.codes(index)

    def add(self, codes: Mapping[str, NDArray[np.uint16]]) -> None:
        """Keep the codes of some groups as the next part."""
        number = 1 + max(
            (int(p.stem.split("_")[1]) for p in self.folder.glob("part_*.safetensors")), default=-1
        )
        path = self.folder / f"part_{number:05d}.safetensors"
        write_whole(path, save({id_: np.ascontiguousarray(c) for id_, c in codes.items()}))
        self._add_part(path)

    def plan(self, missing: Mapping[str, Span], codec: Codec, batch_sec: float) -> list[Group]:
        """Return the groups to encode.

        Those of the stored plan, then new ones, sorted by length, for clips that no plan names.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plan.json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        groups: list[Group] = (
            stored["groups"] if stored.get("codec_fingerprint") == codec.fingerprint else []
        )
        planned = {id_ for group in groups for id_ in group}
        frames_per_batch = batch_sec * codec.sample_rate_hz / codec.frame_samples
        new = sorted((span.num_frames, id_) for id_, span in missing.items() if id_ not in planned)
        batch: Group = []
        for num_frames, id_ in new:
            if batch and num_frames * (len(batch) + 1) > frames_per_batch:
                groups.append(batch)
                batch = []
            batch.append(id_)
        groups += [batch] if batch else []
        write_whole(path, json.dumps({"codec_fingerprint": codec.fingerprint, "groups": groups}))
        return [wanted for group in groups if (wanted := [id_ for id_ in group if id_ in missing])]

    def fitted_codec(self) -> bytes | None:
        """Return the codec that was fitted for this output before, or None."""
        kept = self.folder / "codec.safetensors"
        if kept.is_file():
            return kept.read_bytes()
        store = self._store
        return (
            store.asset("codec")
            if store is not None and store.info.codec_source == FITTED
            else None
        )

    def keep_fitted_codec(self, blob: bytes) -> None:
        """Keep a fitted codec until the token file holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "codec.safetensors", blob)

    def remove_parts(self) -> None:
        """Drop the parts; the token file has it all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _add_part(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy") as part:
                for id_ in part.keys():  # noqa: SIM118 - not a dict
                    self._parts[id_] = path
                    self._frames[id_] = part.get_slice(id_).get_shape()[0]
        except (SafetensorError, ValueError, OSError) as error:
            console.print(
                f"{path} is damaged ({error}); its clips are encoded again",
                markup=False,
                style="yellow",
            )
            path.unlink()


@dataclass(frozen=True)
class Encoded:
    """What one run added."""

    num_clips: int
    audio_sec: float
    wall_sec: float
    unusable: Mapping[str, str]  # clips that have no codes, with the reason

    @property
    def times_real_time(self) -> float:
        """Seconds of audio per second."""
        return self.audio_sec / max(self.wall_sec, 1e-9)


def encode_missing(
    wanted: Mapping[str, Span], cache: CodeCache, codec: Codec, config: PretokenizeConfig
) -> Encoded:
    """Encode every wanted clip that the cache does not have.

    A clip that could not be used is tried again in the next run.
    """
    missing = {id_: span for id_, span in wanted.items() if id_ not in cache}
    if not missing:
        console.print(f"nothing to encode: the codes of all {len(wanted)} clips are at hand")
        return Encoded(0, 0.0, 0.0, {})
    groups = cache.plan(missing, codec, config.batch_sec)
    seconds = [sum(missing[id_].duration_sec for id_ in group) for group in groups]
    console.print(
        f"encoding {len(missing)} of {len(wanted)} clips, {sum(seconds) / 60:.1f} minutes, in"
        f" {len(groups)} batches"
    )
    started = time.monotonic()
    codes: dict[str, NDArray[np.uint16]] = {}
    unusable: dict[str, str] = {}
    for waves in track(
        _load_groups(groups, missing, codec, config), "encoding", sum(seconds), weights=seconds
    ):
        unusable |= {id_: reason for id_, reason in waves.items() if isinstance(reason, str)}
        good = {id_: wave for id_, wave in waves.items() if not isinstance(wave, str)}
        for id_, frames in zip(
            good, codec.encode(list(good.values())) if good else [], strict=True
        ):
            assert frames.shape == (
                -(-len(good[id_]) // codec.frame_samples),
                codec.num_codebooks,
            ), f"{codec.name} gave {frames.shape}"
            assert int(frames.max()) < codec.vocab_size, (
                f"{codec.name} gave a code of {frames.max()}"
            )
            if frames.any(axis=1).all():
                codes[id_] = frames
            else:
                unusable[id_] = (
                    "a frame of its codes is all zero, which means end of speech to the model; cut"
                    " the clip differently"
                )
        if len(codes) >= config.save_every:
            cache.add(codes)
            codes = {}
    if codes:
        cache.add(codes)
    return Encoded(len(missing) - len(unusable), sum(seconds), time.monotonic() - started, unusable)


def _load_groups(
    groups: Sequence[Group], spans: Mapping[str, Span], codec: Codec, config: PretokenizeConfig
) -> Iterator[dict[str, Wave | str]]:
    """Yield the waves of each group (or why one cannot be read).

    Reading the next groups while this one is encoded.
    """

    def load(id_: str) -> Wave | str:
        span = spans[id_]
        row = span.row
        try:
            return audio.load(
                row.path,
                sample_rate_hz=codec.sample_rate_hz,
                start_sec=row.start_sec,
                end_sec=row.end_sec,
                channel=config.channel,
            )
        except audio.AudioError as error:
            return str(error)

    with ThreadPoolExecutor(config.num_workers) as pool:
        ahead: list[dict[str, Future[Wave | str]]] = []
        coming = iter(groups)
        while True:
            for group in itertools.islice(coming, 3 - len(ahead)):
                ahead.append({id_: pool.submit(load, id_) for id_ in group})
            if not ahead:
                return
            yield {id_: future.result() for id_, future in ahead.pop(0).items()}

"""Encoding what is new: codes are kept in parts, each there whole or not at all, until the token file is written.

`<output>.parts/plan.json` holds the groups of clips that go through the codec together, made before the first is encoded, so that a resumed
run encodes the same groups; `part_00012.safetensors` holds the codes of some groups, by clip id.
"""

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from csm_ft import audio
from csm_ft.codecs.base import Codec, Wave
from csm_ft.files import whole_file, write_whole
from csm_ft.progress import console, track
from csm_ft.store import SPLITS, Split, StoreError, open_store

if TYPE_CHECKING:
    from csm_ft.pretokenizer import PretokenizeConfig, Span

Group = list[str]  # clip ids
_NO_CODES = "unusable"  # metadata key of a part: clips that could not be encoded, with their reasons


class CodeCache:
    """All codes that are at hand: those of the token file that is about to be replaced, and those of the parts."""

    def __init__(self, output: Path) -> None:
        self._output, self.folder = output, Path(f"{output}.parts")
        self._old: dict[str, tuple[Split, int]] = {}
        self._parts: dict[str, Path] = {}
        self._frames: dict[str, int] = {}
        self.unusable: dict[str, str] = {}
        self.num_reused = 0

    def open(self, codec: Codec) -> None:
        """Look up what the old token file and the parts hold for this codec."""
        try:
            store = open_store(self._output, in_memory=False) if self._output.exists() else None
        except StoreError as error:
            console.print(f"the old {self._output} is of no use and will be replaced: {error}", markup=False, style="yellow")
            store = None
        if store is not None and store.info.codec_fingerprint == codec.fingerprint:
            self._old = {id_: (store.splits[name], i) for name in SPLITS for i, id_ in enumerate(store.splits[name].ids)}
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

    def add(self, codes: Mapping[str, NDArray[np.uint16]], unusable: Mapping[str, str]) -> None:
        """Keep the codes of some groups as the next part, and why others of their clips have none."""
        number = 1 + max((int(p.stem.split("_")[1]) for p in self.folder.glob("part_*.safetensors")), default=-1)
        path = self.folder / f"part_{number:05d}.safetensors"
        with whole_file(path) as draft:
            save_file({id_: np.ascontiguousarray(c) for id_, c in codes.items()}, draft, metadata={_NO_CODES: json.dumps(dict(unusable))})
        self._add_part(path)

    def plan(self, missing: Mapping[str, "Span"], codec: Codec, batch_sec: float) -> list[Group]:
        """Return the groups to encode: those of the stored plan, then new ones, sorted by length, for clips that no plan names."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plan.json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        groups: list[Group] = stored["groups"] if stored.get("codec_fingerprint") == codec.fingerprint else []
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
        try:
            store = open_store(self._output, in_memory=False) if self._output.exists() else None
        except StoreError:
            return None
        return store.asset("codec") if store is not None and store.info.codec_source == "fitted" else None

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
                self.unusable |= json.loads((part.metadata() or {}).get(_NO_CODES, "{}"))
                for id_ in part.keys():  # noqa: SIM118 - not a dict
                    self._parts[id_] = path
                    self._frames[id_] = part.get_slice(id_).get_shape()[0]
        except (SafetensorError, ValueError, OSError) as error:
            console.print(f"{path} is damaged ({error}); its clips are encoded again", markup=False, style="yellow")
            path.unlink()


def encode_missing(wanted: Mapping[str, "Span"], cache: CodeCache, codec: Codec, config: "PretokenizeConfig") -> dict[str, str]:
    """Encode every wanted clip that the cache does not have; return why some of them have no codes."""
    # A clip that could not be decoded is tried again in the next run: its file may be there by then.
    missing = {id_: span for id_, span in wanted.items() if id_ not in cache}
    cache.num_reused = len(wanted) - len(missing)
    if not missing:
        console.print(f"nothing to encode: the codes of all {len(wanted)} clips are at hand")
        return {}
    groups = cache.plan(missing, codec, config.batch_sec)
    seconds = [sum(missing[id_].end_sec - missing[id_].start_sec for id_ in group) for group in groups]
    console.print(f"encoding {len(missing)} of {len(wanted)} clips, {sum(seconds) / 60:.1f} minutes, in {len(groups)} batches")
    codes: dict[str, NDArray[np.uint16]] = {}
    unusable: dict[str, str] = {}
    all_unusable: dict[str, str] = {}
    for waves in track(_load_groups(groups, missing, codec, config), "encoding (seconds of audio)", round(sum(seconds)), weights=seconds):
        good = {id_: wave for id_, wave in waves.items() if not isinstance(wave, str)}
        unusable |= {id_: reason for id_, reason in waves.items() if isinstance(reason, str)}
        for id_, frames in zip(good, codec.encode(list(good.values())) if good else [], strict=True):
            if (frames == 0).all(axis=1).any():
                unusable[id_] = "a frame of its codes is all zero, which means end of speech to the model; cut the clip differently"
            else:
                codes[id_] = frames
        if len(codes) + len(unusable) >= config.save_every:
            cache.add(codes, unusable)
            all_unusable |= unusable
            codes, unusable = {}, {}
    if codes or unusable:
        cache.add(codes, unusable)
    return all_unusable | unusable


def _load_groups(
    groups: Sequence[Group], spans: Mapping[str, "Span"], codec: Codec, config: "PretokenizeConfig"
) -> Iterator[dict[str, Wave | str]]:
    """Yield the waves of each group (or why one cannot be read), reading the next groups while this one is encoded."""

    def load(id_: str) -> Wave | str:
        span = spans[id_]
        row = span.row
        try:
            return audio.load(
                row.path, sample_rate_hz=codec.sample_rate_hz, start_sec=row.start_sec, end_sec=row.end_sec, channel=config.channel
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

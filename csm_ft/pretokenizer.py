"""From metadata and audio to a token file: every row is checked before the first is encoded, and only what is new is encoded.

The flow: read metadata -> hold out a validation split -> check rows -> name clips -> encode what no cache has -> write the token file.
A clip's id is a hash of audio bytes, span, channel and codec; its text is keyed apart, so a new transcript touches no audio.
"""

import fcntl
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator, model_validator

from csm_ft import audio, codecs
from csm_ft.codecs.base import Codec
from csm_ft.config import ConfigError, Options, option
from csm_ft.data_report import describe_store, summarise
from csm_ft.encoding import CodeCache, encode_missing
from csm_ft.families.csm.text import TextTokenizer, open_tokenizer
from csm_ft.files import write_whole
from csm_ft.metadata import Rejection, Row, read_metadata
from csm_ft.progress import console, track
from csm_ft.store import DUPLICATE, SPLITS, Clip, StoreInfo, open_store, write_store


class PretokenizeConfig(Options):
    """Options of pretokenize.py."""

    train_data: str = option("", "Metadata of the training clips: .json .jsonl .csv .tsv .parquet .sqlite .hdf5", group="data")
    val_data: str = option("", "Metadata of the validation clips; none = hold out val_fraction of train_data.", group="data")
    val_fraction: float = option(0.05, "Share of clips to hold out; clips of one source file stay together.", group="data")
    output: str = option("./data/tokens.hdf5", "Token file to write.", group="data")
    sql_table: str = option("data", "Table of an SQLite file.", group="data")
    channel: audio.Channel = option("mix", "What to take of stereo files.", group="data")
    codec: codecs.CodecName = option("mimi", "Audio codec; melrvq is embedded and needs no download.", group="codec and text")
    codec_source: str = option(
        "auto", "Weights of the codec: hub name, folder or file; auto = kyutai/mimi, or the embedded one.", group="codec and text"
    )
    num_codebooks: int = option(0, "Codebooks to keep; 0 = all (32 of Mimi).", group="codec and text")
    fit_codec: bool = option(
        False, "melrvq: fit a new codec on the training clips first; it is kept when rows are added.", group="codec and text"
    )
    refit_codec: bool = option(False, "With fit_codec: fit it again, and encode everything again.", group="codec and text")
    tokenizer: str = option(
        "auto",
        "Text tokenizer: hub name, folder or tokenizer.json; auto = Llama 3.2's, or the embedded one for melrvq.",
        group="codec and text",
    )
    omit_speaker_id: bool = option(False, "Leave the [speaker] prefix out of the text.", group="codec and text")
    default_speaker: str = option("999", "Speaker of rows that name none.", group="codec and text")
    min_sec: float = option(0.4, "Shorter clips are rejected.", group="checks")
    max_positions: int = option(2048, "Text tokens + frames + 1 that a clip may take: the model's length.", group="checks")
    max_rejected: str = option("5%", "More rejected rows than this share are an error; nothing is written then.", group="checks")
    strict: bool = option(False, "Stop when any row is rejected.", group="checks")
    device: str = option("auto", "cpu, cuda or cuda:N for the codec; auto = cuda if there is one.", group="speed")
    num_workers: int = option(4, "Threads that read, hash and resample audio.", group="speed")
    batch_sec: float = option(120.0, "Seconds of audio per codec batch.", group="speed")
    save_every: int = option(100, "Clips between saves; a killed run loses no more than these.", group="speed")
    seed: int = option(0, "Seed of the held-out split and of fit_codec.", group="data")

    @field_validator("max_rejected")
    @classmethod
    def _share(cls, value: str) -> str:
        number = value.removesuffix("%").strip()
        try:
            share = float(number) / (100 if value.endswith("%") else 1)
        except ValueError:
            raise ValueError(f"{value!r} is not a share; write 5% or 0.05") from None
        if not 0 <= share <= 1:
            raise ValueError(f"{value!r} is not between 0 and 100%")
        return value

    @property
    def max_rejected_share(self) -> float:
        """max_rejected as 0..1."""
        return float(self.max_rejected.removesuffix("%")) / (100 if self.max_rejected.endswith("%") else 1)

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if not self.train_data:
            raise ValueError("--train_data is missing: name a metadata file with the columns path and text")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction {self.val_fraction} is not between 0 and 1")
        for name in ("num_workers", "batch_sec", "save_every", "max_positions"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not above 0")
        if self.min_sec < 0 or self.num_codebooks < 0:
            raise ValueError(f"min_sec {self.min_sec} and num_codebooks {self.num_codebooks} cannot be below 0")
        if self.fit_codec and self.codec != "melrvq":
            raise ValueError("fit_codec fits the embedded codec: add --codec melrvq (Mimi comes trained)")
        if self.refit_codec and not self.fit_codec:
            raise ValueError("refit_codec goes with --fit_codec")
        return self


@dataclass(frozen=True)
class Span:
    """One checked row: where its audio is, and its text as tokens."""

    row: Row
    start_sec: float
    end_sec: float
    start_sample: int  # at the file's own rate
    num_samples: int
    num_frames: int  # expected of the codec
    text_tokens: NDArray[np.uint32]
    key: str = ""  # hash of file bytes, span and channel; with the codec's fingerprint it makes the clip's id

    def clip_id(self, codec_fingerprint: str) -> str:
        """Return the id of the clip: the same audio by the same codec has the same id, whatever its text."""
        return hashlib.blake2b(f"{self.key} {codec_fingerprint}".encode(), digest_size=16).hexdigest()


class TooManyRejectedError(Exception):
    """More rows were rejected than allowed; nothing was written."""


class Rejections:
    """The rows that cannot be used, each with its split and reason; kept in `<output>.rejected.jsonl`."""

    def __init__(self, config: PretokenizeConfig) -> None:
        self.path = Path(f"{config.output}.rejected.jsonl")
        self._config = config
        self._found: list[tuple[str, Rejection]] = []

    def add(self, split: str, rejections: Iterable[Rejection]) -> None:
        """Add rows of a split."""
        self._found += [(split, rejection) for rejection in rejections]

    def add_row(self, split: str, row: Row, reason: str) -> None:
        """Add one row that was read well."""
        self._found.append((split, Rejection(row.where, str(row.path), row.text, reason)))

    def __len__(self) -> int:
        return len(self._found)

    def check(self, num_rows: int) -> None:
        """Write the list; raise TooManyRejectedError when it is longer than allowed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"split": split, **json.loads(rejection.to_json())}, ensure_ascii=False) for split, rejection in self._found]
        if lines or self.path.exists():
            write_whole(self.path, "".join(f"{line}\n" for line in lines))
        if not self._found:
            return
        for _, rejection in self._found[:5]:
            console.print(f"rejected {rejection}", markup=False, style="yellow")
        if len(self) > 5:
            console.print(f"... and {len(self) - 5} more in {self.path}", markup=False, style="yellow")
        share, allowed = len(self) / num_rows, self._config.max_rejected_share
        if self._config.strict or share > allowed:
            rule = "--strict allows none" if self._config.strict else f"--max_rejected allows {allowed:.1%}"
            raise TooManyRejectedError(
                f"{len(self)} of {num_rows} rows ({share:.1%}) are rejected, {rule}. The reasons stand in {self.path}; mend the rows, or allow more. "
                f"{self._config.output} is as it was"
            )

    def summary(self) -> dict[str, int]:
        """Count the kinds of reasons: the wording without numbers and names."""
        return dict(Counter(rejection.reason.split(";")[0].split("(")[0].strip()[:80] for _, rejection in self._found).most_common(20))


def pretokenize(config: PretokenizeConfig) -> None:
    """Do what the module says.

    Raises ConfigError, MetadataError, StoreError and the errors of codec and tokenizer (all ValueError) for mistakes of the user,
    TooManyRejectedError when too few rows are good.
    """
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _locked(output):
        rejections = Rejections(config)
        rows, num_rows = _read_rows(config, rejections)
        device = _device(config.device)
        tokenizer = open_tokenizer(config.tokenizer, codec=config.codec)
        cache = CodeCache(output)
        codec = _open_codec(config, device, cache, rows)
        console.print(
            f"codec {codec.name} ({codec.source}), {codec.num_codebooks} codebooks, on {device}; text by {tokenizer.source}", markup=False
        )
        spans = {split: _check_rows(config, split, rows[split], codec, tokenizer, rejections) for split in SPLITS}
        rejections.check(num_rows)
        spans = _name_clips(config, spans)
        cache.open(codec)
        wanted = {span.clip_id(codec.fingerprint): span for split in SPLITS for span in spans[split]}
        unusable = encode_missing(wanted, cache, codec, config)
        for split in SPLITS:
            for span in spans[split]:
                if span.clip_id(codec.fingerprint) in unusable:
                    rejections.add_row(split, span.row, unusable[span.clip_id(codec.fingerprint)])
            spans[split] = [span for span in spans[split] if span.clip_id(codec.fingerprint) not in unusable]
        rejections.check(num_rows)
        _need_both(config, {split: len(spans[split]) for split in SPLITS})
        tables = {split: Table(spans[split], codec, cache, config) for split in SPLITS}
        assets = {"codec": codec.to_bytes(), "tokenizer": tokenizer.to_bytes()}
        write_store(output, _info(config, codec, tokenizer), tables, {name: blob for name, blob in assets.items() if blob is not None})
        cache.remove_parts()
        _report(output, rejections, num_encoded=len(wanted) - cache.num_reused)


class Table:
    """The clips of one split as write_store reads them: codes come from the cache as they are asked for."""

    def __init__(self, spans: Sequence[Span], codec: Codec, cache: CodeCache, config: PretokenizeConfig) -> None:
        self._spans, self._cache, self._config = spans, cache, config
        self._ids = [span.clip_id(codec.fingerprint) for span in spans]
        seen: set[tuple[str, str, str | None]] = set()
        self._flags = []
        for id_, span in zip(self._ids, spans, strict=True):
            pair = (id_, span.row.text, span.row.speaker)
            self._flags.append(DUPLICATE if pair in seen else 0)
            seen.add(pair)
        self.num_frames = np.array([cache.num_frames(id_) for id_ in self._ids], dtype=np.int64)
        self.num_text_tokens = np.array([len(span.text_tokens) for span in spans], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._spans)

    def codes(self, index: int) -> NDArray[np.uint16]:
        """[T, K]."""
        return self._cache.codes(self._ids[index])

    def text_tokens(self, index: int) -> NDArray[np.uint32]:
        """[L]."""
        return self._spans[index].text_tokens

    def clip(self, index: int) -> Clip:
        """The row of the clip table."""
        span = self._spans[index]
        speaker = span.row.speaker or self._config.default_speaker
        duration_sec = span.end_sec - span.start_sec
        source = str(span.row.path)
        return Clip(self._ids[index], span.row.text, speaker, source, span.start_sec, span.end_sec, duration_sec, self._flags[index])


def _read_rows(config: PretokenizeConfig, rejections: Rejections) -> tuple[dict[str, list[Row]], int]:
    rows: dict[str, list[Row]] = {"train": [], "val": []}
    for split, name in (("train", config.train_data), ("val", config.val_data)):
        if name:
            rows[split], bad = read_metadata(Path(name), sql_table=config.sql_table)
            rejections.add(split, bad)
    num_rows = sum(map(len, rows.values())) + len(rejections)
    if not config.val_data and rows["train"]:
        rows["train"], rows["val"] = hold_out(rows["train"], config.val_fraction, config.seed)
        console.print(f"no --val_data: held out {len(rows['val'])} of {len(rows['val']) + len(rows['train'])} clips for validation")
    return rows, num_rows


def hold_out(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Split rows into training and validation without splitting a source file.

    Files are taken in the order of a seeded hash of their path, until `fraction` of the clips is held out; at least one file stays on each
    side. New rows move few others. ConfigError when there is only one file.
    """
    clips = Counter(str(row.path) for row in rows)
    if len(clips) < 2:
        raise ConfigError(
            f"all rows are of one file ({rows[0].path.name}), which cannot be in both splits; give --val_data, or cut the file into several"
        )
    order = sorted(clips, key=lambda path: hashlib.blake2b(f"{seed} {path}".encode()).digest())
    held: set[str] = set()
    num_held = 0
    for path in order[:-1]:
        if held and num_held + clips[path] / 2 > fraction * len(rows):
            break
        held.add(path)
        num_held += clips[path]
    return [r for r in rows if str(r.path) not in held], [r for r in rows if str(r.path) in held]


def _check_rows(
    config: PretokenizeConfig, split: str, rows: Sequence[Row], codec: Codec, tokenizer: TextTokenizer, rejections: Rejections
) -> list[Span]:
    """Check all rows of a split against their files, which are opened once each; what fails is rejected with its reason."""
    paths = list(dict.fromkeys(row.path for row in rows))
    with ThreadPoolExecutor(config.num_workers) as pool:
        probed = dict(zip(paths, track(pool.map(_probe, paths), f"checking {split} files", len(paths)), strict=True))
    spans = []
    for row in rows:
        info = probed[row.path]
        try:
            if isinstance(info, str):
                raise ValueError(info)
            spans.append(check_row(config, row, info, codec, tokenizer))
        except ValueError as error:
            rejections.add_row(split, row, str(error))
    return spans


def _probe(path: Path) -> audio.AudioInfo | str:
    try:
        return audio.probe(path)
    except audio.AudioError as error:
        return str(error)


def check_row(config: PretokenizeConfig, row: Row, info: audio.AudioInfo, codec: Codec, tokenizer: TextTokenizer) -> Span:
    """Return the span of a row; ValueError says why it cannot be used."""
    if config.channel == "right" and info.num_channels == 1:
        raise ValueError(f"{row.path}: channel right of a mono file; use --channel mix")
    start_sec = row.start_sec or 0.0
    end_sec = row.end_sec if row.end_sec is not None else info.duration_sec
    if end_sec > info.duration_sec + 0.01:
        raise ValueError(f"end {end_sec:g} s is after the end of {row.path.name} ({info.duration_sec:.3f} s); fix the span or drop the row")
    if start_sec >= info.duration_sec:
        raise ValueError(
            f"start {start_sec:g} s is after the end of {row.path.name} ({info.duration_sec:.3f} s); fix the span or drop the row"
        )
    end_sec = min(end_sec, info.duration_sec)
    if end_sec - start_sec < config.min_sec:
        raise ValueError(f"{end_sec - start_sec:.3f} s is shorter than --min_sec {config.min_sec:g}; drop the row, or lower it")
    speaker = None if config.omit_speaker_id else row.speaker or config.default_speaker
    tokens = tokenizer.encode(row.text, speaker)
    num_frames = math.ceil(round((end_sec - start_sec) * codec.sample_rate_hz) / codec.frame_samples)
    if len(tokens) + num_frames + 1 > config.max_positions:
        raise ValueError(
            f"{len(tokens)} text tokens + {num_frames} frames + 1 are more than --max_positions {config.max_positions}; "
            f"cut the clip ({end_sec - start_sec:.1f} s) into shorter ones"
        )
    start_sample = round(start_sec * info.sample_rate_hz)
    num_samples = round(end_sec * info.sample_rate_hz) - start_sample
    return Span(row, start_sec, end_sec, start_sample, num_samples, num_frames, tokens)


def _name_clips(config: PretokenizeConfig, spans: Mapping[str, list[Span]]) -> dict[str, list[Span]]:
    """Hash each file once and give every span its key."""
    paths = list(dict.fromkeys(span.row.path for split in SPLITS for span in spans[split]))
    with ThreadPoolExecutor(config.num_workers) as pool:
        digests = dict(zip(paths, track(pool.map(audio.digest, paths), "hashing files", len(paths)), strict=True))

    def key(span: Span) -> str:
        return f"{digests[span.row.path]} {span.start_sample}+{span.num_samples} {config.channel}"

    return {split: [replace(span, key=key(span)) for span in spans[split]] for split in SPLITS}


def _open_codec(config: PretokenizeConfig, device: str, cache: CodeCache, rows: Mapping[str, Sequence[Row]]) -> Codec:
    """Open the codec; with fit_codec the one that was fitted before, unless there is none or refit_codec is set."""
    num_codebooks = config.num_codebooks or None
    if not config.fit_codec:
        return codecs.open_codec(config.codec, config.codec_source, num_codebooks=num_codebooks, device=device)
    from csm_ft.codecs import melrvq

    blob = None if config.refit_codec else cache.fitted_codec()
    if blob is not None:
        console.print("the codec fitted before is used again (--refit_codec fits a new one)")
        return melrvq.load(blob)
    console.print(f"fitting a codec on {len(rows['train'])} training clips")
    waves = []
    for row in track(rows["train"], "reading clips to fit the codec", len(rows["train"])):
        try:
            waves.append(
                audio.load(
                    row.path, sample_rate_hz=melrvq.SAMPLE_RATE_HZ, start_sec=row.start_sec, end_sec=row.end_sec, channel=config.channel
                )
            )
        except audio.AudioError:
            continue  # listed among the rejected rows, which are checked next
    codec = melrvq.fit(waves, seed=config.seed, **({"num_codebooks": num_codebooks} if num_codebooks else {}))
    cache.keep_fitted_codec(codec.to_bytes())
    return codec


def _info(config: PretokenizeConfig, codec: Codec, tokenizer: TextTokenizer) -> StoreInfo:
    return StoreInfo(
        family="csm",
        codec=codec.name,
        codec_source="fitted" if config.fit_codec else codec.source,
        codec_fingerprint=codec.fingerprint,
        num_codebooks=codec.num_codebooks,
        codec_vocab_size=codec.vocab_size,
        sample_rate_hz=codec.sample_rate_hz,
        frame_samples=codec.frame_samples,
        tokenizer=tokenizer.source,
        tokenizer_fingerprint=tokenizer.fingerprint,
        text_vocab_size=tokenizer.vocab_size,
        template="{text}" if config.omit_speaker_id else tokenizer.template,
    )


def _need_both(config: PretokenizeConfig, num_clips: Mapping[str, int]) -> None:
    for split in SPLITS:
        if not num_clips[split]:
            raise ConfigError(f"no {split} clip is left; {config.output}.rejected.jsonl says why. {config.output} is as it was")


def _report(output: Path, rejections: Rejections, *, num_encoded: int) -> None:
    store = open_store(output, in_memory=False)
    console.print(describe_store(store), markup=False)
    console.print(
        f"{num_encoded} clips encoded now, {len(rejections)} rows rejected" + (f" (see {rejections.path})" if len(rejections) else ""),
        markup=False,
    )
    facts: dict[str, Any] = {
        **summarise(store),
        "rejected": len(rejections),
        "rejected_reasons": rejections.summary(),
        "encoded_now": num_encoded,
    }
    write_whole(Path(f"{output}.report.json"), json.dumps(facts, indent=2, default=str))


def _device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {wanted}: this torch sees no GPU; use --device cpu")
    return wanted


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold the output for this process; the kernel lets go of it on any death."""
    with output.with_name(f".{output.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{output}: another pretokenize.py is writing it; wait for it, or choose another --output") from None
        yield

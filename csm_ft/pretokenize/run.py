"""From metadata and audio to a token file.

Every row is checked before the first is encoded, and only what is new is encoded.

The flow: read metadata -> check rows against their files -> hold out a validation split -> encode
what no cache has -> write. A clip's id is a hash of audio bytes, span, channel and codec; its text
is keyed apart, so a new transcript touches no audio.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csm_ft import codecs
from csm_ft.atomic import write_whole
from csm_ft.codecs.base import Codec
from csm_ft.config import ConfigError
from csm_ft.console import console, track
from csm_ft.data import audio
from csm_ft.data.describe import describe_store, summarise
from csm_ft.data.split import DUPLICATE, SPLITS
from csm_ft.data.token_file import (
    Clip,
    Store,
    StoreInfo,
    is_public_layout,
    open_store,
    verify,
    write_store,
)
from csm_ft.families.csm.encoder import TextTokenizer, open_tokenizer
from csm_ft.pretokenize.clips import (
    FrameRate,
    Rejections,
    Span,
    check_positions,
    check_rows,
    hold_out,
    inspect_files,
)
from csm_ft.pretokenize.encode import FITTED, CodeCache, Encoded, encode_missing
from csm_ft.pretokenize.folders import find_metadata
from csm_ft.pretokenize.metadata import read_metadata
from csm_ft.pretokenize_config import PretokenizeConfig

_FEWEST_VAL_CLIPS, _LARGEST_VAL_SHARE = 8, 0.2  # of small data, where val_fraction is not given
# speech that a codec is fitted on, at most: more makes it no better and does not fit the memory
_FIT_SEC = 1800


def pretokenize(config: PretokenizeConfig) -> None:
    """Do what the module says.

    Raises ConfigError, MetadataError, StoreError and the errors of codec and tokenizer (all
    ValueError) for mistakes of the user, TooManyRejectedError when too few rows are good. Whatever
    is raised, the old output is as it was.
    """
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _locked(output):
        cache = CodeCache(output, _open_old(output))
        rejections = Rejections(config)
        device = _device(config.device)
        tokenizer = open_tokenizer(config.tokenizer, codec=config.codec)
        codec = None if config.fit_codec else _open_codec(config, device)
        spans, num_rows = _usable_rows(config, codec, tokenizer, rejections)
        if codec is None:
            codec = _fitted_codec(config, cache, spans["train"])
        console.print(
            f"codec {codec.name} ({codec.source}), {codec.num_codebooks} codebooks, on {device}",
            markup=False,
        )
        if codec.name == "melrvq" and not config.fit_codec and config.codec_source == "auto":
            console.print(
                "note: the embedded codec knows the voices of the demo; recorded voices want"
                " --codec mimi, or --fit_codec"
            )
        console.print(f"text by {tokenizer.source}", markup=False)
        cache.find()
        wanted = {
            span.clip_id(codec.fingerprint): span for split in SPLITS for span in spans[split]
        }
        encoded = encode_missing(wanted, cache, codec, config)
        spans = _encoded_rows(config, spans, codec, cache, encoded, rejections, num_rows)
        tables = {split: Table(spans[split], codec, cache) for split in SPLITS}
        assets = {"codec": codec.to_bytes(), "tokenizer": tokenizer.to_bytes()}
        write_store(
            output,
            _info(config, codec, tokenizer),
            tables,
            {name: blob for name, blob in assets.items() if blob is not None},
        )
        cache.remove_parts()
        _report(output, rejections, encoded)


class Table:
    """The clips of one split as write_store reads them.

    Codes come from the cache as they are asked for.
    """

    def __init__(self, spans: Sequence[Span], codec: Codec, cache: CodeCache) -> None:
        self._spans, self._cache = spans, cache
        self._ids = [span.clip_id(codec.fingerprint) for span in spans]
        seen: set[tuple[str, ...]] = set()
        self._flags = []
        for id_, span in zip(self._ids, spans, strict=True):
            said = (id_, span.row.text, span.speaker, span.row.conversation)
            self._flags.append(DUPLICATE if said in seen else 0)
            seen.add(said)
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
        row = span.row
        return Clip(
            id=self._ids[index],
            text=row.text,
            speaker=span.speaker,
            source=str(row.path),
            start_sec=span.start_sec,
            end_sec=span.end_sec,
            duration_sec=span.duration_sec,
            flags=self._flags[index],
            conversation=row.conversation,
            turn=row.turn,
        )


def _usable_rows(
    config: PretokenizeConfig, codec: Codec | None, tokenizer: TextTokenizer, rejections: Rejections
) -> tuple[dict[str, list[Span]], int]:
    """Read and check all rows.

    Return those of each split that can be encoded, and how many rows there were.
    """
    metadata = {
        split: name
        for split, name in zip(SPLITS, (config.train_data, config.val_data), strict=True)
        if name
    }
    rows = {}
    for split, name in metadata.items():
        rows[split], bad = read_metadata(Path(name), sql_table=config.sql_table)
        _say_what_was_read(Path(name))
        rejections.add(split, bad)
    unnamed = sum(row.speaker is None for split in rows for row in rows[split])
    if unnamed and not config.omit_speaker_id and "default_speaker" not in config.model_fields_set:
        console.print(
            f"{unnamed} rows name no speaker: they are speaker {config.default_speaker}"
            " (--default_speaker names another)"
        )
    num_rows = sum(map(len, rows.values())) + len(rejections)
    files = inspect_files((row for split in rows for row in rows[split]), config.num_workers)
    spans = {
        split: check_rows(
            config, split, rows[split], files, _frame_rate(codec), tokenizer, rejections
        )
        for split in metadata
    }
    rejections.check(num_rows)
    if not config.val_data and spans["train"]:
        spans["train"], spans["val"] = hold_out(
            spans["train"], _held_out_share(config, len(spans["train"])), config.seed
        )
    _need_both(config, spans)
    return spans, num_rows


def _say_what_was_read(path: Path) -> None:
    """Say what a folder was taken for."""
    found = find_metadata(path)
    if found != path:
        console.print(f"{path} is a folder: its metadata is {found.name}", markup=False)
    elif found.is_dir():
        console.print(
            f"{path} is a folder without metadata: its sound files are the clips, the text file"
            " beside each its text",
            markup=False,
        )


def _encoded_rows(
    config: PretokenizeConfig,
    spans: Mapping[str, list[Span]],
    codec: Codec,
    cache: CodeCache,
    encoded: Encoded,
    rejections: Rejections,
    num_rows: int,
) -> dict[str, list[Span]]:
    """Return the rows that have codes and fit the model.

    What only encoding could find out is rejected here.
    """
    good: dict[str, list[Span]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for span in spans[split]:
            id_ = span.clip_id(codec.fingerprint)
            try:
                if id_ in encoded.unusable:
                    raise ValueError(encoded.unusable[id_])
                check_positions(config, span, cache.num_frames(id_))
                good[split].append(span)
            except ValueError as error:
                rejections.add_row(split, span.row, str(error))
    rejections.check(num_rows)
    _need_both(config, good)
    return good


def _held_out_share(config: PretokenizeConfig, num_clips: int) -> float:
    """Return val_fraction.

    Unless the user chose it, more of small data: a few clips cannot tell a better model from a
    lucky one.
    """
    if "val_fraction" in config.model_fields_set:
        return config.val_fraction
    return max(config.val_fraction, min(_FEWEST_VAL_CLIPS / num_clips, _LARGEST_VAL_SHARE))


def _need_both(config: PretokenizeConfig, spans: Mapping[str, Sequence[Span]]) -> None:
    for split in SPLITS:
        if not spans.get(split):
            raise ConfigError(
                f"no {split} clip is left: {config.output}.rejected.jsonl says why. {config.output}"
                " was not written"
            )


def _open_codec(config: PretokenizeConfig, device: str) -> Codec:
    return codecs.open_codec(
        config.codec, config.codec_source, num_codebooks=config.num_codebooks or None, device=device
    )


def _frame_rate(codec: Codec | None) -> FrameRate:
    """None = a codec that is yet to be fitted."""
    if codec is not None:
        return FrameRate(codec.sample_rate_hz, codec.frame_samples)
    from csm_ft.codecs import melrvq

    return FrameRate(melrvq.SAMPLE_RATE_HZ, melrvq.FRAME_SAMPLES)


def _fitted_codec(config: PretokenizeConfig, cache: CodeCache, spans: Sequence[Span]) -> Codec:
    """Return the codec that was fitted for this output before, or fit one on the training clips.

    Half an hour of them at most.
    """
    from csm_ft.codecs import melrvq

    blob = None if config.refit_codec else cache.fitted_codec()
    if blob is not None:
        codec = melrvq.load(blob)
        if config.num_codebooks in (0, codec.num_codebooks):
            console.print(
                "the codec that was fitted for this file before is used again (--refit_codec fits a"
                " new one)"
            )
            return codec
    chosen: list[Span] = []
    total_sec = 0.0
    for span in sorted(
        spans, key=lambda span: hashlib.blake2b(f"{config.seed} {span.key}".encode()).digest()
    ):
        if total_sec < _FIT_SEC:
            chosen.append(span)
            total_sec += span.duration_sec
    waves = []
    for span in track(chosen, "reading clips to fit the codec", len(chosen)):
        try:
            waves.append(
                audio.load(
                    span.row.path,
                    sample_rate_hz=melrvq.SAMPLE_RATE_HZ,
                    start_sec=span.row.start_sec,
                    end_sec=span.row.end_sec,
                    channel=config.channel,
                )
            )
        except audio.AudioError:
            continue  # rejected with its reason when it is encoded
    console.print(f"fitting a codec on {len(waves)} training clips, {total_sec / 60:.1f} minutes")
    codec = melrvq.fit(
        waves,
        seed=config.seed,
        **({"num_codebooks": config.num_codebooks} if config.num_codebooks else {}),
    )
    cache.keep_fitted_codec(codec.to_bytes())
    return codec


def _info(config: PretokenizeConfig, codec: Codec, tokenizer: TextTokenizer) -> StoreInfo:
    return StoreInfo(
        family="csm",
        codec=codec.name,
        codec_source=FITTED if config.fit_codec else _lasting(codec.source),
        codec_fingerprint=codec.fingerprint,
        num_codebooks=codec.num_codebooks,
        codec_vocab_size=codec.vocab_size,
        sample_rate_hz=codec.sample_rate_hz,
        frame_samples=codec.frame_samples,
        tokenizer=_lasting(tokenizer.source),
        tokenizer_fingerprint=tokenizer.fingerprint,
        text_vocab_size=tokenizer.vocab_size,
        template="{text}" if config.omit_speaker_id else tokenizer.template,
    )


def _lasting(source: str) -> str:
    """Return a local path in full, so that it is found from other working folders.

    A hub name as it is.
    """
    return str(Path(source).resolve()) if Path(source).exists() else source


def _report(output: Path, rejections: Rejections, encoded: Encoded) -> None:
    """Say what is in the new file; the same facts go to `<output>.report.json`."""
    store = open_store(output, in_memory=False)
    console.print(describe_store(store), markup=False)
    reasons = rejections.by_reason()
    for reason, count in reasons.items():
        console.print(f"rejected   {count} x {reason}", markup=False)
    speed = f", {encoded.times_real_time:.0f} times real time" if encoded.num_clips else ""
    console.print(f"{encoded.num_clips} clips encoded now{speed}; {len(rejections)} rows rejected")
    console.print(f"next: python train.py --data {output}", markup=False)
    facts = {
        **summarise(store),
        "rejected": len(rejections),
        "rejected_by_reason": reasons,
        "encoded_now": encoded.num_clips,
        "times_real_time": round(encoded.times_real_time, 2),
    }
    write_whole(Path(f"{output}.report.json"), json.dumps(facts, indent=2, ensure_ascii=False))


def _open_old(output: Path) -> Store | None:
    """Open what this program wrote at `output` before, to take codes from.

    Anything else there is not overwritten.
    """
    if not output.exists():
        return None
    problems = (
        ["it is a token file of the public CSM trainer"]
        if is_public_layout(output)
        else verify(output)
    )
    if problems:
        raise ConfigError(
            f"{output} exists, and is not overwritten: {problems[0]}.\nMove it away, or choose"
            " another --output"
        )
    return open_store(output, in_memory=False)


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
            raise ConfigError(
                f"{output}: another pretokenize.py is writing it; wait for it, or choose another"
                " --output"
            ) from None
        yield

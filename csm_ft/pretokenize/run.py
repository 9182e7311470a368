"""From metadata and sound files to a token file.

The flow: read metadata -> check rows against their files -> hold out a validation split -> fit the
encoder, if it asks for that -> encode what no cache has -> write. Every row is checked before the
first is encoded. A clip's id is a hash of file, span, channel and encoder; its text is keyed apart,
so that a new transcript encodes no sound again. What turns sound and text into arrays is the
business of the family's Encoder.
"""

import hashlib
import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from csm_ft.atomic import exclusive, write_whole
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.console import console, track
from csm_ft.data.audio import TOLERANCE_SEC, Wave
from csm_ft.data.describe import LEVEL_FACT, describe_store, summarise
from csm_ft.data.inspect import SoundFile, inspect_files, read_known
from csm_ft.data.rows import Row
from csm_ft.data.split import SPLITS, Store, StoreInfo
from csm_ft.data.token_file import write_store
from csm_ft.device import choose_device, keep_freed_memory
from csm_ft.errors import AudioError, ConfigError
from csm_ft.families.base import Family
from csm_ft.families.stores import is_foreign, open_store, verify
from csm_ft.pretokenize.clips import (
    Job,
    Span,
    check_rows,
    hold_out,
    report_early_ends,
)
from csm_ft.pretokenize.columns import describe_tags
from csm_ft.pretokenize.encode import ClipCache, Encoded, encode_missing
from csm_ft.pretokenize.hearing import hear_rows
from csm_ft.pretokenize.labels import Labels
from csm_ft.pretokenize.note_kinds import Place
from csm_ft.pretokenize.notes import (
    Found,
    check_notes,
    count_notes,
    describe_notes,
    find_notes,
    write_notes,
)
from csm_ft.pretokenize.read_rows import read_rows
from csm_ft.pretokenize.rejections import Rejections
from csm_ft.pretokenize.shards import (
    check_shards,
    find_shards,
    folder_of,
    mark_done,
    share_of,
)
from csm_ft.pretokenize.spread import spread_texts
from csm_ft.pretokenize.stretches import join_rows
from csm_ft.pretokenize.table import Table
from csm_ft.pretokenize.trim import trim_silence

# Of small data, where val_fraction is not given.
_FEWEST_VAL_CLIPS, _LARGEST_VAL_SHARE = 8, 0.2

Spans = dict[str, list[Span]]  # by split


def pretokenize(family: Family, config: PretokenizeConfig) -> None:
    """Write the token file that `config` asks for, encoding only what is new.

    Raises UserError for mistakes of the user and of the machine; TooManyRejectedError when too few
    rows are good. Whatever is raised, the old output stays as it was.
    """
    output, part = Path(config.output), config.part
    lock = output.with_name(f".{output.name}{part.suffix}.lock")
    busy = (
        f"{output}{part.suffix}: another pretokenize.py is writing it; wait for it, or choose"
        " another --output"
    )
    with exclusive(lock, busy):
        cache = ClipCache(output, _open_old(output, family), part)
        device = choose_device(config.device)
        if device == "cpu":
            keep_freed_memory()
        encoder = family.open_encoder(config, device)
        job = Job(config, family.name, encoder, device)
        _check_channel(job)
        _check_level(job)
        rejections = Rejections(config)
        if part.suffix:
            rejections.path = cache.folder / "rejected.jsonl"
        imported = family.import_tokens(config, encoder)
        if imported is not None and part.suffix:
            raise ConfigError(f"--shard {config.shard}: nothing is to be encoded; leave it out")
        if imported is not None:
            write_store(output, _info(job), imported, encoder.assets)
            _report(family, output, rejections, Encoded(), Notes({}, 0))
            return
        is_fitted = not encoder.fit_sec or _restore(job, cache)
        spans = usable_rows(job, rejections)
        if not is_fitted:
            _fit(job, cache, spans["train"])
        for line in encoder.describe():
            console.print(line, markup=False)
        console.print(f"encoding on {device}")
        fingerprint = encoder.audio_fingerprint
        every_span = itertools.chain.from_iterable(spans.values())
        wanted = {span.clip_id(fingerprint): span for span in every_span}
        text = next(iter(wanted.values())).text
        cache.find([name for name in encoder.arrays if name not in text])
        new = {id_: span for id_, span in wanted.items() if not cache.is_old(id_)}
        if part.suffix:
            _encode_share(job, new, cache)
            return
        if new:  # else a kill came between writing the file and removing its shares
            check_shards(output, new)
        encoded = encode_missing(wanted, cache, job)
        spans = _encoded_rows(job, spans, cache, encoded, rejections)
        tables = {name: Table(name, spans[name], job, cache) for name in SPLITS}
        places = [place for table in tables.values() for place in table.places()]
        notes = _find_notes(config, places)
        write_store(output, _info(job), tables, encoder.assets, encoder.referenced)
        cache.remove()
    _report(family, output, rejections, encoded, notes)
    for line in describe_tags(encoder.columns, spans["train"]):
        console.print(line, markup=False)


def _encode_share(job: Job, new: Mapping[str, Span], cache: ClipCache) -> None:
    """Encode a share of what no token file has, and say how it becomes one."""
    own, shard = share_of(new, job.config.part), job.config.shard
    encoded = encode_missing(own, cache, job)
    for id_, reason in encoded.rejected.items():
        console.print(f"rejected {own[id_].row.where}: {reason}", markup=False, style="yellow")
    mark_done(cache.folder, new, len(encoded.rejected))
    console.print(
        f"--shard {shard} is done: {len(own) - len(encoded.rejected)} of {len(new)} clips are in"
        f" {cache.folder}. When all are beside each other, the same command without --shard merges"
        " them",
        markup=False,
    )


class Notes(NamedTuple):
    """What is implausible in the data."""

    found: Found
    num_unmeasured: int  # clips of an earlier version


def _check_level(job: Job) -> None:
    if job.encoder.referenced and job.config.level_dbfs:
        raise ConfigError(
            f"level_dbfs {job.config.level_dbfs:g} changes the sound, and keep_audio reference"
            " keeps none; leave one of them out"
        )


def _check_channel(job: Job) -> None:
    if job.encoder.channels == "both" and job.config.channel != "mix":
        raise ConfigError(
            f"channel {job.config.channel}: the family {job.family} needs both sides of a stereo"
            " file; leave out --channel"
        )


def usable_rows(job: Job, rejections: Rejections) -> Spans:
    """Read and check all rows, and return those of each split that can be encoded."""
    config = job.config
    rows = read_rows(job, rejections)
    every_row = list(itertools.chain.from_iterable(rows.values()))
    rejections.num_rows = len(every_row) + len(rejections)
    _print_default_speaker(config, every_row)
    labels = Labels(config, rows, hear_rows(config, every_row))
    labels.report()
    good = [row for row in rows.get("train", []) if not labels.rejects(row)]
    job.encoder.fit_text(good)
    files = _inspect(config, every_row)
    if job.encoder.word_lists is not None:
        rows = spread_texts(rows, files, config.num_workers)
    spans: Spans = {name: [] for name in rows}
    num_cut = 0
    for name, wanted in rows.items():
        outcomes = check_rows(job, labels, wanted, files)
        for row, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, str):
                rejections.add_row(name, row, outcome)
            else:
                spans[name].append(outcome)
                num_cut += outcome.end_sec < (row.end_sec or 0.0) - TOLERANCE_SEC
    report_early_ends(itertools.chain.from_iterable(spans.values()), files)
    if num_cut:
        console.print(
            f"{num_cut} spans end up to {config.end_tolerance_sec:g} s past their file and are cut"
            " at its end (--end_tolerance_sec)"
        )
    if config.trim_silence:
        spans = trim_silence(job, spans, files, rejections)
    rejections.write()
    rejections.check()
    if "val" not in spans and spans["train"]:
        share = _held_out_share(config, len(spans["train"]))
        spans["train"], spans["val"] = hold_out(spans["train"], share, config.seed)
    _need_both(config, spans)
    if job.encoder.max_gap_sec:
        spans = join_rows(job, spans, files, rejections)
    return spans


def _inspect(config: PretokenizeConfig, rows: Sequence[Row]) -> dict[Path, SoundFile | str]:
    """Read what no run before has read of the sound files, or with --verify all of them."""
    output = Path(config.output)
    folders = find_shards(output).values()
    kept, own = Path(f"{output}.files.json"), folder_of(output, config.part) / "files.json"
    known = {} if config.verify else read_known([kept, *(one / own.name for one in folders)])
    keep = own if config.part.suffix else kept
    paths = (row.path for row in rows)
    return inspect_files(paths, config.num_workers, known=known, keep=keep)


def _print_default_speaker(config: PretokenizeConfig, rows: Sequence[Row]) -> None:
    num_unnamed = sum(row.speaker is None for row in rows)
    is_chosen = "default_speaker" in config.model_fields_set
    if num_unnamed and config.default_speaker and not is_chosen:
        console.print(
            f"{num_unnamed} rows name no speaker: they are speaker {config.default_speaker}"
            " (--default_speaker names another)"
        )


def _held_out_share(config: PretokenizeConfig, num_clips: int) -> float:
    """Return val_fraction, or, unless it was chosen, more of small data: few clips tell little."""
    if "val_fraction" in config.model_fields_set:
        return config.val_fraction
    return max(config.val_fraction, min(_FEWEST_VAL_CLIPS / num_clips, _LARGEST_VAL_SHARE))


def _need_both(config: PretokenizeConfig, spans: Spans) -> None:
    for split in SPLITS:
        if not spans.get(split):
            raise ConfigError(
                f"no {split} clip is left: {config.output}.rejected.jsonl says why. {config.output}"
                " was not written"
            )


def _restore(job: Job, cache: ClipCache) -> bool:
    """Take the encoder that was fitted for this output before; tell whether there is one."""
    for facts, assets in cache.fitted():
        if job.encoder.restore(facts, assets):
            console.print("the encoder that was fitted for this file before is used again")
            return True
    if job.config.part.suffix:
        raise ConfigError(
            f"--shard {job.config.shard}: every machine would fit an encoder of its own; run the"
            f" command without --shard on some of the rows first, and copy {job.config.output} to"
            " all machines, whose encoder is then used"
        )
    return False


def _fit(job: Job, cache: ClipCache, spans: Sequence[Span]) -> None:
    """Fit the encoder on training clips."""
    encoder = job.encoder
    seed = job.config.seed
    chosen: list[Span] = []
    total_sec = 0.0
    for span in sorted(spans, key=lambda s: hashlib.blake2b(f"{seed} {s.key}".encode()).digest()):
        if total_sec < encoder.fit_sec:
            chosen.append(span)
            total_sec += span.duration_sec
    waves: list[Wave] = []
    for span in track(chosen, "reading clips to fit the encoder", len(chosen)):
        try:
            waves.append(job.load(span)[0])
        except AudioError:
            continue  # rejected with its reason when it is encoded
    console.print(
        f"fitting the encoder on {len(waves)} training clips, {total_sec / 60:.1f} minutes"
    )
    encoder.fit(waves)
    cache.keep_fitted(encoder.facts, encoder.assets)


def _encoded_rows(
    job: Job, spans: Spans, cache: ClipCache, encoded: Encoded, rejections: Rejections
) -> Spans:
    """Return the rows that were encoded and whose true lengths the encoder accepts."""
    good: Spans = {name: [] for name in SPLITS}
    for split in SPLITS:
        for span in spans[split]:
            id_ = span.clip_id(job.encoder.audio_fingerprint)
            reason = encoded.rejected.get(id_) or job.rejects(span, cache.lengths(id_))
            if reason:
                for row in span.rows:
                    rejections.add_row(split, row, reason)
            else:
                good[split].append(span)
    rejections.write()
    rejections.check()
    _need_both(job.config, good)
    return good


def _find_notes(config: PretokenizeConfig, places: Sequence[Place]) -> Notes:
    """Find what is implausible and write it beside the output; NotesError if none is allowed."""
    found = find_notes(places, config.note_limits)
    num_unmeasured = sum(not place.clip.measures.are_known for place in places)
    notes = Notes(found, num_unmeasured)
    path = Path(f"{config.output}.notes.jsonl")
    write_notes(path, found)
    if config.strict_notes:
        _print_notes(notes)
        check_notes(path, found, config.output)
    return notes


def _print_notes(notes: Notes) -> None:
    for line in describe_notes(notes.found, notes.num_unmeasured):
        console.print(line, markup=False)


def _info(job: Job) -> StoreInfo:
    encoder, level_dbfs = job.encoder, job.config.level_dbfs
    return StoreInfo(
        family=job.family,
        arrays=encoder.arrays,
        sample_rate_hz=encoder.sample_rate_hz,
        frame_sec=encoder.frame_sec,
        audio_fingerprint=encoder.audio_fingerprint,
        text_fingerprint=encoder.text_fingerprint,
        facts={**encoder.facts, **({LEVEL_FACT: level_dbfs} if level_dbfs else {})},
    )


def _report(
    family: Family, output: Path, rejections: Rejections, encoded: Encoded, notes: Notes
) -> None:
    """Print what is in the new file, and write the same facts to `<output>.report.json`."""
    store = open_store(output, in_memory=False)
    console.print(describe_store(store, family.describe(store)), markup=False)
    reasons = rejections.by_reason()
    for reason, count in reasons.items():
        console.print(f"rejected   {count} x {reason}", markup=False)
    speed = f", {encoded.times_real_time:.0f} times real time" if encoded.num_clips else ""
    console.print(f"{encoded.num_clips} clips encoded now{speed}; {len(rejections)} rows rejected")
    _print_notes(notes)
    console.print(f"next: python train.py --data {shlex.quote(str(output))}", markup=False)
    of_family = {name: family.summarise(split) for name, split in store.splits.items()}
    facts = {
        **summarise(store, of_family),
        "rejected": len(rejections),
        "rejected_by_reason": reasons,
        "notes": count_notes(notes.found),
        "clips_not_measured": notes.num_unmeasured,
        "encoded_now": encoded.num_clips,
        "times_real_time": round(encoded.times_real_time, 2),
    }
    write_whole(Path(f"{output}.report.json"), json.dumps(facts, indent=2, ensure_ascii=False))


def _open_old(output: Path, family: Family) -> Store | None:
    """Open what this program wrote at `output` before, to take encoded clips from it.

    ConfigError for anything else there: it is not overwritten.
    """
    if not output.exists():
        return None
    problem = ""
    if is_foreign(output):
        problem = "it is a token file of another program"
    elif problems := verify(output):
        problem = problems[0]
    else:
        store = open_store(output, in_memory=False)
        if store.info.family == family.name:
            return store
        problem = f"it was pretokenised for the family {store.info.family}, not for {family.name}"
    raise ConfigError(
        f"{output} exists, and is not overwritten: {problem}.\nMove it away, or choose another"
        " --output"
    )

"""Weights for elsewhere: what a run has learned, in the layout of Sesame's code or of transformers, read back by it before it counts.

    python -m csm_ft.export exp/run --format sesame                 what Sesame's Model.from_pretrained reads
    python -m csm_ft.export exp/run --format transformers           what CsmForConditionalGeneration reads; of a LoRA run, what peft reads
    python -m csm_ft.export exp/run --format merged                 transformers, with the adapters of a LoRA run added into the weights
    python -m csm_ft.export sesame/csm-1b --format transformers --output DIR      a converter, too

The first argument is a run, a sweep, a checkpoint, or any other weights: a folder or file in either layout, or a hub name.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

from csm_ft.config import ConfigError, TrainConfig, load_env_files
from csm_ft.families.base import SamplingOptions
from csm_ft.families.csm import export_sesame, export_transformers
from csm_ft.families.csm.probe import Difference, difference, logits_of, probes_of, random_probes
from csm_ft.families.csm.weights import load_model
from csm_ft.files import whole_folder, write_whole
from csm_ft.origin import Origin, find, open_data
from csm_ft.progress import console
from csm_ft.store import Store

Format = Literal["sesame", "transformers", "merged"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RECORD = "export.json"  # marks a folder as one of ours
MADE_BY = "csm-ft"
SPEECH = "speech.json"
SPEECH_KEYS = (
    "codec",
    "codec_source",
    "codec_fingerprint",
    "num_codebooks",
    "codec_vocab_size",
    "sample_rate_hz",
    "frame_samples",
    "tokenizer",
    "tokenizer_fingerprint",
    "template",
)
# Asset of the token file -> the key of speech.json that names it, and the file of the export.
TRAVELLING = {"codec": ("codec_source", "codec.safetensors"), "tokenizer": ("tokenizer", "tokenizer.json")}


class ExportError(ValueError):
    """An export that cannot be written, or that does not say what the run says; nothing of it is left behind."""


@dataclass(frozen=True)
class Check:
    """What was compared before the export counted."""

    read_by: str
    difference: Difference
    rounding: Difference | None  # what bf16 costs, against the run's own weights


def export(origin: Origin, kind: Format, output: Path, dtype: str = "fp32") -> Check:
    """Write an export into `output`, read it back, compare, and only then put it in its place.

    Raises ConfigError or ExportError; `output` is then as it was before.
    """
    _check_output(output)
    store, why_no_data = open_data(origin)
    if why_no_data:
        console.print(f"[yellow]note[/] {why_no_data}: the export cannot say what its codes sound like (no {SPEECH})")
    try:
        with whole_folder(output) as draft:
            check = _write_checked(draft, origin, store, kind, DTYPES[dtype])
            _write_speech(draft, store)
            record = {"made_by": MADE_BY, "format": kind, "dtype": dtype, "of": origin.label, **asdict(check)}
            write_whole(draft / RECORD, json.dumps(record, indent=2))
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{output} could not be written ({error}); check space and permissions of {output.absolute().parent}") from error
    return check


def _check_output(output: Path) -> None:
    if output.exists() and not (output.is_dir() and (not any(output.iterdir()) or _is_export(output))):
        raise ConfigError(f"{output} is there already and was not made by this program; choose another --output, or move it away")


def _is_export(folder: Path) -> bool:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_checked(folder: Path, origin: Origin, store: Store | None, kind: Format, dtype: torch.dtype) -> Check:
    model = load_model(origin.weights)
    probes = probes_of(store.splits["val"], model.size) if store is not None else random_probes(model.size)
    expected, rounding = logits_of(model, probes), None
    if dtype != torch.float32:
        exact = expected
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype).float()
        expected = logits_of(model, probes)
        rounding = difference(exact, expected)
    if kind == "sesame":
        export_sesame.write_model(folder, model, dtype)
    else:
        export_transformers.write_model(folder, model, None, _sampling(origin.config), dtype)
    del model  # the reader's copy is of the same size
    actual, read_by = (export_sesame if kind == "sesame" else export_transformers).reload(folder, probes)
    found = difference(expected, actual)
    if not found.is_same:
        raise ExportError(f"what {read_by} reads is not what the run says: {found}. Nothing was kept; please report this")
    return Check(read_by, found, rounding)


def _sampling(config: TrainConfig | None) -> SamplingOptions:
    config = config or TrainConfig()
    return SamplingOptions(math.ceil(config.gen_max_sec * 12.5), config.gen_temperature, config.gen_topk, config.seed)


def _write_speech(folder: Path, store: Store | None) -> None:
    """Write what it takes to speak: which codec and tokenizer, and those of them that are small enough to travel."""
    if store is None:
        return
    facts = {key: getattr(store.info, key) for key in SPEECH_KEYS}
    for asset, (key, name) in TRAVELLING.items():
        blob = store.asset(asset)
        if blob is not None:
            write_whole(folder / name, blob)
            facts[key] = name
    write_whole(folder / SPEECH, json.dumps(facts, indent=2))


def _default_output(origin: Origin, kind: Format) -> Path:
    if origin.home is None:
        raise ConfigError(f"{origin.weights} is not a run of this program, so it has no place for exports; say where to: --output DIR")
    return origin.home / f"export-{kind}"


def main(argv: Sequence[str]) -> int:
    """Command line; 0 done, 1 the export was not what the run says or could not be written, 2 a mistake in the options."""
    load_env_files()
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m csm_ft.export", description=description)
    parser.add_argument("run", metavar="RUN", help="run, sweep or checkpoint folder, or other weights: folder, file or hub name")
    parser.add_argument("--format", choices=("sesame", "transformers", "merged"), required=True, help="layout to write")
    parser.add_argument("--output", type=Path, help="folder to write (default: RUN/export-FORMAT)")
    parser.add_argument("--checkpoint", default="", help="best, last or step_000500 (default: best)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32", help="of the weights (default: fp32)")
    arguments = parser.parse_args(argv)
    try:
        origin = find(arguments.run, arguments.checkpoint)
        output = arguments.output or _default_output(origin, arguments.format)
        check = export(origin, arguments.format, output, arguments.dtype)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console.print(f"read back by {check.read_by}: {check.difference}", markup=False)
    if check.rounding is not None:
        console.print(f"rounding to {arguments.dtype} costs: {check.rounding}", markup=False)
    if arguments.format == "sesame" and check.read_by != export_sesame.JUDGE:
        console.print(export_sesame.NOT_CHECKED, markup=False)
    console.print(f"{output}: {arguments.format}, {arguments.dtype}, of {origin.label}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

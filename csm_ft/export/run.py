"""Weights for elsewhere.

What a run has learned, in the layout of Sesame's code or of transformers, read back by it before it
counts.

    python -m csm_ft.export exp/run --format sesame         Sesame's Model.from_pretrained
    python -m csm_ft.export exp/run --format transformers   transformers; of a LoRA run, peft
    python -m csm_ft.export exp/run --format merged         transformers, adapters merged in
    python -m csm_ft.export sesame/csm-1b --format transformers --output DIR      a converter, too

The first argument is a run, a sweep, a checkpoint, or any other weights: a folder or file in either
layout, or a hub name.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from csm_ft import codecs
from csm_ft.atomic import whole_folder, write_whole
from csm_ft.config import ConfigError, TrainConfig, load_env_files
from csm_ft.console import console
from csm_ft.data.token_file import Store
from csm_ft.export.model_card import Layout, model_card
from csm_ft.families import lora
from csm_ft.families.base import SamplingOptions
from csm_ft.families.csm.config import CsmSize
from csm_ft.families.csm.export import sesame as export_sesame
from csm_ft.families.csm.export import snippets as how_to_load
from csm_ft.families.csm.export import transformers as export_transformers
from csm_ft.families.csm.export.probe import (
    CheckError,
    Difference,
    Logits,
    difference,
    logits_of,
    probes_of,
    random_probes,
)
from csm_ft.families.csm.weights import load_model, locate
from csm_ft.runs.encoder_record import SPEECH, copy_processor, write_speech
from csm_ft.runs.source import Origin, find, is_hub_name, open_data

Format = Literal["sesame", "transformers", "merged"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RECORD = "export.json"  # marks a folder as one of ours
MADE_BY = "csm-ft"
FRAME_SEC = 0.08  # of all codecs that there are
_WRONG = "the export is not what the run says"
_NOTHING_KEPT = (
    "Nothing was kept; are the packages those of requirements.txt? If so, please report this"
)
_MIMI_IDS = 2051  # a model of so many is one of Mimi's codes


class ExportError(ValueError):
    """An export that cannot be written; nothing of it is left behind."""


@dataclass(frozen=True)
class Check:
    """What was compared before the export counted."""

    read_by: str
    difference: Difference
    rounding: Difference | None  # what bf16 costs, against the run's own weights

    def lines(self) -> list[str]:
        """Say it to people."""
        lines = [f"read back by {self.read_by}: {self.difference}"]
        if self.rounding is not None:
            lines.append(f"rounding the weights to bf16 costs: {self.rounding}")
        return lines


def export(origin: Origin, kind: Format, output: Path, dtype: str = "fp32") -> Check:
    """Write an export into `output`, read it back, compare, and only then put it in its place.

    Raises ConfigError, ExportError or CheckError; `output` is then as it was before.
    """
    _check_output(output)
    store, why_no_data = open_data(origin)
    if why_no_data:
        console.print(
            f"note: {why_no_data}, so the export cannot say what its codes and text mean (no"
            f" {SPEECH})",
            markup=False,
        )
    layout: Layout = (
        "sesame"
        if kind == "sesame"
        else "adapter"
        if kind == "transformers" and _is_adapter(origin)
        else "transformers"
    )
    if layout == "adapter" and dtype != "fp32":
        raise ConfigError(
            f"--dtype {dtype}: adapters are small and stay fp32; leave the flag out, or use"
            " --format merged"
        )
    try:
        with whole_folder(output) as draft:
            check, load, base = _write_checked(draft, origin, store, layout, DTYPES[dtype])
            write_speech(draft, store, origin)
            if layout != "sesame":
                copy_processor(draft, store, origin)
            write_whole(
                draft / "README.md",
                model_card(origin, store, layout, base=base, load=load, proof=check.lines()),
            )
            record = {
                "made_by": MADE_BY,
                "layout": layout,
                "dtype": dtype,
                "of": origin.label,
                **asdict(check),
            }
            write_whole(draft / RECORD, json.dumps(record, indent=2))
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"{output} could not be written ({error}); check space and permissions of"
            f" {output.absolute().parent}"
        ) from error
    return check


def _check_output(output: Path) -> None:
    if output.exists() and not (
        output.is_dir() and (not any(output.iterdir()) or _is_export(output))
    ):
        raise ConfigError(
            f"{output} is there already and was not made by this program; choose another --output,"
            " or move it away"
        )


def _is_export(folder: Path) -> bool:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_adapter(origin: Origin) -> bool:
    return locate(origin.weights).is_adapter


def _write_checked(
    folder: Path, origin: Origin, store: Store | None, layout: Layout, dtype: torch.dtype
) -> tuple[Check, str, str]:
    """Write the weights, read them back and compare.

    Return what was found, how to load them, and the name of their base.
    """
    model = load_model(origin.weights)
    size, base = model.size, origin.base
    probes = probes_of(store.splits["val"], size) if store is not None else random_probes(size)
    expected, rounding = logits_of(model, probes), None
    if dtype != torch.float32:
        exact = expected
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype).float()
        expected = logits_of(model, probes)
        rounding = difference(exact, expected)
    has_mimi = (
        store.info.codec == "mimi" if store is not None else size.audio_vocab_size == _MIMI_IDS
    )
    read: Callable[[], tuple[Logits, str]]
    if layout == "sesame":
        export_sesame.write_model(folder, model, dtype)
        load, read = (
            how_to_load.sesame(size, has_mimi=has_mimi),
            partial(export_sesame.reload, folder, probes),
        )
    elif layout == "transformers":
        codec = _mimi(origin, store, size) if has_mimi else None
        export_transformers.write_model(folder, model, codec, _sampling(origin.config), dtype)
        load, read = (
            how_to_load.transformers(has_mimi=has_mimi),
            partial(export_transformers.reload, folder, probes),
        )
    else:
        adapters = lora.read_adapters(locate(origin.weights).files[0].parent)
        export_transformers.write_adapter(folder, adapters, size)
        base = adapters.base
        load = how_to_load.adapter(base, is_published=is_hub_name(base), has_mimi=has_mimi)
        read = partial(export_transformers.reload_adapter, folder, base, probes)
    del model  # the reader's copy is as large
    return _compare(expected, read, rounding), load, base


def _compare(
    expected: Logits, read: Callable[[], tuple[Logits, str]], rounding: Difference | None
) -> Check:
    """Let the other program read and speak; CheckError when it cannot, or says something else."""
    try:
        actual, read_by = read()
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:  # of its own code
        raise CheckError(f"{_WRONG}: it cannot be read back ({error}). {_NOTHING_KEPT}") from error
    found = difference(expected, actual)
    if not found.is_same:
        raise CheckError(f"{_WRONG}: {read_by} reads other weights, {found}. {_NOTHING_KEPT}")
    return Check(read_by, found, rounding)


def _mimi(origin: Origin, store: Store | None, size: CsmSize) -> Any:
    """Return Mimi's model.

    Out of the weights themselves if they hold it, else the one of the token file, else the
    published one.
    """
    found = locate(origin.weights)
    if store is None and found.config is not None and not found.is_adapter:
        inside = export_transformers.codec_of(
            found.config.parent, [file for file in found.files if file.suffix == ".safetensors"]
        )
        if inside is not None:
            return inside
    try:
        codec: Any = (
            codecs.from_store(store)
            if store is not None
            else codecs.open_codec("mimi", num_codebooks=size.num_codebooks)
        )
    except ValueError as error:
        raise ConfigError(
            f"transformers keeps Mimi beside the weights, and it cannot be had: {error}; --format"
            " sesame needs none"
        ) from error
    return codec.model


def _sampling(config: TrainConfig | None) -> SamplingOptions:
    config = config or TrainConfig()
    return SamplingOptions(
        math.ceil(config.gen_max_sec / FRAME_SEC),
        config.gen_temperature,
        config.gen_topk,
        config.seed,
    )


def main(argv: Sequence[str]) -> int:
    """Command line.

    0 done, 1 the export was not what the run says or could not be written, 2 a mistake in the
    options.
    """
    load_env_files()
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m csm_ft.export", description=description)
    parser.add_argument(
        "run",
        metavar="RUN",
        help="run, sweep or checkpoint folder, or other weights: folder, file or hub name",
    )
    parser.add_argument(
        "--format",
        choices=("sesame", "transformers", "merged"),
        required=True,
        help="layout to write",
    )
    parser.add_argument("--output", type=Path, help="folder to write (default: RUN/export-FORMAT)")
    parser.add_argument(
        "--checkpoint", default="", help="best, last or step_000500 (default: best)"
    )
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default="fp32", help="of the weights (default: fp32)"
    )
    arguments = parser.parse_args(argv)
    try:
        origin = find(arguments.run, arguments.checkpoint)
        output = arguments.output or _default_output(origin, arguments.format)
        check = export(origin, arguments.format, output, arguments.dtype)
    except (ExportError, CheckError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in check.lines():
        console.print(line, markup=False)
    if arguments.format == "sesame" and check.read_by != export_sesame.JUDGE:
        console.print(export_sesame.NOT_CHECKED, markup=False)
    console.print(
        f"{output}: {arguments.format}, {arguments.dtype}, of {origin.label}", markup=False
    )
    return 0


def _default_output(origin: Origin, kind: Format) -> Path:
    if origin.home is None:
        raise ConfigError(
            f"{origin.weights} is not a run of this program, so it has no place for exports; say"
            " where to: --output DIR"
        )
    return origin.home / f"export-{kind}"

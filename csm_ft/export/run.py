"""An export: written aside, read back by the other program, compared, then put in place."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError

from csm_ft.atomic import whole_folder, write_whole
from csm_ft.console import console
from csm_ft.errors import ConfigError, ExportError, MachineError
from csm_ft.export.model_card import model_card
from csm_ft.families.base import Family
from csm_ft.families.exporter import Exportable, Proof
from csm_ft.runs.encoder_record import RECORD, write_record
from csm_ft.runs.source import Source, open_data

EXPORT = "export.json"  # marks a folder as one of ours
MADE_BY = "csm-ft"


def export(
    source: Source, family: Family, kind: str, output: Path, dtype: Literal["fp32", "bf16"]
) -> Proof:
    """Write the export `kind` of the family into `output`, and print what proves it.

    Raises ConfigError, ExportError or CheckError; `output` is then as it was before.
    """
    check_output(output)
    store, why_no_data = open_data(source)
    if why_no_data:
        console.print(
            f"note: {why_no_data}, so the export cannot say which encoder it goes with (no"
            f" {RECORD})",
            markup=False,
        )
    weights = Exportable(
        source.weights, source.label, source.base, source.config, store, dtype=dtype
    )
    exporter = family.exporters[kind](weights)
    try:
        with whole_folder(output) as draft:
            exporter.write(draft)
            proof = exporter.read_back(draft)
            write_record(draft, store, source.weights)
            card = model_card(source, store, family, exporter, proof)
            write_whole(draft / "README.md", card)
            facts = {
                "made_by": MADE_BY,
                "format": kind,
                "library": exporter.library,
                "dtype": dtype,
                "of": source.label,
                **asdict(proof),
            }
            write_whole(draft / EXPORT, json.dumps(facts, indent=2))
    except (MachineError, SafetensorError) as error:
        raise ExportError(f"{output} could not be written: {error}") from error
    for line in proof.lines:
        console.print(line, markup=False)
    if proof.warning:
        console.print(proof.warning, markup=False)
    console.print(f"{output}: {kind}, {dtype}, of {source.label}; it is loaded by:", markup=False)
    lines = exporter.snippet().replace("THIS_FOLDER", str(output)).splitlines()
    print("\n".join(line for line in lines if not line.startswith("```")), flush=True)
    return proof


def default_output(source: Source, kind: str) -> Path:
    """Return the folder of an export inside its run or sweep; ConfigError for other weights."""
    if source.home is None:
        raise ConfigError(
            f"{source.weights} is not a run of this program, so it has no place for exports; name"
            " one with --output DIR"
        )
    return source.home / f"export-{kind}"


def check_output(output: Path) -> None:
    """Raise ConfigError for a folder that holds something else than an export, and for a file."""
    if not output.exists():
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{output}: {error.strerror}; choose another --output") from error
        return
    is_free = output.is_dir() and (not any(output.iterdir()) or _is_export(output))
    if not is_free:
        raise ConfigError(
            f"{output} is there already and was not made by this program; choose another --output,"
            " or move it away"
        )


def _is_export(folder: Path) -> bool:
    try:
        facts = json.loads((folder / EXPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("made_by") == MADE_BY

"""Results of one run as a JSON file, and those of all runs in a folder."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import peers
from benchmarks.figures import Found, Measured
from benchmarks.timing import ROOT
from csm_ft.atomic import write_whole
from csm_ft.errors import DataError

LIBRARIES = ("torch", "torchtune", "transformers", "numpy")


@dataclass(frozen=True)
class Result:
    """What one run measured, and where."""

    date: str  # 2026-11-27
    commit: str  # "" = not a checkout
    processor: str
    cores: int
    size: str
    versions: Mapping[str, str]
    figures: Mapping[str, float]  # flat names, see figures.py
    spread: Mapping[str, list[float]] = field(default_factory=dict)  # lowest, highest, rounds
    not_measured: Mapping[str, str] = field(default_factory=dict)  # name -> reason


def make_result(found: Found, size: str, device: str = "cpu") -> Result:
    """Put what was found beside the facts of this machine; its GPU counts as its processor."""
    measured = {name: one for name, one in found.items() if isinstance(one, Measured)}
    return Result(
        date=datetime.now(UTC).date().isoformat(),
        commit=_git("rev-parse", "--short", "HEAD"),
        processor=_processor() if device == "cpu" else _card(device),
        cores=os.cpu_count() or 1,
        size=size,
        versions={"python": platform.python_version(), **_libraries(), **peers.commits()},
        figures={name: _rounded(one.value) for name, one in measured.items()},
        spread={
            name: [_rounded(one.low), _rounded(one.high), one.rounds]
            for name, one in measured.items()
        },
        not_measured={name: one for name, one in found.items() if isinstance(one, str)},
    )


def write_result(result: Result, folder: Path) -> Path:
    """Write a result under its date, machine and number of that day; none is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = re.sub(r"[^a-z0-9]+", "-", result.processor.lower()).strip("-")
    stem = f"{result.date}-{machine}"
    number = 1 + len(list(folder.glob(f"{result.date}-*.json")))
    path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    write_whole(path, json.dumps(asdict(result), indent=1) + "\n")
    return path


def read_results(folder: Path) -> list[Result]:
    """Return the results in a folder, oldest first; DataError for a file that is none."""
    results = []
    for path in sorted(folder.glob("*.json"), key=_age):
        try:
            results.append(Result(**json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}: not a result of python -m benchmarks ({error}); move it elsewhere"
            ) from error
    return results


def newest(results: Sequence[Result]) -> Result:
    """Return the last result, completed by the newest figures of earlier ones of its machine."""
    last = results[-1]
    machine = (last.processor, last.cores, last.size)
    own = [one for one in results if (one.processor, one.cores, one.size) == machine]
    figures, spread = dict[str, float](), dict[str, list[float]]()
    for one in own:
        figures |= one.figures
        spread |= one.spread
    return replace(last, figures=figures, spread=spread)


def _age(path: Path) -> tuple[str, int, str]:
    """Order by date; of one day, -2 comes after the first."""
    date = path.stem[:10]
    numbered = re.fullmatch(r"(.*)-(\d+)", path.stem[10:])
    return (date, int(numbered[2]), numbered[1]) if numbered else (date, 1, path.stem[10:])


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _processor() -> str:
    """Return the name of the processor, without what all names say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    name = found[1] if found else platform.processor() or platform.machine()
    return " ".join(re.sub(r"\((R|TM|r|tm)\)|\bCPU\b", " ", name).split())


def _card(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")

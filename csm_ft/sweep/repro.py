"""repro.sh: the commands that made a study, with the versions and the data they ran with."""

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from csm_ft.atomic import write_whole
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.mirror import without_password
from csm_ft.sweep.trials import Plan

_PACKAGES = ("csm-ft", "torch", "transformers", "torchtune", "optuna", "numpy")
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
_SHORTEST_SECRET = 6  # characters; a shorter value stands in ordinary words, too


def write_repro(folder: SweepFolder, plan: Plan, argv: Sequence[str]) -> None:
    """Write repro.sh; `argv` is the command line of this sweep."""
    base = plan.space.base
    best = shlex.join(["python", "train.py", "--config", str(folder.best_config)])
    lines = [
        "#!/bin/sh",
        f"# Study {plan.sweep.study_name!r}: {_versions()}.",
        f"# Data: {base.data!r}, content {plan.agreement['content of the token file']}.",
        f"# Seed {plan.sweep.seed}. Keys and tokens come from the environment, as they did then.",
        "set -eu",
        f"cd {shlex.quote(str(Path.cwd()))}",
        "# The sweep: what has ended stays, so a new study needs another --output_dir.",
        without_secrets(shlex.join(["python", "sweep.py", *argv]), os.environ),
        "# The best trial by itself.",
        best,
    ]
    write_whole(folder.repro, "\n".join(lines) + "\n")
    folder.repro.chmod(0o755)


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Replace the values of keys and tokens of the environment, and the passwords of URLs."""
    text = without_password(text)
    for name, value in environment.items():
        is_secret = any(word in name.upper() for word in _SECRET_WORDS)
        if is_secret and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, f"[{name}]")
    return text


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} from its sources")
    return ", ".join(found)

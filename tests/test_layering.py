"""The walls of the architecture.

Each heavy library in its room, no family's name outside of families/, no torch in the orchestrator.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = [*ROOT.glob("*.py"), *(ROOT / "csm_ft").rglob("*.py")]
WALLS = {
    "h5py": ("csm_ft/data/token_file.py",),
    "wandb": ("csm_ft/runs/metrics.py",),
    "optuna": ("csm_ft/sweep/",),
    "ray": ("csm_ft/sweep/cluster.py",),
    "torchtune": ("csm_ft/families/csm/",),
    "transformers": ("csm_ft/codecs/mimi.py", "csm_ft/families/"),
    "peft": ("csm_ft/families/lora.py", "csm_ft/families/csm/export/transformers.py"),
    "plotly": ("csm_ft/report/",),
    "jinja2": ("csm_ft/report/",),
    "pickle": (
        "csm_ft/families/csm/weights.py",
    ),  # only the name of an error that a refused pickle raises
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module.split(".")[0]}
            if node.module == "torch":
                found |= {f"torch.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("library", WALLS)
def test_a_library_stays_in_its_room(library: str) -> None:
    outside = [
        str(path.relative_to(ROOT))
        for path in CODE
        if library in imports(path)
        and not str(path.relative_to(ROOT)).startswith(WALLS[library] or ("-",))
    ]
    assert outside == []


@pytest.mark.parametrize("library", [name for name in WALLS if name not in ("ray", "pickle")])
def test_each_wall_has_something_behind_it(library: str) -> None:
    assert any(library in imports(path) for path in CODE), (
        f"nothing imports {library}: the wall tests nothing"
    )


def test_no_family_is_named_outside_of_families() -> None:
    for path in CODE:
        if "families" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                text = ast.unparse(node)
                assert "family ==" not in text, f"{path}:{node.lineno}: {text}"
                assert "family in" not in text, f"{path}:{node.lineno}: {text}"


@pytest.mark.parametrize("module", ["sweep", "csm_ft.report", "csm_ft.families.csm.config"])
def test_the_orchestrator_imports_no_torch(module: str) -> None:
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'torchtune', 'transformers', 'h5py') if"
        " m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_dangerous_calls() -> None:
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "os.system"), f"{path}:{node.lineno}: {name}"
                assert not any(k.arg == "shell" for k in node.keywords), (
                    f"{path}:{node.lineno}: shell="
                )
                if name == "torch.load":
                    assert "weights_only=True" in ast.unparse(node), (
                        f"{path}:{node.lineno}: a pickle could run code"
                    )

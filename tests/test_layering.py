"""The structure of the code: floors, walls around heavy libraries, no family outside families/."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from csm_ft.runs.folder import RunFolder, SweepFolder

ROOT = Path(__file__).resolve().parent.parent
CODE = [*ROOT.glob("*.py"), *(ROOT / "csm_ft").rglob("*.py")]
# From the ground up; a module imports from its own floor or below. Programs stand on top.
# A module named here (runs/folder) stands on that floor, whatever the floor of its folder.
FLOORS: list[tuple[str, ...]] = [
    (
        "assets",
        "errors",
        "atomic",
        "text_file",
        "console",
        "schedule",
        "device",
        "ranks",
        "hub",
        "config",
        "cli",
    ),
    ("runs/folder",),
    ("data",),
    ("datasets",),
    ("codecs",),
    ("families",),
    ("runs",),
    (
        *("pretokenize", "watermark", "generate", "evaluate", "segment", "transcribe"),
        "annotate",
        "doctor",
        *("export", "sweep", "report"),
    ),
    ("training",),
    ("expressive",),
]
PROGRAMS = len(FLOORS)
WALLS = {
    "h5py": ("csm_ft/data/token_file.py",),
    "wandb": ("csm_ft/runs/wandb_mirror.py",),
    "optuna": ("csm_ft/sweep/",),
    "ray": ("csm_ft/sweep/cluster.py",),
    "torchtune": ("csm_ft/families/csm/export/sesame.py",),
    "transformers": ("csm_ft/codecs/mimi.py", "csm_ft/families/", "csm_ft/evaluate/"),
    "peft": ("csm_ft/families/",),
    "schedulefree": ("csm_ft/training/optim.py",),
    "torchao": ("csm_ft/training/low_bit.py",),
    "plotly": ("csm_ft/report/",),
    "jinja2": ("csm_ft/report/", "csm_ft/export/"),
    "filelock": ("csm_ft/atomic.py",),
    "fcntl": ("-",),
    "torch.distributed": ("csm_ft/training/parallel.py",),
    "huggingface_hub": ("csm_ft/hub.py", "csm_ft/export/model_card.py"),
    "pickle": ("csm_ft/families/csm/weights.py",),  # the error that a refused pickle raises
}
COMMON_WORDS = {"best", "reference", "samples", "trials", "workers", "run", ".lock"}
FAMILIES = ("csm", "moshi", "moonshine")
HEAVY = ("torch", "transformers", "peft", "torchtune", "h5py", "optuna", "pandas", "wandb")
HELP = {
    "train.py": HEAVY,
    "pretokenize.py": (*HEAVY, "soundfile", "pyarrow"),
    "sweep.py": HEAVY,
    "csm_ft.generate": HEAVY,
    "csm_ft.export": HEAVY,
    "csm_ft.evaluate": HEAVY,
    "csm_ft.data": HEAVY,
    "csm_ft.datasets": tuple(name for name in HEAVY if name != "h5py"),
    "csm_ft.transcribe": HEAVY,
    "csm_ft.annotate": HEAVY,
    "csm_ft.doctor": HEAVY,
    "csm_ft.watermark": HEAVY,
    "csm_ft.expressive": HEAVY,
    "csm_ft.report": (*HEAVY, "plotly"),
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def floor_of(module: str) -> int:
    parts = module.split(".")
    if parts[0] != "csm_ft" or parts[-1] == "__main__":
        return PROGRAMS
    if len(parts) == 1:
        return 0
    module_and_folder = ("/".join(parts[1:3]), parts[1])
    found = (number for name in module_and_folder for number, f in enumerate(FLOORS) if name in f)
    return next(found)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def imported_modules(path: Path) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append((node.lineno, node.module))
            if node.module in ("csm_ft", "torch"):
                found += ((node.lineno, f"{node.module}.{a.name}") for a in node.names)
    return found


@cache
def strings(path: Path) -> list[tuple[int, str]]:
    """Return the string literals of a file, docstrings left out."""
    docstrings = {
        id(node.body[0].value)
        for node in nodes(path)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        (node.lineno, node.value)
        for node in nodes(path)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]


def is_part_of(module: str, library: str) -> bool:
    return f"{module}.".startswith(f"{library}.")


def outside_families() -> list[Path]:
    return [path for path in CODE if "families" not in path.parts]


def test_every_folder_has_a_floor() -> None:
    known = {name.split("/")[0] for names in FLOORS for name in names}
    found = {path.relative_to(ROOT / "csm_ft").parts[0] for path in CODE if "csm_ft" in path.parts}
    assert {name.removesuffix(".py") for name in found} - {"__init__"} == known


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_modules_import_downwards_only(path: Path) -> None:
    own = floor_of(module_of(path))
    above = [
        f"{name_of(path)}:{line} imports {module}"
        for line, module in imported_modules(path)
        if module.startswith("csm_ft.") and floor_of(module) > own
    ]
    assert above == []


@pytest.mark.parametrize("library", WALLS)
def test_library_stays_behind_its_wall(library: str) -> None:
    outside = [
        name_of(path)
        for path in CODE
        if any(is_part_of(module, library) for _, module in imported_modules(path))
        and not name_of(path).startswith(WALLS[library])
    ]
    assert outside == []


@pytest.mark.parametrize("library", [n for n in WALLS if n not in ("pickle", "fcntl")])
def test_wall_has_something_behind_it(library: str) -> None:
    found = [m for path in CODE for _, m in imported_modules(path) if is_part_of(m, library)]
    assert found, f"nothing imports {library}: the wall tests nothing"


def test_only_run_folder_names_files_of_runs() -> None:
    run, sweep = (vars(folder(Path("run"))) for folder in (RunFolder, SweepFolder))
    names = {path.name for path in (*run.values(), *sweep.values())} - COMMON_WORDS
    leaks = [
        f"{name_of(path)}:{line} {text!r}"
        for path in CODE
        if path.name != "folder.py"
        for line, text in strings(path)
        if text in names
    ]
    assert leaks == []


def test_no_family_named_outside_families() -> None:
    leaks = []
    for path in outside_families():
        leaks += [
            f"{name_of(path)}:{line} imports {module}"
            for line, module in imported_modules(path)
            if any(module.startswith(f"csm_ft.families.{family}") for family in FAMILIES)
        ]
        leaks += [
            f"{name_of(path)}:{line} says {text!r}"
            for line, text in strings(path)
            if text in FAMILIES or any(f"families.{family}" in text for family in FAMILIES)
        ]
    assert leaks == []


def test_no_branch_on_family_name() -> None:
    for path in CODE:
        for node in nodes(path):
            if isinstance(node, ast.Compare) and "families" not in path.parts:
                text = ast.unparse(node)
                compared = [ast.unparse(side) for side in (node.left, *node.comparators)]
                is_literal = any(side.strip("'\"") in FAMILIES for side in compared)
                assert not is_literal, f"{name_of(path)}:{node.lineno}: {text}"


@pytest.mark.parametrize("word", ["nats per", " codebook", "EOS", "all-zero", "[speaker]"])
def test_no_unit_or_layout_outside_families(word: str) -> None:
    leaks = [
        f"{name_of(path)}:{line}: {text!r}"
        for path in outside_families()
        if "codecs" not in path.parts
        for line, text in strings(path)
        if word in text
    ]
    assert leaks == []


@pytest.mark.parametrize("program", HELP)
def test_help_imports_nothing_heavy(program: str) -> None:
    how = f"runpy.run_path({program!r}, run_name='__main__')"
    if not program.endswith(".py"):
        how = f"runpy.run_module({program!r}, run_name='__main__', alter_sys=True)"
    code = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        f"try: {how}\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"print('\\nheavy:', [m for m in {HELP[program]!r} if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize(
    "module",
    ["csm_ft.sweep.study", "csm_ft.sweep.run", "csm_ft.report.page", "csm_ft.families.base"],
)
def test_orchestrator_imports_nothing_heavy(module: str) -> None:
    names = ("torch", "torchtune", "transformers", "wandb")
    code = f"import sys, {module}; print([m for m in {names!r} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_dangerous_calls() -> None:
    for path in CODE:
        for node in nodes(path):
            if isinstance(node, ast.Call):
                name, where = ast.unparse(node.func), f"{name_of(path)}:{node.lineno}"
                assert name not in ("eval", "exec", "os.system"), f"{where}: {name}"
                assert not any(k.arg == "shell" for k in node.keywords), f"{where}: shell="
                if name == "torch.load":
                    is_safe = "weights_only=True" in ast.unparse(node)
                    assert is_safe, f"{where}: a pickle could run code"

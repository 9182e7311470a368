"""`pip install .` gives programs that work outside the checkout, and its metadata is right."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = (
    *("csm_ft", "demo", "configs", "pretokenize.py", "train.py", "sweep.py", "setup.py"),
    *("pyproject.toml", "requirements.txt", "README.md", "LICENSE"),
)
IGNORED = shutil.ignore_patterns("__pycache__", "speech", "voices", "new_voice", "bundled")


def call(*command: str, folder: Path) -> str:
    """Run a command in a folder that is no checkout."""
    names = ("PYTHONPATH", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A Python that has the package and this one's libraries, and an empty folder."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:  # a copy: building leaves folders beside the sources
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=IGNORED)
        else:
            shutil.copy2(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    call(
        *(*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "--quiet"),
        *("--wheel-dir", str(folder)),
        folder=folder,
    )
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = str(folder / "venv/bin/python")
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    call(
        *(*pip, "--python", python, "install", "--no-deps", "--no-index", "--quiet", str(wheel)),
        folder=folder,
    )
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    return python, elsewhere


@pytest.mark.slow
def test_programs_start_outside_the_checkout(installed: tuple[str, Path]) -> None:
    python, folder = installed
    where = call(python, "-c", "import csm_ft; print(csm_ft.__file__)", folder=folder)
    assert "site-packages" in where
    call(python, "-c", "import train, sweep, pretokenize", folder=folder)
    for module in ("csm_ft.data", "csm_ft.generate", "csm_ft.export", "csm_ft.report", "sweep"):
        assert "usage: python" in call(python, "-m", module, "--help", folder=folder)


@pytest.mark.slow
def test_bundled_files_are_installed(installed: tuple[str, Path]) -> None:
    python, folder = installed
    code = (
        "from csm_ft import codecs\n"
        "from csm_ft.families.csm.encoder import open_tokenizer\n"
        "from csm_ft.families.csm.family import EMBEDDED_BASE, CsmFamily\n"
        "from csm_ft.sweep.config import DEFAULT_SPACE\n"
        "from csm_ft.sweep.rows import find_space\n"
        "assert codecs.open_codec('melrvq').num_codebooks == 8\n"
        "assert open_tokenizer(codec='melrvq').vocab_size == 512\n"
        "assert CsmFamily().load_model(str(EMBEDDED_BASE)).max_positions\n"
        "assert find_space(DEFAULT_SPACE).is_file()\n"
        "print(EMBEDDED_BASE)\n"
    )
    assert "site-packages" in call(python, "-c", code, folder=folder)


@pytest.mark.slow
def test_generate_with_the_bundled_base(installed: tuple[str, Path]) -> None:
    python, folder = installed
    code = "from csm_ft.assets import path_of; print(path_of('demo/base'))"
    base = call(python, "-c", code, folder=folder).strip()
    said = call(
        *(python, "-m", "csm_ft.generate", "--model", base, "--text", "Hello.", "--max_sec", "1"),
        folder=folder,
    )
    assert (folder / said.strip()).is_file()
    assert (folder / "out/index.html").is_file()


def test_extra_dev_has_the_development_pins() -> None:
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    pins = [line.split("#")[0].strip() for line in lines]
    assert PROJECT["optional-dependencies"]["dev"] == [pin for pin in pins if "==" in pin]


def test_extra_judges_has_the_pins_of_its_files() -> None:
    files = (ROOT / "requirements-judges.txt", ROOT / "requirements-pitch.txt")
    lines = "\n".join(file.read_text() for file in files).splitlines()
    pins = {line.split()[0] for line in lines if "==" in line and not line.startswith(("#", " "))}
    assert set(PROJECT["optional-dependencies"]["judges"]) <= pins


def test_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    first = next(line for line in changelog.splitlines() if line.startswith("## "))
    assert first.split()[1] == PROJECT["version"]

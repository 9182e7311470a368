"""README.md and docs/ are true: commands parse, excerpts and tables are current, links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from torch.distributed.run import get_args_parser

from benchmarks.config import BenchmarkConfig
from benchmarks.curves import CurvesConfig
from benchmarks.search import SearchConfig
from csm_ft import cli
from csm_ft.annotate.config import AnnotateConfig
from csm_ft.config.base import Options, names_of
from csm_ft.config.evaluate import EvaluateConfig
from csm_ft.data.__main__ import DataConfig
from csm_ft.datasets.__main__ import DatasetsConfig
from csm_ft.datasets.merge import MergeConfig
from csm_ft.datasets.metadata import read_metadata
from csm_ft.doctor.config import DoctorConfig
from csm_ft.export.__main__ import ExportOptions
from csm_ft.expressive.config import ExpressiveConfig
from csm_ft.families import names, open_family
from csm_ft.families.base import Family
from csm_ft.report.config import ReportConfig
from csm_ft.segment.config import SegmentConfig
from csm_ft.sweep import request as sweep_request
from csm_ft.sweep.rows import read_rows
from csm_ft.transcribe.config import TranscribeConfig
from tests.integration.test_toy_family import CASE
from tests.toy_family.family import ToyFamily

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOY = ROOT / "tests/toy_family/family.py"
OF_FAMILY = {
    "pretokenize.py": "pretokenize_config",
    "train.py": "train_config",
    "csm_ft.generate": "generate_config",
}
OTHERS: dict[str, type[Options]] = {
    "benchmarks": BenchmarkConfig,
    "benchmarks.curves": CurvesConfig,
    "benchmarks.search": SearchConfig,
    "csm_ft.data": DataConfig,
    "csm_ft.datasets": DatasetsConfig,
    "csm_ft.datasets merge": MergeConfig,
    "csm_ft.datasets segment": SegmentConfig,
    "csm_ft.evaluate": EvaluateConfig,
    "csm_ft.doctor": DoctorConfig,
    "csm_ft.annotate": AnnotateConfig,
    "csm_ft.transcribe": TranscribeConfig,
    "csm_ft.export": ExportOptions,
    "csm_ft.expressive": ExpressiveConfig,
    "csm_ft.report": ReportConfig,
}


class Command(NamedTuple):
    page: str
    text: str


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> list[Command]:
    lines = [(page, line) for page in PAGES for block in blocks(page, "sh") for line in [block]]
    return [
        Command(page.name, line.split("  #")[0].strip())
        for page, block in lines
        for line in block.splitlines()
    ]


def program_of(command: Command) -> tuple[str, list[str]]:
    """Return the program of a command and its arguments."""
    words = shlex.split(command.text)
    if words[0] == "torchrun":
        start = words.index("train.py")
        get_args_parser().parse_args(words[1 : start + 1])  # torchrun's own options
        words = ["python", *words[start:]]
    assert words[0] == "python"
    program, argv = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    is_command = argv and f"{program} {argv[0]}" in OTHERS
    return (f"{program} {argv[0]}", argv[1:]) if is_command else (program, argv)


def family_of(command: Command) -> Family:
    """Return the family of a command: that of the toy, or of the page, where it is about one."""
    if "toy" in command.text:
        return ToyFamily()
    page = command.page.removesuffix(".md")
    return open_family(page if page in names() else "csm")


def parse(command: Command) -> None:
    """Build the config of a command; ConfigError if a flag or a value is wrong."""
    program, argv = program_of(command)
    if program == "scripts/make_option_tables.py":
        assert (ROOT / program).is_file()
        return
    if program == "sweep.py":
        train_class = family_of(command).train_config
        options = sweep_request.options_class(train_class)
        cli.parse_args(options, argv, program=program, description="")
        return
    if program in OF_FAMILY:
        config_class = getattr(family_of(command), OF_FAMILY[program])
    else:
        config_class = OTHERS[program]
    config = cli.parse_args(config_class, argv, program=program, description="")
    if isinstance(config, ExportOptions):
        assert config.format in family_of(command).exporters


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "command",
    [c for c in commands() if c.text.startswith(("python", "torchrun"))],
    ids=lambda c: c.text,
)
def test_command_parses(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if command.text == "python train.py --config sweep/best.yaml":  # that file is made by a sweep
        (tmp_path / "sweep").mkdir()
        (tmp_path / "sweep/best.yaml").write_text(open_family("csm").train_config().to_yaml())
        monkeypatch.chdir(tmp_path)
    parse(command)


def test_other_commands_are_known() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands():
        match shlex.split(command.text):
            case ["python" | "torchrun", *_]:
                pass
            case ["make", target]:
                assert target in targets
            case ["wandb", "sync", *paths]:
                assert all("/wandb/offline-run-" in path for path in paths)
            case ["pip", "install", *_, "-r", file]:
                assert (ROOT / file).is_file()
            case ["optuna-dashboard", *_]:
                pass  # run in tests/unit/sweep/test_artifacts.py
            case other:
                assert other == ["hf", "auth", "login"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_inline_flags_exist(page: Path) -> None:
    """`--flag value` in the text is a flag of some program."""
    classes = [*OTHERS.values(), sweep_request.options_class(open_family("csm").train_config)]
    for family in (*map(open_family, names()), ToyFamily()):
        classes += [getattr(family, name) for name in OF_FAMILY.values()]
    known = {"config", "help"}.union(*map(names_of, classes))
    named = re.findall(r"`--([\w-]+)", page.read_text(encoding="utf-8"))
    assert set(named) <= known


def test_option_tables_are_current() -> None:
    command = [sys.executable, "scripts/make_option_tables.py", "--check"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, "run scripts/make_option_tables.py and commit docs/options.md"


def test_figures_are_those_of_the_newest_result() -> None:
    command = [sys.executable, "scripts/make_performance_table.py", "--check"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, "run scripts/make_performance_table.py, commit docs/performance.md"


@pytest.mark.parametrize("block", blocks(ROOT / "docs/extending.md", "python"))
def test_excerpt_is_in_the_toy_family(block: str) -> None:
    assert block in TOY.read_text()


def test_every_method_of_the_toy_is_explained() -> None:
    text = (ROOT / "docs/extending.md").read_text()
    missing = [name for name in vars(Family) if not name.startswith("_") and name not in text]
    assert missing == []
    assert CASE in text


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/sweep.md"])
def test_search_space_is_read(page: Path, tmp_path: Path) -> None:
    spaces = blocks(page, "yaml")
    assert spaces
    for space in spaces:
        path = tmp_path / "space.yaml"
        path.write_text(space)
        request = sweep_request.parse(["--data", str(tmp_path / "none.hdf5")])
        assert read_rows(path, request).searched


def test_metadata_is_read(tmp_path: Path) -> None:
    examples = blocks(ROOT / "docs/data.md", "json")
    assert examples
    for example in examples:
        path = tmp_path / "metadata.json"
        path.write_text(example, encoding="utf-8")
        rows, rejections = read_metadata(path)
        assert len(rows) == 2
        assert not rejections


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = (page.parent / name) if name else page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings]
        assert not anchor or anchor in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_paths_of_a_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|home|root|tmp|Users)/", page.read_text())


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert next(i for i, line in enumerate(lines, 1) if line.startswith("python train.py")) <= 40
    assert not any(line.startswith("|") for line in lines), "option tables are in docs/options.md"


def test_readme_shows_every_folder() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [Path(line) for line in tracked.splitlines()]
    folders = {path.parts[0] for path in paths if len(path.parts) > 1}
    folders |= {"/".join(path.parts[:2]) for path in paths if len(path.parts) > 2}
    wanted = {name for name in folders if name.count("/") == 0 and not name.startswith(".")}
    wanted |= {name for name in folders if name.startswith("csm_ft/")}
    tree = (ROOT / "README.md").read_text().split("## Repository")[1]
    shown = set(re.findall(r"^    (\S+)/ ", tree, re.MULTILINE))
    assert shown == wanted - {"csm_ft"}


@pytest.mark.slow
def test_recipes_are_those_predicted_now() -> None:
    command = [sys.executable, "scripts/make_recipe_table.py", "--check"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, "run scripts/make_recipe_table.py and commit docs/scaling.md"


def test_kubernetes_page_is_a_ray_job() -> None:
    """As far as its form goes: names of KubeRay's API, one image, a volume that is mounted."""
    (text,) = [one for one in blocks(ROOT / "docs/cluster.md", "yaml") if "RayJob" in one]
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    for pod in pods:
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {one["name"] for c in pod["containers"] for one in c["volumeMounts"]} == volumes
    argv = shlex.split(job["spec"]["entrypoint"])
    assert argv[:2] == ["python", "sweep.py"]
    assert sweep_request.parse(argv[2:]).sweep.cluster == "auto"

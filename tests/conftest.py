"""A small token file of bundled speech, made once per session by the product itself."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before anything reads the environment.
# pytest -n 2 runs two processes on two cores: threads of torch in each would wait for one another,
# which makes tests up to ten times slower. Programs that tests start inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is not in a test's own cache is not on the hub: no test waits for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

from tests.helpers.hub import hub, hub_cache  # noqa: F401 (fixtures)

# A shell's job in the background ignores SIGINT, and so would all programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Minutes each. make test-slow hands out files in the order of their tests: those that take longest
# come first, so that no process is left alone with one of them at the end.
LONGEST_FILES = (
    "test_expression_proof.py",
    "test_spoken_base.py",
    "test_expressive.py",
    "test_docs.py",
    "test_moonshine_scratch.py",
    "test_sweep_chaos.py",
    "test_moshi_demo.py",
    "test_readme.py",
    "test_parallel.py",
    "test_sweep_cluster.py",
    "test_moonshine_demo.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(autouse=True)
def _threads_are_left_as_found() -> Iterator[None]:
    """More threads than cores would make all later tests of the process ten times slower."""
    before = _num_threads()
    yield
    assert before in (0, _num_threads())  # 0: torch was not there yet


def _num_threads() -> int:
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else 0


ROOT = Path(__file__).resolve().parent.parent


def write_metadata(path: Path, split: str, count: int) -> Path:
    """Copy the first `count` rows of the demo's new voice, with absolute paths."""
    rows = json.loads((ROOT / "demo/new_voice" / f"{split}.json").read_text())[:count]
    for row in rows:
        row["path"] = str((ROOT / "demo/new_voice" / row["path"]).resolve())
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 4 validation clips of one voice, with the embedded codec and tokenizer."""
    import pretokenize

    folder = tmp_path_factory.mktemp("tokens")
    output = folder / "tokens.hdf5"
    argv = ["--codec", "melrvq", "--output", str(output)]
    for split, count in (("train", 24), ("val", 4)):
        metadata = write_metadata(folder / f"{split}.json", split, count)
        argv += [f"--{split}_data", str(metadata)]
    assert pretokenize.main(argv) == 0
    return output

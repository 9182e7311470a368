"""Training on more sound than the memory that may be used."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from csm_ft.data.split import Clip, Split
from csm_ft.data.token_file import write_store
from csm_ft.families.stores import open_store
from tests.integration.test_moonshine import tokens  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

SOUND_BYTES, ALLOWED_BYTES = 640_000_000, 64_000_000
# The limit counts what a process allocates for itself, not pages of a mapped file.
CHILD = """
import resource, sys
from pathlib import Path
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.family import MoonshineFamily
from csm_ft.families.base import Draw
from csm_ft.families.stores import open_store

family, config = MoonshineFamily(), MoonshineConfig(threads=1)
store = open_store(Path(sys.argv[1]), in_memory=False)
examples = family.arrange(store.splits["train"], config, evaluate=False)
family.collate(examples, [0], config, draw=Draw(0, 0))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = int(status["VmData"].split()[0]) * 1024 + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
if sys.argv[3] == "all":
    held = [store.splits["train"].array("samples", row).copy() for row in range(len(examples))]
num_samples = 0
for start in range(0, len(examples), 8):
    indices = list(range(start, min(start + 8, len(examples))))
    batch = family.collate(examples, indices, config, draw=Draw(0, 0))
    num_samples += int(batch.clip_lengths.sum())
print(num_samples)
"""


class Many:
    """The clips of a split again and again, under names of their own."""

    def __init__(self, split: Split, times: int) -> None:
        self.split, self.times = split, times

    def __len__(self) -> int:
        return len(self.split) * self.times

    def lengths(self, array: str) -> np.ndarray:
        return np.tile(self.split.lengths(array), self.times)

    def array(self, name: str, index: int) -> Any:
        return self.split.array(name, index % len(self.split))

    def clip(self, index: int) -> Clip:
        again, row = divmod(index, len(self.split))
        clip = self.split.clip(row)
        return replace(clip, id=f"{again:04x}{clip.id[4:]}")


def test_batches_of_more_sound_than_memory(
    tokens: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    store = open_store(tokens)
    train = store.splits["train"]
    times = 1 + SOUND_BYTES // (2 * int(train.lengths("samples").sum()))
    path = tmp_path / "large.hdf5"
    splits = {"train": Many(train, times), "val": store.splits["val"]}
    assets = {name: store.asset(name) or b"" for name in ("tokenizer",)}
    write_store(path, store.info, splits, assets)
    assert path.stat().st_size > SOUND_BYTES

    def read(how: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", CHILD, str(path), str(ALLOWED_BYTES), how]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    done = read("batches")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == times * int(train.lengths("samples").sum())
    assert "MemoryError" in read("all").stderr, "the limit is one"

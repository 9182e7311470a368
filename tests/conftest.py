"""A small token file of bundled speech.

Made once per session by the product's own pretokenize.py.
"""

import json
from pathlib import Path

import pytest

from tests.helpers.hub import hub, hub_cache  # noqa: F401 (fixtures)

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
    train, val = (
        write_metadata(folder / "train.json", "train", 24),
        write_metadata(folder / "val.json", "val", 4),
    )
    output = folder / "tokens.hdf5"
    assert (
        pretokenize.main(
            [
                "--train_data",
                str(train),
                "--val_data",
                str(val),
                "--output",
                str(output),
                "--codec",
                "melrvq",
            ]
        )
        == 0
    )
    return output

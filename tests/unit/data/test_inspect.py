"""Sound files opened and hashed once."""

from pathlib import Path

import numpy as np
import soundfile

from csm_ft.data.inspect import SoundFile, inspect_files


def test_files_are_inspected_once_each(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.wav", "b.wav", "broken.wav", "none.wav")]
    for path in paths[:2]:
        soundfile.write(path, np.zeros(800), 8000)
    paths[2].write_text("sound")
    found = inspect_files([*paths, paths[0]], num_workers=2)
    assert list(found) == paths
    one, copy, broken, missing = found.values()
    assert isinstance(one, SoundFile)
    assert one == copy
    assert one.info.duration_sec == 0.1
    assert isinstance(broken, str)
    assert "cannot be decoded" in broken
    assert isinstance(missing, str)
    assert missing.endswith("no such file; paths are relative to the metadata file")

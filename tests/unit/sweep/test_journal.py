"""The journal: cut back to whole lines after a kill."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.sweep.journal import cut_torn_line


@given(
    st.lists(st.binary(max_size=30).filter(lambda b: b"\n" not in b), max_size=6),
    st.binary(max_size=30).filter(lambda b: b"\n" not in b),
)
def test_cutting_keeps_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("j") / "lines"
    whole = b"".join(line + b"\n" for line in lines)
    path.write_bytes(whole + torn)
    cut_torn_line(path)
    assert path.read_bytes() == whole
    cut_torn_line(path)
    assert path.read_bytes() == whole


def test_torn_line_longer_than_block(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"a\n" + b"x" * 200_000)
    cut_torn_line(path)
    assert path.read_bytes() == b"a\n"

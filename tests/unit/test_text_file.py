"""Text files in the encodings that people save them in."""

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.errors import ConfigError, MetadataError
from csm_ft.text_file import nfc, read_first_line, read_text

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@settings(deadline=None, max_examples=40)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_is_read_in_every_encoding(encoding: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.txt")
        path.write_bytes(text.encode(encoding))
        assert read_text(path, MetadataError) == text


@pytest.mark.parametrize("order", ["le", "be"])
def test_byte_order_is_that_of_mark(tmp_path: Path, order: str) -> None:
    (tmp_path / "t.txt").write_bytes("\ufeffGrüße\r\n".encode(f"utf-16-{order}"))
    assert read_text(tmp_path / "t.txt", MetadataError) == "Grüße\r\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("fine\nGrüße".encode("latin-1"), "t.txt line 2: byte 0xfc is not UTF-8; save the file"),
        (b"\xff\xfea\0\n\0\0\xd8", "t.txt line 2: byte 0x00 is not UTF-16-LE; save the file"),
        ("ab".encode("utf-16-le"), "without a byte order mark, or no text at all; save it as"),
    ],
)
def test_other_bytes_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(ConfigError) as error:
        read_text(tmp_path / "t.txt", ConfigError)
    assert message in str(error.value)


@given(st.text())
def test_nfc_composes_texts(text: str) -> None:
    assert nfc(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_first_line_is_read_without_the_rest(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("été|Oui\r\n".encode(encoding) + b"\xff" * 200_000)
    assert read_first_line(path) == "été|Oui"

"""YAML files: a key stands once in a mapping, and the encoding does not matter."""

from pathlib import Path

import pytest

from csm_ft.config.yaml_file import load_yaml
from csm_ft.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("seed: 1\nbatch_size: 8\nseed: 2\n", "seed", (1, 3)),
        ('seed: 1\n"seed": 2\n', "seed", (1, 2)),
        ("learning_rate:\n  min: 1\n  max: 2\n  min: 3\n", "min", (2, 4)),
        ("a: {min: 1, min: 2}\n", "min", (1, 1)),
        ("- {b: 1}\n- c: 1\n  c: 1\n", "c", (2, 3)),
        ("1: a\n1: b\n", "1", (1, 2)),
    ],
)
def test_key_that_stands_twice_is_named(
    tmp_path: Path, text: str, key: str, lines: tuple[int, int]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_yaml(path)
    assert str(error.value) == (
        f"{path}: the key {key!r} is there twice, in line {lines[0]} and in line {lines[1]}; keep"
        " one"
    )


def test_merged_keys_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\nx: 4\n")
    assert load_yaml(path)["c"] == {"x": 2, "y": 3}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_yaml_is_read_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "c.yaml").write_bytes("gen_speaker: Zoë\r\nseed: 3\r\n".encode(encoding))
    assert load_yaml(tmp_path / "c.yaml") == {"gen_speaker": "Zoë", "seed": 3}

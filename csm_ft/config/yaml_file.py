"""YAML files, in which a key may stand only once in each mapping."""

from pathlib import Path
from typing import Any

import yaml

from csm_ft.errors import ConfigError
from csm_ft.text_file import read_text


def load_yaml(path: Path) -> Any:
    """Read a YAML file; raises ConfigError where it is no YAML, or a mapping has a key twice."""
    try:
        return yaml.load(read_text(path, ConfigError), _Loader)  # noqa: S506 (a SafeLoader)
    except _TwiceError as error:
        raise ConfigError(
            f"{path}: the key {error.key!r} is there twice, in line {error.first} and in line"
            f" {error.second}; keep one"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error


class _TwiceError(Exception):
    """A key that a mapping has twice, in two lines, counted from 1."""

    def __init__(self, key: str, first: int, second: int) -> None:
        super().__init__(key, first, second)
        self.key, self.first, self.second = key, first, second


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which yaml's own loader keeps the last value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Look at the keys as they stand there, before those of other mappings are merged in."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise _TwiceError(key.value, lines[name], line)
                lines[name] = line
        return node

"""Files that come with the program: the embedded codec, tokenizer and base, and a search space.

In a checkout they lie in demo/ and configs/; setup.py copies them into an installed package.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "bundled"  # only in an installed package


def path_of(name: str) -> Path:
    """Return the path of a bundled file or folder, by its name in a checkout: demo/tokenizer.json.

    It need not exist.
    """
    return (_INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent) / name

"""What scripts of the expressivity guide prepared: a JSON beside each sound, and manifests.

The JSON holds text, emotion, style, intensity, actor_id and gender. The manifests, lines with path,
duration, emotion and style, split clips of the same actors at random; so they are not read.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csm_ft.datasets.labels import EMOTIONS
from csm_ft.datasets.tables import Unreadable, show
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_first_line, read_text

_KEYS = {"text", "emotion", "actor_id"}
_MANIFEST_KEYS = {"path", "duration", "emotion"}
_SAMPLE = 3  # JSON files that are opened to tell the folder


def is_prepared(tree: Tree) -> bool:
    """Tell whether JSON files beside sounds describe them as the scripts do."""
    pairs = [pair for folder in tree.folders for pair in _pairs(tree, folder)[:_SAMPLE]]
    return any(isinstance(_read(path), dict) for _, path in pairs[:_SAMPLE] if path)


def is_manifest(path: Path) -> bool:
    """Tell whether a file is one of the manifests, which have no texts."""
    if path.suffix.lower() != ".jsonl" or not path.is_file():
        return False
    try:
        first = json.loads(read_first_line(path))
    except ValueError:
        return False
    return isinstance(first, dict) and set(first) >= _MANIFEST_KEYS and "text" not in first


def read_prepared(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per sound with its JSON."""
    manifests = [path.name for path in tree.files if is_manifest(path)]
    if manifests:
        tell(
            f"{len(manifests)} manifests are not read, as {manifests[0]}: they split clips of the"
            " same actors; `python -m csm_ft.datasets merge` splits by speaker"
        )
    for folder in tree.folders:
        for sound, path in _pairs(tree, folder):
            yield str(sound), _row(sound, path)


def _pairs(tree: Tree, folder: Path) -> list[tuple[Path, Path | None]]:
    names = set(tree.folders[folder])
    return [
        (sound, folder / f"{stem}.json" if f"{stem}.json" in names else None)
        for stem, sound in tree.sounds(folder).items()
    ]


def _row(sound: Path, path: Path | None) -> dict[str, Any] | Unreadable:
    if path is None:
        return Unreadable(f"no {sound.stem}.json beside it; add it, or remove the file", str(sound))
    facts = _read(path)
    if isinstance(facts, str):
        return Unreadable(facts, str(sound))
    label = str(facts["emotion"] or "").strip().lower()
    if label not in EMOTIONS["prepared"]:
        reason = f"{path.name}: emotion {show(facts['emotion'])} is not known; correct it"
        return Unreadable(reason, str(sound))
    others = ("intensity", "style", "gender", "language")
    return {
        **{name: facts.get(name) for name in others},
        "path": str(sound),
        "text": facts["text"],
        "speaker": facts["actor_id"],
        "emotion": EMOTIONS["prepared"][label],
    }


def _read(path: Path) -> dict[str, Any] | str:
    """Return what a JSON says of its sound, or why it cannot be used."""
    try:
        facts = json.loads(read_text(path, MetadataError))
    except (ValueError, OSError) as error:
        return f"{path.name} cannot be read: {error}; write it again"
    if not isinstance(facts, dict) or not set(facts) >= _KEYS:
        return f"{path.name} has no text, emotion and actor_id; write it again"
    return facts

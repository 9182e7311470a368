"""LibriSpeech (a list of texts per chapter) and LibriTTS (a text beside each sound)."""

import re
from collections.abc import Iterator
from pathlib import Path

from csm_ft.datasets.corpora.base import lines_of, split_of
from csm_ft.datasets.labels import GENDERS
from csm_ft.datasets.tables import Unreadable
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_CHAPTER = re.compile(r"\d+-\d+\.trans\.txt")  # reader-chapter
_UTTERANCE = re.compile(r"(\d+)_\d+_\d+_\d+")  # reader_chapter_paragraph_sentence
_TEXTS = (".normalized.txt", ".original.txt")


def is_librispeech(tree: Tree) -> bool:
    """Tell whether there is a chapter with its list of texts."""
    return any(_CHAPTER.fullmatch(path.name) for path in tree.files)


def read_librispeech(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per line of the chapters, and one per sound without a line."""
    genders = _genders(tree, "SPEAKERS.TXT", "|")
    for chapter in (path for path in tree.files if _CHAPTER.fullmatch(path.name)):
        sounds = tree.sounds(chapter.parent)
        reader = chapter.name.split("-")[0]
        facts = {"speaker": reader, "split": split_of(chapter, tree.folder), "language": "en"}
        facts |= {"gender": genders.get(reader, ""), "source": "librispeech"}
        for number, line in lines_of(chapter):
            id_, _, text = line.partition(" ")
            sound = sounds.pop(id_, chapter.parent / f"{id_}.flac")
            yield f"{chapter} line {number}", {"path": str(sound), "text": text, **facts}
        for sound in sounds.values():
            reason = f"{chapter.name} has no line for it; add one, or remove the file"
            yield str(sound), Unreadable(reason, str(sound))


def is_libritts(tree: Tree) -> bool:
    """Tell whether there is a sound named as LibriTTS does, with its text beside it."""
    return any(
        _UTTERANCE.fullmatch(path.name.removesuffix(_TEXTS[0]))
        for path in tree.files
        if path.name.endswith(_TEXTS[0])
    )


def read_libritts(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per sound, with the normalised text."""
    genders = _genders(tree, "speakers.tsv", "\t")
    for folder in tree.folders:
        for stem, sound in tree.sounds(folder).items():
            name = _UTTERANCE.fullmatch(stem)
            if name is None:
                reason = "its name is not reader_chapter_paragraph_sentence; move it away"
                yield str(sound), Unreadable(reason, str(sound))
                continue
            texts = [folder / f"{stem}{suffix}" for suffix in _TEXTS]
            text = next((path for path in texts if path.name in tree.folders[folder]), None)
            facts = {"speaker": name[1], "split": split_of(sound, tree.folder), "language": "en"}
            facts |= {"gender": genders.get(name[1], ""), "source": "libritts"}
            yield str(sound), _libritts_row(sound, text, facts)


def _genders(tree: Tree, file_name: str, mark: str) -> dict[str, str]:
    """Return the gender of each reader, from the list of readers if it is below the folder."""
    path = next((path for path in tree.files if path.name == file_name), None)
    rows = [line.split(mark) for _, line in lines_of(path)] if path else []
    return {
        row[0].strip(): GENDERS[row[1].strip().lower()]
        for row in rows
        if len(row) > 1 and row[1].strip().lower() in GENDERS
    }


def _libritts_row(
    sound: Path, text: Path | None, facts: dict[str, str]
) -> dict[str, str] | Unreadable:
    if text is None:
        return Unreadable(f"no transcript; {sound.stem}{_TEXTS[0]} is missing", str(sound))
    try:
        said = read_text(text, MetadataError)
    except (MetadataError, OSError) as error:
        return Unreadable(f"its transcript cannot be read: {error}", str(sound))
    return {"path": str(sound), "text": " ".join(said.split()), **facts}

"""A folder as metadata: the one table in it, its splits, or sound files with a text beside each.

And lists without a header beside a folder of sounds, as that of LJSpeech. As in formats.py, what
the values mean is decided in metadata.py.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_ft.console import shorten
from csm_ft.data.not_read import what_helps
from csm_ft.data.token_file import is_token_file
from csm_ft.datasets.captions import CAPTION_SUFFIXES, records_of
from csm_ft.datasets.sounds import SOUND_SUFFIXES, is_sound, rank_of
from csm_ft.datasets.tables import SUFFIXES, Columns, Unreadable, reading, show
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.datasets.values import SPLIT_OF
from csm_ft.datasets.wav_lists import NORMALISED, wav_list_columns
from csm_ft.errors import MetadataError
from csm_ft.text_file import nfc, read_first_line, read_text

# The first that is there counts.
TEXT_SUFFIXES = (".txt", ".lab", ".normalized.txt", ".original.txt")
# Times in a text: of TIMIT, HTK and Audacity, of subtitles, of whisper's console.
_TIMED = re.compile(r"\s*\d+[.\d]*\s+\d+[.\d]*\s+\S|\s*\[\d+:\d")
# What is a table by its suffix, but no metadata: what pretokenize.py writes, and lists of corpora.
_NO_METADATA = (
    *(".rejected.jsonl", ".notes.jsonl", ".heard.jsonl", ".report.json", ".files.json"),
    *("speakers.tsv", ".trans.tsv", ".book.tsv", "clip_durations.tsv"),
    *("VideoDemographics.csv", "SentenceFilenames.csv", "summaryTable.csv", "tabulatedVotes.csv"),
    *("finishedResponses.csv", "finishedEmoResponses.csv"),
    "finishedResponsesWithRepeatWithPractice.csv",
    *("metadata_mls.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"),
)
_LABELS = ".textgrid"  # of Praat, which is not read
_SOUND_FOLDERS = ("wavs", "wav")  # beside a list
_FEWEST_SHARE = 0.2  # of the rows, from which those with a third column have one
_WORD = re.compile(r"[a-z]+")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


def find_tables(tree: Tree) -> list[Path]:
    """Return the metadata files that stand in the folder itself."""
    with reading(tree.folder):
        stems = {path.stem for path in tree.top if is_sound(path.name)}
        return [path for path in tree.top if is_table(path) and path.stem not in stems]


def find_splits(tree: Tree) -> list[tuple[str, Path]]:
    """Return the parts of a folder that names them after splits, as (train, train.csv).

    Its tables, or, where it has none, its folders; nothing where a name has no split or two tables
    of one split are no parts of one.
    """
    tables = find_tables(tree)
    names = [path.stem if path in tables else path.name for path in tables or tree.top]
    parts = [*zip(map(_split_in, names), tables or tree.top, strict=True)]
    if tables:
        return parts if _are_splits(parts) else []
    parts = [
        (split, path) for split, path in parts if path.is_dir() and path.name.lower() in SPLIT_OF
    ]
    has_sound = any(is_sound(path.name) for path in tree.top)
    return parts if not has_sound and {"train"} < {split for split, _ in parts} else []


def one_table(tree: Tree) -> Path | None:
    """Return the only metadata file in a folder, None for none; MetadataError for several."""
    found = find_tables(tree)
    if len(found) > 1:
        names = shorten(path.name for path in found)
        raise MetadataError(
            f"{tree.folder}: is a folder with {len(found)} metadata files, {names}; name the one"
            f" to read, as {found[0]}"
        )
    return found[0] if found else None


def only_folder(tree: Tree) -> Path | None:
    """Return the folder with tables that is the only one in a folder without sounds, or None.

    As archives and data sets of the Hugging Face hub (data/) have it.
    """
    folders = [path for path in tree.top if path.is_dir()]
    if len(folders) != 1 or any(is_sound(path.name) for path in tree.top):
        return None
    return folders[0] if find_tables(Tree(folders[0])) else None


def read_folder(tree: Tree, tell: Tell) -> list[Record]:
    """Return a record for every sound file, at any depth, or for each of its captions.

    Or why there is no text. Of a sound in several formats one is read, which `tell` is told.
    MetadataError when there is no sound file at all.
    """
    copies = [path for folder in tree.folders for path in _copies(tree, folder)]
    if copies:
        names = shorten((path.name for path in copies), 3)
        tell(f"{len(copies)} sounds are there in another format, too, and not read again: {names}")
    records = [
        record
        for sound, beside in sorted(_sounds(tree, set(copies)))
        for record in _records(tree.folder, sound, beside)
    ]
    if not records:
        not_read = next((path for path in tree.files if what_helps(path.name)), None)
        hint = f"; {not_read.name} is not read: {what_helps(not_read.name)}" if not_read else ""
        raise MetadataError(
            f"{tree.folder}: is a folder with neither a metadata file ({SUFFIXES}) nor sound files"
            f" ({' '.join(SOUND_SUFFIXES[:6])} ...) in it; put sound files there, and what is said"
            f" in a.wav into a.txt beside it{hint}"
        )
    return records


def is_wav_list(path: Path, columns: Columns) -> bool:
    """Tell whether a file is a list without a header beside a folder of sounds, as LJSpeech's."""
    with reading(path):
        has_sound = _sound_folder(path) is not None
        if path.suffix.lower() not in (".csv", ".txt") or not has_sound or not path.is_file():
            return False
        fields = read_first_line(path).split("|")
    if columns.are_numbers:
        return len(fields) > 1
    is_header = "path" in {columns.field_of(name.strip('" \r\n')) for name in fields}
    return len(fields) in (2, 3) and not is_header


def read_wav_list(path: Path, columns: Columns) -> list[dict[str, str] | Unreadable]:
    """Read such a list; quotes are part of the texts.

    Its columns are those that the user has numbered, or else id|text, id|text|normalised,
    id|text|speaker or id|speaker|text: what they hold decides. The sound of an id is wavs/<id>.wav,
    or another sound file of that name. MetadataError asks when what the columns hold leaves it
    open.
    """
    with reading(path):
        lines = [line for line in read_text(path, MetadataError).split("\n") if line.strip()]
        folder = _sound_folder(path) or path.parent
        sounds = {
            nfc(file.stem): file.name
            for file in sorted(folder.iterdir(), key=lambda one: rank_of(one.name), reverse=True)
            if is_sound(file.name)
        }
    rows = [[field.strip() for field in line.split("|")] for line in lines]
    header = [Columns().field_of(field) for field in rows[0]] if rows else []
    if columns.are_numbers:
        places = {field: int(number) - 1 for field, number in columns.given.items()}
        found = [_numbered_row(row, places) for row in rows]
    elif "text" in header:  # and a first column of ids
        names = [
            "path",
            *(field or name for field, name in zip(header[1:], rows[0][1:], strict=True)),
        ]
        found = [_wav_list_row(row, names) for row in rows[1:]]
    else:
        longer = [row for row in rows if len(row) == 3]
        are_few = len(longer) < _FEWEST_SHARE * len(rows)  # bars in texts
        names = wav_list_columns(path, [] if are_few else longer)
        found = [_wav_list_row(row, names) for row in rows]
    return [_with_sound(row, folder.name, sounds) for row in found]


def _numbered_row(row: list[str], places: Mapping[str, int]) -> dict[str, str] | Unreadable:
    if max(places.values()) >= len(row) or min(places.values()) < 0:
        return Unreadable(
            f"has {len(row)} fields between bars, fewer than --columns numbers", row[0]
        )
    return {field: row[place] for field, place in places.items()}


def _wav_list_row(row: list[str], columns: Sequence[str]) -> dict[str, str] | Unreadable:
    name, *texts = row
    if len(texts) not in (1, 2) or len(row) > len(columns):
        return Unreadable(
            f"has {len(row)} fields between bars; write id|text or id|text|normalised text,"
            " without bars in the texts",
            name,
        )
    if len(texts) == 1:
        return {"path": name, "text": texts[0]}
    values = dict(zip(columns, row, strict=False))
    normalised = values.pop(NORMALISED, "")
    return {**values, "text": normalised or values["text"]}


def _with_sound(
    row: dict[str, str] | Unreadable, folder: str, sounds: Mapping[str, str]
) -> dict[str, str] | Unreadable:
    """Return a row with the path of its sound in place of an id."""
    if isinstance(row, Unreadable) or "path" not in row:
        return row
    name = row["path"].replace("\\", "/").removeprefix("./").removeprefix(f"{folder}/")
    name = sounds.get(nfc(name)) or (name if is_sound(name) else f"{name}.wav")
    return {**row, "path": f"{folder}/{name}"}


def _sound_folder(path: Path) -> Path | None:
    places = (path.parent / name for name in _SOUND_FOLDERS)
    return next((place for place in places if place.is_dir()), None)


def is_table(file: Path) -> bool:
    """Tell whether a file may be metadata, by its name."""
    if file.name.startswith(".") or file.name.endswith(_NO_METADATA):
        return False
    is_table = file.name.lower().endswith(tuple(SUFFIXES.split()))
    return is_table and file.is_file() and not is_token_file(file)


def _split_in(name: str) -> str:
    """Return the split that the words of a name tell, or ""."""
    found = {SPLIT_OF[word] for word in _WORD.findall(name.lower()) if word in SPLIT_OF}
    return found.pop() if len(found) == 1 else ""


def _are_splits(parts: Sequence[tuple[str, Path]]) -> bool:
    splits = [split for split, _ in parts]
    are_shards = all(_SHARD.search(path.stem) for _, path in parts)
    are_apart = are_shards or len(set(splits)) == len(splits)
    return "train" in splits and "" not in splits and are_apart and len(parts) > 1


def _copies(tree: Tree, folder: Path) -> list[Path]:
    """Return the sounds of a folder whose names differ in the suffix from one that is read."""
    kept, found = tree.sounds(folder), sorted(filter(is_sound, tree.folders[folder]))
    return [folder / name for name in found if kept[nfc(Path(name).stem)].name != name]


def _sounds(tree: Tree, copies: Collection[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield each sound with the names of the files beside it by their suffixes in small letters."""
    for folder, names in tree.folders.items():
        spelled = {f"{nfc(Path(name).stem)}{Path(name).suffix.lower()}": name for name in names}
        for name in filter(is_sound, names):
            stem = nfc(Path(name).stem)
            suffixes = (*CAPTION_SUFFIXES, *TEXT_SUFFIXES, _LABELS)
            beside = {s: spelled[f"{stem}{s}"] for s in suffixes if f"{stem}{s}" in spelled}
            # whisper.cpp writes a.wav.srt.
            beside |= {s: f"{name}{s}" for s in CAPTION_SUFFIXES if f"{name}{s}" in names}
            if folder / name not in copies:
                yield folder / name, beside


def _records(folder: Path, sound: Path, beside: Mapping[str, str]) -> Iterator[Record]:
    path = f"./{sound.relative_to(folder)}"  # a name with a blank or ~ in front stays what it is
    captions = [sound.parent / beside[suffix] for suffix in CAPTION_SUFFIXES if suffix in beside]
    texts = [sound.parent / beside[suffix] for suffix in TEXT_SUFFIXES if suffix in beside]
    if captions and not texts:
        yield from records_of(sound, path, captions[0])
    elif captions:
        yield from _timed(sound, path, captions) or [(str(sound), _row(path, texts[0]))]
    elif texts:
        yield str(sound), _row(path, texts[0])
    else:
        reason = f"no transcript; write what is said into {sound.stem}.txt beside it"
        labels = beside.get(_LABELS)
        if labels:
            reason = f"no transcript; {labels} is not read: {what_helps(labels)}"
        yield str(sound), Unreadable(reason, path)


def _timed(sound: Path, path: str, captions: Sequence[Path]) -> list[Record]:
    """Return the records of the first captions that have a time; a text beside is the rest."""
    for one in captions:
        records = [*records_of(sound, path, one)]
        if all(isinstance(columns, dict) and "start" in columns for _, columns in records):
            return records
    return []


def _row(path: str, transcript: Path) -> dict[str, Any] | Unreadable:
    try:
        lines = read_text(transcript, MetadataError)
        text = " ".join(lines.split())
    except (MetadataError, OSError) as error:
        return Unreadable(f"its transcript cannot be read: {error}", path)
    if not text:
        return Unreadable(f"{transcript.name} is empty; write what is said into it", path)
    if _TIMED.match(lines) or "-->" in lines:
        return Unreadable(
            f"{transcript.name} has times in it ({show(text)}); name subtitles .srt or .vtt, or"
            " write only what is said into it",
            path,
        )
    return {"path": path, "text": text}

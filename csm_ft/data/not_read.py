"""Files that people have and that are not read, by name, each with what helps."""

import shlex

_SHEET = "save it as CSV: libreoffice --headless --convert-to csv {}"
_SOUND = "convert it: ffmpeg -i {} {stem}.wav"
_LABELS = (
    "export its intervals as a table with the columns path, start, end and text, or as {stem}.srt"
)
_WAY_OUT = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), _SHEET),
    **dict.fromkeys((".m4a", ".aac", ".wma", ".amr", ".mp4", ".webm", ".mkv", ".mov"), _SOUND),
    **dict.fromkeys((".textgrid", ".eaf", ".trs", ".ass"), _LABELS),
    **dict.fromkeys((".docx", ".odt", ".pdf", ".doc"), "save its text as {stem}.txt, in UTF-8"),
    ".zip": "unpack it: unzip {} -d {stem}",
    **dict.fromkeys((".tar", ".tgz", ".gz", ".bz2", ".xz"), "unpack it: tar -xf {}"),
    **dict.fromkeys((".7z", ".rar"), "unpack it: 7z x {}"),
    ".arrow": (
        "a data set saved by datasets is read as parquet: load_from_disk(FOLDER).to_parquet(FILE)"
    ),
    **dict.fromkeys(
        (".pkl", ".pickle", ".pt", ".npy", ".npz"),
        "its program can write it as JSON or CSV; files that may run code are not read",
    ),
    ".scp": "name the folder that holds wav.scp and text",
}


def what_helps(name: str) -> str:
    """Return the way out for a file of that name, or "" where its kind is not known."""
    stem, dot, suffix = name.rpartition(".")
    way_out = _WAY_OUT.get(f"{dot}{suffix.lower()}", "")
    return way_out.format(shlex.quote(name), stem=shlex.quote(stem))

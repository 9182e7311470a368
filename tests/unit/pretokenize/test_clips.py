"""Which rows become clips: bad ones are listed with reasons, held-out files stay whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.data import audio
from csm_ft.data.inspect import inspect_files
from csm_ft.data.measures import Measures
from csm_ft.data.references import SourceFile
from csm_ft.data.rows import Row
from csm_ft.datasets.metadata import read_metadata
from csm_ft.errors import AudioError, ConfigError
from csm_ft.pretokenize import clips
from csm_ft.pretokenize.clips import Job, Span, check_row, check_rows, hold_out
from csm_ft.pretokenize.labels import Labels
from tests.helpers.pretokenizing import FakeConfig, FakeEncoder, Json, Work, write_wave

# Rows that cannot be used


def bad_rows(work: Work) -> list[tuple[Json, str]]:
    (work.folder / "broken.wav").write_text("no sound")
    write_wave(work.folder / "long.wav", 170, seed=50)
    return [
        ({"path": "audio/none.wav", "text": "No file."}, "no such file"),
        ({"path": "audio/0.wav", "text": "Broken \ud800."}, "has characters that are no text"),
        ({"path": "broken.wav", "text": "No sound."}, "cannot be decoded"),
        (
            {"path": "audio/0.wav", "text": "Too far.", "end": 1.2},
            "end_sec (or start + duration) 1.2 is past the end of 0.wav (1.000 s)",
        ),
        (
            {"path": "audio/0.wav", "text": "Too late.", "start": 5, "end": 6},
            "start_sec 5 is past the end",
        ),
        (
            {"path": "audio/0.wav", "text": "At the end.", "start": 1.0},
            "start_sec 1 is past the end",
        ),
        (
            {"path": "audio/0.wav", "text": "Backwards.", "start": 0.5, "end": 0.2},
            "not after start_sec",
        ),
        (
            {"path": "audio/0.wav", "text": "Short.", "end": 0.3},
            "0.300 s is shorter than --min_sec 0.4",
        ),
        ({"path": "audio/0.wav", "text": " "}, "text is missing or empty"),
        (
            {"path": "long.wav", "text": "Long."},
            "2125 frames + 1 are more than --max_positions 2048",
        ),
        ({"path": "audio/0.wav", "text": "word " * 3000}, "more than --max_positions"),
    ]


def test_bad_rows_are_listed_with_reasons(work: Work, encoder: FakeEncoder) -> None:
    good = work.clips([1.0, 1.1, 1.2])
    bad = bad_rows(work)
    assert work.run([row for row, _ in bad] + good, good[:1], "--max_rejected", "80%") == 0
    split = work.store().splits["train"]
    assert [split.clip(i).text for i in range(len(split))] == [row["text"] for row in good]
    found = {row["where"].split()[-1]: row for row in work.rejected()}
    assert len(found) == len(bad)
    for number, (row, reason) in enumerate(bad, 1):
        line = found[str(number)]
        assert reason in line["reason"], line
        assert (line["split"], line["text"].strip()) == ("train", row["text"].strip())
        assert line["path"].endswith(row["path"])
    reasons = work.report()["rejected_by_reason"]
    assert reasons["no such file"] == 1
    assert reasons["start_sec N is past the end of the file (N s)"] == 2
    assert sum(reasons.values()) == work.report()["rejected"] == len(bad)


def test_threads_keep_the_order_of_rows(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with rows that are checked one by one."""
    good = work.clips([1.0] * 5)
    rows = [{**good[i % 5], "text": f"Text {i}.", "end": 0.5 + i / 25} for i in range(25)]
    path = work.folder / "train.json"
    path.write_text(json.dumps(rows))
    options = FakeConfig(train_data=str(path), output=str(work.output), end_tolerance_sec=0.0)
    job = Job(options, "fake", FakeEncoder())
    read, _ = read_metadata(path)
    files = inspect_files((row.path for row in read), 1)
    wanted = [check_row(job, row, files[row.path]) for row in read]
    monkeypatch.setattr(clips, "_ROWS_PER_CALL", 2)
    found = check_rows(job, Labels(options, {"train": read}, {}), read, files)
    assert list(map(_shown, found)) == list(map(_shown, wanted))
    assert 0 < sum(isinstance(one, str) for one in found) < len(rows), "both kinds of rows"


def _shown(outcome: Span | str) -> object:
    if isinstance(outcome, str):
        return outcome
    return outcome.row, outcome.key, outcome.text["letters"].tolist()


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ((), ["Inside.", "Rounded.", "A little past."]),
        (("--end_tolerance_sec", "0"), ["Inside.", "Rounded."]),
        (("--end_tolerance_sec", "0.3"), ["Inside.", "Rounded.", "A little past.", "Far past."]),
    ],
)
def test_ends_past_the_file_are_cut(
    work: Work, encoder: FakeEncoder, options: tuple[str, ...], texts: list[str], capsys: Any
) -> None:
    good = work.clips([1.0, 1.1])
    ends = {"Inside.": 0.9, "Rounded.": 1.005, "A little past.": 1.08, "Far past.": 1.2}
    rows = [{"path": "audio/0.wav", "text": text, "end": end} for text, end in ends.items()]
    assert work.run([*rows, good[1]], good[:1], "--max_rejected", "80%", *options) == 0
    split = work.store().splits["train"]
    clips = [split.clip(row) for row in range(len(split))][:-1]
    assert [clip.text for clip in clips] == texts
    assert [clip.end_sec for clip in clips] == [min(1.0, ends[text]) for text in texts]
    num_cut = sum(ends[text] > 1.01 for text in texts)
    told = f"{num_cut} spans end up to" in " ".join(capsys.readouterr().out.split())
    assert told == bool(num_cut)


@pytest.mark.parametrize(
    ("flags", "code"),
    [((), 1), (("--max_rejected", "25%"), 0), (("--max_rejected", "0.24"), 1), (("--strict",), 1)],
)
def test_too_many_rejected_rows_stop(
    work: Work,
    encoder: FakeEncoder,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    code: int,
) -> None:
    good = work.clips([1.0, 1.0, 1.0])
    assert work.run(good, good[:1]) == 0
    before, encoded = work.output.read_bytes(), encoder.num_encoded
    bad = {"path": "audio/none.wav", "text": "No file."}
    assert work.run([*good[:2], bad], good[2:], *flags) == code
    assert (work.output.read_bytes() == before) == (code == 1)
    assert encoder.num_encoded == encoded
    if code:
        message = capsys.readouterr().err
        assert "1 of 4 rows (25.0%) are rejected" in message
        assert "rejected.jsonl" in message
        assert "was not written" in message
    assert len(work.rejected()) == 1
    assert work.run(good, good[:1]) == 0
    assert work.rejected() == [], "the list of an earlier run is gone"


def test_encoding_rejects_unusable_clips(
    work: Work,
    encoder: FakeEncoder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = work.clips([1.0] * 4)
    import soundfile

    soundfile.write(work.folder / "silent.wav", np.zeros(16000), 16000)
    silent = {"path": "silent.wav", "text": "Nothing."}
    load = audio.load_measured

    def load_or_fail(path: Path, **more: Any) -> tuple[np.ndarray, Measures]:
        if path.name == "3.wav":
            raise AudioError(f"{path}: cut off")
        return load(path, **more)

    monkeypatch.setattr(audio, "load_measured", load_or_fail)
    assert work.run([*good, silent], good[:1]) == 1
    assert not work.output.exists()
    assert Path(f"{work.output}.parts").exists(), "what was encoded is kept"
    encoded = encoder.num_encoded
    assert work.run([*good, silent], good[:1], "--max_rejected", "40%") == 0
    assert encoder.num_encoded == encoded + 1, (
        "only the silent clip is tried again (the other cannot be loaded)"
    )
    assert {
        (row["where"].split()[-1], row["reason"].split(": ")[-1].split(";")[0])
        for row in work.rejected()
    } == {("4", "cut off"), ("5", "a frame is silent")}
    assert len(work.store().splits["train"]) == 3
    capsys.readouterr()
    assert (
        work.run(
            [{"path": "none.wav", "text": "None."}, *good, silent],
            good[:1],
            "--max_rejected",
            "50%",
        )
        == 0
    )
    shown = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("rejected ") and " row " in line
    ]
    assert [line.split(": ")[0].split()[-1] for line in shown] == ["1", "5", "6"], (
        "each is shown once, when it is found"
    )
    monkeypatch.setattr(audio, "load_measured", load)
    assert work.run(good, good[:1]) == 0
    assert len(work.store().splits["train"]) == 4, "a file that can be read again is in again"


def test_rounded_end_is_end_of_file(work: Work, encoder: FakeEncoder) -> None:
    (row,) = work.clips([1.0])
    assert work.run([row, {**row, "start": 0.0, "end": 1.008}], [row]) == 0
    split = work.store().splits["train"]
    assert split.clip(1).end_sec == 1.0
    assert split.ids[0] == split.ids[1]


def test_clip_may_fill_last_position(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0])
    assert work.run(rows, rows) == 0
    split = work.store().splits["train"]
    positions = int(split.lengths("letters")[0] + split.lengths("sums")[0]) + 1
    assert work.run(rows, rows, "--max_positions", str(positions)) == 0
    assert work.run(rows, rows, "--max_positions", str(positions - 1)) == 1
    assert f"1 are more than --max_positions {positions - 1}" in work.rejected()[0]["reason"]


def test_true_lengths_are_checked_again(
    work: Work, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resampler may give a few samples more than the header promises, and so a frame more."""
    rows = work.clips([0.96])
    load = audio.load_measured

    def load_one_more(path: Path, **more: Any) -> tuple[np.ndarray, Measures]:
        wave, measures = load(path, **more)
        return np.append(wave, np.full(1, 0.1, np.float32)), measures

    monkeypatch.setattr(audio, "load_measured", load_one_more)
    letters = len("999|") + len(rows[0]["text"])
    assert work.run(rows, rows, "--max_positions", str(letters + 12 + 1)) == 1
    assert "13 frames + 1 are more than" in work.rejected()[0]["reason"]
    assert work.run(rows, rows, "--max_positions", str(letters + 13 + 1)) == 0


def test_empty_split_is_refused(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [{"path": "none.wav", "text": "None."}]
    assert work.run(work.clips([1.0]), bad, "--max_rejected", "100%") == 2
    assert "no val clip is left" in capsys.readouterr().err
    assert work.run(bad, None, "--max_rejected", "100%") == 2
    assert "no train clip is left" in capsys.readouterr().err
    assert not work.output.exists()


# Held-out clips


def make_spans(files: list[int]) -> list[Span]:
    """Spans of the given numbers per file."""
    spans = []
    for number, count in enumerate(files):
        row = Row(f"row {number}", Path(f"{number}.wav"), "Text.", None, None, None)
        spans += [
            Span(row, SourceFile(f"digest-{number}", 0, 0), f"{number}-{i}", 0.0, 1.0, 12, {})
            for i in range(count)
        ]
    return spans


@settings(max_examples=80, deadline=None)
@given(
    files=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_held_out_files_are_whole(files: list[int], fraction: float, seed: int) -> None:
    spans = make_spans(files)
    train, val = hold_out(spans, fraction, seed)
    assert train
    assert val
    assert sorted(s.key for s in train + val) == sorted(s.key for s in spans)
    assert not {s.file_digest for s in train} & {s.file_digest for s in val}
    assert len(val) <= max(fraction * len(spans), min(files))
    assert [s.key for s in train] == [s.key for s in spans if s in train], (
        "the order of the metadata stays"
    )
    order = spans[::-1]
    assert {s.key for s in hold_out(order, fraction, seed)[1]} == {s.key for s in val}, (
        "the choice does not hang on the order of rows"
    )


def make_turns(places: list[tuple[int, int]]) -> list[Span]:
    """Spans of (file, conversation); conversation 0 is none."""
    spans = []
    for i, (file, talk) in enumerate(places):
        row = Row(
            f"row {i}",
            Path(f"{file}.wav"),
            "Text.",
            None,
            None,
            None,
            f"talk {talk}" if talk else "",
            i,
        )
        spans.append(Span(row, SourceFile(f"digest-{file}", 0, 0), f"{file}-{i}", 0.0, 1.0, 12, {}))
    return spans


def joined_slowly(spans: list[Span]) -> list[set[str]]:
    """Merge sets that share a file until none do: the obvious way."""
    sets = [{span.file_digest} for span in spans]
    sets += [
        {s.file_digest for s in spans if s.row.conversation == name}
        for name in {s.row.conversation for s in spans} - {""}
    ]
    while True:
        pair = next(((a, b) for i, a in enumerate(sets) for b in sets[i + 1 :] if a & b), None)
        if pair is None:
            return sets
        sets = [s for s in sets if s is not pair[0] and s is not pair[1]] + [pair[0] | pair[1]]


@settings(max_examples=150, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=2, max_size=16),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_held_out_conversations_are_whole(
    places: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    spans = make_turns(places)
    together = joined_slowly(spans)
    if len(together) == 1:
        with pytest.raises(ConfigError, match="give --val_data"):
            hold_out(spans, fraction, seed)
        return
    train, val = hold_out(spans, fraction, seed)
    assert train
    assert val
    sides = [{s.file_digest for s in train}, {s.file_digest for s in val}]
    assert all(any(files <= side for side in sides) for files in together), (
        "what hangs together is whole"
    )
    assert not sides[0] & sides[1]
    assert not {s.row.conversation for s in train} & {s.row.conversation for s in val} - {""}
    sizes = [sum(s.file_digest in files for s in spans) for files in together]
    assert len(val) <= max(fraction * len(spans), min(sizes))
    assert {s.key for s in hold_out(spans[::-1], fraction, seed)[1]} == {s.key for s in val}
    assert all(sum(file in side for side in sides) == 1 for file in {s.file_digest for s in spans})


def test_joined_conversations_cannot_be_held_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chain = [(0, 1), (1, 1), (1, 2), (2, 2), (2, 0)]
    with pytest.raises(
        ConfigError,
        match=(
            r"all 5 usable rows hang together: conversations join their 3 sound files.*give"
            r" --val_data, or"
        ),
    ):
        hold_out(make_turns(chain), 0.2, 0)
    _, val = hold_out(make_turns([*chain, (3, 3), (4, 3)]), 0.3, 0)
    assert [s.row.conversation for s in val] == ["talk 3"] * 2
    assert "held out 2 of 7 clips, 2 of 5 files, 1 of 3 conversations" in capsys.readouterr().out


def test_held_out_share_follows_fraction_and_seed() -> None:
    spans = make_spans([1] * 200)
    held = {seed: {s.key for s in hold_out(spans, 0.05, seed)[1]} for seed in range(3)}
    assert {len(keys) for keys in held.values()} == {10}
    assert held[0] != held[1] != held[2]
    grown = {s.key for s in hold_out(make_spans([1] * 240), 0.05, 0)[1]}
    assert len(grown) == 12
    assert len(grown & held[0]) >= 7, "new rows move few others"
    with pytest.raises(ConfigError, match=r"give --val_data, or cut the file"):
        hold_out(make_spans([5]), 0.2, 0)


def test_only_usable_rows_are_held_out(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0] * 10)
    missing = [{"path": f"none{i}.wav", "text": "None."} for i in range(10)]
    assert work.run([*rows, *missing], None, "--max_rejected", "60%", "--val_fraction", "0.2") == 0
    store = work.store()
    assert (len(store.splits["train"]), len(store.splits["val"])) == (8, 2)
    assert (
        work.run(
            [*rows, *missing], None, "--max_rejected", "60%", "--val_fraction", "0.2", "--seed", "1"
        )
        == 0
    )
    assert set(work.store().splits["val"].ids) != set(store.splits["val"].ids)
    assert work.report()["encoded_now"] == 0
    assert work.run(work.clips([1.0]), None) == 2

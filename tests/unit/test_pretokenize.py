"""pretokenize.py: rows are checked, only what is new is encoded, and nothing that fails touches the old file."""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import pretokenize
from csm_ft import audio, codecs, encoding, files
from csm_ft import store as store_module
from csm_ft.clips import Span, hold_out
from csm_ft.config import ConfigError
from csm_ft.families.csm.text import open_tokenizer
from csm_ft.metadata import Row
from csm_ft.pretokenizer import PretokenizeConfig
from csm_ft.store import Store, open_store, verify
from csm_ft.tokens import DUPLICATE
from tests.fake_codec import FakeCodec, write_wave

Json = dict[str, Any]


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> FakeCodec:
    fake = FakeCodec()
    monkeypatch.setattr(codecs, "open_codec", lambda *args, **kwargs: fake)
    return fake


class Work:
    """A folder with metadata, audio and an output, and the program run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "tokens.hdf5"

    def clips(self, seconds: list[float], *, first: int = 0, **more: Any) -> list[Json]:
        rows = []
        for i, sec in enumerate(seconds, first):
            write_wave(self.folder / f"audio/{i}.wav", sec, seed=i)
            rows.append({"path": f"audio/{i}.wav", "text": f"This is sentence {i}.", **more})
        return rows

    def run(self, train: list[Json], val: list[Json] | None = None, *more: str) -> int:
        argv = ["--codec", "melrvq", "--output", str(self.output), "--num_workers", "2", "--device", "cpu"]
        for name, rows in (("train", train), ("val", val)):
            if rows is not None:
                (self.folder / f"{name}.json").write_text(json.dumps(rows))
                argv += [f"--{name}_data", str(self.folder / f"{name}.json")]
        return pretokenize.main([*argv, *more])

    def store(self) -> Store:
        assert verify(self.output) == []
        return open_store(self.output)

    def rejected(self) -> list[Json]:
        path = Path(f"{self.output}.rejected.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def report(self) -> Json:
        return json.loads(Path(f"{self.output}.report.json").read_text())


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_the_file_is_what_encoding_one_clip_after_another_gives(work: Work, codec: FakeCodec) -> None:
    train = work.clips([1.0, 0.5, 2.31, 0.7])
    train += [{"path": "audio/2.wav", "text": "A span.", "start": 0.25, "end": 1.5, "speaker": 3}]
    write_wave(work.folder / "stereo.flac", 1.3, seed=9, rate_hz=44100, channels=2)
    train += [{"path": "stereo.flac", "text": "Grüße, 你好", "speaker": "Ann"}]
    val = work.clips([0.9], first=7)
    assert work.run(train, val, "--batch_sec", "3", "--save_every", "2") == 0

    tokenizer, store = open_tokenizer("auto", codec="melrvq"), work.store()
    for split, rows in (("train", train), ("val", val)):
        assert len(store.splits[split]) == len(rows)
        for i, row in enumerate(rows):
            start, end = row.get("start"), row.get("end")
            path = work.folder / row["path"]
            wave = audio.load(path, sample_rate_hz=16000, start_sec=start, end_sec=end)
            speaker = str(row.get("speaker", "999"))
            clip = store.splits[split].clip(i)
            np.testing.assert_array_equal(store.splits[split].codes(i), FakeCodec().encode([wave])[0])
            np.testing.assert_array_equal(store.splits[split].text_tokens(i), tokenizer.encode(row["text"], speaker))
            assert (clip.text, clip.speaker, clip.source, clip.flags) == (row["text"], speaker, str(path), 0)
            assert clip.start_sec == (start or 0.0)
            assert clip.duration_sec == pytest.approx(len(wave) / 16000, abs=1e-4)
    info = store.info
    assert (info.codec, info.codec_fingerprint, info.num_codebooks, info.codec_vocab_size) == ("melrvq", "fake-1", 4, 256)
    assert (info.tokenizer_fingerprint, info.text_vocab_size) == (tokenizer.fingerprint, tokenizer.vocab_size)
    assert (info.template, store.asset("tokenizer")) == ("[{speaker}]{text}", tokenizer.to_bytes())
    assert not Path(f"{work.output}.parts").exists()
    assert work.rejected() == []


def test_batches_are_of_like_lengths_and_within_the_budget(work: Work, codec: FakeCodec) -> None:
    seconds = [0.5 + 0.1 * (7 * i % 20) for i in range(20)]
    assert work.run(work.clips(seconds), None, "--batch_sec", "6") == 0
    assert codec.num_encoded == 20
    for lengths in codec.batches:
        assert max(lengths) * len(lengths) <= 6 * 16000 + 1280 * len(lengths)
    flat = [length for lengths in codec.batches for length in lengths]
    frames = [-(-length // 1280) for length in flat]
    assert frames == sorted(frames)
    assert len(codec.batches) > 3


# Rows that cannot be used


def bad_rows(work: Work) -> list[tuple[Json, str]]:
    (work.folder / "broken.wav").write_text("no sound")
    write_wave(work.folder / "long.wav", 170, seed=50)
    return [
        ({"path": "audio/none.wav", "text": "No file."}, "no such file"),
        ({"path": "broken.wav", "text": "No sound."}, "cannot be decoded"),
        ({"path": "audio/0.wav", "text": "Too far.", "end": 1.2}, "end_sec 1.2 is past the end of 0.wav (1.000 s)"),
        ({"path": "audio/0.wav", "text": "Too late.", "start": 5, "end": 6}, "start_sec 5 is past the end"),
        ({"path": "audio/0.wav", "text": "At the end.", "start": 1.0}, "start_sec 1 is past the end"),
        ({"path": "audio/0.wav", "text": "Backwards.", "start": 0.5, "end": 0.2}, "not after start_sec"),
        ({"path": "audio/0.wav", "text": "Short.", "end": 0.3}, "0.300 s is shorter than --min_sec 0.4"),
        ({"path": "audio/0.wav", "text": " "}, "text is missing or empty"),
        ({"path": "long.wav", "text": "Long."}, "2125 frames + 1 are more than --max_positions 2048"),
        ({"path": "audio/0.wav", "text": "word " * 3000}, "more than --max_positions"),
    ]


def test_bad_rows_are_listed_with_reasons_and_the_rest_goes_on(work: Work, codec: FakeCodec) -> None:
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


@pytest.mark.parametrize(("flags", "code"), [((), 1), (("--max_rejected", "25%"), 0), (("--max_rejected", "0.24"), 1), (("--strict",), 1)])
def test_too_many_rejected_rows_stop_before_encoding(
    work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], code: int
) -> None:
    good = work.clips([1.0, 1.0, 1.0])
    assert work.run(good, good[:1]) == 0
    before, encoded = work.output.read_bytes(), codec.num_encoded
    bad = {"path": "audio/none.wav", "text": "No file."}
    assert work.run([*good[:2], bad], good[2:], *flags) == code
    assert (work.output.read_bytes() == before) == (code == 1)
    assert codec.num_encoded == encoded
    if code:
        message = capsys.readouterr().err
        assert "1 of 4 rows (25.0%) are rejected" in message
        assert "rejected.jsonl" in message
        assert "was not written" in message
    assert len(work.rejected()) == 1
    assert work.run(good, good[:1]) == 0
    assert work.rejected() == [], "the list of an earlier run is gone"


def test_what_only_encoding_finds_out_is_rejected_late(work: Work, codec: FakeCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    good = work.clips([1.0] * 4)
    import soundfile

    soundfile.write(work.folder / "silent.wav", np.zeros(16000), 16000)
    silent = {"path": "silent.wav", "text": "Nothing."}
    load = audio.load

    def load_or_fail(path: Path, **more: Any) -> np.ndarray:
        if path.name == "3.wav":
            raise audio.AudioError(f"{path}: cut off")
        return load(path, **more)

    monkeypatch.setattr(encoding.audio, "load", load_or_fail)
    assert work.run([*good, silent], good[:1]) == 1
    assert not work.output.exists()
    assert Path(f"{work.output}.parts").exists(), "what was encoded is kept"
    encoded = codec.num_encoded
    assert work.run([*good, silent], good[:1], "--max_rejected", "40%") == 0
    assert codec.num_encoded == encoded + 1, "only the silent clip is tried again (the other cannot be loaded)"
    assert {(row["where"].split()[-1], row["reason"].split(": ")[-1].split(",")[0]) for row in work.rejected()} == {
        ("4", "cut off"),
        ("5", "a frame of its codes is all zero"),
    }
    assert len(work.store().splits["train"]) == 3
    monkeypatch.undo()
    monkeypatch.setattr(codecs, "open_codec", lambda *args, **kwargs: codec)
    assert work.run(good, good[:1]) == 0
    assert len(work.store().splits["train"]) == 4, "a file that can be read again is in again"


def test_no_split_may_be_left_empty(work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [{"path": "none.wav", "text": "None."}]
    assert work.run(work.clips([1.0]), bad, "--max_rejected", "100%") == 2
    assert "no val clip is left" in capsys.readouterr().err
    assert work.run(bad, None, "--max_rejected", "100%") == 2
    assert "no train clip is left" in capsys.readouterr().err
    assert not work.output.exists()


# What is encoded again


def changed(work: Work, codec: FakeCodec, train: list[Json], *more: str) -> int:
    """Run again and return how many clips went through the codec."""
    before = codec.num_encoded
    assert work.run(train, train[:1], *more) == 0
    return codec.num_encoded - before


def test_only_what_is_new_is_encoded(work: Work, codec: FakeCodec) -> None:
    rows = work.clips([1.0, 1.1, 1.2, 1.3])
    assert changed(work, codec, rows) == 4
    first = work.store()
    assert changed(work, codec, rows) == 0
    assert work.store().info == first.info
    assert changed(work, codec, rows[::-1]) == 0
    assert work.store().splits["train"].ids == first.splits["train"].ids[::-1]
    np.testing.assert_array_equal(work.store().splits["train"].codes(0), first.splits["train"].codes(3))
    rows[1]["text"] = "Another transcript."
    assert changed(work, codec, rows) == 0
    assert work.store().splits["train"].clip(1).text == "Another transcript."
    assert work.store().info.content_fingerprint != first.info.content_fingerprint
    assert changed(work, codec, rows + work.clips([0.9], first=4)) == 1
    assert changed(work, codec, [{**rows[0], "end": 0.8}, *rows[1:]]) == 1
    write_wave(work.folder / "audio/2.wav", 1.2, seed=77)
    assert changed(work, codec, rows) == 2, "the changed file, and the first clip at its old length"
    shutil.copy(work.folder / "audio/2.wav", work.folder / "copy.wav")
    assert changed(work, codec, [*rows, {"path": "copy.wav", "text": "The same sound."}]) == 0
    assert changed(work, codec, rows, "--omit_speaker_id") == 0
    assert changed(work, codec, rows, "--channel", "left") == 4
    codec.version = "2"
    assert changed(work, codec, rows) == 4


def test_the_same_audio_is_encoded_once_and_repeats_are_flagged(work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = work.clips([1.0])
    other = {**row, "text": "Other words."}
    assert work.run([row, other, row, {**row, "speaker": 2}], [row]) == 0
    assert codec.num_encoded == 1
    split = work.store().splits["train"]
    assert [split.clip(i).flags for i in range(4)] == [0, 0, DUPLICATE, 0]
    assert len(set(split.ids)) == 1
    assert work.report()["splits"]["train"]["duplicates"] == 1
    out = capsys.readouterr().out
    assert "1 clips repeat an earlier one" in out
    assert "1 validation clips are training clips, too" in out


def test_without_speakers_in_the_text(work: Work, codec: FakeCodec) -> None:
    rows = work.clips([1.0], speaker=5) + work.clips([1.0], first=1)
    assert work.run(rows, rows[:1], "--omit_speaker_id", "--default_speaker", "x") == 0
    store = work.store()
    assert store.info.template == "{text}"
    np.testing.assert_array_equal(
        store.splits["train"].text_tokens(0), open_tokenizer("auto", codec="melrvq").encode(rows[0]["text"], None)
    )
    assert [store.splits["train"].clip(i).speaker for i in range(2)] == ["5", "x"], "who speaks is known all the same"


# Interrupted runs


@pytest.mark.parametrize("stop_at", [1, 2, 4, 6])
def test_an_interrupted_run_goes_on_with_the_same_groups(
    work: Work, codec: FakeCodec, stop_at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([0.5 + 0.05 * i for i in range(18)])
    flags = ("--batch_sec", "3", "--save_every", "5")
    assert work.run(rows, rows[:2], *flags) == 0
    calm, calm_batches = work.store(), codec.batches
    work.output.unlink()

    def interrupt(number: int) -> None:
        if number == stop_at:
            raise KeyboardInterrupt

    codec.batches, codec.on_batch = [], interrupt
    assert work.run(rows, rows[:2], *flags) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not work.output.exists()
    interrupted, codec.batches, codec.on_batch = codec.batches, [], lambda number: None
    assert work.run(rows, rows[:2], *flags) == 0
    assert work.store().info == calm.info
    assert {tuple(b) for b in [*interrupted, *codec.batches]} == {tuple(b) for b in calm_batches}
    lost = Counter(n for b in codec.batches for n in b) + Counter(n for b in interrupted[:-1] for n in b)
    assert lost.total() <= 18 + 5 + max(map(len, calm_batches)), "at most one part is encoded twice"


class Death(BaseException):
    """Nothing in the program catches this."""


def test_death_before_any_write_to_disk_costs_no_content(work: Work, codec: FakeCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = work.clips([0.5 + 0.1 * i for i in range(5)])
    flags = ("--batch_sec", "1", "--save_every", "2")
    assert work.run(rows, rows[:1], *flags) == 0
    calm = work.store().info
    fsync, deaths = files.fsync, 0
    for fatal in range(1, 100):
        shutil.rmtree(f"{work.output}.parts", ignore_errors=True)
        work.output.unlink()
        calls = 0

        def die(path: Path, fatal: int = fatal) -> None:
            nonlocal calls
            calls += 1
            if calls == fatal:
                raise Death
            fsync(path)

        for module in (files, store_module):
            monkeypatch.setattr(module, "fsync", die)
        try:
            assert work.run(rows, rows[:1], *flags) == 0
            break
        except Death:
            deaths += 1
        for module in (files, store_module):
            monkeypatch.setattr(module, "fsync", fsync)
        assert not work.output.exists() or work.store().info == calm
        assert work.run(rows, rows[:1], *flags) == 0
        assert work.store().info == calm
        assert not Path(f"{work.output}.parts").exists()
    assert deaths > 8


def test_rows_may_change_while_a_run_is_interrupted(work: Work, codec: FakeCodec) -> None:
    rows = work.clips([0.5 + 0.1 * i for i in range(10)])

    def interrupt(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    codec.on_batch = interrupt
    assert work.run(rows, rows[:1], "--batch_sec", "2", "--save_every", "1") == 130
    codec.batches, codec.on_batch = [], lambda number: None
    kept = sum(len(load_file(part)) for part in Path(f"{work.output}.parts").glob("part_*"))
    assert kept > 0
    rows = rows[:8] + work.clips([0.77, 0.78], first=20)
    assert work.run(rows, rows[:1], "--batch_sec", "2") == 0
    assert codec.num_encoded == 10 - kept
    assert len(work.store().splits["train"]) == 10


def test_a_damaged_part_is_encoded_again(work: Work, codec: FakeCodec) -> None:
    rows = work.clips([1.0, 1.1])

    def interrupt(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    codec.on_batch = interrupt
    assert work.run(rows, rows[:1], "--batch_sec", "1", "--save_every", "1") == 130
    (part,) = Path(f"{work.output}.parts").glob("part_*")
    os.truncate(part, part.stat().st_size // 2)
    codec.batches, codec.on_batch = [], lambda number: None
    assert work.run(rows, rows[:1]) == 0
    assert codec.num_encoded == 2
    assert len(work.store().splits["train"]) == 2


def test_two_runs_do_not_write_the_same_file(work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str]) -> None:
    rows = work.clips([1.0])
    with (work.folder / ".tokens.hdf5.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert work.run(rows, rows) == 2
        assert "another pretokenize.py is writing it" in capsys.readouterr().err
    assert work.run(rows, rows) == 0


def test_what_is_no_token_file_of_ours_is_not_overwritten(work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str]) -> None:
    import h5py

    rows = work.clips([1.0])
    with h5py.File(work.output, "w") as file:
        for name in ("audio", "text", "length"):
            file[f"train/{name}"] = np.zeros(0, np.int32)
    for content in (work.output.read_bytes(), b"path,text\n"):
        work.output.write_bytes(content)
        assert work.run(rows, rows) == 2
        assert "is not overwritten" in capsys.readouterr().err
        assert work.output.read_bytes() == content
    work.output.unlink()
    assert work.run(rows, rows) == 0
    with h5py.File(work.output, "r+") as file:
        file["train/codes"][0, 0] ^= 1
    assert work.run(rows, rows) == 2
    assert "bytes have changed" in capsys.readouterr().err, "codes that rotted on disk are not taken over"


# The fitted codec


def test_a_fitted_codec_is_kept_until_it_is_fitted_again(work: Work) -> None:
    from csm_ft.codecs import from_store

    rows = work.clips([3.0] * 8)
    flags = ("--fit_codec", "--num_codebooks", "2")
    assert work.run(rows[:7], rows[7:], *flags) == 0
    store = work.store()
    assert (store.info.codec_source, store.info.num_codebooks) == ("fitted", 2)
    assert from_store(store).fingerprint == store.info.codec_fingerprint
    more = rows[:7] + work.clips([3.0], first=8)
    assert work.run(more, rows[7:], *flags) == 0
    assert work.store().info.codec_fingerprint == store.info.codec_fingerprint, "new rows do not refit it"
    assert work.report()["encoded_now"] == 1
    assert work.run(more, rows[7:], *flags, "--refit_codec") == 0
    assert work.store().info.codec_fingerprint != store.info.codec_fingerprint
    assert work.report()["encoded_now"] == 9
    assert work.run(more, rows[7:], "--fit_codec", "--num_codebooks", "3") == 0
    assert work.store().info.num_codebooks == 3


def test_a_codec_fitted_by_a_run_that_was_killed_is_used_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    from csm_ft.codecs import melrvq

    rows = work.clips([3.0] * 8)
    encode, calls = melrvq.MelRVQ.encode, []

    def interrupted(self: melrvq.MelRVQ, waves: Any) -> Any:
        calls.append(len(waves))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, waves)

    monkeypatch.setattr(melrvq.MelRVQ, "encode", interrupted)
    flags = ("--fit_codec", "--num_codebooks", "2", "--batch_sec", "6", "--save_every", "2")
    assert work.run(rows[:7], rows[7:], *flags) == 130
    kept = hashlib.sha256((Path(f"{work.output}.parts") / "codec.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(melrvq, "fit", lambda *args, **more: pytest.fail("fitted again"))
    assert work.run(rows[:7], rows[7:], *flags) == 0
    assert hashlib.sha256(work.store().asset("codec") or b"").hexdigest() == kept


# Held-out clips


def make_spans(files: list[int]) -> list[Span]:
    """Spans of the given numbers per file."""
    spans = []
    for number, count in enumerate(files):
        row = Row(f"row {number}", Path(f"{number}.wav"), "Text.", None, None, None)
        spans += [Span(row, f"digest-{number}", f"{number}-{i}", 0.0, 1.0, 12, "", np.zeros(1, np.uint32)) for i in range(count)]
    return spans


@settings(max_examples=80, deadline=None)
@given(files=st.lists(st.integers(1, 9), min_size=2, max_size=12), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_held_out_files_are_whole_and_neither_side_is_empty(files: list[int], fraction: float, seed: int) -> None:
    spans = make_spans(files)
    train, val = hold_out(spans, fraction, seed)
    assert train
    assert val
    assert sorted(s.key for s in train + val) == sorted(s.key for s in spans)
    assert not {s.file_digest for s in train} & {s.file_digest for s in val}
    assert len(val) <= max(fraction * len(spans), min(files))
    assert [s.key for s in train] == [s.key for s in spans if s in train], "the order of the metadata stays"
    order = spans[::-1]
    assert {s.key for s in hold_out(order, fraction, seed)[1]} == {s.key for s in val}, "the choice does not hang on the order of rows"


def test_held_out_clips_are_near_the_fraction_and_follow_the_seed() -> None:
    spans = make_spans([1] * 200)
    held = {seed: {s.key for s in hold_out(spans, 0.05, seed)[1]} for seed in range(3)}
    assert {len(keys) for keys in held.values()} == {10}
    assert held[0] != held[1] != held[2]
    grown = {s.key for s in hold_out(make_spans([1] * 240), 0.05, 0)[1]}
    assert len(grown) == 12
    assert len(grown & held[0]) >= 7, "new rows move few others"
    with pytest.raises(ConfigError, match=r"give --val_data, or cut the file"):
        hold_out(make_spans([5]), 0.2, 0)


def test_without_val_data_a_part_is_held_out_of_the_usable_rows(work: Work, codec: FakeCodec) -> None:
    rows = work.clips([1.0] * 10)
    missing = [{"path": f"none{i}.wav", "text": "None."} for i in range(10)]
    assert work.run([*rows, *missing], None, "--max_rejected", "60%", "--val_fraction", "0.2") == 0
    store = work.store()
    assert (len(store.splits["train"]), len(store.splits["val"])) == (8, 2)
    assert work.run([*rows, *missing], None, "--max_rejected", "60%", "--val_fraction", "0.2", "--seed", "1") == 0
    assert set(work.store().splits["val"].ids) != set(store.splits["val"].ids)
    assert work.report()["encoded_now"] == 0
    assert work.run(work.clips([1.0]), None) == 2


# Options


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--val_fraction", "1"), "val_fraction 1.0 is not between 0 and 1"),
        (("--max_rejected", "many"), "write 5% or 0.05"),
        (("--max_rejected", "120%"), "not between 0 and 100%"),
        (("--num_workers", "0"), "num_workers 0 is not above 0"),
        (("--refit_codec",), "goes with --fit_codec"),
        (("--codec", "mimi", "--fit_codec"), "add --codec melrvq"),
        (("--codec", "vorbis"), "vorbis"),
        (("--trian_data", "x"), "did you mean"),
        (("--device", "cuda"), "sees no GPU"),
        (("--channel", "middle"), "middle"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = work.clips([1.0])
    assert work.run(rows, rows, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert pretokenize.main([]) == 2
    assert "--train_data is missing" in capsys.readouterr().err


def test_shares_may_be_written_in_two_ways() -> None:
    shares = {
        text: PretokenizeConfig(train_data="x", max_rejected=text).max_rejected_share for text in ("5%", "0.05", "0", "100%", "12.5 %")
    }
    assert shares == {"5%": 0.05, "0.05": 0.05, "0": 0.0, "100%": 1.0, "12.5 %": 0.125}


def test_the_report_tells_what_is_in_the_file(work: Work, codec: FakeCodec, capsys: pytest.CaptureFixture[str]) -> None:
    rows = work.clips([1.0, 2.0, 3.0])
    assert work.run(rows, rows[:1]) == 0
    report = work.report()
    assert report["splits"]["train"]["seconds"] == pytest.approx(6.0)
    assert report["splits"]["train"]["frames"] == 13 + 25 + 38
    assert report["splits"]["val"]["speakers"] == {"999": 1}
    assert (report["encoded_now"], report["rejected"], report["codec"]) == (3, 0, "melrvq")
    assert report["times_real_time"] > 0
    out = capsys.readouterr().out
    assert "3 clips encoded now" in out
    assert "times real time" in out
    assert [line.split()[:3] for line in out.splitlines() if "##" in line] == [["1-2", "s", "2"], ["2-4", "s", "2"]]

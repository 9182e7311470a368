"""Recordings with segment times to training instances: pretokenize.py, arrange, train.py."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import pretokenize
import train
from csm_ft.data.split import Split
from csm_ft.errors import ConfigError
from csm_ft.families.moonshine.arrange import arrange
from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.data import collate
from csm_ft.families.moonshine.encoder import MoonshineEncoder
from tests.helpers.pretokenizing import Json, Work, write_wave

RATE_HZ = 16000
STRETCHES = ("--stretch_gap_sec", "2")
PAPER = MoonshineConfig(instance_min_sec=4, instance_max_sec=30, max_gap_sec=2)
SMALL = "--train_from_scratch --model_dim 16 --model_ffn_dim 16 --model_heads 2".split()
SMALL += "--model_encoder_layers 1 --model_decoder_layers 1 --max_steps 2 --wandb off".split()
SMALL += "--device cpu --gen_every 0 --val_wer_clips 0".split()


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work = Work(tmp_path)
    work.flags = ["--family", "moonshine", "--fit_tokenizer", "300"]
    return work


def recording(work: Work, name: str, times: list[tuple[float, float]], **more: Any) -> list[Json]:
    """Write a recording that is as long as its segments, and return their rows."""
    write_wave(work.folder / f"{name}.wav", times[-1][1] + 1, seed=len(name))
    return [
        {"path": f"{name}.wav", "text": f"{name} says {i}", "start": start, "end": end, **more}
        for i, (start, end) in enumerate(times)
    ]


def random_times(seed: int) -> list[tuple[float, float]]:
    random = np.random.default_rng(seed)
    gaps, lengths = random.exponential(1.0, 60), random.uniform(0.5, 9, 60)
    starts = np.cumsum(gaps + np.concatenate([[0], lengths[:-1]]))
    return [(round(a, 3), round(a + n, 3)) for a, n in zip(starts, lengths, strict=True)]


def val_rows(work: Work) -> list[Json]:
    return recording(work, "val", [(0.0, 2.0), (2.5, 4.0)])


def instances(work: Work, config: MoonshineConfig) -> list[tuple[np.ndarray, str]]:
    """Return samples and text of all instances, as the training loop gets them."""
    store = work.store()
    examples = arrange(store.splits["train"], config, evaluate=False)
    tokenizer = MoonshineEncoder.from_store(store).tokenizer
    found = []
    for index in range(len(examples)):
        batch = collate(examples, [index], MoonshineConfig(), draw=None)
        sound = (batch.samples.numpy() * 32768).astype(np.int16)
        sound = sound[: round(batch.audio_sec * RATE_HZ)]
        assert batch.targets[-1] == 2
        assert (batch.targets[:-1] != 2).all()
        assert batch.num_positions == examples.costs[index]
        found.append((sound, tokenizer.decode(batch.targets[:-1].tolist())))
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_instances_are_cut_from_first_start_to_last_end(work: Work, seed: int) -> None:
    times = random_times(seed)
    assert work.run(recording(work, "talk", times), val_rows(work), *STRETCHES) == 0
    whole, _ = soundfile.read(work.folder / "talk.wav", dtype="int16")
    seen: list[int] = []
    for sound, text in instances(work, PAPER):
        rows = [int(word) for word in text.split() if word.isdigit()]
        assert text == " ".join(f"talk says {row}" for row in rows)
        assert rows == list(range(rows[0], rows[-1] + 1))
        start, stop = (round(sec * RATE_HZ) for sec in (times[rows[0]][0], times[rows[-1]][1]))
        assert np.array_equal(sound, whole[start:stop])
        assert 4 <= len(sound) / RATE_HZ <= 30
        assert all(times[b][0] - times[a][1] <= 2.001 for a, b in pairwise(rows))
        seen += rows
    assert len(seen) == len(set(seen))
    assert len(seen) > 50  # few are left out


def test_instances_end_at_speakers_gaps_and_rejected_rows(work: Work) -> None:
    times = [(0.0, 2.0), (2.5, 4.0), (4.0, 6.0), (6.5, 7.0), (7.5, 9.0), (9.0, 10.0), (13.0, 15.0)]
    rows = recording(work, "talk", times, speaker="ann")
    rows[2]["speaker"] = rows[4]["speaker"] = "bob"
    rows[3]["text"] = ""  # rejected
    assert work.run(rows, val_rows(work), *STRETCHES, "--max_rejected", "50%") == 0
    joined = MoonshineConfig(instance_max_sec=30)
    assert [text for _, text in instances(work, joined)] == [
        "talk says 0 talk says 1",
        "talk says 2",
        "talk says 4",
        "talk says 5",
        "talk says 6",
    ]
    short = MoonshineConfig(instance_max_sec=2.2, instance_min_sec=1.6)
    assert [text for _, text in instances(work, short)] == [
        "talk says 0",
        "talk says 2",
        "talk says 6",
    ]


def test_rows_of_both_splits_are_not_joined_across_each_other(work: Work) -> None:
    rows = recording(work, "talk", [(0.0, 2.0), (2.0, 3.0), (3.0, 5.0)])
    assert work.run([rows[0], rows[2]], [rows[1]], *STRETCHES) == 0
    assert len(work.store().splits["train"]) == 2


def test_validation_and_clips_by_themselves_are_as_without_stretches(work: Work) -> None:
    rows = recording(work, "talk", random_times(3)[:12])
    assert work.run(rows, val_rows(work)) == 0
    plain = work.store()
    assert list(plain.info.arrays) == ["samples", "text_tokens"]
    assert "stretch_gap_sec" not in plain.info.facts
    expected = [sound for sound, _ in instances(work, MoonshineConfig())]
    assert work.run(rows, val_rows(work), *STRETCHES) == 0
    store = work.store()
    assert store.splits["val"].ids == plain.splits["val"].ids
    assert all(map(np.array_equal, samples(store.splits["val"]), samples(plain.splits["val"])))
    found = [sound for sound, _ in instances(work, MoonshineConfig())]
    assert all(map(np.array_equal, found, expected))


def samples(split: Split) -> list[np.ndarray]:
    return [split.array("samples", row) for row in range(len(split))]


def test_segments_without_speech_end_stretches_only_where_they_are(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in GigaSpeech, whose recordings all have some."""
    texts = ["ONE", "TWO <PERIOD>", "<MUSIC>", "THREE", "FOUR"]
    segments = [
        {"sid": f"S{n}", "begin_time": 2 * n, "end_time": 2 * n + 1.5, "text_tn": text}
        for n, text in enumerate(texts)
    ]
    folder = work.folder / "GigaSpeech"
    (folder / "audio").mkdir(parents=True)
    write_wave(folder / "audio/POD1.wav", 12, seed=0)
    audios = [{"aid": "POD1", "path": "audio/POD1.opus", "segments": segments}]
    (folder / "GigaSpeech.json").write_text(json.dumps({"audios": audios}))
    val = work.folder / "val.json"
    val.write_text(json.dumps(val_rows(work)))
    argv = ["--train_data", str(folder), "--val_data", str(val), "--output", str(work.output)]
    argv += [*work.flags, *STRETCHES, "--max_rejected", "50%"]
    assert pretokenize.main(argv) == 0
    assert "4 training rows are in 2 stretches" in capsys.readouterr().out
    joined = [text for _, text in instances(work, MoonshineConfig(instance_max_sec=30))]
    assert joined == ["ONE TWO.", "THREE FOUR"]


def test_another_gap_encodes_only_what_changes(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = recording(work, "a", [(0.0, 2.0), (2.5, 4.0)]) + recording(
        work, "bb", [(0, 2), (3.5, 5)]
    )
    assert work.run(rows, val_rows(work), *STRETCHES) == 0
    capsys.readouterr()
    assert work.run(rows, val_rows(work), "--stretch_gap_sec", "1") == 0
    assert "2 clips encoded now" in capsys.readouterr().out  # the two halves of bb


def test_files_of_a_conversation_are_joined_without_a_gap(work: Work) -> None:
    rows = work.clips([1.0, 2.0, 1.5], conversation="chapter 1", speaker="ann")
    assert work.run(rows, work.clips([1.0], first=7)) == 0
    ((sound, text),) = instances(work, PAPER)
    files = [soundfile.read(work.folder / row["path"], dtype="int16")[0] for row in rows]
    assert np.array_equal(sound, np.concatenate(files))
    assert text == " ".join(row["text"] for row in rows)


def test_training_takes_instances_and_tells_what_it_leaves_out(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = recording(work, "talk", [(0.0, 2.0), (2.5, 6.0), (9.0, 10.0), (20.0, 60.0)])
    assert work.run(rows, val_rows(work), *STRETCHES) == 0
    assert "rows       4 in 3 stretches" in capsys.readouterr().out
    argv = ["--data", str(work.output), *SMALL, "--output_dir", str(work.folder / "run")]
    argv += ["--instance_min_sec", "4", "--instance_max_sec", "30"]
    assert train.main(argv) == 0
    log = " ".join((work.folder / "run/log.txt").read_text().split())
    assert "1 instances of 6.0-6.0 s (median 6.0) from 2 rows" in log
    assert "left out as too short: 1 instances" in log
    assert "talk.wav 9.00-10.00 s" in log
    assert "left out as too long: 1 instances" in log


@pytest.mark.parametrize(
    ("stretches", "options", "message"),
    [
        ((), ["--instance_max_sec", "30"], "pretokenise again with --stretch_gap_sec 2"),
        (STRETCHES, ["--instance_max_sec", "30", "--max_gap_sec", "3"], "give --max_gap_sec 2"),
        (STRETCHES, ["--instance_min_sec", "50"], "no train example has instance_min_sec 50"),
        (STRETCHES, ["--instance_max_sec", "3", "--instance_min_sec", "4"], "swap them"),
    ],
)
def test_instances_that_cannot_be_made_name_the_way_out(
    work: Work,
    capsys: pytest.CaptureFixture[str],
    stretches: tuple[str, ...],
    options: list[str],
    message: str,
) -> None:
    assert work.run(recording(work, "talk", [(0, 2), (3, 4)]), val_rows(work), *stretches) == 0
    argv = ["--data", str(work.output), *SMALL, "--output_dir", str(work.folder / "run")]
    assert train.main([*argv, *options]) == 2
    assert message in capsys.readouterr().err


def test_no_example_is_a_config_error(work: Work) -> None:
    assert work.run(recording(work, "talk", [(0, 2), (3, 4)]), val_rows(work), *STRETCHES) == 0
    with pytest.raises(ConfigError, match="allow these"):
        arrange(
            work.store().splits["train"],
            MoonshineConfig(instance_min_sec=9, instance_max_sec=10),
            evaluate=False,
        )

"""Shares of the clips, encoded by themselves and merged."""

from pathlib import Path

import pytest

from csm_ft.config.shard import Shard
from csm_ft.pretokenize.shards import find_shards
from tests.helpers.pretokenizing import FakeEncoder, Json, Work

SECONDS = [0.5 + 0.05 * (7 * i % 19) for i in range(19)]


def share(work: Work, rows: list[Json], name: str, *more: str) -> int:
    return work.run(rows, None, "--val_fraction", "0.2", "--shard", name, *more)


def merge(work: Work, rows: list[Json], *more: str) -> int:
    return work.run(rows, None, "--val_fraction", "0.2", *more)


def folder(work: Work, name: str) -> Path:
    return Path(f"{work.output}.{name.replace('/', '-of-')}.parts")


@pytest.fixture
def rows(work: Work, encoder: FakeEncoder) -> list[Json]:
    return work.clips(SECONDS)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shares_merge_to_what_one_process_writes(
    work: Work, encoder: FakeEncoder, rows: list[Json], order: tuple[int, ...]
) -> None:
    assert merge(work, rows) == 0
    calm = work.store()
    work.output.unlink()
    encoder.batches = []
    for number in order:
        assert share(work, rows[::-1] if number == 2 else rows, f"{number}/3") == 0
        assert not work.output.exists()
    assert sorted(n for batch in encoder.batches for n in batch) == sorted(
        round(16000 * sec) for sec in SECONDS
    ), "each clip once"
    encoder.batches = []
    assert merge(work, rows) == 0
    assert encoder.batches == [], "nothing is encoded again"
    merged = work.store()
    assert merged.info == calm.info
    for name, split in merged.splits.items():
        assert [split.clip(i) for i in range(len(split))] == [
            calm.splits[name].clip(i) for i in range(len(split))
        ]
    assert find_shards(work.output) == {}, "the shares are removed"


def test_shares_are_equally_long(work: Work, encoder: FakeEncoder, rows: list[Json]) -> None:
    lengths = []
    for number in (1, 2, 3):
        encoder.batches = []
        assert share(work, rows, f"{number}/3") == 0
        lengths.append(sum(map(sum, encoder.batches)) / 16000)
    assert max(lengths) - min(lengths) <= max(SECONDS), "a clip at most"


@pytest.mark.parametrize("missing", [1, 3])
def test_missing_share_is_named(
    work: Work, rows: list[Json], missing: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in {1, 2, 3} - {missing}:
        assert share(work, rows, f"{number}/3") == 0
    capsys.readouterr()
    assert merge(work, rows) == 2
    error = capsys.readouterr().err
    assert f"--shard {missing}/3 is missing" in error
    assert all(f"--shard {n}/3" not in error for n in {1, 2, 3} - {missing})
    assert not work.output.exists()
    assert share(work, rows, f"{missing}/3") == 0
    assert merge(work, rows) == 0


def test_interrupted_share_is_named_and_resumes(
    work: Work, encoder: FakeEncoder, rows: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    encoder.on_batch = interrupt
    flags = ("--batch_sec", "1", "--save_every", "1")
    assert share(work, rows, "1/2", *flags) == 130
    encoder.on_batch, encoder.batches = lambda number: None, []
    assert share(work, rows, "2/2", *flags) == 0
    capsys.readouterr()
    assert merge(work, rows) == 2
    assert "--shard 1/2 is not finished" in capsys.readouterr().err
    encoder.batches = []
    assert share(work, rows, "1/2", *flags) == 0
    assert 0 < encoder.num_encoded <= 10 - 2
    assert merge(work, rows) == 0


def test_share_of_other_rows_is_named(
    work: Work, rows: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    assert share(work, rows[:-1], "1/2") == 0
    assert share(work, rows, "2/2") == 0
    capsys.readouterr()
    assert merge(work, rows) == 2
    error = capsys.readouterr().err
    assert "--shard 1/2 is of other rows, sounds or options" in error
    assert "--shard 2/2" not in error
    assert share(work, rows, "1/2") == 0
    assert merge(work, rows) == 0


def test_shares_of_two_counts_are_refused(
    work: Work, rows: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    assert share(work, rows, "1/2") == share(work, rows, "1/3") == 0
    capsys.readouterr()
    assert merge(work, rows) == 2
    assert "shares of 2 and of 3 parts" in capsys.readouterr().err


def test_more_shares_than_clips(work: Work, encoder: FakeEncoder) -> None:
    rows = work.clips([1.0, 1.1])
    for number in (1, 2, 3):
        assert work.run(rows, rows[:1], "--shard", f"{number}/3") == 0
    assert work.run(rows, rows[:1]) == 0
    assert encoder.num_encoded == 2


def test_only_what_is_new_is_shared(work: Work, encoder: FakeEncoder, rows: list[Json]) -> None:
    assert work.run(rows[:10], rows[:2]) == 0
    encoder.batches = []
    for number in (1, 2):
        assert work.run(rows, rows[:2], "--shard", f"{number}/2") == 0
    assert encoder.num_encoded == 9
    assert work.run(rows, rows[:2]) == 0
    assert len(work.store().splits["train"]) == 19


def test_rows_that_cannot_be_encoded_are_rejected_as_ever(
    work: Work, encoder: FakeEncoder, rows: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    audio = work.folder / "audio/3.wav"
    audio.write_bytes(audio.read_bytes()[:44] + bytes(len(audio.read_bytes()) - 44))
    for number in (1, 2):
        assert share(work, rows, f"{number}/2", "--max_rejected", "10%") == 0
    assert "a frame is silent" in capsys.readouterr().out
    assert merge(work, rows, "--max_rejected", "10%") == 0
    assert [row["reason"] for row in work.rejected()] == [
        "a frame is silent; cut the clip differently"
    ]


def test_shares_take_a_fitted_encoder_from_the_token_file(
    work: Work, encoder: FakeEncoder, rows: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    encoder.fit_sec = 5.0
    assert share(work, rows, "1/2") == 2
    assert "every machine would fit an encoder of its own" in capsys.readouterr().err
    assert work.run(rows[:5], rows[:2]) == 0
    for number in (1, 2):
        assert work.run(rows, rows[:2], "--shard", f"{number}/2") == 0
    assert work.run(rows, rows[:2]) == 0
    assert len(encoder.fitted_on) == 1


@pytest.mark.parametrize("name", ["0/2", "3/2", "2", "a/b"])
def test_share_is_i_of_n(
    work: Work, encoder: FakeEncoder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert work.run([], None, "--shard", name) == 2
    assert "give i/n" in capsys.readouterr().err


def test_folders_of_shares_are_found(tmp_path: Path) -> None:
    for name in ("a.hdf5.10-of-12.parts", "a.hdf5.2-of-12.parts", "a.hdf5.parts", "b.1-of-2.parts"):
        (tmp_path / name).mkdir()
    assert list(find_shards(tmp_path / "a.hdf5")) == [Shard(2, 12), Shard(10, 12)]
    assert find_shards(tmp_path / "b.hdf5") == {}

"""What train.py shows in W&B, over a crash and a resume, beside what its folder holds."""

from collections import Counter
from pathlib import Path

import pytest
import soundfile

import train
from tests.helpers.wandb_files import offline_runs
from tests.integration.test_train import Killed, Killer, config_of, options, rows


def test_samples_survive_a_crash_and_a_resume(tokens: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    schedule = "--max_steps 8 --save_every 3 --log_every 1 --val_every 0 --gen_every 4"
    argv = options(tokens, run, *schedule.split(), "--gen_max_sec", "0.5", "--wandb", "offline")
    with pytest.raises(Killed):
        train.run(config_of(argv), Killer(5))  # it has sampled at step 4, and saved at step 3
    assert train.run(config_of(argv)).status == "completed"
    first, second = offline_runs(run)
    assert second.config["resumed_at_step"] == 3
    assert second.config["part_of"] == first.id
    prompts = {row["prompt"] for row in rows(run, "sample")}
    assert len(prompts) == 2
    table = second.rows("samples")
    assert Counter(row["step"] for row in table) == {0: 2, 4: 2, 8: 2}
    for row in table:
        heard_sec = soundfile.info(row["recording"]).duration
        assert row["duration_sec"] == pytest.approx(heard_sec)
    for part in (first, second):
        real = part.rows("references")
        assert {row["sentence"] for row in real} == {row["sentence"] for row in table}
        assert all(row["recording"].is_file() for row in real)
    assert second.summary["status"] == "completed"

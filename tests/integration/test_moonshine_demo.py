"""The Moonshine demo: a base learns a voice that it never heard, and keeps the old ones."""

import json
from pathlib import Path

import pytest

import pretokenize
import train
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("demo")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name in ("", "_old"):
            found[name] = folder / f"tokens{name}.hdf5"
            config = ["--config", f"configs/demo/moonshine_pretokenize{name}.yaml"]
            assert pretokenize.main([*config, "--output", str(found[name])]) == 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_new_voice_is_learned_and_old_ones_are_kept(
    tokens: dict[str, Path], seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default settings of `make demo-moonshine`, its trial 0."""
    monkeypatch.chdir(ROOT)
    run = tmp_path / "run"
    argv = ["--config", "configs/demo/moonshine_train.yaml", "--output_dir", str(run)]
    argv += ["--data", str(tokens[""]), "--replay", f"{tokens['_old']}:0.5"]
    argv += ["--canary", str(tokens["_old"]), "--seed", str(seed), "--wandb", "off"]
    argv += ["--gen_every", "0", "--device", "cpu", "--threads", "1"]
    assert train.main(argv) == 0
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [row for row in metrics if row["kind"] == "val"]
    first, best = scores[0], min(scores, key=lambda row: row["val_wer"])
    for row in (first, best):
        print(f"step {row['step']}: {row['val_wer']:.3f} new, {row['val_canary_wer']:.3f} old")
    assert best["val_wer"] <= first["val_wer"] * 2 / 3
    assert best["val_canary_wer"] <= first["val_canary_wer"] + 0.03

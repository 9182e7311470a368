"""What the programs ask of the family before any weights are there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csm_ft.families.moonshine.family import HUB_NAME, MoonshineFamily


@pytest.mark.parametrize(
    ("tokenizer", "base"),
    [
        ("fitted", ""),
        (HUB_NAME, HUB_NAME),
        ("UsefulSensors/moonshine-streaming-tiny", "UsefulSensors/moonshine-streaming-tiny"),
        ("model", "model"),
        ("model/tokenizer.json", HUB_NAME),
        ("alone", HUB_NAME),
    ],
)
def test_base_is_the_model_of_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str, base: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("model/config.json", "model/tokenizer.json", "alone/tokenizer.json"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    store: Any = SimpleNamespace(info=SimpleNamespace(facts={"tokenizer": tokenizer}))
    assert MoonshineFamily().default_base(store) == base

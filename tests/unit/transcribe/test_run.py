"""What is said when recordings do not fit the memory."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from csm_ft.errors import MachineError
from csm_ft.families.base import SamplingOptions
from csm_ft.generate.run import Generator
from csm_ft.transcribe.config import TranscribeConfig
from csm_ft.transcribe.run import SAVES_MEMORY


def test_out_of_memory_names_options_of_this_program() -> None:
    def sample(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model: Any = SimpleNamespace(sample=sample)
    encoder: Any = None
    generator = Generator(model, encoder, "run", "cpu", "fp32", saves_memory=SAVES_MEMORY)
    with pytest.raises(
        MachineError, match=r"out of memory on cpu .* a smaller --batch_sec"
    ) as found:
        generator.sample([], SamplingOptions())
    assert "--batch_size" not in str(found.value)
    assert {"batch_sec", "device"} <= TranscribeConfig.model_fields.keys()

"""Settings of torch during a run."""

import pytest
import torch

from csm_ft.device import reproducible


def flushes_denormals() -> bool:
    return float(torch.tensor(1e-38) / 10) == 0


@pytest.mark.parametrize("before", [True, False])
def test_denormals_are_as_before_a_run(before: bool) -> None:
    torch.set_flush_denormal(before)
    try:
        with reproducible("cpu", 1, 0):
            assert flushes_denormals()
        assert flushes_denormals() is before
    finally:
        torch.set_flush_denormal(False)

"""Two ranks under torchrun: sharded blocks, compiled, have the losses of those that are not."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.utils import counters

from csm_ft.families.model import SpeechModel
from csm_ft.training.compiling import compile_blocks
from csm_ft.training.parallel import TorchRanks

WIDTH = 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Blocks(SpeechModel):
    block_classes = (Block,)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[Block() for _ in range(3)])

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": self.layers(batch).square().mean((1, 2))}


def losses(*, compiles: bool) -> list[float]:
    """Four steps on batches of unlike shapes."""

    def build(*, is_empty: bool) -> SpeechModel:
        torch.manual_seed(1)
        model = Blocks()
        if compiles:
            compile_blocks(model)
        return model

    ranks = TorchRanks("fsdp", "cpu")
    model = ranks.build(build)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = []
    for step in range(4):
        torch.manual_seed(10 * step + ranks.rank)
        optimizer.zero_grad()
        loss = model(torch.randn(2 + step, 3 + step, WIDTH))["loss"].sum()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


if __name__ == "__main__":
    dist.init_process_group("gloo")
    expected = losses(compiles=False)
    assert losses(compiles=True) == pytest.approx(expected, rel=1e-6)
    assert counters["stats"]["unique_graphs"] > 0
    assert expected[0] != pytest.approx(expected[-1], rel=1e-2), "they are trained"
    dist.destroy_process_group()

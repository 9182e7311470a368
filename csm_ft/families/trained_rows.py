"""Embedding tables of which only the rows that training reads are trained.

A token that is not in the training data has no gradient, so its embedding would not move. With the
rows of the others as a parameter of their own, the same training needs no gradient and no optimiser
state for it. Files keep the whole table under its own name.

Shapes: V tokens of the table, U of them trained, D width.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.families.model import SpeechModel


class TrainedRows(nn.Module):
    """An embedding table [V, D] whose rows `ids` [U] are a parameter of their own, `rows` [U, D].

    The table's own values of these rows are not read.
    """

    ids: Tensor
    places: Tensor  # [V] in `rows`, -1 = none

    def __init__(self, table: nn.Embedding, ids: Tensor) -> None:
        super().__init__()
        self.weight = table.weight.requires_grad_(False)
        rows = table.weight.detach().index_select(0, ids.to(table.weight.device))
        self.rows = nn.Parameter(rows)
        places = torch.full((table.num_embeddings,), -1, device="cpu")
        places[ids] = torch.arange(len(ids))
        # On the CPU, with values, even where the model is built on the meta device.
        self.register_buffer("ids", ids.cpu(), persistent=False)
        self.register_buffer("places", places, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[...] token ids -> [..., D]."""
        places = self.places[tokens]
        trained = F.embedding(places.clamp(min=0), self.rows)
        others = F.embedding(tokens, self.weight)
        return torch.where(places.unsqueeze(-1) >= 0, trained, others)


def split_tables(model: SpeechModel) -> None:
    """Give the rows that `model.read_rows` names a parameter of their own, in trained tables."""
    for name, ids in model.read_rows.items():
        table = model.get_submodule(name)
        if isinstance(table, nn.Embedding) and table.weight.requires_grad:
            model.set_submodule(name, TrainedRows(table, ids))


def split_tensors(model: SpeechModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tables of a file, by name, as the model has them: with the rows apart."""
    found = dict(tensors)
    for name, module in trained_tables(model):
        if f"{name}.weight" in found:
            found[f"{name}.rows"] = found[f"{name}.weight"].index_select(0, module.ids.cpu())
    return found


def join_tensors(model: SpeechModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the model, by name, with whole tables, as files keep them.

    The trained rows are written into the table in place, which nobody reads there.
    """
    found = dict(tensors)
    for name, module in trained_tables(model):
        rows, whole = found.pop(f"{name}.rows"), found[f"{name}.weight"].detach()
        whole.index_copy_(0, module.ids.to(whole.device), rows.detach().to(whole))
    return found


def trained_tables(model: SpeechModel) -> Iterator[tuple[str, TrainedRows]]:
    """Yield the tables of which some rows are trained, by name."""
    for name, module in model.named_modules():
        if isinstance(module, TrainedRows):
            yield name, module

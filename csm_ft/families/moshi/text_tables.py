"""New text embeddings for another tokenizer, as J-Moshi makes them, and tables of another size.

New rows are drawn from the distribution of the old ones, N(mean, 1e-5 * covariance), so that they
are typical and nearly equal; padding ids and the initial id keep theirs. The text head stays where
the number of ids does, and else is drawn in the same way.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from csm_ft.families.moshi.size import MoshiSize

_SHARE = 1e-5  # of the covariance
_TABLES = ("text_emb.weight", "depformer_text_emb.weight")
_HEAD = "text_linear.weight"


def renew(
    tensors: Mapping[str, Tensor], old: MoshiSize, new: MoshiSize, keep: Sequence[int], seed: int
) -> dict[str, Tensor]:
    """Return weights with new text embeddings for `new.text_card` ids.

    The ids `keep`, the paddings and the initial id have their old rows.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = sorted({*keep, new.text_padding_id, new.text_end_id})
    found = dict(tensors)
    for name in _TABLES:
        table = _drawn(tensors[name], new.text_card + 1, kept, generator)
        table[new.text_card] = tensors[name][old.text_card]
        found[name] = table
    if new.text_card != old.text_card:
        found[_HEAD] = _drawn(tensors[_HEAD], new.text_card, kept, generator)
    return found


def _drawn(table: Tensor, rows: int, kept: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return `rows` new rows of a table [V, D], with the old ones of the ids `kept`."""
    wide = table.double()
    values, vectors = torch.linalg.eigh(torch.cov(wide.T))
    root = vectors * (_SHARE * values.clamp(min=0)).sqrt()  # root @ root.T = the covariance
    noise = torch.randn(rows, table.shape[1], generator=generator, dtype=torch.float64)
    drawn = (wide.mean(dim=0) + noise @ root.T).to(table.dtype)
    drawn[list(kept)] = table[list(kept)]
    return drawn

"""Tables of which only the rows that training reads are trained: the same training as of all."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate, text_ids
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.trained_rows import (
    TrainedRows,
    join_tensors,
    split_tensors,
    trained_tables,
)
from csm_ft.runs.averaging import update_average
from csm_ft.runs.checkpoint import weights_of
from csm_ft.training.optim import averaged, build_optimizer, choose_parameters, set_learning_rate
from tests.helpers.splits import examples_of, make_model, make_split

TABLE = "text_embeddings"
EXAMPLES = examples_of(make_split([12, 9, 14, 7]))
IDS = text_ids([EXAMPLES.split])
FAMILY = CsmFamily()


def prepared(rows: torch.Tensor | None, config: CsmConfig) -> CsmModel:
    model = make_model()
    if rows is not None:
        model.read_rows = {TABLE: rows}
    choose_parameters(model, FAMILY, config)
    return model


def loss_of(model: CsmModel, *indices: int) -> torch.Tensor:
    loss = model(collate(EXAMPLES, indices, depth_fraction=1.0, draw=None))
    return loss["c0"].sum() + loss["depth"].sum()


def trained(model: CsmModel, config: CsmConfig, *steps: int) -> torch.optim.Optimizer:
    """Take steps, each on one clip; return the optimiser."""
    optimizer = build_optimizer(model, FAMILY, config)
    set_learning_rate(optimizer, 1e-2)
    for index in steps:
        loss_of(model, index).backward()
        optimizer.step()
        update_average(optimizer)
        optimizer.zero_grad()
    return optimizer


def test_ids_are_those_of_all_clips() -> None:
    split = EXAMPLES.split
    tokens = {int(t) for row in range(len(split)) for t in split.array("text_tokens", row)}
    assert IDS.tolist() == sorted(tokens)
    assert len(IDS) < make_model().size.text_vocab_size, "some rows are not read"


def test_ids_of_texts_without_tags_are_among_them() -> None:
    class Tagged:
        kinds: ClassVar[dict[str, None]] = {"text_tokens": None, "untagged_tokens": None}

        def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
            rows = [3, 9, 3] if name == "text_tokens" else [9, 30]
            yield 0, np.array(rows[:1], dtype=np.uint32)
            yield 1, np.array(rows[1:], dtype=np.uint32)

    tagged: Any = Tagged()
    assert text_ids([EXAMPLES.split, tagged]).tolist() == sorted({*IDS.tolist(), 3, 9, 30})


def test_losses_and_gradients_are_those_of_the_whole_table() -> None:
    whole, parts = prepared(None, CsmConfig()), prepared(IDS, CsmConfig())
    losses = [loss_of(model, 0, 1, 2, 3) for model in (whole, parts)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    table = parts.text_embeddings
    assert isinstance(table, TrainedRows)
    assert table.weight.grad is None
    expected = whole.text_embeddings.weight.grad
    assert expected is not None
    assert table.rows.grad is not None
    torch.testing.assert_close(table.rows.grad, expected[IDS])
    assert not expected[~torch.isin(torch.arange(len(expected)), IDS)].any()


def test_a_token_without_a_row_of_its_own_has_the_table_s() -> None:
    model = prepared(IDS[:1], CsmConfig())
    with torch.no_grad():
        expected = make_model().text_embeddings(IDS)
        assert torch.equal(model.text_embeddings(IDS), expected)
        model.text_embeddings.weight.zero_()  # of the trained row, the table's own is not read
        assert model.text_embeddings(IDS).count_nonzero(dim=1).tolist()[1:] == [0] * (len(IDS) - 1)
        assert torch.equal(model.text_embeddings(IDS)[0], expected[0])


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "schedulefree"}, {"ema_decay": 0.5}, {"embeddings_lr_factor": 0.1}],
    ids=str,
)
def test_training_is_that_of_the_whole_table(options: dict[str, Any]) -> None:
    config = CsmConfig.model_validate(options)
    whole, parts = prepared(None, config), prepared(IDS, config)
    optimizers = [trained(model, config, 0, 1, 2) for model in (whole, parts)]
    with averaged(optimizers[0]), averaged(optimizers[1]):
        expected, actual = weights_of(whole), weights_of(parts)
        assert actual.keys() == expected.keys(), "as files keep them"
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    unread = torch.tensor(sorted(set(range(len(expected[f"{TABLE}.weight"]))) - set(IDS.tolist())))
    untouched = make_model().text_embeddings.weight[unread]
    assert torch.equal(actual[f"{TABLE}.weight"][unread], untouched)


def test_files_keep_whole_tables() -> None:
    model = prepared(IDS, CsmConfig())
    with torch.no_grad():
        model.text_embeddings.rows.add_(1.0)
    tensors = join_tensors(model, model.state_dict())
    expected = make_model().text_embeddings.weight.detach().clone()
    expected[IDS] += 1.0
    assert torch.equal(tensors[f"{TABLE}.weight"], expected)
    assert tensors.keys() == make_model().state_dict().keys()
    again = prepared(IDS, CsmConfig())
    again.load_state_dict(split_tensors(again, tensors))
    assert torch.equal(again.text_embeddings.rows, expected[IDS])


@pytest.mark.parametrize(
    "options",
    [{"method": "lora"}, {"embeddings_lr_factor": 0.0}, {"method": "depth_only"}],
    ids=str,
)
def test_frozen_tables_are_left_whole(options: dict[str, Any]) -> None:
    model = prepared(IDS, CsmConfig.model_validate(options))
    assert not list(trained_tables(model))
    assert not model.text_embeddings.weight.requires_grad

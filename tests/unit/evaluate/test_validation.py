"""The validation loss: sums and counts over all targets, whatever the batches.

Each example's share adds up to it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.evaluate import validation
from csm_ft.evaluate.metrics import ERROR
from csm_ft.evaluate.validation import Validation, standard_error, summarise, validate
from csm_ft.families.base import Term, Yardstick, parts_of, weighted_loss
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.family import CsmFamily
from tests.helpers.splits import examples_of, make_model, make_split

SPLIT = make_split([12, 5, 30, 1, 17, 9, 22, 3])
ALL = CsmConfig(val_depth_fraction=1.0)


def test_it_is_the_mean_over_frames() -> None:
    model = make_model().train()
    result = validate(model, CsmFamily(), examples_of(SPLIT), ALL)
    nats = {"c0": 0.0, "depth": 0.0}
    for index in range(len(SPLIT)):
        with torch.no_grad():
            loss = model(collate(examples_of(SPLIT), [index], depth_fraction=1.0, draw=None))
        nats = {part: nats[part] + float(loss[part].sum()) for part in nats}
    frames = int(SPLIT.lengths("codes").sum()) + len(SPLIT)
    assert result.metrics["val_c0"] == pytest.approx(nats["c0"] / frames, rel=1e-5)
    assert result.metrics["val_depth"] == pytest.approx(nats["depth"] / (3 * frames), rel=1e-5)
    assert result.loss == pytest.approx(result.metrics["val_c0"] + result.metrics["val_depth"])
    assert model.training, "left as found"
    assert list(result.metrics) == ["val_loss", "val_c0", "val_depth"]


def test_shares_of_repeated_clips_add_up() -> None:
    split = make_split([12, 5, 30, 8], ids=["a", "a", "b", "c"])
    result = validate(make_model(), CsmFamily(), examples_of(split), ALL)
    assert len(result.clips) == 4
    total, frames = np.sum(list(result.clips.values()), axis=0)
    assert total / frames == pytest.approx(result.loss, rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder_loss_weight": 0.1},
        {"batch_size": 3},
        {"depth_fraction": 1.0},
        {"micro_batch_tokens": 50},
        {"seed": 3},
        {"dtype": "bf16"},
    ],
)
def test_no_swept_option_moves_it(changes: dict[str, float]) -> None:
    model = make_model()
    for own in (ALL, CsmConfig()):
        changed = own.replace(**changes)
        same = validate(model, CsmFamily(), examples_of(SPLIT), changed)
        assert same.metrics == validate(model, CsmFamily(), examples_of(SPLIT), own).metrics


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    whole = validate(model, CsmFamily(), examples_of(SPLIT), ALL).loss
    monkeypatch.setattr(validation, "BUDGET_TOKENS", 40)
    assert validate(model, CsmFamily(), examples_of(SPLIT), ALL).loss == pytest.approx(
        whole, rel=1e-5
    )


def test_a_familys_own_metrics_join_it() -> None:
    class Scoring(CsmFamily):
        def score(self, model: Any, examples: Any, config: Any) -> Mapping[str, float]:
            assert not model.training
            assert not torch.is_grad_enabled()
            return {"val_errors": 0.25}

    model = make_model().eval()
    result = validate(model, Scoring(), examples_of(SPLIT), ALL)
    assert list(result.metrics) == ["val_loss", "val_c0", "val_depth", "val_errors"]
    assert result.metrics["val_errors"] == 0.25
    assert not model.training, "left as found"


# A share of the targets

SOME = CsmConfig(val_depth_fraction=0.25)


def test_a_share_estimates_all_without_bias() -> None:
    num_frames = [12, 25, 30, 17]
    model, split, errors, losses = make_model(), make_split(num_frames), [], []
    whole = validate(model, CsmFamily(), examples_of(split), SOME, all_targets=True).metrics
    assert whole == validate(model, CsmFamily(), examples_of(split), ALL).metrics
    for draw in range(150):  # other ids, other frames
        split = make_split(num_frames, ids=[f"{draw}/{place}" for place in range(4)])
        found = validate(model, CsmFamily(), examples_of(split), SOME).metrics
        assert found["val_c0"] == pytest.approx(whole["val_c0"], rel=1e-6), "all of codebook 0"
        losses.append(found["val_loss"])
        errors.append(found[ERROR])
    deviation = np.std(losses)
    assert deviation > 1e-3, "draws differ, or this test shows nothing"
    assert abs(np.mean(losses) - whole["val_loss"]) < 4 * deviation / len(losses) ** 0.5
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(deviation, rel=0.2)


@pytest.mark.parametrize(("num_frames", "share"), [(300, 1.0), (1000, 0.5), (8000, 0.1)])
def test_few_frames_are_scored_whole_by_default(num_frames: int, share: float) -> None:
    examples = examples_of(make_split([100] * (num_frames // 100)))
    assert CsmFamily().scored_share(examples, CsmConfig()) == share
    assert CsmFamily().scored_share(examples, SOME) == 0.25


def test_the_same_share_is_scored_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples = make_model(), examples_of(SPLIT)
    whole = validate(model, CsmFamily(), examples, SOME)
    monkeypatch.setattr(validation, "SHARE_BUDGET_TOKENS", 40)
    cut = validate(model, CsmFamily(), examples, SOME)
    assert cut.metrics == pytest.approx(whole.metrics, rel=1e-5)
    for id_, own in whole.clips.items():
        assert cut.clips[id_] == pytest.approx(own, rel=1e-5)


def test_differences_between_models_are_nearer_than_their_losses() -> None:
    """The same frames are scored of both, so most of the error is common to them."""
    first, second, examples = make_model(), make_model(), examples_of(SPLIT)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(1.02)
    whole, some = (
        [validate(model, CsmFamily(), examples, config).loss for model in (first, second)]
        for config in (ALL, SOME)
    )
    off = abs((some[1] - some[0]) - (whole[1] - whole[0]))
    assert off < abs(some[0] - whole[0]) / 4


def test_errors_of_parts_that_were_drawn_together_add_up() -> None:
    terms = [Term(1.0, {"a": 1.0}), Term(2.0, {"b": 1.0, "c": 0.5})]
    variances, counts = np.array([9.0, 4.0, 16.0]), np.array([10.0, 10.0, 20.0])
    error = standard_error(Yardstick(terms, "nats", ""), variances, counts)
    assert error == pytest.approx(((3 / 10) ** 2 + (2 * (2 + 0.5 * 4) / 20) ** 2) ** 0.5)


# Several terms, some of several parts

PARTS = ("a", "b", "c")


def slow_summary(terms: list[Term], nats: Any, counts: Any) -> tuple[float, list[float]]:
    """The loss, and each example's share of it per target of the first term: one by one."""
    loss = 0.0
    shares = [0.0] * len(nats)
    first = sum(
        weight * row[PARTS.index(part)] for row in counts for part, weight in terms[0].parts.items()
    )
    for term in terms:
        total_nats = total_targets = 0.0
        for row, targets in zip(nats, counts, strict=True):
            for part, weight in term.parts.items():
                total_nats += weight * row[PARTS.index(part)]
                total_targets += weight * targets[PARTS.index(part)]
        if not total_targets:
            continue
        loss += term.weight * total_nats / total_targets
        for place, row in enumerate(nats):
            own = sum(weight * row[PARTS.index(part)] for part, weight in term.parts.items())
            shares[place] += term.weight * own * first / total_targets
    return loss, shares


weights = st.floats(0.1, 3.0)
examples_drawn = st.lists(
    st.tuples(*(st.tuples(st.integers(0, 4), st.floats(0.0, 5.0)) for _ in PARTS)),
    min_size=1,
    max_size=6,
)


@given(
    split=st.permutations(PARTS),
    num_terms=st.integers(1, 3),
    term_weights=st.tuples(weights, weights, weights),
    part_weights=st.tuples(weights, weights, weights),
    drawn=examples_drawn,
)
def test_shares_over_targets_are_the_loss(
    split: list[str],
    num_terms: int,
    term_weights: tuple[float, ...],
    part_weights: tuple[float, ...],
    drawn: list[Any],
) -> None:
    weight_of = dict(zip(PARTS, part_weights, strict=True))
    # One part alone, two of one, or all three with one divisor.
    cut = {1: [split], 2: [split[:2], split[2:]], 3: [[part] for part in split]}[num_terms]
    terms = [
        Term(weight, {part: weight_of[part] for part in parts})
        for weight, parts in zip(term_weights, cut, strict=False)
    ]
    order = parts_of(terms)
    assert sorted(order) == list(PARTS)
    counts = np.array([[targets for targets, _ in example] for example in drawn])
    nats = np.array([[targets * mean for targets, mean in example] for example in drawn])
    columns = [PARTS.index(part) for part in order]
    ids = [f"clip-{i}" for i in range(len(drawn))]
    yardstick = Yardstick(terms, "nats", "a test's")
    result = summarise(yardstick, ids, nats[:, columns], counts[:, columns], {"val_x": 1.0})
    loss, shares = slow_summary(terms, nats, counts)
    assert isinstance(result, Validation)
    assert result.loss == pytest.approx(loss)
    assert [share for share, _ in result.clips.values()] == pytest.approx(shares)
    assert list(result.clips) == ids
    assert result.metrics["val_x"] == 1.0
    for place, part in enumerate(PARTS):
        mean = nats[:, place].sum() / max(1, counts[:, place].sum())
        assert result.metrics[f"val_{part}"] == pytest.approx(mean)
    total, targets = np.sum(list(result.clips.values()), axis=0)
    if targets:
        assert total / targets == pytest.approx(loss)


def test_a_term_without_targets_adds_nothing() -> None:
    terms = [Term(1.0, {"a": 1.0}), Term(2.0, {"b": 1.0, "c": 0.5})]
    nats, counts = np.array([[6.0, 0.0, 0.0]]), np.array([[3, 0, 0]])
    result = summarise(Yardstick(terms, "nats", ""), ["x"], nats, counts, {})
    assert result.loss == 2.0
    assert result.clips == {"x": (6.0, 3.0)}
    assert weighted_loss(terms, {"a": 6.0, "b": 0.0, "c": 0.0}, {"a": 3, "b": 0, "c": 0}) == 2.0

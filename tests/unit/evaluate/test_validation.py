"""The yardstick: sums and counts over all frames, whatever the batches.

Each clip's share adds up to it.
"""

import numpy as np
import pytest
import torch

from csm_ft.evaluate import validation as evaluation
from csm_ft.evaluate.validation import evaluate
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.family import CsmFamily
from tests.helpers.splits import examples_of, make_model, make_split

SPLIT = make_split([12, 5, 30, 1, 17, 9, 22, 3])


def test_it_is_the_mean_over_all_frames_of_one_clip_at_a_time() -> None:
    model = make_model().train()
    result = evaluate(model, CsmFamily(), examples_of(SPLIT), CsmConfig())
    nats = {"c0": 0.0, "depth": 0.0}
    for index in range(len(SPLIT)):
        with torch.no_grad():
            loss = model(collate(examples_of(SPLIT), [index], depth_fraction=1.0, draw=None))
        nats = {part: nats[part] + float(loss[part].sum()) for part in nats}
    frames = int(SPLIT.num_frames.sum()) + len(SPLIT)
    assert result.parts["c0"] == pytest.approx(nats["c0"] / frames, rel=1e-5)
    assert result.parts["depth"] == pytest.approx(nats["depth"] / (3 * frames), rel=1e-5)
    assert result.val_loss == pytest.approx(result.parts["c0"] + result.parts["depth"])
    assert model.training, "left as found"


def test_shares_of_the_clips_add_up_even_if_a_clip_comes_twice() -> None:
    split = make_split([12, 5, 30, 8])
    split.ids[1] = split.ids[0]
    result = evaluate(make_model(), CsmFamily(), examples_of(split), CsmConfig())
    assert len(result.clips) == 4
    total, frames = np.sum(list(result.clips.values()), axis=0)
    assert total / frames == pytest.approx(result.val_loss, rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder_loss_weight": 0.1},
        {"batch_size": 3},
        {"depth_fraction": 1.0},
        {"micro_batch_tokens": 50},
    ],
)
def test_no_swept_option_moves_it(changes: dict[str, float]) -> None:
    model = make_model()
    same = evaluate(model, CsmFamily(), examples_of(SPLIT), CsmConfig.model_validate(changes))
    assert same.val_loss == evaluate(model, CsmFamily(), examples_of(SPLIT), CsmConfig()).val_loss


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    whole = evaluate(model, CsmFamily(), examples_of(SPLIT), CsmConfig()).val_loss
    monkeypatch.setattr(evaluation, "BUDGET_TOKENS", 40)
    assert evaluate(model, CsmFamily(), examples_of(SPLIT), CsmConfig()).val_loss == pytest.approx(
        whole, rel=1e-5
    )

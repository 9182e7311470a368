"""Packed sequences have the losses and gradients of padded ones, and of each alone."""

from collections.abc import Sequence

import pytest
import torch

from csm_ft.families.base import Draw
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import CsmBatch, collate, join
from csm_ft.families.csm.family import PACKED_ABOVE, CsmFamily
from csm_ft.families.csm.packed import causal_attention
from tests.helpers.splits import FakeSplit, examples_of, make_model, make_split

EXAMPLES = examples_of(make_split([12, 3, 30, 7, 21]))
MODEL = make_model()


def batch(indices: Sequence[int], *, packed: bool) -> CsmBatch:
    most = 0.0 if packed else 1.0
    return collate(EXAMPLES, indices, depth_fraction=0.5, draw=Draw(0, 1), max_padding=most)


def results(of: CsmBatch) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Return the losses per sequence, and all gradients of their sum."""
    MODEL.zero_grad()
    loss = dict(MODEL(of))
    torch.stack([part.sum() for part in loss.values()]).sum().backward()
    return {name: part.detach() for name, part in loss.items()}, [
        parameter.grad.clone() for parameter in MODEL.parameters() if parameter.grad is not None
    ]


def test_packed_is_padded_is_alone() -> None:
    indices = [2, 0, 1, 4, 3]
    packed, padded = batch(indices, packed=True), batch(indices, packed=False)
    assert packed.num_padded == packed.num_positions < padded.num_padded
    assert packed.num_positions == padded.num_positions
    losses, gradients = results(packed)
    expected, expected_gradients = results(padded)
    torch.testing.assert_close(losses, expected, rtol=2e-6, atol=1e-5)
    for actual, whole in zip(gradients, expected_gradients, strict=True):
        assert (actual - whole).norm() <= 1e-5 * whole.norm()
    for place, index in enumerate(indices):
        alone, _ = results(batch([index], packed=False))
        assert losses["c0"][place].item() == pytest.approx(alone["c0"].item(), rel=1e-5)
        assert losses["depth"][place].item() == pytest.approx(alone["depth"].item(), rel=1e-5)


def test_no_sequence_attends_to_another() -> None:
    """What a clip says does not reach the others: with other codes in it, their losses stay."""
    packed = batch([2, 0, 4], packed=True)
    before, _ = results(packed)
    own = packed.frame_sequence == 1
    packed.codes[own] = (packed.codes[own] + 1) % MODEL.size.audio_vocab_size
    after, _ = results(packed)
    assert torch.equal(before["c0"][[0, 2]], after["c0"][[0, 2]])
    assert before["c0"][1] != after["c0"][1]


def test_attention_by_sequence_is_attention_with_a_mask() -> None:
    """Against a mask over all pairs of positions."""
    packing = batch([2, 0, 1], packed=True).packing
    assert packing is not None
    total, generator = sum(packing.lengths), torch.Generator().manual_seed(0)
    query = torch.randn(1, total, 4, 8, generator=generator)
    key, value = torch.randn(2, 1, total, 2, 8, generator=generator)
    sequence = torch.repeat_interleave(torch.arange(3), torch.tensor(packing.lengths))
    mask = (sequence[:, None] == sequence) & torch.ones(total, total, dtype=torch.bool).tril()
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(tensor.transpose(1, 2) for tensor in (query, key, value)),
        attn_mask=mask,
        enable_gqa=True,
    ).transpose(1, 2)
    actual = causal_attention(query, key, value, packing)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert packing.ends.tolist() == [0, *torch.tensor(packing.lengths).cumsum(0).tolist()]


def test_joined_batches_are_padded_again() -> None:
    packed, padded = batch([2, 0, 1], packed=True), batch([2, 0, 1], packed=False)
    other = batch([3, 4], packed=False)
    found, expected = join([packed, other]).batch, join([padded, other]).batch
    assert vars(found).keys() == vars(expected).keys()
    for name, value in vars(expected).items():
        same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: str(a) == str(b)
        assert same(getattr(found, name), value), name


@pytest.mark.parametrize(
    ("options", "is_packed"),
    [
        ({"device": "cpu"}, True),
        ({"device": "cpu", "packing": "off"}, False),
        ({"device": "cpu", "compile": "on"}, False),
        ({"device": "cpu", "method": "lora", "lora_dropout": 0.1}, False),
        ({"device": "cpu", "method": "lora", "lora_dropout": 0.0}, True),
        ({"device": "cuda"}, False),
        ({"device": "cuda", "packing": "on"}, True),
    ],
    ids=str,
)
def test_auto_packs_where_it_wins(options: dict[str, str], is_packed: bool) -> None:
    config, family = CsmConfig.model_validate(options), CsmFamily()
    assert bool(family.collate(EXAMPLES, [2, 1], config, draw=Draw(0, 0)).lengths) == is_packed
    assert not family.collate(EXAMPLES, [2, 1], config, draw=None).lengths, "validation is padded"


def test_packed_layers_are_not_compiled() -> None:
    assert not CsmConfig.model_validate({"packing": "on"}).can_compile
    with pytest.raises(ValueError, match="packing on: layers would be compiled again"):
        CsmConfig.model_validate({"packing": "on", "compile": "on"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_kernel_is_attention_by_sequence() -> None:
    packed = batch([2, 0, 1], packed=True).to("cuda")
    packing = packed.packing
    assert packing is not None
    generator = torch.Generator("cuda").manual_seed(0)
    query = torch.randn(1, packed.num_positions, 4, 64, device="cuda", generator=generator)
    key, value = torch.randn(2, 1, packed.num_positions, 2, 64, device="cuda", generator=generator)
    expected = causal_attention(query, key, value, packing)
    found = causal_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), packing)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


def test_little_padding_stays() -> None:
    examples = examples_of(FakeSplit([100, 99, 98], [20, 20, 20]))
    costs = examples.costs
    assert 0 < 1 - costs.sum() / (3 * costs.max()) < PACKED_ABOVE
    config = CsmConfig.model_validate({"device": "cpu"})
    assert not CsmFamily().collate(examples, [0, 1, 2], config, draw=Draw(0, 0)).lengths

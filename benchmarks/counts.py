"""Exact counts at the size of CSM-1B.

Operations and bytes are those of tensors without memory, so nothing is computed. What depends on
values, such as host reads, is counted on a model of the same depth and a small width.
"""

from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter
from torch.nn.utils import get_total_norm

from benchmarks.clips import split_of
from benchmarks.config import BenchmarkConfig
from benchmarks.counters import Operations, kept_for_backward
from benchmarks.figures import Found, exact
from benchmarks.kernels import bytes_per_position
from csm_ft.device import autocast
from csm_ft.families.base import Draw, parts_of, weighted_loss
from csm_ft.families.csm.arrange import arrange
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import CsmBatch, collate
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.layers import Transformer
from csm_ft.families.csm.model import CsmModel, empty_model, random_model
from csm_ft.families.csm.sample import generate
from csm_ft.families.csm.size import PRESETS, CsmSize, TransformerSize
from csm_ft.training.optim import build_optimizer
from csm_ft.training.step import clipping, divided

CSM_1B = CsmSize(PRESETS["llama-1B"], PRESETS["llama-100M"], 128_256, 2051, 32)
NARROW = CsmSize(  # as many layers and codebooks
    TransformerSize(layers=16, heads=4, kv_heads=1, dim=32, ffn_dim=32),
    TransformerSize(layers=4, heads=4, kv_heads=1, dim=32, ffn_dim=32),
    text_vocab_size=40,
    audio_vocab_size=19,
    num_codebooks=32,
)
OPTIONS = CsmConfig()


def measure(config: BenchmarkConfig) -> Found:
    """Count a training step and a generated frame."""
    counted = {**count_step(), **count_compiled(), **count_update(), **count_frame()}
    host_reads = count_forward_backward(random_model(NARROW, 0), batch_of(NARROW, 2)).host_reads
    counted["counts.csm1b.host_reads"] = host_reads
    return {name: exact(value) for name, value in counted.items()}


def count_step() -> dict[str, float]:
    """Count forward and backward; bytes per position are the slope between two batches."""
    short, long = (batch_of(CSM_1B, num_clips) for num_clips in (8, 16))
    model, counts, bytes_kept = empty_model(CSM_1B), [], []
    with FakeTensorMode(allow_non_fake_inputs=True):
        give_weights(model)
        for batch in (short, long):
            with kept_for_backward(model) as kept:
                counts.append(count_forward_backward(model, batch, dtype="bf16"))
            bytes_kept.append(sum(kept.values()))
    first, second = counts
    positions = long.num_padded - short.num_padded
    other_bytes = second.other_bytes - first.other_bytes
    return {
        "counts.csm1b.gemm": first.num_products,
        "counts.csm1b.other": first.num_others,
        "counts.csm1b.other_mb_per_token": other_bytes / positions / 1e6,
        "counts.csm1b.saved_mb_per_token": (bytes_kept[1] - bytes_kept[0]) / positions / 1e6,
    }


def count_compiled() -> dict[str, float]:
    """Count the bytes of a step with compiled layers, per position as in `count_step`."""
    short, long = (batch_of(CSM_1B, num_clips) for num_clips in (8, 16))
    sizes = (CSM_1B.backbone, CSM_1B.decoder)
    # What is not compiled: embeddings, heads, losses.
    backbone, decoder = (replace(size, layers=0) for size in sizes)
    bare = empty_model(replace(CSM_1B, backbone=backbone, decoder=decoder))
    with FakeTensorMode(allow_non_fake_inputs=True):
        give_weights(bare)
        first, second = (
            count_forward_backward(bare, batch, dtype="bf16").other_bytes for batch in (short, long)
        )
    positions = long.num_padded - short.num_padded
    depth_positions = (len(long.depth_rows) - len(short.depth_rows)) * CSM_1B.num_codebooks
    in_layers = [
        size.layers * layer_bytes(size) * num_positions
        for size, num_positions in zip(sizes, (positions, depth_positions), strict=True)
    ]
    total = second - first + sum(in_layers)
    return {"counts.csm1b.compiled_other_mb_per_token": total / positions / 1e6}


def layer_bytes(size: TransformerSize) -> float:
    """Count what the kernels of a compiled layer move per position."""
    with torch.device("meta"):
        layer = Transformer(replace(size, layers=1)).layers[0]
    layer.to_empty(device="cpu")
    return bytes_per_position(layer, size.dim, mask=None, input_pos=None)


def count_update() -> dict[str, float]:
    """Count the bytes of the gradient's norm, clipping and AdamW, once its moments exist."""
    model = empty_model(CSM_1B)
    with FakeTensorMode(allow_non_fake_inputs=True):
        give_weights(model)
        weights = list(model.parameters())
        num_weights = sum(parameter.numel() for parameter in weights)
        gradients = [torch.empty_like(parameter) for parameter in weights]
        for parameter, gradient in zip(weights, gradients, strict=True):
            parameter.grad = gradient
        optimizer = build_optimizer(model, CsmFamily(), OPTIONS)
        optimizer.step()
        limit, counts = OPTIONS.max_grad_norm, []
        for norm_value in (limit / 2, 2 * limit):
            with Operations() as counted:
                get_total_norm(gradients, foreach=True)
                with divided(optimizer, clipping(norm_value, limit)):
                    optimizer.step()
            counts.append(counted.other_bytes / num_weights)
    name = "counts.csm1b.{}update_bytes_per_weight"
    return {name.format(kind): count for kind, count in zip(("", "clipped_"), counts, strict=True)}


@torch.no_grad()
def count_frame() -> dict[str, float]:
    """Count a generated frame, the mean of five after the first one."""
    model = random_model(NARROW, 0)
    context = model.text_embeddings(torch.arange(10))
    counts = []
    for num_frames in (1, 6):
        with Operations() as counted:
            generate(model, [context], lambda logits, _: logits.argmax(-1), num_frames)
        counts.append(counted)
    first, second = counts
    first_total, second_total = (count.num_products + count.num_others for count in counts)
    return {
        "counts.frame.operations": (second_total - first_total) / 5,
        "counts.frame.host_reads": (second.host_reads - first.host_reads) / 5,
    }


def count_forward_backward(model: CsmModel, batch: CsmBatch, *, dtype: str = "fp32") -> Operations:
    """Count the operations of the loss and its gradient."""
    terms = CsmFamily().loss_terms(OPTIONS)
    divisors = dict.fromkeys(parts_of(terms), 1)  # their values change no operation
    model.zero_grad(set_to_none=True)
    with Operations() as counted:
        with autocast("cpu", dtype):
            loss = model(batch)
        sums = {part: loss[part].sum() for part in divisors}
        weighted_loss(terms, sums, divisors).backward()
    return counted


def batch_of(size: CsmSize, num_clips: int) -> CsmBatch:
    """Make a batch of random read sentences."""
    split = split_of("lj", num_clips, size)
    examples = arrange(split, OPTIONS, evaluate=False)
    fraction = OPTIONS.depth_fraction
    return collate(examples, range(num_clips), depth_fraction=fraction, draw=Draw(0, 0))


def give_weights(model: CsmModel) -> None:
    """Put an empty model on the CPU; within FakeTensorMode, where weights have no memory."""
    for name, meta in list(model.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, Parameter(torch.empty(meta.shape)))
    model.join_weights()

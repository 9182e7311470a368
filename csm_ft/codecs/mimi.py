"""Mimi (Kyutai) through transformers: 24 kHz, 12.5 frames a second, 32 codebooks of 2048 codes.

Shapes: B clips, N samples, T frames of 1920 samples, K codebooks.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import MimiConfig, MimiModel
from transformers.utils import logging as transformers_logging

from csm_ft import hub
from csm_ft.codecs.base import Codes, Wave
from csm_ft.errors import CodecError, HubError

CSM_CODEBOOKS = 32
NUM_SPECIAL_IDS = 3  # CSM's tables hold 2048 codes + 3 ids: 2051
LAYOUTS = "config.json + model.safetensors as on the hub, or Kyutai's own tokenizer-*.safetensors"
# Kyutai's names -> the hub's, replaced in this order.
RENAMES = (
    ("conv.conv.conv", "conv"),
    ("convtr.convtr.convtr", "conv"),
    ("conv.conv", "conv"),
    ("convtr.convtr", "conv"),
    ("quantizer.rvq_first.vq", "quantizer.semantic_residual_vector_quantizer"),
    ("quantizer.rvq_first", "quantizer.semantic_residual_vector_quantizer"),
    ("quantizer.rvq_rest.vq", "quantizer.acoustic_residual_vector_quantizer"),
    ("quantizer.rvq_rest", "quantizer.acoustic_residual_vector_quantizer"),
    ("_codebook", "codebook"),
    ("_initialized", "initialized"),
    ("embedding_sum", "embed_sum"),
    ("encoder.model", "encoder.layers"),
    ("decoder.model", "decoder.layers"),
    ("coder_transformer.transformer", "coder_transformer"),
    ("linear1", "mlp.fc1"),
    ("linear2", "mlp.fc2"),
    ("self_attn.out_projs.0", "self_attn.o_proj"),
    ("self_attn.out_proj", "self_attn.o_proj"),
    ("self_attn.in_projs.0.weight", "self_attn.in_proj_weight"),
    ("norm1", "input_layernorm"),
    ("norm2", "post_attention_layernorm"),
    ("layer_scale_1", "self_attn_layer_scale"),
    ("layer_scale_2", "mlp_layer_scale"),
)


class Mimi:
    """Mimi with its first K codebooks; see csm_ft.codecs.base.Codec.

    It always computes in fp32, because bf16 gives different codes.
    """

    def __init__(
        self, model: MimiModel, *, num_codebooks: int, source: str, weights_digest: str
    ) -> None:
        """Wrap a loaded model; `weights_digest` is the hash of its weight files."""
        self.name = "mimi"
        self.source = source
        self.sample_rate_hz = int(model.config.sampling_rate)
        self.frame_samples = int(model.config.frame_size)
        self.num_codebooks = num_codebooks
        self.vocab_size = int(model.config.codebook_size) + NUM_SPECIAL_IDS
        self._model = model.eval().requires_grad_(False)
        self._weights_digest = weights_digest

    @property
    def model(self) -> MimiModel:
        """The transformers model, for exports that store it with a language model's weights."""
        return self._model

    @property
    def fingerprint(self) -> str:
        """Hex digest of the weight files and K."""
        return hashlib.sha256(f"{self._weights_digest} {self.num_codebooks}".encode()).hexdigest()

    def encode(self, waves: Sequence[Wave]) -> list[Codes]:
        """Return ceil(N / 1920) frames for each wave, encoded as one batch.

        Mimi ignores padding masks, but it is causal: with every clip zero-padded on the right to
        whole frames, no frame of a clip depends on the batch's padding. Left padding, or padding to
        other lengths, would change the codes.
        """
        lengths = [-(-len(wave) // self.frame_samples) for wave in waves]
        if not any(lengths):
            return [np.zeros((0, self.num_codebooks), dtype=np.uint16) for _ in waves]
        batch = torch.zeros(len(waves), 1, max(lengths) * self.frame_samples)
        for row, wave in zip(batch, waves, strict=True):
            row[0, : len(wave)] = torch.from_numpy(np.array(wave, dtype=np.float32))
        with _exact(self._model.device):
            by_clip = self._codes(batch.to(self._model.device)).cpu().numpy().astype(np.uint16)
        return [
            np.ascontiguousarray(clip[:length])
            for clip, length in zip(by_clip, lengths, strict=True)
        ]

    def _codes(self, batch: Tensor) -> Tensor:
        """[B, 1, N] -> codes [B, T, K], those of the model's own `encode`.

        The convolutions take most of the memory, all of which the system clears for a new process,
        and on a CPU they are no faster for a batch: there they hear one clip after another.
        """
        encoder: Any = self._model.encoder
        parts = batch.split(1) if batch.device.type == "cpu" else [batch]
        heard = torch.cat([encoder.encoder_seanet(part) for part in parts]).transpose(1, 2)
        states = encoder.encoder_transformer(heard, use_cache=False).last_hidden_state
        latents = encoder.downsample(states.transpose(1, 2))
        return self._model.quantizer.encode(latents, self.num_codebooks).permute(1, 2, 0)

    def decode(self, codes: Codes) -> Wave:
        """Return T * 1920 samples for [T, K] codes.

        Raises ValueError for codes of another shape or beyond CSM's tables.
        """
        num_codes = self.vocab_size - NUM_SPECIAL_IDS
        if codes.ndim != 2 or codes.shape[1] != self.num_codebooks:
            raise ValueError(
                f"codes of shape {codes.shape} are not [frames, {self.num_codebooks} codebooks]"
            )
        if not len(codes):
            return np.zeros(0, dtype=np.float32)
        if int(codes.max()) >= self.vocab_size:
            raise ValueError(
                f"code {int(codes.max())} is not below the codec's {self.vocab_size} ids; another"
                " codec made these codes"
            )
        # An untrained model may predict one of CSM's three extra ids, which decode to nothing. Code
        # 0 replaces them, so that the other codebooks of the frame are still decoded.
        playable = np.where(codes < num_codes, codes, 0).astype(np.int64)
        with _exact(self._model.device):
            wave = self._model.decode(
                torch.from_numpy(playable.T[None]).to(self._model.device)
            ).audio_values
        assert wave is not None, "transformers returns a wave"
        return wave[0, 0, : len(codes) * self.frame_samples].float().cpu().numpy()

    def to_bytes(self) -> None:
        """Return None: Mimi is too large for the token file, which keeps its name and hash."""
        return


def load(source: str, *, num_codebooks: int | None = None, device: str = "cpu") -> Mimi:
    """Open Mimi from a hub name, a local folder or a file of weights.

    A folder has the hub's format; a file may also be Kyutai's own tokenizer-*.safetensors.
    `num_codebooks` None means 32, or all of a smaller Mimi. Raises CodecError for weights that are
    not found or not Mimi's, for too many codebooks, and for an unusable device.
    """
    weights = _locate(source)
    try:
        model, problems = (
            _load_original(weights) if _is_original(weights) else _load_folder(weights.parent)
        )
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise CodecError(
            f"{source}: cannot be read as Mimi ({error}); it takes {LAYOUTS}"
        ) from error
    if problems:
        raise CodecError(
            f"{source}: not Mimi's weights ({problems}); it takes {LAYOUTS}, with a config.json"
            " beside it if sizes are not Mimi's"
        )
    available = int(model.config.num_quantizers)
    wanted = min(CSM_CODEBOOKS, available) if num_codebooks is None else num_codebooks
    if not 1 <= wanted <= available:
        raise CodecError(
            f"{source} has {available} codebooks, not {wanted}; ask for 1..{available}"
        )
    try:
        torch.nn.Module.to(model, torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise CodecError(f"device {device}: {error}; use --device cpu") from error
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Mimi(model, num_codebooks=wanted, source=source, weights_digest=digest)


def original_to_hub(tensors: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Convert Kyutai's tensors to the hub's names and layout.

    The attention's input projection is split into query, key and value; the rows of query and key
    are reordered from interleaved to half-split rotary pairs.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for old, new in RENAMES:
            name = name.replace(old, new)
        if name.endswith("self_attn.in_proj_weight"):
            query, key, value = tensor.chunk(3)
            stem = name.removesuffix("in_proj_weight")
            renamed[f"{stem}q_proj.weight"] = _half_split(query, num_heads)
            renamed[f"{stem}k_proj.weight"] = _half_split(key, num_heads)
            renamed[f"{stem}v_proj.weight"] = value.contiguous()
        else:
            renamed[name] = tensor
    return renamed


def _half_split(weight: Tensor, num_heads: int) -> Tensor:
    rows, columns = weight.shape
    # Kyutai rotates rows (0, 1), (2, 3), ... of a head, transformers rows (i, i + half).
    return (
        weight.view(num_heads, rows // num_heads // 2, 2, columns)
        .transpose(1, 2)
        .reshape(rows, columns)
        .contiguous()
    )


def _locate(source: str) -> Path:
    """Return the weights file behind a file, a folder or a hub name."""
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        found = [path / "model.safetensors", *sorted(path.glob("tokenizer-*.safetensors"))]
        for weights in found:
            if weights.is_file():
                return weights
        raise CodecError(
            f"{path}: neither model.safetensors nor tokenizer-*.safetensors in this folder; Mimi is"
            f" {LAYOUTS}"
        )
    if not hub.is_hub_name(source):
        raise CodecError(
            f"{source}: no such file or folder, and not a hub name (owner/name); Mimi is {LAYOUTS}"
        )
    otherwise = "name a local folder, or use --codec melrvq, which needs no download"
    try:
        hub.fetch(source, "config.json", otherwise=otherwise)
        return hub.fetch(source, "model.safetensors", otherwise=otherwise)
    except HubError as error:
        raise CodecError(f"Mimi: {error}") from error


def _is_original(weights: Path) -> bool:
    """Tell whether tensors have Kyutai's names; reads only the file's header."""
    with weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size) if size < 100_000_000 else b""
    return b"rvq_first" in header


def _load_folder(folder: Path) -> tuple[MimiModel, str]:
    if not (folder / "config.json").is_file():
        raise CodecError(f"{folder}: no config.json beside the weights; Mimi is {LAYOUTS}")
    return _from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _load_original(weights: Path) -> tuple[MimiModel, str]:
    """Load Kyutai's file, with the sizes of a config.json next to it or else those of Mimi."""
    beside = weights.parent / "config.json"
    config = MimiConfig(**_sizes(beside)) if beside.is_file() else MimiConfig()
    state = original_to_hub(load_file(weights), config.num_attention_heads)
    return _from_pretrained(None, config=config, state_dict=state)


def _sizes(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _from_pretrained(*args: Any, **keywords: Any) -> tuple[MimiModel, str]:
    """Load a model; return it with a list of the tensors that do not fit, "" if all do.

    transformers itself would only warn, and initialise those tensors at random.
    """
    level = transformers_logging.get_verbosity()
    shows_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = MimiModel.from_pretrained(
            *args, **keywords, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        transformers_logging.set_verbosity(level)
        if shows_progress:
            transformers_logging.enable_progress_bar()
    model, report = loaded
    wrong = {
        what.removesuffix("_keys"): sorted(map(str, report[what]))
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    return model, "; ".join(
        f"{what} tensors ({len(names)}): {', '.join(names[:3])}"
        for what, names in wrong.items()
        if names
    )


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Compute in full fp32 (no gradients, autocast or TF32), whatever the process trains in."""
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    full = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False), full:
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)

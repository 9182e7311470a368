"""What the loop asks of CSM: the plain functions of families/base.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from csm_ft.config import ConfigError, TrainConfig
from csm_ft.data.examples import Examples
from csm_ft.data.token_file import Store
from csm_ft.families.base import Draw
from csm_ft.families.csm import data
from csm_ft.families.csm.config import (
    CsmConfig,
    CsmSize,
    check_flags,
    chosen_size,
    learning_rate_factor,
    lora_modules,
)
from csm_ft.families.csm.model import CsmModel, random_model
from csm_ft.families.csm.weights import load_model

EMBEDDED_BASE = Path(__file__).resolve().parents[3] / "demo" / "base"


class CsmFamily:
    """Conversational Speech Model."""

    def default_base(self, store: Store) -> str:
        """Return the weights that a store is fine-tuned from when none are named."""
        return "sesame/csm-1b" if store.info.codec == "mimi" else str(EMBEDDED_BASE)

    def build_model(self, config: TrainConfig, store: Store) -> CsmModel:
        """Build the model in fp32 on the CPU with base or random weights.

        ConfigError when it does not fit the store.
        """
        config = _csm(config)
        info = store.info
        if config.train_from_scratch:
            size = chosen_size(
                config,
                default="tiny" if info.codec == "melrvq" else "llama-1B",
                text_vocab_size=info.text_vocab_size,
                audio_vocab_size=info.codec_vocab_size,
                num_codebooks=info.num_codebooks,
            )
            return random_model(size, config.seed)
        model = load_model(config.model_name_or_checkpoint_path)
        check_flags(config, model.size, config.model_name_or_checkpoint_path)
        _check_fit(model.size, store, config.model_name_or_checkpoint_path)
        return model

    def collate(
        self, examples: Examples, indices: Sequence[int], config: TrainConfig, *, draw: Draw | None
    ) -> data.CsmBatch:
        """Make one micro-batch."""
        return data.collate(
            examples, indices, depth_fraction=_csm(config).depth_fraction, draw=draw
        )

    def part_weights(self, config: TrainConfig) -> dict[str, float]:
        """2*((1-w)*c0 + w*depth), as in the public CSM trainer; w = 0.5 is c0 + depth."""
        weight = _csm(config).decoder_loss_weight
        return {"c0": 2 * (1 - weight), "depth": 2 * weight}

    def yardstick_weights(self) -> dict[str, float]:
        """The yardstick: nats per frame of codebook 0 plus the mean over codebooks 1..K-1.

        Nothing that a sweep may vary.
        """
        return {"c0": 1.0, "depth": 1.0}

    def learning_rate_factor(self, config: TrainConfig, name: str) -> float:
        """Learning rate of a parameter as a multiple of config.learning_rate; 0 = frozen."""
        return learning_rate_factor(_csm(config), name)

    def lora_modules(self, config: TrainConfig) -> str:
        """Regular expression of the modules that get adapters."""
        return lora_modules(_csm(config))

    def checkpoint_config(self, model: CsmModel) -> Mapping[str, object]:
        """Return config.json of a checkpoint."""
        return model.size.to_json()


def _csm(config: TrainConfig) -> CsmConfig:
    assert isinstance(config, CsmConfig), "CSM is configured by a CsmConfig"
    return config


def _check_fit(size: CsmSize, store: Store, name: str) -> None:
    info = store.info
    rules = [
        (
            "codebooks",
            info.num_codebooks,
            size.num_codebooks,
            info.num_codebooks == size.num_codebooks,
        ),
        (
            "audio ids",
            info.codec_vocab_size,
            size.audio_vocab_size,
            info.codec_vocab_size <= size.audio_vocab_size,
        ),
        (
            "text ids",
            info.text_vocab_size,
            size.text_vocab_size,
            info.text_vocab_size <= size.text_vocab_size,
        ),
    ]
    for what, in_store, in_model, fits in rules:
        if not fits:
            raise ConfigError(
                f"{store.path} has {in_store} {what} ({info.codec}, {info.tokenizer}), the model"
                f" {name} has {in_model}; pretokenise with the model's codec and tokenizer, name"
                " another model, or --train_from_scratch"
            )

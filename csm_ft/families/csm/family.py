"""What the programs ask of CSM: the contract of families/base.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_ft import assets
from csm_ft.codecs import MIMI_HUB_NAME
from csm_ft.config.generate import GenerateConfig
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.config.train import TrainConfig, parse_replay
from csm_ft.errors import ConfigError
from csm_ft.families.base import (
    Draw,
    EncoderRecord,
    ExpressiveRecipe,
    Family,
    ParameterRule,
    Prompt,
    SamplingOptions,
    Term,
    Yardstick,
)
from csm_ft.families.csm.config import (
    CsmConfig,
    CsmGenerateConfig,
    CsmPretokenizeConfig,
    learning_rate_factor,
    lora_modules,
)
from csm_ft.families.csm.export import EXPORTERS
from csm_ft.families.csm.size import CsmSize, check_flags, chosen_size
from csm_ft.families.encoder import Encoder

if TYPE_CHECKING:
    from torch import Tensor

    from csm_ft.data.examples import Examples
    from csm_ft.data.split import Split, Store
    from csm_ft.families.csm.data import CsmBatch
    from csm_ft.families.csm.encoder import CsmEncoder
    from csm_ft.families.csm.model import CsmModel
    from csm_ft.families.model import Batch, SpeechModel

# On a CPU, whose attention takes packed sequences one by one, packing repays more padding.
PACKED_ABOVE = 0.05
EMBEDDED_BASE = assets.path_of("demo/base")

HUB_NAME = "sesame/csm-1b"


class CsmFamily(Family):
    """Conversational Speech Model: text and speaker in, speech out."""

    name = "csm"
    hub_names = (HUB_NAME, MIMI_HUB_NAME)
    generate_example = '--text "..."'
    train_config = CsmConfig
    pretokenize_config = CsmPretokenizeConfig
    generate_config = CsmGenerateConfig
    yardstick = Yardstick(
        terms=(Term(1.0, {"c0": 1.0}), Term(1.0, {"depth": 1.0})),
        unit="nats per frame",
        formula="codebook 0 plus the mean over the other codebooks, all frames of the validation"
        " split",
    )
    fact_names = (
        *("codec", "codec_source", "codec_fingerprint", "codec_vocab_size", "num_codebooks"),
        *("tokenizer", "tokenizer_fingerprint", "text_vocab_size", "template"),
    )
    exporters = EXPORTERS
    expressive = ExpressiveRecipe(
        text_template="[{speaker}]<{emotion}>?{text}",
        train_config="configs/expressive_lora.yaml",
        sweep_config="configs/sweep_expressive.yaml",
    )

    def arrange(self, split: Split, config: TrainConfig, *, evaluate: bool) -> Examples:
        """Join the turns of conversations; a clip without one is an example by itself."""
        from csm_ft.families.csm.arrange import arrange

        return arrange(split, _csm(config), evaluate=evaluate)

    def describe(self, store: Store) -> list[str]:
        """Count frames and text tokens, and name codec and tokenizer."""
        facts = store.info.facts
        counts = {split.name: self.summarise(split) for split in store.splits.values()}
        return [
            *(
                f"{name:10} {count['frames']} frames, {count['text_tokens']} text tokens; longest"
                f" clip {count['longest_positions']} positions"
                for name, count in counts.items()
            ),
            f"codec      {facts['codec']}, {facts['num_codebooks']} codebooks of"
            f" {facts['codec_vocab_size']} ids, {store.info.sample_rate_hz} Hz,"
            f" {1 / store.info.frame_sec:g} frames per second ({facts['codec_source']})",
            f"           {facts['codec_fingerprint'] or 'hash not known'}",
            f"tokenizer  {facts['text_vocab_size']} ids, template {facts['template']!r}"
            f" ({facts['tokenizer']})",
            f"           {facts['tokenizer_fingerprint'] or 'hash not known'}",
        ]

    def summarise(self, split: Split) -> dict[str, Any]:
        """Count frames, text tokens and the positions of the longest clip."""
        from csm_ft.families.csm.arrange import costs

        return {
            "frames": int(split.lengths("codes").sum()),
            "text_tokens": int(split.lengths("text_tokens").sum()),
            "longest_positions": int(costs(split).max(initial=0)),
        }

    def find_problems(self, split: Split, store: Store) -> dict[str, list[int]]:
        """Find empty clips, ids out of range, and the end of speech inside a clip."""
        import numpy as np

        facts = store.info.facts
        codec_ids, text_ids = facts["codec_vocab_size"], facts["text_vocab_size"]
        codes_high, ended, text_high = set[int](), set[int](), set[int]()
        for start, block in split.blocks("codes"):
            too_high = np.flatnonzero((block >= codec_ids).any(axis=1))
            all_zero = np.flatnonzero(~block.any(axis=1))
            codes_high |= {split.clip_at("codes", start + int(row)) for row in too_high}
            ended |= {split.clip_at("codes", start + int(row)) for row in all_zero}
        for start, block in split.blocks("text_tokens"):
            too_high = np.flatnonzero(block >= text_ids)
            text_high |= {split.clip_at("text_tokens", start + int(row)) for row in too_high}
        return {
            "no frames": np.flatnonzero(split.lengths("codes") == 0).tolist(),
            "no text tokens": np.flatnonzero(split.lengths("text_tokens") == 0).tolist(),
            f"codes of {codec_ids} or more": sorted(codes_high),
            "an all-zero frame, which means end of speech": sorted(ended),
            f"text tokens of {text_ids} or more": sorted(text_high),
        }

    def foreign_key(self, path: Path) -> str:
        """Recognise token files of the public CSM trainer."""
        from csm_ft.families.csm import public_trainer

        return public_trainer.foreign_key(path)

    def open_foreign(self, path: Path) -> Store:
        """Read a token file of the public CSM trainer."""
        from csm_ft.families.csm import public_trainer

        return public_trainer.open_store(path)

    def open_encoder(self, source: PretokenizeConfig | Store, device: str) -> CsmEncoder:
        """Open a codec and a tokenizer."""
        from csm_ft.families.csm.encoder import CsmEncoder

        if not isinstance(source, PretokenizeConfig):
            return CsmEncoder.from_store(source, device)
        assert isinstance(source, CsmPretokenizeConfig), "CSM's own options"
        return CsmEncoder.from_options(source, device)

    def check_prompts(self, config: TrainConfig | GenerateConfig) -> None:
        """Check sentences, speakers and the context clips of prompts."""
        from csm_ft.families.csm import prompts

        prompts.check_prompts(config)

    def asks_for_samples(self, config: TrainConfig) -> bool:
        """Tell whether there are gen_sentences or gen_prompts."""
        return bool(_csm(config).gen_sentences or _csm(config).gen_prompts)

    def sample_prompts(
        self, config: TrainConfig, store: Store, encoder: Encoder
    ) -> tuple[list[Prompt], SamplingOptions]:
        """Return the sentences of the options, or the first validation clips."""
        from csm_ft.families.csm import prompts

        return prompts.sample_prompts(_csm(config), store, encoder)

    def open_generator(
        self, config: GenerateConfig, record: EncoderRecord, model: SpeechModel, device: str
    ) -> CsmEncoder:
        """Open what the options name, or what the weights were trained with, or what fits them."""
        from csm_ft.families.csm import prompts

        return prompts.open_generator(config, record, model, device)

    def generate_prompts(
        self, config: GenerateConfig, record: EncoderRecord, encoder: Encoder
    ) -> tuple[list[Prompt], SamplingOptions]:
        """Return what --text, --context and --prompts ask for."""
        from csm_ft.families.csm import prompts

        return prompts.generate_prompts(config, record, encoder)

    def empty_model(self, config: TrainConfig, store: Store) -> CsmModel:
        """Build a model of the checkpoint's or the chosen size."""
        from csm_ft.families.csm.model import empty_model
        from csm_ft.families.csm.weights import size_of

        config, facts = _csm(config), store.info.facts
        if config.tag_dropout and "untagged_tokens" not in store.info.arrays:
            raise ConfigError(
                f"tag_dropout {config.tag_dropout:g}: {store.path} has no tags, its template is"
                f" {facts['template']!r}; pretokenise with --text_template, or leave it out"
            )
        if config.train_from_scratch:
            size = chosen_size(
                config,
                default="tiny" if facts["codec"] == "melrvq" else "llama-1B",
                text_vocab_size=facts["text_vocab_size"],
                audio_vocab_size=facts["codec_vocab_size"],
                num_codebooks=facts["num_codebooks"],
            )
        else:
            name = config.model_name_or_checkpoint_path
            size = size_of(name)
            check_flags(config, size, name)
            _check_fit(size, store, name)
        model = empty_model(size)
        is_trained = learning_rate_factor(config, "text_embeddings") and config.method != "lora"
        if is_trained and config.text_embeddings == "used" and not config.decay_all:
            ids = _read_text_ids(config, store, size.text_vocab_size)
            model.read_rows = {"text_embeddings": ids}
        return model

    def load_weights(self, model: SpeechModel, config: TrainConfig) -> None:
        """Load base or random weights."""
        from csm_ft.families.csm.model import CsmModel, init_weights
        from csm_ft.families.csm.weights import load_weights

        assert isinstance(model, CsmModel), "a model of this family"
        if config.train_from_scratch:
            init_weights(model, config.seed)
        else:
            load_weights(model, config.model_name_or_checkpoint_path)

    def load_model(self, name: str) -> CsmModel:
        """Load finished weights; adapters are merged into the base that they name."""
        from csm_ft.families.csm.weights import load_model

        return load_model(name)

    def collate(
        self, examples: Examples, indices: Sequence[int], config: TrainConfig, *, draw: Draw | None
    ) -> CsmBatch:
        """Make one micro-batch."""
        from csm_ft.families.csm.data import collate

        return collate(
            examples,
            indices,
            depth_fraction=_csm(config).depth_fraction,
            tag_dropout=_csm(config).tag_dropout,
            draw=draw,
            max_padding=_max_padding(_csm(config)) if draw else 1.0,
        )

    def collate_scored(
        self, examples: Examples, indices: Sequence[int], config: TrainConfig
    ) -> CsmBatch:
        """Make one micro-batch whose depth decoder gets val_depth_fraction of the frames."""
        from csm_ft.families.csm.data import collate

        share = self.scored_share(examples, config)
        return collate(examples, indices, depth_fraction=1.0, val_depth_fraction=share, draw=None)

    def scored_share(self, examples: Examples, config: TrainConfig) -> float:
        """Return val_depth_fraction, or what stands for its 0."""
        from csm_ft.families.drawn import scored_share

        return scored_share(_csm(config).val_depth_fraction, examples)

    def loss_terms(self, config: TrainConfig) -> Sequence[Term]:
        """Return 2*((1-w)*c0 + w*depth), as the public CSM trainer; w = 0.5 is c0 + depth."""
        weight = _csm(config).decoder_loss_weight
        return (Term(2 * (1 - weight), {"c0": 1.0}), Term(2 * weight, {"depth": 1.0}))

    def measure_batch(
        self, model: SpeechModel, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Return nats and accuracy per codebook, and the nats of the end of speech."""
        from csm_ft.families.csm.data import CsmBatch
        from csm_ft.families.csm.measure import measure_batch
        from csm_ft.families.csm.model import CsmModel

        assert isinstance(model, CsmModel), "a model of this family"
        assert isinstance(batch, CsmBatch), "a batch of this family"
        return measure_batch(model, batch)

    def parameter(self, config: TrainConfig, name: str) -> ParameterRule:
        """Return the factor of the parameter's part; embeddings do not decay."""
        return ParameterRule(
            learning_rate_factor(_csm(config), name), decays="embeddings" not in name
        )

    def lora_modules(self, config: TrainConfig) -> str:
        """Return the modules of lora_targets in parts that are not frozen."""
        return lora_modules(_csm(config))

    def default_base(self, store: Store) -> str:
        """Return the published weights for Mimi's codes, the embedded ones for others."""
        is_mimi = store.info.facts["codec"] == "mimi"
        return HUB_NAME if is_mimi else str(EMBEDDED_BASE)

    def checkpoint_config(self, model: SpeechModel) -> Mapping[str, object]:
        """Return the config.json of Sesame's layout."""
        from csm_ft.families.csm.model import CsmModel

        assert isinstance(model, CsmModel), "a model of this family"
        return model.size.to_json()


def _csm(config: TrainConfig) -> CsmConfig:
    assert isinstance(config, CsmConfig), "CSM is configured by a CsmConfig"
    return config


def _max_padding(config: CsmConfig) -> float:
    """Return the share of padding above which a micro-batch is packed."""
    if config.packing == "auto":
        is_cpu = config.device == "cpu" and config.compile != "on"
        # Dropout draws by the layout of a micro-batch.
        has_dropout = config.method == "lora" and config.lora_dropout > 0
        return PACKED_ABOVE if is_cpu and not has_dropout else 1.0
    return 0.0 if config.packing == "on" else 1.0


def _read_text_ids(config: CsmConfig, store: Store, vocab_size: int) -> Tensor:
    """Return the text tokens in the training data, those that are replayed among them."""
    from csm_ft.families.csm.data import text_ids
    from csm_ft.families.stores import open_tokens

    stores = [store]
    if config.replay:
        path, _ = parse_replay(config.replay)
        in_memory = not config.partial_data_loading
        stores.append(open_tokens(path, config.family, in_memory=in_memory, option="replay"))
    ids = text_ids([one.splits["train"] for one in stores])
    if int(ids[-1]) >= vocab_size:
        names = " or ".join(str(one.path) for one in stores)
        raise ConfigError(
            f"{names} has the text id {int(ids[-1])}, the model has {vocab_size}; pretokenise with"
            " the model's tokenizer"
        )
    return ids


def _check_fit(size: CsmSize, store: Store, name: str) -> None:
    """Raise ConfigError when a token file has ids that the model does not have."""
    facts = store.info.facts
    codebooks, ids = facts["num_codebooks"], facts["codec_vocab_size"]
    text_ids = facts["text_vocab_size"]
    rules = [
        ("codebooks", codebooks, size.num_codebooks, codebooks == size.num_codebooks),
        ("audio ids", ids, size.audio_vocab_size, ids <= size.audio_vocab_size),
        ("text ids", text_ids, size.text_vocab_size, text_ids <= size.text_vocab_size),
    ]
    for what, in_store, in_model, fits in rules:
        if not fits:
            raise ConfigError(
                f"{store.path} has {in_store} {what} ({facts['codec']}, {facts['tokenizer']}), the"
                f" model {name} has {in_model}; pretokenise with the model's codec and tokenizer,"
                " name another model, or --train_from_scratch"
            )

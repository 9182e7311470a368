"""What the programs ask of Moshi: the contract of families/base.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from csm_ft import assets
from csm_ft.codecs import MIMI_HUB_NAME
from csm_ft.config.generate import GenerateConfig
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.config.train import TrainConfig
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
from csm_ft.families.encoder import Encoder
from csm_ft.families.moshi.config import (
    SILENT_USER,
    MoshiConfig,
    MoshiGenerateConfig,
    MoshiPretokenizeConfig,
    lora_modules,
)
from csm_ft.families.moshi.export import EXPORTERS

if TYPE_CHECKING:
    from csm_ft.data.examples import Examples
    from csm_ft.data.split import ClipTable, Split, Store
    from csm_ft.families.model import SpeechModel
    from csm_ft.families.moshi.data import MoshiBatch
    from csm_ft.families.moshi.encoder import MoshiEncoder
    from csm_ft.families.moshi.model import MoshiModel

HUB_NAME = "kyutai/moshiko-pytorch-bf16"
EMBEDDED_BASE = assets.path_of("demo/moshi/base")
_OF_THE_BASE = ("codec_fingerprint", "tokenizer_fingerprint")  # facts that its tokens have
_TEXT = {"text": 1.0, "text_padding": 1.0, "text_end": 1.0}


class MoshiFamily(Family):
    """Full-duplex dialogue: text and codes of Moshi, against the codes of a user."""

    name = "moshi"
    hub_names = (HUB_NAME, MIMI_HUB_NAME)
    generate_example = "--user question.wav"
    train_config = MoshiConfig
    pretokenize_config = MoshiPretokenizeConfig
    generate_config = MoshiGenerateConfig
    yardstick = Yardstick(
        terms=(Term(1.0, _TEXT), Term(1.0, {"c0": 1.0, "acoustic": 1.0})),
        unit="nats per frame",
        formula="text, paddings included, plus the mean over Moshi's codebooks, on all frames of"
        " the validation windows",
        metric_units={"val_gap_sec": "s", "val_gap_error_sec": "s"},
    )
    fact_names = (
        *("codec", "codec_source", "codec_fingerprint", "num_codebooks", "card", "frame_sec"),
        *("tokenizer", "tokenizer_fingerprint", "text_vocab_size", "interleave"),
        *("text_padding_id", "end_of_text_padding_id", "no_whitespace_before_word"),
    )
    exporters = EXPORTERS
    expressive = ExpressiveRecipe(
        text_template="<{emotion}>?{text}",
        pretokenize_config="configs/moshi_expressive_pretokenize.yaml",
        train_config="configs/moshi_expressive_lora.yaml",
        sweep_config="configs/moshi_sweep_expressive.yaml",
        export_format="moshi",
    )

    def arrange(self, split: Split, config: TrainConfig, *, evaluate: bool) -> Examples:
        """Cut dialogues into windows."""
        from csm_ft.families.moshi.arrange import arrange

        return arrange(split, _moshi(config), evaluate=evaluate)

    def describe(self, store: Store) -> list[str]:
        """Count words and speech of both speakers, and name codec, tokenizer and rule."""
        from csm_ft.families.moshi.describe import describe

        return describe(store)

    def summarise(self, split: Split) -> dict[str, Any]:
        """Count frames and words, and the tokens that the rule leaves out, per speaker."""
        from csm_ft.families.moshi.describe import summarise

        return summarise(split)

    def find_problems(self, split: Split, store: Store) -> dict[str, list[int]]:
        """Find clips without frames or words, and ids out of range."""
        from csm_ft.families.moshi.describe import find_problems

        return find_problems(split, store)

    def open_encoder(self, source: PretokenizeConfig | Store, device: str) -> MoshiEncoder:
        """Open a codec and a tokenizer."""
        from csm_ft.families.moshi.encoder import MoshiEncoder

        if not isinstance(source, PretokenizeConfig):
            return MoshiEncoder.from_store(source, device)
        assert isinstance(source, MoshiPretokenizeConfig), "Moshi's own options"
        return MoshiEncoder.from_options(source, device)

    def import_tokens(
        self, config: PretokenizeConfig, encoder: Encoder
    ) -> Mapping[str, ClipTable] | None:
        """Return the splits that J-Moshi's tools have tokenised, if options name these."""
        from csm_ft.families.moshi.encoder import MoshiEncoder
        from csm_ft.families.moshi.foreign import import_tokens

        assert isinstance(config, MoshiPretokenizeConfig), "Moshi's own options"
        assert isinstance(encoder, MoshiEncoder), "Moshi's own encoder"
        return import_tokens(config, encoder)

    def check_prompts(self, config: TrainConfig | GenerateConfig) -> None:
        """Raise PromptError for a mistake in the texts to speak."""
        from csm_ft.families.moshi.prompts import asked_texts

        if isinstance(config, MoshiGenerateConfig):
            asked_texts(config)

    def speaks_texts(self, store: Store) -> bool:
        """Tell whether the clips are one speaker's, with their texts; dialogues are not."""
        return store.info.facts.get("mono") == SILENT_USER

    def sample_prompts(
        self, config: TrainConfig, store: Store, encoder: Encoder
    ) -> tuple[list[Prompt], SamplingOptions]:
        """Return the openings of validation dialogues, to be continued."""
        from csm_ft.families.moshi.prompts import openings
        from csm_ft.families.moshi.sample import MoshiSamplingOptions

        own = _moshi(config)
        options = MoshiSamplingOptions(
            seed=own.seed,
            temperature=own.gen_temperature,
            topk=own.gen_topk,
            max_sec=own.gen_prompt_sec + own.gen_sec,
            text_temperature=own.gen_text_temperature,
            text_topk=own.gen_text_topk,
        )
        return openings(store.splits["val"], own), options

    def generate_prompts(
        self, config: GenerateConfig, record: EncoderRecord, encoder: Encoder
    ) -> tuple[list[Prompt], SamplingOptions]:
        """Return the recordings that --dialogue and --user name, and the texts to speak."""
        from csm_ft.families.moshi.encoder import MoshiEncoder
        from csm_ft.families.moshi.prompts import asked
        from csm_ft.families.moshi.sample import MoshiSamplingOptions

        assert isinstance(config, MoshiGenerateConfig), "Moshi's own options"
        assert isinstance(encoder, MoshiEncoder), "Moshi's own encoder"
        options = MoshiSamplingOptions(
            seed=config.seed,
            temperature=config.temperature,
            topk=config.topk,
            max_sec=config.max_sec,
            text_temperature=config.text_temperature,
            text_topk=config.text_topk,
        )
        return asked(config, encoder, lambda: record.tags), options

    def choices(self, config: TrainConfig, store: Store) -> Mapping[str, Any]:
        """Return the delays of the weights to start from, and whether they predict the user."""
        from csm_ft.families.moshi.size import published_delays

        own = _moshi(config)
        if own.train_from_scratch:
            delays = own.delays or published_delays(int(store.info.facts["num_codebooks"]))
            return {"delays": list(delays)}
        from csm_ft.families.moshi.weights import size_of

        size = size_of(own.model_name_or_checkpoint_path)
        delays = list(size.delays)
        if own.delays and own.delays != delays:
            raise ConfigError(
                f"delays {own.delays}: {own.model_name_or_checkpoint_path} has {delays}; leave the"
                " option out"
            )
        has_user = size.num_predicted == size.num_streams
        return {"delays": delays, "user_stream": own.user_stream or has_user}

    def empty_model(self, config: TrainConfig, store: Store) -> MoshiModel:
        """Build a model of the checkpoint's or the chosen size."""
        from csm_ft.families.moshi.model import empty_model
        from csm_ft.families.moshi.size import check_fit, size_from_scratch, with_user
        from csm_ft.families.moshi.weights import size_of

        own = _moshi(config)
        if own.train_from_scratch:
            size = size_from_scratch(own, store.info.facts)
        else:
            size = size_of(own.model_name_or_checkpoint_path)
            size = with_user(size) if own.user_stream else size
            if own.init_text_embeddings:
                size = replace(size, text_card=int(store.info.facts["text_vocab_size"]))
        check_fit(size, own, store)
        return empty_model(size)

    def load_weights(self, model: SpeechModel, config: TrainConfig) -> None:
        """Load base or random weights."""
        from csm_ft.families.moshi.model import MoshiModel, init_weights
        from csm_ft.families.moshi.weights import load_weights

        assert isinstance(model, MoshiModel), "a model of this family"
        if config.train_from_scratch:
            init_weights(model, config.seed)
        else:
            load_weights(model, config.model_name_or_checkpoint_path, _renewal(_moshi(config)))

    def load_model(self, name: str) -> MoshiModel:
        """Load finished weights."""
        from csm_ft.families.moshi.weights import load_model

        return load_model(name)

    def collate(
        self, examples: Examples, indices: Sequence[int], config: TrainConfig, *, draw: Draw | None
    ) -> MoshiBatch:
        """Make one micro-batch of windows."""
        from csm_ft.families.moshi.data import collate

        return collate(examples, indices, _moshi(config), draw=draw)

    def collate_scored(
        self, examples: Examples, indices: Sequence[int], config: TrainConfig
    ) -> MoshiBatch:
        """Make one micro-batch whose depth transformer sees val_depth_fraction of the columns."""
        from csm_ft.families.moshi.data import collate

        own, share = _moshi(config), self.scored_share(examples, config)
        return collate(examples, indices, own, val_depth_fraction=share, draw=None)

    def scored_share(self, examples: Examples, config: TrainConfig) -> float:
        """Return val_depth_fraction, or what stands for its 0."""
        from csm_ft.families.drawn import scored_share

        return scored_share(_moshi(config).val_depth_fraction, examples)

    def loss_terms(self, config: TrainConfig) -> Sequence[Term]:
        """Return the losses of the text and of Moshi's codes, as kyutai's trainer or J-Moshi."""
        own = _moshi(config)
        padding = own.text_padding_weight
        weights = {"c0": own.first_codebook_weight_multiplier, "acoustic": 1.0}
        user = {f"user_{part}": weight for part, weight in weights.items()}
        codes = Term(1.0, {**weights, **user} if own.user_stream else weights)
        if own.text_loss == "two_means":
            text = Term(1.0, {"text": 1.0, "text_end": 1.0})
            return (text, Term(padding, {"text_padding": 1.0}), codes)
        return (Term(1.0, {"text": 1.0, "text_padding": padding, "text_end": padding}), codes)

    def score(
        self, model: SpeechModel, examples: Examples, config: TrainConfig
    ) -> Mapping[str, float]:
        """Return gaps, overlap and shares of speech of continued dialogues, if they are asked for.

        Nearest to the real ones is best; only the distances (..._error) are better where lower.
        """
        from csm_ft.families.moshi.model import MoshiModel
        from csm_ft.families.moshi.score import score_dialogues

        assert isinstance(model, MoshiModel), "a model of this family"
        own = _moshi(config)
        return score_dialogues(model, examples.split, own) if own.val_dialogues else {}

    def parameter(self, config: TrainConfig, name: str) -> ParameterRule:
        """Return the learning rate factor; embeddings do not decay."""
        own, is_embedding = _moshi(config), "emb" in name
        return ParameterRule(
            own.learning_rate_factor(name),
            decays=not is_embedding,
            beside_adapters=is_embedding and own.lora_embeddings,
        )

    def lora_modules(self, config: TrainConfig) -> str:
        """Return a regular expression of the modules that get adapters."""
        return lora_modules(_moshi(config))

    def default_base(self, store: Store) -> str:
        """Return the published model, or the demo's; other codecs and tokenizers have none."""
        facts = store.info.facts
        if facts["codec"] == "mimi" and facts["tokenizer"] != "fitted":
            return HUB_NAME
        record = EMBEDDED_BASE / "speech.json"
        known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        is_embedded = all(facts[name] == known.get(name) for name in _OF_THE_BASE)
        return str(EMBEDDED_BASE) if is_embedded else ""

    def checkpoint_config(self, model: SpeechModel) -> Mapping[str, object]:
        """Return the config.json of the moshi package."""
        from csm_ft.families.moshi.model import MoshiModel

        assert isinstance(model, MoshiModel), "a model of this family"
        return model.size.to_json()


def _renewal(config: MoshiConfig) -> tuple[Sequence[int], int] | None:
    """Return the ids that keep their embeddings and the seed of the others; None = all keep."""
    is_wanted = config.init_text_embeddings
    return (config.retain_text_token_ids, config.seed) if is_wanted else None


def _moshi(config: TrainConfig) -> MoshiConfig:
    assert isinstance(config, MoshiConfig), "Moshi is configured by a MoshiConfig"
    return config

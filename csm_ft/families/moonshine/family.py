"""What the programs ask of Moonshine: the contract of families/base.py."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_ft.config.generate import GenerateConfig
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.config.train import TrainConfig
from csm_ft.errors import AudioError, ConfigError, PromptError
from csm_ft.families.base import (
    Draw,
    EncoderRecord,
    Family,
    ParameterRule,
    Prompt,
    SamplingOptions,
    Term,
    Yardstick,
)
from csm_ft.families.encoder import Encoder
from csm_ft.families.moonshine.config import (
    MoonshineConfig,
    MoonshineGenerateConfig,
    MoonshinePretokenizeConfig,
    learning_rate_factor,
    lora_modules,
)
from csm_ft.families.moonshine.export import EXPORTERS
from csm_ft.families.moonshine.size import (
    DEFAULT_TOKENS_PER_SEC,
    LEAST_TOKENS_PER_SEC,
    SAMPLE_RATE_HZ,
    TRAINED_SEC,
    MoonshineSize,
    check_flags,
    chosen_size,
    num_frames,
)
from csm_ft.families.moonshine.streaming_size import (
    STREAMING_PRESETS,
    StreamingSize,
    check_streaming_flags,
    chosen_streaming_size,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from csm_ft.data.examples import Examples
    from csm_ft.data.split import Split, Store
    from csm_ft.families.model import SpeechModel
    from csm_ft.families.moonshine.data import MoonshineBatch
    from csm_ft.families.moonshine.encoder import MoonshineEncoder
    from csm_ft.families.moonshine.model import MoonshineModel

HUB_NAME = "UsefulSensors/moonshine-tiny"
_TERMS = (Term(1.0, {"tokens": 1.0}),)


class MoonshineFamily(Family):
    """A small speech recogniser: sound in, text out."""

    name = "moonshine"
    hub_names = (HUB_NAME,)
    generate_example = "--audio recording.wav"
    train_config = MoonshineConfig
    pretokenize_config = MoonshinePretokenizeConfig
    generate_config = MoonshineGenerateConfig
    yardstick = Yardstick(
        terms=_TERMS,
        unit="nats per text token",
        formula="all text tokens of the validation split, each clip's end token included",
        metric_units={
            "val_wer": "word error rate",
            "val_cer": "character error rate",
            "val_wer_raw": "word error rate of the texts as they are",
            "val_capped": "share of transcripts that hit the cap",
            "val_repeated": "share of transcripts that say a phrase four times or more",
            **{
                f"val_{kind}": f"{kind} per word of the references"
                for kind in ("insertions", "deletions", "substitutions")
            },
        },
    )
    exporters = EXPORTERS

    def arrange(self, split: Split, config: TrainConfig, *, evaluate: bool) -> Examples:
        """Join rows to instances for training; each row is an example of validation."""
        from csm_ft.families.moonshine.arrange import arrange

        return arrange(split, _moonshine(config), evaluate=evaluate)

    def describe(self, store: Store) -> list[str]:
        """Count words, tokens and seconds, and name the tokenizer."""
        from csm_ft.families.moonshine.describe import describe

        return describe(store)

    def summarise(self, split: Split) -> dict[str, Any]:
        """Count words and tokens, alone and per second of sound, and the rows in stretches."""
        from csm_ft.families.moonshine.describe import summarise

        return summarise(split)

    def find_problems(self, split: Split, store: Store) -> dict[str, list[int]]:
        """Find clips without a frame or a token, and ids out of range."""
        import numpy as np

        from csm_ft.families.moonshine.arrange import has_sound_parts

        text_ids = int(store.info.facts.get("text_vocab_size", 0))
        too_high = set[int]()
        for start, block in split.blocks("text_tokens"):
            rows = np.flatnonzero(block >= text_ids)
            too_high |= {split.clip_at("text_tokens", start + int(row)) for row in rows}
        frames = [num_frames(length) for length in split.lengths("samples").tolist()]
        outside = [row for row in range(len(split)) if not has_sound_parts(split, row)]
        return {
            "no frame": np.flatnonzero(np.array(frames) == 0).tolist(),
            "no text tokens": np.flatnonzero(split.lengths("text_tokens") < 2).tolist(),
            f"text tokens of {text_ids} or more": sorted(too_high),
            "rows outside of their sound or tokens": outside,
        }

    def open_encoder(self, source: PretokenizeConfig | Store, device: str) -> MoonshineEncoder:
        """Open a tokenizer."""
        from csm_ft.families.moonshine.encoder import MoonshineEncoder

        if not isinstance(source, PretokenizeConfig):
            return MoonshineEncoder.from_store(source)
        assert isinstance(source, MoonshinePretokenizeConfig), "Moonshine's own options"
        return MoonshineEncoder.from_options(source)

    def sample_prompts(
        self, config: TrainConfig, store: Store, encoder: Encoder
    ) -> tuple[list[Prompt], SamplingOptions]:
        """Return the first validation clips, to be transcribed."""
        split = store.splits["val"]
        config = _moonshine(config)
        _own(encoder).max_tokens_per_sec = config.cap
        prompts = []
        for row in range(min(config.gen_clips, len(split))):
            clip, arrays = split.clip(row), split.arrays(row)
            prompts.append(
                Prompt(clip.id[:12], clip.text, clip.speaker, arrays=arrays, real=arrays)
            )
        return prompts, SamplingOptions(seed=config.seed)

    def open_listener(self, record: EncoderRecord, device: str) -> MoonshineEncoder:
        """Open the tokenizer, with the cap on tokens that the run had."""
        if record.store is None:
            raise ConfigError(
                f"{record.label}: no token file is known for these weights; name it with --data"
            )
        encoder = self.open_encoder(record.store, device)
        encoder.max_tokens_per_sec = _cap_of(record)
        return encoder

    def generate_prompts(
        self, config: GenerateConfig, record: EncoderRecord, encoder: Encoder
    ) -> tuple[list[Prompt], SamplingOptions]:
        """Return the recordings that --audio names."""
        from csm_ft.data import audio

        assert isinstance(config, MoonshineGenerateConfig), "Moonshine's own options"
        own = _own(encoder)
        own.max_tokens_per_sec = config.max_tokens_per_sec or _cap_of(record)
        if not config.audio:
            raise PromptError("--audio is missing: name the sound files to transcribe")
        prompts = []
        for path in map(Path, config.audio):
            try:
                wave = audio.load(path, sample_rate_hz=SAMPLE_RATE_HZ, channel=config.channel)
                (arrays,) = own.encode_audio([wave])
            except AudioError as error:
                raise PromptError(f"--audio: {error}; leave it out, or name another") from error
            assert not isinstance(arrays, str), "samples are always encoded"
            if not num_frames(len(arrays["samples"])):
                raise PromptError(f"--audio {path}: too short to have a frame; leave it out")
            prompts.append(Prompt(audio.digest(path)[:12], "", arrays=arrays, name=path.stem))
        return prompts, SamplingOptions(seed=config.seed)

    def empty_model(self, config: TrainConfig, store: Store) -> MoonshineModel:
        """Build a model of the checkpoint's or the chosen size."""
        from csm_ft.families.moonshine.encoder import MoonshineEncoder
        from csm_ft.families.moonshine.weights import empty_model, size_of, vocabulary_of

        config, facts = _moonshine(config), store.info.facts
        _check_gaps(config, store)
        tokenizer = MoonshineEncoder.from_store(store).tokenizer
        vocab_size = int(facts["text_vocab_size"])
        if config.train_from_scratch:
            size = _chosen_size(config, vocab_size)
        else:
            name = config.model_name_or_checkpoint_path
            size = size_of(name)
            _check_flags(config, size, name)
            if vocab_size > size.vocab_size:
                raise ConfigError(
                    f"{store.path} has {vocab_size} text ids ({facts['tokenizer']}), the model"
                    f" {name} has {size.vocab_size}; pretokenise with the model's tokenizer, name"
                    " another model, or --train_from_scratch"
                )
            known = vocabulary_of(name)
            if known and known != tokenizer.vocabulary:
                raise ConfigError(
                    f"{store.path} has the text ids of another tokenizer ({facts['tokenizer']})"
                    f" than the model {name} was trained with; pretokenise with --tokenizer of that"
                    " model (no sound is encoded again), name another model, or"
                    " --train_from_scratch"
                )
        model = empty_model(size)
        model.tokenizer = tokenizer
        return model

    def choices(self, config: TrainConfig, store: Store) -> Mapping[str, Any]:
        """Return the cap on transcripts that the training set suggests, unless one is chosen."""
        from csm_ft.families.moonshine.describe import tokens_per_sec_p999

        if _moonshine(config).max_tokens_per_sec:
            return {}
        most = tokens_per_sec_p999(store.splits["train"])
        return {"max_tokens_per_sec": max(LEAST_TOKENS_PER_SEC, math.ceil(10 * most) / 10)}

    def load_weights(self, model: SpeechModel, config: TrainConfig) -> None:
        """Load base or random weights."""
        from csm_ft.families.moonshine.model import MoonshineModel, init_weights
        from csm_ft.families.moonshine.weights import load_weights

        assert isinstance(model, MoonshineModel), "a model of this family"
        if config.train_from_scratch:
            init_weights(model, config.seed)
        else:
            load_weights(model, config.model_name_or_checkpoint_path)

    def load_model(self, name: str) -> MoonshineModel:
        """Load finished weights."""
        from csm_ft.families.moonshine.weights import load_model

        return load_model(name)

    def collate(
        self, examples: Examples, indices: Sequence[int], config: TrainConfig, *, draw: Draw | None
    ) -> MoonshineBatch:
        """Make one micro-batch; what is drawn is how training sound is changed."""
        from csm_ft.families.moonshine.data import collate

        return collate(examples, indices, _moonshine(config), draw=draw)

    def loss_terms(self, config: TrainConfig) -> Sequence[Term]:
        """Return the cross-entropy of all text tokens."""
        return _TERMS

    def score(
        self, model: SpeechModel, examples: Examples, config: TrainConfig
    ) -> Mapping[str, float]:
        """Return word and character error rates of greedy transcripts, over the corpus."""
        from csm_ft.families.moonshine.model import MoonshineModel
        from csm_ft.families.moonshine.score import score

        assert isinstance(model, MoonshineModel), "a model of this family"
        config = _moonshine(config)
        rows = list(_scored_rows(examples, config.val_wer_clips))
        if not rows or model.tokenizer is None:
            return {}
        return score(model, examples.split, rows, config)

    def score_each(
        self, model: SpeechModel, examples: Examples, encoder: Encoder, config: TrainConfig
    ) -> Mapping[str, NDArray[np.float64]]:
        """Return the errors of the greedy transcript of each clip."""
        from csm_ft.families.moonshine.encoder import MoonshineEncoder
        from csm_ft.families.moonshine.model import MoonshineModel
        from csm_ft.families.moonshine.score import errors_of

        assert isinstance(model, MoonshineModel), "a model of this family"
        assert isinstance(encoder, MoonshineEncoder), "an encoder of this family"
        model.tokenizer = encoder.tokenizer
        rows = list(_scored_rows(examples, -1))
        return errors_of(model, examples.split, rows, _moonshine(config)) if rows else {}

    def scored_by(self, examples: Examples, config: TrainConfig) -> str:
        """Name the rules that texts are compared by."""
        from csm_ft.data.text import open_normaliser
        from csm_ft.families.moonshine.score import language_of

        rules = open_normaliser(language_of(examples.split, _moonshine(config)))
        return f"val_wer and val_cer after the rules {rules.name}"

    def parameter(self, config: TrainConfig, name: str) -> ParameterRule:
        """Return the learning rate factor; embeddings do not decay."""
        part = "encoder" if name.startswith("model.encoder.") else "decoder"
        factor = learning_rate_factor(_moonshine(config), part)
        is_table = "embed_tokens" in name or "pos_emb" in name
        return ParameterRule(factor, decays=not is_table)

    def lora_modules(self, config: TrainConfig) -> str:
        """Return a regular expression of the modules that get adapters."""
        return lora_modules(_moonshine(config))

    def default_base(self, store: Store) -> str:
        """Return the model whose tokenizer it is, else the published tiny one.

        A tokenizer of the user's own has no base.
        """
        from csm_ft.hub import is_hub_name

        tokenizer = str(store.info.facts["tokenizer"])
        if tokenizer == "fitted":
            return ""
        is_model = is_hub_name(tokenizer) or (Path(tokenizer) / "config.json").is_file()
        return tokenizer if is_model else HUB_NAME

    def checkpoint_config(self, model: SpeechModel) -> Mapping[str, object]:
        """Return the config.json of transformers' layout, and which tokenizer's ids these are."""
        from csm_ft.families.moonshine.model import MoonshineModel
        from csm_ft.families.moonshine.weights import VOCABULARY

        assert isinstance(model, MoonshineModel), "a model of this family"
        known = {VOCABULARY: model.tokenizer.vocabulary} if model.tokenizer else {}
        return {**model.size.to_json(), **known}


def _cap_of(record: EncoderRecord) -> float:
    """Return the tokens of a transcript per second of sound that a run or its export allows."""
    if isinstance(record.config, MoonshineConfig):
        return record.config.cap
    beside = Path() if record.store is None else record.store.path.parent / "generation_config.json"
    if not beside.is_file():
        return DEFAULT_TOKENS_PER_SEC
    longest = json.loads(beside.read_text(encoding="utf-8")).get("max_length")
    return longest / TRAINED_SEC if longest else DEFAULT_TOKENS_PER_SEC


def _scored_rows(examples: Examples, wanted: int) -> Iterator[int]:
    """Yield clips spread evenly over the validation split, the same in every trial."""
    total = len(examples)
    count = total if wanted < 0 else min(wanted, total)
    for number in range(count):
        yield next(examples.of(number * total // count)).row


def _chosen_size(config: MoonshineConfig, vocab_size: int) -> MoonshineSize | StreamingSize:
    if config.model_size in STREAMING_PRESETS:
        return chosen_streaming_size(config, vocab_size)
    return chosen_size(config, vocab_size)


def _check_flags(config: MoonshineConfig, size: MoonshineSize | StreamingSize, where: str) -> None:
    if config.model_size != MoonshineConfig.model_fields["model_size"].default:
        wanted = _chosen_size(config, size.vocab_size)
        if (type(wanted), _shape(wanted)) != (type(size), _shape(size)):
            raise ConfigError(
                f"model_size {config.model_size}: the weights {where} have {size}; name weights of"
                f" that size, as UsefulSensors/moonshine-{config.model_size}, with"
                " --model_name_or_checkpoint_path, or add --train_from_scratch"
            )
    if isinstance(size, StreamingSize):
        check_streaming_flags(config, size, where)
    else:
        check_flags(config, size, where)


def _shape(size: MoonshineSize | StreamingSize) -> tuple[int, ...]:
    """Return width and layers, by which the published sizes are told apart."""
    dim = size.encoder.dim if isinstance(size, StreamingSize) else size.dim
    return dim, size.encoder_layers, size.decoder_layers


def _check_gaps(config: MoonshineConfig, store: Store) -> None:
    """Raise ConfigError for gaps that the token file keeps no sound of."""
    kept_sec = store.info.facts.get("stretch_gap_sec")
    if config.instance_max_sec and kept_sec is not None and config.max_gap_sec > kept_sec:
        raise ConfigError(
            f"max_gap_sec {config.max_gap_sec:g}: {store.path} keeps the sound of gaps up to"
            f" {kept_sec:g} s; give --max_gap_sec {kept_sec:g}, or pretokenise again with"
            f" --stretch_gap_sec {config.max_gap_sec:g}"
        )


def _moonshine(config: TrainConfig) -> MoonshineConfig:
    assert isinstance(config, MoonshineConfig), "Moonshine is configured by a MoonshineConfig"
    return config


def _own(encoder: Encoder) -> MoonshineEncoder:
    from csm_ft.families.moonshine.encoder import MoonshineEncoder

    assert isinstance(encoder, MoonshineEncoder), "Moonshine's own encoder"
    return encoder

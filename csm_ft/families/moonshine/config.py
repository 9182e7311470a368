"""Options of Moonshine, and which weights they train. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from csm_ft.config.base import option
from csm_ft.config.generate import GenerateConfig
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.config.train import TrainConfig
from csm_ft.families.moonshine.size import DEFAULT_TOKENS_PER_SEC

Case = Literal["keep", "lower", "sentence"]  # of the texts
ModelSize = Literal["tiny", "base", "streaming-tiny", "streaming-small", "streaming-medium"]
_WORDS: Mapping[str, Sequence[str]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("fc1", "fc2"),
}
_BLOCKS = ("self_attn", "encoder_attn", "mlp")
_MODULES = tuple(name for names in _WORDS.values() for name in names)
_SIZE = "0 = that of model_size."


_PRETOKENIZE = (
    "sound is read once, before training: python pretokenize.py --family moonshine --train_manifest"
    " FILE --val_manifest FILE --output asr.hdf5, then name asr.hdf5 with --data"
)


class MoonshineConfig(TrainConfig):
    """Options of train.py for Moonshine."""

    # Names of the Moonshine training guide.
    aliases: ClassVar[Mapping[str, str]] = {"model": "model_size", "num_steps": "max_steps"}
    answers: ClassVar[Mapping[str, str]] = {
        "resume_from": "not needed: the same command resumes the run in --output_dir",
        **dict.fromkeys(("train_manifest", "val_manifest"), _PRETOKENIZE),
    }
    search_space: ClassVar[str] = "configs/sweep_moonshine.yaml"
    methods: ClassVar[Sequence[str]] = ("full", "lora", "encoder_only", "decoder_only")
    changes_examples: ClassVar[Sequence[str]] = (
        *TrainConfig.changes_examples,
        *("instance_min_sec", "instance_max_sec", "max_gap_sec"),
    )
    not_searchable: ClassVar[Mapping[str, str]] = {
        **TrainConfig.not_searchable,
        "max_tokens_per_sec": "trials with other caps have other error rates; give it for all",
        "language": "trials scored by other rules cannot be compared; give it for all",
        "val_wer_clips": "trials scored on other clips cannot be compared; give it for all",
    }

    family: str = option("moonshine", "Model family; auto = that of the token file.", group="run")
    model_name_or_checkpoint_path: str = option(
        "auto",
        "Weights to start from: hub name, folder, run folder or file; auto ="
        " UsefulSensors/moonshine-tiny.",
        group="run",
        path=True,
    )
    method: str = option(
        "full",
        "Which weights are trained: full = all; lora = low-rank adapters, with all other weights"
        " frozen (learning_rate then defaults to 1.5e-4); encoder_only; decoder_only.",
        group="what is trained",
    )
    model_size: ModelSize = option(
        "tiny",
        "Size of a model from scratch, or of the weights; the streaming models are the second"
        " generation.",
        group="model size",
    )
    model_dim: int = option(0, f"Width; {_SIZE}", group="model size", ge=0)
    model_ffn_dim: int = option(0, f"Feed-forward width; {_SIZE}", group="model size", ge=0)
    model_heads: int = option(0, f"Attention heads; {_SIZE}", group="model size", ge=0)
    model_encoder_layers: int = option(0, f"Encoder layers; {_SIZE}", group="model size", ge=0)
    model_decoder_layers: int = option(0, f"Decoder layers; {_SIZE}", group="model size", ge=0)
    instance_min_sec: float = option(
        0.0,
        "Minimum length of a training example in seconds; shorter ones are left out.",
        group="examples",
        ge=0,
    )
    instance_max_sec: float = option(
        0.0,
        "Join rows that follow each other in a recording to training examples of up to this many"
        " seconds (see pretokenize.py --stretch_gap_sec); 0 = each row is an example.",
        group="examples",
        ge=0,
    )
    max_gap_sec: float = option(
        2.0, "Longest gap between two rows of a training example.", group="examples", ge=0
    )
    speed_perturbation: float = option(
        0.0,
        "Play each training example faster or slower by up to this share, as 0.1; its pitch moves"
        " with it.",
        group="augmentation",
        ge=0,
        le=0.5,
    )
    time_mask_sec: float = option(
        0.0,
        "Silence a stretch of up to this long in each second of a training example, as 0.2.",
        group="augmentation",
        ge=0,
        le=1,
    )
    band_mask_hz: float = option(
        0.0,
        "Leave a band of frequencies of up to this width out of each training example, as 1000.",
        group="augmentation",
        ge=0,
        le=8000,
    )
    label_smoothing: float = option(
        0.0,
        "Label smoothing of the training loss; validation has none.",
        group="optimisation",
        ge=0,
        lt=1,
    )
    encoder_lr_factor: float = option(
        1.0,
        "Learning rate of the encoder as a multiple of learning_rate; 0 = frozen.",
        group="what is trained",
        ge=0,
    )
    decoder_lr_factor: float = option(
        1.0, "The same for the decoder.", group="what is trained", ge=0
    )
    decode_workers: int = option(
        2,
        "Processes that decode sound files for a token file made with --keep_audio reference; 0 ="
        " the thread that makes the batches.",
        group="examples",
        trains=False,
        ge=0,
    )
    max_tokens_per_sec: float = option(
        0.0,
        "Maximum tokens of a transcript per second of sound; 0 = what 99.9 % of the training clips"
        " keep to, at least 6.",
        group="samples",
        trains=False,
        ge=0,
    )
    language: str = option(
        "auto",
        "Language of the texts, as en, for val_wer and val_cer: Whisper's rules for English or its"
        " basic ones; auto = that of most validation clips, by their column language.",
        group="schedule",
        trains=False,
    )
    val_wer_clips: int = option(
        200,
        "Validation clips that are transcribed for the word error rate; 0 = none, -1 = all.",
        group="schedule",
        trains=False,
        ge=-1,
    )
    gen_clips: int = option(
        4, "Validation clips whose transcripts are kept.", group="samples", trains=False, ge=0
    )

    @property
    def cap(self) -> float:
        """Tokens of a transcript per second of sound, where no training set has been asked."""
        return self.max_tokens_per_sec or DEFAULT_TOKENS_PER_SEC

    @model_validator(mode="after")
    def _lengths_of_examples(self) -> Self:
        if 0 < self.instance_max_sec < self.instance_min_sec:
            raise ValueError(
                f"instance_max_sec {self.instance_max_sec:g} is below instance_min_sec"
                f" {self.instance_min_sec:g}; swap them, or lower the minimum"
            )
        return self

    @model_validator(mode="after")
    def _what_is_trained(self) -> Self:
        if self.method == "lora":
            lora_modules(self)
        if not any(learning_rate_factor(self, part) for part in ("encoder", "decoder")):
            raise ValueError(
                f"method {self.method}: every part it would train has an lr_factor of 0; nothing is"
                " left to train"
            )
        return self


class MoonshinePretokenizeConfig(PretokenizeConfig):
    """Options of pretokenize.py for Moonshine."""

    # Names of the Moonshine training guide.
    aliases: ClassVar[Mapping[str, str]] = {
        "train_manifest": "train_data",
        "val_manifest": "val_data",
    }
    family: str = option("moonshine", "Model family that the tokens are for.", group="data")
    tokenizer: str = option(
        "auto",
        "Tokenizer of the base: tokenizer.json, folder, hub name, or the token file of a run; auto"
        " = UsefulSensors/moonshine-tiny.",
        group="text",
        path=True,
    )
    fit_tokenizer: int = option(
        0,
        "Fit a byte-fallback BPE of so many ids on the training texts instead, for a model from"
        " scratch.",
        group="text",
        ge=0,
    )
    text_case: Case = option(
        "keep", "Case of the texts; sentence = lower with a capital in front.", group="text"
    )
    amplitude: Literal["none", "peak"] = option(
        "none",
        "Normalisation of each clip's level; the published models were trained with none.",
        group="audio",
    )
    keep_audio: Literal["copy", "reference"] = option(
        "copy",
        "copy = the token file keeps the sound; reference = only where it is in the sound files,"
        " which are decoded in training and must stay as they are.",
        group="audio",
    )
    stretch_gap_sec: float = option(
        0.0,
        "Keep training rows of one recording with gaps up to this as one stretch, the sound of the"
        " gaps included, for train.py --instance_max_sec; 0 = each row is a clip by itself.",
        group="audio",
        ge=0,
    )
    max_sec: float = option(
        64.0, "Maximum length of a row in seconds; longer ones are rejected.", group="checks", gt=0
    )

    @model_validator(mode="after")
    def _size_of_tokenizer(self) -> Self:
        if 0 < self.fit_tokenizer < 300:
            raise ValueError(
                f"fit_tokenizer {self.fit_tokenizer}: 256 bytes and 3 special tokens come first;"
                " give 300 or more"
            )
        return self


class MoonshineGenerateConfig(GenerateConfig):
    """Options of `python -m csm_ft.generate` for Moonshine."""

    family: str = option("moonshine", "Model family; auto = that of the weights.", group="model")
    audio: list[str] = option([], "Sound files to transcribe.", group="recordings", path=True)
    channel: Literal["mix", "left", "right"] = option(
        "mix", "Channel of stereo files.", group="recordings"
    )
    max_tokens_per_sec: float = option(
        0.0,
        "Maximum tokens of a transcript per second of sound; 0 = that of the training, else 6.5"
        " (scripts other than Latin want 13).",
        group="recordings",
        ge=0,
    )


def learning_rate_factor(config: MoonshineConfig, part: str) -> float:
    """Return the learning rate of encoder or decoder as a multiple; 0 = frozen."""
    if config.method.endswith("_only") and config.method != f"{part}_only":
        return 0.0
    factor: float = getattr(config, f"{part}_lr_factor")
    return factor * config.lora_lr_factor if config.method == "lora" else factor


def lora_modules(config: MoonshineConfig) -> str:
    """Return a regular expression of the modules that get adapters; ValueError for a wrong word."""
    wanted: list[str] = []
    for word in config.lora_targets.replace(" ", "").split(","):
        block, _, module = word.rpartition(".")
        names = _WORDS.get(module, (module,))
        if not set(names) <= set(_MODULES) or block not in ("", *_BLOCKS):
            raise ValueError(
                f"lora_targets: {word!r} is none of {', '.join((*_WORDS, *_MODULES))}; write e.g."
                " attention,mlp or q_proj,v_proj, or self_attn.q_proj for one kind of attention"
            )
        wanted += [rf"{block or '[a-z_]+'}\.{name}" for name in names]
    parts = [part for part in ("encoder", "decoder") if learning_rate_factor(config, part)]
    modules = "|".join(dict.fromkeys(wanted))
    return rf"model\.({'|'.join(parts)})\.layers\.\d+\.({modules})"

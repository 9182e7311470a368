"""Options of Moshi, and which weights they train. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from csm_ft.codecs import CodecName
from csm_ft.config.base import option
from csm_ft.config.generate import SpokenGenerateConfig
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.config.train import TrainConfig
from csm_ft.families.moshi.interleave import Rule
from csm_ft.families.moshi.public_trainers import (
    J_MOSHI_ALIASES,
    J_MOSHI_FLAGS,
    is_kyutai,
    j_moshi_options,
    pretokenize_options,
    training_options,
)
from csm_ft.families.template import TextTemplate

SILENT_USER = "silent_user"  # --mono
TEXT_ALONE = "{text}"  # --text_template: no tags
MIMI_CARD = 2048  # codes per codebook of Mimi, without the ids that other families add
_LAYER = r"(?:transformer|depformer)\.layers\.\d+\."
_TEMPORAL, _DEPTH = "temporal", "depth"
_TARGETS: Mapping[str, str] = {  # a word of lora_targets -> modules
    "in_projs": _LAYER + r"self_attn\.in_projs\.\d+",
    "out_projs": _LAYER + r"self_attn\.out_projs\.\d+",
    "linear_in": _LAYER + r"gating(?:\.\d+)?\.linear_in",
    "linear_out": _LAYER + r"gating(?:\.\d+)?\.linear_out",
    "depformer_in": r"depformer_in\.\d+",
    "linears": r"linears\.\d+",
    "text_linear": r"text_linear",
}
_GROUPS: Mapping[str, Sequence[str]] = {
    "attention": ("in_projs", "out_projs"),
    "mlp": ("linear_in", "linear_out"),
    "heads": ("depformer_in", "linears", "text_linear"),
    "all": tuple(_TARGETS),
}
_EMBEDDINGS_OF_TEXT = ("text_emb.weight", "depformer_text_emb.weight")


class MoshiConfig(TrainConfig):
    """Options of train.py for Moshi."""

    aliases: ClassVar[Mapping[str, str]] = {**J_MOSHI_ALIASES, "duration_sec": "window_sec"}
    legacy_flags: ClassVar[Sequence[str]] = (*TrainConfig.legacy_flags, *J_MOSHI_FLAGS)
    search_space: ClassVar[str] = "configs/moshi_sweep.yaml"
    methods: ClassVar[Sequence[str]] = (
        *("full", "lora", "temporal_only", "depth_only", "text_embeddings_only"),
    )
    changes_examples: ClassVar[Sequence[str]] = (
        *(*TrainConfig.changes_examples, "window_sec", "min_window_sec"),
    )
    not_searchable: ClassVar[Mapping[str, str]] = {
        **TrainConfig.not_searchable,
        "val_window_sec": "trials validated on other windows cannot be compared; give it for all",
        "val_dialogues": "trials scored on other dialogues cannot be compared; give it for all",
        "val_depth_fraction": "trials validated on other frames cannot be compared; give it for"
        " all",
        "moshi_channel": "another speaker has other targets; give it for all trials",
        "delays": "they are those of the weights",
        "init_text_embeddings": "it belongs to the tokenizer; give it for all trials",
        "user_stream": "models with and without it are validated alike; give it for all trials",
    }
    measured_by: ClassVar[Mapping[str, Any]] = {
        **TrainConfig.measured_by,
        "val_depth_fraction": 1.0,
    }

    family: str = option("moshi", "Model family; auto = that of the token file.", group="run")
    model_name_or_checkpoint_path: str = option(
        "auto",
        "Weights to start from: hub name, folder, run folder or file; auto ="
        " kyutai/moshiko-pytorch-bf16, or for the demo's codes and tokenizer the demo's base.",
        group="run",
        path=True,
    )
    method: str = option(
        "lora",
        "Which weights are trained: lora = low-rank adapters, with all other weights frozen"
        " (learning_rate then defaults to 1.5e-4); full = all, the default with train_from_scratch"
        " and init_text_embeddings; temporal_only; depth_only = the depth"
        " transformer, its embeddings and heads; text_embeddings_only.",
        group="what is trained",
    )
    lora_rank: int = option(128, "Rank of the adapters.", group="what is trained", gt=0)
    lora_alpha: float = option(
        256.0,
        "Adapters are scaled by lora_alpha / lora_rank (kyutai's scaling), with lora_rslora by"
        " lora_alpha / sqrt(lora_rank).",
        group="what is trained",
        gt=0,
    )
    lora_targets: str = option(
        "all",
        "Modules with adapters: all, attention, mlp, heads or names of modules"
        " (in_projs,linear_in).",
        group="what is trained",
    )
    lora_embeddings: bool = option(
        False,
        "With method lora: train the embeddings of text and codes, too, whole (kyutai's ft_embed).",
        group="what is trained",
    )
    temporal_lr_factor: float = option(
        1.0,
        "Learning rate of the temporal transformer, its embeddings and the text head, as a multiple"
        " of learning_rate; 0 = frozen.",
        group="what is trained",
        ge=0,
    )
    depth_lr_factor: float = option(
        1.0,
        "The same for the depth transformer, its embeddings and heads.",
        group="what is trained",
        ge=0,
    )

    window_sec: float = option(
        100.0,
        "Longest window of a dialogue, in seconds; shorter dialogues are not padded.",
        group="windows",
        gt=0,
    )
    min_window_sec: float = option(
        5.0,
        "What is left of a dialogue behind its last full window is trained on from this length on.",
        group="windows",
        ge=0,
    )
    val_window_sec: float = option(
        100.0, "Window of validation, in seconds; the same for all trials.", group="windows", gt=0
    )
    val_dialogues: int = option(
        0,
        "Dialogues that each validation continues, as samples are, for val_gap_sec,"
        " val_overlap_share, val_moshi_share and their distances to the real ones.",
        group="windows",
        trains=False,
        ge=0,
    )
    moshi_channel: Literal["left", "right", "both"] = option(
        "left", "Whose side Moshi speaks; both = each dialogue twice.", group="windows"
    )
    user_stream: bool = option(
        False,
        "Predict the user's codes, too. Weights that do not are extended by copies of Moshi's half,"
        " which change nothing of what they say; weights that do stay so.",
        group="what is trained",
    )
    init_text_embeddings: bool = option(
        False,
        "Begin with new text embeddings, drawn from the distribution of the old ones, for a"
        " tokenizer that the weights do not know; of any size.",
        group="what is trained",
    )
    retain_text_token_ids: list[int] = option(
        [],
        "With init_text_embeddings: ids that keep their embeddings, besides the paddings.",
        group="what is trained",
    )
    delays: list[int] = option(
        [],
        "Delays in frames of text and every codebook; empty = those of the weights (from scratch:"
        " one frame for all codebooks but the first).",
        group="model size",
    )

    first_codebook_weight_multiplier: float = option(
        100.0,
        "Weight of codebook 0 in the training loss, against 1 of the others.",
        group="optimisation",
        gt=0,
    )
    text_padding_weight: float = option(
        0.5, "Weight of padding in the loss of the text.", group="optimisation", gt=0
    )
    text_loss: Literal["weighted_mean", "two_means"] = option(
        "weighted_mean",
        "weighted_mean = one mean over all text tokens, where padding and end of padding have"
        " text_padding_weight; two_means = the mean of words and ends of padding, plus"
        " text_padding_weight times that of padding (J-Moshi).",
        group="optimisation",
    )
    depth_fraction: float = option(
        1.0,
        "Share of each window's columns that train the depth transformer, drawn anew each epoch;"
        " the gradient is unbiased.",
        group="optimisation",
        gt=0,
        le=1,
    )
    val_depth_fraction: float = option(
        0.0,
        "Share of each validation window's columns whose codes are scored while a run goes on, the"
        " same ones in every validation of every trial; the text always is. The best weights are"
        " measured on all columns at the end. 1 = always all; 0 = a tenth, and at least 500.",
        group="schedule",
        trains=False,
        ge=0,
        le=1,
    )

    model_dim: int = option(256, "Width of a model from scratch.", group="model size", gt=0)
    model_layers: int = option(4, "Its temporal layers.", group="model size", gt=0)
    model_heads: int = option(4, "Its temporal heads.", group="model size", gt=0)
    model_context: int = option(3000, "Frames that it reaches back.", group="model size", gt=0)
    model_depth_dim: int = option(128, "Width of its depth transformer.", group="model size", gt=0)
    model_depth_layers: int = option(
        2, "Layers of its depth transformer.", group="model size", gt=0
    )
    model_depth_heads: int = option(4, "Heads of its depth transformer.", group="model size", gt=0)

    gen_clips: int = option(
        2,
        "Validation dialogues whose openings are continued as samples.",
        group="samples",
        trains=False,
        ge=0,
    )
    gen_prompt_sec: float = option(
        10.0, "Seconds of a dialogue that a sample continues.", group="samples", trains=False, ge=0
    )
    gen_sec: float = option(
        20.0, "Seconds of a sample behind its prompt.", group="samples", trains=False, gt=0
    )
    gen_temperature: float = option(
        0.8, "Temperature of the codes; 0 = greedy.", group="samples", trains=False, ge=0
    )
    gen_topk: int = option(
        250, "Codes that are drawn from; 0 = all.", group="samples", trains=False, ge=0
    )
    gen_text_temperature: float = option(
        0.7, "Temperature of the text; 0 = greedy.", group="samples", trains=False, ge=0
    )
    gen_text_topk: int = option(
        25, "Text tokens that are drawn from; 0 = all.", group="samples", trains=False, ge=0
    )

    @classmethod
    def translate(cls, values: dict[str, Any], where: str) -> dict[str, Any]:
        """Take the YAML of kyutai's trainer, too."""
        return training_options(values, where) if is_kyutai(values) else values

    @model_validator(mode="before")
    @classmethod
    def _of_j_moshi(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = j_moshi_options(values)
        has_new_weights = values.get("train_from_scratch") or values.get("init_text_embeddings")
        values.setdefault("method", "full" if has_new_weights else "lora")
        return values

    @model_validator(mode="after")
    def _new_embeddings_of_a_base(self) -> Self:
        if self.init_text_embeddings and (self.train_from_scratch or self.method == "lora"):
            raise ValueError(
                "init_text_embeddings renews the embeddings of trained weights, and trains them:"
                " leave out train_from_scratch, and method lora"
            )
        return self

    @model_validator(mode="after")
    def _what_is_trained(self) -> Self:
        if self.method == "lora":
            lora_modules(self)
        elif self.lora_embeddings:
            raise ValueError(
                f"lora_embeddings trains embeddings beside adapters; method is {self.method}: give"
                " method lora, or leave it out"
            )
        if self.method != "text_embeddings_only" and not any(
            map(self._factor, (_TEMPORAL, _DEPTH))
        ):
            raise ValueError(
                f"method {self.method}: every part it would train has an lr_factor of 0; nothing is"
                " left to train"
            )
        return self

    def window_frames(self, facts: Mapping[str, Any], *, evaluate: bool) -> int:
        """Return the frames of a full window, at least 1."""
        seconds = self.val_window_sec if evaluate else self.window_sec
        return max(1, round(seconds / float(facts["frame_sec"])))

    def shortest_frames(self, facts: Mapping[str, Any]) -> int:
        """Return the fewest frames of what is left of a cut dialogue."""
        return max(1, round(self.min_window_sec / float(facts["frame_sec"])))

    def _factor(self, part: str) -> float:
        if self.method.endswith("_only") and self.method != f"{part}_only":
            return 0.0
        factor: float = getattr(self, f"{part}_lr_factor")
        return factor * self.lora_lr_factor if self.method == "lora" else factor

    def learning_rate_factor(self, name: str) -> float:
        """Return the learning rate of a parameter as a multiple; 0 = frozen."""
        if self.method == "text_embeddings_only":
            return float(name in _EMBEDDINGS_OF_TEXT)
        return self._factor(_DEPTH if name.startswith(("depformer", "linears")) else _TEMPORAL)


class MoshiPretokenizeConfig(PretokenizeConfig):
    """Options of pretokenize.py for Moshi."""

    aliases: ClassVar[Mapping[str, str]] = {
        "word_transcript_dir": "words_folder",
        "text_tokenizer_repo": "tokenizer",
    }

    family: str = option("moshi", "Model family that the tokens are for.", group="data")
    words_folder: str = option(
        "",
        "Folder with the words of each sound, name.json for name.wav; empty = beside the sound, or"
        " the column words.",
        group="data",
        path=True,
    )
    mono: Literal["reject", "silent_user"] = option(
        "reject",
        "Files of one channel: silent_user = Moshi's voice, beside a user who never speaks; rows"
        " with a text need no words with times then.",
        group="data",
    )
    codec: CodecName = option(
        "mimi", "Audio codec; melrvq is embedded and needs no download.", group="codec and text"
    )
    codec_source: str = option(
        "auto",
        "Weights of the codec: hub name, folder or file; auto = kyutai/mimi, or the embedded one.",
        group="codec and text",
        path=True,
    )
    num_codebooks: int = option(
        8, "Codebooks to keep of each channel.", group="codec and text", gt=0
    )
    tokenizer: str = option(
        "auto",
        "Model of SentencePiece: file, folder or hub name; auto = that of"
        " kyutai/moshiko-pytorch-bf16.",
        group="codec and text",
        path=True,
    )
    fit_tokenizer: int = option(
        0,
        "Fit a model of SentencePiece of so many ids on the training texts instead, for a model"
        " from scratch.",
        group="codec and text",
        ge=0,
    )
    lead_sec: float = option(
        0.0,
        "Silence put before every clip, so that a tag is read before the speech begins; 0.5 is"
        " enough for six tokens.",
        group="codec and text",
        ge=0,
    )
    text_template: str = option(
        TEXT_ALONE,
        "What the model reads of a row: any columns of the metadata, as '<{emotion}>?{text}'; ? ="
        " optional. What stands before the text is a word at the start of the clip.",
        group="codec and text",
    )
    text_delay_sec: float = option(
        0.0,
        "Seconds that words are written behind (above 0) or before (below 0) they are said; before"
        " gives the voice words to prepare for, as for a synthesiser.",
        group="codec and text",
        ge=-10,
        le=10,
    )
    interleave: Rule = option(
        "drop",
        "How words are laid over frames: drop = a word cuts off the rest of the one before it"
        " (kyutai's trainer); shift = it waits; characters = each piece at the time of its letters"
        " (J-Moshi).",
        group="codec and text",
    )
    no_whitespace_before_word: bool = option(
        False,
        "With interleave characters: words follow each other without blanks, as in Japanese.",
        group="codec and text",
    )
    text_padding_id: int = option(3, "Text id where nothing is said.", group="codec and text", ge=0)
    end_of_text_padding_id: int = option(
        0, "Text id of the frame before a word.", group="codec and text", ge=0
    )

    @classmethod
    def translate(cls, values: dict[str, Any], where: str) -> dict[str, Any]:
        """Take the YAML of kyutai's trainer, too."""
        return pretokenize_options(values, where) if is_kyutai(values) else values

    @model_validator(mode="after")
    def _two_ids(self) -> Self:
        if self.text_padding_id == self.end_of_text_padding_id:
            raise ValueError(
                f"text_padding_id and end_of_text_padding_id are both {self.text_padding_id}; give"
                " two ids"
            )
        if self.trim_silence:
            raise ValueError("trim_silence: dialogues keep their silence; leave it out")
        TextTemplate(self.text_template)
        return self


class MoshiGenerateConfig(SpokenGenerateConfig):
    """Options of `python -m csm_ft.generate` for Moshi."""

    family: str = option("moshi", "Model family; auto = that of the weights.", group="model")
    dialogue: list[str] = option(
        [],
        "Stereo recordings to continue, with the user's channel as recorded.",
        group="prompts",
        path=True,
    )
    user: list[str] = option(
        [], "Recordings of a user to answer, from silence.", group="prompts", path=True
    )
    test_data: str = option(
        "",
        "Token file, or a parquet file of J-Moshi's prepare_dataset, whose dialogues are all"
        " continued.",
        group="prompts",
        path=True,
    )
    test_split: Literal["train", "val"] = option(
        "val", "Split of that token file.", group="prompts"
    )
    test_dialogues: int = option(
        0, "Dialogues of test_data, from the first on; 0 = all.", group="prompts", ge=0
    )
    prompt_sec: float = option(
        10.0, "Seconds of a dialogue that are continued.", group="prompts", ge=0
    )
    moshi_channel: Literal["left", "right"] = option(
        "left", "Whose side Moshi speaks in a dialogue.", group="prompts"
    )
    invent_user: bool = option(
        False,
        "Generate the user's side behind the prompt of a dialogue, too (weights with user_stream).",
        group="prompts",
    )
    max_sec: float = option(60.0, "Longest sample in seconds.", group="sampling", gt=0)
    temperature: float = option(
        0.8, "Temperature of the codes; 0 = greedy.", group="sampling", ge=0
    )
    topk: int = option(250, "Codes that are drawn from; 0 = all.", group="sampling", ge=0)
    text_temperature: float = option(
        0.7, "Temperature of the text; 0 = greedy.", group="sampling", ge=0
    )
    text_topk: int = option(25, "Text tokens that are drawn from; 0 = all.", group="sampling", ge=0)


def lora_modules(config: MoshiConfig) -> str:
    """Return a regular expression of the modules that get adapters; ValueError for a wrong word."""
    patterns: list[str] = []
    for word in config.lora_targets.replace(" ", "").split(","):
        names = _GROUPS.get(word, (word,))
        if not set(names) <= _TARGETS.keys():
            raise ValueError(
                f"lora_targets: {word!r} is none of {', '.join((*_GROUPS, *_TARGETS))}; write e.g."
                " all, or attention,mlp"
            )
        patterns += [_TARGETS[name] for name in names]
    chosen = "|".join(dict.fromkeys(patterns))
    prefixes = {_TEMPORAL: "transformer|text_linear", _DEPTH: "depformer|linears"}
    frozen = [prefixes[part] for part in prefixes if not getattr(config, f"{part}_lr_factor")]
    without = f"(?!{'|'.join(frozen)})" if frozen else ""
    return f"{without}(?:{chosen})"

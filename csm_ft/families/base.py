"""The contract between the programs and a model family. Imports no torch.

Its parts are encoder.py, exporter.py and, with torch, model.py.

A family is a package families/<name>/ and one `case` in families/__init__.py. The programs know no
codec, tokenizer, layout of tokens, part of a loss, unit or prompt: all of that stands behind these
types. docs/extending.md walks through a complete family.

Shapes: C channels, N samples, n clips, r pieces, B sequences in a micro-batch, T rows of an array.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from csm_ft.config.generate import GenerateConfig
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.config.train import TrainConfig
from csm_ft.errors import ConfigError

if TYPE_CHECKING:  # so that --help imports neither numpy nor torch
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from csm_ft.data.examples import Examples
    from csm_ft.data.split import Arrays, ClipTable, Split, Store
    from csm_ft.families.encoder import Encoder
    from csm_ft.families.exporter import Exporter
    from csm_ft.families.model import Batch, SpeechModel

Number = TypeVar("Number", "float", "Tensor")


# Loss and validation loss


class Term(NamedTuple):
    """One term of a loss: a weighted mean over one or several parts, with ONE divisor.

    weight * sum_p(w_p * nats_p) / sum_p(w_p * count_p) for the parts p of `parts`, {p: w_p}.
    """

    weight: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Yardstick:
    """The validation loss that trials are compared by; no option that is searched changes it."""

    terms: Sequence[Term]
    unit: str  # "nats per frame"
    formula: str  # in words, for the report and the model card
    metric_units: Mapping[str, str] = field(default_factory=dict)  # of the metrics of Family.score


def parts_of(terms: Sequence[Term]) -> list[str]:
    """Return the names of all parts, in order."""
    return list(dict.fromkeys(chain.from_iterable(term.parts for term in terms)))


def weighted_loss(
    terms: Sequence[Term], nats: Mapping[str, Number], counts: Mapping[str, float]
) -> Number:
    """Return the loss from the sums of nats and the true counts of targets per part.

    A term without any target counts as 0.
    """
    total: Any = 0.0
    for term in terms:
        divisor = sum(weight * counts[part] for part, weight in term.parts.items())
        weighted: Any = sum(weight * nats[part] for part, weight in term.parts.items())
        total = total + term.weight * weighted / (divisor or 1.0)
    return total


# Samples


@dataclass(frozen=True)
class Turn:
    """What was said before a prompt, and how it sounds."""

    text: str
    speaker: str  # "" = none
    arrays: Arrays  # of its sound
    seconds: float = 0.0
    path: str = ""  # of the recording
    tags: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return what stands in the JSON beside a sample."""
        names = ("path", "text", "speaker", "seconds")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Prompt:
    """What a model is asked for: a text to speak, a recording to transcribe or to answer."""

    id: str  # hash of all that it asks for; the name of its folder of samples
    text: str  # what is to be said, or the reference of what was said; "" = none
    speaker: str = ""  # "" = none
    context: tuple[Turn, ...] = ()  # oldest first
    arrays: Arrays = field(default_factory=dict)  # what the model hears
    name: str = ""  # for the file
    tags: Mapping[str, str] = field(default_factory=dict)  # how: emotion, style, ...
    real: Arrays = field(default_factory=dict)  # of a sample: what was really said; {} = not known


@dataclass(frozen=True)
class Sample:
    """What the model answered: sound, as arrays that Encoder.decode takes, or text, or both."""

    prompt: Prompt
    arrays: Arrays = field(default_factory=dict)
    text: str | None = None
    is_complete: bool = True  # the model stopped by itself, before the cap
    turns_left_out: int = 0  # oldest turns of the context that the model had no room for


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample; temperature 0 is greedy, topk 0 keeps all."""

    seed: int = 0
    temperature: float = 0.0
    topk: int = 0
    max_sec: float = 10.0  # of sound


@dataclass(frozen=True)
class EncoderRecord:
    """What is known of the encoder that weights were trained with, and of whom they heard."""

    label: str  # of the weights, for people
    store: Store | None  # a token file, or a record read as one without clips; None = not known
    found: str = ""  # where, or why there is none, for people
    speakers: tuple[str, ...] = ()  # in training, the most frequent first
    tags: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # column -> value -> clips
    config: TrainConfig | None = None  # of the run
    fingerprints: Mapping[str, str] = field(default_factory=dict)  # of the run: audio, text


# Training


@dataclass(frozen=True)
class Draw:
    """Key of the random choices in collate; that for an example depends on nothing else."""

    seed: int
    epoch: int
    # Per example of the micro-batch: how often the epoch has drawn it before. Empty = never.
    repeats: Sequence[int] = ()

    def key(self, place: int) -> str:
        """Name the draw of the example at `place` of the micro-batch, apart from its id.

        An example that an epoch draws twice has two names.
        """
        repeat = self.repeats[place] if self.repeats else 0
        return f"{self.seed}/{self.epoch}" + (f"+{repeat}" if repeat else "")


class ParameterRule(NamedTuple):
    """How one parameter is trained."""

    lr_factor: float = 1.0  # multiple of config.learning_rate; 0 = frozen
    decays: bool = True  # whether weight decay applies to it (never to vectors)
    beside_adapters: bool = False  # whether it is trained, whole, with method lora too


# Expressive speech


@dataclass(frozen=True)
class ExpressiveRecipe:
    """What csm_ft.expressive runs its steps with; files are named from the project's root."""

    text_template: str
    train_config: str
    sweep_config: str
    pretokenize_config: str = ""
    export_format: str = ""  # of a last step; "" = there is none


# The family


class Family(ABC):
    """One model family. Methods that need torch import it when they are called."""

    name: str  # of its package
    generate_example: str = ""  # what follows `python -m csm_ft.generate --model X`
    yardstick: Yardstick
    train_config: type[TrainConfig] = TrainConfig
    pretokenize_config: type[PretokenizeConfig] = PretokenizeConfig
    generate_config: type[GenerateConfig] = GenerateConfig
    hub_names: Sequence[str] = ()  # what training and encoding download by default
    fact_names: Sequence[str] = ()  # facts of the encoder that a token file must hold
    exporters: Mapping[str, type[Exporter]] = MappingProxyType({})  # by --format
    expressive: ExpressiveRecipe | None = None  # None = texts of the family take no tags

    # Data; no torch

    @abstractmethod
    def arrange(self, split: Split, config: TrainConfig, *, evaluate: bool) -> Examples:
        """Make the examples of a split; `evaluate`: those that the validation loss scores."""

    def describe(self, store: Store) -> list[str]:
        """Return lines on a token file that only the family can write, for people."""
        return []

    def summarise(self, split: Split) -> dict[str, Any]:
        """Return facts of a split that only the family knows, for report.json."""
        return {}

    def find_problems(self, split: Split, store: Store) -> dict[str, list[int]]:
        """Return {what is wrong: clips} for clips that no model of the family can be trained on."""
        return {}

    def foreign_key(self, path: Path) -> str:
        """Return "" unless `path` is a token file that another program wrote for this family.

        Otherwise what decides how it is read, which names a converted copy of it.
        """
        return ""

    def open_foreign(self, path: Path) -> Store:
        """Read a token file of another program into memory; StoreError if it is damaged."""
        raise NotImplementedError

    # Encoder and prompts

    @abstractmethod
    def open_encoder(self, source: PretokenizeConfig | Store, device: str) -> Encoder:
        """Open the encoder that options ask for, or the one that made a token file.

        Raises EncoderError when it cannot be opened or has changed.
        """

    def import_tokens(
        self, config: PretokenizeConfig, encoder: Encoder
    ) -> Mapping[str, ClipTable] | None:
        """Return the splits of tokens of another program; None where options name metadata."""
        return None

    def check_prompts(self, config: TrainConfig | GenerateConfig) -> None:  # noqa: B027
        """Raise PromptError for a mistake in the prompts, before anything slow begins."""

    def speaks_texts(self, store: Store) -> bool:
        """Tell whether weights trained on a token file speak the texts that they are given."""
        return "prompts" in self.generate_config.model_fields

    def asks_for_samples(self, config: TrainConfig) -> bool:
        """Tell whether the options name prompts of the user's own."""
        return False

    @abstractmethod
    def sample_prompts(
        self, config: TrainConfig, store: Store, encoder: Encoder
    ) -> tuple[list[Prompt], SamplingOptions]:
        """Return what is sampled while training. Without prompts, nothing is."""

    def open_generator(
        self, config: GenerateConfig, record: EncoderRecord, model: SpeechModel, device: str
    ) -> Encoder:
        """Open the encoder for the weights that `generate` was given."""
        if record.store is None:
            raise ConfigError(
                f"{record.label}: no token file is known for these weights; name it with --data"
            )
        return self.open_encoder(record.store, device)

    def open_listener(self, record: EncoderRecord, device: str) -> Encoder:
        """Open the encoder of a family that answers sound with text, for `transcribe`."""
        raise ConfigError(
            f"{record.label}: the family {self.name} does not transcribe; name the weights of a"
            " recogniser"
        )

    @abstractmethod
    def generate_prompts(
        self, config: GenerateConfig, record: EncoderRecord, encoder: Encoder
    ) -> tuple[list[Prompt], SamplingOptions]:
        """Return what `generate` is asked for; PromptError if there is nothing, or it is wrong."""

    # Model; torch

    @abstractmethod
    def empty_model(self, config: TrainConfig, store: Store) -> SpeechModel:
        """Build the model on the meta device; ConfigError if it does not fit the token file."""

    @abstractmethod
    def load_weights(self, model: SpeechModel, config: TrainConfig) -> None:
        """Load base or random weights into the model, as fp32 on the CPU."""

    @abstractmethod
    def load_model(self, name: str) -> SpeechModel:
        """Load finished weights: a checkpoint folder, a file or a hub name. ConfigError."""

    @abstractmethod
    def collate(
        self, examples: Examples, indices: Sequence[int], config: TrainConfig, *, draw: Draw | None
    ) -> Batch:
        """Make one micro-batch; draw=None: all targets, each with weight 1 (evaluation)."""

    def scored_share(self, examples: Examples, config: TrainConfig) -> float:
        """Return the share of the targets that validations score while a run goes on; 1 = all.

        For families where some targets cost far more than others: of these, a share tells the loss
        well enough. The best weights are measured on all at the end.
        """
        return 1.0

    def collate_scored(
        self, examples: Examples, indices: Sequence[int], config: TrainConfig
    ) -> Batch:
        """Make one micro-batch of validation with that share, chosen by the examples alone.

        Its nats are weighted so that their expectation is that of all targets. It is an estimate:
        beside them the model returns the variance that this adds, as `<part>_variance`.
        """
        return self.collate(examples, indices, config, draw=None)

    @abstractmethod
    def loss_terms(self, config: TrainConfig) -> Sequence[Term]:
        """Return the terms of the training loss."""

    def score(
        self, model: SpeechModel, examples: Examples, config: TrainConfig
    ) -> Mapping[str, float]:
        """Return further validation metrics, named val_...; lower is better for each of them."""
        return {}

    def scored_by(self, examples: Examples, config: TrainConfig) -> str:
        """Say by which rules `score` measures, with their version; "" = nothing to say."""
        return ""

    def measure_batch(
        self, model: SpeechModel, batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Return what the loss is made of, on a batch of evaluation: {name: (sums, counts)}.

        Sums and counts are those of each sequence, [B] float64 on the CPU, so that means can be
        formed over any group of clips. Here: the nats of each part.
        """
        parts = model(batch).items()
        return {f"nats_{part}": (n.double().cpu(), batch.counts[part]) for part, n in parts}

    def score_each(
        self, model: SpeechModel, examples: Examples, encoder: Encoder, config: TrainConfig
    ) -> Mapping[str, NDArray[np.float64]]:
        """Return what `score` measures of each example: sums and counts, [2, n] by name.

        Means over any group of clips are formed of them, as of measure_batch.
        """
        return {}

    def parameter(self, config: TrainConfig, name: str) -> ParameterRule:
        """Return how the parameter `name` is trained."""
        return ParameterRule()

    def lora_modules(self, config: TrainConfig) -> str:
        """Return a regular expression of the modules that get adapters."""
        raise ConfigError(f"method lora: the family {self.name} has no adapters; use --method full")

    def default_base(self, store: Store) -> str:
        """Return the weights that training starts from when none are named; "" = there are none."""
        return ""

    def choices(self, config: TrainConfig, store: Store) -> Mapping[str, Any]:
        """Return the options that the weights to start from decide, once these are known."""
        return {}

    @abstractmethod
    def checkpoint_config(self, model: SpeechModel) -> Mapping[str, object]:
        """Return config.json of a checkpoint."""

"""Lets a model speak prompts, and reads the samples back as clips to judge.

The one path for `python -m csm_ft.evaluate` and for training, so that their numbers compare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from csm_ft.config.generate import GenerateConfig
from csm_ft.config.train import TrainConfig
from csm_ft.evaluate import recordings
from csm_ft.evaluate.judge import SpokenClip
from csm_ft.families.base import EncoderRecord, Family, Prompt, SamplingOptions
from csm_ft.families.encoder import Encoder
from csm_ft.generate.run import Generator, write_takes

BATCH_SIZE = 8  # prompts per batch, unless another is asked for
_DRAWN_BY = ("temperature", "topk", "text_temperature", "text_topk")  # gen_... of a run


@dataclass(frozen=True)
class Script:
    """Prompts that a family has read, and how they are sampled."""

    prompts: Sequence[Prompt]
    sampling: SamplingOptions
    config: GenerateConfig


def ask(family: Family, options: Mapping[str, object], run: TrainConfig) -> GenerateConfig:
    """Return the options of csm_ft.generate; `max_sec` 0 is its default.

    Temperature and top-k are those that the samples of the run are drawn with. PromptError for a
    mistake in the prompts.
    """
    values = {name: value for name, value in options.items() if name != "max_sec" or value}
    known = set(family.generate_config.model_fields).intersection(_DRAWN_BY)
    drawn_by = {name: getattr(run, f"gen_{name}") for name in known}
    config = family.generate_config.model_validate({"family": family.name, **drawn_by, **values})
    family.check_prompts(config)
    return config


def make_script(
    family: Family, config: GenerateConfig, record: EncoderRecord, encoder: Encoder
) -> Script:
    """Read the prompts as the family does."""
    prompts, sampling = family.generate_prompts(config, record, encoder)
    return Script(prompts, sampling, config)


def speak(
    generator: Generator, script: Script, record: EncoderRecord, folder: Path
) -> list[SpokenClip]:
    """Sample all takes of all prompts into a new folder, and read them back.

    A clip is named by its file, and by the first speaker where the model reads no names.
    """
    folder.mkdir(parents=True)
    config = script.config.model_copy(update={"output": str(folder)})
    for _ in write_takes(generator, script.prompts, script.sampling, config):
        pass
    (clips,) = recordings.samples_of(folder).values()
    speaker = record.speakers[0] if record.speakers else ""
    return [replace(clip, speaker=clip.speaker or speaker) for clip in clips]

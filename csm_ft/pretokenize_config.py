"""What pretokenize.py can be told."""

from typing import Self

from pydantic import field_validator, model_validator

from csm_ft import codecs
from csm_ft.config import Options, option
from csm_ft.data import audio


class PretokenizeConfig(Options):
    """Options of pretokenize.py."""

    train_data: str = option(
        "",
        "Metadata of the training clips: .json .jsonl .csv .tsv .parquet .sqlite .hdf5, or a folder"
        " (of a.wav and a.txt).",
        group="data",
    )
    val_data: str = option(
        "",
        "Metadata of the validation clips; none = hold out val_fraction of train_data.",
        group="data",
    )
    val_fraction: float = option(
        0.05,
        "Share of clips to hold out (if not given: 8 clips at least, but no more than a fifth);"
        " source files and conversations stay whole.",
        group="data",
    )
    output: str = option("./data/tokens.hdf5", "Token file to write.", group="data")
    sql_table: str = option("data", "Table of an SQLite file.", group="data")
    channel: audio.Channel = option("mix", "What to take of stereo files.", group="data")
    codec: codecs.CodecName = option(
        "mimi", "Audio codec; melrvq is embedded and needs no download.", group="codec and text"
    )
    codec_source: str = option(
        "auto",
        "Weights of the codec: hub name, folder or file; auto = kyutai/mimi, or the embedded one.",
        group="codec and text",
    )
    num_codebooks: int = option(
        0, "Codebooks to keep; 0 = all (32 of Mimi).", group="codec and text"
    )
    fit_codec: bool = option(
        False,
        "melrvq: fit a new codec on the training clips first; it is kept when rows are added.",
        group="codec and text",
    )
    refit_codec: bool = option(
        False, "With fit_codec: fit it again, and encode everything again.", group="codec and text"
    )
    tokenizer: str = option(
        "auto",
        "Text tokenizer: hub name, folder or tokenizer.json; auto = Llama 3.2's, or the embedded"
        " one for melrvq.",
        group="codec and text",
    )
    omit_speaker_id: bool = option(
        False, "Leave the [speaker] prefix out of the text.", group="codec and text"
    )
    default_speaker: str = option("999", "Speaker of rows that name none.", group="codec and text")
    min_sec: float = option(0.4, "Shorter clips are rejected.", group="checks")
    max_positions: int = option(
        2048, "Text tokens + frames + 1 that a clip may take: the model's length.", group="checks"
    )
    max_rejected: str = option(
        "5%",
        "More rejected rows than this share are an error; nothing is written then.",
        group="checks",
    )
    strict: bool = option(False, "Stop when any row is rejected.", group="checks")
    device: str = option(
        "auto", "cpu, cuda or cuda:N for the codec; auto = cuda if there is one.", group="speed"
    )
    num_workers: int = option(4, "Threads that read, hash and resample audio.", group="speed")
    batch_sec: float = option(120.0, "Seconds of audio per codec batch.", group="speed")
    save_every: int = option(
        100, "Clips between saves; a killed run loses no more than these.", group="speed"
    )
    seed: int = option(0, "Seed of the held-out split and of fit_codec.", group="data")

    @field_validator("max_rejected")
    @classmethod
    def _share(cls, value: str) -> str:
        number = value.removesuffix("%").strip()
        try:
            share = float(number) / (100 if value.endswith("%") else 1)
        except ValueError:
            raise ValueError(f"{value!r} is not a share; write 5% or 0.05") from None
        if not 0 <= share <= 1:
            raise ValueError(f"{value!r} is not between 0 and 100%")
        return value

    @property
    def max_rejected_share(self) -> float:
        """max_rejected as 0..1."""
        return float(self.max_rejected.removesuffix("%")) / (
            100 if self.max_rejected.endswith("%") else 1
        )

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if not self.train_data:
            raise ValueError(
                "--train_data is missing: name a metadata file with the columns path and text, or a"
                " folder of sound files with transcripts"
            )
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction {self.val_fraction} is not between 0 and 1")
        for name in ("num_workers", "batch_sec", "save_every", "max_positions"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not above 0")
        if self.min_sec < 0 or self.num_codebooks < 0:
            raise ValueError(
                f"min_sec {self.min_sec} and num_codebooks {self.num_codebooks} cannot be below 0"
            )
        if self.fit_codec and self.codec != "melrvq":
            raise ValueError(
                "fit_codec fits the embedded codec: add --codec melrvq (Mimi comes trained)"
            )
        if self.fit_codec and self.codec_source != "auto":
            raise ValueError(
                f"fit_codec makes a codec of its own, codec_source {self.codec_source!r} names"
                " another; give one of the two"
            )
        if self.refit_codec and not self.fit_codec:
            raise ValueError("refit_codec goes with --fit_codec")
        return self

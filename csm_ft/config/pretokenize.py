"""Options of pretokenize.py that all model families share."""

from typing import Literal, Self

from pydantic import field_validator, model_validator

from csm_ft.config.base import Options, option

Channel = Literal["mix", "left", "right"]


class PretokenizeConfig(Options):
    """Options of every model family; a family adds its own in a subclass (families/<name>/)."""

    train_data: str = option(
        "",
        "Metadata of the training clips (.json .jsonl .csv .tsv .parquet .sqlite .hdf5), or a"
        " folder of audio files with transcripts (a.wav, a.txt).",
        group="data",
    )
    val_data: str = option(
        "",
        "Metadata of the validation clips; if not given, val_fraction of train_data is held out.",
        group="data",
    )
    val_fraction: float = option(
        0.05,
        "Share of clips to hold out (if not given: at least 8 clips, but at most a fifth); source"
        " files and conversations are not split.",
        group="data",
        gt=0,
        lt=1,
    )
    output: str = option("./data/tokens.hdf5", "Token file to write.", group="data")
    sql_table: str = option("data", "Table of an SQLite file.", group="data")
    family: str = option("auto", "Model family that the tokens are for.", group="data")
    channel: Channel = option(
        "mix", "Channel of stereo files; mix = the mean of both.", group="data"
    )
    default_speaker: str = option("", "Speaker of rows without a speaker.", group="data")
    min_sec: float = option(
        0.4, "Minimum length of a clip in seconds; shorter ones are rejected.", group="checks", ge=0
    )
    max_rejected: str = option(
        "5%",
        "Maximum share of rejected rows; above it, the program fails and writes nothing.",
        group="checks",
    )
    strict: bool = option(False, "Fail when any row is rejected.", group="checks")
    device: str = option(
        "auto",
        "Device of the encoder: cpu, cuda or cuda:N; auto = cuda if available.",
        group="speed",
    )
    num_workers: int = option(4, "Threads that read, hash and resample audio.", group="speed", gt=0)
    batch_sec: float = option(120.0, "Seconds of audio per encoder batch.", group="speed", gt=0)
    save_every: int = option(
        100, "Clips between saves; a killed run loses at most these.", group="speed", gt=0
    )
    seed: int = option(0, "Seed of the held-out split and of a fitted codec.", group="data")

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
        divisor = 100 if self.max_rejected.endswith("%") else 1
        return float(self.max_rejected.removesuffix("%")) / divisor

    @model_validator(mode="after")
    def _needs_training_data(self) -> Self:
        if not self.train_data:
            raise ValueError(
                "--train_data is missing: name a metadata file with the columns path and text, or a"
                " folder of sound files with transcripts"
            )
        return self

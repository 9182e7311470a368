"""Options of pretokenize.py that all model families share."""

from dataclasses import fields
from typing import Literal, Self

from pydantic import field_validator, model_validator

from csm_ft.config.base import Options, option
from csm_ft.config.notes import NoteLimits
from csm_ft.config.shard import WHOLE, Shard, parse_shard

Channel = Literal["mix", "left", "right"]
# What a row of metadata can say.
FIELDS = (
    *("path", "text", "start", "end", "duration", "channel", "speaker"),
    *("conversation", "turn", "split", "weight"),
)


class PretokenizeConfig(Options):
    """Options of every model family; a family adds its own in a subclass (families/<name>/)."""

    train_data: str = option(
        "",
        "Metadata of the training clips (.json .jsonl .jsonl.gz .csv .tsv .parquet .sqlite .hdf5),"
        " a folder of sound files with transcripts (a.wav, a.txt), or a corpus as it is downloaded."
        " Several with their shares of the draws: a.jsonl:2,b.jsonl:1.",
        group="data",
        path=True,
    )
    val_data: str = option(
        "",
        "Metadata of the validation clips; if not given, what train_data calls so, or else"
        " val_fraction of it is held out.",
        group="data",
        path=True,
    )
    val_fraction: float = option(
        0.05,
        "Share of clips to hold out (if not given: at least 8 clips, but at most a fifth); source"
        " files and conversations are not split.",
        group="data",
        gt=0,
        lt=1,
    )
    output: str = option("./data/tokens.hdf5", "Token file to write.", group="data", path=True)
    sql_table: str = option("data", "Table of an SQLite file.", group="data")
    columns: list[str] = option(
        [],
        "Columns of the metadata with names of their own, as path=wav text=normalized_text; numbers"
        " (path=1 text=2) where there is no header.",
        group="data",
    )
    family: str = option("auto", "Model family that the tokens are for.", group="data")
    channel: Channel = option(
        "mix",
        "Channel of stereo files, for rows that name none; mix = the mean of both.",
        group="data",
    )
    default_speaker: str = option("", "Speaker of rows without a speaker.", group="data")
    trim_silence: bool = option(
        False,
        "Cut the silence before and after the speech of each clip, all but 0.15 s of it; its"
        " loudness stays.",
        group="data",
    )
    level_dbfs: float = option(
        0.0,
        "Bring each clip to this level, the rms of what is not silent, as -23; 0 = leave loudness"
        " alone, which is half of an emotion.",
        group="data",
        ge=-60,
        le=0,
    )
    min_sec: float = option(
        0.4, "Minimum length of a clip in seconds; shorter ones are rejected.", group="checks", ge=0
    )
    end_tolerance_sec: float = option(
        0.1,
        "How far a span may end past its file; it is cut at the file's end, and counted.",
        group="checks",
        ge=0,
    )
    heard_column: str = option(
        "",
        "Column of the metadata with what a recogniser heard; rows whose text is far from it are"
        " rejected.",
        group="checks",
    )
    heard_by: str = option(
        "",
        "Recogniser that hears the rows which do not say what was heard, to reject those whose text"
        " is far from it: transformers:NAME (hub name or folder), run:FOLDER, or as in"
        " csm_ft.evaluate --asr.",
        group="checks",
    )
    max_heard_distance: float = option(
        0.3,
        "Largest distance of a text from what was heard: edits of letters over the longer length.",
        group="checks",
        ge=0,
        le=1,
    )
    verify: bool = option(
        False,
        "Read every sound file again; otherwise those whose size and times are those of the run"
        " before are not.",
        group="checks",
    )
    max_rejected: str = option(
        "5%",
        "Maximum share of rejected rows; above it, the program fails and writes nothing.",
        group="checks",
    )
    strict: bool = option(False, "Fail when any row is rejected.", group="checks")
    strict_notes: bool = option(
        False, "Fail when a clip is implausible (see docs/data.md).", group="notes"
    )
    note_quiet_dbfs: float = option(
        NoteLimits.quiet_dbfs,
        "Level below which a clip is noted as quiet; 20 dB below the median, if that is higher.",
        group="notes",
        le=0,
    )
    note_clipped_share: float = option(
        NoteLimits.clipped_share,
        "Share of clipped samples above which a clip is noted.",
        group="notes",
        ge=0,
        le=1,
    )
    note_silent_share: float = option(
        NoteLimits.silent_share,
        "Share of silence above which a clip is noted.",
        group="notes",
        ge=0,
        le=1,
    )
    note_mix_loss_db: float = option(
        NoteLimits.mix_loss_db,
        "Level that a mix may lose against its channels; more is noted.",
        group="notes",
        ge=0,
    )
    note_chars_per_sec_factor: float = option(
        NoteLimits.chars_per_sec_factor,
        "Factor above or below the median characters per second from which a clip is noted; 0 ="
        " from the spread of the clips.",
        group="notes",
        ge=0,
    )
    device: str = option(
        "auto",
        "Device of the encoder: cpu, cuda or cuda:N; auto = cuda if available.",
        group="speed",
    )
    num_workers: int = option(
        4,
        "Processes that read sound and, where the encoder runs on the CPU, encode it; at most one"
        " for each core. As many threads hash files.",
        group="speed",
        gt=0,
    )
    batch_sec: float = option(
        0.0,
        "Seconds of audio per encoder batch; 0 = 120 on a GPU, 30 on the CPU.",
        group="speed",
        ge=0,
    )
    save_every: int = option(
        100, "Clips between saves; a killed run loses at most these.", group="speed", gt=0
    )
    shard: str = option(
        WHOLE,
        "Encode one share of the clips, i/n, beside other machines; the same command without it"
        " merges all of them.",
        group="speed",
    )
    seed: int = option(0, "Seed of the held-out split and of a fitted codec.", group="data")

    @property
    def part(self) -> Shard:
        """The share of the clips that is encoded."""
        return parse_shard(self.shard)

    @field_validator("shard")
    @classmethod
    def _is_share(cls, value: str) -> str:
        parse_shard(value)
        return value

    @field_validator("columns")
    @classmethod
    def _pairs(cls, value: list[str]) -> list[str]:
        for pair in value:
            field, equals, column = pair.partition("=")
            if field not in FIELDS or not equals or not column.strip():
                raise ValueError(f"{pair!r}: write FIELD=COLUMN; fields are {', '.join(FIELDS)}")
        return value

    @property
    def column_of(self) -> dict[str, str]:
        """The column of each field that has one of its own."""
        return dict(pair.split("=", 1) for pair in self.columns)

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

    @property
    def note_limits(self) -> NoteLimits:
        """The thresholds of the notes."""
        names = (limit.name for limit in fields(NoteLimits))
        return NoteLimits(**{name: getattr(self, f"note_{name}") for name in names})

    @field_validator("note_chars_per_sec_factor")
    @classmethod
    def _factor(cls, value: float) -> float:
        if 0 < value <= 1:
            raise ValueError("a factor is above 1; 0 takes it from the spread of the clips")
        return value

    @model_validator(mode="after")
    def _needs_training_data(self) -> Self:
        if not self.train_data:
            raise ValueError(
                "--train_data is missing: name a metadata file with the columns path and text, or a"
                " folder of sound files with transcripts"
            )
        return self

"""What lies in a sweep folder, read leniently.

A missing or torn piece becomes a sentence in `notes`, never a crash and never a silence.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator

State = Literal["completed", "stopped", "diverged", "infeasible", "poison", "running", "waiting"]

FAILED: tuple[State, ...] = (
    "diverged",
    "infeasible",
    "poison",
)  # what they were told as a value only keeps the sampler away
STATE_WORDS: dict[State, str] = {
    "completed": "completed",
    "stopped": "stopped early",
    "diverged": "diverged",
    "infeasible": "infeasible",
    "poison": "set aside",
    "running": "running",
    "waiting": "waiting",
}


class ReportError(ValueError):
    """The folder holds no sweep that can be shown.

    The message names the file, what is wrong and the way out.
    """


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)


class Trial(_Record):
    """One row of the table; values are nats per frame, None = not measured."""

    number: int
    state: State
    dir: str
    reason: str | None = None
    value: Number = None
    final_value: Number = None
    best_examples: Number = None
    best_epoch: Number = None
    params: dict[str, Any] = {}
    attempts: int = 1
    seconds: Number = None
    slot: str | None = None
    is_default: bool = False


class Baseline(_Record):
    """The untrained model, measured once."""

    value: Number = None
    dir: str = "baseline"


class Verdict(_Record):
    """What the sweep found, in words.

    Gain and error in nats per frame, positive = the best is better than the default.
    """

    text: str
    tie: bool = False
    gain_over_default: Number = None
    standard_error: Number = None


class Summary(_Record):
    """summary.json as sweep.py writes it."""

    study: str
    state: Literal["running", "finished", "unfinished"]
    created: str | None = None
    updated: str | None = None
    data: str = ""
    objective: str = ""
    n_trials: int = 0
    n_workers: int | None = None
    device: str = ""
    horizon_examples: Number = None
    rungs: list[float] = []
    baseline: Baseline | None = None
    trials: list[Trial] = []
    best: int | None = None
    verdict: Verdict | None = None
    importance: dict[str, dict[str, Number]] = {}
    importance_of: str = ""  # the values that it explains

    @field_validator("rungs", "trials", "importance", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any, info: Any) -> Any:
        return value if value is not None else cls.model_fields[info.field_name].get_default()

    @property
    def best_trial(self) -> Trial | None:
        """The winner, if there is one."""
        return next((t for t in self.trials if t.number == self.best), None)

    @property
    def default_trial(self) -> Trial | None:
        """The known-good default, if it is among the trials."""
        return next((t for t in self.trials if t.is_default), None)

    @property
    def begun(self) -> list[Trial]:
        """The trials that have been started."""
        return [t for t in self.trials if t.state != "waiting"]

    @property
    def num_ended(self) -> int:
        """How many trials have ended, well or not."""
        return sum(t.state not in ("running", "waiting") for t in self.trials)

    @property
    def valued(self) -> list[Trial]:
        """The trials whose value counts."""
        return [t for t in self.trials if t.value is not None and t.state not in FAILED]

    @property
    def ranked(self) -> list[Trial]:
        """The trials that have begun, from the best value to the worst.

        Those without a value that counts last.
        """
        return sorted(
            self.begun,
            key=lambda t: (t.value is None or t.state in FAILED, t.value or 0.0, t.number),
        )

    @property
    def parameters(self) -> list[str]:
        """Names of everything that was searched, in order of first appearance."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.params))


@dataclass(frozen=True)
class Validation:
    """One measurement of the yardstick: nats per frame after `examples` training examples."""

    examples: float
    value: float


@dataclass(frozen=True)
class Take:
    """One recording.

    A prompt as one run spoke it at one step, or the codec's reconstruction of a real clip (`step`
    None).
    """

    wav: Path
    text: str
    speaker: str = ""
    step: int | None = None
    examples: float | None = None
    seconds: float | None = None
    sec_per_char: float | None = None
    silence_share: float | None = None
    peak: float | None = None
    stopped_by_eos: bool | None = None
    context: Sequence[str] = ()  # what was said before, oldest turn first
    turns_left_out: int = 0  # of them, the oldest: those that the model had no room for


@dataclass(frozen=True)
class Run:
    """Everything one run folder says.

    Its validations, the order its prompts were spoken in, and its recordings by prompt id.
    """

    validations: Sequence[Validation]
    spoken_texts: Sequence[str]
    takes: dict[str, list[Take]]
    references: Sequence[Take]

    def at(self, prompt: str, examples: float | None) -> Take | None:
        """Return the recording of `prompt` nearest to `examples` seen (None: the last one).

        An untrained one only if there is no other.
        """
        takes = self.takes.get(prompt, [])
        takes = [take for take in takes if take.step] or takes
        if examples is None:
            return takes[-1] if takes else None
        return min(takes, key=lambda t: abs((t.examples or 0) - examples), default=None)


def read_summary(out: Path) -> Summary:
    """Read `<out>/summary.json`.

    ReportError if it is missing, not JSON, or not what sweep.py writes.
    """
    path = out / "summary.json"
    if not path.is_file():
        raise ReportError(
            f"{path}: no such file; give the folder that sweep.py wrote (its --output_dir)"
        )
    try:
        summary = Summary.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ReportError(
            f"{path}: {where}: {first['msg']}; the same sweep.py command writes the file again"
        ) from None
    for folder in [t.dir for t in summary.trials] + (
        [summary.baseline.dir] if summary.baseline else []
    ):
        if not (out / folder).resolve().is_relative_to(out.resolve()):
            raise ReportError(
                f"{path}: run folder {folder!r} lies outside the sweep folder; a page only shows"
                " its own folder"
            )
    return summary


def read_run(folder: Path, notes: list[str]) -> Run:
    """Read metrics.jsonl and samples/ of one run folder; what cannot be read is told in `notes`."""
    rows = list(_rows(folder / "metrics.jsonl", notes))
    validations = {
        row["examples"]: Validation(float(row["examples"]), float(row["val_loss"]))
        for row in rows
        if row.get("kind") == "val"
        and row.get("step") != 0
        and _is_number(row.get("examples"))
        and _is_number(row.get("val_loss"))
    }
    texts = [str(row["text"]) for row in rows if row.get("kind") == "sample" and "text" in row]
    samples = folder / "samples"
    prompts = (
        sorted(p for p in samples.iterdir() if p.is_dir() and p.name != "reference")
        if samples.is_dir()
        else []
    )
    return Run(
        validations=sorted(validations.values(), key=lambda v: v.examples),
        spoken_texts=list(dict.fromkeys(texts)),
        takes={p.name: sorted(read_takes(p, notes), key=lambda t: t.step or 0) for p in prompts},
        references=list(read_takes(samples / "reference", notes)),
    )


def _rows(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a metrics file.

    A line that is no JSON object (torn by a kill, or while being written) is counted and left out.
    """
    if not path.is_file():
        return
    torn = 0
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        else:
            torn += bool(line.strip())
    if torn:
        notes.append(f"{_short(path)}: {torn} torn line{'s' * (torn > 1)} left out")


def read_takes(folder: Path, notes: list[str]) -> Iterator[Take]:
    """Yield the recordings of a folder, each with the facts beside it.

    What cannot be read is told in `notes`.
    """
    for path in sorted(folder.glob("*.json")):
        wav = path.with_suffix(".wav")
        try:
            facts = json.loads(path.read_bytes())
            take = Take(
                wav=wav,
                text=str(facts["text"]),
                speaker=str(facts.get("speaker", "")),
                step=None if "clip_id" in facts or "take" in facts else int(facts["step"]),
                stopped_by_eos=facts.get("stopped_by_eos"),
                context=tuple(
                    f"{turn['speaker']}: {turn['text']}".removeprefix(": ")
                    for turn in facts.get("context", ())
                ),
                turns_left_out=int(facts.get("turns_left_out", 0)),
                **{
                    name: float(facts[name])
                    for name in ("examples", "seconds", "sec_per_char", "silence_share", "peak")
                    if _is_number(facts.get(name))
                },
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(
                f"{_short(path)}: not readable as the facts of a recording ({type(error).__name__}:"
                f" {error})"
            )
            continue
        if wav.is_file():
            yield take
        else:
            notes.append(f"{_short(wav)}: the recording is missing")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(path: Path) -> str:
    """Name a file by its place in the sweep folder as a reader sees it.

    Trials/0003/metrics.jsonl.
    """
    parts = path.parts
    start = next(
        (i for i in range(len(parts) - 1, -1, -1) if parts[i] in ("trials", "baseline")),
        len(parts) - 2,
    )
    return "/".join(parts[max(start, 0) :])

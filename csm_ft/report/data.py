"""What lies in a sweep folder, read leniently.

A missing or torn piece becomes a sentence in `notes`, never a crash and never a silence.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import ValidationError

from csm_ft.data.text import MarkedWord, mark_errors
from csm_ft.errors import ReportError
from csm_ft.evaluate.metrics import METRICS, VALIDATION, canary_name
from csm_ft.runs.folder import RunFolder, SweepFolder
from csm_ft.sweep.preference import with_preference
from csm_ft.sweep.records import AUDIO, EXAMPLES, VAL_LOSS, ComparedIn, Summary, keys_of

_MEASURES = ("examples", "seconds", "sec_per_char", "silence_share", "peak")


@dataclass(frozen=True)
class Validation:
    """The objective after `examples` training examples, or seconds of audio."""

    examples: float
    value: float


@dataclass(frozen=True)
class Take:
    """One sample: what a run answered to a prompt at one step, as sound, as text, or both.

    Or the reference: a real clip, encoded and decoded (`step` None).
    """

    file: Path  # the sound, or the JSON file of an answer that is text
    text: str  # of the prompt
    speaker: str = ""
    answer: str | None = None  # None: the answer is sound alone
    step: int | None = None
    examples: float | None = None
    seconds: float | None = None
    sec_per_char: float | None = None
    silence_share: float | None = None
    peak: float | None = None
    is_complete: bool | None = None  # it stopped by itself, before the limit
    context: Sequence[str] = ()  # what was said before, oldest turn first
    turns_left_out: int = 0  # oldest turns of the context, too long for the model
    notes: Sequence[str] = ()  # what to listen for
    facts: Sequence[str] = ()  # what was measured beyond the fields above, in words
    prompt_sec: float = 0.0  # of the sound that the prompt gave
    captions: Sequence[tuple[float, str]] = ()  # words with the seconds at which they begin
    heard: str | None = None  # by a recogniser; None: there was none

    @property
    def wav(self) -> Path | None:
        """The sound file, or None where the answer is text alone."""
        return self.file if self.file.suffix == ".wav" else None

    @property
    def marked(self) -> Sequence[MarkedWord]:
        """The words of a transcript with its errors; () where the answer is sound."""
        if self.wav or self.answer is None or not self.text:
            return ()
        return mark_errors(self.text, self.answer)

    @property
    def error_share(self) -> float:
        """Wrong and missing words of a transcript per word of its reference; 0 for sound."""
        return sum(bool(word.mark) for word in self.marked) / max(1, len(self.text.split()))


@dataclass(frozen=True)
class Run:
    """Everything one run folder says."""

    validations: Sequence[Validation]
    prompt_texts: Sequence[str]  # in the order that they were answered in
    takes: dict[str, list[Take]]  # by prompt id
    references: Sequence[Take]
    judged: Mapping[str, Sequence[Validation]] = field(default_factory=dict)  # by judged number
    # Of the second validation set, each metric after the same one of the own data.
    canary: Mapping[str, Sequence[Validation]] = field(default_factory=dict)
    compared_in: ComparedIn = EXAMPLES  # of all of these

    def at(self, prompt: str, examples: float | None) -> Take | None:
        """Return the sample of `prompt` nearest to `examples` seen (None: the last one).

        One of the untrained model only if there is no other.
        """
        takes = self.takes.get(prompt, [])
        takes = [take for take in takes if take.step] or takes
        if examples is None:
            return takes[-1] if takes else None
        return min(takes, key=lambda t: abs((t.examples or 0) - examples), default=None)


def read_summary(folder: SweepFolder) -> Summary:
    """Read summary.json; ReportError if it is missing, or not what sweep.py writes."""
    path = folder.summary
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
    runs = [trial.dir for trial in summary.trials]
    runs += [summary.baseline.dir] if summary.baseline else []
    for run in runs:
        if not (folder.path / run).resolve().is_relative_to(folder.path.resolve()):
            raise ReportError(
                f"{path}: run folder {run!r} lies outside the sweep folder; a page only shows"
                " its own folder"
            )
    return with_preference(summary, folder)


@dataclass(frozen=True)
class EvaluationInWords:
    """What csm_ft.evaluate found of a sweep."""

    title: str
    verdicts: Sequence[str]


def read_evaluation(folder: SweepFolder) -> EvaluationInWords | None:
    """Read what csm_ft.evaluate says of a sweep; None where it has not been run, or is torn."""
    try:
        found = json.loads(folder.evaluation.results.read_text(encoding="utf-8"))
        return EvaluationInWords(found["title"], found["verdicts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_run(path: Path, notes: list[str], metric: str = VAL_LOSS) -> Run:
    """Read the validations by `metric`, all judged numbers, and the samples of one run folder."""
    folder = RunFolder(path)
    rows = folder.rows("val", notes)
    texts = [str(row["text"]) for row in folder.rows("sample") if "text" in row]
    prompts: list[Path] = []
    if folder.samples.is_dir():
        inside = sorted(folder.samples.iterdir())
        prompts = [p for p in inside if p.is_dir() and p.name != folder.references.name]
    takes = {p.name: sorted(read_takes(p, notes), key=lambda t: t.step or 0) for p in prompts}
    return Run(
        validations=read_curve(rows, metric),
        prompt_texts=list(dict.fromkeys(texts)),
        takes=takes,
        references=list(read_takes(folder.references, notes)),
        judged={name: read_curve(rows, name) for name in METRICS if any(name in r for r in rows)},
        canary={name: read_curve(rows, name) for name in _canary_names(rows)},
        compared_in=AUDIO if any("audio_sec" in row for row in rows) else EXAMPLES,
    )


def _canary_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the metrics of the canary, each after that of the run's own data."""
    names = keys_of(rows)
    pairs = [(name, canary_name(name)) for name in names if name.startswith(VALIDATION)]
    return [name for pair in pairs if pair[1] in names for name in pair]


def read_curve(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Validation]:
    """Return a metric after step 0, by examples seen; of two rows of one point the last counts.

    By seconds of audio where validations are timed by it.
    """
    found = {
        row["examples"]: Validation(
            float(row.get("audio_sec", row["examples"])), float(row[metric])
        )
        for row in rows
        if row.get("step") != 0 and _is_number(row.get("examples")) and _is_number(row.get(metric))
    }
    return sorted(found.values(), key=lambda v: v.examples)


def read_takes(folder: Path, notes: list[str]) -> Iterator[Take]:
    """Yield the samples of a folder, each with the facts that its JSON file holds."""
    for path in sorted(folder.glob("*.json")):
        try:
            take = _take(path, json.loads(path.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            kind = type(error).__name__
            notes.append(f"{_short(path)}: not readable as the facts of a sample ({kind}: {error})")
            continue
        if take.wav is None and take.answer is None:
            notes.append(f"{_short(path.with_suffix('.wav'))}: the file is missing")
        else:
            yield take


def _take(path: Path, facts: dict[str, Any]) -> Take:
    wav = path.with_suffix(".wav")
    answer = facts.get("answer")
    is_complete = facts.get("is_complete", facts.get("stopped_by_eos"))  # its name before
    has_no_step = "clip_id" in facts or "take" in facts
    measures = {name: float(facts[name]) for name in _MEASURES if _is_number(facts.get(name))}
    return Take(
        file=wav if wav.is_file() else path,
        text=str(facts["text"]),
        speaker=_speaker(facts),
        answer=None if answer is None else str(answer),
        step=None if has_no_step else int(facts["step"]),
        is_complete=None if is_complete is None else bool(is_complete),
        context=tuple(_turn(turn) for turn in facts.get("context", ())),
        turns_left_out=int(facts.get("turns_left_out", 0)),
        notes=tuple(str(note) for note in facts.get("notes", ())),
        facts=(*(str(fact) for fact in facts.get("facts", ())), *_beside_real(facts)),
        prompt_sec=float(facts.get("prompt_sec", 0)),
        captions=tuple((float(start), str(word)) for start, word in facts.get("captions", ())),
        heard=None if facts.get("heard") is None else str(facts["heard"]),
        **measures,
    )


def _beside_real(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield each measure of which the real recording has one, too: `gap 0.32 s (real 0.41 s)`."""
    for name, value in facts.items():
        real = facts.get(f"real_{name}")
        if _is_number(value) and _is_number(real):
            label = name.replace("_per_sec", "/s").removesuffix("_sec").replace("_", " ")
            yield f"{label} {_in_unit(name, value)} (real {_in_unit(name, real)})"


def _in_unit(name: str, value: float) -> str:
    if name.endswith("_share"):
        return f"{100 * value:.0f} %"
    is_time = name.endswith("_sec") and not name.endswith("_per_sec")
    return f"{value:.2f} s" if is_time else f"{value:.2g}"


def _turn(turn: dict[str, Any]) -> str:
    return f"{turn['speaker']}: {turn['text']}".removeprefix(": ")


def _speaker(facts: Mapping[str, Any]) -> str:
    """Return the speaker and the tags of a sample: `anna, angry`."""
    tags = facts.get("tags")
    words = [facts.get("speaker"), *(tags.values() if isinstance(tags, dict) else ())]
    return ", ".join(str(word) for word in words if word)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(path: Path) -> str:
    """Name a file by its place in the sweep folder: trials/0003/samples/5e1f0a/step_000180.wav."""
    parts = path.parts
    start = max(0, len(parts) - 2)
    for index, part in enumerate(parts):
        if part in ("trials", "baseline"):
            start = index
    return "/".join(parts[start:])

"""Which samples stand side by side, and which sounds fit into the page itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from urllib.parse import quote

import soundfile

from csm_ft.report.data import Run, Take
from csm_ft.report.sound import Sound, load
from csm_ft.sweep.records import STATE_WORDS, Summary, TrialRecord

PLAYER_BYTES = 2200  # markup around one sample, outline included
_TRIALS_GROUP = "Trials, best first"


@dataclass
class Player:
    """One sample on the page; `sound` is None while its file is only linked, or there is none."""

    role: str  # reference, base, default, best or other: what it is coloured by
    who: str
    take: Take
    href: str  # of the sound file, relative to the page; "" = the sample is text
    sound: Sound | None = None

    @property
    def source(self) -> str:
        """What the player plays: the sound in the page, or a link beside it."""
        return self.sound.uri if self.sound else self.href

    @property
    def is_linked(self) -> bool:
        """Whether its sound is not in the page itself."""
        return self.take.wav is not None and self.sound is None


@dataclass(frozen=True)
class Option:
    """One entry of the `compare with` menu."""

    key: str
    label: str
    group: str


@dataclass
class Row:
    """One prompt: the fixed samples by role, and those of the menu by option key."""

    text: str
    speaker: str
    context: Sequence[str] = ()  # what was said before, oldest turn first
    players: dict[str, Player] = field(default_factory=dict)
    others: dict[str, Player] = field(default_factory=dict)


@dataclass(frozen=True)
class Listening:
    """The whole section: rows, fixed columns (role, heading), and the menu."""

    rows: Sequence[Row]
    columns: Sequence[tuple[str, str]]
    options: Sequence[Option]
    real_clips: Sequence[Player]  # of texts that are no prompt

    def by_priority(self) -> Iterator[Player]:
        """Yield all players, those that must be in the page first.

        Real clips, base, default, best, then the menu from the top.
        """
        yield from self.real_clips
        for role in ("reference", "base", "default", "best"):
            yield from (row.players[role] for row in self.rows if role in row.players)
        for option in self.options:
            yield from (row.others[option.key] for row in self.rows if option.key in row.others)

    @property
    def has_sound(self) -> bool:
        """Whether any sample can be listened to."""
        return any(player.take.wav is not None for player in self.by_priority())

    @property
    def num_linked(self) -> int:
        """Sounds that are not in the page itself."""
        return sum(player.is_linked for player in self.by_priority())


@dataclass(frozen=True)
class _Head:
    """One fixed column: whose samples, and nearest to how many examples seen (None: the last)."""

    role: str
    who: str
    run: Run
    examples: float | None


def arrange(
    out: Path, summary: Summary, baseline: Run | None, runs: Mapping[int, Run]
) -> Listening:
    """Line up every prompt over real clip, base model, default, best and the other trials.

    Each trial's sample is the one nearest to its best validation.
    """
    heads = _heads(summary, baseline, runs)
    trials = [runs[t.number] for t in summary.ranked if t.number in runs]
    everyone = [baseline, *trials] if baseline else trials
    references: dict[str, Take] = {}
    for run in reversed(everyone):  # the same clip in several runs: the first one's stays
        references |= {take.text: take for take in run.references}
    rows = []
    for prompt, take in _prompts(everyone):
        row = Row(take.text, take.speaker, take.context)
        if take.text in references:
            row.players["reference"] = _reference(out, references[take.text])
        for head in heads:
            if chosen := head.run.at(prompt, head.examples):
                row.players[head.role] = Player(head.role, head.who, chosen, _href(out, chosen))
        for key, who, other in _others(summary, runs, prompt):
            row.others[key] = Player("other", who, other, _href(out, other))
        rows.append(row)
    prompted = {row.text for row in rows}
    unprompted = [
        _reference(out, take) for text, take in references.items() if text not in prompted
    ]
    shown = [row.players["reference"] for row in rows if "reference" in row.players]
    columns = [("reference", shown[0].who)] if shown else []
    columns += [(head.role, head.who) for head in heads]
    return Listening(rows, columns, _options(summary, rows), unprompted)


def inline(listening: Listening, space_bytes: int, notes: list[str]) -> None:
    """Put sounds into the page until `space_bytes` are used up.

    An unreadable one stays a link and is named in `notes`.
    """
    for player in listening.by_priority():
        if player.take.wav is None:
            continue
        loaded = load_player(player, notes)
        if loaded is None:
            continue
        space_bytes -= len(loaded.uri) + PLAYER_BYTES
        if space_bytes < 0:
            return
        player.sound = loaded


def load_player(player: Player, notes: list[str]) -> Sound | None:
    """Load the sound of a player; an unreadable one is named in `notes`."""
    assert player.take.wav is not None
    try:
        return load(player.take.wav)
    except (OSError, soundfile.LibsndfileError) as error:
        notes.append(f"{player.href}: not readable as audio ({error})")
        return None


def _heads(summary: Summary, baseline: Run | None, runs: Mapping[int, Run]) -> list[_Head]:
    best, default = summary.best_trial, summary.default_trial
    heads = []
    if baseline is not None and baseline.takes:
        heads.append(_Head("base", "Base model", baseline, None))
    for role, trial in (("default", default if default != best else None), ("best", best)):
        if trial and trial.number in runs:
            both = " = default" if role == "best" and trial == default else ""
            who = f"{role.capitalize()}{both} (trial {trial.number})"
            heads.append(_Head(role, who, runs[trial.number], trial.best_examples))
    return heads


def _reference(out: Path, take: Take) -> Player:
    who = "Real clip through the codec" if take.wav else "Reference"
    return Player("reference", who, take, _href(out, take))


def _prompts(runs: Sequence[Run]) -> list[tuple[str, Take]]:
    """Return (prompt id, any sample of it) in the order that the prompts were answered in."""
    texts = dict.fromkeys(chain.from_iterable(run.prompt_texts for run in runs))
    order = {text: index for index, text in enumerate(texts)}
    first: dict[str, Take] = {}
    for run in runs:
        for prompt, takes in run.takes.items():
            if takes:
                first.setdefault(prompt, takes[0])
    return sorted(
        first.items(), key=lambda item: (order.get(item[1].text, len(order)), item[1].text, item[0])
    )


def _others(
    summary: Summary, runs: Mapping[int, Run], prompt: str
) -> Iterator[tuple[str, str, Take]]:
    """Yield (key, who, sample) for the menu.

    Each trial at its best, then the best and the default step by step.
    """
    fixed = [trial for trial in (summary.best_trial, summary.default_trial) if trial]
    numbers = [trial.number for trial in fixed]
    for trial in summary.ranked:
        if trial.number in runs and trial.number not in numbers:
            take = runs[trial.number].at(prompt, trial.best_examples)
            if take is not None:
                yield f"t{trial.number}", f"Trial {trial.number}", take
    for number in numbers:
        takes = runs[number].takes.get(prompt, []) if number in runs else []
        if len(takes) > 1:
            for take in takes:
                yield f"t{number}s{take.step}", f"Trial {number}, step {take.step}", take


def _options(summary: Summary, rows: Sequence[Row]) -> list[Option]:
    found = dict.fromkeys(chain.from_iterable(row.others for row in rows))
    options = [_option(t) for t in summary.ranked if f"t{t.number}" in found]
    steps = [tuple(map(int, key[1:].split("s"))) for key in found if "s" in key]
    for number, step in sorted(steps, key=lambda pair: (pair[0] != summary.best, pair)):
        which = "Best" if number == summary.best else "Default"
        group = f"{which} trial {number}, step by step"
        options.append(Option(f"t{number}s{step}", f"trial {number} · step {step}", group))
    return options


def _option(trial: TrialRecord) -> Option:
    value = "no value" if trial.value is None else f"{trial.value:.3f}"
    label = f"trial {trial.number} · {STATE_WORDS[trial.state]} · {value}"
    return Option(f"t{trial.number}", label, _TRIALS_GROUP)


def _href(out: Path, take: Take) -> str:
    return quote(take.wav.relative_to(out).as_posix()) if take.wav else ""

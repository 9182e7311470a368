"""Which samples stand side by side, and which sounds fit into the page itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median
from urllib.parse import quote

import soundfile

from csm_ft.report.data import Run, Take
from csm_ft.report.sound import Look, Sound, load, look
from csm_ft.sweep.records import BASE, STATE_WORDS, Contender, Summary, TrialRecord

PLAYER_BYTES = 2200  # markup around one sample, outline included, where that is not known yet
_TRIALS_GROUP = "Trials, best first"
_MOST_OTHERS = 400  # samples of further trials in a page, over all prompts
_BELOW_MEDIAN_DB = 12.0  # what is quieter than that stays quieter than the rest of its row
_NO_OUTLINE = "M0 0H72"


@dataclass
class Player:
    """One sample on the page; `sound` is None while its file is only linked, or there is none."""

    role: str  # reference, base, default, best or other: what it is coloured by
    who: str
    take: Take
    href: str  # of the sound file, relative to the page; "" = the sample is text
    sound: Sound | None = None
    contender: Contender | None = None  # of blind votes: whose sample nearest its best this is
    look: Look | None = None  # None where nobody has looked
    gain: float = 1.0  # at most 1: by it the recordings of a row are equally loud

    @property
    def outline(self) -> str:
        """The SVG path of its loudness, flat where that is not known."""
        known = self.sound or self.look
        return known.outline if known else _NO_OUTLINE

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
    prompt: str = ""  # its id
    players: dict[str, Player] = field(default_factory=dict)
    others: dict[str, Player] = field(default_factory=dict)

    @property
    def contenders(self) -> dict[Contender, Player]:
        """Those that can be voted on."""
        everyone = [*self.players.values(), *self.others.values()]
        return {p.contender: p for p in everyone if p.contender is not None and p.take.wav}


@dataclass(frozen=True)
class Listening:
    """The whole section: rows, fixed columns (role, heading), and the menu."""

    rows: Sequence[Row]
    columns: Sequence[tuple[str, str]]
    options: Sequence[Option]
    real_clips: Sequence[Player]  # of texts that are no prompt
    num_left_out: int = 0  # trials whose samples are not on the page

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
    def has_transcripts(self) -> bool:
        """Whether any sample is a text, with errors marked."""
        return any(player.take.marked for player in self.by_priority())

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
    contender: Contender


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
    rows: list[Row] = []
    prompts = _prompts(everyone)
    num_others = max(1, _MOST_OTHERS // max(1, len(prompts)))
    for prompt, take in prompts:
        row = Row(take.text, take.speaker, take.context, prompt)
        if take.text in references:
            row.players["reference"] = _reference(out, references[take.text])
        for head in heads:
            if chosen := head.run.at(prompt, head.examples):
                row.players[head.role] = Player(
                    head.role, head.who, chosen, _href(out, chosen), contender=head.contender
                )
        for key, who, other, contender in _others(summary, runs, prompt, num_others):
            row.others[key] = Player("other", who, other, _href(out, other), contender=contender)
        rows.append(row)
    rows.sort(key=_error_share, reverse=True)
    prompted = {row.text for row in rows}
    unprompted = [
        _reference(out, take) for text, take in references.items() if text not in prompted
    ]
    shown = [row.players["reference"] for row in rows if "reference" in row.players]
    columns = [("reference", shown[0].who)] if shown else []
    columns += [(head.role, head.who) for head in heads]
    num_left_out = max(0, len(_further_trials(summary, runs)) - num_others)
    return Listening(rows, columns, _options(summary, rows), unprompted, num_left_out)


def match_levels(listening: Listening, notes: list[str]) -> None:
    """Make the recordings of each row equally loud, as its quietest is, by making others quieter.

    One more than 12 dB below the median is too quiet to set the level. What cannot be read is
    named in `notes`.
    """
    for row in listening.rows:
        players = [p for p in (*row.players.values(), *row.others.values()) if p.take.wav]
        levels: list[float] = []
        for player in players:
            player.look = _look(player, notes)
            if player.look and player.look.level_dbfs is not None:
                levels.append(player.look.level_dbfs)
        target_dbfs = max(min(levels), median(levels) - _BELOW_MEDIAN_DB) if levels else 0.0
        for player in players:
            if player.look and player.look.level_dbfs is not None:
                player.gain = min(1.0, 10 ** ((target_dbfs - player.look.level_dbfs) / 20))
    for player in listening.real_clips:
        player.look = _look(player, notes) if player.take.wav else None


def _look(player: Player, notes: list[str]) -> Look | None:
    assert player.take.wav is not None
    try:
        return look(player.take.wav)
    except (OSError, soundfile.LibsndfileError) as error:
        notes.append(f"{player.href}: not readable as audio ({error})")
        return None


def inline(listening: Listening, space_bytes: int, notes: list[str]) -> None:
    """Put sounds into the page until `space_bytes` are used up; `match_levels` has read them.

    An unreadable one stays a link.
    """
    for player in listening.by_priority():
        if player.take.wav is None or player.look is None:
            continue
        loaded = load_player(player, notes)
        if loaded is None:
            continue
        space_bytes -= len(loaded.uri)
        if space_bytes < 0:
            return
        player.sound = loaded


def load_player(player: Player, notes: list[str]) -> Sound | None:
    """Load the sound of a player; an unreadable one is named in `notes`."""
    assert player.take.wav is not None
    try:
        return load(player.take.wav, player.gain)
    except (OSError, soundfile.LibsndfileError) as error:
        notes.append(f"{player.href}: not readable as audio ({error})")
        return None


def _heads(summary: Summary, baseline: Run | None, runs: Mapping[int, Run]) -> list[_Head]:
    best, default = summary.best_trial, summary.default_trial
    heads = []
    if baseline is not None and baseline.takes:
        heads.append(_Head("base", "Base model", baseline, None, BASE))
    for role, trial in (("default", default if default != best else None), ("best", best)):
        if trial and trial.number in runs:
            both = " = default" if role == "best" and trial == default else ""
            who = f"{role.capitalize()}{both} (trial {trial.number})"
            run = runs[trial.number]
            heads.append(_Head(role, who, run, trial.best_examples, trial.number))
    return heads


def _error_share(row: Row) -> float:
    """Return the share of words that the best of a prompt's transcripts has wrong."""
    found = (row.players[role] for role in ("best", "default", "base") if role in row.players)
    return next((player.take.error_share for player in found), 0.0)


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
    summary: Summary, runs: Mapping[int, Run], prompt: str, num_trials: int
) -> Iterator[tuple[str, str, Take, Contender | None]]:
    """Yield (key, who, sample, contender) for the menu.

    Each of the best `num_trials` at its best, then the best and the default step by step.
    """
    for trial in _further_trials(summary, runs)[:num_trials]:
        take = runs[trial.number].at(prompt, trial.best_examples)
        if take is not None:
            yield f"t{trial.number}", f"Trial {trial.number}", take, trial.number
    for trial in _fixed_trials(summary):
        number = trial.number
        takes = runs[number].takes.get(prompt, []) if number in runs else []
        if len(takes) > 1:
            for take in takes:
                yield f"t{number}s{take.step}", f"Trial {number}, step {take.step}", take, None


def _fixed_trials(summary: Summary) -> list[TrialRecord]:
    """Return the trials with a column of their own."""
    best, default = summary.best_trial, summary.default_trial
    return [trial for trial in (best, default if default != best else None) if trial]


def _further_trials(summary: Summary, runs: Mapping[int, Run]) -> list[TrialRecord]:
    """Return the trials of the menu that have samples, best first."""
    fixed = [trial.number for trial in _fixed_trials(summary)]
    return [
        trial
        for trial in summary.ranked
        if trial.number not in fixed and trial.number in runs and runs[trial.number].takes
    ]


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

"""Which recordings stand side by side, and which of them fit into the page itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import soundfile

from csm_ft.report.data import STATE_WORDS, Run, Summary, Take, Trial
from csm_ft.report.sound import Sound, load

PLAYER_BYTES = 2200  # markup around one recording, outline included


@dataclass
class Player:
    """One recording on the page.

    `sound` is None while it is only linked by `href`, relative to the page.
    """

    role: str  # reference, base, default, best or other: what it is coloured by
    who: str
    take: Take
    href: str
    sound: Sound | None = None

    @property
    def source(self) -> str:
        """What the player plays: the inlined recording, or a link beside the page."""
        return self.sound.uri if self.sound else self.href


@dataclass(frozen=True)
class Option:
    """One entry of the `compare with` menu."""

    key: str
    label: str
    group: str


@dataclass
class Row:
    """One sentence.

    The fixed players by role, and the players that the menu can put beside them, by option key.
    """

    text: str
    speaker: str
    context: Sequence[str] = ()  # what was said before, oldest turn first
    players: dict[str, Player] = field(default_factory=dict)
    others: dict[str, Player] = field(default_factory=dict)


@dataclass(frozen=True)
class Listening:
    """The whole section.

    Rows, fixed columns (role, heading), the menu, and real clips of sentences that nobody was asked
    to speak.
    """

    rows: Sequence[Row]
    columns: Sequence[tuple[str, str]]
    options: Sequence[Option]
    real_clips: Sequence[Player]

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
    def num_linked(self) -> int:
        """Recordings that are not in the page itself."""
        return sum(player.sound is None for player in self.by_priority())


def arrange(
    out: Path, summary: Summary, baseline: Run | None, runs: Mapping[int, Run]
) -> Listening:
    """Line up every sentence over real clip, base model, default.

    Best and the other trials (each nearest its best validation).
    """
    best, default = summary.best_trial, summary.default_trial
    heads: list[tuple[str, str, Run, float | None]] = []
    if baseline is not None and baseline.takes:
        heads.append(("base", "Base model", baseline, None))
    for role, trial in (("default", default if default != best else None), ("best", best)):
        if trial and trial.number in runs:
            heads.append(
                (role, _heading(role, trial, default), runs[trial.number], trial.best_examples)
            )
    everyone = [
        run
        for run in (baseline, *(runs[t.number] for t in summary.ranked if t.number in runs))
        if run
    ]
    references = {take.text: take for run in reversed(everyone) for take in run.references}
    rows, spoken = [], set()
    for prompt, take in _prompts(everyone):
        row = Row(take.text, take.speaker, take.context)
        if take.text in references:
            row.players["reference"] = Player(
                "reference",
                "Real clip through the codec",
                references[take.text],
                _href(out, references[take.text]),
            )
        for role, who, run, examples in heads:
            if chosen := run.at(prompt, examples):
                row.players[role] = Player(role, who, chosen, _href(out, chosen))
        row.others = {
            key: Player("other", who, other, _href(out, other))
            for key, who, other in _others(summary, runs, prompt)
        }
        rows.append(row)
        spoken.add(take.text)
    unspoken = [
        Player("reference", "Real clip through the codec", t, _href(out, t))
        for text, t in references.items()
        if text not in spoken
    ]
    columns = (
        [("reference", "Real clip through the codec")]
        if any("reference" in row.players for row in rows)
        else []
    )
    return Listening(
        rows,
        columns + [(role, who) for role, who, _, _ in heads],
        _options(summary, rows),
        unspoken,
    )


def inline(listening: Listening, room_bytes: int, notes: list[str]) -> None:
    """Put recordings into the page until `room_bytes` are used up.

    An unreadable one stays a link and is told in `notes`.
    """
    for player in listening.by_priority():
        try:
            loaded = load(player.take.wav)
        except (OSError, soundfile.LibsndfileError) as error:
            notes.append(f"{player.href}: not readable as audio ({error})")
            continue
        room_bytes -= len(loaded.uri) + PLAYER_BYTES
        if room_bytes < 0:
            return
        player.sound = loaded


def _prompts(runs: Sequence[Run]) -> list[tuple[str, Take]]:
    """Return (prompt id, any recording of it) in the order that the sentences were spoken in."""
    order = {
        text: i
        for i, text in enumerate(dict.fromkeys(text for run in runs for text in run.spoken_texts))
    }
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
    """Yield (key, who, recording) for the menu.

    Each trial at its best, then the best and the default step by step.
    """
    fixed = {t.number for t in (summary.best_trial, summary.default_trial) if t}
    for trial in summary.ranked:
        if (
            trial.number in runs
            and trial.number not in fixed
            and (take := runs[trial.number].at(prompt, trial.best_examples))
        ):
            yield f"t{trial.number}", f"Trial {trial.number}", take
    for trial in (summary.best_trial, summary.default_trial):
        if trial and trial.number in runs and len(runs[trial.number].takes.get(prompt, [])) > 1:
            for take in runs[trial.number].takes[prompt]:
                yield (
                    f"t{trial.number}s{take.step}",
                    f"Trial {trial.number}, step {take.step}",
                    take,
                )


def _options(summary: Summary, rows: Sequence[Row]) -> list[Option]:
    found = dict.fromkeys(key for row in rows for key in row.others)
    options = []
    for trial in summary.ranked:
        if f"t{trial.number}" in found:
            value = "no value" if trial.value is None else f"{trial.value:.3f}"
            options.append(
                Option(
                    f"t{trial.number}",
                    f"trial {trial.number} · {STATE_WORDS[trial.state]} · {value}",
                    "Trials, best first",
                )
            )
    steps = sorted(
        (int(key.split("s")[0][1:]), int(key.split("s")[1])) for key in found if "s" in key
    )
    for number, step in sorted(steps, key=lambda pair: (pair[0] != summary.best, pair)):
        which = "Best" if number == summary.best else "Default"
        options.append(
            Option(
                f"t{number}s{step}",
                f"trial {number} · step {step}",
                f"{which} trial {number}, step by step",
            )
        )
    return options


def _heading(role: str, trial: Trial, default: Trial | None) -> str:
    both = " = default" if role == "best" and trial == default else ""
    return f"{role.capitalize()}{both} (trial {trial.number})"


def _href(out: Path, take: Take) -> str:
    return quote(take.wav.relative_to(out).as_posix())

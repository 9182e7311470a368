"""A Weights & Biases run that mirrors a folder: it may fail, and what it mirrors goes on."""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape

from csm_ft.atomic import write_whole
from csm_ft.console import console
from csm_ft.runs.wandb_settings import choose_wandb_project

# How long a run waits for the server before it is recorded offline instead, to its end. A shorter
# wait would do without a network, but one slow answer would then send a whole run offline.
INIT_TIMEOUT_SEC = 30
_DATA_DIR = "WANDB_DATA_DIR"  # W&B's variable: where files of tables wait for their upload

Cell = Path | str | float | bool | None  # a path is that of a recording


@dataclass(frozen=True)
class Table:
    """A table as W&B shows it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class RunFacts:
    """What a W&B run is called, and what it mirrors."""

    folder: Path  # wandb/ is made in it
    id_file: Path  # keeps the id
    project: str
    name: str  # "" = that of the folder
    config: Mapping[str, Any]
    record: str  # what holds everything, for the message of a failure
    group: str = ""
    job_type: str | None = None
    old_id: str = ""  # of a run that began before ids were kept
    has_parts: bool = True  # offline, each start is a run of its own; else the last one counts
    is_apart: bool = False  # another run may be open in this process


class Mirror:
    """Feeds one W&B run; the first failure ends that with a line on the console."""

    def __init__(self, run: Any, record: str) -> None:
        self._run, self._record = run, record  # None: off, or given up

    @property
    def is_offline(self) -> bool:
        """Whether it is recorded for a later `wandb sync`."""
        return self._run is not None and self._run.offline

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log numbers at a step."""
        self._do(lambda run: run.log(dict(values), step=step))

    def sound(self, key: str, wav: Path, *, caption: str, step: int) -> None:
        """Log a recording at a step."""

        def log(run: Any) -> None:
            import wandb

            run.log({key: wandb.Audio(str(wav), caption=caption)}, step=step)

        self._do(log)

    def page(self, key: str, make: Callable[[], str], step: int) -> None:
        """Make an HTML page and log it at a step; an empty one is left out."""

        def log(run: Any) -> None:
            import wandb

            page = make()
            if page:
                run.log({key: wandb.Html(page)}, step=step)

        self._do(log)

    def tables(self, make: Callable[[], Mapping[str, Table]], step: int | None = None) -> None:
        """Make tables and log each whole: it takes the place of the one before.

        Empty ones are left out.
        """

        def log(run: Any) -> None:
            filled = {key: table for key, table in make().items() if table.rows}
            if filled:
                with _files_beside(run):
                    shown = {key: _show_table(table) for key, table in filled.items()}
                    run.log(shown, step=step)

        self._do(log)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set summary values."""
        self._do(lambda run: run.summary.update(dict(values)))

    def finish(self, *, is_good: bool) -> None:
        """End the run, and wait until it is uploaded or on disk."""
        self._do(lambda run: run.finish(exit_code=0 if is_good else 1))

    def _do(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # no failure of the mirror may stop what it mirrors
            console.print(
                f"[yellow]W&B: {escape(str(error))}; continuing without it"
                f" ({escape(self._record)})[/]"
            )
            self._run = None


def start_mirror(facts: RunFacts, mode: str) -> Mirror:
    """Start a W&B run; `mode` is online, offline or off.

    An online run that cannot start is started offline; `wandb sync` uploads it later.
    """
    if mode == "off":
        return Mirror(None, facts.record)
    try:
        return Mirror(_init(facts, mode, is_new_part=False), facts.record)
    except Exception as error:  # no key, no network, a broken install: training does not need it
        failure = error
    if mode == "online":
        console.print(
            f"[yellow]W&B is not reachable ({escape(type(failure).__name__)}); recording offline,"
            " send later with `wandb sync`[/]"
        )
        try:
            # W&B's service still holds the id of the run that it could not start.
            return Mirror(_init(facts, "offline", is_new_part=True), facts.record)
        except Exception as error:
            failure = error
    console.print(f"[yellow]W&B did not start ({escape(str(failure))}); continuing without it[/]")
    return Mirror(None, facts.record)


def _init(facts: RunFacts, mode: Any, *, is_new_part: bool) -> Any:
    import wandb

    part = _choose_part(facts, is_offline=mode == "offline", is_new_part=is_new_part)
    is_first = part.id == part.of
    name = facts.name or facts.folder.name
    # What the user's environment says counts; options fill in the rest.
    chosen = {
        "project": ("", choose_wandb_project(facts.project)),
        # One name for all trials of a sweep would tell nobody which is which.
        "name": (
            "" if facts.name else "WANDB_NAME",
            name if is_first else f"{name} (part {part.number})",
        ),
        "group": ("WANDB_RUN_GROUP", facts.group or None),
        # Whole: W&B's service may be that of another process, in another working folder.
        "dir": ("WANDB_DIR", str(facts.folder.resolve())),
    }
    return wandb.init(
        **{name: value for name, (known, value) in chosen.items() if not os.environ.get(known, "")},
        id=part.id,
        job_type=facts.job_type,
        resume="allow",
        mode=mode,
        config={**facts.config, **({} if is_first else {"part": part.number, "part_of": part.of})},
        reinit="create_new" if facts.is_apart else "finish_previous",
        settings=wandb.Settings(
            silent=True, console="off", init_timeout=INIT_TIMEOUT_SEC, x_disable_stats=True
        ),
    )


class _Part(NamedTuple):
    id: str
    of: str  # id of the first part
    number: int  # from 1


def _choose_part(facts: RunFacts, *, is_offline: bool, is_new_part: bool) -> _Part:
    """Return the W&B run to start: its id is random once per folder, and the same on resume.

    Offline, each resumed part is a run of its own, since of two parts with one id a sync would keep
    one.
    """
    if facts.id_file.is_file():
        own, *starts = facts.id_file.read_text(encoding="utf-8").split()
    else:
        own, starts = (facts.old_id, ["1"]) if facts.old_id else (secrets.token_hex(8), ["0"])
    number = (int(starts[0]) if starts else 0) + 1
    write_whole(facts.id_file, f"{own} {number}\n")
    is_new_part = is_new_part or (is_offline and facts.has_parts and number > 1)
    return _Part(f"{own}-part{number}" if is_new_part else own, own, number)


def _show_table(table: Table) -> Any:
    import wandb

    rows: list[Any] = [[_show(cell) for cell in row] for row in table.rows]
    return wandb.Table(columns=list(table.columns), data=rows)


def _show(cell: Cell) -> Any:
    if not isinstance(cell, Path):
        return cell
    import wandb

    return wandb.Audio(str(cell)) if cell.is_file() else None


@contextmanager
def _files_beside(run: Any) -> Iterator[None]:
    """Have W&B keep the files of tables in the run's own folder until they are uploaded.

    Its default is a folder in the user's home, where they would outlive the run and miss a copy of
    it; W&B reads the variable at each table.
    """
    if os.environ.get(_DATA_DIR):
        yield
        return
    os.environ[_DATA_DIR] = str(Path(run.dir).parent)
    try:
        yield
    finally:
        del os.environ[_DATA_DIR]

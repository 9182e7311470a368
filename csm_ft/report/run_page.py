"""The page of one run: its validation loss, and beside it what judges said."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plotly.offline import get_plotlyjs

from csm_ft.atomic import write_whole
from csm_ft.evaluate.metrics import MAIN, METRICS, VALIDATION, is_judged
from csm_ft.report import templating, traces
from csm_ft.report.data import Run, Take, read_run
from csm_ft.report.judged import run_curves
from csm_ft.report.listen import Player
from csm_ft.runs.folder import RunFolder
from csm_ft.sweep.records import VAL_LOSS, keys_of


def build_run_page(path: Path) -> Path:
    """Write report.html from the files of a run folder, and return its path."""
    folder = RunFolder(path)
    write_whole(folder.report, render_run_page(path))
    return folder.report


def render_run_page(path: Path, *, is_served: bool = False) -> bytes:
    """Return the page of a run; one that is served asks for its next version.

    Valid at any time of the run; what cannot be read is named on the page. Recordings are links
    into the run folder.
    """
    folder, notes = RunFolder(path), list[str]()
    rows = folder.rows("val")
    run = read_run(path, notes)
    judged = [name for name in MAIN if any(name in row for row in rows)]
    measured = [name for name in keys_of(rows) if name.startswith(VALIDATION)]
    names = list(dict.fromkeys([VAL_LOSS, *run.canary, *judged, *measured]))
    curves = run_curves(run, VAL_LOSS)
    clips, evaluation = _clips(folder, rows, notes)
    environment = templating.environment()
    text = templating.template_text(environment, "players.js", "sort.js", "page.js", "live.js")
    plotly, script = templating.script(get_plotlyjs()), templating.script(text)
    page = environment.get_template("run.html.j2").render(
        name=path.resolve().name,
        seen=traces.seen(run.compared_in),
        rows=rows,
        names=names,
        metrics=METRICS,
        curves=[(title, figure["id"]) for title, figure in curves],
        figures=templating.json_for_script([figure for _, figure in curves]),
        clips=clips,
        transcripts=_transcripts(run),
        judges=evaluation.get("judges", {}),
        notes=[*evaluation.get("notes", ()), *notes],
        style=templating.style(environment),
        plotly=plotly[0],
        script=script[0],
        script_hashes=f"{plotly[1]} {script[1]}",
        is_served=is_served,
    )
    return page.encode("utf-8")


def _transcripts(run: Run) -> list[tuple[Take, Player, Player | None]]:
    """Return (sample, its player, that of the recording) of each prompt at the end, worst first."""
    real = {take.file.stem: take for take in run.references}
    last = [(prompt, takes[-1]) for prompt, takes in run.takes.items() if takes]
    last = [(prompt, take) for prompt, take in last if take.marked]
    last.sort(key=lambda pair: pair[1].error_share, reverse=True)
    return [
        (
            take,
            Player("best", "Transcript", take, ""),
            Player("reference", "Recording", real[prompt], _href(real[prompt]))
            if prompt in real
            else None,
        )
        for prompt, take in last
    ]


def _href(take: Take) -> str:
    return quote(f"samples/{take.file.parent.name}/{take.file.name}")


def _clips(
    folder: RunFolder, rows: Sequence[Mapping[str, Any]], notes: list[str]
) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """Return what was said at the last judged validation, and its evaluation."""
    steps = [int(row["step"]) for row in rows if is_judged(row)]
    if not steps:
        return [], {}
    judged = folder.judged_folder(steps[-1])
    path = folder.judged_results(steps[-1])
    try:
        evaluation = json.loads(path.read_bytes())
        found = evaluation["rows"][0]["clips"]
    except (OSError, ValueError, KeyError, IndexError) as error:
        notes.append(f"{judged.name}/{path.name}: not readable ({type(error).__name__})")
        return [], {}
    home = judged.relative_to(folder.path).as_posix()
    return [{**clip, "file": quote(f"{home}/{clip['id']}")} for clip in found], evaluation

"""The recordings of a trial as Optuna's artifacts, which optuna-dashboard plays."""

import json
import os
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path

from optuna import Trial
from optuna.artifacts import ArtifactMeta

from csm_ft.atomic import disk_errors
from csm_ft.report.data import Take, read_run
from csm_ft.runs.folder import RunFolder, SweepFolder

_MOST = 16  # recordings of a trial: the dashboard lists all of them at once
_MOST_CHARACTERS = 60  # of a prompt, in the name of its recording
_KEY = "artifacts:{}"  # of Optuna's: an attribute of the trial, by the artifact's id


def add_recordings(trial: Trial, run: RunFolder, folder: SweepFolder, examples: int | None) -> None:
    """Give a trial its recordings nearest to `examples` seen (None: the last), one per prompt.

    To be called before the trial is told, as Optuna changes nothing of one that has ended. Ids come
    from paths: after a kill the same are given again. (Optuna's upload_artifact copies the files,
    names them all alike, and draws ids.) Raises MachineError when the disk refuses.
    """
    if not run.samples.is_dir():
        return
    found = read_run(run.path, [])  # what cannot be read stands on the page
    takes = [take for take in (found.at(prompt, examples) for prompt in found.takes) if take]
    sounding = [(take, take.wav) for take in takes if take.wav is not None]
    for take, wav in sounding[:_MOST]:
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, wav.relative_to(folder.path).as_posix()))
        with disk_errors(folder.artifacts):
            folder.artifacts.mkdir(exist_ok=True)
            _link(wav, folder.artifacts / name)
        meta = ArtifactMeta(name, _title(take), "audio/wav", None)
        trial.storage.set_trial_system_attr(
            trial._trial_id, _KEY.format(name), json.dumps(asdict(meta))
        )


def _title(take: Take) -> str:
    text = take.text[:_MOST_CHARACTERS].strip(" .") or "sample"
    return f"{text}.wav"


def _link(source: Path, target: Path) -> None:
    """Make a hard link, which takes no room, or a copy where there are no links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

"""The best settings of earlier studies, to be tried early in a new one: `--warm_from`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml

from csm_ft.console import console
from csm_ft.report.data import read_summary
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.optuna_trials import key_of
from csm_ft.sweep.records import TrialRecord
from csm_ft.sweep.space import Parameter, Space, contains
from csm_ft.sweep.trials import Plan

NUM_SETTINGS = 3  # of each earlier study

Settings = list[dict[str, Any]]


def keep_warm_settings(study: optuna.Study, plan: Plan) -> None:
    """Keep the settings of earlier sweeps with a new study: it goes on if those are gone."""
    asked = plan.sweep.warm_from
    if not asked or study.user_attrs.get("warm_from") == asked:
        return
    if "warm_from" in study.user_attrs or study.get_trials(deepcopy=False):
        text = "warm_from is not used: the study has begun, and keeps the settings it began with"
        console.print(text, style="yellow")
        return
    settings, notes = warm_settings(asked, plan.space)
    study.set_user_attr("warm_settings", settings)
    study.set_user_attr("warm_from", asked)
    for note in notes:
        console.print(note, markup=False)


def warm_settings(paths: Sequence[str], space: Space) -> tuple[Settings, list[str]]:
    """Return settings of the space after the best ones of earlier sweeps, and what to tell.

    A value that the space does not have is left at its default, and told. ReportError where a
    folder is none of a sweep.
    """
    known = {key_of(point) for point in space.first_points()}
    settings, notes = Settings(), list[str]()
    for path in paths:
        folder = SweepFolder(Path(path))
        summary = read_summary(folder)
        best = [t for t in summary.ranked if t.state == "completed" and t.purpose == "search"]
        for trial in _different(best)[:NUM_SETTINGS]:
            setting, misfits = _fitted(_options_of(folder, trial), space)
            where = f"warm_from {path}: trial {trial.number}"
            notes += [f"{where}: {misfit}" for misfit in misfits]
            if key_of(setting) in known:
                notes.append(f"{where}: its setting is among the first ones already")
                continue
            known.add(key_of(setting))
            settings.append(setting)
            notes.append(f"{where} is tried again: {_words(setting)}")
        if not best:
            notes.append(f"warm_from {path}: no trial was trained to the end; nothing is taken")
    return settings, notes


def _different(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the first trial of each setting."""
    return list({key_of(trial.params): trial for trial in reversed(trials)}.values())[::-1]


def _options_of(folder: SweepFolder, trial: TrialRecord) -> Mapping[str, Any]:
    """Return all options of a trial; only the searched ones where its folder is gone."""
    config = folder.trial(trial.number).config
    options = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return {**options, **trial.params}


def _fitted(options: Mapping[str, Any], space: Space) -> tuple[dict[str, Any], list[str]]:
    """Return the setting of a space that is nearest to the options, and what does not fit."""
    setting, misfits = dict[str, Any](), list[str]()
    for parameter in space.parameters:
        if space.is_active(parameter, setting):
            value = options.get(parameter.name)
            fits = contains(parameter.distribution, value)
            setting[parameter.name] = value if fits else parameter.default
            if not fits:
                misfits.append(_misfit(parameter, value))
    misfits += _fixed_otherwise(options, space)
    return setting, misfits


def _misfit(parameter: Parameter, value: Any) -> str:
    had = "has none" if value is None else f"has {value!r}, which is not in the space"
    return f"{parameter.name}: it {had}; {parameter.default!r} takes its place"


def _fixed_otherwise(options: Mapping[str, Any], space: Space) -> Iterator[str]:
    """Say which options that change the weights are the same for all trials now, and others then.

    Those of the data and of the length of a run do not tell settings apart.
    """
    searched = {*(p.name for p in space.parameters), *space.computed}
    for name, value in space.base.training_keys().items():
        is_setting = name not in searched and name not in ("data", "n_epochs", "max_steps", "seed")
        if is_setting and name in options and options[name] != value:
            yield f"{name}: it has {options[name]!r}, and all trials here have {value!r}"


def _words(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items())

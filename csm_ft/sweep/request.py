"""The command line of sweep.py: its own options, and those of train.py, shared by all trials."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import create_model

from csm_ft.cli import read_values
from csm_ft.config.base import Options, build
from csm_ft.config.train import TrainConfig
from csm_ft.config.yaml_file import load_yaml
from csm_ft.families import choose_family, open_family
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.wandb_space import is_wandb, not_used, options_of

DESCRIPTION = (
    "Search hyper-parameters: trials of train.py over all GPUs (or on the CPU), a best config,"
    " samples and a report. The same command resumes a sweep that was stopped; a larger --n_trials"
    " extends the study. Every option of train.py is accepted, too: it is the same for all trials"
    " or, where the sweep config searches it, the value of trial 0."
)
# Options of both programs; the sweep's default goes to the trials.
SHARED = ("seed", "wandb_project", "gen_every", "save_every")
SET_BY_SWEEP: Mapping[str, str] = {
    "val_every": "all trials are validated at the same numbers of examples seen",
    "best_from": "the best is counted from the first rung on",
    "measure_base": "the untrained model is measured once for all trials",
    "keep_last": "a trial keeps one checkpoint to resume from",
    "judge_best": "where trials are judged, only a judged validation is the best",
    "extend": "trials are new runs; a larger --n_trials prolongs a study",
    "resume": "the same command resumes; another --output_dir starts a new study",
    "wandb_group": "it is the study's name",
    "wandb_name": "it is the study's name and the trial's number",
}


@dataclass(frozen=True)
class SweepRequest:
    """One parsed command: the sweep's options, and those that all trials share."""

    sweep: SweepConfig
    train_class: type[TrainConfig]
    # Options of train.py named by a flag or in the YAML of --config, not yet validated.
    given: Mapping[str, Any]
    defaults: Mapping[str, Any]  # the sweep's defaults of options that both programs have
    argv: Sequence[str] = ()  # the command line


def options_class(train_class: type[TrainConfig]) -> type[Options]:
    """Return the class of everything that sweep.py accepts, its own options first."""
    fields = {
        name: copy(SweepConfig.model_fields.get(name) or train_class.model_fields[name])
        for name in (*SHARED, "output_dir", *SET_BY_SWEEP)
    }
    for name, reason in SET_BY_SWEEP.items():
        fields[name].description = f"Not used: in a sweep, {reason}."
    overrides: dict[str, Any] = {name: (field.annotation, field) for name, field in fields.items()}
    return create_model("SweepOptions", __base__=(train_class, SweepConfig), **overrides)


def parse(argv: Sequence[str]) -> SweepRequest:
    """Parse a command line; ConfigError names the wrong option, its value and the rule."""
    family = choose_family(argv)
    train_class = open_family(family).train_config
    values = read_values(
        options_class(train_class), argv, program="sweep.py", description=DESCRIPTION
    )
    values = {"sweep_config": train_class.search_space, **values}
    values = {**_of_space(str(values.get("sweep_config", ""))), **values}
    own = {name: value for name, value in values.items() if name in SweepConfig.model_fields}
    sweep = build(SweepConfig, own)
    given = {name: value for name, value in values.items() if name not in own or name in SHARED}
    for name in [name for name in given if name in SET_BY_SWEEP]:
        _warn(f"{name} {given.pop(name)} is not used: in a sweep, {SET_BY_SWEEP[name]}")
    given["family"] = family
    return SweepRequest(
        sweep,
        train_class,
        given,
        defaults={name: getattr(sweep, name) for name in SHARED},
        argv=argv,
    )


def _of_space(path: str) -> dict[str, Any]:
    """Return the options of sweep.py that a search space in W&B's format has besides."""
    if not Path(path).is_file() or not is_wandb(document := load_yaml(Path(path))):
        return {}
    if names := not_used(document):
        _warn(f"{path}: {', '.join(names)} of W&B's sweep: not used here")
    return options_of(Path(path), document)


def _warn(text: str) -> None:
    from csm_ft.console import console  # here, so that --help is quick

    console.print(f"[yellow]{text}[/]")

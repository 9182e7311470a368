"""The numbers of an evaluation in the W&B run of the weights, where they have one."""

from csm_ft.atomic import exclusive
from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.errors import ConfigError
from csm_ft.evaluate.expression import expression_values
from csm_ft.evaluate.results import Evaluation
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.wandb_mirror import RunFacts, Table, start_mirror
from csm_ft.runs.wandb_settings import choose_reachable_wandb_mode

_COLUMNS = ("row", "metric", "value", "low", "high", "prompts", "clips")


def log_evaluation(evaluation: Evaluation, run: RunFolder, config: TrainConfig) -> None:
    """Add summary values evaluation/ROW/METRIC and a table to the W&B run of a run.

    Nothing without one. A failure is printed; the files of the evaluation are complete. A run that
    is being trained is left alone, as its W&B run has one writer.
    """
    if not run.wandb_id.is_file():
        return
    mode = choose_reachable_wandb_mode(config.wandb)
    if mode == "off":
        return
    facts = RunFacts(
        folder=run.path,
        id_file=run.wandb_id,
        project=config.wandb_project,
        name=config.wandb_name,
        group=config.wandb_group,
        config={},
        record="evaluation.json has everything",
        is_apart=config.wandb_reinit,
    )
    try:
        with exclusive(run.lock, "the run is being trained"):
            mirror = start_mirror(facts, mode)
            mirror.summary(summary_of(evaluation))
            mirror.tables(lambda: {"evaluation": table_of(evaluation)})
            mirror.finish(is_good=True)
    except ConfigError as error:
        console.print(f"W&B: {error}; {facts.record}", markup=False)


def summary_of(evaluation: Evaluation) -> dict[str, float]:
    """Return the numbers by row and metric; the rows of models have the name of their kind."""
    values: dict[str, float] = {}
    for row in evaluation.rows:
        values |= {f"evaluation/{row.kind}/{name}": one.value for name, one in row.summary.items()}
        values |= {f"evaluation/{row.kind}/{name}": value for name, value in row.on_data.items()}
        found = expression_values(row.expression)
        values |= {f"evaluation/{row.kind}/{name}": value for name, value in found.items()}
    return values


def table_of(evaluation: Evaluation) -> Table:
    """Return every number with its interval."""
    rows = [
        (row.name, name, one.value, one.low, one.high, one.num_prompts, one.num_clips)
        for row in evaluation.rows
        for name, one in row.summary.items()
    ]
    return Table(_COLUMNS, rows)

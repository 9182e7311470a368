"""Judges of a run: they hear the same prompts again and again, by the code of csm_ft.evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shutil import rmtree

import torch

from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.data.split import Store
from csm_ft.device import torch_state_kept
from csm_ft.errors import ConfigError, MachineError
from csm_ft.evaluate import prompts, recordings
from csm_ft.evaluate.emotions import reference_prosody
from csm_ft.evaluate.expression import Expression, compare_expression, expression_values
from csm_ft.evaluate.judge import (
    EMOTION,
    JudgedClip,
    Judges,
    References,
    SpokenClip,
    judge,
    open_judges,
)
from csm_ft.evaluate.metrics import MAIN, METRICS, check_best_by
from csm_ft.evaluate.results import EvaluatedRow, Evaluation, make_row, write_results
from csm_ft.evaluate.speaking import BATCH_SIZE, Script, ask, make_script, speak
from csm_ft.families.base import EncoderRecord, Family
from csm_ft.families.encoder import Encoder
from csm_ft.families.model import SpeechModel
from csm_ft.generate.run import Generator
from csm_ft.runs.encoder_record import record_of_run
from csm_ft.runs.folder import RunFolder
from csm_ft.schedule import Duration

SEED = 0  # of prompts and samples: the same for all trials, whatever their own, as for evaluate
_LABEL = "model"


@dataclass
class RunJudge:
    """Prompts, judges and what they compare with."""

    config: TrainConfig
    folder: RunFolder
    encoder: Encoder
    record: EncoderRecord
    judges: Judges
    references: References
    script: Script
    notes: Sequence[str]  # on the prompts
    _told: set[str] = field(default_factory=set)  # failures that were printed

    def run(self, model: SpeechModel, step: int) -> dict[str, float]:
        """Sample and judge; return the judged numbers.

        Samples and evaluation.json, with the numbers of each clip and the versions of the judges,
        go to the run folder. The run itself is not touched: neither random states nor mode.
        """
        folder = self.folder.judged_folder(step)
        rmtree(folder, ignore_errors=True)  # of a session that was killed after this step
        device = next(model.parameters()).device.type
        with torch_state_kept(self.config.device):
            generator = Generator(model, self.encoder, _LABEL, device, self.config.dtype)
            clips = _speak(generator, self.script, self.record, folder)
            judged = judge(clips, self.judges, self.references)
            row = make_row(f"step {step}", "model", judged, expression=self._expression(judged))
        self._write(row, folder)
        values = {name: found.value for name, found in row.summary.items()}
        values |= expression_values(row.expression)
        shown = [f"{name} {values[name]:.3g}" for name in MAIN if name in values]
        console.print(f"step {step}  judged {len(clips)} samples: {', '.join(shown)}", markup=False)
        return values

    def _expression(self, judged: Sequence[JudgedClip]) -> Expression | str:
        if not any(EMOTION in one.clip.tags for one in judged):
            return ""
        return compare_expression(self._real, judged)

    @cached_property
    def _real(self) -> Sequence[JudgedClip]:
        assert self.record.store is not None, "opened with it"
        return reference_prosody(self.record.store, self.encoder)

    def _write(self, row: EvaluatedRow, folder: Path) -> None:
        """Write evaluation.json, and print failures of judges when they are new."""
        store = self.record.store
        assert store is not None, "opened with it"
        options = {
            name: value
            for name, value in self.config.model_dump(mode="json").items()
            if name.startswith("judge_")
        }
        evaluation = Evaluation(
            row.name,
            [row],
            self.judges.versions(),
            self.judges.missing(),
            self.notes,
            normaliser=self.judges.rules.name,
            options=options | {"seed": SEED},
            data={"path": store.path.name, "content": store.info.content_fingerprint},
        )
        write_results(evaluation, folder)
        for name, (count, reason) in row.failures().items():
            if name not in self._told:
                self._told.add(name)
                console.print(
                    f"warning: {row.name}: the judge of {name} failed on {count} of"
                    f" {len(row.judged)} clips, whose numbers are missing ({reason})",
                    style="yellow",
                    markup=False,
                )


def _speak(
    generator: Generator, script: Script, record: EncoderRecord, folder: Path
) -> list[SpokenClip]:
    """Let the model speak; too little memory is the setting's fault here, as in training."""
    try:
        return speak(generator, script, record, folder)
    except MachineError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            raise error.__cause__ from error
        raise


def check_judging(config: TrainConfig, family: Family, store: Store) -> None:
    """Raise ConfigError where options ask for judged numbers that cannot be had."""
    check_best_by(config.best_by, judge_every=config.judge_every)
    if Duration.parse(config.judge_every).amount and not family.speaks_texts(store):
        raise ConfigError(
            f"judge_every {config.judge_every}: the family {family.name} speaks no texts of"
            f" {store.path}, and judges hear spoken texts; leave judge_every at 0"
        )


def open_judge(
    config: TrainConfig, store: Store, family: Family, folder: RunFolder
) -> RunJudge | None:
    """Open judges, prompts and reference clips; None without --judge_every.

    A judge that is not installed is printed and left out. Raises ConfigError for a named one that
    cannot be opened, and for one that best_by needs; PromptError for a mistake in the prompts.
    """
    if not Duration.parse(config.judge_every).amount:
        return None
    with torch_state_kept(config.device):
        judges = open_judges(
            config.judge_asr,
            config.judge_embedder,
            config.judge_emotion_classifier,
            language=config.judge_language,
            device=config.device,
        )
        _tell(judges, config, folder)
        encoder = family.open_encoder(store, config.device)
        chosen = recordings.choose_references(store, SEED)
        references = recordings.make_references(store, encoder, judges, chosen)
        record = record_of_run(config, store)
        script, notes = _read_script(config, family, folder, record, encoder)
    return RunJudge(config, folder, encoder, record, judges, references, script, notes)


def _read_script(
    config: TrainConfig, family: Family, folder: RunFolder, record: EncoderRecord, encoder: Encoder
) -> tuple[Script, Sequence[str]]:
    """Write the prompts into the run folder and read them as the family does."""
    assert record.store is not None, "of the token file"
    if config.judge_prompts:
        found = prompts.from_file(Path(config.judge_prompts), record.store)
    else:
        columns, count = encoder.columns, config.judge_n_prompts
        found = prompts.from_validation(record.store, columns, count, SEED)
    folder.judged.mkdir(exist_ok=True)
    found.write(folder.judged_prompts)
    options = {
        "model": config.output_dir,
        "prompts": str(folder.judged_prompts),
        "seed": SEED,
        "batch_size": BATCH_SIZE,
        "max_sec": config.judge_max_sec,
        "device": config.device,
        "dtype": {"bf16_pure": "bf16", "fp16": "fp32"}.get(config.dtype, config.dtype),
    }
    return make_script(family, ask(family, options, config), record, encoder), found.notes


def _tell(judges: Judges, config: TrainConfig, folder: RunFolder) -> None:
    """Print and record which judges are there; ConfigError if best_by needs one that is not."""
    versions, missing = judges.versions(), judges.missing()
    needed = METRICS[config.best_by].judge if config.best_by in METRICS else ""
    if needed and needed not in versions:
        raise ConfigError(
            f"best_by {config.best_by}: the judge of {needed} is missing: {'; '.join(missing)}"
        )
    console.print(f"judges: {'; '.join(versions.values()) or 'none'}", markup=False)
    for line in missing:
        console.print(f"judges: {line}", style="yellow", markup=False)
    facts = {"judges": versions, "judges_missing": missing}
    folder.write_environment(folder.read_environment() | facts)

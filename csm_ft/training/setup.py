"""The setup of a run, in order: data, family, folder, model, optimiser, schedule, samples."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.data.batches import Step, prefetch
from csm_ft.data.examples import Examples
from csm_ft.data.replay import Replay
from csm_ft.data.sampling import describe_weights, take_fraction
from csm_ft.device import reproducible
from csm_ft.errors import Diverged
from csm_ft.evaluate.validation import Validation, validate, validate_canary
from csm_ft.families import open_family
from csm_ft.families.base import Draw, Family
from csm_ft.families.model import Batch, SpeechModel
from csm_ft.families.stores import open_tokens
from csm_ft.families.trained_rows import trained_tables
from csm_ft.ranks import ALONE, Ranks
from csm_ft.runs.checkpoint import Trained, TrainState, load_optimizer, load_weights
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.loss_scale import LossScale
from csm_ft.runs.metrics import Tracker
from csm_ft.runs.yardstick import describe_kept, kept_options
from csm_ft.training.compiling import choose_compile, compile_blocks, uncompiled
from csm_ft.training.extension import read_extensions
from csm_ft.training.judging import RunJudge, open_judge
from csm_ft.training.optim import build_optimizer, choose_parameters
from csm_ft.training.other_data import open_canary, open_replay
from csm_ft.training.plan import RunPlan
from csm_ft.training.precision import cast_weights
from csm_ft.training.recompute import checkpoint_activations
from csm_ft.training.resolve import open_run, resolve
from csm_ft.training.samples import Sampler, open_sampler
from csm_ft.training.sizes import sizes_of


@dataclass(frozen=True)
class Setup:
    """A run that is ready for its next optimiser step."""

    config: TrainConfig  # resolved
    family: Family
    train: Examples
    val: Examples
    canary: Examples | None  # another validation set, to see forgetting
    replay: Replay | None
    trained: Trained  # model and optimiser
    state: TrainState
    plan: RunPlan
    folder: RunFolder
    has_samples: bool
    sampler: Sampler | None  # of the rank that writes
    has_judge: bool
    judge: RunJudge | None  # of the rank that writes
    tracker: Tracker
    is_resumed: bool
    ranks: Ranks

    def batches(self) -> Iterator[tuple[Step, list[Batch]]]:
        """Yield the remaining steps and this rank's micro-batches, collated one step ahead."""

        def collate(step: Step) -> list[Batch]:
            drawn = zip(step.micro_batches, step.repeats, strict=True)
            passes = [
                (self.train, indices, Draw(self.config.seed, step.epoch, repeats))
                for indices, repeats in drawn
            ]
            if self.replay:
                # Keyed by the step, as an epoch may draw an example more than once.
                draw = Draw(self.config.seed, step.number)
                others = self.replay.examples
                passes += [(others, indices, draw) for indices in self.replay.draw(step)]
            batches = []
            for (examples, indices, draw), is_own in self.ranks.share(passes):
                batch = self.family.collate(examples, indices, self.config, draw=draw)
                batches.append(batch if is_own else batch.as_filler())
            return batches

        return prefetch(collate, self.plan.steps(self.state))

    def sample(self, state: TrainState) -> None:
        """Generate the samples of this step; collective."""
        model = self.trained.model
        with self.ranks.gathered(model), uncompiled():
            if self.sampler:
                self.sampler.run(model, state, self.folder, self.tracker)

    def validate(self, state: TrainState, *, all_targets: bool) -> Validation:
        """Measure the model on the validation set, and add the metrics of the canary; collective.

        Raises Diverged for a loss that is not finite.
        """
        model, family, config = self.trained.model, self.family, self.config
        found = validate(model, family, self.val, config, self.ranks, all_targets=all_targets)
        if not math.isfinite(found.loss):
            raise Diverged(state.step, "validation loss")
        if self.canary is None:
            return found
        canary = validate_canary(model, family, self.canary, config, self.ranks)
        return replace(found, metrics={**found.metrics, **canary})

    def judged(self, state: TrainState) -> dict[str, float]:
        """Return what judges say of samples of this step; collective."""
        model = self.trained.model
        with self.ranks.gathered(model), uncompiled():
            return self.ranks.tell(lambda: self.judge.run(model, state.step) if self.judge else {})


@contextmanager
def open_setup(config: TrainConfig, ranks: Ranks = ALONE, *, only_measure: bool) -> Iterator[Setup]:
    """Open a new run, or one to resume; raises UserError for wrong options, data or machine."""
    in_memory = not config.partial_data_loading
    store = open_tokens(Path(config.data), config.family, in_memory=in_memory)
    family = open_family(config.family)
    config = _as_it_began(resolve(config, store, family), ranks)
    train = family.arrange(store.splits["train"], config, evaluate=False)
    train = take_fraction(train, config.data_fraction, seed=config.seed)
    val = family.arrange(store.splits["val"], config, evaluate=True)
    replay, canary = (
        open_replay(config, store, family, ranks.size),
        open_canary(config, store, family),
    )
    with (
        reproducible(config.device, config.threads, config.seed),
        open_run(config, store, replay) as (folder, checkpoint),
    ):
        plan = RunPlan(
            config,
            train,
            only_measure=only_measure,
            extensions=read_extensions(folder, ranks),
            ranks=ranks.size,
        )
        compiles = not ranks.shares_passes and choose_compile(config, family, store, plan)

        def build(*, is_empty: bool) -> SpeechModel:
            model = family.empty_model(config, store)
            if not is_empty:
                family.load_weights(model, config)
            choose_parameters(model, family, config)
            cast_weights(model, config)
            if compiles:
                compile_blocks(model, may_fail=config.compile == "auto")
            checkpoint_activations(model, config)
            if checkpoint and not is_empty:
                load_weights(checkpoint, model)
            return model

        model = ranks.build(build)
        model.to(config.device)
        model.join_weights()
        optimizer = build_optimizer(model, family, config)
        is_resumed = ranks.any(value=checkpoint is not None)
        if is_resumed:
            load_optimizer(checkpoint, model, optimizer, ranks)
        state = TrainState.read(checkpoint, ranks)
        if not is_resumed:
            state.loss_scale = LossScale.first(config.dtype)
        sampler = open_sampler(config, store, family, folder) if ranks.is_writer else None
        judge = open_judge(config, store, family, folder) if ranks.is_writer else None
        trained = Trained(model, optimizer, family.checkpoint_config(model), ranks)
        with Tracker(
            folder, config, keep_bytes=state.metrics_bytes, resumed_at_step=state.step
        ) as tracker:
            setup = Setup(
                config=config,
                family=family,
                train=train,
                val=val,
                canary=canary,
                replay=replay,
                trained=trained,
                state=state,
                plan=plan,
                folder=folder,
                has_samples=ranks.any(value=sampler is not None),
                sampler=sampler,
                has_judge=ranks.any(value=judge is not None),
                judge=judge,
                tracker=tracker,
                is_resumed=is_resumed,
                ranks=ranks,
            )
            sizes = asdict(sizes_of(model, config))
            folder.write_environment({**folder.read_environment(), "sizes": sizes})
            if rules := family.scored_by(val, config):
                folder.write_environment({**folder.read_environment(), "scored_by": rules})
                console.print(rules, markup=False)
            _announce(setup)
            yield setup


def _as_it_began(config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """Return the config with how a run that is resumed measures; collective."""
    folder = RunFolder(Path(config.output_dir))
    is_resumed = config.resume and bool(folder.step_folders())
    kept = ranks.tell(lambda: kept_options(config, folder.config) if is_resumed else {})
    if said := describe_kept(config, kept):
        console.print(f"[yellow]{said}; --resume false begins anew[/]")
    return config.replace(**kept)


def _announce(setup: Setup) -> None:
    """Print the sizes of model and data, and the step that a run resumes from."""
    method, plan = setup.config.method, setup.plan
    millions = _millions(setup.trained.model, only_trained=False)
    trained = _millions(setup.trained.model, only_trained=True)
    part = "" if trained == millions else f" (method {method} trains {trained:.3g} M)"
    console.print(f"{millions:.1f} M weights{part}; {plan.total_steps} optimiser steps")
    for name, table in trained_tables(setup.trained.model):
        of_all = f"{len(table.ids):,} of {len(table.places):,}"
        console.print(f"{name}: {of_all} are in the training data, and are trained", markup=False)
    fraction = setup.config.data_fraction
    share = f" (data_fraction {fraction:g})" if fraction < 1 else ""
    console.print(f"{_count(setup.train)} to train on{share}, {_count(setup.val)} to validate")
    if setup.replay:
        share = f"{setup.replay.share:.0%} of each step from"
        console.print(f"replay: {share} {_count(setup.replay.examples)}", markup=False)
    if setup.canary:
        console.print(f"canary: {_count(setup.canary)} to validate", markup=False)
    for note in setup.train.notes:
        console.print(note, markup=False)
    for line in describe_weights(setup.train):
        console.print(f"drawn by weight: {line}", markup=False)
    if len(plan.ends) > 1 and not plan.is_last(setup.state):
        before = plan.learning_rate(plan.ends[-2] - 1)
        after = plan.learning_rate(plan.ends[-2])
        console.print(
            f"extended from {plan.ends[-2]} to {plan.total_steps} steps: the learning rate goes on"
            f" at {after:.3g} (before: {before:.3g})"
        )
    if setup.is_resumed:
        is_complete = plan.is_last(setup.state)
        resuming = f"resuming from step {setup.state.step}"
        console.print("this run is complete" if is_complete else resuming)
        if early := plan.early_stop(setup.state):
            console.print(f"{early}; a longer --patience, or 0, continues it")


def _millions(model: SpeechModel, *, only_trained: bool) -> float:
    if only_trained:
        return sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    in_tables = sum(table.rows.numel() for _, table in trained_tables(model))
    return (sum(p.numel() for p in model.parameters()) - in_tables) / 1e6


def _count(examples: Examples) -> str:
    pieces = f"{examples.num_pieces} clips"
    is_one_each = examples.num_pieces == len(examples)
    return pieces if is_one_each else f"{pieces} in {len(examples)} examples"

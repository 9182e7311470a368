"""A trace of some optimiser steps, by torch's profiler, in the run's folder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile, schedule

from csm_ft.atomic import whole_folder
from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.ranks import Ranks
from csm_ft.runs.folder import RunFolder

WARM_UP_STEPS = 3  # of a session: memory is allocated, kernels are chosen, layers are compiled
_NUM_ROWS = 50  # of the table of operations


@contextmanager
def profiled(config: TrainConfig, folder: RunFolder, ranks: Ranks) -> Iterator[Callable[[], None]]:
    """Yield what is called after each step, and trace the steps that --profile asks for.

    A run that ends before has a shorter trace, or none, which is told. One rank is traced.
    """
    if not config.profile or not ranks.is_writer:
        yield lambda: None
        return
    is_gpu = config.device.startswith("cuda")
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    order = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    written: list[str] = []

    def write(found: profile) -> None:
        with whole_folder(folder.profile) as draft:
            found.export_chrome_trace(str(draft / folder.trace.name))
            table = found.key_averages().table(sort_by=order, row_limit=_NUM_ROWS)
            (draft / folder.operations.name).write_text(table, encoding="utf-8")
        written.append(f"{folder.profile}: a trace, and its operations by their time")

    steps = schedule(wait=WARM_UP_STEPS - 1, warmup=1, active=config.profile, repeat=1)
    with profile(activities=kinds, schedule=steps, on_trace_ready=write) as tracer:

        def after_step() -> None:
            tracer.step()
            if written:
                console.print(written.pop(), markup=False)

        yield after_step
    for line in written:
        console.print(line, markup=False)
    if not folder.profile.is_dir():
        console.print(
            f"--profile {config.profile}: no step was traced, as the run ended within its"
            f" {WARM_UP_STEPS} steps of warm-up"
        )

"""Search hyper-parameters: `python sweep.py --data tokens.hdf5 --n_trials 50 --n_gpus 2`.

See --help for every option.

This process owns the study and imports no torch; workers run the trials (csm_ft/sweep/).
"""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from csm_ft.config import ConfigError, build, load_env_files
from csm_ft.console import console
from csm_ft.data.split import StoreError
from csm_ft.sweep.broker import Broker, SweepAborted
from csm_ft.sweep.config import SweepRequest, parse
from csm_ft.sweep.display import Display
from csm_ft.sweep.results import Results
from csm_ft.sweep.slots import choose_machine
from csm_ft.sweep.space import find_space, read_space
from csm_ft.sweep.study import SweepError, SweepStudy, TrialRecord, best_of
from csm_ft.sweep.trials import Configs, Describe, agreement, describe_data, rungs_of


def sweep(request: SweepRequest, *, trainer: str, describe: Describe) -> int:
    """Run or go on with a study and return the exit code.

    Raises ConfigError, SweepError, SweepAborted.
    """
    options = request.sweep
    out = Path(options.output_dir)
    data = describe(build(request.train_class, {**request.defaults, **request.given}))
    space = read_space(
        find_space(options.sweep_config), request, num_train_examples=data.num_train_examples
    )
    machine = choose_machine(options, device=space.base.device, threads=space.base.threads)
    rungs = rungs_of(options, space.base, data)
    study = SweepStudy.open(
        out, options, space, rungs, agreement(options, space.base, space.describe(), data)
    )
    try:
        configs = Configs(out, options, space.base, machine.device, machine.threads)
        results, page = Results(study, configs, machine), Page(out)
        num_ended = sum(record.has_ended for record in study.records())
        console.print(
            f"[bold]{options.study_name}[/] in {out}: {num_ended} of {options.n_trials} trials"
            f" done, {len(study.running)} to go on with"
        )

        def ended(_: TrialRecord) -> None:
            results.write("running")
            page.refresh()

        results.write("running")
        with Display(options.n_trials, len(machine.slots), num_ended) as display:
            broker = Broker(
                study, configs, machine.slots, trainer=trainer, display=display, on_ended=ended
            )
            end = "aborted"
            try:
                with _interruptible(broker):
                    end = broker.run()
            finally:
                verdict = results.write("finished" if end == "finished" else "unfinished")
                page.finish()
        if end == "interrupted":
            console.print("stopped; running trials are saved. The same command goes on from here")
            return 130
        if best_of(study.records()) is None:
            console.print(
                f"[red]no trial completed[/]; trials.csv in {out} says why; {out / 'best.yaml'} is"
                " marked unfinished"
            )
            return 1
        console.print(
            f"\n[bold]{verdict.text if verdict else ''}[/]\nnext: python train.py --config"
            f" {out / 'best.yaml'}"
        )
        console.print(f"listen: {out / 'report.html'}")
        return 0
    finally:
        study.close()


class Page:
    """report.html, made by a process of its own so that workers never wait for it."""

    def __init__(self, out: Path) -> None:
        self._command = [sys.executable, "-m", "csm_ft.report", str(out.resolve())]
        self._process: subprocess.Popen[bytes] | None = None

    def refresh(self) -> None:
        """Begin to make the page anew, unless it is being made."""
        if self._process is None:
            self._process = self._start()
        elif self._process.poll() is not None:
            self._process.communicate()
            self._process = self._start()

    def finish(self) -> None:
        """Make the page from the final files and wait for it.

        A failure is told, it never fails the sweep.
        """
        if self._process is not None:
            self._process.communicate()
        self._process = self._start()
        _, error = self._process.communicate()
        if self._process.returncode:
            console.print(
                "[yellow]report.html could not be made[/]:"
                f" {error.decode(errors='replace').strip()[-500:]}"
            )

    def _start(self) -> subprocess.Popen[bytes]:
        root = Path(__file__).resolve().parent
        return subprocess.Popen(
            self._command,
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )


@contextmanager
def _interruptible(broker: Broker) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM (a cluster's job limit) end the sweep in order."""

    def interrupt(_number: int, _frame: object) -> None:
        console.print("running trials are saved; once more to leave at once")
        broker.stop()

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str], *, trainer: str = "train", describe: Describe = describe_data) -> int:
    """Command line.

    0 done, 1 nothing completed or a bug in the trainer, 2 a mistake in the options, 130
    interrupted.
    """
    load_env_files()
    try:
        return sweep(parse(argv), trainer=trainer, describe=describe)
    except (ConfigError, SweepError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the first trial, or after the last
        return 130
    except SweepAborted as error:
        print(
            f"sweep aborted: {error}\nAfter the repair, the same command goes on from here.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What people read: messages, the log beside them, progress, and Ctrl-C."""

import os
import signal
from pathlib import Path

import pytest

from csm_ft import console as module
from csm_ft.console import LoggedConsole, clock, interruptible, shorten, track
from csm_ft.errors import MachineError


@pytest.mark.parametrize(
    ("items", "limit", "text"),
    [
        ([], 2, ""),
        (["a"], 2, "a"),
        (["a", "b"], 2, "a, b"),
        (["a", "b", "c"], 2, "a, b and 1 more"),
        (range(5), 3, "0, 1, 2 and 2 more"),
    ],
)
def test_long_lists_are_shortened(items: list[object], limit: int, text: str) -> None:
    assert shorten(items, limit) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (90000, "25:00:00")]
)
def test_durations_are_written_as_clocks(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_log_gets_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console, log = LoggedConsole(highlight=False, soft_wrap=True), tmp_path / "log.txt"
    log.write_text("of an earlier session\n")
    console.print("before")
    with console.copy_to(log):
        console.print("[bold]val_loss 1.5[/] nats per frame")
        with console.copy_to(tmp_path / "inner.txt"):
            console.print("inner")
        console.print("[speaker]text", markup=False)
    console.print("after")
    assert log.read_text() == (
        "of an earlier session\nval_loss 1.5 nats per frame\n[speaker]text\n"
    )
    assert (tmp_path / "inner.txt").read_text() == "inner\n"
    shown = capsys.readouterr().out
    lines = ["before", "val_loss 1.5 nats per frame", "inner", "[speaker]text", "after"]
    assert shown.splitlines() == lines


def test_stderr_is_for_one_block(capsys: pytest.CaptureFixture[str]) -> None:
    console = LoggedConsole()
    with console.on_stderr():
        console.print("beside")
    console.print("result")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("result\n", "beside\n")


def test_a_failure_ends_the_log(tmp_path: Path) -> None:
    console = LoggedConsole()

    def fail() -> None:
        with console.copy_to(tmp_path / "log.txt"):
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        fail()
    console.print("after")
    assert (tmp_path / "log.txt").read_text() == ""


def test_progress_is_told_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_PRINT_EVERY_SEC", 0.0)
    assert list(track("abcd", "encoding", 8, weights=[1, 1, 2, 4])) == list("abcd")
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in shown] == [
        f"encoding: {share}" for share in ("12%", "25%", "50%", "100%")
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_presses_are_counted_and_handlers_restored(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    presses: list[int] = []
    with interruptible("saving", presses.append) as was_pressed:
        assert not was_pressed()
        os.kill(os.getpid(), number)
        assert was_pressed()
        os.kill(os.getpid(), number)
    assert presses == [1, 2]
    assert capsys.readouterr().out.splitlines() == ["saving"], "said once"
    assert {each: signal.getsignal(each) for each in before} == before


def test_handlers_are_restored_after_a_failure() -> None:
    before = signal.getsignal(signal.SIGINT)

    def fail() -> None:
        with interruptible("saving"):
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        fail()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_log_on_a_full_disk_names_it(tmp_path: Path) -> None:
    console, log = LoggedConsole(), tmp_path / "log.txt"
    log.symlink_to("/dev/full")
    with (
        pytest.raises(MachineError, match=r"log\.txt could not be written: No space left"),
        console.copy_to(log),
    ):
        console.print("one line")
    console.print("and on without the log")

"""The link: whole messages, and the end of the other side noticed at once."""

import os
import struct
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from csm_ft.sweep.link import Link, LinkClosed, NotAMessage
from csm_ft.sweep.messages import (
    FROM_WORKER,
    TO_WORKER,
    FromWorker,
    Pause,
    Ready,
    RunTrial,
    ToWorker,
    Validated,
    as_metrics,
)

Ends = tuple[Link[FromWorker], Connection]


@pytest.fixture
def ends() -> Iterator[Ends]:
    link, theirs = Link[FromWorker].open(FROM_WORKER)
    yield link, theirs
    link.close()
    theirs.close()


def worker_end(theirs: Connection) -> Link[ToWorker]:
    return Link[ToWorker].attach(os.dup(theirs.fileno()), TO_WORKER)


def test_messages_arrive_whole(ends: Ends) -> None:
    link, theirs = ends
    worker = worker_end(theirs)
    metrics = as_metrics({"val_loss": 1 / 3, "val_odd": float("nan")})
    sent = Validated(trial=1, attempt=2, examples=300, metrics=metrics)
    worker.send(Ready())
    worker.send(sent)
    assert link.receive() == Ready()
    assert link.receive() == sent
    assert metrics == {"val_loss": 1 / 3, "val_odd": None}
    long = RunTrial(trial=0, attempt=1, config={"text": "x\n" * 500_000})
    sender = threading.Thread(target=link.send, args=[long])  # longer than the buffer between
    sender.start()
    assert worker.receive() == long
    sender.join()
    link.send(Pause())
    assert worker.receive() == Pause()
    worker.close()


def test_end_is_noticed_at_once(ends: Ends) -> None:
    link, theirs = ends
    theirs.close()
    with pytest.raises(LinkClosed):
        link.receive()
    with pytest.raises(LinkClosed):
        link.send(Pause())


def test_death_in_mid_message(ends: Ends) -> None:
    link, theirs = ends
    os.write(theirs.fileno(), struct.pack("!i", 100) + b'{"type": "re')
    theirs.close()
    with pytest.raises(LinkClosed):
        link.receive()


@pytest.mark.parametrize("frame", [b"", b"{", b'{"type": "pause"}', b"\x80\x04K\x01.", b"\xff"])
def test_anything_else_is_no_message(ends: Ends, frame: bytes) -> None:
    link, theirs = ends
    theirs.send_bytes(frame)
    with pytest.raises(NotAMessage):
        link.receive()


def test_absurd_lengths_close_the_link(ends: Ends) -> None:
    link, theirs = ends
    os.write(theirs.fileno(), struct.pack("!i", 1 << 30))
    with pytest.raises(LinkClosed):
        link.receive()

"""The link between orchestrator and worker: framed messages as JSON, nothing pickled."""

import os
from multiprocessing.connection import Connection, Pipe
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

M = TypeVar("M")
_LONGEST_MESSAGE = 1 << 24  # bytes; a frame that claims more is no message


class LinkClosed(Exception):
    """The other side is gone."""


class NotAMessage(Exception):
    """The other side sent something that is no message."""


class Link(Generic[M]):
    """One end of a link, which receives messages of the type M."""

    def __init__(self, connection: Connection, messages: TypeAdapter[M]) -> None:
        self._connection, self._messages = connection, messages

    @classmethod
    def open(cls, messages: TypeAdapter[M]) -> tuple[Self, Connection]:
        """Return this end of a new link, and the other end to pass to a process."""
        ours, theirs = Pipe()
        return cls(ours, messages), theirs

    @classmethod
    def attach(cls, descriptor: int, messages: TypeAdapter[M]) -> Self:
        """Return the end that was passed to this process as a file descriptor."""
        os.set_inheritable(descriptor, False)  # a child must not keep the link open
        return cls(Connection(descriptor), messages)

    def fileno(self) -> int:
        """Return the file descriptor, to wait on several links at once."""
        return self._connection.fileno()

    def send(self, message: BaseModel) -> None:
        """Send one message; LinkClosed when the other side is gone."""
        try:
            self._connection.send_bytes(message.model_dump_json().encode())
        except OSError as error:
            raise LinkClosed from error

    def receive(self) -> M:
        """Wait for one message and return it.

        Raises LinkClosed when the other side is gone, in the middle of a message or between two,
        and NotAMessage for anything that is none.
        """
        try:
            frame = self._connection.recv_bytes(_LONGEST_MESSAGE)
        except (EOFError, OSError) as error:
            raise LinkClosed from error
        try:
            return self._messages.validate_json(frame)
        except ValidationError as error:
            raise NotAMessage(str(error)) from error

    def close(self) -> None:
        """Close this end; the other side notices at once."""
        self._connection.close()

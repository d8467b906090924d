"""The flash messages of a session, by queue."""

from __future__ import annotations

import secrets
from collections.abc import Container, Iterable, Iterator
from typing import Any

from .fields import FLASH_KIND, UNIT_SEPARATOR
from .serializers import Codec

__all__ = ["Flash", "is_of_queue"]

#: So many new flash messages get a field each, which as a rule keeps a session compact in
#: Redis; where there are more, texts that follow each other share one.
MOST_APART = 8


class Flash:
    """Flash messages, in order.

    :ivar added: the fields that are new.
    """

    __slots__ = ("_codec", "_queues", "added")

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._queues: dict[str, list[tuple[bytes, list[Any]]]] = {}
        self.added: set[bytes] = set()

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def load(self, stored: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
        """Decode what is stored: (field, encoded), in order.

        :returns: the fields that do not decode.
        """
        bad = set()
        for field, data in stored:
            try:
                queue = _name(field).decode("utf-8", "surrogatepass")
                messages = self._codec.decode_messages(data)
            except Exception:
                bad.add(field)
                continue
            self._queues.setdefault(queue, []).append((field, messages))
        return bad

    def add(self, message: Any, queue: str) -> None:
        """Add a message to the end of a queue."""
        held = self._queues.setdefault(queue, [])
        if held and len(self.added) >= MOST_APART and self._codec.joins(message):
            field, messages = held[-1]
            if field in self.added and self._codec.joins(messages[-1]):
                messages.append(message)
                return
        name = queue.encode("utf-8", "surrogatepass")
        field = FLASH_KIND + name + UNIT_SEPARATOR + secrets.token_urlsafe(8).encode("ascii")
        self.added.add(field)
        held.append((field, [message]))

    def peek(self, queue: str) -> list[Any]:
        """Return the messages of a queue."""
        return [message for _, messages in self._queues.get(queue, ()) for message in messages]

    def everything(self) -> dict[str, list[Any]]:
        """Return all messages, by queue."""
        return {queue: self.peek(queue) for queue in self._queues}

    def pop(self, queue: str) -> tuple[list[Any], set[bytes]]:
        """Remove the messages of a queue; return them, and their fields."""
        messages = self.peek(queue)
        fields = {field for field, _ in self._queues.pop(queue, ())}
        self.added -= fields
        return messages, fields

    def new(self) -> Iterator[tuple[bytes, list[Any]]]:
        """Iterate over what was added: (field, messages)."""
        for held in self._queues.values() if self.added else ():
            for field, messages in held:
                if field in self.added:
                    yield field, messages

    def own(self, fields: Container[bytes]) -> Flash:
        """Return the messages in some fields, as if they were added just now."""
        other = Flash(self._codec)
        for queue, held in self._queues.items():
            own = [(field, list(messages)) for field, messages in held if field in fields]
            if own:
                other._queues[queue] = own
                other.added.update(field for field, _ in own)
        return other


def _name(field: bytes) -> bytes:
    """Return the encoded name of a message's queue."""
    return field[1:].rpartition(UNIT_SEPARATOR)[0]


def is_of_queue(field: bytes, queue: str) -> bool:
    """Tell whether a field belongs to a queue of flash messages."""
    kind = FLASH_KIND + queue.encode("utf-8", "surrogatepass")
    return field.rpartition(UNIT_SEPARATOR)[0] == kind

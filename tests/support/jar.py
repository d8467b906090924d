"""A browser's cookie jar for one site, and the orders in which responses can reach it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

from .overlap import Answer

T = TypeVar("T")


class Jar:
    """Keeps the session cookie as a browser does: the response that arrives last decides.

    That it knows nothing of when a request was sent is the point: RFC 6265 5.3 replaces or
    deletes a cookie of the same name, domain and path whatever its value.
    """

    def __init__(self, cookie: str | None = None) -> None:
        #: The ``Cookie`` header that the next request carries.
        self.cookie = cookie

    def receive(self, answer: Answer) -> None:
        """A response arrives."""
        for given in answer.cookies:
            self.cookie = None if given.deletes else f"{given.name}={given.value}"


def orders(items: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """Every order in which these can arrive, and every way to lose some of them."""
    for number in range(len(items) + 1):
        yield from itertools.permutations(items, number)

"""A request leaves nothing behind that only the garbage collector could free."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.browser import Browser, make_browser


@pytest.fixture
def browser(redis_url: str) -> Browser:
    """A user with a session."""
    made = make_browser(redis_url)
    made.use(lambda session: session.update(a=1, list=[1]))
    return made


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Turns the garbage collector off, so that only reference counts free anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


REQUESTS: dict[str, Callable[[Any], Any]] = {
    "only looked up": lambda session: None,
    "read": lambda session: session["a"],
    "changed": lambda session: session.update(a=2),
    "changed in place": lambda session: session["list"].append(2),
    "regenerated": lambda session: session.regenerate_id(),
    "invalidated": lambda session: session.invalidate(),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.usefixtures("no_collector")
def test_request_and_session_are_freed_at_once_when_the_request_is_over(
    browser: Browser, name: str
) -> None:
    for visitor in (browser, browser.another()):
        if visitor is not browser and name in ("read", "changed in place"):
            continue  # nothing is there yet
        held: list[weakref.ref[Any]] = []

        def view(request: Any, held: list[weakref.ref[Any]] = held) -> None:
            REQUESTS[name](request.session)
            held += [weakref.ref(request), weakref.ref(request.session)]

        visitor.visit(view)
        assert len(held) == 2
        assert [reference() for reference in held] == [None, None]

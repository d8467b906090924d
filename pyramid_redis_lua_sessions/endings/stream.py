"""The view that tells a browser of the end of its session: a stream for ``EventSource``.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import json
import logging
import queue
import re
import time
from typing import Any
from urllib.parse import parse_qs

from pyramid.response import Response

from ..errors import StoreError
from ..factory import factory_of
from .subscriber import Ending, Subscriber, Watch, subscriber_of
from .who import session_of

__all__ = ["stream"]

log = logging.getLogger(__name__.partition(".")[0])

#: Seconds between two signs of life, by which a server finds out that the browser is gone.
HEARTBEAT = 15.0

#: Seconds after which a browser is to come again, so that no connection lives for ever.
LONGEST = 600.0

#: Milliseconds after which it comes again; and where it is one too many, or Redis is away.
SOON, LATER = 2000, 15_000

#: Streams of one session in one process.
MOST = 12


def stream(request: Any) -> Response:
    """Answer a stream that says ``ended`` when the session of the browser has ended.

    The query names the session that the page was made for, by its fingerprint: ``?session=...``.
    If that is not the session of the cookie any more, it has ended for this page. The data of the
    event is ``{"reason": "ended"}`` or ``{"reason": "expired"}``.
    """
    name = _session_in(request.environ.get("QUERY_STRING", ""))
    factory = factory_of(request.registry)
    try:
        found = session_of(factory, request, name)
    except StoreError:
        return _answer([_retry(LATER)])
    if found.locator is None:
        if found.replaced:
            return _answer([_retry(SOON)])  # the newer cookie is on its way
        if name is None:
            # Which tells an EventSource not to come again.
            return Response(status=204, cache_control="no-store")
        return _answer([_retry(LATER), _ended("ended")])
    return _answer(Stream(subscriber_of(factory), found.locator))


def _session_in(query: str) -> str | None:
    """Return the fingerprint that a query names; what is none is none of ours."""
    (name,) = parse_qs(query, errors="replace", max_num_fields=None).get("session", [""])[:1]
    return name if re.fullmatch("[0-9a-f]{12}", name) else None


def _answer(body: Any) -> Response:
    response = Response(content_type="text/event-stream", charset="utf-8", app_iter=body)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx passes on what comes, at once
    return response


def _retry(milliseconds: int) -> bytes:
    return b"retry: %d\n\n" % milliseconds


def _ended(reason: str) -> bytes:
    return b"event: ended\ndata: %b\n\n" % json.dumps({"reason": reason}).encode()


class Stream:
    """The body of a response that is open until the session ends, or for :data:`LONGEST`.

    It watches from its first part on: who begins to send it closes it, too (PEP 3333). A response
    that another one takes the place of may be dropped as it is.
    """

    def __init__(self, subscriber: Subscriber, locator: str) -> None:
        self._subscriber = subscriber
        self._locator = locator
        self._told: queue.Queue[Ending] = queue.Queue()
        self._watch: Watch | None = None
        self._until = time.monotonic() + LONGEST
        self._over = False

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        left = self._until - time.monotonic()
        if self._over or left <= 0:
            self.close()
            raise StopIteration
        if self._watch is None:
            return self._begin()
        try:
            ending = self._told.get(timeout=min(HEARTBEAT, left))
        except queue.Empty:
            return b":\n\n"
        self._over = True
        return _ended(ending.reason)

    def _begin(self) -> bytes:
        try:
            if self._subscriber.watched(self._locator) < MOST:
                self._watch = self._subscriber.watch(self._locator, self._told.put)
                return _retry(SOON)
        except (RuntimeError, OSError) as exc:  # no thread, or no descriptor
            log.warning(
                "the end of a session cannot be watched (%s) [docs: endings]", type(exc).__name__
            )
        self._over = True
        return _retry(LATER)

    def close(self) -> None:
        """The server calls it when the browser is gone, or everything was sent (PEP 3333)."""
        self._over = True
        if self._watch is not None:
            self._watch.cancel()

"""Endings that reach connections which are still open: websockets, server-sent events.

An application includes it: ``config.include("pyramid_redis_lua_sessions.endings")``. It needs the
setting ``publish_endings``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import PHASE3_CONFIG
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.traversal import DefaultRootFactory

from ..engine.fields import exact_key
from ..engine.store import owner_digest as digest_of_owner
from ..factory import factory_of
from ..settings import PREFIX
from .stream import stream
from .subscriber import Ending, Watch, subscriber_of
from .who import session_of

__all__ = ["Ending", "Watch", "includeme", "owner_digest", "watch_ending"]

PATH = "/session-endings"


def includeme(config: Any) -> None:
    """Add the route ``session_endings``, at ``/session-endings``: a stream for ``EventSource``.

    An application has it elsewhere by ``route_prefix`` of ``config.include``.

    :raises pyramid.exceptions.ConfigurationError: the setting ``publish_endings`` is off.
    """
    # The application's root factory may look at the session, or at a database.
    config.add_route("session_endings", PATH, factory=DefaultRootFactory)
    # It tells a browser of its own session alone, and an open page is no visit.
    config.add_view(
        stream,
        route_name="session_endings",
        request_method="GET",
        permission=NO_PERMISSION_REQUIRED,
        touch_session=False,
    )
    registry = config.registry
    config.action(None, lambda: _require_endings(registry), order=PHASE3_CONFIG + 1)


def _require_endings(registry: Any) -> None:
    if not factory_of(registry).settings.publish_endings:
        raise ConfigurationError(
            f"{__package__} needs {PREFIX}publish_endings = true: nobody would tell it of an "
            "ending [docs: endings]"
        )


def watch_ending(request: Any, tell: Callable[[Ending], object]) -> Watch | None:
    """Be told when the session of a request ends; once, and in a thread of its own.

    It neither loads nor refreshes the session. Whoever holds the connection open calls
    :meth:`Watch.cancel` when it is closed.

    A session that gets a new token lives on, and so does its watch: a login under a connection that
    is open ends nothing. Log out first where that must not be.

    :param tell: called with the :class:`Ending`; what it raises is logged. It is one thread that
        calls all of a process, one after the other: who has to wait for something hands it on.
        In ``asyncio``: ``lambda ending: loop.call_soon_threadsafe(...)``.
    :returns: ``None`` where no session that lives is opened by the request's cookie.
    :raises StoreError: Redis failed.
    :raises RuntimeError: no thread can be started; ``OSError``: no descriptor is left.
    """
    factory = factory_of(request.registry)
    found = session_of(factory, request)
    if found.locator is None:
        return None
    return subscriber_of(factory).watch(found.locator, tell)


def owner_digest(request_or_registry: Any, owner: str | int) -> str:
    """Return what :attr:`Ending.owner` is for an owner.

    :param owner: as assigned to ``session.owner``.
    """
    registry = getattr(request_or_registry, "registry", request_or_registry)
    return digest_of_owner(factory_of(registry).codec.encode(exact_key(owner)))

"""Is the application ready: can its sessions be stored? For the probes of an orchestrator.

An application includes it: ``config.include("pyramid_redis_lua_sessions.health")``.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.traversal import DefaultRootFactory

from .engine.protocol import Created, Lifetime, Loaded
from .engine.store import Store
from .errors import SessionError
from .factory import RedisSessionFactory, factory_of

__all__ = ["Health", "check_health", "includeme"]

PATH = "/session-health"

#: Seconds that a check may take: a probe of Kubernetes waits for one, if nothing else is said.
TIMEOUT = 0.8

#: Life of the session that is tried, should it be left over, ms.
LIFE_MS = 10_000


class Health(NamedTuple):
    """What was found.

    :ivar ready: sessions can be stored.
    :ivar problem: what is wrong, ``""`` where nothing is: hosts and codes, no secrets.
    :ivar milliseconds: how long it took to find out.
    """

    ready: bool
    problem: str
    milliseconds: float


def includeme(config: Any) -> None:
    """Add the route ``session_health``, at ``/session-health``.

    An application has it elsewhere by ``route_prefix`` of ``config.include``.
    """
    # The application's root factory may look at the session, or at a database.
    config.add_route("session_health", PATH, factory=DefaultRootFactory)
    config.add_view(
        health,
        route_name="session_health",
        request_method="GET",
        permission=NO_PERMISSION_REQUIRED,  # a probe has none
        renderer="json",
    )


def health(request: Any) -> dict[str, Any]:
    """Answer :class:`Health` as JSON, with status 200, or 503 where sessions cannot be stored.

    It does not look at the session of the request.
    """
    found = check_health(request)
    request.response.cache_control = "no-store"
    request.response.status_int = 200 if found.ready else 503
    return found._asdict()


def check_health(request_or_registry: Any, timeout: float = TIMEOUT) -> Health:
    """Find out whether sessions can be stored.

    Redis is reached over the application's own connections; the scripts are loaded, where they
    are missing; and a session is created, read and deleted. Nothing raises, and nothing is left.

    :param request_or_registry: as ``redis_client_callable`` is to be called with a request.
    :param timeout: seconds after which the answer is no. Redis is asked by a thread of its own,
        so this holds whatever hangs; who asks meanwhile waits for the same answer.
    """
    began = time.perf_counter()
    registry = getattr(request_or_registry, "registry", request_or_registry)
    request = None if registry is request_or_registry else request_or_registry
    factory = factory_of(registry)
    probe = _probes.get(factory)
    problem = f"Redis did not answer within {timeout:g} s"
    try:
        if probe is None or probe.done.is_set() or probe.process != os.getpid():
            probe = _probes[factory] = Probe(factory, request)
        if probe.done.wait(timeout):
            problem = probe.problem
    except RuntimeError:
        problem = "no thread can be started"
    return Health(not problem, problem, round((time.perf_counter() - began) * 1000, 1))


class Probe:
    """One look at Redis, which takes as long as it takes.

    :ivar problem: what is wrong, as soon as it is ``done``.
    """

    def __init__(self, factory: RedisSessionFactory, request: Any) -> None:
        self.process = os.getpid()
        self.done = threading.Event()
        self.problem = ""
        threading.Thread(
            target=self._run, args=(factory, request), name="session health", daemon=True
        ).start()

    def _run(self, factory: RedisSessionFactory, request: Any) -> None:
        try:
            try_a_session(factory.store_for(request))
        except SessionError as exc:
            self.problem = str(exc)
        except Exception as exc:  # of the application's client; its text may quote anything
            self.problem = type(exc).__name__
        finally:
            self.done.set()


_probes: WeakKeyDictionary[RedisSessionFactory, Probe] = WeakKeyDictionary()


def try_a_session(store: Store) -> None:
    """Create a session, read and delete it.

    :raises SessionError: that cannot be done.
    """
    store.load_scripts()
    created, _ = store.create(lambda token: {}, Lifetime(timeout_ms=LIFE_MS))
    if not isinstance(created, Created):
        raise SessionError("a new session is at its end at once [docs: monitoring]")
    try:
        if not isinstance(store.load(created.token), Loaded):
            raise SessionError("a session is gone as soon as it was stored [docs: monitoring]")
    finally:
        store.command("DEL", store.key(created.token.locator))

"""Twenty requests at once, each of which puts something into one session: what is lost?

The browser sends them, to the same view twice: once with the session of this
application, once with one of ``pyramid_session_redis``, on the same Redis.
"""

from __future__ import annotations

import importlib.metadata
import secrets
import time
from typing import Any, NamedTuple

from pyramid.httpexceptions import HTTPNotFound
from pyramid.view import view_config

REQUESTS = 20

#: What a request does between reading and writing, as a query to a database would.
WORK_SECONDS = 0.05

PREDECESSOR = "pyramid_session_redis"


class Predecessor(NamedTuple):
    """The library itself, with its default configuration.

    :ivar factory: ``(request) -> session``.
    """

    version: str
    factory: Any


def predecessor(redis_url: str) -> Predecessor | None:
    """Return ``pyramid_session_redis``, if it is installed."""
    try:
        from pyramid_session_redis import RedisSessionFactory
    except ImportError:
        return None
    factory = RedisSessionFactory(
        secret=secrets.token_urlsafe(32),
        redis_url=redis_url,
        cookie_name="predecessor",  # beside the cookie of this application
        cookie_samesite="Lax",
    )
    return Predecessor(importlib.metadata.version(PREDECESSOR), factory)


def session_of(request: Any) -> Any:
    """Return the session that the request's address names."""
    engine = request.matchdict["engine"]
    if engine == "ours":
        return request.session
    if engine == "predecessor" and request.registry.predecessor:
        return request.registry.predecessor.factory(request)
    raise HTTPNotFound


def marks(session: Any) -> list[str]:
    return [key for key in session.keys() if key.startswith("race:")]  # noqa: SIM118


@view_config(route_name="race", request_method="POST", renderer="json")
def start(request: Any) -> dict[str, Any]:
    """Clear what an earlier race has left."""
    session = session_of(request)
    for key in marks(session):
        del session[key]
    session["race"] = "started"  # so that the predecessor stores its session, too
    return {"requests": REQUESTS}


@view_config(route_name="race_one", request_method="POST", renderer="json")
def run(request: Any) -> dict[str, Any]:
    """Read, work, write: the request that is sent many times at once."""
    session = session_of(request)
    started = session.get("race")
    time.sleep(WORK_SECONDS)
    session[f"race:{request.matchdict['number']}"] = started
    return {}


@view_config(route_name="race", request_method="GET", renderer="json")
def result(request: Any) -> dict[str, Any]:
    """Tell which of the requests have left their mark, and how many keys there are in all."""
    session = session_of(request)
    kept = sorted(int(key.partition(":")[2]) for key in marks(session))
    return {"kept": kept, "keys": len(session.keys())}

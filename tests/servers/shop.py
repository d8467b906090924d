"""The application that an ini file of docs/ names, in place of the reader's ``egg:shop``."""

from __future__ import annotations

from typing import Any

from pyramid.config import Configurator


def home(request: Any) -> dict[str, Any]:
    """Count the visits, and tell how the request looks from here."""
    session = request.session
    session["visits"] = session.get("visits", 0) + 1
    session.ensure_id()
    return {
        "visits": session["visits"],
        "address": request.route_url("home"),
        "session": session.fingerprint,
    }


def log_out(request: Any) -> dict[str, Any]:
    request.session.invalidate()
    return {}


def main(global_config: Any, **settings: Any) -> Any:
    with Configurator(settings=settings) as config:
        config.include("pyramid_redis_lua_sessions")
        if settings.get("redis.sessions.publish_endings"):
            config.include("pyramid_redis_lua_sessions.endings")
        config.add_route("log_out", "/log_out")
        config.add_view(log_out, route_name="log_out", renderer="json")
        config.add_route("home", "/")
        config.add_view(home, route_name="home", renderer="json")
        return config.make_wsgi_app()

"""The application that an ini file of docs/ names, in place of the reader's ``egg:shop``."""

from __future__ import annotations

from typing import Any

from pyramid.config import Configurator


def home(request: Any) -> dict[str, Any]:
    """Count the visits, and tell how the request looks from here."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return {"visits": request.session["visits"], "address": request.route_url("home")}


def main(global_config: Any, **settings: Any) -> Any:
    with Configurator(settings=settings) as config:
        config.include("pyramid_redis_lua_sessions")
        config.add_route("home", "/")
        config.add_view(home, route_name="home", renderer="json")
        return config.make_wsgi_app()

"""Makes the demo's WSGI application."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.tweens import INGRESS

from . import race

HERE = Path(__file__).parent

#: Everything comes from this server; nothing runs or styles within the page itself.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

#: The template of the devices' page, in place of which the demo has one of its own.
DEVICES = "pyramid_redis_lua_sessions:device_page/templates/devices.jinja2"

ROUTES = {
    "home": "/",
    "cart": "/cart",
    "voucher": "/voucher",
    "flash": "/flash",
    "timeout": "/timeout",
    "login": "/login",
    "logout": "/logout",
    "label": "/label",
    "elsewhere": "/elsewhere",
    "payment": "/payment",
    "confirm": "/confirm",
    "log": "/log",
    "metrics": "/metrics",
    "race": "/race/{engine}",
    "race_one": r"/race/{engine}/{number:\d\d?}",
}


def make_app(redis_url: str, *, with_predecessor: bool = True, **overrides: str) -> Any:
    """Return the WSGI application.

    :param with_predecessor: race ``pyramid_session_redis`` too, if it is installed.
    :param overrides: further ``redis.sessions.*`` settings, without that prefix.
    """
    options = {
        "url": redis_url,
        # Made anew at each start: the embedded Redis keeps nothing either.
        "secret": secrets.token_urlsafe(32),
        "timeout": "600",
        "confirm_route": "confirm",
        "publish_endings": "true",
        "observe": "prometheus",
        **overrides,
    }
    settings = {f"redis.sessions.{name}": value for name, value in options.items()}
    with Configurator(settings=settings) as config:
        config.include("pyramid_jinja2")
        config.include("pyramid_redis_lua_sessions")
        config.include("pyramid_redis_lua_sessions.device_page")
        config.override_asset(DEVICES, "demo:templates/devices.jinja2")
        config.include("pyramid_redis_lua_sessions.endings")
        config.include("pyramid_redis_lua_sessions.time_left")
        config.include("pyramid_redis_lua_sessions.health")
        config.add_view(
            "pyramid_redis_lua_sessions.observe.prometheus.metrics", route_name="metrics"
        )
        config.set_default_csrf_options(require_csrf=True)
        config.add_static_view("static", str(HERE / "static"), cache_max_age=0)
        for name, pattern in ROUTES.items():
            config.add_route(name, pattern)
        config.add_tween("demo.app.headers_tween_factory", under=INGRESS)
        config.add_tween(
            "demo.engine_log.log_tween_factory", under="demo.app.headers_tween_factory"
        )
        config.registry.predecessor = race.predecessor(redis_url) if with_predecessor else None
        config.scan("demo", ignore="demo.__main__")
        return config.make_wsgi_app()


def headers_tween_factory(handler: Any, registry: Any) -> Any:
    def headers_tween(request: Any) -> Any:
        response = handler(request)
        response.headers.update(HEADERS)
        return response

    return headers_tween

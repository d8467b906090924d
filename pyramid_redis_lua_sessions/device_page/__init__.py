"""A page on which users see where they are logged in, and end what they do not know.

An opt-in leaf, which needs the extra ``device-page``::

    config.include("pyramid_redis_lua_sessions.device_page")

:mod:`.places` notes from where a session is used, :mod:`.known` remembers in a browser who has
logged in there, and :mod:`.views` is the page.
"""

from __future__ import annotations

from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.tweens import EXCVIEW

from ..settings import SettingsError
from ..settings.parsers import seconds
from .known import NewDevice
from .places import Place
from .views import ROUTE, Device, add_views, devices_of

__all__ = ["ROUTE", "Device", "NewDevice", "Place", "devices_of", "includeme"]

PACKAGE = "pyramid_redis_lua_sessions"


def includeme(config: Any) -> None:
    """Give the application the page, at ``/devices`` under its ``route_prefix``.

    :raises pyramid.exceptions.ConfigurationError: the extra is not installed.
    """
    try:
        import pyramid_jinja2  # type: ignore[import-untyped]  # noqa: F401
        import ua_parser  # noqa: F401
    except ImportError as exc:
        raise ConfigurationError(
            f"{__name__} needs more packages (pip install {PACKAGE}[device-page]) "
            "[docs: device-page]"
        ) from exc
    config.include("pyramid_jinja2")
    name = "redis.sessions.device_page_fresh"
    value = config.get_settings().get(name)
    try:
        fresh = seconds(value)
    except ValueError as exc:
        raise SettingsError(f"{name} = {value!r}: expected {exc}") from None
    add_views(config, fresh)
    # What it notes is saved with what the request itself has changed.
    above = (f"{PACKAGE}.tween.session_tween_factory", EXCVIEW)
    config.add_tween(f"{__name__}.places.noting_tween_factory", under=above)

"""Sessions for Pyramid in Redis: lock-free, atomic, one round trip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyramid.httpexceptions import HTTPConflict, HTTPForbidden
from pyramid.interfaces import PHASE3_CONFIG
from pyramid.tweens import EXCVIEW

from .accounts import export_sessions, update_sessions
from .errors import (
    InvalidSession,
    InvalidSession_BadCookie,
    InvalidSession_ChangesDropped,
    InvalidSession_DeserializationError,
    InvalidSession_DeviceLocked,
    InvalidSession_DeviceProof,
    InvalidSession_NotInBackend,
    InvalidSession_PayloadTimeout,
    InvalidSession_StoreUnavailable,
    RawDeserializationError,
    SessionConflict,
    SessionError,
    StoreError,
    StoreUnavailable,
    TooManySessions,
    UnserializableValue,
)
from .events import (
    DeviceRefreshed,
    DeviceRegistered,
    SessionConflicted,
    SessionCreated,
    SessionEvent,
    SessionInvalidated,
    SessionRegenerated,
    SessionRejected,
)
from .factory import RedisSessionFactory
from .owners import SessionInfo, revoke, sessions_of
from .session import DEFAULT
from .settings import Settings, SettingsError
from .view_options import add_view_options, return_path

__all__ = [
    "DEFAULT",
    "DeviceRefreshed",
    "DeviceRegistered",
    "InvalidSession",
    "InvalidSession_BadCookie",
    "InvalidSession_ChangesDropped",
    "InvalidSession_DeserializationError",
    "InvalidSession_DeviceLocked",
    "InvalidSession_DeviceProof",
    "InvalidSession_NotInBackend",
    "InvalidSession_PayloadTimeout",
    "InvalidSession_StoreUnavailable",
    "RawDeserializationError",
    "RedisSessionFactory",
    "SessionConflict",
    "SessionConflicted",
    "SessionCreated",
    "SessionError",
    "SessionEvent",
    "SessionInfo",
    "SessionInvalidated",
    "SessionRegenerated",
    "SessionRejected",
    "SettingsError",
    "StoreError",
    "StoreUnavailable",
    "TooManySessions",
    "UnserializableValue",
    "check_response_allow_cookies",
    "export_sessions",
    "includeme",
    "return_path",
    "revoke",
    "session_factory_from_settings",
    "sessions_of",
    "update_sessions",
]

__version__ = "0.1.0"

#: As ``pyramid_session_redis`` names its version.
__VERSION__ = __version__


def includeme(config: Any) -> None:
    """Give the application sessions as its ``redis.sessions.*`` settings say.

    Use it as ``config.include('pyramid_redis_lua_sessions')``.

    :raises pyramid.exceptions.ConfigurationError: a setting is unknown or
        malformed, or two of them clash.
    """
    factory = session_factory_from_settings(config.get_settings())
    config.set_session_factory(factory)
    config.add_tween(f"{__name__}.tween.session_tween_factory", under=EXCVIEW)
    add_view_options(config, factory.settings)
    config.add_exception_view(_conflict, context=SessionConflict)
    config.add_exception_view(_refused, context=TooManySessions)
    config.add_view_predicate("device_bound", f"{__name__}.devices.DeviceBound")
    if factory.settings.device_binding:
        from .devices.views import add_views

        add_views(config, factory)
    if factory.settings.preload_scripts:
        # Not a subscriber of ApplicationCreated: one subscriber makes Pyramid
        # send four more events for every request.
        config.action(None, factory.preload, order=PHASE3_CONFIG + 1)


def _conflict(request: Any) -> Any:
    """Default answer to a conflict that is not retried; applications may add their own."""
    return HTTPConflict()


def _refused(request: Any) -> Any:
    """Default answer to a login that is one too many; applications may add their own."""
    return HTTPForbidden("You are logged in on as many devices as you may be.")


def session_factory_from_settings(settings: Mapping[str, Any]) -> RedisSessionFactory:
    """Make a session factory from an application's settings.

    :param settings: only keys that start with ``redis.sessions.`` are read.
    :raises pyramid.exceptions.ConfigurationError: as :func:`includeme`.
    """
    return RedisSessionFactory.from_settings(Settings.from_ini(settings))


def check_response_allow_cookies(response: Any) -> bool:
    """Say no to cookies on a response that a cache may keep.

    For the setting ``func_check_response_allow_cookies``.

    :returns: whether the response has neither ``Expires`` nor ``Cache-Control``.
    """
    return not ("expires" in response.headers or "cache-control" in response.headers)

"""The session factory: what is the same for all requests."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

from pyramid.interfaces import ISessionFactory, ITweens
from pyramid.threadlocal import get_current_request
from zope.interface import implementer

from .connect.client import client_options, make_client
from .connect.waits import waits_long
from .cookies import CookiePolicy
from .engine.memory import Memory
from .engine.observer import Step, Watcher, guarded
from .engine.seals import make_sealer
from .engine.serializers import make_codec
from .engine.store import Store
from .errors import SessionError
from .session import RedisSession
from .settings import POSITIONAL, Settings
from .turn import RESPONSE, TURNS, WATCHED, Turn
from .tween import session_tween_factory

__all__ = ["RedisSessionFactory", "factory_of"]

log = logging.getLogger(__package__)

#: Seconds that a thread which listens waits for a reply, where requests wait for ever.
LONGEST_SILENCE = 15.0


@implementer(ISessionFactory)
class RedisSessionFactory:
    """Makes the sessions of an application.

    Arguments are the settings without the prefix ``redis.sessions.``, by
    keyword, or by position in the order of ``pyramid_session_redis`` 1.8.1
    (``secret`` first).

    :raises pyramid.exceptions.ConfigurationError: an argument is unknown or
        malformed, or two of them clash.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        if len(args) > len(POSITIONAL):
            raise TypeError(f"at most {len(POSITIONAL)} positional arguments [docs: settings]")
        for name, value in zip(POSITIONAL, args, strict=False):
            if name in options:
                raise TypeError(f"argument {name} was given twice [docs: settings]")
            options[name] = value
        self._set_up(Settings.from_options(options))

    @classmethod
    def from_settings(cls, settings: Settings) -> RedisSessionFactory:
        """Make a factory from settings that are parsed already."""
        factory = cls.__new__(cls)
        factory._set_up(settings)
        return factory

    def _set_up(self, settings: Settings) -> None:
        self.settings = settings
        # Where pyramid_session_multi looks for it, as Pyramid's own factories have it.
        self._cookie_name = settings.cookie_name
        self._noted_proxy = False
        self.cookies = CookiePolicy(settings)
        self.codec = make_codec(settings)
        self.sealer = make_sealer(settings)
        self.memory = Memory(self.sealer)
        self._client_callable = settings.redis_client_callable
        self._client_options = client_options(settings)
        if self._client_callable is None:
            make_client(settings)  # does not connect: are the settings good?
        self._store = Store(None, settings)
        #: The stores, by process id and kind of sockets.
        self._stores: dict[tuple[int, type[socket.socket]], Store] = {}
        self.migration: Any = None
        if settings.migrate_from:
            from .migrate import Migration

            self.migration = Migration(settings, self.codec, self.sealer)
        #: Those who are told of each step and event: metrics, traces.
        self.watchers: tuple[Watcher, ...] = ()
        if settings.observe:
            from .observe import make_watchers

            self.watchers = make_watchers(settings)
        self.devices: Any = None
        if settings.device_binding:
            from .devices.binding import Devices

            self.devices = Devices(settings)
        #: No request has been answered yet.
        self.unproven = True

    def __call__(self, request: Any) -> RedisSession:
        """Return the session of a request. Costs nothing until it is looked at."""
        turn = Turn(self, request)
        attributes = request.__dict__
        if RESPONSE in attributes and get_current_request() is not request:
            # The view has answered, and so has Pyramid: the body of the response streams.
            turn.state.leave()
            return turn.session
        attributes.setdefault(TURNS, []).append(turn)
        request.add_response_callback(turn.on_response)
        request.add_finished_callback(turn.on_finished)
        return turn.session

    def store_for(self, request: Any) -> Store:
        """Return the store, over the client that serves this request.

        Each process has a client of its own, and has another one after ``gevent`` or ``eventlet``
        has replaced its sockets and locks. A server may do both once the application is loaded.

        :param request: ``None`` at application start.
        """
        if self._client_callable is not None:
            store = self._store.using(self._client_callable(request, **self._client_options))
        else:
            place = (os.getpid(), socket.socket)
            found = self._stores.get(place)
            if found is None:
                # Of two threads that come here the first one wins.
                made = self._store.using(make_client(self.settings))
                found = self._stores.setdefault(place, made)
            store = found
        if self.watchers:
            store = store.watched(self._tell)
        watched = None if request is None else request.environ.get(WATCHED)
        return store if watched is None else store.watched(watched.append)

    def separate_store(self) -> Store:
        """Return a store over a client of its own, for who keeps a connection to himself.

        It does not repeat a call, so that a lost connection is noticed; nobody is told of its
        steps. Where the application brings the client, it is that one.
        """
        if self._client_callable is not None:
            return self._store.using(self._client_callable(None, **self._client_options))
        settings = self.settings
        if settings.redis_socket_timeout is None:
            settings = dataclasses.replace(settings, redis_socket_timeout=LONGEST_SILENCE)
        return self._store.using(make_client(settings, retries=0))

    def key_of(self, locator: str) -> bytes:
        """Return the key under which Redis has a session."""
        return self._store.key(locator)

    def _tell(self, step: Step) -> None:
        for watcher in self.watchers:
            guarded(watcher.step, step)

    def note_proxy(self, environ: Mapping[str, Any]) -> None:
        """Warn, once, if a request over http says that it came over https before."""
        scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").partition(",")[0].strip()
        forwarded = environ.get("HTTP_FORWARDED", "").replace('"', "").lower()  # RFC 7239
        if (scheme == "https" or "proto=https" in forwarded) and not self._noted_proxy:
            self._noted_proxy = True
            log.warning(
                "the session cookie is sent without Secure: a proxy says that the request came "
                "over https, and the WSGI server was not told to believe it; or set "
                "redis.sessions.cookie_secure = true [docs: proxies]"
            )

    def preload(self) -> None:
        """Load the scripts into Redis; what prevents that is logged, and is no error."""
        try:
            store = self.store_for(None)
            long = waits_long(store.client)
            if long:
                log.warning("%s [docs: outages]", long)
            store.load_scripts()
        except SessionError as exc:
            log.warning("the session scripts could not be loaded at start: %s", exc)
        except Exception as exc:
            if self._client_callable is None:
                raise
            log.info(
                "redis_client_callable gives no client without a request, or one that loads no "
                "scripts (%s); they are loaded when they are first called",
                type(exc).__name__,
            )

    def expect_tween(self, registry: Any) -> None:
        """Warn of an application that has the factory and not the tween."""
        self.unproven = False
        tweens = registry.queryUtility(ITweens)
        chain = [] if tweens is None else tweens.explicit or tweens.implicit()
        if all(factory is not session_tween_factory for _, factory in chain):
            log.warning(
                "the sessions' tween is not part of the application: errors of a save reach no "
                "exception view, and changes of a transaction that fails are saved; use "
                "config.include('%s') [docs: settings]",
                __package__,
            )


def factory_of(registry: Any) -> RedisSessionFactory:
    """Return the session factory of an application.

    :raises SessionError: it is none of this package's.
    """
    factory = registry.queryUtility(ISessionFactory)
    if not isinstance(factory, RedisSessionFactory):
        raise SessionError(
            "the application's sessions are not those of this package [docs: settings]"
        )
    return factory

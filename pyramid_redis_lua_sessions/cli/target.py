"""Which Redis, and whose sessions in it: from the arguments to a client and a store."""

from __future__ import annotations

import argparse
import configparser
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from paste.deploy import appconfig
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ISessionFactory
from pyramid.registry import Registry
from pyramid.scripts.common import get_config_loader, parse_vars
from redis.exceptions import RedisError

from ..census import Census
from ..connect.addresses import parse_url
from ..connect.client import client_at, client_options, make_client
from ..cookies import CookiePolicy
from ..engine.seals import Sealer, make_sealer
from ..engine.serializers import Codec, make_codec
from ..factory import RedisSessionFactory
from ..migrate import Migration
from ..settings import PREFIX, Settings
from ..settings.parsers import resolved
from .console import UsageError

__all__ = [
    "Target",
    "add_ini_arguments",
    "address",
    "client_of",
    "connected",
    "settings_of_ini",
    "target_arguments",
]

#: Seconds to wait for the Redis that ``--url`` names.
TIMEOUT_SECONDS = 5.0

T = TypeVar("T")


class Target:
    """What the arguments name.

    :ivar name: to show for it; never with a password.
    :ivar settings: of the sessions; the defaults, and ``--prefix``, where no
        configuration file was given.
    :ivar configured: one was given.
    """

    def __init__(self, name: str, settings: Settings, client: Any, configured: bool) -> None:
        self.name = name
        self.settings = settings
        self.client = client
        self.configured = configured

    def require_configuration(self, why: str) -> None:
        """:raises UsageError: no configuration file was given."""
        if not self.configured:
            raise UsageError(f"{why} needs the configuration file, which has the secret")

    def publishing(self) -> Target:
        """Return the same, that publishes endings, where it is not known that nobody listens."""
        if self.configured:
            return self
        settings = dataclasses.replace(self.settings, publish_endings=True)
        return Target(self.name, settings, self.client, configured=False)

    @cached_property
    def codec(self) -> Codec:
        return self._made(make_codec)

    @cached_property
    def sealer(self) -> Sealer:
        return self._made(make_sealer)

    @cached_property
    def cookies(self) -> CookiePolicy:
        return CookiePolicy(self.settings)

    @cached_property
    def store(self) -> Census:
        return Census(self.client, self.settings)

    @cached_property
    def migration(self) -> Migration:
        return self._made(lambda settings: Migration(settings, self.codec, self.sealer))

    def registry(self) -> Registry:
        """Return a registry for what asks one for the session factory."""
        settings = dataclasses.replace(
            self.settings,
            redis_client_callable=lambda request, **options: self.client,
            observe=(),  # this is not the application
        )
        registry = Registry("redis-lua-sessions")
        factory = self._made(lambda _: RedisSessionFactory.from_settings(settings))
        registry.registerUtility(factory, ISessionFactory)
        return registry

    def _made(self, make: Callable[[Settings], T]) -> T:
        try:
            return make(self.settings)
        except ConfigurationError as exc:
            raise UsageError(f"{self.name}: {exc}") from exc


def target_arguments() -> argparse.ArgumentParser:
    """The arguments that every subcommand has: which Redis, and what is printed."""
    target = argparse.ArgumentParser(add_help=False)
    add_ini_arguments(target, nargs="?")
    target.add_argument(
        "--url",
        help="address of the Redis: redis://, rediss://, unix://, redis+sentinel:// or "
        "redis+cluster://, or where that stands: env:NAME, file:PATH; "
        "beside a configuration file, instead of the one that it names, so that you can log in "
        "as a user who may do more",
    )
    target.add_argument(
        "--prefix",
        help="prefix of the sessions' keys, where no configuration file tells "
        f"(default: {Settings.prefix})",
    )
    target.add_argument("--json", action="store_true", help="print JSON")
    return target


def add_ini_arguments(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    parser.add_argument(
        "config_uri",
        nargs=nargs,
        metavar="config.ini#section",
        help="configuration file of the application, as pserve takes it; "
        "its redis.sessions.* settings name the Redis",
    )
    parser.add_argument(
        "config_vars",
        nargs="*",
        default=(),
        metavar="name=value",
        help="variables that the configuration file uses, as pserve takes them",
    )


@contextmanager
def connected(args: argparse.Namespace) -> Iterator[Target]:
    """Make a client of the Redis that the arguments name; it connects on first use.

    :raises UsageError: they name none, or cannot be used.
    """
    if not (args.config_uri or args.url):
        raise UsageError("give either a configuration file or --url")
    try:
        url: str = resolved(args.url) if args.url else ""
    except ValueError as exc:
        raise UsageError(f"--url should be {exc}") from None
    if args.config_uri:
        if args.prefix is not None:
            raise UsageError(
                "--prefix goes with --url alone: the configuration file has the prefix"
            )
        name, settings = args.config_uri, settings_of_ini(args.config_uri, args.config_vars)
    else:
        prefix = Settings.prefix if args.prefix is None else args.prefix
        # A secret under which nothing opens; and lifetimes are not known.
        settings = Settings(secret=(os.urandom(32),), prefix=prefix, timeout=None)
        name = public_url(url)
    client = client_of_url(url) if url else client_of(settings, args.config_uri)
    with client:
        yield Target(name, settings, client, bool(args.config_uri))


def client_of_url(url: str) -> Any:
    """Return a client of the server at a URL; if that is a node of a cluster, of the cluster.

    :raises UsageError: the URL is malformed.
    """
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
    }
    try:
        address = parse_url(url, "--url")
        client = client_at(address, options, retries=0)
    except ConfigurationError as exc:
        raise UsageError(str(exc)) from exc
    if address.kind != "redis" or address.path or not is_cluster_node(client):
        return client
    client.close()
    own = {name: value for name, value in address.options.items() if name != "db"}
    return client_at(address._replace(kind="cluster", options=own), options, retries=0)


def is_cluster_node(client: redis.Redis) -> bool:
    try:
        info: Any = client.info("cluster")
    except RedisError:
        return False  # not allowed to ask, or not there: the call that follows will tell
    return bool(info.get("cluster_enabled"))


def settings_of_ini(config_uri: str, config_vars: Sequence[str]) -> Settings:
    """Return the settings of an application's sessions.

    :raises UsageError: the file, its section, its ``redis.sessions.*``
        settings or the variables cannot be used.
    """
    for word in config_vars:
        if "=" not in word:
            raise UsageError(f"{word!r} is neither an option nor name=value")
    try:
        return Settings.from_ini(app_settings(config_uri, parse_vars(config_vars)))
    except ConfigurationError as exc:
        raise UsageError(f"{config_uri}: {exc}") from exc
    except configparser.Error as exc:
        # Its message may quote the line, and so a password with a bare % in it.
        where = getattr(exc, "option", None) or f"line {getattr(exc, 'lineno', '?')}"
        raise UsageError(f"cannot read {config_uri}: {type(exc).__name__} at {where}") from None
    except RecursionError:
        raise UsageError(f"cannot read {config_uri}: its sections use each other") from None
    except (OSError, ImportError, AttributeError, LookupError, ValueError) as exc:
        # plaster's own errors are ValueErrors; AttributeError: a module has no such factory.
        raise UsageError(f"cannot read {config_uri}: {exc}") from exc
    except Exception as exc:  # whatever the application's modules raise when imported
        raise UsageError(f"cannot import what {config_uri} names: {type(exc).__name__}") from exc


def app_settings(config_uri: str, options: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the settings of an application, also from behind filters.

    :func:`pyramid.paster.get_appsettings` stops at a ``[pipeline:...]``, a
    ``[filter-app:...]`` or a ``filter-with``: what it returns are not the
    settings that the application itself gets.

    :raises ConfigurationError: it is several applications.
    """
    loader = get_config_loader(config_uri)
    spec = getattr(loader, "pastedeploy_spec", None)
    if spec is None:  # a format of somebody else's
        settings: Mapping[str, Any] = loader.get_wsgi_app_settings(None, options)
        return settings
    here = os.path.dirname(loader.filepath) if loader.filepath else os.getcwd()
    context = appconfig(
        spec,
        name=loader.uri.fragment or None,
        relative_to=loader.relative_to,
        global_conf={
            **{"__file__": loader.filepath, "here": here},
            **loader.uri.options,
            **options,
        },
    ).context
    # A pipeline has an app_context, whatever else is filtered a next_context.
    while inner := getattr(context, "app_context", getattr(context, "next_context", None)):
        context = inner
    own: Mapping[str, Any] = context.local_conf
    if "composit" in context.protocol and not any(name.startswith(PREFIX) for name in own):
        uri = config_uri.partition("#")[0]
        raise ConfigurationError(f"it is several applications: name one of them, as {uri}#NAME")
    return own


def client_of(settings: Settings, config_uri: str) -> Any:
    """Return the client that an application with these settings would use.

    :raises UsageError: there is none.
    """
    if settings.redis_client_callable is None:
        try:
            return make_client(settings)
        except ConfigurationError as exc:
            raise UsageError(f"{config_uri}: {exc}") from exc
    try:
        return settings.redis_client_callable(None, **client_options(settings))
    except Exception as exc:  # whatever the application's own function raises
        raise UsageError(
            f"{config_uri}: redis_client_callable gives no client without a request "
            f"({type(exc).__name__})"
        ) from exc


def public_url(url: str) -> str:
    """Return a URL without what may be secret: credentials and query."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its message may quote the password
        return "--url"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def address(connection: Any) -> str:
    """Say where a connection that is open leads to."""
    path = getattr(connection, "path", None)
    if path:
        return str(path)
    host, port = connection.host, connection.port
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

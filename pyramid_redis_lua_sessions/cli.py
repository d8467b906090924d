"""The console script ``redis-lua-sessions``, for operators."""

from __future__ import annotations

import argparse
import configparser
import sys
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import redis
from pyramid.exceptions import ConfigurationError
from pyramid.paster import get_appsettings
from pyramid.scripts.common import parse_vars
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from .client import client_options, make_client
from .scripts import SCRIPTS
from .settings import Settings

__all__ = ["SessionsCommand", "main"]

#: Seconds to wait for the Redis that ``--url`` names.
TIMEOUT_SECONDS = 5.0


class UsageError(Exception):
    """The arguments, or the configuration that they name, cannot be used."""


class RedisFailure(Exception):
    """Redis could not be reached, or did not do what it was asked."""


def main(argv: Sequence[str] | None = None, quiet: bool = False) -> int:
    """Run the console script.

    :param argv: the command line, program name first; default: ``sys.argv``.
    :param quiet: print nothing but errors.
    :returns: the exit status: 0; 1, Redis could not be reached or refused;
        2, the arguments or the configuration are wrong.
    """
    return SessionsCommand(sys.argv if argv is None else argv, quiet).run()


class SessionsCommand:
    """One run of the console script.

    Each subcommand is a method that :meth:`make_parser` names; it returns the
    exit status, or raises :class:`UsageError` or :class:`RedisFailure`.
    """

    script_name = "redis-lua-sessions"
    description = "Run and inspect the Redis behind an application's sessions."

    def __init__(self, argv: Sequence[str], quiet: bool = False) -> None:
        self.argv = argv
        self.quiet = quiet
        self.parser = self.make_parser()

    def make_parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=self.script_name, description=self.description)
        commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

        # Which Redis: the same arguments for every subcommand.
        target = argparse.ArgumentParser(add_help=False)
        target.add_argument(
            "config_uri",
            nargs="?",
            metavar="config.ini#section",
            help="configuration file of the application, as pserve takes it; "
            "its redis.sessions.* settings name the Redis",
        )
        target.add_argument(
            "config_vars",
            nargs="*",
            default=(),
            metavar="name=value",
            help="variables that the configuration file uses, as pserve takes them",
        )
        target.add_argument(
            "--url", help="address of the Redis instead: redis://, rediss:// or unix://"
        )

        command = commands.add_parser(
            "load-scripts",
            parents=[target],
            help="load the Lua scripts and show which node has them",
            description="Load the Lua scripts into Redis, and print for each its name, its SHA1 "
            "and the nodes that have it: of a Redis Cluster every primary.",
        )
        command.set_defaults(command=self.load_scripts)
        return parser

    def out(self, message: str) -> None:
        if not self.quiet:
            print(message)

    def error(self, message: str) -> None:
        # Messages of other libraries may span lines; operators grep for one.
        print(f"{self.script_name}: {' '.join(message.split())}", file=sys.stderr)

    def run(self) -> int:
        try:
            args = self.parser.parse_args(self.argv[1:])
        except SystemExit as exc:  # argparse has printed its message, or its help
            return 2 if exc.code else 0
        try:
            status: int = args.command(args)
        except UsageError as exc:
            self.error(str(exc))
            return 2
        except (RedisFailure, RedisError, RedisClusterException, OSError) as exc:
            self.error(str(exc) or type(exc).__name__)
            return 1
        return status

    # -- subcommands ---------------------------------------------------------------

    def load_scripts(self, args: argparse.Namespace) -> int:
        client, target = self.connect(args)
        with client:
            try:
                nodes = load_on_every_node(client)
            except (RedisError, RedisClusterException, OSError) as exc:
                raise RedisFailure(
                    f"{target}: the scripts could not be loaded: {exc or type(exc).__name__}"
                ) from exc
        names = max(len(name) for name in SCRIPTS)
        lacking = set()
        for script in SCRIPTS.values():
            having = [node for node, held in nodes.items() if script.sha1 in held]
            lacking.update(set(nodes) - set(having))
            self.out(f"{script.name:<{names}}  {script.sha1}  {', '.join(having) or '-'}")
        if lacking:
            raise RedisFailure(f"scripts are missing on {', '.join(sorted(lacking))}")
        return 0

    # -- which Redis ---------------------------------------------------------------

    def connect(self, args: argparse.Namespace) -> tuple[Any, str]:
        """Return a client of the Redis that the arguments name, and a name to show for it.

        :raises UsageError: the arguments name none.
        """
        if bool(args.config_uri) == bool(args.url):
            raise UsageError("give either a configuration file or --url")
        if args.url:
            return client_of_url(args.url), public_url(args.url)
        return client_of_ini(args.config_uri, args.config_vars), args.config_uri


def client_of_url(url: str) -> Any:
    """Return a client of the server at a URL; if that is a node of a cluster, of the cluster.

    :raises UsageError: the URL is malformed.
    """
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
    }
    try:
        client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
    except (ValueError, TypeError):
        # redis-py's message may quote a part of the URL, and so of a password.
        raise UsageError(
            "--url is not a Redis URL: expected redis://[[user]:password@]host[:port][/db], "
            "rediss://... or unix://...; special characters of a password are %-encoded"
        ) from None
    if not is_cluster_node(client):
        return client
    client.close()
    return RedisCluster.from_url(url, **options)


def is_cluster_node(client: redis.Redis) -> bool:
    try:
        info: Any = client.info("cluster")
    except RedisError:
        return False  # not allowed to ask, or not there: the call that follows will tell
    return bool(info.get("cluster_enabled"))


def client_of_ini(config_uri: str, config_vars: Sequence[str]) -> Any:
    """Return the client that an application of that configuration would use.

    :raises UsageError: the file, its section or its ``redis.sessions.*``
        settings cannot be used.
    """
    try:
        settings = Settings.from_ini(get_appsettings(config_uri, options=parse_vars(config_vars)))
        if settings.redis_client_callable is None:
            return make_client(settings)
    except ConfigurationError as exc:
        raise UsageError(f"{config_uri}: {exc}") from exc
    except configparser.Error as exc:
        # Its message may quote the line, and so a password with a bare % in it.
        where = getattr(exc, "option", None) or f"line {getattr(exc, 'lineno', '?')}"
        raise UsageError(f"cannot read {config_uri}: {type(exc).__name__} at {where}") from None
    except (OSError, ImportError, LookupError, ValueError) as exc:
        # plaster's own errors are ValueErrors.
        raise UsageError(f"cannot read {config_uri}: {exc}") from exc
    try:
        return settings.redis_client_callable(None, **client_options(settings))
    except Exception as exc:  # whatever the application's own function raises
        raise UsageError(
            f"{config_uri}: redis_client_callable gives no client without a request "
            f"({type(exc).__name__})"
        ) from exc


def public_url(url: str) -> str:
    """Return a URL without what may be secret: credentials and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


# -- scripts on nodes --------------------------------------------------------------


def load_on_every_node(client: Any) -> dict[str, set[str]]:
    """Load every script, then ask each node which it has.

    :param client: ``Redis`` or ``RedisCluster``.
    :returns: each node's address, to the SHA1s of the scripts found there.
    """
    if not isinstance(client, RedisCluster):
        return dict([load_on_node(client)])
    primaries = cast("Any", client).get_primaries()
    return dict(load_on_node(client.get_redis_connection(node)) for node in primaries)


def load_on_node(client: Any) -> tuple[str, set[str]]:
    sha1s = [script.sha1 for script in SCRIPTS.values()]
    # One connection, so that the address shown is that of the server that did
    # the work (Sentinel chooses it when it connects).
    with client.client() as single:
        for script in SCRIPTS.values():
            single.script_load(script.source)
        held = single.script_exists(*sha1s)
        connection = single.connection
        where = getattr(connection, "path", None) or address(connection.host, connection.port)
    return where, {sha1 for sha1, there in zip(sha1s, held, strict=True) if there}


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())

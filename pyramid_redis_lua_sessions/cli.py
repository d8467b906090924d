"""The console script ``redis-lua-sessions``, for operators."""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import redis
from pyramid.exceptions import ConfigurationError
from pyramid.paster import get_appsettings
from pyramid.scripts.common import parse_vars
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from .client import client_at, client_options, make_client, parse_url
from .errors import SessionError
from .scripts import SCRIPTS
from .seals import make_sealer
from .serializers import make_codec
from .settings import Settings
from .store import Store

__all__ = ["SessionsCommand", "main"]

#: Seconds to wait for the Redis that ``--url`` names.
TIMEOUT_SECONDS = 5.0

#: How often a progress that is no bar is printed.
PROGRESS_SECONDS = 5.0


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
        add_ini_arguments(target, nargs="?")
        target.add_argument(
            "--url",
            help="address of the Redis instead: redis://, rediss://, unix://, "
            "redis+sentinel:// or redis+cluster://",
        )

        command = commands.add_parser(
            "load-scripts",
            parents=[target],
            help="load the Lua scripts and show which node has them",
            description="Load the Lua scripts into Redis, and print for each its name, its SHA1 "
            "and the nodes that have it: of a Redis Cluster every primary.",
        )
        command.set_defaults(command=self.load_scripts)

        command = commands.add_parser(
            "migrate",
            help="take over all sessions of another library",
            description="Convert all sessions of the libraries that redis.sessions.migrate_from "
            "names, ahead of the users' return. Their old cookies lead to the converted sessions. "
            "The old application must not run any more; the new one may. The command can be "
            "interrupted, and run again.",
        )
        add_ini_arguments(command)
        command.add_argument(
            "--dry-run", action="store_true", help="convert everything, but store nothing"
        )
        command.add_argument("--yes", action="store_true", help="do not ask")
        command.add_argument(
            "--match",
            metavar="PATTERN",
            help="look at the keys of this glob-style pattern (for ids of an id_generator of your "
            "own), not at those whose names look like ids of the libraries; what they hold is "
            "unpickled, so it must not match keys that others can write",
        )
        command.set_defaults(command=self.migrate)
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

    def migrate(self, args: argparse.Namespace) -> int:
        from .migrate import Migration, Summary, migrate_all, old_name

        settings = settings_of_ini(args.config_uri, args.config_vars)
        try:
            migration = Migration(settings, make_codec(settings), make_sealer(settings))
        except ConfigurationError as exc:
            raise UsageError(f"{args.config_uri}: {exc}") from exc
        if not settings.migrate_from:
            raise UsageError(f"{args.config_uri}: redis.sessions.migrate_from names no library")
        if migration.over():
            raise UsageError(f"{args.config_uri}: redis.sessions.migrate_until has passed")
        if not (args.yes or args.dry_run):
            self.ask(f"Convert all sessions of {' and '.join(settings.migrate_from)}?")

        summary = Summary()
        with client_of(settings, args.config_uri) as client, self.progress() as advance:
            try:
                migrate_all(
                    migration,
                    Store(client, settings, make_sealer(settings)),
                    names=None if args.match else old_name(settings),
                    match=args.match or "*",
                    dry_run=args.dry_run,
                    refused=lambda name, why: self.out(f"left as it was: session {name}: {why}"),
                    progress=lambda steps, so_far: advance(steps, f"{so_far.moved} moved"),
                    summary=summary,
                )
                ended = None
            except KeyboardInterrupt:
                ended = "interrupted"
            except SessionError as exc:
                ended = str(exc)
        for name, meaning in Summary.MEANINGS.items():
            count = getattr(summary, name)
            if count or name == "moved":
                self.out(f"{count:>9}  {meaning[args.dry_run]}")
        if ended is not None:
            raise RedisFailure(f"{ended}; no session is lost: run the command again to go on")
        return 0

    # -- talking to the operator -----------------------------------------------------

    def ask(self, question: str) -> None:
        """Go on only if the operator says so.

        :raises UsageError: the answer is no, or nobody can answer.
        """
        if not sys.stdin.isatty():
            raise UsageError("give --yes: there is no terminal on which to ask")
        if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
            raise UsageError("nothing was done")

    @contextmanager
    def progress(self) -> Iterator[Callable[[int, str], None]]:
        """Show how far a command is, on standard error.

        On a terminal, with ``rich`` if that is installed; else as a line every
        few seconds.

        :returns: a function to be called with the steps that were done, of
            1000 in all, and a few words.
        """
        if self.quiet:
            yield lambda steps, words: None
            return
        if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
            rich: Any = importlib.import_module("rich.progress")
            console = importlib.import_module("rich.console").Console(stderr=True)
            columns = rich.Progress.get_default_columns()
            with rich.Progress(*columns, console=console, transient=True) as bar:
                task = bar.add_task("", total=1000)
                yield lambda steps, words: bar.update(task, advance=steps, description=words)
            return
        done, shown = 0, time.monotonic()

        def advance(steps: int, words: str) -> None:
            nonlocal done, shown
            done += steps
            if time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                print(f"{done // 10} %, {words}", file=sys.stderr, flush=True)

        yield advance

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


def client_of_ini(config_uri: str, config_vars: Sequence[str]) -> Any:
    """Return the client that an application of that configuration would use.

    :raises UsageError: the file, its section or its ``redis.sessions.*``
        settings cannot be used.
    """
    return client_of(settings_of_ini(config_uri, config_vars), config_uri)


def settings_of_ini(config_uri: str, config_vars: Sequence[str]) -> Settings:
    """Return the settings of an application's sessions.

    :raises UsageError: the file, its section or its ``redis.sessions.*``
        settings cannot be used.
    """
    try:
        return Settings.from_ini(get_appsettings(config_uri, options=parse_vars(config_vars)))
    except ConfigurationError as exc:
        raise UsageError(f"{config_uri}: {exc}") from exc
    except configparser.Error as exc:
        # Its message may quote the line, and so a password with a bare % in it.
        where = getattr(exc, "option", None) or f"line {getattr(exc, 'lineno', '?')}"
        raise UsageError(f"cannot read {config_uri}: {type(exc).__name__} at {where}") from None
    except (OSError, ImportError, LookupError, ValueError) as exc:
        # plaster's own errors are ValueErrors.
        raise UsageError(f"cannot read {config_uri}: {exc}") from exc


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

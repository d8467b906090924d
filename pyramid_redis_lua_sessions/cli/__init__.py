"""The console script ``redis-lua-sessions``, for operators.

One module per group of subcommands. Each has ``add_to(commands, target)``,
which declares them, and for each a function ``(console, args)`` that returns
the exit status, or raises.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from .. import __version__
from ..errors import SessionError
from . import accounts, check, migrate, scripts, sessions, simulate, stats, sweep
from .console import Console, Declined, RedisFailure, UsageError
from .target import target_arguments

__all__ = ["SessionsCommand", "main"]

GROUPS = (check, scripts, stats, sessions, accounts, sweep, simulate, migrate)


def main(argv: Sequence[str] | None = None, quiet: bool = False) -> int:
    """Run the console script.

    :param argv: the command line, program name first; default: ``sys.argv``.
    :param quiet: print nothing but errors.
    :returns: the exit status: 0; 1, Redis could not be reached or refused, or
        a check failed; 2, the arguments or the configuration are wrong, or the
        operator said no.
    """
    with signals_as_interrupts(), any_text_printable():
        return SessionsCommand(sys.argv if argv is None else argv, quiet).run()


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does: it tidies up, and says how far it is.

    One that is ignored, as ``nohup`` does, stays ignored.
    """

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    handled = []
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        numbers = (signal.SIGTERM, signal.SIGHUP)
        handled = [n for n in numbers if signal.getsignal(n) is signal.SIG_DFL]
    try:
        for number in handled:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def any_text_printable() -> Iterator[None]:
    """Let a key or a value be printed also where the output's encoding cannot express it."""
    out = sys.stdout
    if not isinstance(out, io.TextIOWrapper):
        yield
        return
    errors = out.errors
    out.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        out.reconfigure(errors=errors)


class SessionsCommand:
    """One run of the console script."""

    script_name = "redis-lua-sessions"
    description = "Run and inspect the Redis behind an application's sessions."

    def __init__(self, argv: Sequence[str], quiet: bool = False) -> None:
        self.argv = argv
        self.console = Console(self.script_name, quiet)
        self.parser = self.make_parser()

    def make_parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=self.script_name, description=self.description)
        parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
        commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
        target = target_arguments()
        for group in GROUPS:
            group.add_to(commands, target)
        return parser

    def run(self) -> int:
        try:
            status = self.run_command()
            self.console.flush()
            return status
        except UsageError as exc:
            page = None if isinstance(exc, Declined) else "command"
            self.console.error(with_page(str(exc), page))
            return 2
        except BrokenPipeError:  # as under ``head``: who reads the output has enough
            return 1
        except (RedisFailure, SessionError, RedisError, RedisClusterException, OSError) as exc:
            self.console.error(with_page(str(exc) or type(exc).__name__, "messages"))
            return 1
        except KeyboardInterrupt:
            self.console.error("interrupted")
            return 1
        finally:
            self.console.close()

    def run_command(self) -> int:
        try:
            args = self.parser.parse_args(joined(self.argv[1:]))
        except SystemExit as exc:  # argparse has printed its message, or its help
            return 2 if exc.code else 0
        status: int = args.command(self.console, args)
        return status


def with_page(message: str, page: str | None) -> str:
    """Name the page of the documentation about an error, unless it names one."""
    return message if page is None or "[docs: " in message else f"{message} [docs: {page}]"


def joined(argv: Sequence[str]) -> list[str]:
    """Write ``--session=NAME`` for ``--session NAME``.

    An id or a cookie may begin with a hyphen, and ``argparse`` takes that for an option.
    """
    words: list[str] = []
    for word in argv:
        if words and words[-1] in ("--session", "--owner"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words

"""How the command talks to the operator: lines, tables, progress, questions."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

__all__ = [
    *("Console", "Declined", "RedisFailure", "UsageError"),
    *("duration", "plural", "printable", "size"),
]

#: How often a progress that is no bar is printed.
PROGRESS_SECONDS = 5.0

#: Characters that a column of a drawn table has at least, and those between two columns.
NARROWEST, BETWEEN = 4, 3


class UsageError(Exception):
    """The arguments, or the configuration that they name, cannot be used."""


class Declined(UsageError):
    """The answer to a question was no."""


class RedisFailure(Exception):
    """Redis could not be reached, or did not do what it was asked."""


class Console:
    """Standard output and standard error of one run.

    Tables and bars are drawn with ``rich`` where that is installed and the
    stream is a terminal; else all is plain text.

    :param name: of the program, before each error.
    :param quiet: print nothing but errors.
    """

    def __init__(self, name: str, quiet: bool = False) -> None:
        self.name = name
        self.quiet = quiet

    def out(self, message: str = "") -> None:
        if not self.quiet:
            print(message)

    def error(self, message: str) -> None:
        # Messages of other libraries may span lines; operators grep for one.
        line = f"{self.name}: {' '.join(message.split())}"
        if sys.stderr is not None:  # print() would write to standard output instead
            with suppress(OSError):  # nobody is left who could be told
                print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Send off what was printed.

        :raises OSError: it does not arrive.
        """
        if sys.stdout is not None:
            sys.stdout.flush()

    def close(self) -> None:
        """Send off what was printed, or drop it: the interpreter must not stumble on it later."""
        for stream in (sys.stdout, sys.stderr):
            if stream is None:
                continue
            try:
                stream.flush()
            except OSError:
                with open(os.devnull, "w") as nothing, suppress(OSError):
                    os.dup2(nothing.fileno(), stream.fileno())

    def json(self, document: Any) -> None:
        self.out(json.dumps(document, indent=2))

    def table(
        self,
        headings: Sequence[str],
        rows: Sequence[Sequence[str]],
        numbers: Sequence[str] = (),
        styles: Mapping[str, str] | None = None,
        whole: Sequence[str] = (),
    ) -> None:
        """Print a table; as plain text one line a row, two spaces between the columns.

        :param headings: of the columns; if all are empty, none is printed.
        :param numbers: headings of the columns that are aligned on the right.
        :param styles: cells to the style that ``rich`` gives them.
        :param whole: headings of the columns whose cells stay on one line; the first one's do.
        """
        if self.quiet:
            return
        on_one_line = [not n or heading in whole for n, heading in enumerate(headings)]
        if _draws(sys.stdout) and self._draw(headings, rows, numbers, styles or {}, on_one_line):
            return
        lines = [list(headings), *rows] if any(headings) else list(rows)
        widths = [max((len(line[i]) for line in lines), default=0) for i in range(len(headings))]
        for line in lines:
            cells = [
                cell.rjust(width) if heading in numbers else cell.ljust(width)
                for cell, width, heading in zip(line, widths, headings, strict=True)
            ]
            print("  ".join(cells).rstrip())

    def _draw(
        self,
        headings: Sequence[str],
        rows: Sequence[Sequence[str]],
        numbers: Sequence[str],
        styles: Mapping[str, str],
        whole: Sequence[bool],
    ) -> bool:
        """Draw a table; return whether the terminal is wide enough for it."""
        from rich.box import SIMPLE
        from rich.cells import cell_len
        from rich.console import Console as Terminal
        from rich.table import Table
        from rich.text import Text

        terminal = Terminal(highlight=False)
        # Without this much room rich cuts off columns, and leaves out others.
        widths = [
            max(cell_len(row[number]) for row in [headings, *rows]) if stays else NARROWEST
            for number, stays in enumerate(whole)
        ]
        if terminal.width < sum(widths) + len(widths) * BETWEEN:
            return False
        table = Table(box=SIMPLE, show_header=any(headings), pad_edge=False)
        for heading, stays in zip(headings, whole, strict=True):
            # What a row is about stays whole, so that it can be copied; nothing is cut off.
            justify: Literal["left", "right"] = "right" if heading in numbers else "left"
            table.add_column(heading, justify=justify, no_wrap=stays, overflow="fold")
        for row in rows:
            # Text, not str: what stands in a cell is no markup.
            table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row))
        terminal.print(table)
        return True

    def ask(self, question: str, yes: bool = False) -> None:
        """Go on only if the operator says so.

        :param yes: has said so already, with ``--yes``.
        :raises Declined: the answer is no.
        :raises UsageError: nobody can answer.
        """
        if yes:
            return
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError("give --yes: there is no terminal on which to ask")
        if sys.stderr is not None:  # standard output may be for a program
            print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        try:
            answer = input()
        except EOFError:
            answer = ""
            if sys.stderr is not None:
                print(file=sys.stderr)  # the cursor is still behind the question
        except UnicodeDecodeError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise Declined("nothing was done")

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
        if _draws(sys.stderr):
            from rich.console import Console as Terminal
            from rich.progress import Progress

            columns = Progress.get_default_columns()
            with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
                task = bar.add_task("", total=1000)
                yield lambda steps, words: bar.update(task, advance=steps, description=words)
            return
        done, shown = 0, time.monotonic()

        def advance(steps: int, words: str) -> None:
            nonlocal done, shown
            done += steps
            if time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                if sys.stderr is not None:
                    print(f"{done // 10} %, {words}", file=sys.stderr, flush=True)

        yield advance


def _draws(stream: Any) -> bool:
    return stream is not None and stream.isatty() and importlib.util.find_spec("rich") is not None


# -- in words ----------------------------------------------------------------------


def duration(ms: float) -> str:
    """Say how long: ``850 ms``, ``12 s``, ``90 min``, ``1 h``, ``20 days``."""
    for unit, length in (("day", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms >= 2 * length or ms == length:
            plural = "s" if unit == "day" and ms > length else ""
            return f"{ms / length:.0f} {unit}{plural}"
    return f"{ms:.0f} ms"


def size(count: float) -> str:
    """Say how many bytes: ``850 B``, ``12.3 kB``, ``4.5 MB`` (powers of 1024)."""
    for unit, length in (("GB", 1024**3), ("MB", 1024**2), ("kB", 1024)):
        if count >= length:
            return f"{count / length:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count:.0f} B"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Say how many: ``1 session``, ``1,200 sessions``."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def printable(text: str) -> str:
    """Escape what a terminal would obey, and what it cannot show."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )

"""Each message that a user can meet names its page of the documentation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pyramid_redis_lua_sessions
from pyramid_redis_lua_sessions import SessionError, SettingsError, errors
from pyramid_redis_lua_sessions.cli import main

PACKAGE = Path(pyramid_redis_lua_sessions.__file__).parent
DOCS = PACKAGE.parent / "docs"
PAGE = " ".join((DOCS / "messages.rst").read_text("utf-8").split())

#: What is raised to an application, beside errors whose class puts a page behind every message.
RAISED = {"RuntimeError", "TypeError", "SessionError", "ConfigurationError"}
#: Where a ``ValueError`` is the application's: elsewhere it is caught within the package.
VALUES = {"engine/fields.py", "owners.py", "session.py", "turn.py"}
LOGGED = {"warning", "error"}

#: Never seen: caught within the package.
UNSEEN = {"unsupported", "not the field of a session key"}


def words(node: ast.expr) -> str | None:
    """The constant text of a message, with ``…`` for what is put in; ``None``: all is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[sdr]", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
        return "".join(map(str, parts))
    return None


class Message(NamedTuple):
    """:ivar carries: it ends with an error, whose own message names a page."""

    where: str
    text: str
    carries: bool


def messages() -> Iterator[Message]:
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] in {"cli", "testing", "observe"}:
            continue  # the command puts a page behind each; the others are no applications'
        raisable = RAISED | ({"ValueError"} if str(relative) in VALUES else set())
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            raised = isinstance(node, ast.Raise) and name in raisable
            logged = name in LOGGED and getattr(getattr(call.func, "value", 0), "id", "") == "log"
            text = words(call.args[0])
            if (raised or logged) and text is not None and text.strip("…\n"):
                carries = text.endswith(": …") and getattr(call.args[-1], "id", "") == "exc"
                yield Message(f"{relative}:{call.lineno}", text, carries)


FOUND = list(messages())


def test_messages_are_found() -> None:
    assert len(FOUND) > 40


@pytest.mark.parametrize("message", FOUND, ids=[message.where for message in FOUND])
def test_message_names_a_page(message: Message) -> None:
    if message.text in UNSEEN:
        return
    named = re.search(r"\[docs: ([\w-]+)\]", message.text)
    assert named is not None or message.carries, message
    if named is not None:
        assert (DOCS / f"{named[1]}.rst").is_file(), message
    if named is None or named[1] == "messages":
        longest = max(re.split(r"…|\n|: |; | \[", message.text), key=len).strip(" :;,(")
        assert longest in PAGE, f"{message} is not on docs/messages.rst"


@pytest.mark.parametrize(
    ("args", "page"),
    [
        (["stats"], "command"),
        (["stats", "--url", "redis://127.0.0.1:1/0"], "outages"),
        (["list", "--url", "redis://127.0.0.1:1/0", "--limit", "-1"], "command"),
    ],
    ids=["usage", "away", "option"],
)
def test_error_of_the_command_names_a_page(args: list[str], page: str, capsys: Any) -> None:
    assert main(["redis-lua-sessions", *args]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"[docs: {page}]")


ERRORS = [
    *(getattr(errors, name) for name in errors.__all__ if name != "fingerprint"),
    SettingsError,
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_error_names_a_page_that_is_there(kind: type[Exception]) -> None:
    if kind is SessionError or issubclass(kind, errors.InvalidSession):
        return  # the one is raised in one place; the others are logged
    told = str(kind("key", "kind", "error") if kind is errors.UnserializableValue else kind("x"))
    (page,) = re.findall(r"\[docs: ([\w-]+)\]$", told)
    assert (DOCS / f"{page}.rst").is_file()

"""Each message that a user can meet names its page of the documentation, or is explained on one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyramid_redis_lua_sessions
from pyramid_redis_lua_sessions import SessionError, SettingsError, errors

PACKAGE = Path(pyramid_redis_lua_sessions.__file__).parent
DOCS = PACKAGE.parent / "docs"
PAGE = " ".join((DOCS / "messages.rst").read_text("utf-8").split())

#: Raised by a name whose class puts the page behind every message.
WITH_PAGE = {"StoreError", "StoreUnavailable", "SettingsError"}
#: What else is raised to an application.
RAISED = {"RuntimeError", "TypeError", "SessionError"}
LOGGED = {"warning", "error"}

#: Never seen: caught within the package, or errors of code that is not the application's.
UNSEEN = {
    "unsupported",
    "at most",
    "argument",
    "a new session is at its end",
    "a session is gone as",
}


def words(node: ast.expr) -> str | None:
    """The constant text of a message, with ``…`` for what is put in; ``None``: all is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[sdr]", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
        return "".join(map(str, parts))
    return None


def messages() -> Iterator[tuple[str, str]]:
    """Where each message stands, and its words."""
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] in {"cli", "testing", "observe"}:
            continue  # the command has its own; the others are no applications'
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            raised = isinstance(node, ast.Raise) and name in RAISED
            logged = name in LOGGED and getattr(getattr(call.func, "value", 0), "id", "") == "log"
            text = words(call.args[0])
            if (raised or logged) and text is not None and text.strip("…\n"):
                yield f"{relative}:{call.lineno}", text


FOUND = list(messages())


def test_messages_are_found() -> None:
    assert len(FOUND) > 20


@pytest.mark.parametrize(("where", "text"), FOUND, ids=[where for where, _ in FOUND])
def test_message_names_a_page_or_is_explained(where: str, text: str) -> None:
    named = re.search(r"\[docs: ([\w-]+)\]", text)
    if named is not None:
        assert (DOCS / f"{named[1]}.rst").is_file(), where
    elif not any(text.startswith(beginning) for beginning in UNSEEN):
        longest = max(re.split(r"…|\n|: |; ", text), key=len).strip(" :;,(")
        assert longest in PAGE, f"{where}: {text!r} is not on docs/messages.rst"


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

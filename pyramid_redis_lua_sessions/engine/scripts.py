"""The Lua scripts, read once from the ``lua/`` directory.

In an installed package the scripts lie beside this package, as package data;
in a checkout they lie beside the top package. What several scripts need stands
once, in ``lua/parts/``: it is put in as text where a line says ``-- @include
name``, so it costs nothing when the script runs.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

__all__ = ["SCRIPTS", "Script", "Status"]


class Status(enum.IntEnum):
    """First element of every script's reply."""

    GONE = 0
    LOADED = 1
    MOVED = 2
    CREATED = 3
    TAKEN = 4
    SAVED = 5
    CONFLICT = 6
    EMPTIED = 7
    ADJUSTED = 8
    ENDED = 9
    BUSY = 10
    FULL = 11
    CLOCKED = 12


@dataclasses.dataclass(frozen=True)
class Script:
    """One Lua script.

    :ivar name: the file's name without ``.lua``.
    :ivar source: its text, as Redis gets it.
    :ivar sha1: 40 hexadecimal digits, under which Redis caches it (EVALSHA).
    """

    name: str
    source: str
    sha1: str


_INCLUDE = re.compile(r"^( *)-- @include (\w+)\n", re.MULTILINE)


def _load() -> Mapping[str, Script]:
    package = files(__package__.rpartition(".")[0])
    directory = package / "lua"
    if not directory.is_dir():
        directory = package / ".." / "lua"

    def read(*names: str) -> dict[str, str]:
        entries = directory.joinpath(*names).iterdir()
        return {
            entry.name.removesuffix(".lua"): entry.read_text(encoding="utf-8")
            for entry in sorted(entries, key=lambda entry: entry.name)
            if entry.name.endswith(".lua")
        }

    bodies = {name: text.partition("]]\n")[2] for name, text in read("parts").items()}

    def included(match: re.Match[str]) -> str:
        return re.sub(r"(?m)^(?=.)", match[1], bodies[match[2]])

    found = {}
    for name, text in read().items():
        source = _INCLUDE.sub(included, text)
        # Redis names a script by the SHA1 of its text; no security rests on it.
        sha1 = hashlib.sha1(source.encode("utf-8"), usedforsecurity=False).hexdigest()
        found[name] = Script(name, source, sha1)
    return MappingProxyType(found)


#: Every script of the package, by name.
SCRIPTS: Mapping[str, Script] = _load()

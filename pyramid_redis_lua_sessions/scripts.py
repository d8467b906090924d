"""The Lua scripts, read once from the ``lua/`` directory.

In an installed package the scripts lie beside this module, as package data;
in a checkout they lie beside the package.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
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


@dataclasses.dataclass(frozen=True)
class Script:
    """One Lua script.

    :ivar name: the file's name without ``.lua``.
    :ivar source: its text.
    :ivar sha1: 40 hexadecimal digits, under which Redis caches it (EVALSHA).
    """

    name: str
    source: str
    sha1: str


def _load() -> Mapping[str, Script]:
    package = files(__package__)
    directory = package / "lua"
    if not directory.is_dir():
        directory = package / ".." / "lua"
    found = {}
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".lua"):
            name = entry.name.removesuffix(".lua")
            source = entry.read_text(encoding="utf-8")
            # Redis names a script by the SHA1 of its text; no security rests on it.
            sha1 = hashlib.sha1(source.encode("utf-8"), usedforsecurity=False).hexdigest()
            found[name] = Script(name, source, sha1)
    return MappingProxyType(found)


#: Every script of the package, by name.
SCRIPTS: Mapping[str, Script] = _load()

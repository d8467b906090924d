"""What the sessions of a benchmark hold."""

from __future__ import annotations

import random
import string
from typing import Any

from pyramid_redis_lua_sessions.engine.fields import CSRF_KEY

__all__ = ["of_keys", "of_size", "size_of", "typical", "with_long_values"]

FILLER_CHARACTERS = 1000
_ALPHABET = string.ascii_letters + string.digits + "-_"


def typical() -> dict[str, Any]:
    """Return the contents of a typical session of somebody who is logged in."""
    return {
        "user_id": 48_213,
        CSRF_KEY: _text(43, seed=1),
        "name": "Ada Lovelace",
        "language": "en",
        "groups": ["editor", "staff", "member"],
        "seen": 1_767_225_600.25,
    }


def with_long_values() -> dict[str, Any]:
    """Return typical contents and some values of more than 64 bytes."""
    return {
        **typical(),
        "address": _text(120, seed=2),
        "last_search": _text(90, seed=3),
        "cart": [{"sku": _text(8, seed=n), "title": _text(20, seed=n), "n": n} for n in range(4)],
    }


def of_keys(count: int) -> dict[str, Any]:
    """Return typical contents and as many short values as make ``count`` keys."""
    contents = typical()
    for number in range(count - len(contents)):
        contents[f"key{number}"] = _text(20, seed=number)
    return contents


def of_size(size: int) -> dict[str, Any]:
    """Return typical contents and as many values of 1,000 characters as make ``size`` bytes."""
    contents = typical()
    for number in range(max(0, size - size_of(contents)) // FILLER_CHARACTERS):
        contents[f"filler{number}"] = _text(FILLER_CHARACTERS, seed=number)
    return contents


def size_of(contents: dict[str, Any]) -> int:
    """Return roughly how many bytes keys and values have, however they are stored."""
    return sum(len(key) + len(str(value)) for key, value in contents.items())


def _text(length: int, seed: int) -> str:
    """Return text that does not compress, the same in every run."""
    return "".join(random.Random(seed).choices(_ALPHABET, k=length))

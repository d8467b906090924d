"""What connections to one server are made with."""

from __future__ import annotations

from typing import Any

import pytest
from redis.connection import HiredisRespSerializer

from pyramid_redis_lua_sessions.connect.pools import PACKER


@pytest.mark.parametrize(
    "command",
    [
        ("EVALSHA", "0" * 40, 1, b"session:\xff", b"", "text é", "1200000"),
        ("EVAL", "return 1", 1, b"key"),
        ("SELECT", 3),
        ("HSET", b"key", "field", 0.5),
        ("SCRIPT LOAD", "return 1"),
        ("MEMORY USAGE", b"key"),
        ("SET", "key", bytearray(b"value")),
    ],
    ids=lambda command: command[0],
)
def test_command_is_packed_as_redis_py_packs_it(command: tuple[Any, ...]) -> None:
    plain: Any = HiredisRespSerializer()
    assert PACKER.pack(*command) == plain.pack(*command)

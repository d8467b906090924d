"""What connections to one server are made with, and how they are handed out."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from queue import Full
from typing import Any

import pytest
from redis.connection import HiredisRespSerializer
from redis.exceptions import MaxConnectionsError

from pyramid_redis_lua_sessions.pools import PACKER, Turns
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    "command",
    [
        ("EVALSHA", "0" * 40, 1, b"session:\xff", b"", "text é", 1200000, 0.5),
        ("EVAL", "return 1", 1, b"key"),
        ("SCRIPT LOAD", "return 1"),
        ("MEMORY USAGE", b"key"),
        ("SET", "key", bytearray(b"value")),
    ],
    ids=lambda command: command[0],
)
def test_command_is_packed_as_redis_py_packs_it(command: tuple[Any, ...]) -> None:
    plain: Any = HiredisRespSerializer()
    assert PACKER.pack(*command) == plain.pack(*command)


def test_last_one_in_is_the_first_one_out() -> None:
    turns = Turns(2)
    turns.put_nowait("one")
    turns.put_nowait("other")
    with pytest.raises(Full):
        turns.put_nowait("too many")
    assert [turns.get_nowait(), turns.get_nowait()] == ["other", "one"]
    with pytest.raises(MaxConnectionsError):
        turns.get_nowait()


def test_who_waits_is_woken() -> None:
    turns = Turns(1)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(turns.get, True, 30) for _ in range(2)]
        wait_until(lambda: len(turns.not_empty._waiters) == 2)  # type: ignore[attr-defined]
        for name in ("one", "other"):
            threading.Thread(target=turns.put_nowait, args=[name]).start()
            wait_until(lambda: not turns.queue)
        assert {one.result() for one in waiting} == {"one", "other"}


def test_who_waits_in_vain_learns_why() -> None:
    with pytest.raises(MaxConnectionsError):
        Turns(1).get(True, 0.01)

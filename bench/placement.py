"""On which CPUs the application and Redis run.

Left alone, the scheduler sometimes puts both on one CPU and sometimes on two, and changes its
mind between runs. On one CPU a round trip costs half as much, and every ratio is another one; so
a benchmark has to choose. ``apart`` is how Redis is run where it matters, on cores or a machine
of its own. ``same`` is the other extreme: a round trip costs least, and what the scripts and the
Python code cost shows most.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyramid_redis_lua_sessions.testing import RedisServer

__all__ = ["PLACEMENTS", "placed"]

PLACEMENTS = ("apart", "same", "free")


@contextmanager
def placed(server: RedisServer, placement: str) -> Iterator[str]:
    """Bind this process and the server to CPUs, this process until the end of the block.

    :param placement: ``apart``, ``same``, or ``free``: as the scheduler likes.
    :returns: the placement in force: ``free`` where the system cannot do better.
    """
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    cpus = sorted(before)
    if placement == "free" or len(cpus) < 2:
        yield "free"
        return
    for thread in Path(f"/proc/{server.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpus[1]})
    os.sched_setaffinity(0, {cpus[0 if placement == "apart" else 1]})
    try:
        yield placement
    finally:
        os.sched_setaffinity(0, before)

"""What it costs to seal a value, and to verify a seal."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from pyramid_redis_lua_sessions.engine.seals import make_sealer
from pyramid_redis_lua_sessions.engine.tokens import Token, draw_verifier
from pyramid_redis_lua_sessions.settings import Settings

from .contenders import SECRET
from .measuring import Spread

__all__ = ["SIZES", "measure_seals"]

SIZES = (8, 64, 256, 1000, 10_000, 100_000)
FIELD = b".user_id"
CALLS = 200


def measure_seals(rounds: int) -> list[dict[str, Any]]:
    """Measure values of several sizes.

    :returns: ``bytes`` of the value; ``seal_us`` and ``open_us``, CPU time of one call, the
        loop around it subtracted.
    """
    settings = Settings.from_options({"secret": SECRET})
    token = Token.of(secrets.token_urlsafe(32), draw_verifier())
    bound = make_sealer(settings).bind(token.locator, token.digest)
    found = []
    for size in SIZES:
        data = secrets.token_bytes(size)
        sealed = bound.seal(FIELD, data)
        seal, check = [], []
        for _ in range(rounds):
            nothing = _time(_nothing, data)
            seal.append(_time(bound.seal, data) - nothing)
            check.append(_time(bound.open, sealed) - nothing)
        found.append(
            {
                "bytes": size,
                "seal_us": vars(Spread.of(seal)),
                "open_us": vars(Spread.of(check)),
            }
        )
    return found


def _nothing(field: bytes, data: bytes) -> None:
    pass


def _time(call: Callable[[bytes, bytes], Any], data: bytes) -> float:
    start = time.thread_time()
    for _ in range(CALLS):
        call(FIELD, data)
    return (time.thread_time() - start) / CALLS * 1e6

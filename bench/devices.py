"""``python -m bench.devices``: what a session costs that is bound to a device, in instructions.

Counted as :mod:`bench.instructions` does. Both read the same session, in an application that binds
sessions; one is bound, so it has a field more, a cookie more, and the lock. The share that is the
lock's own is what a request takes less where that is left out.
"""

from __future__ import annotations

import json
import secrets
import sys
from typing import Any

from pyramid.interfaces import ISessionFactory

from pyramid_redis_lua_sessions.devices.binding import Binding, Devices, now_ms
from pyramid_redis_lua_sessions.engine.fields import DEVICE_FIELD
from pyramid_redis_lua_sessions.testing import find_redis_server

from . import contents
from .contenders import Ours, make_app
from .driving import Lane
from .instructions import WARM_UP, count, counting_parser, is_valgrind_missing, run_marked
from .scenarios import READ

UNBOUND, UNLOCKED, BOUND = "unbound", "bound, without the lock", "bound"

#: Most that a bound read may cost, as a share of an unbound one.
MOST = 1.04


class Binder(Ours):
    """This engine, with ``device_binding``."""

    def configure(self, config: Any, url: str, options: dict[str, str]) -> None:
        super().configure(config, url, {**options, "device_binding": "on"})


class BoundLane(Lane):
    """Its sessions are bound to a device each."""

    def new_cookie(self) -> str:
        cookie = super().new_cookie()
        factory = self._app.registry.getUtility(ISessionFactory)
        tickets, _ = factory.cookies.read(cookie)
        token = tickets[0].token
        binding = Binding(now_ms(), now_ms(), b"\2" + secrets.token_bytes(32))
        bound = factory.sealer.bind(token.locator, token.digest)
        # Not by a save, which would leave what it is recognised by: the others have none.
        key = f"{factory.settings.prefix}{token.locator}"
        sealed = bound.seal(DEVICE_FIELD, binding.encode())
        factory.store_for(None).client.hset(key, DEVICE_FIELD, sealed)
        device = factory.devices.cookie_to_set(token.locator, binding.key)
        return f"{cookie}; {device.partition(';')[0]}"


class NoLock(Devices):
    def lock(self, *_: Any) -> str:
        return ""


def serve(url: str, requests: int) -> list[tuple[str, str]]:
    """Send the requests, as :func:`bench.instructions.run_marked`."""
    contender = Binder()
    apps = [make_app(contender, url, contents.typical()) for _ in range(3)]
    unlocked = apps[1].registry.getUtility(ISessionFactory)
    unlocked.devices = NoLock(unlocked.settings)
    kinds = ((UNBOUND, Lane), (UNLOCKED, BoundLane), (BOUND, BoundLane))
    lanes = (
        (name, lane(contender, app, READ, WARM_UP))
        for (name, lane), app in zip(kinds, apps, strict=True)
    )
    return run_marked(lanes, requests)


def main(argv: list[str] | None = None) -> int:
    parser = counting_parser("bench.devices", __doc__, 200)
    parser.add_argument("--check", action="store_true", help=f"fail beyond {MOST:g}")
    options = parser.parse_args(argv)
    if options.serve:
        print(json.dumps(serve(options.serve, options.requests)))
        return 0
    if is_valgrind_missing():
        return 2
    found = count(__spec__.name, options.server or find_redis_server(), options.requests)
    unbound = found[UNBOUND][READ.name]
    print("Instructions of a whole request that reads, thousands\n")
    for name, counts in found.items():
        read = counts[READ.name]
        print(f"{name:28}{read / 1000:8.1f}{read / unbound:8.3f}")
    passed = found[BOUND][READ.name] / unbound > MOST
    if passed:
        print(f"a bound read may cost {MOST:g} of an unbound one", file=sys.stderr)
    return int(passed and options.check)


if __name__ == "__main__":
    sys.exit(main())

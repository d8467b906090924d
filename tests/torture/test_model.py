"""Overlapping requests of a real application against a plain model of the rules.

Hypothesis makes up the interleavings: several requests, with the cookies of one browser of
today and of earlier, load, look, change, flash, log in and out and finish in any order, while
sessions expire under them. After every request the response's cookie, what was reported, and
everything stored in Redis must be what the model says.

The requests are whole ones (see ``tests/support/overlap.py``). ``TORTURE_EXAMPLES`` sets the
number of interleavings; ``.ci/run`` and ``make torture`` set more than the default.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pyramid.interfaces import ISessionFactory

from pyramid_redis_lua_sessions.engine.fields import FLASH_KIND, key_of, order_of
from pyramid_redis_lua_sessions.errors import InvalidSession_ChangesDropped
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.model import CSRF, Cookie, ModelRequest, World, messages_of, values_of
from tests.support.overlap import Driven, Overlap, id_in
from tests.support.waiting import wait_until

pytestmark = pytest.mark.torture

KEYS = st.sampled_from(["a", "b"])
#: Which of the requests under way, or of the sessions so far, counted from the latest.
WHICH = st.integers(0, 3)


class Pair:
    """A real request and its model."""

    def __init__(self, real: Driven, model: ModelRequest) -> None:
        self.real = real
        self.model = model


class Machine(RuleBasedStateMachine):
    """One browser, its cookies of today and of earlier, and requests that overlap."""

    client: Any
    apps: dict[tuple[bool, bool], Overlap]

    @initialize(
        retry=st.booleans(),
        end_if_empty=st.booleans(),
        held=st.sets(st.sampled_from(["a", "list", "flash", "csrf"]), min_size=1),
        loads=st.lists(st.booleans(), min_size=2, max_size=4),
    )
    def set_up(self, retry: bool, end_if_empty: bool, held: set[str], loads: list[bool]) -> None:
        """A session that holds something, and requests that have begun on it."""
        self.client.flushdb()
        self.overlap = self.apps[retry, end_if_empty]
        self.world = World(retry, end_if_empty)
        self.ids: dict[int, str] = {}
        #: Names of sessions to the CSRF tokens that were derived for them.
        self.tokens: dict[int, str] = {}
        #: The model's cookies with the real ones, as the browser got them.
        self.cookies: list[tuple[Cookie, str]] = []
        self.running: list[Pair] = []
        self.number = 0
        self.start(None, None, load=True)
        for what in sorted(held):
            if what == "a":
                self.assign(0, "a")
            elif what == "list":
                self.collect(0)
            elif what == "flash":
                self.flash(0, allow_duplicate=True)
            else:
                self.csrf(0)
        self.finish(0)
        for load in loads:
            self.start(*self.cookies[0], load)

    def teardown(self) -> None:
        if hasattr(self, "running"):
            while self.running:
                self.finish(len(self.running) - 1)  # the oldest: it has overlapped most

    def pick(self, which: int) -> Pair:
        return self.running[-1 - which % len(self.running)]

    def both(self, which: int, method: str, real: Any, *args: Any) -> None:
        """Do the same to the real session and to the model; both must give the same."""
        pair = self.pick(which)
        expected = getattr(pair.model, method)(*args)
        found = pair.real.do(real)
        assert found == expected, f"{method}{args} gave {found!r}, the model says {expected!r}"

    # -- requests ------------------------------------------------------------------

    @precondition(lambda self: len(self.running) < 4)
    @rule(cookie=st.sampled_from(["latest", "latest", "earlier", "none"]), load=st.booleans())
    def begin(self, cookie: str, load: bool) -> None:
        """A request with the browser's cookie, with an older one, or without."""
        if cookie == "none":
            self.start(None, None, load)
        else:
            self.start(*self.cookies[-1 if cookie == "latest" else 0], load)

    def start(self, name: Cookie | None, cookie: str | None, load: bool) -> None:
        self.running.append(Pair(self.overlap.begin(cookie), ModelRequest(self.world, name)))
        if load:
            self.load(0)

    def load(self, which: int) -> None:
        pair = self.pick(which)
        pair.model.load()
        phase = pair.real.do(lambda session: (session.new, session._state.phase.value)[1])
        assert phase == pair.model.phase.value

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
    def finish(self, which: int) -> None:
        pair = self.pick(which)
        self.running.remove(pair)
        expected = pair.model.finish()
        answer = pair.real.finish()
        assert answer.status == (409 if expected.conflict else 200)
        dropped = any(
            isinstance(problem, InvalidSession_ChangesDropped) for problem in pair.real.problems
        )
        assert dropped is expected.dropped
        assert len(answer.cookies) <= 1
        assert answer.deletes is expected.deletes
        assert (answer.cookie is not None) is (expected.cookie is not None)
        if answer.cookie is not None and expected.cookie is not None:
            session_id = id_in(answer.cookie)
            if expected.cookie.token == 0:
                assert session_id not in self.ids.values()
            # Under a new token the session keeps its id.
            assert self.ids.setdefault(expected.cookie.name, session_id) == session_id
            self.cookies.append((expected.cookie, answer.cookie))
        self.compare()

    def compare(self) -> None:
        """Everything in Redis is what the model says, and nothing else lives there."""
        keys: list[bytes] = self.client.keys()
        with self.client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hgetall(key)
            hashes = dict(zip(keys, pipeline.execute(), strict=True))
        found = {
            key.decode().removeprefix("session:"): fields
            for key, fields in hashes.items()
            if b"@" in fields
        }
        expected = {self.ids[name]: data for name, data in self.world.live.items()}
        assert found.keys() == expected.keys()
        for session_id, data in expected.items():
            values, messages = self.opened(session_id, found[session_id])
            assert values == values_of(data)
            assert messages == messages_of(data)

    def opened(self, session_id: str, fields: dict[bytes, bytes]) -> tuple[Any, list[Any]]:
        """Return the values and the messages in a stored hash."""
        factory = self.overlap.registry.getUtility(ISessionFactory)
        plain = factory.sealer.bind(session_id, fields[b"@"][:16]).open_all(fields)
        assert plain is not None, "a seal is broken"
        values, messages = {}, []
        for field in sorted(plain, key=lambda field: order_of(field, fields[field])):
            value = factory.codec.decode(plain[field])
            if field[:1] == FLASH_KIND:
                messages.append(value)
            else:
                values[key_of(field)] = value
        return values, messages

    # -- what views do ---------------------------------------------------------------

    @precondition(lambda self: self.running)
    @rule(which=WHICH, look=st.sampled_from(["get", "has", "keys", "pop_flash"]), key=KEYS)
    def look(self, which: int, look: str, key: str) -> None:
        if look in ("get", "has"):
            getattr(self, look)(which, key)
        else:
            getattr(self, look)(which)

    @precondition(lambda self: self.running)
    @rule(
        which=WHICH,
        change=st.sampled_from(["assign", "count", "count", "delete", "collect", "flash", "csrf"]),
        key=KEYS,
        flag=st.booleans(),
        finish=st.booleans(),
    )
    def change(self, which: int, change: str, key: str, flag: bool, finish: bool) -> None:
        if change in ("assign", "count", "delete"):
            getattr(self, change)(which, key)
        elif change == "flash":
            self.flash(which, flag)
        else:
            getattr(self, change)(which)
        if finish:
            self.finish(which)

    @precondition(lambda self: self.running)
    @rule(which=WHICH, renew=st.booleans(), write=st.booleans(), finish=st.booleans())
    def log_in_or_out(self, which: int, renew: bool, write: bool, finish: bool) -> None:
        if renew:
            self.regenerate(which)
        else:
            self.invalidate(which)
        if write:
            self.assign(which, "a")
        if finish:
            self.finish(which)

    def assign(self, which: int, key: str) -> None:
        self.number += 1
        number = self.number
        self.both(which, "set", lambda session: session.__setitem__(key, number), key, number)

    def count(self, which: int, key: str) -> None:
        """Read, then write: what conflicts in retry mode."""
        self.get(which, key)
        self.assign(which, key)

    def get(self, which: int, key: str) -> None:
        self.both(which, "get", lambda session: session.get(key), key)

    def has(self, which: int, key: str) -> None:
        self.both(which, "has", lambda session: key in session, key)

    def keys(self, which: int) -> None:
        self.both(which, "keys", set)

    def delete(self, which: int, key: str) -> None:
        self.both(which, "delete", _delete(key), key)

    def collect(self, which: int) -> None:
        """Change a list in place."""
        pair = self.pick(which)
        self.number += 1
        number = self.number
        if isinstance(pair.model.get("list"), list):
            pair.model.append("list", number)
            pair.real.do(lambda session: session["list"].append(number))
        else:
            pair.model.set("list", [number])
            pair.real.do(lambda session: session.get("list"))
            pair.real.do(lambda session: session.__setitem__("list", [number]))

    def flash(self, which: int, allow_duplicate: bool) -> None:
        self.number += allow_duplicate
        message = f"message {self.number}"
        self.both(
            which,
            "flash",
            lambda session: session.flash(message, allow_duplicate=allow_duplicate),
            message,
            allow_duplicate,
        )

    def pop_flash(self, which: int) -> None:
        self.both(which, "pop_flash", lambda session: session.pop_flash())

    def csrf(self, which: int) -> None:
        pair = self.pick(which)
        expected = pair.model.get(CSRF)
        token = pair.real.do(lambda session: session.get_csrf_token())
        if pair.model.derives_token():
            assert self.tokens.setdefault(pair.model.cookie or 0, token) == token
        elif expected is None:
            pair.model.set(CSRF, token)
        else:
            assert token == expected
        assert token not in {t for n, t in self.tokens.items() if n != pair.model.cookie}

    def invalidate(self, which: int) -> None:
        self.both(which, "invalidate", lambda session: session.invalidate())

    def regenerate(self, which: int) -> None:
        pair = self.pick(which)
        pair.model.regenerate()
        assert not pair.real.do(lambda session: session.regenerate_id() or CSRF in session)

    # -- what the server does ----------------------------------------------------------

    @precondition(lambda self: self.ids)
    @rule(which=WHICH, evict=st.booleans())
    def expire(self, which: int, evict: bool) -> None:
        """A session, or the marker of one that ended, reaches the end of its life."""
        names = list(self.ids)
        name = names[-1 - which % len(names)]
        key = "session:" + self.ids[name]
        self.world.forget(name)
        if evict:
            self.client.delete(key)
        else:
            self.client.pexpire(key, 1)
            wait_until(lambda: not self.client.exists(key))


def _delete(key: str) -> Callable[[Any], None]:
    def delete(session: Any) -> None:
        try:
            del session[key]  # pop() would read the value
        except KeyError:
            pass

    return delete


EXAMPLES = int(os.environ.get("TORTURE_EXAMPLES", "3000"))
STEPS = 12
#: The examples are shared out to processes, each with a Redis of its own.
PROCESSES = 2


def run_examples(server: RedisServer, examples: int) -> None:
    with server.client() as client:
        apps = {
            (retry, end_if_empty): Overlap(
                server.url,
                on_conflict="retry" if retry else "merge",
                invalidate_empty_session=end_if_empty,
                grace=60,
            )
            for retry in (False, True)
            for end_if_empty in (False, True)
        }
        try:
            machine = type("Machine", (Machine,), {"client": client, "apps": apps})
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=STEPS,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            for overlap in apps.values():
                overlap.__exit__()


def test_overlapping_requests_do_what_the_model_says(redis_binary: str) -> None:
    command = [sys.executable, "-m", "tests.torture.test_model", str(EXAMPLES // PROCESSES)]
    environ = {**os.environ, "REDIS_SERVER": redis_binary}
    runs = [
        subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    # Read all, so that none is left behind when one fails.
    outputs = [run.communicate()[0] for run in runs]
    for run, output in zip(runs, outputs, strict=True):
        assert run.returncode == 0, output


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # every refused cookie would be a line
    with RedisServer() as private_server:
        run_examples(private_server, int(sys.argv[1]))

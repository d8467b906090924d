"""Overlapping requests of a real application against a plain model of the rules.

Hypothesis makes up the interleavings: several requests, with the cookies of one browser of
today and of earlier, load, look, change, flash, log in and out and finish in any order, while
sessions expire under them. After every request the response's cookie, what was reported, and
everything stored in Redis must be what the model says.

The requests are whole ones (see ``tests/support/overlap.py``). ``TORTURE_EXAMPLES`` sets the
number of interleavings; ``make torture`` sets more than the default.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
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

from pyramid_redis_lua_sessions.errors import InvalidSession_ChangesDropped
from pyramid_redis_lua_sessions.serializers import FLASH_KIND, key_of
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.model import CSRF, ModelRequest, Phase, World, messages_of, values_of
from tests.support.overlap import Driven, Overlap, id_in
from tests.support.waiting import wait_until

pytestmark = pytest.mark.torture

KEYS = st.sampled_from(["a", "b"])
#: Which of the requests under way, and which of the cookies, counted from the latest.
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

    @initialize(retry=st.booleans(), end_if_empty=st.booleans(), logged_in=st.booleans())
    def set_up(self, retry: bool, end_if_empty: bool, logged_in: bool) -> None:
        self.client.flushdb()
        self.overlap = self.apps[retry, end_if_empty]
        self.world = World(retry, end_if_empty)
        self.ids: dict[int, str] = {}
        #: Names of the model's sessions with their cookies, as the browser got them.
        self.cookies: list[tuple[int | None, str | None]] = [(None, None)]
        self.running: list[Pair] = []
        self.number = 0
        if logged_in:
            self.begin(0, load=False)
            self.assign(0, "a")
            self.finish(0)

    def teardown(self) -> None:
        if hasattr(self, "running"):
            while self.running:
                self.finish(0)

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
    @rule(which=WHICH, load=st.booleans())
    def begin(self, which: int, load: bool) -> None:
        name, cookie = self.cookies[-1 - which % len(self.cookies)]
        self.running.append(Pair(self.overlap.begin(cookie), ModelRequest(self.world, name)))
        if load:
            self.load(0)

    def load(self, which: int) -> None:
        pair = self.pick(which)
        pair.model.load()
        phase = pair.real.do(lambda session: (session.session_id, session.phase.value)[1])
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
        assert (answer.cookie is not None) is (expected.created is not None)
        if answer.cookie is not None and expected.created is not None:
            session_id = id_in(answer.cookie)
            assert session_id not in self.ids.values()
            self.ids[expected.created] = session_id
            self.cookies.append((expected.created, answer.cookie))
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
            if b"created" in fields
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
        plain = factory.sealer.bind(session_id).open_all(fields)
        assert plain is not None, "a seal is broken"
        values, messages = {}, []
        for field in sorted(plain):
            value = factory.codec.decode(plain[field])
            if field[:1] == FLASH_KIND:
                messages.append(value)
            else:
                values[key_of(field)] = value
        return values, messages

    # -- what views do ---------------------------------------------------------------

    @precondition(lambda self: self.running)
    @rule(which=WHICH, key=KEYS)
    def assign(self, which: int, key: str) -> None:
        self.number += 1
        number = self.number
        self.both(which, "set", lambda session: session.__setitem__(key, number), key, number)

    @precondition(lambda self: self.running)
    @rule(which=WHICH, key=KEYS)
    def get(self, which: int, key: str) -> None:
        self.both(which, "get", lambda session: session.get(key), key)

    @precondition(lambda self: self.running)
    @rule(which=WHICH, key=KEYS)
    def has(self, which: int, key: str) -> None:
        self.both(which, "has", lambda session: key in session, key)

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
    def keys(self, which: int) -> None:
        self.both(which, "keys", set)

    @precondition(lambda self: self.running)
    @rule(which=WHICH, key=KEYS)
    def delete(self, which: int, key: str) -> None:
        self.both(which, "delete", lambda session: session.pop(key, None) and None, key)

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
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

    @precondition(lambda self: self.running)
    @rule(which=WHICH, allow_duplicate=st.booleans())
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

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
    def pop_flash(self, which: int) -> None:
        self.both(which, "pop_flash", lambda session: session.pop_flash())

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
    def csrf(self, which: int) -> None:
        pair = self.pick(which)
        expected = pair.model.get(CSRF)
        token = pair.real.do(lambda session: session.get_csrf_token())
        if expected is None:
            pair.model.set(CSRF, token)
        else:
            assert token == expected

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
    def invalidate(self, which: int) -> None:
        self.both(which, "invalidate", lambda session: session.invalidate())

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
    def regenerate(self, which: int) -> None:
        pair = self.pick(which)
        token = pair.real.do(_regenerate)
        had = pair.model.held.get(CSRF) if pair.model.phase is not Phase.UNREAD else None
        pair.model.regenerate(token)
        if had is not None:
            assert token not in (None, had)
            assert pair.model.held[CSRF] == token

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


def _regenerate(session: Any) -> Any:
    session.regenerate_id()
    if CSRF in session:
        return session[CSRF]
    return None


EXAMPLES = int(os.environ.get("TORTURE_EXAMPLES", "10000"))
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

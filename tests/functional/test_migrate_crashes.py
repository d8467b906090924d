"""Moving in when something goes wrong at any step: nothing is lost, and gone means gone."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyramid_redis_lua_sessions.engine.protocol import NO_LIFETIME
from pyramid_redis_lua_sessions.engine.scripts import Status
from pyramid_redis_lua_sessions.errors import StoreUnavailable
from pyramid_redis_lua_sessions.migrate import OLD_KEY_FIELD, moves
from pyramid_redis_lua_sessions.migrate.foreign import create_under
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import Browser, Reports
from tests.support.predecessors import SECRET
from tests.support.waiting import wait_until

from .test_migrate import (
    come_back,
    edit,
    forget_markers,
    moving,
    new_keys,
    old_keys,
    psr,
    servers,
)

__all__ = ["psr", "servers"]  # fixtures

#: What a connection sends when it is made.
HANDSHAKE = (b"HELLO", b"CLIENT", b"AUTH", b"SELECT", b"PING", b"SCRIPT")


class SteppingConnection(redis.Connection):
    """A connection that tells a test before and after whatever it sends.

    :param step: called with ``"before"`` and ``"after"``; the reply is read after both.
    """

    def __init__(self, *, step: Callable[[str], object], **options: Any) -> None:
        super().__init__(**options)
        self._step = step

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        packed = command if isinstance(command, bytes) else b"".join(command)
        counts = not any(b"\r\n%s\r\n" % word in packed[:40] for word in HANDSHAKE)
        if counts:
            self._step("before")
        super().send_packed_command(command, check_health)
        if counts:
            self._step("after")


def stepping(server: RedisServer, step: Callable[[str], object], **options: Any) -> Browser:
    """A user of the application over such connections."""
    pool = redis.ConnectionPool(
        connection_class=SteppingConnection,
        port=server.port,
        retry=Retry(NoBackoff(), 1),
        step=step,
    )
    return moving(server.url, connection_pool=pool, **options)


def in_a_process_of_its_own(function: Callable[[], object]) -> int:
    """Run a function in a fork; return its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


DEAD = 77


class Death:
    """Kills the process before something is sent for the n-th time, or just after."""

    def __init__(self, number: int, when: str) -> None:
        self.number = number
        self.when = when
        self.count = 0

    def __call__(self, when: str) -> None:
        if when == self.when:
            self.count += 1
            if self.count == self.number:
                os._exit(DEAD)


def let_the_server_catch_up(client: redis.Redis) -> None:
    """What a dead process has sent is served before what is sent on later connections."""
    client.ping()


def remembers(client: redis.Redis) -> bool:
    """Whether each new session remembers the old key, as long as that is there."""
    there = set(old_keys(client))
    return {client.hget(key, OLD_KEY_FIELD) for key in new_keys(client)} >= there  # type: ignore


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("logs_out", [False, True])
def test_process_that_dies_at_any_step_loses_nothing(
    when: str, logs_out: bool, psr: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    died = 0
    for number in range(1, 30):
        redis_client.flushdb()
        old = psr()
        old.do("session['user'] = 'Ann'; session['cart'] = [1, 2]")
        death = Death(number, when)
        dying = stepping(redis_server, death)
        status = in_a_process_of_its_own(lambda dying=dying, old=old: come_back(dying, old))
        if status == 0:
            break
        assert status == DEAD
        died += 1
        let_the_server_catch_up(redis_client)
        assert len(old_keys(redis_client)) + len(new_keys(redis_client)) >= 1
        if new_keys(redis_client) and old_keys(redis_client):
            assert remembers(redis_client)

        new = moving(redis_server.url)
        if not logs_out:
            assert come_back(new, old) == {"user": "Ann", "cart": [1, 2]}
            assert len(new_keys(redis_client)) == 1
            assert old_keys(redis_client) == []
            assert not redis_client.hexists(new.key, OLD_KEY_FIELD)
            assert redis_client.ttl(new.key) > 1190
            new.use(lambda session: session.invalidate())
        else:
            come_back(new, old, lambda session: session.invalidate())
        # What the dead process was about to do cannot bring the session back.
        assert come_back(new.another(), old) == {}
        forget_markers(redis_client)
        assert come_back(new.another(), old) == {}
        assert redis_client.keys() == []
    assert died == 6  # the steps that test_migrate counts


def test_new_session_that_nobody_gave_its_life_is_not_trusted(
    psr: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    """Where the process dies between the two, it lives for half a minute only, so the old
    session must not be deleted on its account."""
    old = psr()
    old.do("session['a'] = 1")
    new = moving(redis_server.url)
    migration, store = new.factory.migration, new.factory.store_for(None)
    (key,) = old_keys(redis_client)
    token = migration.token(key.decode(), SECRET.encode())
    now, _ = redis_client.time()
    made, _ = create_under(
        store, token, {OLD_KEY_FIELD: key}, NO_LIFETIME, now * 1000, (now + 30) * 1000, 0
    )
    redis_client.pexpire(f"session:{token.locator}", 1)
    wait_until(lambda: not redis_client.exists(f"session:{token.locator}"))
    assert made is Status.CREATED
    assert come_back(new, old) == {"a": 1}
    assert redis_client.ttl(new.key) > 1190


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("attempts", [1, 2])
def test_redis_that_fails_at_any_step_loses_nothing(
    heard: bool, attempts: int, psr: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    """``attempts``: how many calls fail; the client repeats a call once."""
    failed = healed = 0
    for number in range(1, 30):
        redis_client.flushdb()
        old = psr()
        old.do("session['user'] = 'Ann'")
        left = {"before": number, "after": number}

        def step(when: str, left: dict[str, int] = left) -> None:
            left[when] -= 1
            if when == ("after" if heard else "before") and 0 >= left[when] > -attempts:
                raise redis.ConnectionError("lost")

        new = stepping(redis_server, step)
        try:
            assert come_back(new, old) == {"user": "Ann"}
            healed += 1
        except StoreUnavailable:
            failed += 1
        was_reached = left["before"] <= 0
        left.update(before=99, after=99)
        # Wherever it failed, the next request finds everything.
        assert come_back(new, old) == {"user": "Ann"}
        assert len(new_keys(redis_client)) == 1
        assert old_keys(redis_client) == []
        new.use(lambda session: session.invalidate())
        forget_markers(redis_client)
        assert come_back(new.another(), old) == {}
        if not was_reached:
            break
    # The last round had nothing to fail any more; and where only the look before the
    # cookie is sent failed, the page is not lost for it.
    assert (healed, failed) == ((7, 0) if attempts == 1 else (2, 5))


def test_exception_view_does_not_take_the_user_for_a_new_one(
    psr: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    """A first look that failed is followed by a second one, in the same request."""
    old = psr()
    old.do("session['user'] = 'Ann'")
    failures = [redis.ConnectionError("lost")] * 2

    def step(when: str) -> None:
        if failures:
            raise failures.pop()

    new = stepping(redis_server, step)

    def view(session: Any) -> Any:
        with pytest.raises(StoreUnavailable):
            session.get("user")
        return session.get("user")

    assert come_back(new, old, view) == "Ann"
    assert new.use(dict) == {"user": "Ann"}


def test_page_stays_up_without_redis_and_the_session_moves_later(
    psr: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    """With ``on_redis_error = ephemeral``."""
    for number in range(1, 6):
        redis_client.flushdb()
        old = psr()
        old.do("session['user'] = 'Ann'")
        count = [number]

        def step(when: str, count: list[int] = count) -> None:
            count[0] -= when == "before"
            if count[0] <= 0:
                raise redis.ConnectionError("lost")

        reports = Reports()
        new = stepping(redis_server, step, on_redis_error="ephemeral", func_invalid_logger=reports)
        assert come_back(new, old, lambda s: (dict(s), s.update(a=1), dict(s))[::2]) == (
            {},
            {"a": 1},
        )
        assert "Set-Cookie" not in new.response.headers
        assert "InvalidSession_StoreUnavailable" in reports.kinds
        count[0] = 99
        assert come_back(new, old) == {"user": "Ann"}


# -- a request that is delayed --------------------------------------------------------


class Pause:
    """Holds one request before something is sent for the n-th time."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.reached = threading.Event()
        self.resume = threading.Event()

    def __call__(self, when: str) -> None:
        if when == "before":
            self.left -= 1
            if self.left == 0:
                self.reached.set()
                assert self.resume.wait(20)


@pytest.mark.parametrize("ends", ["invalidate", "regenerate_id"])
@pytest.mark.parametrize("number", range(1, 7))
def test_delayed_request_does_not_bring_a_session_back(
    number: int,
    ends: str,
    psr: Any,
    redis_server: RedisServer,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not while the marker is there, and not when the marker has been forgotten."""
    for forgotten in (False, True):
        redis_client.flushdb()
        monkeypatch.setattr(moves, "PATIENCE_MS", 30 if forgotten else 30_000)
        old = psr()
        old.do("session['user'] = 'Ann'")
        pause = Pause(number)
        slow = stepping(redis_server, pause)
        seen: list[Any] = []
        thread = threading.Thread(
            target=lambda slow=slow, old=old, seen=seen: seen.append(come_back(slow, old))
        )
        thread.start()
        assert pause.reached.wait(20)
        monkeypatch.setattr(moves, "PATIENCE_MS", 30_000)
        fast = moving(redis_server.url)
        come_back(fast, old, lambda session: getattr(session, ends)())
        if forgotten:
            forget_markers(redis_client)
            later = time.monotonic() + 0.05
            wait_until(lambda later=later: time.monotonic() > later)
        pause.resume.set()
        thread.join()
        # The last step asks only whether the cookie may be sent: it has read before the end.
        assert seen == [{"user": "Ann"}] if number == 6 else [{}]
        forget_markers(redis_client)
        assert come_back(fast.another(), old) == {}
        assert len(new_keys(redis_client)) == (1 if ends == "regenerate_id" else 0)
        assert "Set-Cookie" not in slow.response.headers


def test_session_revoked_before_its_old_key_was_deleted_names_that_key(
    psr: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    """So whoever ends sessions behind the application's back can delete it first."""
    old = psr()
    old.do("session['user'] = 'Ann'")
    (key,) = old_keys(redis_client)
    dying = stepping(redis_server, Death(3, "before"))
    assert in_a_process_of_its_own(lambda: come_back(dying, old)) == DEAD
    (new_key,) = new_keys(redis_client)
    assert redis_client.hget(new_key, OLD_KEY_FIELD) == key == old_keys(redis_client)[0]


def test_session_that_has_ended_takes_its_old_key_along(
    psr: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    """Even one that was ended behind the application's back, with the old key still there."""
    old = psr()
    old.do("session['user'] = 'Ann'")
    dying = stepping(redis_server, Death(3, "before"))
    assert in_a_process_of_its_own(lambda: come_back(dying, old)) == DEAD
    new = moving(redis_server.url)
    (key,) = old_keys(redis_client)
    new.factory.store_for(None).end(new.factory.migration.token(key.decode(), SECRET.encode()))
    assert come_back(new, old) == {}
    assert old_keys(redis_client) == []
    forget_markers(redis_client)
    assert come_back(new, old) == {}


def test_old_session_that_expires_while_it_moves_is_over(
    psr: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    old = psr()
    old.do("session['user'] = 'Ann'")
    edit(redis_client, lambda payload: payload.update(x=None))
    redis_client.pexpire(old_keys(redis_client)[0], 40)
    pause = Pause(2)
    slow = stepping(redis_server, pause)
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(come_back(slow, old)))
    thread.start()
    assert pause.reached.wait(20)
    wait_until(lambda: not old_keys(redis_client))
    pause.resume.set()
    thread.join()
    assert seen == [{}]
    assert redis_client.keys() == []


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("number", range(4))
def test_move_that_was_cut_off_is_finished_while_a_secret_is_added(
    number: int, ended: bool, psr: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    """Some processes have the new secret already, and some not yet."""
    old = psr()
    old.do("session['user'] = 'Ann'")
    newer = [SECRET, f"a newer secret of over 32 bytes, {number}"]
    dying = stepping(redis_server, Death(3, "before"), secret=newer)
    assert in_a_process_of_its_own(lambda: come_back(dying, old)) == DEAD
    (key,), (new_key,) = old_keys(redis_client), new_keys(redis_client)
    others = moving(redis_server.url)
    if ended:
        others.factory.store_for(None).end_all([new_key.decode().removeprefix("session:")])
    found = {} if ended else {"user": "Ann"}
    assert come_back(others, old) == found
    assert redis_client.exists(key) == 0
    forget_markers(redis_client)
    assert come_back(moving(redis_server.url, secret=newer), old) == found
    assert new_keys(redis_client) == ([] if ended else [new_key])


def test_new_id_cannot_be_told_without_the_secret(redis_url: str) -> None:
    migration = moving(redis_url).factory.migration
    tokens = [migration.token("an old id", secret) for secret in (b"", b"one", b"other")]
    assert len({token.locator for token in tokens}) == len({t.verifier for t in tokens}) == 3

"""Users of one application, at work while Redis is moved, fails over, or dies.

What a request has acknowledged may be lost in a failover, as Redis replicates asynchronously.
So a test asks Redis itself, with WAIT, whether its replicas have what was acknowledged: what they
have must never be missing again.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from pyramid_redis_lua_sessions.errors import StoreUnavailable
from tests.support.browser import Browser, make_browser
from tests.support.waiting import wait_until

#: Writes to a session until its user logs out.
WRITES = 30


def reading(session: Any) -> set[str]:
    return set(session)


class Load:
    """Users at work in threads of their own, as a context manager.

    They read and write, log in and log out. The application has one client, as in production.

    :param confirm: ``(key) -> bool``: whether the replicas have what was acknowledged for it.
    :ivar violations: what must not happen: should be empty.
    :ivar errors: how many requests failed.
    :ivar slowest: seconds that the slowest request took.
    """

    def __init__(
        self, url: str, confirm: Callable[[str], bool], users: int = 8, **settings: Any
    ) -> None:
        self.browser = make_browser(url, **settings)
        self.confirm = confirm
        self.violations: list[str] = []
        self.errors = 0
        self.slowest = 0.0
        self.done = [0] * users
        self.confirmed = 0
        self.logins = 0
        self._ended: list[Browser] = []
        self._left: list[tuple[Browser, set[str]]] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True)
            for number in range(users)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for_more(self, requests: int = 20, timeout: float = 20.0) -> None:
        """Wait until every user was served so many times again."""
        goal = [done + requests for done in self.done]
        wait_until(
            lambda: (
                bool(self.violations)
                or all(done >= wanted for done, wanted in zip(self.done, goal, strict=True))
            ),
            timeout,
        )

    def check(self) -> None:
        """After the load: assert that nothing is missing, and nothing came back."""
        assert not any(thread.is_alive() for thread in self._threads)
        assert self.violations == []
        for user, keys in self._left:
            assert keys <= user.use(reading)
        for user in self._ended:
            assert user.use(reading) == set(), "a session that had ended is there again"
        # Else this has not seen anything.
        assert self.confirmed > 100
        assert self.logins > 10
        assert len(self._ended) > 10

    # -- one user ----------------------------------------------------------------

    def _work(self, number: int) -> None:
        user, kept = self.browser.another(), set()
        step = 0
        try:
            while not self._stop.is_set():
                step += 1
                if step % WRITES == 0:
                    user, kept = self._log_out(user, kept)
                elif step % 7 == 3:
                    user, kept = self._log_in(user, kept, f"login {step}")
                elif step % 3 == 0:
                    self._read(user, kept)
                else:
                    self._write(user, kept, f"write {step}")
                self.done[number] += 1
        except Exception as exc:  # a thread's error would be lost
            self.violations.append("".join(traceback.format_exception(exc)))
        self._left.append((user, kept))

    def _request(self, user: Browser, act: Callable[[Any], Any], kept: set[str]) -> bool:
        """Make one request; return whether it was acknowledged."""
        seen: list[set[str]] = []

        def view(session: Any) -> None:
            seen.append(reading(session))
            act(session)

        start = time.monotonic()
        try:
            user.use(view, status="*")
            served = user.response.status_int == 200
        except StoreUnavailable:
            served = False
        finally:
            with self._lock:
                self.slowest = max(self.slowest, time.monotonic() - start)
            if seen and not kept <= seen[0]:
                self.violations.append(f"missing: {sorted(kept - seen[0])[:3]}, of {len(kept)}")
        with self._lock:
            self.errors += not served
        return served

    def _confirmed(self, key: str) -> bool:
        sure = self.confirm(key)
        with self._lock:
            self.confirmed += sure
        return sure

    def _read(self, user: Browser, kept: set[str]) -> None:
        self._request(user, lambda session: None, kept)

    def _write(self, user: Browser, kept: set[str], name: str) -> None:
        act = lambda session: session.__setitem__(name, name)  # noqa: E731
        if self._request(user, act, kept) and self._confirmed(user.key):
            kept.add(name)

    def _log_in(self, user: Browser, kept: set[str], name: str) -> tuple[Browser, set[str]]:
        before = user.copy() if user.session_id else None

        def act(session: Any) -> None:
            session.regenerate_id()
            session[name] = name

        if not self._request(user, act, kept) or not self._confirmed(user.key):
            # Nobody can say which of the ids lives: this user starts anew.
            return user.another(), set()
        with self._lock:
            self.logins += 1
        if before is not None and self._confirmed(before.key):
            self._ended.append(before)
        return user, kept | {name}

    def _log_out(self, user: Browser, kept: set[str]) -> tuple[Browser, set[str]]:
        before = user.copy() if user.session_id else None
        act = lambda session: session.invalidate()  # noqa: E731
        if self._request(user, act, kept) and before is not None and self._confirmed(before.key):
            self._ended.append(before)
        return user.another(), set()

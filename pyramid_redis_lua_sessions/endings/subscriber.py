"""Listens for endings, in one thread a process, as long as somebody watches a session.

Each session has a channel, which is named as its key. A message says that it has ended. That it
has is asked for, with one ``describe_session``: after each message, which anybody may have
published; at first, when the channel is subscribed to; after a connection was lost; when the
session would expire; and now and then. So no keyspace notifications are needed, which a hosted
Redis may forbid.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import os
import random
import re
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError, NoPermissionError, RedisError, ResponseError

from ..connect.pools import socket_of
from ..engine.protocol import Absent
from ..engine.scripts import Status
from ..engine.store import Store
from ..errors import fingerprint
from ..factory import RedisSessionFactory

__all__ = ["Ending", "Subscriber", "Watch", "subscriber_of"]

log = logging.getLogger(__name__.partition(".")[0])

#: Seconds after which a session is asked for at the latest: its life may have been cut short.
ASK_AGAIN = 30.0

#: Seconds between two looks at a session that is about to end.
MOMENT = 0.02

#: Seconds of silence after which a connection is tried, and after which it is given up.
QUIET, LOST = 10.0, 15.0

#: Seconds after which who may not subscribe tries again: somebody may have given him the right.
DEAF = 300.0

#: Seconds between two attempts to connect, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0

#: Channels in one command.
TOGETHER = 500


class Ending(NamedTuple):
    """A session has ended.

    :ivar fingerprint: the short one-way name of its id.
    :ivar owner: digest of its owner, as ``owner_digest()`` returns it; ``""`` where it had
        none, or that is not known: of one that expired, whose end was set to now, or whose
        message was missed. It is what was published: who may do that can name somebody else.
    :ivar reason: ``ended``: the application ended it; ``expired``: nothing of it is left.
    """

    fingerprint: str
    owner: str
    reason: str


class Watch:
    """Somebody who is told when a session ends.

    :ivar fingerprint: of the session.
    """

    def __init__(
        self, subscriber: Subscriber, locator: str, tell: Callable[[Ending], object]
    ) -> None:
        self.fingerprint = fingerprint(locator)
        self._subscriber = subscriber
        self._locator = locator
        self._tell = tell

    def cancel(self) -> None:
        """Be told no more; once, or any number of times, from any thread."""
        self._subscriber.cancel(self, self._locator)

    def told(self, ending: Ending) -> None:
        try:
            self._tell(ending)
        except BaseException:  # also SystemExit: others are to be told, now and later
            log.exception("an ending could not be told")


class Channel:
    """A session that is watched, by one or several.

    :ivar due: when it is to be asked for, by the monotonic clock.
    :ivar news: the owner in a message that it has ended; ``None``: there was none.
    """

    def __init__(self, locator: str) -> None:
        self.locator = locator
        self.fingerprint = fingerprint(locator)
        self.watches: set[Watch] = set()
        self.due = 0.0
        self.news: str | None = None


_subscribers: WeakKeyDictionary[RedisSessionFactory, dict[int, Subscriber]] = WeakKeyDictionary()


def subscriber_of(factory: RedisSessionFactory) -> Subscriber:
    """Return what listens for a factory's sessions in this process."""
    # A process that was forked off has neither the threads nor the connections of the other one.
    return _subscribers.setdefault(factory, {}).setdefault(os.getpid(), Subscriber(factory))


class Subscriber:
    """Listens for the sessions of a factory."""

    def __init__(self, factory: RedisSessionFactory) -> None:
        self.factory = factory
        self._lock = threading.Lock()
        #: What is watched, by the session's key.
        self._channels: dict[bytes, Channel] = {}
        #: Keys to subscribe to, and to unsubscribe from: by other threads for the one that listens.
        self._joined: deque[bytes] = deque()
        self._left: deque[bytes] = deque()
        self._wake: socket.socket | None = None
        self._key = factory.key_of

    def watch(self, locator: str, tell: Callable[[Ending], object]) -> Watch:
        """Have somebody told when a session ends; it never waits for Redis.

        :raises RuntimeError: no thread can be started; ``OSError``: nor a socket be made.
        """
        watch, key = Watch(self, locator, tell), self._key(locator)
        with self._lock:
            if self._wake is None:
                self._wake = self._start()  # it waits for the lock
            channel = self._channels.get(key)
            if channel is None:
                channel = self._channels[key] = Channel(locator)
                self._joined.append(key)
            channel.watches.add(watch)
            self._wake_up()
        return watch

    def _start(self) -> socket.socket:
        """Start the thread; return what wakes it up."""
        ours, theirs = socket.socketpair()
        try:
            for end in (ours, theirs):
                end.setblocking(False)
            thread = threading.Thread(
                target=self._run, args=(theirs,), name="session endings", daemon=True
            )
            thread.start()
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return ours

    def watched(self, locator: str) -> int:
        """Tell how many watch a session."""
        with self._lock:
            channel = self._channels.get(self._key(locator))
            return 0 if channel is None else len(channel.watches)

    def cancel(self, watch: Watch, locator: str) -> None:
        key = self._key(locator)
        with self._lock:
            channel = self._channels.get(key)
            if channel is None or watch not in channel.watches:
                return
            channel.watches.discard(watch)
            if not channel.watches:
                self._forget(key)

    def _forget(self, key: bytes) -> None:
        """Listen for a session no more; the lock is held."""
        del self._channels[key]
        self._left.append(key)
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None:
            try:
                self._wake.send(b"\0")
            except BlockingIOError:
                pass  # it has enough to wake up for

    # -- the thread --------------------------------------------------------------------

    def _run(self, wake: socket.socket) -> None:
        failures = 0
        while True:
            with self._lock:
                if not self._channels:
                    cast("socket.socket", self._wake).close()
                    self._wake = None
                    wake.close()
                    return
                self._left.clear()
                self._joined = deque(self._channels)
            began = time.monotonic()
            try:
                with Listening(self, wake) as listening:
                    listening.run()
            except Exception as exc:
                if time.monotonic() - began > LOST:
                    failures = 0  # it went well for some time
                if not failures:
                    log.warning(
                        "endings of sessions are not heard at present (%s) [docs: endings]",
                        type(exc).__name__,
                    )
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 20))
                failures += 1
                # Not all processes at once; and nobody watches any more, say.
                _wait(wake, pause * random.uniform(0.5, 1.0), self.is_deserted)

    def take_joined(self) -> list[bytes]:
        with self._lock:
            joined, self._joined = self._joined, deque()
            return [key for key in dict.fromkeys(joined) if key in self._channels]

    def take_left(self) -> list[bytes]:
        with self._lock:
            left, self._left = self._left, deque()
            # What is watched anew is subscribed to again.
            return [key for key in dict.fromkeys(left) if key not in self._channels]

    def channel(self, key: bytes) -> Channel | None:
        return self._channels.get(key)

    def is_deserted(self) -> bool:
        """Nobody watches anything."""
        with self._lock:
            return not self._channels

    def tell(self, key: bytes, channel: Channel, owner: str, reason: str) -> None:
        """The session has ended."""
        with self._lock:
            if self._channels.get(key) is not channel:
                return
            self._forget(key)
            watches = list(channel.watches)
        for watch in watches:
            watch.told(Ending(channel.fingerprint, owner, reason))


def _wait(wake: socket.socket, seconds: float, ends: Callable[[], bool]) -> None:
    """Wait; not with a selector, which takes a descriptor: it may be that there is none left."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not ends():
        wake.settimeout(left)
        try:
            wake.recv(4096)
        except TimeoutError:
            pass
    wake.setblocking(False)


def _drain(wake: socket.socket) -> None:
    try:
        while wake.recv(4096):
            pass
    except BlockingIOError:
        pass


class Link:
    """A connection to a node, which hears.

    :ivar leaving: of keys how often they were unsubscribed from, and that was not answered yet;
        else a node does so that has them no more.
    """

    def __init__(self, client: Any) -> None:
        self.pubsub = client.pubsub()
        self.sharded = True
        self.keys: set[bytes] = set()
        self.leaving = Counter[bytes]()
        self.heard = time.monotonic()
        self.tried = False
        self.socket: Any = None

    def subscribe(self, keys: Iterable[bytes], together: int) -> None:
        """Send it; what comes of it is heard later."""
        keys = list(keys)
        self.keys.update(keys)
        send = self.pubsub.ssubscribe if self.sharded else self.pubsub.subscribe
        for start in range(0, len(keys), together):
            send(*keys[start : start + together])

    def unsubscribe(self, keys: Iterable[bytes], together: int) -> None:
        keys = [key for key in keys if key in self.keys]
        self.keys.difference_update(keys)
        self.leaving.update(keys)
        send = self.pubsub.sunsubscribe if self.sharded else self.pubsub.unsubscribe
        for start in range(0, len(keys), together):
            send(*keys[start : start + together])


class Listening:
    """Listens, until a connection is lost; a context manager."""

    def __init__(self, subscriber: Subscriber, wake: socket.socket) -> None:
        self._subscriber = subscriber
        self._wake = wake
        self._store: Store = subscriber.factory.separate_store()
        self._own_client = subscriber.factory.settings.redis_client_callable is None
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake, selectors.EVENT_READ)
        self._links: dict[str, Link] = {}
        self._is_cluster = isinstance(self._store.client, RedisCluster)
        # Channels of several slots do not travel in one command.
        self._together = 1 if self._is_cluster else TOGETHER
        #: When to ask for which: (when, a number, key, channel).
        self._due: list[tuple[float, int, bytes, Channel]] = []
        self._numbers = itertools.count()
        self._may_listen = True
        #: When to begin anew, and for want of what.
        self._until = math.inf
        self._missing: Exception | None = None

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for link in self._links.values():
            link.pubsub.close()
        if self._own_client:
            self._store.client.close()

    def run(self) -> None:
        """Return when nobody watches any more, or it is time to try anew.

        :raises Exception: of any kind, where it cannot go on.
        """
        while not self._subscriber.is_deserted():
            if time.monotonic() >= self._until:
                if self._missing is not None:
                    raise self._missing
                return
            left, joined = self._subscriber.take_left(), self._subscriber.take_joined()
            self._leave(left)
            self._join(joined)
            self._ask()
            self._try_links()
            for ready, _ in self._selector.select(self._patience()):
                if ready.fileobj is self._wake:
                    _drain(self._wake)
            for link in list(self._links.values()):
                if self._may_listen:
                    self._hear(link)

    def _by_node(self, keys: Iterable[bytes]) -> dict[str, list[bytes]]:
        """Return the keys by the name of their node; ``""`` where there is one."""
        if not self._is_cluster:
            return {"": list(keys)}
        cluster, found = cast("Any", self._store.client), dict[str, list[bytes]]()
        for key in keys:
            found.setdefault(cluster.get_node_from_key(key).name, []).append(key)
        return found

    def _leave(self, keys: list[bytes]) -> None:
        for name, some in self._by_node(keys).items():
            link = self._links.get(name)
            if link is not None:
                link.unsubscribe(some, self._together)
                if not link.keys:
                    self._drop(name)

    def _drop(self, name: str) -> None:
        link = self._links.pop(name)
        self._selector.unregister(link.socket)
        link.pubsub.close()

    def _join(self, keys: list[bytes]) -> None:
        if not self._may_listen:
            for key in keys:
                self._ask_at(key, 0.0)
            return
        for name, some in self._by_node(keys).items():
            if not some:
                continue
            if name in self._links:
                self._links[name].subscribe(some, self._together)
                continue
            link = Link(self._client_of(name))
            try:
                link.subscribe(some, self._together)
            except (RedisError, OSError) as exc:
                link.pubsub.close()
                if not self._is_cluster:
                    raise
                # A shard that is lost does not take the others with it: these are heard.
                self._until, self._missing = time.monotonic() + QUIET, exc
                continue
            self._links[name] = link
            link.socket = socket_of(link.pubsub.connection)
            self._selector.register(link.socket, selectors.EVENT_READ)

    def _client_of(self, name: str) -> Any:
        if not self._is_cluster:
            return self._store.client
        cluster = cast("Any", self._store.client)
        return cluster.get_redis_connection(cluster.get_node(node_name=name))

    # -- messages ------------------------------------------------------------------------

    def _hear(self, link: Link) -> None:
        while True:
            try:
                message = link.pubsub.get_message(timeout=0)
            except NoPermissionError:
                self._go_deaf()
                return
            except ResponseError as exc:
                if "unknown command" not in str(exc).lower():
                    raise
                if link.sharded:  # before Redis 7.0; else an answer to what was sent before that
                    link.sharded = False
                    link.leaving.clear()
                    keys, link.keys = link.keys, set()
                    link.subscribe(keys, self._together)
                continue
            if socket_of(link.pubsub.connection) is not link.socket:
                raise ConnectionError("the connection was made anew")
            if message is None:
                return
            link.heard, link.tried = time.monotonic(), False
            self._understand(link, message)

    def _go_deaf(self) -> None:
        """The user of Redis may not subscribe: ask, and ask again."""
        self._may_listen = False
        self._until = time.monotonic() + DEAF
        log.warning(
            "the user of Redis may not subscribe to the channels of sessions: endings are "
            "noticed up to %g s late [docs: endings]",
            ASK_AGAIN,
        )
        for name, link in list(self._links.items()):
            for key in link.keys:
                self._ask_at(key, 0.0)
            self._drop(name)

    def _understand(self, link: Link, message: dict[str, Any]) -> None:
        kind, key = message["type"], _bytes(message["channel"])
        if kind in ("subscribe", "ssubscribe"):
            self._ask_at(key, 0.0)  # it may have ended before
        elif kind in ("unsubscribe", "sunsubscribe"):
            unanswered = link.leaving.pop(key, 0)
            if not unanswered:
                raise ConnectionError("a slot has moved to another node")
            if unanswered > 1:
                link.leaving[key] = unanswered - 1
        elif kind in ("message", "smessage"):
            channel = self._subscriber.channel(key)
            name, _, owner = _bytes(message["data"]).decode("latin-1").partition(" ")
            if channel is not None and name == channel.fingerprint:
                channel.news = owner if re.fullmatch("[0-9a-f]{32}", owner) else ""
                self._ask_at(key, 0.0)

    def _try_links(self) -> None:
        now = time.monotonic()
        for link in self._links.values():
            if now - link.heard > LOST:
                raise ConnectionError("nothing is heard any more")
            if now - link.heard > QUIET and not link.tried:
                link.tried = True
                link.pubsub.ping()

    # -- questions -------------------------------------------------------------------------

    def _ask_at(self, key: bytes, when: float) -> None:
        channel = self._subscriber.channel(key)
        if channel is not None:
            channel.due = when
            heapq.heappush(self._due, (when, next(self._numbers), key, channel))

    def _ask(self) -> None:
        """Ask for the sessions whose time has come."""
        due: dict[bytes, Channel] = {}
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            when, _, key, channel = heapq.heappop(self._due)
            if self._subscriber.channel(key) is channel and channel.due == when:
                due[key] = channel
        described = self._store.describe([channel.locator for channel in due.values()])
        now = time.monotonic()
        for (key, channel), known in zip(due.items(), described, strict=True):
            news, channel.news = channel.news, None
            if isinstance(known, Absent):
                ended = known.status is Status.MOVED or news is not None
                self._subscriber.tell(key, channel, news or "", "ended" if ended else "expired")
                continue
            left = ASK_AGAIN if known.remaining_ms < 0 else known.remaining_ms / 1000 + MOMENT
            self._ask_at(key, now + min(left, ASK_AGAIN))

    def _patience(self) -> float:
        """Return how long nothing is to be done, seconds."""
        now = time.monotonic()
        moments = [self._until, *[due for due, *_ in self._due[:1]]]
        for link in self._links.values():
            moments.append(link.heard + (LOST if link.tried else QUIET))
        return max(0.0, min(*moments, now + QUIET) - now)


def _bytes(data: Any) -> bytes:
    """Return what a client that decodes has decoded."""
    if isinstance(data, str):
        return data.encode("utf-8", "surrogateescape")
    return data if isinstance(data, bytes) else b""

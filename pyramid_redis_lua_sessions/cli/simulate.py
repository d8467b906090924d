"""``redis-lua-sessions simulate``: load, to see what a deployment can take.

Every worker is a process that serves requests of a small Pyramid application,
one after the other, as a worker of a web server does. Its sessions have a
prefix of their own, and are deleted in the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import multiprocessing
import random
import signal
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from redis.exceptions import RedisClusterException, RedisError

from ..census import SIMULATED, primaries
from ..engine.protocol import encoded
from ..errors import SessionError
from ..factory import RedisSessionFactory
from ..tween import session_tween_factory
from .console import Console, RedisFailure, UsageError, plural
from .server_checks import Node
from .stats import percentile
from .target import Target, connected

__all__ = ["add_to", "simulate"]

#: Longest run, seconds.
LONGEST = 3600.0

#: Most bytes of a value; Redis itself takes half a gigabyte.
LARGEST = 100_000_000

#: Seconds that a worker waits for the others to be ready, and may then take to
#: delete its sessions.
LEAVE_SECONDS = 60.0

#: They are for the command alone, which tells the workers by closing their pipes.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: What is measured, by what it is called.
KINDS = {
    "new": "new session",
    "read": "read",
    "write": "read and write",
}


class Outcome(NamedTuple):
    """What one worker did.

    :ivar times: seconds that each request took, by its kind.
    :ivar errors: what requests failed with, to how many.
    :ivar failure: why it could not begin.
    """

    times: Mapping[str, Sequence[float]]
    errors: Mapping[str, int]
    failure: str | None = None


def add_to(commands: Any, target: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "simulate",
        parents=[target],
        help="put load on this Redis, and measure",
        description="Serve requests of a small application that read and write their sessions, "
        "in several processes, for a bounded time, and print throughput and latency. The sessions "
        "have a prefix of their own, and are deleted in the end. This is load: run it beside live "
        "traffic only if you want to know what they do to each other.",
    )
    command.add_argument(
        "--workers", type=int, default=4, metavar="N", help="processes (default: 4)"
    )
    command.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="how long (default: 10)"
    )
    command.add_argument(
        "--sessions", type=int, default=100, metavar="N", help="of each worker (default: 100)"
    )
    command.add_argument(
        "--writes",
        type=int,
        default=20,
        metavar="PERCENT",
        help="how many of the requests change their session (default: 20)",
    )
    command.add_argument(
        "--bytes", type=int, default=200, metavar="N", help="size of a value (default: 200)"
    )
    command.set_defaults(command=simulate)


def simulate(console: Console, args: argparse.Namespace) -> int:
    if not 0 < args.seconds <= LONGEST:
        raise UsageError(f"--seconds must be more than 0, and at most {LONGEST:.0f}")
    if not (args.workers > 0 and args.sessions > 0):
        raise UsageError("--workers and --sessions must be 1 or more")
    if not 0 <= args.bytes <= LARGEST:
        raise UsageError(f"--bytes must be from 0 to {LARGEST}")
    if not 0 <= args.writes <= 100:
        raise UsageError("--writes must be from 0 to 100")
    with connected(args) as target:
        used = processor_time(target)  # also: is it there at all?
        outcomes, took = run_workers(console, args)
        busy = busiest(used, processor_time(target), took)
    errors: Counter[str] = Counter()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for outcome in outcomes:
        errors.update(outcome.errors)
        for kind, some in outcome.times.items():
            times[kind] += some
    show(console, args, times, took, busy)
    if errors:
        (error, _), *_ = errors.most_common(1)
        raise RedisFailure(f"{plural(sum(errors.values()), 'request')} failed: {error}")
    return 0


def show(
    console: Console,
    args: argparse.Namespace,
    times: dict[str, list[float]],
    took: float,
    busy: float | None,
) -> None:
    requests = sum(len(times[kind]) for kind in ("read", "write"))
    for some in times.values():
        some.sort()
    if args.json:
        document: dict[str, Any] = {
            "workers": args.workers,
            "seconds": took,
            "requests_per_second": requests / took,
            "redis_busy": busy,
        }
        for kind, some in times.items():
            document[kind] = {"requests": len(some)}
            for rank in (50, 95, 99, 100) if some else ():
                document[kind][f"p{rank}_ms"] = 1000 * percentile(some, rank)
        console.json(document)
        return
    console.out(
        f"{plural(args.workers, 'worker')}, {plural(args.workers * args.sessions, 'session')}, "
        f"{took:.1f} s: {requests / took:,.0f} requests a second"
    )
    console.out()
    headings = ["request", "number", "median", "95 %", "99 %", "slowest"]
    rows = [
        [
            KINDS[kind],
            f"{len(some):,}",
            *(f"{1000 * percentile(some, rank):.2f} ms" for rank in (50, 95, 99, 100)),
        ]
        for kind, some in times.items()
        if some
    ]
    console.table(headings, rows, numbers=headings[1:])
    if busy is not None:
        console.out()
        console.out(f"Redis was busy for {busy:.0%} of the time; it uses one core.")


# -- Redis' own time -----------------------------------------------------------------


def processor_time(target: Target) -> list[float | None]:
    """Return the processor time that each primary has used, seconds; ``None``: not known."""
    used = []
    for client in primaries(target.client):
        with client.client() as single:
            node = Node(single, target)
            single.execute_command("TIME")
            info = node.info
            known = "used_cpu_user" in info
            used.append(info["used_cpu_user"] + info["used_cpu_sys"] if known else None)
    return used


def busiest(
    before: Sequence[float | None], after: Sequence[float | None], took: float
) -> float | None:
    """Return the share of the time in which the busiest primary was at work."""
    shares = [
        (end - start) / took
        for start, end in zip(before, after, strict=False)
        if start is not None and end is not None
    ]
    return max(shares, default=None)


# -- workers -------------------------------------------------------------------------


def run_workers(console: Console, args: argparse.Namespace) -> tuple[list[Outcome], float]:
    """Start the workers together, and wait until they have stopped.

    :returns: what each did; seconds that it took.
    """
    context = multiprocessing.get_context("spawn")  # no connection is inherited
    # The first process would start it, and let the signals through again.
    resource_tracker.ensure_running()
    workers, pipes = [], []
    try:
        for number in range(args.workers):
            own, its = context.Pipe()
            pipes.append(own)
            worker = context.Process(target=work, args=(args, number, its), daemon=True)
            with held_back():
                worker.start()
            its.close()
            workers.append(worker)
        for pipe in pipes:
            receive(pipe)
        began, done = time.monotonic(), 0
        for pipe in pipes:
            with suppress(ConnectionError):  # the worker has ended: that is seen below
                pipe.send(None)
        with console.progress() as advance:
            while (passed := time.monotonic() - began) < args.seconds:
                steps = int(1000 * passed / args.seconds)
                advance(steps - done, "at work")
                done = steps
                time.sleep(min(0.1, args.seconds - passed))
        took = time.monotonic() - began
        return [receive(pipe) for pipe in pipes], took
    finally:
        for pipe in pipes:
            pipe.close()  # it is over, and nobody must wait for us to read what is left
        try:
            for worker in workers:
                worker.join(LEAVE_SECONDS)
        finally:  # also when interrupted once more
            for worker in workers:
                worker.kill()


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals wait. A process that is started meanwhile never gets them.

    It could set handlers of its own only after it has imported all it needs.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def receive(pipe: Any) -> Outcome:
    """Return what a worker did; at first, nothing: it is ready.

    :raises RedisFailure: it has failed.
    """
    try:
        outcome: Outcome = pipe.recv()
    except (EOFError, ConnectionError):
        raise RedisFailure("a worker ended before its time") from None
    if outcome.failure is not None:
        raise RedisFailure(outcome.failure)
    return outcome


def work(args: argparse.Namespace, number: int, pipe: Any) -> None:
    """Run one worker, in its own process.

    It stops by its own clock, so that nothing goes on without end when the
    command does not; and at once when the pipe is closed, be it that the
    command was killed.

    :param pipe: tells that the worker is ready; then it is told to begin; then it
        tells what it did.
    """
    logging.disable()  # the command has logged the same
    times: dict[str, array[float]] = {kind: array("d") for kind in KINDS}
    errors: Counter[str] = Counter()
    try:
        with connected(args) as target:
            users = Users(target, args, number)
            try:
                for _ in range(args.sessions):
                    if pipe.poll():  # nothing is sent yet: closed
                        return
                    times["new"].append(users.arrive())
                pipe.send(Outcome({}, {}))
                if not pipe.poll(args.seconds + LEAVE_SECONDS):
                    raise RedisFailure("the other workers take too long to begin")
                pipe.recv()
                end = time.monotonic() + args.seconds
                while time.monotonic() < end and not pipe.poll():
                    kind = "write" if users.dice.random() * 100 < args.writes else "read"
                    try:
                        times[kind].append(users.come_back(kind))
                    except (SessionError, RedisError) as exc:
                        errors[str(exc)] += 1
            finally:
                users.leave()
        pipe.send(Outcome(times, errors))
    except (EOFError, ConnectionError):
        pass  # the command was interrupted, or another worker failed
    except (UsageError, RedisFailure, SessionError, RedisError, RedisClusterException) as exc:
        with suppress(ConnectionError):
            pipe.send(Outcome({}, {}, " ".join(str(exc).split()) or type(exc).__name__))


class Users:
    """The users of one worker, and the application that serves them."""

    def __init__(self, target: Target, args: argparse.Namespace, number: int) -> None:
        self.dice = random.Random(number)
        self._bytes = args.bytes
        self._store, self._prefix = target.store, f"{target.settings.prefix}{SIMULATED}"
        self._factory = RedisSessionFactory.from_settings(
            dataclasses.replace(
                target.settings,
                prefix=self._prefix,
                # What is left behind by a worker that was killed does not stay.
                timeout=args.seconds + LEAVE_SECONDS,
                timeout_trigger=None,
                first_timeout=None,
                absolute_timeout=None,
                set_redis_ttl=True,
                redis_client_callable=lambda request, **options: target.client,
                func_invalid_logger=None,
                on_redis_error="raise",
                func_check_response_allow_cookies=None,
                cookie_secure=None,
                cookie_samesite="Lax",
                cookie_name="session",
                cookie_domain=None,
                migrate_from=(),
            )
        )
        config = Configurator()
        config.set_session_factory(self._factory)
        config.add_tween(f"{session_tween_factory.__module__}.session_tween_factory")
        config.add_route("any", "/")
        config.add_view(self._view, route_name="any")
        self._serve: Callable[..., Any] = config.make_wsgi_app()
        self._cookies: list[str] = []

    def _view(self, request: Any) -> Response:
        session = request.session
        if request.GET:
            session["value"] = self.dice.randbytes(self._bytes)
            session["visits"] = session.get("visits", 0) + 1
        else:
            session.get("value")
        return Response()

    def arrive(self) -> float:
        """A new user comes; return how long it took, seconds."""
        took, response = self._request("write", None)
        self._cookies.append(response.headers["Set-Cookie"].partition(";")[0])
        return took

    def come_back(self, kind: str) -> float:
        """One of the users comes back; return how long it took, seconds."""
        return self._request(kind, self.dice.choice(self._cookies))[0]

    def _request(self, kind: str, cookie: str | None) -> tuple[float, Any]:
        request = Request.blank("/?write" if kind == "write" else "/")
        if cookie is not None:
            request.headers["Cookie"] = cookie
        start = time.perf_counter()
        response = request.get_response(self._serve)
        return time.perf_counter() - start, response

    def leave(self) -> None:
        """Delete the sessions."""
        for cookie in self._cookies:
            for ticket in self._factory.cookies.read(cookie)[0]:
                try:
                    self._store.command("DEL", encoded(self._prefix + ticket.token.locator))
                except SessionError:
                    return  # they will expire

"""Run requests one call to Redis at a time, in every order, with replies that are lost.

A request runs in a thread of its own, through the whole application, and stops before every
command that it sends: what it does between two commands nobody else can see, so the order of the
commands is all that an interleaving is. Of a pipeline every command is a step of its own. Only
one thread runs at a time.

A connection may break at a command. It is on its way all the same, with those after it in the
pipeline, and reaches Redis at any later moment, or never: at once, as if only the reply was lost;
or after what the client did next. The client either sends all of it again, or gives up.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from redis.exceptions import TimeoutError

from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS

#: Longest that a step may take before the test is called stuck, seconds.
STUCK = 30.0

#: What may become of a command: it is answered; or the connection breaks, and the client repeats
#: what it sent, or gives up.
GO, REPEAT, GIVE_UP = "go", "repeat", "give up"

Command = tuple[tuple[Any, ...], dict[str, Any]]


class Choice(NamedTuple):
    """One step.

    :ivar who: number of the request; or of what is on its way since its connection broke.
    :ivar fate: of the command; ``""`` = what is on its way arrives.
    :ivar key: that the command is about; ``reads``: it only reads, or refreshes a timeout.
    """

    who: int
    fate: str
    key: Any
    reads: bool

    def commutes(self, other: Choice) -> bool:
        """Whether two steps that can be next have the same effect in both orders."""
        breaks, breaks_too = self.fate in (REPEAT, GIVE_UP), other.fate in (REPEAT, GIVE_UP)
        if (self.who, bool(self.fate)) == (other.who, bool(other.fate)):
            return False
        if breaks or breaks_too:
            return not (breaks and breaks_too)  # nothing reaches Redis; but there is a limit
        return self.key != other.key or (self.reads and other.reads)


class Run:
    """One run of some requests: an interleaving.

    :param choose: ``(choices) -> number``: which step is next.
    :param faults: how many connections may break.
    """

    def __init__(
        self,
        requests: Sequence[Callable[[], Any]],
        choose: Callable[[list[Choice]], int],
        faults: int,
        workers: Workers,
    ) -> None:
        self._choose = choose
        self._faults = faults
        self.requests = [Stepped(number, work) for number, work in enumerate(requests)]
        self._workers = workers
        #: What is on its way, in order; of each what is left of a pipeline.
        self._adrift: list[list[Sent]] = []
        self._last: tuple[Any, ...] = ()
        #: What was done: a line each, for who reads of a failure.
        self.steps: list[str] = []

    def go(self) -> None:
        """Run until every request is done. What is still on its way may never arrive."""
        for request in self.requests:
            self._workers.start(request)
        while True:
            choices = self._choices()
            if not any(request.parked for request in self.requests):
                return
            self._step(choices[self._choose(choices)])

    def arrive(self) -> bool:
        """What is still on its way arrives; tell whether there was anything."""
        late, self._adrift = self._adrift, []
        for commands in late:
            for command in commands:
                command()
        return bool(late)

    def _choices(self) -> list[Choice]:
        choices = []
        for request in self.requests:
            if request.parked:
                fates = [GO, REPEAT, GIVE_UP] if self._faults else [GO]
                about = request.about()
                choices += [Choice(request.number, fate, *about) for fate in fates]
        for number, commands in enumerate(self._adrift):
            if commands:
                choices.append(Choice(number, "", *commands[0].about()))
        # Who was at it goes on first: of runs that are the same, that with the fewest turns.
        return sorted(choices, key=lambda choice: choice[:1] != self._last[:1])

    def _step(self, choice: Choice) -> None:
        now = len(self.steps)
        if choice.fate:
            self._last = choice
        if not choice.fate:
            command = self._adrift[choice.who].pop(0)
            command()
            self.steps.append(f"({command.name} arrives late)")
            return
        request = self.requests[choice.who]
        if request.first is None:
            request.first = now
        request.last = now
        if request.parked == "load_and_touch":
            request.loaded = now
        self.steps.append(f"{choice.who}: {request.parked} {choice.fate}")
        if choice.fate != GO:
            self._faults -= 1
            request.gave_up += choice.fate == GIVE_UP
            self._adrift.append(request.left())
        self._workers.resume(request, choice.fate)


class Stepped:
    """One request.

    :ivar parked: name of the command that it is about to send; ``""`` = it is done.
    :ivar first: number of its first step; ``last``: of its last; ``loaded``: of its last load.
    :ivar gave_up: how many times it gave up when a connection broke.
    :ivar result: what it returned, or the exception that it raised.
    """

    def __init__(self, number: int, work: Callable[[], Any]) -> None:
        self.number = number
        self.work = work
        self.parked = ""
        self.first: int | None = None
        self.last = self.loaded = -1
        self.gave_up = 0
        self.drawn = 0
        self.result: Any = None
        self._calls: list[Sent] = []
        self._fate: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()

    def left(self) -> list[Sent]:
        """What is sent already, and not done."""
        return list(self._calls)

    def about(self) -> tuple[Any, bool]:
        return self._calls[0].about()

    def send(self, client: Any, commands: list[Command]) -> list[Any]:
        """Called in the request's thread: send commands together."""
        while True:
            replies: list[Any] = []
            for number in range(len(commands)):
                self._calls = [Sent(client, command) for command in commands[number:]]
                self.parked = self._calls[0].name
                self._news.put(None)
                fate = self._fate.get(timeout=STUCK)
                if fate == GO:
                    replies.append(self._calls[0]())
                    continue
                if fate == GIVE_UP:
                    raise TimeoutError("no reply came")
                break
            else:
                return replies


class Sent:
    """A command that is on its way.

    :ivar name: of the command; of a script, the script's.
    """

    def __init__(self, client: Any, command: Command) -> None:
        self._client = client
        self._args, self._options = command
        name, first, *others = map(_text, self._args[:4])
        calls_script = name in ("EVALSHA", "EVAL")
        self.name = NAMES[first] if calls_script else name
        self._key = others[1] if calls_script else first

    def __call__(self) -> Any:
        try:
            return self._client.execute_command(*self._args, **self._options)
        except Exception as exc:  # as a pipeline returns it
            return exc

    def about(self) -> tuple[Any, bool]:
        return self._key, self.name in READING


def _text(argument: Any) -> str:
    return argument.decode("latin-1") if isinstance(argument, bytes) else str(argument)


NAMES = {name: script.name for script in SCRIPTS.values() for name in (script.sha1, script.source)}

#: What changes nothing but a timeout.
READING = {"load_and_touch", "peek_session", "describe_session", "ZRANGE", "ZSCAN"}


class Workers:
    """The threads in which requests run; a context manager."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Any]] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for orders in self._idle:
            orders.put(None)
        for thread in self._threads:
            thread.join(STUCK)

    def start(self, request: Stepped) -> None:
        """Start a request; return when it is about to send its first command, or is done."""
        if not self._idle:
            orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
            thread = threading.Thread(target=self._work, args=(orders,), daemon=True)
            thread.start()
            self._threads.append(thread)
            self._idle.append(orders)
        self._idle.pop().put(request)
        request._news.get(timeout=STUCK)

    def resume(self, request: Stepped, fate: str) -> None:
        """Let it go on; return when it is about to send its next command, or is done."""
        request._fate.put(fate)
        request._news.get(timeout=STUCK)

    def _work(self, orders: queue.SimpleQueue[Any]) -> None:
        while True:
            request = orders.get()
            if request is None:
                return
            _under_way.request = request
            try:
                request.result = request.work()
            except Exception as exc:
                request.result = exc
            _under_way.request = None
            request.parked = ""
            self._idle.append(orders)
            request._news.put(None)


_under_way = threading.local()


def draw_id() -> str:
    """An ``id_generator`` for which runs can be repeated."""
    request = getattr(_under_way, "request", None)
    if request is None:
        return secrets.token_urlsafe(32)
    request.drawn += 1
    return f"drawn-by-{request.number}-{request.drawn}"


class SteppedClient:
    """A client of an application whose requests are stepped through.

    Outside of a stepped request it passes on what it is asked.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        request = getattr(_under_way, "request", None)
        if request is None:
            return self._client.execute_command(*args, **options)
        (reply,) = request.send(self._client, [(args, options)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def pipeline(self, transaction: bool = True) -> Any:
        request = getattr(_under_way, "request", None)
        if request is None:
            return self._client.pipeline(transaction=transaction)
        return _Pipeline(request, self._client)


class _Pipeline:
    def __init__(self, request: Stepped, client: Any) -> None:
        self._request = request
        self._client = client
        self._commands: list[Command] = []

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def execute_command(self, *args: Any, **options: Any) -> None:
        self._commands.append((args, options))

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        replies: list[Any] = self._request.send(self._client, self._commands)
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies


class Node:
    """What can be done at one point of a run.

    :ivar asleep: steps that need not be tried here: they commute with what was done since a
        point at which they were tried (sleep sets; Godefroid, Partial-Order Methods, 1996).
    """

    def __init__(self, choices: list[Choice], parent: Node | None) -> None:
        self.choices = choices
        self.asleep: set[Choice] = set()
        if parent is not None:
            done = choices_but(parent)
            self.asleep = {choice for choice in done if choice.commutes(parent.chosen)}
        self.tried: set[Choice] = set()
        self.chosen: Choice = choices[0]
        #: Every step sleeps: the run is the same as one before.
        self.redundant = not self.next()

    def next(self) -> bool:
        """Choose a step that was not tried; tell whether there is one."""
        for choice in self.choices:
            if choice not in self.asleep and choice not in self.tried:
                self.chosen = choice
                self.tried.add(choice)
                return True
        return False


def choices_but(node: Node) -> set[Choice]:
    return (node.asleep | node.tried) - {node.chosen}


def every_run(
    requests: Callable[[], Sequence[Callable[[], Any]]], faults: int, workers: Workers
) -> Iterator[Run]:
    """Run some requests in every order of their commands that can make a difference.

    :param requests: makes them anew, and what there is before them.
    :param faults: how many connections may break in one run.
    :returns: each run when it is over.
    """
    path: list[Node] = []
    while True:
        depth = 0

        def choose(choices: list[Choice]) -> int:
            nonlocal depth
            if depth == len(path):
                if path and path[-1].redundant:
                    return 0  # to its end, and nobody looks
                path.append(Node(choices, path[-1] if path else None))
            node = path[depth]
            assert node.choices == choices, "a run cannot be repeated"
            depth += 1
            return choices.index(node.chosen)

        run = Run(requests(), choose, faults, workers)
        run.go()
        if not path or not path[-1].redundant:
            yield run
        while path and not path[-1].next():
            path.pop()
        if not path:
            return

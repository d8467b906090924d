"""Every interleaving of requests of one browser, one call to Redis at a time.

Not luck: whole requests of a real application stop before every command that they send, and all
orders of the commands are run (see ``tests/support/calls.py``; of orders that differ only in
steps which commute, one). They carry the same cookie, as those of tabs and double clicks do. What
is there before: nothing; a visitor's session; one of Ada's, who has another besides.

======================================  ==================  =======
what                                    kinds of requests   runs
======================================  ==================  =======
two, ``merge`` and ``retry``            all of ``KINDS``      1,960
two, and one connection breaks          ``MOST_CALLS``        5,690
three                                   ``MOST_CALLS``        4,820
one, and two connections break          all of ``KINDS``      3,380
one and two, somebody writes to Redis   ``RENEWING``          1,250
with ``make torture`` instead:
two, one connection breaks, both modes  all of ``KINDS``     49,000
three                                   ``CORE``              9,680
======================================  ==================  =======

A connection that breaks: at any command of any request. That is executed at any later moment, or
never; the client sends everything once more, or gives up.

After every run ``Judge`` looks at the answers, and at everything in Redis: nothing that was saved
is lost, and nothing applied twice (G2, G8); what was ended does not live (G4); every session that
lives is one that a browser has the cookie of, or else, where a client gave up, nobody's (G5); no
older session outlives a revoke, and each that is an owner's is indexed; who logged in is logged
in, in one session, whatever the browser keeps; and whatever somebody puts back of the token, its
times and values, an older cookie opens no login (G7).

Not covered: more connections that break, transactions, expiry between two calls, Redis Cluster.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from pyramid.config import Configurator
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response

from pyramid_redis_lua_sessions import SessionConflict, revoke
from pyramid_redis_lua_sessions.engine.fields import FLASH_KIND, OWNER_FIELD, key_of
from pyramid_redis_lua_sessions.engine.tokens import Token
from pyramid_redis_lua_sessions.errors import InvalidSession_ChangesDropped, StoreUnavailable
from tests.support.application import SECRET, SetCookie, set_cookies, token_in
from tests.support.calls import Run, SteppedClient, Workers, draw_id, every_run

pytestmark = pytest.mark.torture

SCALE = int(os.environ.get("TORTURE_SCALE", "1"))

#: Returns ``False`` where it found that there was nothing for it to do.
View = Callable[[Any, str], "bool | None"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of request.

    :ivar act: its view, ``(request, mark)``; what it writes is its mark.
    :ivar writes: the keys that it sets; ``deletes``: those that it deletes.
    :ivar flashes: it adds a message; ``counts``: it adds one to a number.
    :ivar logs_in: it is a login; ``owner``: whose.
    :ivar renews: it asks for a new token; ``ends``: it ends the session that it finds;
        ``empties``: it removes all values, so that it may end.
    :ivar revokes: it ends all of Ada's sessions; ``spares``: but that of the request.
    """

    act: View
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    flashes: bool = False
    counts: bool = False
    logs_in: bool = False
    owner: str | None = None
    renews: bool = False
    ends: bool = False
    revokes: bool = False
    spares: bool = False
    empties: bool = False

    def without_effect(self) -> Kind:
        """What it is where it found nothing to do: a login of the same owner is a write."""
        return Kind(self.act, writes=self.writes)


def _read(request: Any, mark: str) -> None:
    dict(request.session)


def _write(key: str) -> View:
    def act(request: Any, mark: str) -> None:
        request.session[key] = mark

    return act


def _count(request: Any, mark: str) -> None:
    request.session["n"] = request.session.get("n", 0) + 1


def _delete(request: Any, mark: str) -> bool:
    return request.session.pop("a", None) is not None


def _flash(request: Any, mark: str) -> None:
    request.session.flash(mark)


def _regenerate(request: Any, mark: str) -> None:
    request.session.regenerate_id()


def _log_in(owner: str) -> View:
    def act(request: Any, mark: str) -> bool:
        before = request.session.owner
        request.session["user"] = mark
        request.session.owner = owner
        return before != owner

    return act


def _log_in_without_owner(request: Any, mark: str) -> None:
    request.session.regenerate_id()
    request.session["user"] = mark


def _log_out(request: Any, mark: str) -> None:
    request.session.invalidate()


def _start_over(request: Any, mark: str) -> None:
    request.session.invalidate()
    request.session["user"] = mark
    request.session.owner = "ada"


def _look_and_log_out(request: Any, mark: str) -> None:
    dict(request.session)
    request.session.invalidate()


def _revoke(request: Any, mark: str) -> None:
    revoke(request.registry, "ada")


def _revoke_others(request: Any, mark: str) -> None:
    revoke(request, "ada")


def _empty(request: Any, mark: str) -> bool:
    held = bool(request.session)
    request.session.clear()
    return held


KINDS = {
    "read": Kind(_read),
    "write a": Kind(_write("a"), writes=("a",)),
    "write b": Kind(_write("b"), writes=("b",)),
    "count": Kind(_count, counts=True),
    "delete": Kind(_delete, deletes=("a",)),
    "flash": Kind(_flash, flashes=True),
    "regenerate": Kind(_regenerate, renews=True),
    "login": Kind(_log_in("ada"), writes=("user",), logs_in=True, owner="ada", renews=True),
    "login of another": Kind(
        _log_in("bob"), writes=("user",), logs_in=True, owner="bob", renews=True
    ),
    "login without owner": Kind(_log_in_without_owner, writes=("user",), logs_in=True, renews=True),
    "logout": Kind(_log_out, ends=True),
    "look and logout": Kind(_look_and_log_out, ends=True),
    "start over": Kind(_start_over, writes=("user",), logs_in=True, owner="ada", ends=True),
    "revoke": Kind(_revoke, revokes=True),
    "revoke others": Kind(_revoke_others, revokes=True, spares=True),
    "empty": Kind(_empty, deletes=("a", "b", "n", "kept", "user"), empties=True),
}


@dataclasses.dataclass
class Before:
    """What there is before the requests.

    :ivar cookie: that they carry.
    :ivar stored: all keys of Redis, dumped, with their TTL.
    :ivar values: of the session; ``owner``: its owner.
    :ivar others: tokens of other sessions that live.
    :ivar fields: of the session, as stored.
    """

    cookie: str | None
    stored: dict[bytes, tuple[bytes, int]]
    values: dict[Any, Any]
    owner: str | None
    others: list[Token]
    fields: dict[bytes, bytes]

    @property
    def token(self) -> Token | None:
        return token_in(self.cookie) if self.cookie else None


@dataclasses.dataclass
class Answer:
    """What came of a request.

    :ivar status: of the response; 0 = there is none.
    :ivar acted: what the view returned: whether the request was one of its kind.
    :ivar dropped: it was reported that changes were lost.
    """

    status: int
    acted: bool
    cookies: list[SetCookie]
    dropped: bool

    @property
    def token(self) -> Token | None:
        given = [cookie for cookie in self.cookies if not cookie.deletes]
        return token_in(f"session={given[-1].value}") if given else None

    @property
    def deletes(self) -> bool:
        return any(cookie.deletes for cookie in self.cookies)

    @property
    def ok(self) -> bool:
        return self.status == 200


class Application:
    """The application, and what there can be before its requests."""

    def __init__(self, url: str, client: redis.Redis, **options: Any) -> None:
        self.client = client
        self._url = url
        settings = {
            "secret": SECRET,
            "redis_client_callable": self._make_client,
            "func_invalid_logger": self._note,
            "id_generator": draw_id,
            **options,
        }
        config = Configurator(
            settings={f"redis.sessions.{name}": value for name, value in settings.items()}
        )
        config.include("pyramid_redis_lua_sessions")
        config.add_route("any", "/")
        config.add_view(lambda request: request.environ["tests.view"](request), route_name="any")
        for error, status in ((StoreUnavailable, 503), (SessionConflict, 409)):
            config.add_exception_view(
                lambda exc, request, status=status: Response("later", status=status),
                context=error,
            )
        self.wsgi = config.make_wsgi_app()
        self.factory = config.registry.getUtility(ISessionFactory)

    def _make_client(self, request: Any, **options: Any) -> Any:
        return SteppedClient(self.client)

    def _note(self, request: Any, problem: Any) -> None:
        request.environ["tests.problems"].append(problem)

    def request(self, view: Callable[[Any], Any], cookie: str | None) -> Answer:
        def run(request: Any) -> Response:
            acted.append(view(request) is not False)
            return Response("done")

        acted: list[bool] = []
        problems: list[Any] = []
        environ = Request.blank("/").environ
        environ.update({"tests.view": run, "tests.problems": problems})
        if cookie is not None:
            environ["HTTP_COOKIE"] = cookie
        dropped, cookies, status = False, [], 0
        try:
            response = Request(environ).get_response(self.wsgi)
            status, cookies = response.status_int, set_cookies(response)
        except StoreUnavailable:  # from a response callback
            pass
        dropped = any(isinstance(problem, InvalidSession_ChangesDropped) for problem in problems)
        return Answer(status, acted != [False], cookies, dropped)

    def request_of(self, kind: Kind, mark: str, cookie: str | None) -> Answer:
        return self.request(lambda request: kind.act(request, mark), cookie)

    def put_back(self, before: Before) -> None:
        """Put the session's token, and what a save is checked by, back."""
        assert before.token is not None
        client, key = SteppedClient(self.client), b"session:" + before.token.locator.encode()
        names = [name for name in PLAIN if name in before.fields]
        client.execute_command("HSET", key, *(x for n in names for x in (n, before.fields[n])))
        gone = [name for name in PLAIN if name not in before.fields]
        if gone:
            client.execute_command("HDEL", key, *gone)

    # -- before and after ------------------------------------------------------------

    def prepare(self, state: str) -> Before:
        """Make what there is before: nothing, a visitor's session, one of Ada's."""
        self.client.flushdb()
        cookie, others = None, []
        if state != "nothing":
            cookie = self._cookie_of(
                self.request(lambda r: r.session.update(a="start", kept=1), None)
            )
        if state == "owned":
            for _ in range(1):
                other = self._cookie_of(self.request(lambda r: _log_in("ada")(r, "other"), None))
                others.append(token_in(other))
            answer = self.request(lambda r: _log_in("ada")(r, "start"), cookie)
            cookie = self._cookie_of(answer)
        stored = {
            key: (self.client.dump(key), max(0, self.client.pttl(key)))
            for key in self.client.keys("*")
        }
        owned = state == "owned"
        values = {
            "nothing": {},
            "visitor": {"a": "start", "kept": 1},
            "owned": {"a": "start", "kept": 1, "user": "start"},
        }
        token = token_in(cookie) if cookie else None
        fields = self.client.hgetall(f"session:{token.locator}") if token else {}
        return Before(cookie, stored, values[state], "ada" if owned else None, others, fields)

    @staticmethod
    def _cookie_of(answer: Answer) -> str:
        given = [cookie for cookie in answer.cookies if not cookie.deletes]
        return f"session={given[-1].value}"

    def restore(self, before: Before) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.flushdb()
            for key, (dump, ttl) in before.stored.items():
                pipeline.restore(key, ttl, dump)
            pipeline.execute()

    def look(self) -> After:
        """Find what there is in Redis."""
        sessions, indexes = {}, {}
        keys = self.client.keys("*")
        with self.client.pipeline(transaction=False) as pipeline:
            for key in keys:
                if b":owner:" in key:
                    pipeline.zrange(key, 0, -1)
                else:
                    pipeline.hgetall(key)
            for key, found in zip(keys, pipeline.execute(), strict=True):
                if b":owner:" in key:
                    indexes[key] = [name.decode() for name in found]
                elif b"@" in found:
                    sessions[key.decode().removeprefix("session:")] = found
        return After(self, sessions, indexes)


class After:
    """What there is in Redis after a run."""

    def __init__(
        self,
        app: Application,
        sessions: dict[str, dict[bytes, bytes]],
        indexes: dict[bytes, list[str]],
    ) -> None:
        self.app = app
        #: Those that live: fields by locator.
        self.sessions = sessions
        self.indexes = indexes

    def opened(self, token: Token | None) -> Contents | None:
        """What a request with this token finds."""
        if token is None or token.locator not in self.sessions:
            return None
        fields = self.sessions[token.locator]
        if fields.get(b"@", b"")[:16] != token.digest:
            return None
        return self.open_under(token.locator, token.digest, fields)

    def open_under(
        self, locator: str, digest: bytes, fields: dict[bytes, bytes]
    ) -> Contents | None:
        factory = self.app.factory
        plain = factory.sealer.bind(locator, digest).open_all(fields)
        if plain is None:
            return None
        values, flashes, owner = {}, [], None
        for field, data in plain.items():
            value = factory.codec.decode(data)
            if field == OWNER_FIELD:
                owner = value
            elif field[:1] == FLASH_KIND:
                flashes.append(value)
            else:
                values[key_of(field)] = value
        return Contents(values, flashes, owner)

    def contents(self, locator: str) -> Contents | None:
        fields = self.sessions[locator]
        return self.open_under(locator, fields.get(b"@", b"")[:16], fields)

    def index_of(self, owner: str) -> list[str]:
        factory = self.app.factory
        key = factory._store.index_key(factory.codec.encode(owner))
        return self.indexes.get(key, [])


@dataclasses.dataclass
class Contents:
    values: dict[Any, Any]
    flashes: list[Any]
    owner: Any


# -- what must hold after every run ------------------------------------------------------------


class Judge:
    """Says what is wrong after a run."""

    def __init__(self, before: Before, kinds: Sequence[Kind], run: Run, after: After) -> None:
        self.retry = after.app.factory.settings.on_conflict == "retry"
        self.before = before
        self.kinds = kinds
        self.after = after
        self.requests = run.requests
        self.answers: list[Answer] = [request.result for request in run.requests[: len(kinds)]]
        self.gave_up = sum(request.gave_up for request in run.requests)
        self.wrong: list[str] = []

    def judge(self) -> list[str]:
        """:returns: what is wrong."""
        if not self.are_answered():
            return self.wrong
        self.each_answer()
        self.what_lives()
        self.endings()
        self.logins()
        self.browser()
        self.updates()
        self.planted()
        return self.wrong

    def judge_attack(self) -> list[str]:
        """:returns: what is wrong where somebody meddles: who does can end sessions."""
        if self.are_answered():
            self.planted()
            # The application has verified values before, and may remember.
            self.after.app.put_back(self.before)
            found: list[tuple[Any, Any]] = []
            self.after.app.request(
                lambda request: found.append((request.session.owner, request.session.get("user"))),
                self.before.cookie,
            )
            for owner, user in found:
                self.claim(owner in (None, self.before.owner), "an older cookie opens a login")
                for number, kind in enumerate(self.kinds):
                    mine = kind.logs_in and user == f"mark {number}"
                    self.claim(not mine, "an older cookie opens a login")
        return self.wrong

    def are_answered(self) -> bool:
        for answer in self.answers:
            self.claim(isinstance(answer, Answer), f"a request raised {answer!r}")
        if not self.wrong:
            self.kinds = [
                kind if answer.acted else kind.without_effect()
                for kind, answer in zip(self.kinds, self.answers, strict=True)
            ]
        return not self.wrong

    def claim(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    def meets_change(self, number: int, of_values: bool = False) -> bool:
        """Whether another request may have ended the session, or given it a new token.

        :param of_values: or may have changed what is in it.
        """
        return any(
            (other.renews or other.ends or other.revokes or other.empties)
            or (of_values and (other.writes or other.deletes or other.flashes or other.counts))
            for which, other in enumerate(self.kinds)
            if which != number
        )

    def overlaps(self, one: int, other: int) -> bool:
        """Whether neither of two requests was over before the other sent anything."""
        a, b = self.requests[one], self.requests[other]
        if a.first is None or b.first is None:
            return True
        return not (a.last < b.first or b.last < a.first)

    def before_it(self, one: int, other: int) -> bool:
        a, b = self.requests[one], self.requests[other]
        return a.first is not None and b.first is not None and a.last < b.first

    def each_answer(self) -> None:
        for number, (kind, answer) in enumerate(zip(self.kinds, self.answers, strict=True)):
            failed = bool(self.requests[number].gave_up) and answer.status in (503, 0)
            conflicts = self.retry and answer.status == 409 and self.meets_change(number, True)
            self.claim(
                answer.ok or failed or conflicts, f"request {number} was answered {answer.status}"
            )
            self.claim(not answer.deletes or kind.ends, f"request {number} deletes the cookie")
            self.claim(
                not answer.dropped or self.meets_change(number),
                f"the changes of {number} are dropped",
            )
            revoked = any(other.revokes for other in self.kinds)
            self.claim(
                not answer.dropped or not kind.logs_in or revoked,
                f"the login of {number} is dropped",
            )

    def what_lives(self) -> None:
        """G5, G7: all seals hold. Nobody's session is there, and every owned one is indexed."""
        delivered = [self.before.token, *self.before.others, *(a.token for a in self.answers)]
        known = {
            token.locator
            for token in delivered
            if token is not None and self.after.opened(token) is not None
        }
        for locator in self.after.sessions:
            contents = self.after.contents(locator)
            if contents is None:
                self.wrong.append("a seal is broken")
                continue
            # What may have come through is ended, unless that does not come through either.
            stray = self.gave_up > (contents.owner is not None)
            self.claim(locator in known or stray, f"a session that nobody has: {contents}")
            if contents.owner is not None:
                self.claim(
                    locator in self.after.index_of(contents.owner),
                    f"a session of {contents.owner} is not in the index",
                )
        if self.before.token is not None:
            mine = {self.before.token.locator, *(token.locator for token in self.before.others)}
            apart = [
                (kind.logs_in and self.meets_change(number))
                or (kind.logs_in and kind.ends)
                or (
                    (kind.writes or kind.flashes or kind.counts)
                    and any(
                        other.empties for which, other in enumerate(self.kinds) if which != number
                    )
                )
                for number, kind in enumerate(self.kinds)
            ]
            more = set(self.after.sessions) - mine
            self.claim(len(more) <= sum(apart), f"{len(more)} new sessions")

    def endings(self) -> None:
        """G4: what was ended does not live."""
        start = self.before.token
        for number, (kind, answer) in enumerate(zip(self.kinds, self.answers, strict=True)):
            if not answer.ok:
                continue
            if kind.ends and start is not None and start.locator in self.after.sessions:
                renewed = any(
                    other.renews and not self.before_it(number, which)
                    for which, other in enumerate(self.kinds)
                    if which != number
                )
                self.claim(renewed, f"the session that {number} has ended lives")
            if not kind.revokes:
                continue
            for locator in self.after.sessions:
                contents = self.after.contents(locator)
                if contents is None or contents.owner != "ada":
                    continue
                if kind.spares and start is not None and locator == start.locator:
                    continue
                younger = any(
                    other.logs_in
                    and not self.before_it(which, number)
                    and contents.values.get("user") == f"mark {which}"
                    for which, other in enumerate(self.kinds)
                )
                self.claim(younger, f"a session older than the revoke of {number}: {contents}")

    def logins(self) -> None:
        """Who logs in is logged in, unless something ends that; under the answer's cookie."""
        for number, (kind, answer) in enumerate(zip(self.kinds, self.answers, strict=True)):
            if not (kind.logs_in and answer.ok):
                continue
            self.claim(
                answer.token is not None or answer.dropped, f"the login of {number} gives no cookie"
            )
            ended = any(
                (other.ends or other.revokes or other.renews) and not self.before_it(which, number)
                if not other.logs_in or other.ends
                else self.before_it(number, which)  # a request of the older cookie
                for which, other in enumerate(self.kinds)
                if which != number
            )
            found = self.after.opened(answer.token)
            if found is None:
                self.claim(ended, f"the login of {number} is lost")
                continue
            self.claim(found.owner == (kind.owner or self.before.owner), f"owner {found.owner}")
            self.claim(found.values.get("user") == f"mark {number}", f"login holds {found.values}")

    def browser(self) -> None:
        """Whatever the browser keeps opens a session, where nothing ends one."""
        if self.gave_up or any(kind.ends or kind.revokes or kind.empties for kind in self.kinds):
            return
        given = [answer.token for answer in self.answers if answer.token is not None]
        kept = given or ([self.before.token] if self.before.token else [])
        for token in kept:
            self.claim(self.after.opened(token) is not None, "the browser's cookie opens nothing")

    def updates(self) -> None:
        """G2: what was saved and not reported as dropped is there, and nothing else."""
        start = self.before.token
        if start is None:
            return
        if start.locator not in self.after.sessions:
            self.emptied()
            return
        contents = self.after.contents(start.locator)
        if contents is None:
            return
        for key in ("a", "b", "user"):
            sure: dict[int, Any] = {}
            unsure: set[Any] = set()
            for number, (kind, answer) in enumerate(zip(self.kinds, self.answers, strict=True)):
                if key in kind.writes:
                    value: Any = f"mark {number}"
                elif key in kind.deletes:
                    value = None
                else:
                    continue
                if answer.dropped:
                    continue
                if answer.ok:
                    elsewhere = answer.token is not None and answer.token.locator != start.locator
                    if not elsewhere:
                        sure[number] = value
                elif answer.status != 409:
                    unsure.add(value)
            last = {
                value
                for number, value in sure.items()
                if not any(self.before_it(number, later) for later in sure)
            }
            allowed = (last or {self.before.values.get(key)}) | unsure
            found = contents.values.get(key)
            self.claim(found in allowed, f"{key} is {found}, not one of {allowed}")
        self.counts(contents)
        for number, (kind, answer) in enumerate(zip(self.kinds, self.answers, strict=True)):
            if not kind.flashes or any(other.empties for other in self.kinds):
                continue
            count = contents.flashes.count(f"mark {number}")
            if answer.ok:
                self.claim(count == (not answer.dropped), f"{count} messages of {number}")
            else:
                self.claim(count <= 1, f"{count} messages of {number}")

    def emptied(self) -> None:
        """What a request did not see it does not empty away."""
        if self.gave_up or any(kind.ends or kind.revokes for kind in self.kinds):
            return
        for number, (kind, answer) in enumerate(zip(self.kinds, self.answers, strict=True)):
            new = not set(kind.writes) <= self.before.values.keys()
            if not (new or kind.flashes or kind.counts) or kind.logs_in:
                continue
            if answer.ok and not answer.dropped and answer.token is None:
                seen = any(
                    other.empties and self.requests[which].loaded > self.requests[number].last
                    for which, other in enumerate(self.kinds)
                )
                self.claim(seen, f"what {number} wrote was emptied away")

    def counts(self, contents: Contents) -> None:
        """With ``on_conflict = retry`` every count that was answered counts, and no other."""
        if not self.retry or any(kind.empties for kind in self.kinds):
            return
        counted = [
            answer
            for kind, answer in zip(self.kinds, self.answers, strict=True)
            if kind.counts and not answer.dropped and answer.status != 409
        ]
        least = sum(answer.ok for answer in counted)
        found = contents.values.get("n", 0)
        self.claim(least <= found <= len(counted), f"n is {found}, after {least} counts")

    def planted(self) -> None:
        """G7: who can write to Redis puts back what was there before a login, the token, its
        times, values: the cookie of before it opens no login."""
        start = self.before.token
        if start is None or start.locator not in self.after.sessions:
            return
        was, now = self.before.fields, self.after.sessions[start.locator]
        data = {field: value for field, value in was.items() if field not in PLAIN}
        for names in itertools.product((False, True), repeat=len(PLAIN)):
            back = {
                field: was.get(field) for field, chosen in zip(PLAIN, names, strict=True) if chosen
            }
            for put_back in (back, {**back, **data}):
                mixed = {**now, **put_back}
                fields = {field: value for field, value in mixed.items() if value is not None}
                found = self.after.open_under(start.locator, start.digest, fields)
                if found is None:
                    continue
                self.claim(found.owner == self.before.owner, "an older cookie opens a login")
                for number, kind in enumerate(self.kinds):
                    if kind.logs_in:
                        self.claim(
                            found.values.get("user") != f"mark {number}",
                            "an older cookie opens a login",
                        )


#: Fields that no seal protects.
PLAIN = (b"@", b"saves")


def explore(
    app: Application,
    before: Before,
    names: Sequence[str],
    faults: int,
    workers: Workers,
    attack: bool = False,
) -> tuple[int, list[str]]:
    """Run requests of some kinds in every order.

    :param attack: somebody who can write to Redis puts back what was there before.
    :returns: how many runs there were, and what was wrong: of each fault the shortest run.
    """
    kinds = [KINDS[name] for name in names]

    def requests() -> list[Callable[[], Any]]:
        app.restore(before)
        works: list[Callable[[], Any]] = [
            functools.partial(app.request_of, kind, f"mark {number}", before.cookie)
            for number, kind in enumerate(kinds)
        ]
        return [*works, functools.partial(app.put_back, before)] if attack else works

    def judge(run: Run) -> list[str]:
        judge = Judge(before, kinds, run, app.look())
        return judge.judge_attack() if attack else judge.judge()

    runs, shortest = 0, dict[str, str]()
    for run in every_run(requests, faults, workers):
        runs += 1
        wrong = judge(run)
        if not wrong and run.arrive():
            wrong = judge(run)
        for what in wrong:
            answers = [str(request.result) for request in run.requests]
            lines = "\n    ".join([what, *run.steps, *answers])
            if what not in shortest or len(lines) < len(shortest[what]):
                shortest[what] = lines
    return runs, list(shortest.values())


# -- what is run -------------------------------------------------------------------------------

STATES = ("nothing", "visitor", "owned")

#: Kinds that a login without an owner can meet: an application has owners or has none.
WITHOUT_OWNERS = ("read", "write a", "delete", "flash", "regenerate", "logout", "look and logout")

#: The login of an application that sets no owners.
ALONE = "login without owner"

#: Of those that do alike, one each.
CORE = (
    "read",
    "write a",
    "delete",
    "regenerate",
    "login",
    "login without owner",
    "logout",
    "start over",
    "revoke",
    "empty",
)

#: Those of which a user would notice the most: at the size of a test run.
MOST_CALLS = ("write a", "regenerate", "login", ALONE, "logout", "revoke", "empty")

#: What puts a new token in place.
RENEWING = ("write a", "regenerate", "login", "login of another", "login without owner")


def belong_together(state: str, names: Sequence[str]) -> bool:
    if ALONE not in names:
        return True
    return state != "owned" and all(name == ALONE or name in WITHOUT_OWNERS for name in names)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    logging.disable(logging.CRITICAL)  # each lost reply would be a line
    with Workers() as workers:
        yield workers
    logging.disable(logging.NOTSET)


@pytest.fixture(params=["merge", "retry"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def explore_all(
    app: Application,
    state: str,
    workers: Workers,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    requests: int = 2,
    faults: int = 0,
    attack: bool = False,
) -> int:
    """:returns: how many runs there were."""
    before, total, wrong = app.prepare(state), 0, []
    for names in itertools.combinations_with_replacement(kinds, requests):
        if belong_together(state, names):
            runs, found = explore(app, before, names, faults, workers, attack)
            total += runs
            wrong += [f"{names}: {what}" for what in found]
    print(f"{total} runs")
    assert not wrong, "\n\n".join(wrong)
    return total


@pytest.fixture
def app(redis_url: str, redis_client: redis.Redis, mode: str) -> Application:
    return Application(redis_url, redis_client, invalidate_empty_session=True, on_conflict=mode)


merge_only = pytest.mark.parametrize("mode", ["merge"], indirect=True)
all_states = pytest.mark.parametrize("state", STATES)
with_a_session = pytest.mark.parametrize("state", STATES[1:])

ALL = tuple(KINDS)


@all_states
def test_two_requests(app: Application, state: str, workers: Workers) -> None:
    assert explore_all(app, state, workers) > 100


@all_states
@pytest.mark.parametrize("mode", ["merge", "retry"][: 1 if SCALE == 1 else 2], indirect=True)
def test_two_requests_when_a_connection_breaks(
    app: Application, state: str, workers: Workers
) -> None:
    kinds = MOST_CALLS if SCALE == 1 else ALL
    assert explore_all(app, state, workers, kinds=kinds, faults=1) > 100


@merge_only
@with_a_session
def test_three_requests(app: Application, state: str, workers: Workers) -> None:
    kinds = MOST_CALLS if SCALE == 1 else CORE
    assert explore_all(app, state, workers, kinds=kinds, requests=3) > 100


@merge_only
@all_states
def test_one_request_when_two_connections_break(
    app: Application, state: str, workers: Workers
) -> None:
    assert explore_all(app, state, workers, requests=1, faults=2) > 50


@merge_only
@with_a_session
@pytest.mark.parametrize("requests", [1, 2])
def test_logins_while_somebody_puts_back_what_was_there(
    app: Application, state: str, workers: Workers, requests: int
) -> None:
    """Token, times and list of saves; in every order with the logins' calls."""
    found = explore_all(app, state, workers, kinds=RENEWING, requests=requests, attack=True)
    assert found > 5

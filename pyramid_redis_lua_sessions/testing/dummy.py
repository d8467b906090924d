"""A session that needs no Redis."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..engine.contents import Contents
from ..engine.fields import DEVICE_FIELD, LABEL_FIELD, OWNER_FIELD, exact_key
from ..engine.memory import Memory
from ..engine.plan import Cause, Happened
from ..engine.protocol import Absent, Created, Lifetime, Loaded, milliseconds
from ..engine.scripts import Status
from ..engine.seals import make_sealer
from ..engine.serializers import make_codec
from ..engine.state import SessionState
from ..engine.tokens import TOKEN_FIELD, Ticket, Token, as_stored, default_id, draw_verifier
from ..errors import InvalidSession
from ..session import RedisSession
from ..settings import Settings

__all__ = ["DummySession"]


class DummySession(RedisSession):
    """A session of one request that needs no Redis, for unit tests of what uses it.

    It is the real one, as a view has it: what is put into it can be read again. But nothing
    is saved at the end, no cookie is sent, and a new token that was asked for is not drawn.

    :param values: what the session holds; without any, and without an owner, it is new.
    :param owner: as ``session.owner``; ``label`` too.
    :param ended: it ended while the request was under way.
    :param device_bound: it is bound to the device of the browser; ``device_locked``: to another
        one, so that it is empty.
    :param options: settings of the sessions, without their prefix.
    :raises UnserializableValue: a value cannot be stored.
    """

    __slots__ = ()

    def __init__(
        self,
        values: Mapping[Any, Any] | None = None,
        *,
        owner: str | int | None = None,
        label: str | None = None,
        ended: bool = False,
        device_bound: bool = False,
        device_locked: bool = False,
        **options: Any,
    ) -> None:
        if device_bound or device_locked:
            options = {"device_binding": True, **options}
        host = _Host(Settings.from_options({"secret": secrets.token_hex(), **options}))
        held = Contents({}, {}, host.codec, False)
        for key, value in (values or {}).items():
            held.assign(exact_key(key), value)
        for field, meta in ((OWNER_FIELD, owner), (LABEL_FIELD, label)):
            held.assign_meta(field, meta)
        data = held.changes(detect=False).values
        if device_bound or device_locked:
            data[DEVICE_FIELD] = b"a key"
        host.locks = device_locked
        if ended:
            host.found = Absent(Status.MOVED)
        elif data:
            host.found = host.stored(data)
        super().__init__(SessionState(host, host))


class _Host:
    """What a :class:`DummySession` has for a request, and for a store."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.codec = make_codec(settings)
        self.sealer = make_sealer(settings)
        self.memory = Memory(self.sealer)
        #: What the request's cookie leads to; without one it has no cookie.
        self.found: Loaded | Absent | None = None
        self.carried: Token | None = None
        self.claims = False
        #: The session is bound to a device that the request is not from.
        self.locks = False
        self._token = Token.of(default_id(), draw_verifier())

    def stored(self, data: Mapping[bytes, bytes]) -> Loaded:
        """The session as Redis would have it."""
        token = self._token
        seal = self.sealer.bind(token.locator, token.digest).seal
        fields = {field: seal(field, value) for field, value in data.items()}
        now_ms = _now_ms()
        held = {TOKEN_FIELD: as_stored(token.digest, now_ms, now_ms), **fields}
        return Loaded(self._life_ms(), held)

    def _life_ms(self) -> int:
        return milliseconds(self.settings.timeout) or -1

    # -- as a request --------------------------------------------------------------

    def identify(self) -> list[Ticket]:
        if self.found is None:
            return []
        return [Ticket(self._token, int(time.time()), None, outdated=False)]

    def store(self) -> Any:
        return self

    def elapsed_ms(self) -> int:
        return 0

    def opens_page(self) -> bool:
        return False

    def most_sessions(self, owner: bytes) -> int:
        raise NotImplementedError  # nothing is ever saved

    def lock(self, token: Token, binding: bytes) -> str:
        return "locked" if self.locks else ""

    def report(self, problem: InvalidSession) -> None:
        pass

    def announce(self, what: Happened, fingerprint: str | None, cause: Cause) -> None:
        pass

    # -- as a store: what a view can ask for before the end of its request ------------

    def load(self, token: Token) -> Loaded | Absent | None:
        return self.found

    peek = load

    def now(self, locator: str | None) -> int:
        return _now_ms()

    def create(
        self, seal: Callable[[Token], Any], lifetime: Lifetime, *_: Any, **options: Any
    ) -> tuple[Created, None]:
        seal(self._token)
        own = lifetime.timeout_ms
        life_ms, now_ms = self._life_ms() if own is None else own or -1, _now_ms()
        return Created(self._token, life_ms, now_ms, token_ms=now_ms), None

    @property
    def client(self) -> Any:
        raise RuntimeError("a DummySession has no Redis: test this with a RedisServer")


def _now_ms() -> int:
    return int(time.time() * 1000)

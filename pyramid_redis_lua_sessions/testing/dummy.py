"""A session that needs no Redis."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..contents import Contents, exact_key
from ..cookies import Ticket
from ..errors import InvalidSession
from ..events import SessionEvent
from ..scripts import Status
from ..seals import make_sealer
from ..serializers import LABEL_FIELD, OWNER_FIELD, make_codec
from ..session import RedisSession
from ..settings import Settings
from ..state import SessionState
from ..store import Absent, Created, Lifetime, Loaded, default_id, milliseconds

__all__ = ["DummySession"]


class DummySession(RedisSession):
    """A session of one request that needs no Redis, for unit tests of what uses it.

    It is the real one, as a view has it: what is put into it can be read again. But nothing
    is saved at the end, no cookie is sent, and a new id that was asked for is not drawn.

    :param values: what the session holds; without any, and without an owner, it is new.
    :param owner: as ``session.owner``; ``label`` too.
    :param ended: it ended while the request was under way.
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
        **options: Any,
    ) -> None:
        host = _Host(Settings.from_options({"secret": secrets.token_hex(), **options}))
        held = Contents({}, {}, host.codec, False)
        for key, value in (values or {}).items():
            held.assign(exact_key(key), value)
        for field, meta in ((OWNER_FIELD, owner), (LABEL_FIELD, label)):
            held.assign_meta(field, meta)
        data = held.changes(detect=False).values
        if ended:
            host.found = Absent(Status.MOVED)
        elif data:
            host.found = host.stored(data)
        super().__init__(SessionState(host))


class _Host:
    """What a :class:`DummySession` has for a request, and for a store."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.codec = make_codec(settings)
        self.sealer = make_sealer(settings)
        #: What the request's cookie leads to; without one it has no cookie.
        self.found: Loaded | Absent | None = None
        self._session_id = default_id()

    def stored(self, data: Mapping[bytes, bytes]) -> Loaded:
        """The session as Redis would have it."""
        seal = self.sealer.bind(self._session_id).seal
        fields = {field: seal(field, value) for field, value in data.items()}
        return Loaded(self._life_ms(), {b"created": b"%d" % _now_ms(), **fields})

    def _life_ms(self) -> int:
        return milliseconds(self.settings.timeout) or -1

    # -- as a request --------------------------------------------------------------

    def identify(self) -> list[Ticket]:
        if self.found is None:
            return []
        return [Ticket(self._session_id, int(time.time()), None, outdated=False)]

    def store(self) -> Any:
        return self

    def report(self, problem: InvalidSession) -> None:
        pass

    def announce(self, kind: type[SessionEvent], *args: str) -> None:
        pass

    # -- as a store: what a view can ask for before the end of its request ------------

    def load(self, session_id: str) -> Loaded | Absent | None:
        return self.found

    def create(self, seal: Callable[[str], Any], lifetime: Lifetime, **options: Any) -> Created:
        seal(self._session_id)
        own = lifetime.timeout_ms
        life_ms, now_ms = self._life_ms() if own is None else own or -1, _now_ms()
        return Created(self._session_id, life_ms, now_ms, token_ms=now_ms)

    @property
    def client(self) -> Any:
        raise RuntimeError("a DummySession has no Redis: test this with a RedisServer")


def _now_ms() -> int:
    return int(time.time() * 1000)

"""The session cookie: reading, signing, attributes, and when it is sent."""

from __future__ import annotations

import datetime
import enum
import functools
import hashlib
import re
import time
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hmac import compare_digest
from typing import Any, Protocol
from urllib.parse import quote, unquote

from webob.cookies import make_cookie

from .engine.seals import derive_key
from .engine.tokens import Ticket, Token
from .settings import Settings

__all__ = [
    "DELETE",
    "NOTHING",
    "SET",
    "Action",
    "CookiePolicy",
    "cookie_action",
    "vary_on_cookie",
]

#: Cookies of one name that are looked at, and the longest that is.
MOST_VALUES = 8
LONGEST_VALUE = 4096

#: Values, and whole headers, that a process remembers to have verified, of each kind; and the
#: longest of them: about 2 MB.
REMEMBERED = 1024
LONGEST_REMEMBERED = 512

# From base64url; "!" is of neither alphabet.
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
# Of base64url: the last characters that leave no bits over, by the length modulo 4.
_LAST = (b"", b"", b"AQgw", b"AEIMQUYcgkosw048")

# Without repetition, so that no value takes longer than its length.
_ESCAPED = re.compile(r"\\([0-3][0-7][0-7]|.)", re.DOTALL)


class Action(enum.Enum):
    """What a response does with the cookie."""

    NOTHING = "nothing"
    SET = "set"
    DELETE = "delete"


# Python 3.11 takes long to look up a member of an enum.
NOTHING, SET, DELETE = Action.NOTHING, Action.SET, Action.DELETE


def cookie_action(
    *, may_set: bool, may_delete: bool, new_token: bool, invalidated: bool, resend: bool
) -> Action:
    """Decide what the response does with the cookie.

    :param may_set: this response may carry a new cookie.
    :param may_delete: this response may delete a cookie.
    :param new_token: this request put the token in place.
    :param invalidated: this request ended the session it came with.
    :param resend: the session lives, and its cookie is due again.
    """
    if new_token:
        return SET if may_set else NOTHING
    if invalidated:
        return DELETE if may_delete else NOTHING
    return SET if resend and may_set else NOTHING


class Signer(Protocol):
    def dumps(self, payload: str) -> bytes: ...

    def loads(self, value: bytes) -> tuple[str, bool]:
        """Return the payload, and whether an older secret signed it.

        :raises ValueError: the value is malformed, or not signed by us.
        """


class SecretSigner:
    """Signs with keyed BLAKE2b (RFC 7693), bound to the cookie's name.

    The value is base64url without padding (RFC 4648) of a 32 byte signature
    and the payload. Of all values that decode to these bytes it is the only
    one that is accepted (RFC 4648 12).
    """

    __slots__ = ("_bases",)

    def __init__(self, secrets: Iterable[bytes], cookie_name: str) -> None:
        self._bases = []
        for secret in secrets:
            base = hashlib.blake2b(key=derive_key(secret, b"session cookie"), digest_size=32)
            base.update(b"%d:%s" % (len(cookie_name), cookie_name.encode("ascii")))
            self._bases.append(base)

    def dumps(self, payload: str) -> bytes:
        data = payload.encode("utf-8")
        hasher = self._bases[0].copy()
        hasher.update(data)
        value = b2a_base64(hasher.digest() + data, newline=False)
        return value.translate(_TO_URLSAFE).rstrip(b"=")

    def loads(self, value: bytes) -> tuple[str, bool]:
        # Every request pays for this: encoding the bytes again, to compare, takes longer.
        standard = value.translate(_TO_STANDARD)
        rest = len(value) & 3
        if rest:
            if value[-1] not in _LAST[rest]:
                raise ValueError("bits beyond the last byte")
            standard += b"=="
        signed = a2b_base64(standard)  # binascii.Error is a ValueError
        if (len(signed) * 4 + 2) // 3 != len(value):
            raise ValueError("something else than base64url")  # a2b_base64 skips it
        data = signed[32:]
        bases = self._bases
        for base in bases:
            hasher = base.copy()
            hasher.update(data)
            if compare_digest(hasher.digest(), signed[:32]):
                return data.decode(), base is not bases[0]
        raise ValueError("bad signature")


class CustomSigner:
    """Adapts ``cookie_signer``; puts the cookie's name under the signature.

    What is signed is %-encoded: of the characters that a cookie may hold (RFC
    6265 4.1.1), for signers that leave it readable.
    """

    __slots__ = ("_salt", "_signer")

    def __init__(self, signer: Any, cookie_name: str) -> None:
        self._signer = signer
        self._salt = cookie_name + " "

    def dumps(self, payload: str) -> bytes:
        value = self._signer.dumps(quote(self._salt + payload, safe=""))
        return value.encode("latin-1") if isinstance(value, str) else bytes(value)

    def loads(self, value: bytes) -> tuple[str, bool]:
        payload = self._signer.loads(value)
        payload = unquote(payload) if isinstance(payload, str) else ""
        if not payload.startswith(self._salt):
            raise ValueError("signed for another cookie")
        return payload[len(self._salt) :], False


def cookie_values(header: str, wanted: str) -> Iterator[str]:
    """Find the values of one cookie in a ``Cookie`` header (RFC 6265 4.2.1).

    Several headers are one, with commas between (RFC 9110 5.3): that is how WSGI
    servers hand them over, and HTTP/2 lets clients send several.

    Every request pays for this, and nobody has to log in to have a header read:
    it takes a time that is proportional to the header's length. WebOb's parser
    takes one that grows with its square.
    """
    if "," in header:
        header = header.replace(",", ";")
    quotes = '"' in header
    for pair in header.split(";"):
        if wanted in pair:
            name, _, value = pair.partition("=")
            if name.strip(" \t") == wanted:
                value = value.strip(" \t")
                yield without_quotes(value) if quotes else value


def without_quotes(value: str) -> str:
    """Undo the quotes that WebOb puts around what only a foreign ``cookie_signer`` may
    issue: values with other characters than ASCII letters, digits and some marks."""
    if value[:1] == value[-1:] == '"' and 2 <= len(value) <= LONGEST_VALUE:
        return _ESCAPED.sub(_unescaped, value[1:-1])
    return value


def _unescaped(match: re.Match[str]) -> str:
    escaped = match[1]
    return chr(int(escaped, 8)) if len(escaped) == 3 else escaped


class NothingVerifies(Exception):
    """None of the cookies that have the name verifies.

    :ivar tried: how many they were.
    """

    def __init__(self, tried: int) -> None:
        super().__init__()
        self.tried = tried


class CookiePolicy:
    """Reads and writes the cookie of one factory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = settings.cookie_name
        self._tails: dict[str, str] = {}
        self._signer: Signer
        #: ``(value) -> ticket``, for values that are not too long; ``(header) -> tickets`` for
        #: headers of which one verifies.
        self._remembered = self._ticket_in
        self._remembered_of = self._tickets_in
        if settings.cookie_signer is not None:
            self._signer = CustomSigner(settings.cookie_signer, settings.cookie_name)
        else:
            self._signer = SecretSigner(settings.secret, settings.cookie_name)
            # What verified once does so again: the secrets stay the same. Errors are not kept.
            self._remembered = functools.lru_cache(REMEMBERED)(self._ticket_in)
            self._remembered_of = functools.lru_cache(REMEMBERED)(self._tickets_in)

    def read(self, header: str) -> tuple[Sequence[Ticket], bool]:
        """Find this factory's cookies in a raw ``Cookie`` header.

        There may be several of the name: other paths and domains send theirs
        along (RFC 6265 5.4).

        :param header: the header as WSGI gives it, decoded as latin-1.
        :returns: what those say that verify, in their order, at most
            ``MOST_VALUES`` being looked at; and whether any was there at all.
        """
        try:
            if len(header) <= LONGEST_REMEMBERED:
                return self._remembered_of(header), True
            return self._tickets_in(header), True
        except NothingVerifies as exc:
            return (), exc.tried > 0

    def _tickets_in(self, header: str) -> Sequence[Ticket]:
        """As :meth:`read`.

        :raises NothingVerifies: no cookie is one of ours.
        """
        tickets: list[Ticket] = []
        tried = 0
        for value in cookie_values(header, self._name):
            tried += 1
            ticket = self._verify(value)
            if ticket is not None:
                tickets.append(ticket)
            if tried == MOST_VALUES:
                break
        if not tickets:
            raise NothingVerifies(tried)
        return tuple(tickets)

    def _verify(self, value: str) -> Ticket | None:
        try:
            if len(value) <= LONGEST_REMEMBERED:
                return self._remembered(value)
            return self._ticket_in(value) if len(value) <= LONGEST_VALUE else None
        except ValueError:
            return None

    def _ticket_in(self, value: str) -> Ticket:
        """Verify a value.

        :raises ValueError: it is none of ours.
        """
        payload, outdated = self._signer.loads(value.encode("latin-1"))
        issued, max_age, name = payload.split(" ", 2)
        locator, dot, verifier = name.rpartition(".")
        if not dot:
            raise ValueError("no token")
        life = int(max_age) if max_age else None
        return Ticket(Token.of(locator, verifier), int(issued), life, outdated)

    def due(self, ticket: Ticket, environ: Mapping[str, Any]) -> bool:
        """Tell whether a cookie should be sent again: signed with an older
        secret, or persistent and past half of its life.

        A navigation sends it, of which there is one at a time: a request that a
        page makes may be overtaken by a login, whose cookie the older one would
        replace. So such a request sends it only in the last quarter of its life,
        for pages that stay open, and never for the secret.

        :param environ: of the request. A browser that does not say what a request
            is for (Fetch Metadata) is taken to navigate.
        """
        if not (ticket.outdated or ticket.max_age):
            return False
        navigates = environ.get("HTTP_SEC_FETCH_MODE", "navigate") == "navigate"
        if ticket.outdated and navigates:
            return True
        age = time.time() - ticket.issued
        return bool(ticket.max_age) and age / (ticket.max_age or 1) > (0.5 if navigates else 0.75)

    def header_to_set(
        self,
        token: Token,
        scheme: str,
        max_age: int | None,
        expires: datetime.datetime | datetime.timedelta | None,
    ) -> str:
        """Return the ``Set-Cookie`` value that carries a token.

        :param scheme: the request's, ``http`` or ``https``.
        :param max_age: life in seconds; 0 or ``None``: until the browser
            ends, 0 if the application chose so.
        :param expires: end of life, where ``max_age`` is ``None``.
        """
        now = time.time()
        if max_age is None and expires is not None:
            if isinstance(expires, datetime.timedelta):
                max_age = int(expires.total_seconds())
            else:
                if expires.tzinfo is None:
                    expires = expires.replace(tzinfo=datetime.timezone.utc)
                max_age = int(expires.timestamp() - now)
        payload = (
            f"{int(now)} {'' if max_age is None else max_age} {token.locator}.{token.verifier}"
        )
        value = self._signer.dumps(payload)
        if max_age or self._settings.cookie_signer is not None:  # its values may need quotes
            return self._make(value, max_age or None, scheme)
        tail = self._tails.get(scheme)
        if tail is None:
            # All but the value is always the same.
            head = f"{self._name}=-"
            tail = self._tails[scheme] = self._make("-", None, scheme).removeprefix(head)
        return f"{self._name}={value.decode('ascii')}{tail}"

    def header_to_delete(self, scheme: str) -> str:
        """Return the ``Set-Cookie`` value that deletes the cookie.

        It has the attributes with which the cookie was set: browsers refuse
        to delete a ``__Host-`` or ``__Secure-`` cookie otherwise.
        """
        return self._make(None, None, scheme)

    def _make(self, value: str | bytes | None, max_age: int | None, scheme: str) -> str:
        s = self._settings
        header: str = make_cookie(
            s.cookie_name,
            value,
            max_age=max_age,
            path=s.cookie_path,
            domain=s.cookie_domain,
            secure=scheme == "https" if s.cookie_secure is None else s.cookie_secure,
            httponly=s.cookie_httponly,
            comment=s.cookie_comment,
            samesite=s.cookie_samesite,
        )
        return f"{header}; Partitioned" if s.cookie_partitioned else header


def vary_on_cookie(response: Any) -> None:
    """Say that a response depends on the cookie (RFC 9110 12.5.5)."""
    headerlist = response.headerlist
    for name, _ in headerlist:
        if name.lower() == "vary":
            break
    else:
        headerlist.append(("Vary", "Cookie"))
        return
    headers = response.headers
    names = [name.strip() for line in headers.getall("Vary") for name in line.split(",")]
    if not {"cookie", "*"}.intersection(map(str.lower, names)):
        # One line: of several, WebOb's response.vary knows one, and replaces all.
        headers["Vary"] = ", ".join([*filter(None, names), "Cookie"])

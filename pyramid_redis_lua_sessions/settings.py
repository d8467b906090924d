"""The settings: one declarative table, and the parser that reads it.

Every row of the table is a field of :class:`Settings` made with
:func:`setting`: its parser, default, documentation, older spellings and, for
a setting whose meaning is gone, the note to log. The documentation page and
the parser are both made from this table.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import logging
import math
import os
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from pyramid.exceptions import ConfigurationError
from pyramid.path import DottedNameResolver
from pyramid.settings import asbool

__all__ = ["POSITIONAL", "PREFIX", "Row", "Settings", "SettingsError", "rows"]

PREFIX = "redis.sessions."

log = logging.getLogger(__package__)


class SettingsError(ConfigurationError, ValueError):
    """A setting is unknown, malformed, or clashes with another one.

    The message quotes the full key and the value (never that of a secret, nor
    one that looks like a URL).
    """


# -- parsers: (value) -> parsed value, or ValueError with what is expected -----

Parser = Callable[[Any], Any]


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a non-empty string")
    return value


def optional_text(value: Any) -> str | None:
    if value is None or value in ("", "None"):
        return None
    return text(value)


def resolved(value: str) -> str:
    """What ``env:NAME`` or ``file:PATH`` stands for; any other value is itself.

    So that a secret stands neither in a configuration file nor in a command line.

    :returns: of a file, the content without the line break at its end.
    :raises ValueError: there is no such variable or file, or it is empty.
    """
    kind, _, name = value.partition(":")
    if kind == "env":
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError('"env:" and the name of an environment variable')
        found = os.environ.get(name, "")
        if not found:
            raise ValueError(f"the environment variable {name}, which is not set, or empty")
    elif kind == "file":
        problem = "is empty"
        try:
            found = Path(name).read_text("utf-8").rstrip("\r\n")
        except OSError as exc:
            found, problem = "", f"cannot be read ({type(exc).__name__})"
        except ValueError:  # its message shows some of the content
            found, problem = "", "is no UTF-8 text"
        if not found:
            raise ValueError(f"the content of the file {name}, which {problem}")
    else:
        found = value
    return found


def secret_text(value: Any) -> str:
    return text(resolved(text(value)))


def optional_secret_text(value: Any) -> str | None:
    found = optional_text(value)
    return None if found is None else resolved(found)


def host(value: Any) -> str:
    # redis-py quotes it when it cannot connect, with the password that a URL may hold.
    if "://" in text(value):
        raise ValueError("a host name (for a URL see url)")
    return text(value)


def socket_path(value: Any) -> str | None:
    found = optional_text(value)
    if found is not None and "://" in found:
        raise ValueError("a path (for a URL see url)")
    return found


# RFC 1034 3.5, RFC 1123 2.1, with the underscore that names in use have; RFC 6265 5.2.3 has
# browsers ignore a leading dot.
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"\.?(?:{_LABEL}\.)*{_LABEL}", re.ASCII | re.IGNORECASE)
# A host whose last label is a number is an address (WHATWG URL, "ends in a number checker").
_ADDRESS = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.IGNORECASE)


def domain(value: Any) -> str | None:
    found = optional_text(value)
    if found is not None and (not _DOMAIN.fullmatch(found) or _ADDRESS.fullmatch(found)):
        raise ValueError(
            "one domain, such as example.com, without scheme, port, path or wildcard; "
            "a cookie of an address or of one host alone has none"
        )
    return found


def url_path(value: Any) -> str:
    # A browser compares it with the path of the URL, as that is sent (RFC 6265 5.1.4).
    if not re.fullmatch(r"/[!$-+\--:<-\[\]-~]*", text(value)) or "?" in value:
        raise ValueError('a path that begins with "/", %-encoded as in a URL, without query')
    return cast("str", value)


def any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def flag(value: Any) -> bool:
    if value not in (True, False) and str(value).strip().lower() not in (
        "t true y yes on 1 f false n no off 0".split()
    ):
        raise ValueError("true or false")
    return bool(asbool(value))


def optional_flag(value: Any) -> bool | None:
    return None if value is None or value in ("", "None") else flag(value)


def integer(value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = int(value)
        if number < 0 or number != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a whole number, 0 or more") from None
    return number


def positive(value: Any) -> int:
    try:
        number = integer(value)
    except ValueError:
        number = 0
    if not number:
        raise ValueError("a whole number, 1 or more")
    return number


def port(value: Any) -> int:
    try:
        number = integer(value)
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise ValueError("a port number, 1 to 65535")
    return number


#: Life of the marker that an ended session leaves, seconds.
LONGEST_GRACE = 60.0

#: A hundred years: far under the range of Redis' own millisecond clock.
MAX_SECONDS = 100 * 366 * 24 * 3600


def seconds(value: Any, most: int = MAX_SECONDS) -> float | None:
    """Seconds, fractions allowed; ``None``, ``""``, ``"None"`` and 0 mean none."""
    if value is None or value in ("", "None"):
        return None
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("a number of seconds, or None") from None
    if not math.isfinite(number) or not 0 <= number <= most:
        raise ValueError(f"a number of seconds from 0 to {most}, or None")
    if 0 < number < 0.001:
        raise ValueError("0, or at least a millisecond (0.001)")
    return number or None


def some_seconds(value: Any) -> float:
    number = seconds(value)
    return 0.0 if number is None else number


def whole_seconds(value: Any) -> int | None:
    number = seconds(value)
    if number is None:
        return None
    if number != int(number):
        raise ValueError("a whole number of seconds, or None")
    return int(number)


def dotted(value: Any) -> Any:
    """An object, or the dotted name of one."""
    if value is None or value in ("", "None"):
        return None
    try:
        return DottedNameResolver(None).maybe_resolve(value)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ValueError("a dotted name that can be imported") from exc


def function(value: Any) -> Callable[..., Any] | None:
    resolved = dotted(value)
    if resolved is not None and not callable(resolved):
        raise ValueError("a callable, or the dotted name of one")
    return cast("Callable[..., Any] | None", resolved)


def signer(value: Any) -> Any:
    resolved = dotted(value)
    if resolved is not None and not (hasattr(resolved, "loads") and hasattr(resolved, "dumps")):
        raise ValueError("an object with the methods loads and dumps, or its dotted name")
    return resolved


def serializer_function(value: Any) -> Any:
    """A callable, its dotted name, or the name of a built-in serializer."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if value in PICKLE_SPELLINGS:
            return "pickle"
        if value in BUILT_IN_SERIALIZERS:
            return value
        if "." not in value and ":" not in value:
            raise ValueError(
                f"{', '.join(BUILT_IN_SERIALIZERS)}, or a callable, or its dotted name"
            )
    resolved = function(value)
    return "pickle" if resolved in (pickle.dumps, pickle.loads) else resolved


#: Serializers that need only be named.
BUILT_IN_SERIALIZERS = ("pickle", "json", "msgpack")

#: How the predecessors' documentation and their users name the pickle functions.
PICKLE_SPELLINGS = frozenset(
    f"{module}{separator}{function}"
    for module in ("pickle", "cPickle", "_pickle")
    for separator in ".:"
    for function in ("dumps", "loads")
)


def secrets(value: Any) -> tuple[bytes, ...]:
    """One secret, or several (in an ini file, one a line): the first signs, all verify."""
    if value is None or value in ("", b""):
        return ()
    if isinstance(value, str):
        value = _lines(value)
    elif isinstance(value, bytes):
        value = [value]
    elif not isinstance(value, Iterable):
        raise ValueError("a string, or a list of strings")
    found: list[bytes] = []
    for item in value:
        if not isinstance(item, (str, bytes)):
            raise ValueError("a string, or a list of strings")
        if item and not item.strip():
            raise ValueError("something else than white space")
        if isinstance(item, str):
            behind = resolved(item)
            lines = [item] if behind == item else _lines(behind)
            found += [line.encode("utf-8") for line in lines if line]
        elif item:
            found.append(bytes(item))
    return tuple(found)


def _lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines()] if "\n" in value.strip() else [value]


def secure(value: Any) -> bool | None:
    """True, False, or ``"auto"`` (``None``): as the request's scheme says."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return None
    try:
        return flag(value)
    except ValueError:
        raise ValueError("true, false or auto") from None


def samesite(value: Any) -> str | None:
    if value is None or value == "":
        return None
    for allowed in ("Strict", "Lax", "None"):
        if isinstance(value, str) and value.strip().lower() == allowed.lower():
            return allowed
    raise ValueError("Strict, Lax or None, or empty to leave the attribute out")


def cookie_end(value: Any) -> datetime.datetime | datetime.timedelta | None:
    if value is None or isinstance(value, (datetime.datetime, datetime.timedelta)):
        return value
    raise ValueError("a datetime or timedelta, which only code can give (see cookie_max_age)")


#: What Clear-Site-Data may name: https://w3c.github.io/webappsec-clear-site-data/, and the
#: caches of single pages that browsers have besides.
SITE_DATA = (
    "cache",
    "cookies",
    "storage",
    "executionContexts",
    "clientHints",
    "prefetchCache",
    "prerenderCache",
    "*",
)

#: Libraries whose sessions can be taken over.
MIGRATE_FROM = ("pyramid_session_redis", "pyramid_redis_sessions")


def moment(value: Any) -> float | None:
    """Seconds since the epoch. A time without zone is UTC; a date counts to its end."""
    if value is None or value in ("", "None"):
        return None
    day = datetime.timedelta(0)
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ValueError
            return float(value)
        if isinstance(value, str):
            if value.strip().isdigit():
                return float(value)
            if len(value.strip()) == len("2000-01-01"):
                value = datetime.date.fromisoformat(value.strip())
            else:
                value = datetime.datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
        if not isinstance(value, datetime.datetime):
            value = datetime.datetime.combine(value, datetime.time())
            day = datetime.timedelta(days=1)
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.timezone.utc)
        return cast("float", (value + day).timestamp())
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            "a date or time (2000-01-31, 2000-01-31T12:00:00+00:00), or seconds since the epoch"
        ) from None


def not_from_ini(value: Any) -> Any:
    if isinstance(value, str):  # an empty one is not given
        raise ValueError("an object, which only code can give (see url)")
    return value


def some_of(*allowed: str) -> Parser:
    """Of a list, or a string with commas or blanks between, each item is allowed."""

    def parse(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            # Quoted, as in a header.
            value = [] if value == "None" else re.sub('[,"]', " ", value).split()
        try:
            items = tuple(value or ())
            if not set(items) <= set(allowed):
                raise ValueError
        except (TypeError, ValueError):
            raise ValueError(f"one or more of {', '.join(allowed)}") from None
        return items

    return parse


def choice(*allowed: str) -> Parser:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError(" or ".join(allowed))
        return cast("str", value)

    return parse


# -- the table -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting.

    :ivar name: its name, without the prefix ``redis.sessions.``.
    :ivar parser: makes the value from what the ini file or the code gives.
    :ivar default: the parsed default.
    :ivar doc: what it means, in reStructuredText.
    :ivar aliases: older spellings, accepted with the same meaning.
    :ivar secret: the value must not appear in an error.
    :ivar gone: for a setting without effect: why, logged when it is given.
    """

    name: str
    parser: Parser
    default: Any
    doc: str
    aliases: tuple[str, ...]
    secret: bool
    gone: str | None


def setting(
    parser: Parser,
    default: Any,
    doc: str,
    *aliases: str,
    secret: bool = False,
    gone: str | None = None,
) -> Any:
    """Declare one row of the table as a field of :class:`Settings`."""
    metadata = {"parser": parser, "doc": doc, "aliases": aliases, "secret": secret, "gone": gone}
    return dataclasses.field(default=default, metadata=metadata, repr=False)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All options of one session factory, parsed and checked.

    Times are seconds, as in the ini file; ``None`` means never or none.
    """

    # Secrets and what they protect
    secret: tuple[bytes, ...] = setting(
        secrets,
        (),
        "Signs the cookie and seals every stored value. At least 32 random bytes. Several "
        "(in an ini file, one a line) let you rotate: the first signs, all verify. Exactly one "
        "of ``secret`` and ``cookie_signer`` must be given. See :ref:`references` for "
        "``env:NAME`` and ``file:PATH``.",
        secret=True,
    )
    cookie_signer: Any = setting(
        signer,
        None,
        "An object that signs the cookie instead of ``secret``: ``dumps(str) -> bytes`` and "
        "``loads(bytes) -> str``, which raises ``ValueError`` for what it did not sign. "
        "Values are then sealed with ``seal_secret``. See :ref:`cookie-signer`.",
    )
    seal_secret: tuple[bytes, ...] = setting(
        secrets,
        (),
        "Seals the stored values where ``cookie_signer`` takes the place of ``secret``. Takes "
        "several, like ``secret``.",
        secret=True,
    )
    seal: bool = setting(
        flag,
        True,
        "Authenticate every stored value, so that write access to Redis does not let anybody "
        "invent or alter one. ``false`` stores bare bytes, for sharing them with other programs.",
    )
    allow_unsealed_pickle: bool = setting(
        flag,
        False,
        "Allow the pickle serializer with ``seal = false``. Whoever can write to Redis can then "
        "run code in your application.",
    )

    encryption_key: tuple[bytes, ...] = setting(
        secrets,
        (),
        "Encrypt the stored values with AES-GCM instead of only sealing them. Needs the extra "
        "``encryption``. Takes several, like ``secret``: the first encrypts, all decrypt. Key "
        "names stay readable. Values stored before are read, and encrypted when they are met.",
        secret=True,
    )

    # Lifetimes
    timeout: float | None = setting(
        seconds,
        1200.0,
        "Idle timeout in seconds: a session ends that long after its last request. ``0`` or "
        "``None``: never. A changed value applies to live sessions too.",
    )
    timeout_trigger: float | None = setting(
        seconds,
        None,
        "Refresh the idle timeout only when the remaining life has fallen to that many seconds. "
        "A request before that writes nothing in Redis. For a session with a timeout of its own "
        "it is the same share of that: with 900 of 1200, three quarters.",
    )
    absolute_timeout: float | None = setting(
        seconds,
        None,
        "End a session that many seconds after its creation, whatever its activity.",
    )
    first_timeout: float | None = setting(
        seconds,
        None,
        "Life in seconds of a new session until its cookie comes back for the first time, so "
        "that clients without cookies cannot fill Redis.",
    )
    set_redis_ttl: bool = setting(
        flag,
        True,
        "Let Redis expire sessions. ``false`` sets no TTL, for a Redis that evicts as an LRU "
        "cache; timeouts then stand in the session itself and are enforced by the scripts.",
    )

    owner_sessions: int = setting(
        positive,
        100,
        "Most sessions that one owner may have; one more ends the oldest. See "
        "``request.session.owner``.",
    )

    # Concurrency
    on_conflict: str = setting(
        choice("merge", "retry"),
        "merge",
        "What happens when overlapping requests change the same session. ``merge``: different "
        "keys never clash, on one key the last writer wins. ``retry``: a request whose reads were "
        "outdated by another one raises ``SessionConflict``, which ``pyramid_retry`` repeats.",
    )
    grace: float = setting(
        some_seconds,
        5.0,
        "Seconds for which a request that carries the id of a session just ended counts as one "
        "in flight: it sees an empty session, and touches neither Redis nor the cookie.",
    )

    # The cookie
    cookie_name: str = setting(text, "session", "Name of the cookie.")
    cookie_max_age: int | None = setting(
        whole_seconds,
        None,
        "Life of the cookie in seconds; ``None``: until the browser ends. A persistent cookie is "
        "sent again when a page is opened after half of it; see :ref:`cookie-sent-again`.",
    )
    cookie_path: str = setting(
        url_path,
        "/",
        "``Path`` attribute: of requests for URLs under it a browser sends the cookie.",
    )
    cookie_domain: str | None = setting(
        domain,
        None,
        "``Domain`` attribute, such as ``example.com``: the hosts under it share the cookie. "
        "Empty: only the host that set it gets it back.",
    )
    cookie_secure: bool | None = setting(
        secure,
        None,
        "``Secure`` attribute. ``auto``: when the request came over https; see "
        ":ref:`behind-a-proxy`.",
    )
    cookie_httponly: bool = setting(flag, True, "``HttpOnly`` attribute.")
    cookie_samesite: str | None = setting(
        samesite, "Lax", "``SameSite`` attribute: ``Strict``, ``Lax``, ``None``; empty: left out."
    )
    cookie_partitioned: bool = setting(
        flag,
        False,
        "``Partitioned`` attribute (CHIPS), for an application that other sites embed in a frame: "
        "a browser keeps one cookie for each of them. Needs ``cookie_secure = true``, and "
        "``cookie_samesite = None`` to be sent there.",
    )
    cookie_expires: datetime.datetime | datetime.timedelta | None = setting(
        cookie_end,
        None,
        "End of the cookie as a ``datetime`` or ``timedelta``; from code only. "
        "``cookie_max_age`` takes precedence.",
    )
    cookie_comment: str | None = setting(optional_text, None, "``Comment`` attribute.")
    cookie_on_exception: bool = setting(
        flag,
        True,
        "Send the cookie of a new session also when the request ended in an exception (an "
        "unhandled one, or one rendered with a status of 400 or above).",
    )
    func_check_response_allow_cookies: Callable[..., Any] | None = setting(
        function,
        None,
        "``(response) -> bool``: may this response carry the cookie? "
        "``pyramid_redis_lua_sessions.check_response_allow_cookies`` says no to responses with "
        "``Expires`` or ``Cache-Control``.",
    )

    clear_site_data: tuple[str, ...] = setting(
        some_of(*SITE_DATA),
        (),
        "What a browser is to remove at a logout, with ``Clear-Site-Data``: one or more of "
        + ", ".join(f"``{item}``" for item in SITE_DATA)
        + ". See :ref:`clear-site-data`.",
    )

    # Saving
    save_on_exception: bool = setting(
        flag,
        True,
        "Keep the changes of a request that ended in an exception. (Under ``pyramid_tm`` an "
        "transaction that fails leaves no trace, whatever this says.)",
    )
    detect_changes: bool = setting(
        flag,
        True,
        "Find values that were changed in place. ``false``: only assignments and "
        "``session.changed()`` count.",
    )
    invalidate_empty_session: bool = setting(
        flag,
        False,
        "End a session from which a request removed the last value. The cookie stays.",
    )
    deserialized_fails_new: bool = setting(
        flag,
        True,
        "Give the user a new session where the stored one is corrupt. ``false`` raises "
        "``RawDeserializationError``.",
    )
    func_invalid_logger: Callable[..., Any] | None = setting(
        function,
        None,
        "``(request, exception)``: called for every session refused and for changes that could "
        "not be kept, with an ``InvalidSession``.",
    )
    serialize: Any = setting(
        lambda value: serializer_function(value) or "pickle",
        "pickle",
        "``pickle``, ``json``, ``msgpack``, or a callable ``(value) -> bytes``. ``pickle.dumps`` "
        "means ``pickle``.",
    )
    deserialize: Any = setting(
        serializer_function, None, "The inverse of ``serialize``: ``(bytes) -> value``."
    )
    id_generator: Callable[[], str] | None = setting(
        function,
        None,
        "``() -> str``: makes session ids. The default gives 256 random bits.",
    )
    prefix: str = setting(any_text, "session:", "Prefix of the sessions' keys in Redis.")

    # Redis
    redis_url: str | None = setting(
        optional_secret_text,
        None,
        "Address of Redis: ``redis://user:password@host:port/db``, ``rediss://…`` (TLS), "
        "``unix:///path?db=0``, ``redis+sentinel://host1:port,host2:port/service/db`` or "
        "``redis+cluster://host1:port,host2:port``; see :doc:`deployment`. It takes precedence "
        "over host, port, db, password and socket path.",
        "url",
        secret=True,
    )
    redis_host: str = setting(host, "localhost", "Host of Redis.", "host")
    redis_port: int = setting(port, 6379, "Port of Redis.", "port")
    redis_db: int = setting(integer, 0, "Database number.", "db")
    redis_password: str | None = setting(
        optional_secret_text, None, "Password of Redis.", "password", secret=True
    )
    redis_unix_socket_path: str | None = setting(
        socket_path, None, "Path of Redis' unix socket.", "unix_socket_path"
    )
    redis_socket_timeout: float | None = setting(
        seconds, 2.0, "Seconds to wait for a reply.", "socket_timeout"
    )
    redis_socket_connect_timeout: float | None = setting(
        seconds, 2.0, "Seconds to wait for a connection.", "socket_connect_timeout"
    )
    redis_max_connections: int = setting(
        integer, 50, "Most connections a process holds; further requests wait for one."
    )
    redis_retries: int = setting(
        integer,
        1,
        "How often a call is repeated after a lost connection. See :doc:`deployment` for what "
        "it does to the time that a page waits.",
        "retries",
    )
    redis_encoding: str | None = setting(
        optional_text, None, "Passed to the redis client.", "encoding", "charset"
    )
    redis_encoding_errors: str | None = setting(
        optional_text,
        None,
        "Passed to the redis client.",
        "encoding_errors",
        "redis_errors",
        "errors",
    )
    redis_connection_pool: Any = setting(
        not_from_ini,
        None,
        "A ``redis.ConnectionPool`` to use; from code only.",
        "connection_pool",
    )
    redis_client_callable: Callable[..., Any] | None = setting(
        function,
        None,
        "``(request, **redis_options) -> client``: makes the redis client. At application start "
        "the request is ``None``.",
        "client_callable",
    )
    on_redis_error: str = setting(
        choice("raise", "ephemeral"),
        "raise",
        "What a request gets whose session cannot be loaded because Redis cannot be reached. "
        "``raise``: the error ``StoreUnavailable``. ``ephemeral``: an empty session that is not "
        "stored and leaves the cookie alone, so that public pages stay up. Saves, logins and "
        "logouts raise in both modes.",
    )
    preload_scripts: bool = setting(flag, True, "Load the Lua scripts when the application starts.")

    # Moving in from another library
    migrate_from: tuple[str, ...] = setting(
        some_of(*MIGRATE_FROM),
        (),
        "Take over the sessions of ``pyramid_session_redis``, ``pyramid_redis_sessions``, or both "
        "(with a comma between): their cookies are accepted, and each session is converted when "
        "its user comes back. See :doc:`migrating`.",
    )
    migrate_until: float | None = setting(
        moment,
        None,
        "Refuse their cookies and sessions from then on: a date (to its end, UTC), a time, or "
        "seconds since the epoch. ``None``: never.",
    )
    migrate_deserialize: Any = setting(
        serializer_function,
        None,
        "How they stored a session: ``pickle``, ``json``, ``msgpack``, or a callable "
        "``(bytes) -> payload``. By default ``deserialize`` where that is a callable, else "
        "``pickle``.",
    )

    # Settings whose meaning is gone
    python_expires: bool = setting(
        flag,
        True,
        "No effect: lifetimes are always computed from Redis' clock.",
        gone="lifetimes are always enforced, by the clock of Redis",
    )
    set_redis_ttl_readheavy: bool | None = setting(
        optional_flag,
        None,
        "No effect: a session is always read and refreshed in one round trip.",
        gone="a session is always read and refreshed in one round trip",
    )

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], prefix: str = "") -> Settings:
        """Parse options that code or an ini file gave.

        :param options: name, in any accepted spelling, to raw value.
        :param prefix: what to put before a name in an error (``redis.sessions.``
            for settings of an ini file).
        :raises SettingsError: an option is unknown, given in two spellings
            that differ, malformed, or clashes with another one.
        """
        given: dict[str, tuple[str, Any]] = {}
        for name, raw in options.items():
            row = _BY_NAME.get(name)
            if row is None:
                near = difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.6)
                hint = f"; did you mean {prefix}{near[0]}?" if near else ""
                raise SettingsError(
                    f"unknown setting {_quote(prefix + name, raw, hide=True)}{hint}"
                )
            other = given.get(row.name)
            if other is not None and other[1] != raw:
                raise SettingsError(
                    f"{prefix}{other[0]} and {prefix}{name} are one setting with two values"
                )
            given[row.name] = (name, raw)
        parsed = {}
        for row_name, (name, raw) in given.items():
            row = _BY_NAME[row_name]
            if row.gone is not None:
                log.warning("%s%s has no effect: %s", prefix, name, row.gone)
            try:
                parsed[row_name] = row.parser(raw)
            except ValueError as exc:
                if raw is None or raw in ("", "None"):
                    continue  # the predecessors' "not given", where it has no other meaning
                # A URL that stands in a wrong place may hold a password.
                hide = row.secret or "://" in repr(raw)
                quoted = _quote(prefix + name, raw, hide)
                # What the parser met in turn (a failed import) quotes the value as well.
                raise SettingsError(f"{quoted} should be {exc}") from (None if hide else exc)
        return cls(**parsed)

    @classmethod
    def from_ini(cls, settings: Mapping[str, Any]) -> Settings:
        """Parse the ``redis.sessions.*`` settings of an application.

        :param settings: an application's settings; other keys are ignored.
        :raises SettingsError: as :meth:`from_options`.
        """
        found = {
            key[len(PREFIX) :]: value
            for key, value in settings.items()
            if isinstance(key, str) and key.startswith(PREFIX)
        }
        return cls.from_options(found, PREFIX)


def rows() -> list[Row]:
    """Return the table of settings, in the order of its declaration."""
    return [
        Row(name=field.name, default=field.default, **field.metadata)
        for field in dataclasses.fields(Settings)
    ]


_BY_NAME: dict[str, Row] = {name: row for row in rows() for name in (row.name, *row.aliases)}

#: The names of the positional arguments of ``RedisSessionFactory``, in the
#: order in which ``pyramid_session_redis`` 1.8.1 takes them.
POSITIONAL = (
    "secret",
    "timeout",
    "cookie_name",
    "cookie_max_age",
    "cookie_path",
    "cookie_domain",
    "cookie_secure",
    "cookie_httponly",
    "cookie_expires",
    "cookie_comment",
    "cookie_samesite",
    "cookie_on_exception",
    "redis_url",
    "redis_host",
    "redis_port",
    "redis_db",
    "redis_password",
    "redis_client_callable",
    "serialize",
    "deserialize",
    "id_generator",
    "set_redis_ttl",
    "set_redis_ttl_readheavy",
    "detect_changes",
    "deserialized_fails_new",
    "func_check_response_allow_cookies",
    "func_invalid_logger",
    "timeout_trigger",
    "python_expires",
    "cookie_signer",
    "redis_socket_timeout",
    "redis_connection_pool",
    "redis_encoding",
    "redis_encoding_errors",
    "redis_unix_socket_path",
    "invalidate_empty_session",
)


def _quote(key: str, value: Any, hide: bool) -> str:
    return key if hide else f"{key} = {value!r}"


#: Secrets that stand in documentation and tutorials, so attackers try them; in small letters.
SAMPLE_SECRETS = frozenset(
    line.strip().encode("ascii")
    for line in """
        secret
        mysecret
        my-secret
        my_secret
        my-secret-key
        my_secret_key
        secretkey
        secret-key
        secret_key
        supersecret
        super-secret
        super-secret-key
        super_secret_key
        your-secret
        your_secret
        your-secret-here
        your-secret-key
        your_secret_key
        your-secret-key-here
        your_secret_key_here
        your-256-bit-secret
        your-super-secret-key
        your-very-long-secret-key
        a-string-secret-at-least-256-bits-long
        this-is-a-secret
        this is a secret
        this-is-a-very-long-secret-key
        changeme
        change-me
        change_me
        changeit
        change-this
        change-this-secret
        change-this-secret-key
        change-me-in-production
        change-this-in-production
        change-this-to-a-random-string
        change-this-to-a-long-random-string
        please-change-me
        replace-me
        replace-with-a-long-random-string
        a-very-long-random-string
        itsaseekreet
        seekrit
        s3cr3t
        password
        the old secret, of at least thirty-two bytes
        the new secret, of at least thirty-two bytes
        another secret, of at least thirty-two bytes
        for tests only, at least 32 bytes
    """.strip().splitlines()
)


def _check(settings: Settings) -> None:
    """Refuse combinations that cannot work, at the moment of configuration."""
    s = settings
    if bool(s.secret) == (s.cookie_signer is not None):
        raise SettingsError(
            "give exactly one of redis.sessions.secret and redis.sessions.cookie_signer"
        )
    if s.secret and s.seal_secret:
        raise SettingsError(
            "redis.sessions.seal_secret goes with redis.sessions.cookie_signer; "
            "with redis.sessions.secret the values are sealed by that"
        )
    if s.cookie_signer is not None and s.seal and not s.seal_secret:
        raise SettingsError(
            "redis.sessions.cookie_signer without redis.sessions.secret needs "
            "redis.sessions.seal_secret to seal the stored values"
        )
    if s.encryption_key and not s.seal:
        raise SettingsError(
            "redis.sessions.encryption_key does not go with redis.sessions.seal = False: "
            "encrypted values are authenticated too"
        )
    for name in ("secret", "seal_secret", "encryption_key"):
        found = getattr(s, name)
        if any(item.lower() in SAMPLE_SECRETS for item in found):
            log.warning(
                "redis.sessions.%s is a well-known sample value; anybody can guess it", name
            )
        elif any(len(item) < 32 for item in found):
            log.warning("redis.sessions.%s is shorter than 32 bytes", name)
    if callable(s.serialize) != callable(s.deserialize):
        raise SettingsError(
            "redis.sessions.serialize and redis.sessions.deserialize must undo each other: "
            "give two functions of your own, or the name of one built-in serializer"
        )
    if not callable(s.serialize) and s.deserialize not in (None, s.serialize):
        raise SettingsError(
            f"redis.sessions.serialize = {s.serialize!r} does not go with "
            f"redis.sessions.deserialize = {s.deserialize!r}"
        )
    if not s.seal and s.serialize == "pickle" and not s.allow_unsealed_pickle:
        raise SettingsError(
            "redis.sessions.seal = False with redis.sessions.serialize = 'pickle' would run code "
            "that an intruder leaves in Redis; choose another serializer, or set "
            "redis.sessions.allow_unsealed_pickle = true"
        )
    _check_cookie(s)
    _check_times(s)


def _check_cookie(s: Settings) -> None:
    # RFC 6265 4.1.1: a cookie name is an RFC 2616 token.
    if not s.cookie_name.isascii() or any(
        c in '()<>@,;:\\"/[]?={} \t' or not c.isprintable() for c in s.cookie_name
    ):
        raise SettingsError(f"redis.sessions.cookie_name = {s.cookie_name!r} is no cookie name")
    if s.cookie_name.startswith("$") or s.cookie_name.lower() in _ATTRIBUTE_NAMES:
        raise SettingsError(f"redis.sessions.cookie_name = {s.cookie_name!r} is reserved")
    comment = s.cookie_comment or ""
    if not comment.isprintable() or ";" in comment or not comment.isascii():
        raise SettingsError(f"redis.sessions.cookie_comment = {comment!r} cannot stand in a cookie")
    for name, value in (
        ("cookie_samesite", "None"),
        ("cookie_partitioned", True),
    ):
        if getattr(s, name) == value and s.cookie_secure is not True:
            raise SettingsError(
                f"redis.sessions.{name} = {value!r} needs redis.sessions.cookie_secure = true: "
                "browsers refuse such a cookie without Secure"
            )
    # Cookie name prefixes: RFC 6265bis 4.1.3. A browser takes them in any case.
    lowered = s.cookie_name.lower()
    needs = []
    if lowered.startswith(("__host-", "__http-", "__secure-")) and s.cookie_secure is not True:
        needs.append("redis.sessions.cookie_secure = true")
    if lowered.startswith(("__host-http-", "__http-")) and not s.cookie_httponly:
        needs.append("redis.sessions.cookie_httponly = true")
    if lowered.startswith("__host-") and (s.cookie_path != "/" or s.cookie_domain is not None):
        needs.append("redis.sessions.cookie_path = / and no redis.sessions.cookie_domain")
    if needs:
        raise SettingsError(
            f"redis.sessions.cookie_name = {s.cookie_name!r} needs {', '.join(needs)}"
        )


_ATTRIBUTE_NAMES = frozenset(
    "path comment domain max-age expires secure httponly samesite partitioned".split()
)


def _check_times(s: Settings) -> None:
    if s.grace > LONGEST_GRACE:
        raise SettingsError(
            f"redis.sessions.grace = {s.grace:g} is longer than the {LONGEST_GRACE:g} seconds for "
            "which Redis remembers that a session has ended"
        )
    # Who comes from pyramid_session_redis may have either.
    if s.timeout_trigger is not None and s.timeout is None:
        log.warning("redis.sessions.timeout_trigger has no effect: there is no timeout")
    elif s.timeout_trigger is not None and s.timeout_trigger > cast("float", s.timeout):
        log.warning("redis.sessions.timeout_trigger has no effect: it is longer than the timeout")

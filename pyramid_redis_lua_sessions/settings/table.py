"""The table of settings, and the reading of an application's own by it.

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
from collections.abc import Callable, Mapping
from typing import Any

from .checks import SettingsError, check
from .parsers import (
    SITE_DATA,
    Parser,
    any_text,
    choice,
    cookie_end,
    domain,
    flag,
    function,
    host,
    integer,
    life,
    limit,
    moment,
    not_from_ini,
    optional_choice,
    optional_flag,
    optional_secret_text,
    optional_text,
    plain_path,
    port,
    samesite,
    seconds,
    secrets,
    secure,
    serializer_function,
    signer,
    socket_path,
    some_of,
    some_seconds,
    text,
    url_path,
    whole_seconds,
)
from .predecessors import MIGRATE_FROM, not_given
from .profiles import PROFILES, of_profile

PREFIX = "redis.sessions."

log = logging.getLogger(__name__.partition(".")[0])


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

    # All at once
    profile: str | None = setting(
        optional_choice(*PROFILES),
        None,
        "Sets cookie, lifetimes, limits and seals to what a standard asks: ``asvs-l2``, OWASP ASVS "
        "5.0 at level 2. Anything set by hand wins. See :ref:`profile`.",
    )

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
        "names stay readable. Values that were stored before are read, and encrypted when their "
        "user comes back. See :ref:`encryption`.",
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
        "A read before that writes nothing in Redis. A session with a timeout of its own has the "
        "same share of that: with 900 of 1200, three quarters. See :ref:`trigger`.",
    )
    last_seen: bool = setting(
        flag,
        False,
        "Have every load tell when the session was used before it: ``session.last_seen``. It costs "
        "Redis a little more; see :ref:`session-clock`.",
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
        "that clients without cookies cannot fill Redis. See :ref:`first-timeout`.",
    )
    set_redis_ttl: bool = setting(
        flag,
        True,
        "Let Redis expire sessions. ``false`` sets no TTL, for a Redis that evicts as an LRU "
        "cache; timeouts then stand in the session itself and are enforced by the scripts.",
    )

    owner_sessions: int | Callable[..., Any] = setting(
        limit,
        100,
        "Most sessions that one owner may have: a number, or ``(request, owner) -> int``, which "
        "is asked at each login. See :doc:`limits`.",
    )
    owner_sessions_policy: str = setting(
        choice("end_oldest", "refuse", "end_others"),
        "end_oldest",
        "What a login beyond that number does. ``end_oldest`` ends the oldest. ``refuse`` "
        "raises ``TooManySessions`` at the save point. ``end_others`` ends all others.",
    )

    device_page_fresh: float | None = setting(
        seconds,
        None,
        "Seconds within which users must have confirmed their password to see "
        ":doc:`the page of their devices <device-page>`; needs ``confirm_route``.",
    )

    # Concurrency
    on_conflict: str = setting(
        choice("merge", "retry"),
        "merge",
        "What happens when overlapping requests change the same session. ``merge``: different "
        "keys never clash, on one key the last writer wins. ``retry``: if another request changed "
        "what this one had read, ``SessionConflict`` is raised, and ``pyramid_retry`` runs the "
        "request again. See :doc:`decisions`.",
    )
    grace: float = setting(
        some_seconds,
        5.0,
        "Seconds for which a request with the cookie of a session that has just ended, or got a "
        "new token, counts as one under way: it sees an empty session, and leaves Redis and the "
        "cookie alone.",
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
        "``Path`` attribute: a browser sends the cookie with requests for URLs under it.",
    )
    cookie_domain: str | None = setting(
        domain,
        None,
        "``Domain`` attribute, such as ``example.com``: the hosts under it share the cookie. "
        "Empty: the browser sends it back to the host that set it, and to no other.",
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

    # Binding to a device
    device_binding: bool = setting(
        flag,
        False,
        "Bind sessions to the device of the browser, where that can (Device Bound Session "
        "Credentials): a copied cookie is worthless within minutes. Needs the extra ``device``, "
        "and https. See :doc:`devices`.",
    )
    device_binding_lifetime: int = setting(
        life,
        300,
        "Life of the device cookie in seconds. A browser proves its device that often.",
    )
    device_binding_path: str = setting(
        plain_path,
        "/.well-known/device-session",
        "Path under which browsers register and refresh: ``POST`` to ``register`` and ``refresh``.",
    )

    # Saving
    save_on_exception: bool = setting(
        flag,
        True,
        "Keep the changes of a request that ended in an exception. (Under ``pyramid_tm`` a "
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
    confirm_route: str | None = setting(
        optional_text,
        None,
        "Name of the route of the page where a user confirms the password: a view with the option "
        "``fresh`` sends those there who have not done so for too long. See :ref:`confirm`.",
    )
    serialize: Any = setting(
        lambda value: serializer_function(value) or "pickle",
        "pickle",
        "``pickle``, ``json``, ``msgpack``, or a callable ``(value) -> bytes``. ``pickle.dumps`` "
        "means ``pickle``. Values that ``json`` or ``msgpack`` would give back as another type are "
        "refused.",
    )
    deserialize: Any = setting(
        serializer_function, None, "The inverse of ``serialize``: ``(bytes) -> value``."
    )
    id_generator: Callable[[], str] | None = setting(
        function,
        None,
        "``() -> str``: makes session ids. The default gives 128 random bits. An id opens nothing: "
        "the cookie carries 128 random bits beside it, whatever makes the ids.",
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
        "How often a call is repeated after a lost connection. :ref:`hang` says how long a page "
        "waits then.",
        "retries",
    )
    redis_encoding: str | None = setting(
        optional_text, None, "Passed to the Redis client.", "encoding", "charset"
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
        "What happens when a session cannot be loaded because Redis cannot be reached. "
        "``raise``: the request gets the error ``StoreUnavailable``. ``ephemeral``: it gets an "
        "empty session that is not stored and leaves the cookie alone, so public pages stay up. "
        "Saves, logins and logouts raise in both modes. See :doc:`outages`.",
    )
    preload_scripts: bool = setting(flag, True, "Load the Lua scripts when the application starts.")

    # Watching
    observe: tuple[str, ...] = setting(
        some_of("prometheus", "otel"),
        (),
        "What measures the sessions: ``prometheus``, ``otel`` (OpenTelemetry), or both (with "
        "a comma between). Each needs the extra of its name; see :doc:`monitoring`.",
    )

    publish_endings: bool = setting(
        flag,
        False,
        "Publish in Redis that a session has ended, so that connections which are still open can "
        "learn of it; see :doc:`endings`.",
    )

    # Migrating from another library
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
        check(self)

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
            other, value = given.setdefault(row.name, (name, raw))
            if not_given(value):
                given[row.name] = (name, raw)
            elif not not_given(raw) and raw != value:
                raise SettingsError(
                    f"{prefix}{other} and {prefix}{name} are one setting with two values"
                )
        parsed = {}
        for row_name, (name, raw) in given.items():
            row = _BY_NAME[row_name]
            if row.gone is not None:
                log.warning("%s%s has no effect: %s [docs: settings]", prefix, name, row.gone)
            try:
                parsed[row_name] = row.parser(raw)
            except ValueError as exc:
                if not_given(raw):
                    continue
                # A URL that stands in a wrong place may hold a password.
                hide = row.secret or "://" in repr(raw)
                quoted = _quote(prefix + name, raw, hide)
                # What the parser met in turn (a failed import) quotes the value as well.
                raise SettingsError(f"{quoted} should be {exc}") from (None if hide else exc)
        if parsed.get("profile") is not None:
            parsed = of_profile(parsed["profile"], parsed)
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


def _quote(key: str, value: Any, hide: bool) -> str:
    return key if hide else f"{key} = {value!r}"


_BY_NAME: dict[str, Row] = {name: row for row in rows() for name in (row.name, *row.aliases)}

"""Where Redis is: the URLs of one server, of Sentinel, and of Redis Cluster."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from redis.cluster import REDIS_ALLOWED_KEYS
from redis.connection import URL_QUERY_ARGUMENT_PARSERS

from ..settings import SettingsError
from ..settings.parsers import flag, integer, positive, seconds, secret_text, text

__all__ = ["OPTIONS", "Address", "parse_url"]

REDIS_PORT = 6379
SENTINEL_PORT = 26379


class Address(NamedTuple):
    """Where Redis is, and what its URL says beyond that.

    :ivar kind: ``redis``, ``sentinel`` or ``cluster``.
    :ivar secure: over TLS.
    :ivar hosts: (host, port): of Redis, of the sentinels, or of some nodes.
    :ivar options: of redis-py's connections and pool; credentials and ``db`` among them.
    :ivar path: of the unix socket, instead of hosts.
    :ivar service: name under which the sentinels know the primary.
    :ivar sentinel: options of redis-py's connections to the sentinels.
    """

    kind: str
    secure: bool
    hosts: list[tuple[str, int]]
    options: dict[str, Any] = {}
    path: str | None = None
    service: str = ""
    sentinel: dict[str, Any] = {}


def _one_of(*values: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in values:
            raise ValueError(", ".join(values[:-1]) + f" or {values[-1]}")
        return value

    return parse


def _protocol(value: str) -> int:
    return int(_one_of("2", "3")(value))


def _client_name(value: str) -> str:
    # What CLIENT SETNAME takes.
    if not re.fullmatch("[!-~]+", value):
        raise ValueError("printable ASCII characters, without spaces")
    return value


def _encoding(value: str) -> str:
    try:
        "".encode(value)
    except (LookupError, ValueError):
        raise ValueError("an encoding that Python knows") from None
    return value


def _encoding_errors(value: str) -> str:
    try:
        codecs.lookup_error(value)
    except (LookupError, ValueError):
        raise ValueError("an error handler of Python's codecs, such as strict or replace") from None
    return value


#: Options that a URL may carry, with redis-py's names and meanings.
OPTIONS: dict[str, Any] = {
    # What a newer redis-py can read besides; of these, a list cannot be given in a URL.
    **{name: parse for name, parse in URL_QUERY_ARGUMENT_PARSERS.items() if parse is not list},
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout", "timeout"), seconds),
    **dict.fromkeys(("db", "health_check_interval"), integer),
    **dict.fromkeys(("max_connections", "socket_read_size"), positive),
    **dict.fromkeys(
        (
            "decode_responses",
            "retry_on_timeout",
            "socket_keepalive",
            "ssl_check_hostname",
            "ssl_validate_ocsp",
            "ssl_validate_ocsp_stapled",
        ),
        flag,
    ),
    **dict.fromkeys(
        (
            "ssl_ca_certs",
            "ssl_ca_data",
            "ssl_ca_path",
            "ssl_certfile",
            "ssl_ciphers",
            "ssl_keyfile",
            "username",
        ),
        text,
    ),
    **dict.fromkeys(("password", "ssl_password"), secret_text),
    "client_name": _client_name,
    "encoding": _encoding,
    "encoding_errors": _encoding_errors,
    "protocol": _protocol,
    "ssl_cert_reqs": _one_of("none", "optional", "required"),
}

#: Of the options above, what means nothing to a connection to a sentinel.
_NOT_FOR_SENTINELS = frozenset(("db", "max_connections", "timeout"))

_SENTINEL_OPTIONS = {
    **{
        f"sentinel_{name}": parse
        for name, parse in OPTIONS.items()
        if name not in _NOT_FOR_SENTINELS
    },
    "sentinel_ssl": flag,
    "min_other_sentinels": integer,
}

_SHAPES = {
    "redis": "redis://user:password@host:port/db",
    "unix": "unix:///path?db=0",
    "sentinel": "redis+sentinel://user:password@host1:port,host2:port/service/db",
    "cluster": "redis+cluster://user:password@host1:port,host2:port",
}

_SCHEMES = {
    "redis": ("redis", False),
    "rediss": ("redis", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}

# One host of a list; an IPv6 address stands in brackets.
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[^\[\]]+)?\]|[^\s\[\]:@]+)(?::(?P<port>.*))?")


def parse_url(url: str, name: str) -> Address:
    """Read a URL.

    :param name: what to call it in an error.
    :raises SettingsError: it is malformed. The message says which part is
        wrong, and quotes no value: a password with special characters that
        are not %-encoded may have landed in any part.
    """

    def wrong(part: str, shape: str) -> SettingsError:
        # redis-py's own messages, and urllib's, may quote a part of the password.
        return SettingsError(
            f"{name} has a wrong {part}: expected {_SHAPES[shape]}, "
            "with special characters of a password %-encoded"
        )

    try:
        parts = urlsplit(url)
    except ValueError:
        raise wrong("host", "redis") from None
    kind, secure = _SCHEMES.get(parts.scheme, ("", False))
    if not kind or not url[len(parts.scheme) :].startswith("://"):
        schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise SettingsError(f"{name} has a wrong scheme: expected one of {schemes}")
    if parts.fragment:
        raise wrong("part after '#'", kind)
    userinfo, at, netloc = parts.netloc.rpartition("@")
    if not at and ("@" in parts.path or "@" in parts.query):
        raise wrong("user or password", kind)
    known = {**OPTIONS, **(_SENTINEL_OPTIONS if kind == "sentinel" else {})}
    if kind == "cluster":
        known = {key: parse for key, parse in known.items() if key in REDIS_ALLOWED_KEYS}
    if not secure:
        known = {key: parse for key, parse in known.items() if not key.startswith("ssl_")}
    options = _query(parts.query, known, name)
    username, _, password = userinfo.partition(":")
    if username:
        options["username"] = unquote(username)
    if password:
        try:
            options["password"] = secret_text(unquote(password))
        except ValueError as exc:
            raise SettingsError(f"{name} has a wrong password: expected {exc}") from None

    if kind == "unix":
        if netloc or not parts.path.strip("/"):
            raise wrong("path", kind)
        return Address("redis", False, [], options, unquote(parts.path))

    default_port = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
    if not netloc and kind == "redis":
        netloc = "localhost"
    hosts = []
    for entry in netloc.split(","):
        found = _HOST.fullmatch(entry)
        if not found:
            raise wrong("host", kind)
        port = found["port"] or str(default_port)
        if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            raise wrong("port", kind)
        hosts.append((unquote(found["host"]).strip("[]"), int(port)))
    if kind == "redis" and len(hosts) > 1:
        raise wrong("host (several need redis+sentinel:// or redis+cluster://)", kind)

    steps = [unquote(step) for step in parts.path.split("/")[1:]]
    service = ""
    if kind == "sentinel":
        service = steps.pop(0) if steps else ""
        if not service:
            raise wrong("service name", kind)
    db, *rest = steps or [""]
    if rest or not re.fullmatch("[0-9]*", db):
        raise wrong("db", kind)
    if db:
        options.setdefault("db", int(db))
    if kind == "cluster" and options.pop("db", 0):
        raise wrong("db (redis-py uses only 0 of a cluster)", kind)
    sentinel = {key: options.pop(key) for key in list(options) if key in _SENTINEL_OPTIONS}
    if not sentinel.get("sentinel_ssl", secure):
        for key in sentinel:
            if key.startswith("sentinel_ssl_"):
                raise SettingsError(f"{name} has a wrong option {key}: it needs sentinel_ssl=true")
    return Address(kind, secure, hosts, options, None, service, sentinel)


def _query(query: str, known: Mapping[str, Any], name: str) -> dict[str, Any]:
    options = {}
    for key, (raw, *_) in parse_qs(query, keep_blank_values=True).items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            if key in OPTIONS:
                hint = "; it does not go with this scheme"
            shown = f" {key}" if key.isidentifier() else ""
            raise SettingsError(f"{name} has an unknown option{shown}{hint}")
        parse = known[key]
        try:
            options[key] = parse(raw)
        except (TypeError, ValueError) as exc:
            # Our own parsers say what is expected; redis-py's messages may quote.
            ours = parse not in URL_QUERY_ARGUMENT_PARSERS.values()
            expected = f": expected {exc}" if ours else ""
            raise SettingsError(f"{name} has a wrong option {key}{expected}") from None
    return options

"""From settings to a redis-py client: one server, Sentinel or Redis Cluster.

Everything travels through redis-py's own classes. What is derived from them
here bounds how long a call may take, and mends what would cost a call in a
failover.
"""

from __future__ import annotations

import codecs
import copy
import difflib
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from queue import Empty, LifoQueue
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.cluster import REDIS_ALLOWED_KEYS, ClusterNode, RedisCluster
from redis.connection import URL_QUERY_ARGUMENT_PARSERS
from redis.exceptions import MaxConnectionsError, RedisError, TimeoutError
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from .settings import Settings, SettingsError, flag, integer, positive, seconds, text

__all__ = ["Address", "client_at", "client_options", "longest_repeat", "make_client", "parse_url"]

log = logging.getLogger(__package__)

_metrics: Any = None
try:
    from redis.observability.providers import get_observability_instance as _metrics
except ImportError:
    pass  # an older redis-py, which has no metrics

REDIS_PORT = 6379
SENTINEL_PORT = 26379

# redis-py gives these no types.
_ClusterNode: Any = ClusterNode

#: Seconds between two tries at most.
LONGEST_BACKOFF = 0.5

#: Seconds to wait for a sentinel; it answers from memory, and there are others.
SENTINEL_TIMEOUT = 0.5

#: Seconds after which the sentinels are asked again who the primary is, while it is used.
ASK_AGAIN = 1.0


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the options that ``redis_client_callable`` is called with.

    The names are those of ``redis.Redis``, and the set is the one that both
    predecessors document.
    """
    options: dict[str, Any] = {
        "host": settings.redis_host,
        "port": settings.redis_port,
        "db": settings.redis_db,
        "password": settings.redis_password,
        "socket_timeout": settings.redis_socket_timeout,
        "connection_pool": settings.redis_connection_pool,
        "unix_socket_path": settings.redis_unix_socket_path,
    }
    if settings.redis_encoding is not None:
        options["encoding"] = settings.redis_encoding
    if settings.redis_encoding_errors is not None:
        options["encoding_errors"] = settings.redis_encoding_errors
    return options


def make_client(settings: Settings) -> Any:
    """Make the client of one factory: ``Redis`` or ``RedisCluster``. It connects on first use.

    Its pool is bounded, and a request waits for a connection rather than
    failing at once. A call is repeated after a lost connection: every script
    has the effect of one call when it is sent twice.

    :raises SettingsError: the URL is malformed.
    """
    if settings.redis_connection_pool is not None:
        return redis.Redis(connection_pool=settings.redis_connection_pool)
    if settings.redis_max_connections < 1:
        raise SettingsError("redis.sessions.redis_max_connections = 0 should be 1 or more")
    options: dict[str, Any] = {
        "socket_timeout": settings.redis_socket_timeout,
        "socket_connect_timeout": settings.redis_socket_connect_timeout,
        "max_connections": settings.redis_max_connections,
        "timeout": settings.redis_socket_timeout,
    }
    for name in ("encoding", "encoding_errors"):
        value = getattr(settings, f"redis_{name}")
        if value is not None:
            try:
                options[name] = _OPTIONS[name](value)
            except ValueError as exc:
                message = f"redis.sessions.redis_{name} = {value} should be {exc}"
                raise SettingsError(message) from None
    if settings.redis_url is not None:
        address = parse_url(settings.redis_url, "redis.sessions.url")
    else:
        hosts = [(settings.redis_host, settings.redis_port)]
        credentials = {"db": settings.redis_db, "password": settings.redis_password}
        address = Address("redis", False, hosts, credentials, settings.redis_unix_socket_path)
    return client_at(address, options, settings.redis_retries)


def longest_repeat(settings: Settings) -> float:
    """How long after a call was sent the client may send it again, seconds.

    The connection for it is tried as often as the call. A server that answers each
    line of its greeting at the last moment can take longer; that is left out.

    :returns: infinity where only the application knows, or without timeouts.
    """
    if settings.redis_client_callable is not None or settings.redis_connection_pool is not None:
        return math.inf
    given: Mapping[str, Any] = {}
    asking = 0.0
    if settings.redis_url is not None:
        address = parse_url(settings.redis_url, "redis.sessions.url")
        given = address.options
        if address.kind == "sentinel":
            asking = SENTINEL_TIMEOUT * len(address.hosts)
    reply = given.get("socket_timeout", settings.redis_socket_timeout)
    connect = given.get("socket_connect_timeout", settings.redis_socket_connect_timeout)
    if None in (reply, connect):
        return math.inf
    retries = settings.redis_retries
    return float(retries * (reply + (retries + 1) * (asking + connect + LONGEST_BACKOFF)))


# -- addresses -------------------------------------------------------------------


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
_OPTIONS: dict[str, Any] = {
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
            "password",
            "ssl_ca_certs",
            "ssl_ca_data",
            "ssl_ca_path",
            "ssl_certfile",
            "ssl_ciphers",
            "ssl_keyfile",
            "ssl_password",
            "username",
        ),
        text,
    ),
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
        for name, parse in _OPTIONS.items()
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
    known = {**_OPTIONS, **(_SENTINEL_OPTIONS if kind == "sentinel" else {})}
    if kind == "cluster":
        known = {key: parse for key, parse in known.items() if key in REDIS_ALLOWED_KEYS}
    if not secure:
        known = {key: parse for key, parse in known.items() if not key.startswith("ssl_")}
    options = _query(parts.query, known, name)
    username, _, password = userinfo.partition(":")
    if username:
        options["username"] = unquote(username)
    if password:
        options["password"] = unquote(password)

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
        raise wrong("db (a cluster has only 0)", kind)
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
            if key in _OPTIONS:
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


# -- clients ---------------------------------------------------------------------


def client_at(address: Address, defaults: Mapping[str, Any], retries: int) -> Any:
    """Make the client of an address.

    :param defaults: options, where the address has none of its own.
    :param retries: how often a call is repeated after a lost connection.
    :raises SettingsError: redis-py does not take the options.
    """
    options = {**defaults, **address.options}
    try:
        if address.kind == "cluster":
            return _cluster(address, options, retries)
        # redis-py's own default of many retries holds a page for a minute.
        options["retry"] = _retry(retries)
        if address.kind == "sentinel":
            return _primary(address, options)
        return _single(address, options)
    except (TypeError, ValueError, RedisError, OSError) as exc:
        # The message may quote a value.
        raise SettingsError(
            f"redis-py refuses the options of its connection ({type(exc).__name__})"
        ) from None


def _retry(retries: int) -> Retry:
    return Retry(ExponentialWithJitterBackoff(base=0.05, cap=LONGEST_BACKOFF), retries)


def _single(address: Address, options: dict[str, Any]) -> redis.Redis:
    if address.path is not None:
        options.update(path=address.path, connection_class=redis.UnixDomainSocketConnection)
    else:
        ((options["host"], options["port"]),) = address.hosts
        options["connection_class"] = redis.SSLConnection if address.secure else redis.Connection
    pool = cast("Any", Pool)(queue_class=_Turns, **options)
    pool.connection_class(**pool.connection_kwargs)  # does not connect: are the options good?
    return redis.Redis.from_pool(pool)


class _Turns(LifoQueue[Any]):
    """The connections of a pool. Who waits for one in vain learns why."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return super().get(block, timeout)
        except Empty:
            # Not Empty, for which redis-py raises the error of a lost connection.
            raise MaxConnectionsError("no connection became free in time") from None


class Pool(redis.BlockingConnectionPool):
    """Connections to one server; who finds all in use waits.

    When a server is lost, redis-py disconnects the connections of its pool that
    are free, one by one, whatever becomes of them meanwhile: a thread that has
    just taken one would meet a TypeError. Here none is taken before all are done.

    A connection that is free and ready is handed out the short way. redis-py's
    own way notes every step for its metrics, also where nobody collects them;
    it is taken where somebody does, and for a connection that has to be made,
    or mended, or waited for.
    """

    def get_connection(self, *args: Any, **options: Any) -> Any:
        pool = cast("Any", self)
        if _short_way(pool):
            pool._checkpid()
            try:
                connection = pool.pool.get_nowait()
            except MaxConnectionsError:
                pass
            else:
                if _is_ready(connection):
                    return connection
                pool.pool.put_nowait(connection)
        return cast("Any", super()).get_connection(*args, **options)

    def release(self, connection: Any) -> None:
        pool = cast("Any", self)
        ready = pool.owns_connection(connection) and not connection.should_reconnect()
        if ready and _short_way(pool):
            pool._checkpid()
            pool.pool.put_nowait(connection)
        else:
            cast("Any", super()).release(connection)

    def disconnect_free_connections(self, *args: Any, **options: Any) -> None:
        self._checkpid()  # else this process may own neither the queue nor its lock
        with self._lock, self.pool.mutex:
            cast("Any", super()).disconnect_free_connections(*args, **options)

    def disconnect(self, inuse_connections: bool = True) -> None:
        self._checkpid()
        with self._lock, self.pool.mutex:
            super().disconnect(inuse_connections)


def _short_way(pool: Any) -> bool:
    if getattr(pool, "_in_maintenance", False):
        return False
    return _metrics is None or _metrics().get_provider_manager() is None


def _is_ready(connection: Any) -> bool:
    """Whether a connection can be used as it is: it is connected, and nothing is unread."""
    if getattr(connection, "_sock", None) is None:
        return False
    try:
        return not connection.can_read()
    except (RedisError, OSError):
        return False


# -- Sentinel --------------------------------------------------------------------


def _primary(address: Address, options: dict[str, Any]) -> redis.Redis:
    """Make a client of the primary that the sentinels name at each connect."""
    own = dict(address.sentinel)
    fewest = own.pop("min_other_sentinels", 0)
    asking: dict[str, Any] = {
        "socket_timeout": SENTINEL_TIMEOUT,
        "socket_connect_timeout": SENTINEL_TIMEOUT,
        # The next sentinel is the retry.
        "retry": Retry(NoBackoff(), 0),
    }
    if own.pop("sentinel_ssl", address.secure):
        asking["ssl"] = True
        asking.update((key, val) for key, val in options.items() if key.startswith("ssl_"))
    asking.update((key.removeprefix("sentinel_"), val) for key, val in own.items())
    sentinel = cast("Any", Sentinels)(
        address.hosts, min_other_sentinels=fewest, sentinel_kwargs=asking
    )
    kind = PrimarySSLConnection if address.secure else PrimaryConnection
    client = sentinel.master_for(
        address.service,
        connection_pool_class=PrimaryPool,
        connection_class=kind,
        queue_class=_Turns,
        **options,
    )
    kind(**client.connection_pool.connection_kwargs)  # are the options good?
    return cast("redis.Redis", client)


class Sentinels(Sentinel):
    """Sentinels that are asked who the primary is; the first good answer counts.

    The sentinel that leads a failover names the old primary until the last of the replicas
    follows the new one, while the others know better: it is asked last.
    """

    sentinels: list[Any]
    named_by_leader: tuple[str, int] | None = None

    def discover_master(self, service_name: str) -> tuple[str, int]:
        # redis-py swaps the sentinels in a list of all threads: two of them may lose one.
        own = copy.copy(self)
        own.sentinels = list(self.sentinels)
        own.named_by_leader = None
        try:
            found = cast("Any", super(Sentinels, own)).discover_master(service_name)
        except MasterNotFoundError:
            if own.named_by_leader is None:
                raise
            found = own.named_by_leader
        self.sentinels = own.sentinels
        return cast("tuple[str, int]", found)

    def check_master_state(self, state: Mapping[str, Any], service_name: str) -> bool:
        if not cast("Any", super()).check_master_state(state, service_name):
            return False
        if "failover_in_progress" in state["flags"]:
            self.named_by_leader = (state["ip"], state["port"])
            return False
        return True

    def over_own_connections(self) -> Sentinels:
        """The same sentinels, in the same order, and nothing shared with these."""
        hosts = [one.connection_pool.connection_kwargs for one in self.sentinels]
        anew = cast("Any", Sentinels)(
            [(host["host"], host["port"]) for host in hosts],
            min_other_sentinels=self.min_other_sentinels,
            sentinel_kwargs=self.sentinel_kwargs,
        )
        return cast("Sentinels", anew)


class PrimaryPool(SentinelConnectionPool, Pool):
    """Connections to the primary; who finds all in use waits.

    In a planned failover nothing ends the connections to the old primary, and it takes writes
    until the sentinels make a replica of it, about ten seconds later: all that is then lost. So
    while connections are handed out the sentinels are asked in the background once a second.
    Nobody waits for that, and an idle process asks nobody.
    """

    _asked = -math.inf
    _asking: threading.Thread | None = None

    def get_connection(self, *args: Any, **options: Any) -> Any:
        now = time.monotonic()
        if now - self._asked > ASK_AGAIN:
            self._asked = now
            self._ask()
        return cast("Any", super()).get_connection(*args, **options)

    def _ask(self) -> None:
        if self.master_address is None:
            return  # the connection that is about to be made asks
        # In a process that was forked off the thread of the other one is not alive.
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._follow, daemon=True)
            try:
                self._asking.start()
            except RuntimeError as exc:  # there are too many threads, or the interpreter ends
                log.debug("no thread to ask the sentinels: %s", exc)

    def _follow(self) -> None:
        """Leave the old primary where the sentinels name another one."""
        # A process may be forked off meanwhile: it must not meet locks that this thread holds.
        sentinels = self.sentinel_manager.over_own_connections()
        try:
            address = sentinels.discover_master(self.service_name)
            if address != self.master_address:
                self.proxy.master_address = address
                # Connections in use are ended when they come back: see owns_connection().
                self.disconnect(inuse_connections=False)
        except Exception as exc:
            log.debug("the sentinels name no primary (%s)", type(exc).__name__)
        finally:
            for sentinel in sentinels.sentinels:
                sentinel.close()


class _AskAgain:
    """A connection that asks the sentinels again when a command is repeated.

    redis-py does so in ``connect``; within a call that it repeats, it goes
    back to the old address.
    """

    def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        if retry_socket_connect:
            cast("Any", self).connect()
        else:  # this is connect(), with the address that the sentinels gave
            cast("Any", super()).connect_check_health(check_health, retry_socket_connect)


class PrimaryConnection(_AskAgain, SentinelManagedConnection):
    """A connection to the primary."""


class PrimarySSLConnection(_AskAgain, SentinelManagedSSLConnection):
    """A connection to the primary over TLS."""


# -- Redis Cluster ---------------------------------------------------------------


def _cluster(address: Address, options: dict[str, Any], retries: int) -> RedisCluster:
    connection_class = redis.SSLConnection if address.secure else redis.Connection
    pooling = {"max_connections", "timeout"}
    trial = {key: value for key, value in options.items() if key not in pooling}
    connection_class(**trial)  # does not connect: are the options good?
    return LazyCluster(address, options, retries)


class _Deadline(threading.local):
    """When the current call of this thread has to give up; ``None`` = never."""

    at: float | None = None

    def remaining(self) -> float:
        return math.inf if self.at is None else self.at - time.monotonic()


class LazyCluster(RedisCluster):
    """A cluster client that connects on first use, and gives up in time.

    redis-py's own connects when it is made, so that an application could not
    start without its Redis. And after a failure it asks one node after the
    other for the slots, in one thread after the other: where all nodes hang,
    that adds up.
    """

    def __init__(self, address: Address, options: Mapping[str, Any], retries: int) -> None:
        # Attributes that are not there are looked up in __getattr__: these are.
        self.__dict__.update(_address=address, _given=dict(options), _retries=retries)
        self.__dict__["_deadline"] = deadline = _Deadline()
        timeouts = (options["socket_timeout"], options["socket_connect_timeout"])
        self.__dict__["_patience"] = (
            None if None in timeouts else (retries + 1) * max(cast("Iterable[float]", timeouts))
        )
        self.__dict__["_connecting"] = _TimedLock(deadline)

    def __getattr__(self, name: str) -> Any:
        """Connect: redis-py's attributes are made by that."""
        if name.startswith("__") or "_connecting" not in self.__dict__:
            raise AttributeError(name)
        with self._connecting:
            if name not in self.__dict__ and not self._connecting.nested:
                self._connect()
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(name) from None

    def _connect(self) -> None:
        first, *others = self._address.hosts
        scheme = "rediss" if self._address.secure else "redis"
        host = f"[{first[0]}]" if ":" in first[0] else first[0]
        before = set(self.__dict__)
        try:
            # Of the ways to make one, only that with a URL takes a pool's class.
            super().__init__(
                url=f"{scheme}://{host}:{first[1]}",
                startup_nodes=[_ClusterNode(*other) for other in others],
                retry=_retry(self._retries),
                # A shard that is lost must not take the others with it.
                require_full_coverage=False,
                connection_pool_class=NodePool,
                queue_class=_queue_class(self._deadline),
                **self._given,
            )
            # Threads that meet a failure together ask for the slots one after the other.
            cast("Any", self.nodes_manager)._initialization_lock = _TimedLock(self._deadline)
        except BaseException:
            for name in set(self.__dict__) - before:
                del self.__dict__[name]  # so that the next call connects
            raise

    def execute_command(self, *args: Any, **options: Any) -> Any:
        execute = cast("Any", super()).execute_command
        deadline = self._deadline
        if self._patience is None or deadline.at is not None:
            return execute(*args, **options)
        deadline.at = time.monotonic() + self._patience
        try:
            return execute(*args, **options)
        finally:
            deadline.at = None

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> Any:
        node = cast("Any", super()).get_node(host, port, node_name)
        if node is None and node_name:
            # The target of an ASK that owns no slot yet; redis-py fails for want of it.
            host, _, text_port = node_name.rpartition(":")
            node = _ClusterNode(host, int(text_port), "primary")
            self.nodes_manager.nodes_cache[node.name] = node
        return node

    def close(self) -> None:
        if "nodes_manager" in self.__dict__:
            super().close()


class _TimedLock:
    """A reentrant lock that is waited for no longer than the call has time."""

    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline
        self._lock = threading.RLock()
        self._depth = 0

    @property
    def nested(self) -> bool:
        return self._depth > 1

    def __enter__(self) -> None:
        remaining = self._deadline.remaining()
        if not self._lock.acquire(timeout=-1 if remaining == math.inf else max(0.0, remaining)):
            raise TimeoutError("the cluster did not answer in time")
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._lock.release()


def _queue_class(deadline: _Deadline) -> type[_Turns]:
    class Turns(_Turns):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            remaining = deadline.remaining()
            if remaining <= 0:
                raise TimeoutError("the cluster did not answer in time")
            if remaining < math.inf:
                timeout = remaining if timeout is None else min(timeout, remaining)
            return super().get(block, timeout)

    return Turns


class NodePool(Pool):
    """Connections to one node; who finds all in use waits.

    redis-py's cluster client returns a connection a second time, and to
    another node's pool, where that node cannot be reached after a redirection.
    Two threads would then share it, and read each other's replies.
    """

    def __init__(self, **options: Any) -> None:
        self._holders: dict[Any, int] = {}
        self._local = threading.local()
        cast("Any", super()).__init__(**options)

    def get_connection(self, *args: Any, **options: Any) -> Any:
        self._local.taking = True
        try:
            connection = cast("Any", super()).get_connection(*args, **options)
        finally:
            self._local.taking = False
        self._holders[connection] = threading.get_ident()
        return connection

    def release(self, connection: Any) -> None:
        if not self._local.__dict__.get("taking"):  # else it could not be connected
            if self._holders.get(connection) != threading.get_ident():
                return
            del self._holders[connection]
        cast("Any", super()).release(connection)

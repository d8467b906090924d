"""Checks of one server, over one connection to it.

What the user may not ask is left out, and said so: the application needs none
of it.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from ..engine.scripts import SCRIPTS
from ..settings import Settings
from .console import duration, plural, size
from .findings import FAILED, NOTE, OK, WARNING, Finding, cli, conf, ini
from .stats import percentile
from .target import TIMEOUT_SECONDS, Target

__all__ = ["Node", "check_clocks", "check_node", "needed_commands"]

OLDEST = (6, 2)

#: Calls whose round trip is measured.
CALLS = 200

#: Median round trip, ms, from which on pages feel it.
SLOW_MS = 5.0

#: Difference of two clocks, ms, that is worth mending.
MOST_SKEW_MS = 2000

#: A replica that is so far behind would lose a lot in a failover.
MOST_LAG_SECONDS = 10
MOST_LAG_BYTES = 1024 * 1024

MAY_NOT = "the user may not ask"


class Node:
    """One server, over one connection.

    :ivar may_write: a check may write to a key of its own.
    :ivar skew_ms: its clock, ahead of this machine's; ``None`` until measured.
    """

    def __init__(self, single: Any, target: Target, may_write: bool = True) -> None:
        self.single = single
        self.target = target
        self.may_write = may_write
        self.skew_ms: float | None = None

    @cached_property
    def info(self) -> dict[str, Any]:
        """What INFO says; empty where the user may not ask."""
        try:
            found: dict[str, Any] = self.single.info()
        except ResponseError:
            return {}
        return found

    def config(self, name: str) -> str | None:
        """Return a setting; ``None`` where there is none, or the user may not ask."""
        try:
            found = self.single.config_get(name)
        except ResponseError:
            return None
        return str(found[name]) if name in found else None

    @cached_property
    def version(self) -> tuple[int, ...]:
        numbers = re.findall(r"\d+", self.greeting.get("version", ""))
        return tuple(map(int, numbers[:3]))

    @cached_property
    def greeting(self) -> dict[str, str]:
        """What HELLO says, which every user may ask."""
        reply = self.single.execute_command("HELLO")
        if not isinstance(reply, dict):
            reply = dict(zip(reply[::2], reply[1::2], strict=True))
        return {_text(name): _text(value) for name, value in reply.items()}

    @cached_property
    def user(self) -> str:
        try:
            return _text(self.single.execute_command("ACL WHOAMI"))
        except ResponseError:
            return str(self.single.connection_pool.connection_kwargs.get("username") or "default")

    @cached_property
    def compact_limit(self) -> tuple[str, int] | None:
        """Name and value of the setting that bounds the compact form of hashes, bytes."""
        for name in ("hash-max-listpack-value", "hash-max-ziplist-value"):  # before 7.0
            found = self.config(name)
            if found is not None:
                return name, int(found)
        return None

    @property
    def jemalloc(self) -> bool:
        return "jemalloc" in str(self.info.get("mem_allocator", "jemalloc"))

    @property
    def is_local(self) -> bool:
        """The connection does not leave this machine."""
        connection = self.single.connection
        return bool(getattr(connection, "path", None)) or _is_loopback(connection.host)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


# -- the checks ------------------------------------------------------------------------


def check_server(node: Node) -> Iterator[Finding]:
    name, version = "Redis", node.greeting.get("version", "?")
    if "valkey" in (node.info.get("server_name"), node.greeting.get("server")):
        name, version = "Valkey", str(node.info.get("valkey_version", version))
    mode = node.greeting.get("mode", "?")
    words = f"{name} {version}, {mode}"
    if "uptime_in_seconds" in node.info:
        words += f", up for {duration(1000 * node.info['uptime_in_seconds'])}"
    data = {"server": name.lower(), "version": version, "mode": mode}
    if mode == "cluster" and not isinstance(node.target.client, RedisCluster):
        words += ": sessions that are on its other nodes cannot be reached; use redis+cluster://"
        connection = node.single.connection
        change = ini(f"url = {_url(node, connection.host, connection.port, '+cluster')}")
        yield Finding(WARNING, "server", words, data, changes=change)
    elif node.version < OLDEST:
        yield Finding(FAILED, "server", f"{words}: too old, at least 6.2 is needed", data)
    else:
        yield Finding(OK, "server", words, data)


def check_connection(node: Node) -> Iterator[Finding]:
    words = f"as user {node.user}"
    if isinstance(node.single.connection, redis.SSLConnection):
        yield Finding(OK, "connection", f"{words}, over TLS")
    elif node.is_local:
        yield Finding(OK, "connection", f"{words}, within this machine")
    else:
        yield Finding(
            WARNING,
            "connection",
            f"{words}, without TLS: whoever can listen on the network between sees session ids, "
            "values and the password; use rediss:// unless that network is your own",
            changes=ini(f"url = rediss://{node.user}:env:REDIS_PASSWORD@HOST:PORT/0"),
        )


def check_scripts(node: Node) -> Iterator[Finding]:
    scripts = list(SCRIPTS.values())
    try:
        held = node.single.script_exists(*(script.sha1 for script in scripts))
    except ResponseError:
        yield Finding(NOTE, "scripts", f"not known whether they are loaded: {MAY_NOT}")
        return
    missing = [script.name for script, there in zip(scripts, held, strict=True) if not there]
    data = {"missing": missing}
    if missing:
        yield Finding(
            NOTE,
            "scripts",
            f"not loaded: {', '.join(missing)}; the application loads them when it starts, or "
            "when it calls them (load-scripts does so now)",
            data,
        )
    else:
        yield Finding(OK, "scripts", f"all {len(scripts)} are loaded", data)


def check_round_trip(node: Node) -> Iterator[Finding]:
    """Time calls; from the fastest one, compare the clocks."""
    times, fastest = [], float("inf")
    for _ in range(CALLS):
        began = time.time() * 1000
        start = time.perf_counter()
        now = node.single.execute_command("TIME")
        took = (time.perf_counter() - start) * 1000
        times.append(took)
        if took < fastest:
            fastest = took
            node.skew_ms = now[0] * 1000 + now[1] / 1000 - (began + took / 2)
    times.sort()
    median, p99 = percentile(times, 50), percentile(times, 99)
    words = f"median {median:.2f} ms, 99 % within {p99:.2f} ms ({CALLS} calls)"
    data = {"median_ms": median, "p99_ms": p99}
    if median > SLOW_MS:
        words += "; a page that reads and writes its session waits twice as long"
        yield Finding(WARNING, "round trip", words, data)
    else:
        yield Finding(OK, "round trip", words, data)


def check_clock(node: Node) -> Iterator[Finding]:
    skew = node.skew_ms or 0.0
    data = {"skew_ms": skew}
    if abs(skew) <= MOST_SKEW_MS:
        yield Finding(OK, "clock", f"{abs(skew):.1f} ms from this machine's", data)
        return
    yield Finding(
        WARNING,
        "clock",
        f"{duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this machine's: sessions "
        "end by the clock of Redis, but the age of cookies, migrate_until and logs go by this one",
        data,
    )


def check_clocks(nodes: Iterable[Node]) -> Iterator[Finding]:
    """Compare the clocks of all primaries of a cluster."""
    skews = [node.skew_ms for node in nodes if node.skew_ms is not None]
    spread = max(skews) - min(skews)
    if spread > MOST_SKEW_MS:
        yield Finding(
            WARNING,
            "clock",
            f"the primaries' clocks are up to {duration(spread)} apart: a session that gets a new "
            "id may move to another node, and ends earlier or later by that",
            {"spread_ms": spread},
        )


def check_memory(node: Node) -> Iterator[Finding]:
    policy, settings = node.info.get("maxmemory_policy"), node.target.settings
    if policy is None:
        yield Finding(NOTE, "memory", f"maxmemory and maxmemory-policy are not known: {MAY_NOT}")
        return
    most, used = node.info["maxmemory"], node.info["used_memory"]
    evicted = node.info.get("evicted_keys", 0)
    data = {
        "maxmemory_policy": policy,
        "maxmemory": most,
        "used_memory": used,
        "evicted_keys": evicted,
    }
    level, meaning = policy_means(
        policy,
        settings.set_redis_ttl,
        settings.absolute_timeout is not None,
        bool(settings.timeout) and not settings.timeout_trigger,
    )
    if most:
        limit = f"{size(used)} used, {used / most:.0%} of maxmemory"
        if policy == "noeviction" and used > 0.9 * most:
            level = max(level, WARNING, key=(OK, NOTE, WARNING, FAILED).index)
    else:
        limit = f"{size(used)} used, and no maxmemory is set: the machine's memory is the limit"
        if settings.set_redis_ttl:
            level = NOTE
    if evicted:
        limit += f"; {plural(evicted, 'key')} evicted since the server started"
        level = max(level, WARNING, key=(OK, NOTE, WARNING, FAILED).index)
    wanted = "noeviction" if settings.set_redis_ttl else "allkeys-lru"
    changes = conf(f"maxmemory-policy {wanted}") if level != OK and policy != wanted else ()
    if most and level == WARNING and not changes:
        changes = conf(f"maxmemory {2 * most}")
    words = f"{limit}. maxmemory-policy {policy} {meaning}"
    yield Finding(level, "memory", words, data, changes=changes)


def policy_means(
    policy: str, with_ttl: bool, index_has_ttl: bool, refreshed: bool
) -> tuple[str, str]:
    """Say what a ``maxmemory-policy`` does to sessions.

    :param with_ttl: ``set_redis_ttl``: sessions have a TTL.
    :param index_has_ttl: so have the indexes of owners (``absolute_timeout``).
    :param refreshed: each request that uses a session refreshes its timeout.
    """
    which, _, how = policy.partition("-")
    if not with_ttl and which != "allkeys":
        return FAILED, (
            "never evicts a session, as set_redis_ttl = false gives them no TTL: memory fills up "
            "until Redis refuses writes; choose allkeys-lru"
        )
    if policy == "noeviction":
        return OK, (
            "never evicts: at maxmemory, requests that change a session fail, but nobody is "
            "logged out"
        )
    level, victims = {
        "random": (WARNING, "sessions at random, those of active users among them"),
        "ttl": (NOTE, "the sessions that are nearest to their end"),
        "lfu": (NOTE, "the sessions used least often, new logins among them"),
        "lru": (NOTE, "the sessions not used for longest"),
        # By last modification, of which a refreshed timeout is one.
        "lrm": (NOTE, "the sessions not used for longest")
        if refreshed
        else (
            WARNING,
            "the sessions not changed for longest, those of the most active users among them, as "
            "with timeout_trigger, or without a timeout, a visit changes nothing; choose "
            f"{which}-lru",
        ),
    }.get(how, (NOTE, "sessions, but which ones is not known of this policy"))
    words = f"ends, at maxmemory, {victims}"
    if which == "allkeys" or index_has_ttl:
        words += "; an owner's index may go, too, and revoke() then misses sessions of that owner"
    return level, words


def check_persistence(node: Node) -> Iterator[Finding]:
    info = node.info
    if "aof_enabled" not in info:
        yield Finding(NOTE, "persistence", f"not known: {MAY_NOT}")
        return
    save, fsync = node.config("save"), node.config("appendfsync")
    stops = node.config("stop-writes-on-bgsave-error") != "no"
    if info.get("aof_enabled") and info.get("aof_last_write_status") == "err":
        yield Finding(
            FAILED, "persistence", "the append-only file cannot be written: Redis refuses writes"
        )
    if info.get("rdb_last_bgsave_status") == "err" and stops and save != "":
        yield Finding(
            FAILED, "persistence", "the last snapshot failed: Redis refuses writes (MISCONF)"
        )
    if info["aof_enabled"]:
        lost = {
            "always": "a crash loses nothing that was acknowledged",
            "no": "a crash loses what the system had not written yet, half a minute or more",
        }.get(fsync or "", "a crash loses about the last second")
        words = f"append-only file: {lost}, endings of sessions included"
        yield Finding(OK, "persistence", words, {"aof": True, "appendfsync": fsync})
    elif save == "":
        yield Finding(
            NOTE,
            "persistence",
            "none: when Redis restarts, every user is logged out",
            {"aof": False, "save": save},
            changes=conf("appendonly yes"),
        )
    else:
        when = "" if save is None else f" (save {save})"
        yield Finding(
            NOTE,
            "persistence",
            f"snapshots only{when}: after a crash Redis is where the last one was taken: later "
            "sessions are gone, and sessions that ended since live again",
            {"aof": False, "save": save},
            changes=conf("appendonly yes"),
        )


def check_replication(node: Node) -> Iterator[Finding]:
    info = node.info
    role = node.greeting.get("role", "?")
    if role not in ("master", "primary"):
        words = "this is a replica: it refuses writes"
        primary = _url(node, info["master_host"], info["master_port"]) if info else ""
        changes = ini(f"url = {primary}") if primary else ()
        yield Finding(FAILED, "replication", words, changes=changes)
        return
    if "connected_slaves" not in info:
        yield Finding(NOTE, "replication", f"a primary; its replicas are not known: {MAY_NOT}")
        return
    replicas = [info[f"slave{number}"] for number in range(info["connected_slaves"])]
    if not replicas:
        yield Finding(
            NOTE,
            "replication",
            "no replica: when this server is lost, so are its sessions",
            {"replicas": 0},
        )
        return
    behind = max(info["master_repl_offset"] - replica["offset"] for replica in replicas)
    lag = max(replica.get("lag", 0) for replica in replicas)
    apart = [r for r in replicas if r["state"] != "online"]
    words = f"{plural(len(replicas), 'replica')}, at most {size(max(0, behind))} and {lag} s behind"
    data = {"replicas": len(replicas), "bytes_behind": behind, "seconds_behind": lag}
    if apart:
        words += f"; {len(apart)} not in step yet ({', '.join({r['state'] for r in apart})})"
    if apart or lag > MOST_LAG_SECONDS or behind > MOST_LAG_BYTES:
        yield Finding(WARNING, "replication", words, data)
        return
    fewest = node.config("min-replicas-to-write")
    if fewest == "0":
        words += "; a failover forgets what they lack (min-replicas-to-write bounds that)"
    yield Finding(OK, "replication", words, data)


def _url(node: Node, host: str, port: int, kind: str = "") -> str:
    """The address of another server, for the same user."""
    known = node.single.connection_pool.connection_kwargs
    secure = "s" if isinstance(node.single.connection, redis.SSLConnection) else ""
    who = f"{node.user}:env:REDIS_PASSWORD@" if known.get("password") else ""
    path = "" if kind else f"/{known.get('db') or 0}"
    return f"redis{secure}{kind}://{who}{host}:{port}{path}"


def check_access(node: Node) -> Iterator[Finding]:
    """Find out whether strangers get in without a password."""
    if getattr(node.single.connection, "path", None) and node.config("port") in (None, "0"):
        yield Finding(OK, "access", "over a unix socket: its file's permissions decide who may")
        return
    if not _enters_without_password(node):
        yield Finding(OK, "access", "nobody gets in without a password")
        return
    bind, protected = node.config("bind"), node.config("protected-mode")
    open_to_all = "the default user needs no password"
    if bind is None:
        # Redis does not say where it listens: judge by how it was reached.
        words = f"{open_to_all}, and who else reaches this server is not known: {MAY_NOT}"
        yield Finding(NOTE if node.is_local else FAILED, "access", words)
        return
    names = [name.removeprefix("-") for name in bind.split()]
    public = not names or any(not _is_loopback(name) for name in names)
    # Redis 6.2 counts only without an explicit bind as protected.
    refuses = protected == "yes" and (node.version >= (7, 0) or not names)
    data = {"bind": bind, "protected_mode": protected}
    password = conf("requirepass A-LONG-RANDOM-PASSWORD")
    if not public:
        words = f"{open_to_all}, but Redis listens on this machine only (bind {bind})"
        yield Finding(NOTE, "access", words, data)
    elif refuses:
        words = (
            f"{open_to_all} and Redis listens on the network (bind {bind or '*'}): only its "
            "protected mode keeps others out; set a password"
        )
        yield Finding(WARNING, "access", words, data, changes=password)
    else:
        words = (
            f"{open_to_all} and Redis listens on the network (bind {bind or '*'}): whoever reaches "
            "it can read and end all sessions; set a password (requirepass, or ACL)"
        )
        yield Finding(FAILED, "access", words, data, changes=password)


def _enters_without_password(node: Node) -> bool:
    own = node.single.connection
    # A refusal is no lost connection, but redis-py would try again.
    options: dict[str, Any] = {"socket_timeout": TIMEOUT_SECONDS, "retry": Retry(NoBackoff(), 0)}
    if getattr(own, "path", None):
        options["unix_socket_path"] = own.path
    else:
        options.update(host=own.host, port=own.port)
        if isinstance(own, redis.SSLConnection):
            kwargs = node.single.connection_pool.connection_kwargs
            options.update((k, v) for k, v in kwargs.items() if k.startswith("ssl_"))
            options["ssl"] = True
    try:
        with redis.Redis(**options) as stranger:
            stranger.execute_command("DBSIZE")
    except NoPermissionError:
        return True  # let in, though not allowed this
    except RedisError:
        return False  # refused, as by AuthenticationError; or not let as far as that
    return True


# -- permissions -----------------------------------------------------------------------


def needed_commands(key: str) -> dict[str, tuple[Any, ...]]:
    """Return the commands that sessions send, in their calls and in the scripts.

    Sent in this order, they leave nothing at the key.

    :returns: the command's name in an ACL rule, and a complete command.
    """
    script = SCRIPTS["describe_session"]
    forms: dict[str, tuple[Any, ...]] = {
        "evalsha": ("EVALSHA", script.sha1, 1, key, 0, 0),
        "eval": ("EVAL", script.source, 1, key, 0, 0),
        "script|load": ("SCRIPT", "LOAD", script.source),
        "time": ("TIME",),
        "hset": ("HSET", key, "field", "value"),
        "zadd": ("ZADD", key, 1, "member"),
        "zrange": ("ZRANGE", key, 0, -1),
        "zrangebyscore": ("ZRANGEBYSCORE", key, 0, 1),
        "zscan": ("ZSCAN", key, 0),
    }
    for name in "hgetall hkeys hlen zcard exists pttl persist".split():
        forms[name] = (name.upper(), key)
    for name in "hexists hget hmget hdel zrem zscore".split():
        forms[name] = (name.upper(), key, "name")
    return {**forms, "pexpire": ("PEXPIRE", key, 1000), "del": ("DEL", key)}


def more_commands(node: Node) -> dict[str, tuple[Any, ...]]:
    """Return what a cluster, and sessions of another library, need in addition."""
    forms: dict[str, tuple[Any, ...]] = {}
    if node.greeting.get("mode") == "cluster":
        forms |= {"cluster|slots": ("CLUSTER", "SLOTS"), "command": ("COMMAND",)}
        forms["asking"] = ("ASKING",)
    settings = node.target.settings
    if settings.migrate_from:
        # As their own generators name it; a prefix that is set was theirs, too.
        prefix = "" if settings.prefix == Settings.prefix else settings.prefix
        key = prefix + secrets.token_urlsafe(48)
        for name in ("get", "pttl", "del"):
            forms[f"{name} on {' or '.join(settings.migrate_from)} keys"] = (name.upper(), key)
    return forms


#: What an application needs to be told of endings; Redis 7 has the others, too.
ENDINGS = ("publish", "subscribe", "unsubscribe", "ping")
SHARDED_ENDINGS = ("spublish", "ssubscribe", "sunsubscribe")

#: What a user for sessions need not be able to do.
TOO_MUCH = (("FLUSHALL",), ("CONFIG", "GET", "*"), ("GET", "a key of somebody else"))


def check_permissions(node: Node) -> Iterator[Finding]:
    """Ask Redis 7 what the user may do; or try it, on a key of our own."""
    key = f"{node.target.settings.prefix}check:{secrets.token_hex(16)}"
    commands = needed_commands(key)
    if node.target.settings.publish_endings:
        commands["publish"] = ("PUBLISH", key, "")
    more = more_commands(node)
    beyond: list[str] = []
    try:
        missing = [name for name, form in commands.items() if not _may(node, form)]
        outside = [name for name, form in more.items() if not _may(node, form)]
        beyond = [" ".join(form) for form in TOO_MUCH if _may(node, form)]
    except ResponseError:
        if not node.may_write:
            why = MAY_NOT if node.version >= (7, 0) else "only Redis 7 tells"
            yield Finding(NOTE, "permissions", f"not known: {why}, and nothing is to be written")
            return
        missing = [name for name, form in commands.items() if not _can(node, form)]
        outside = [name for name, form in more.items() if not _can(node, form)]
    data = {"missing": missing + outside}
    if missing and _is_kept_out(node):
        words = f"user {node.user} may not use this database"
        number = node.single.connection_pool.connection_kwargs.get("db", 0)
        change = cli(f"ACL SETUSER {node.user} db={number}")
        yield Finding(FAILED, "permissions", words, data, changes=change)
        return
    if missing:
        yield Finding(
            FAILED,
            "permissions",
            f"user {node.user} may not, under the prefix: {', '.join(missing)}",
            data,
            changes=cli(f"ACL SETUSER {node.user} {_keys(node)} {_allowed(missing)}"),
        )
    if outside:
        words = f"user {node.user} may not: {', '.join(outside)}"
        names, _, of_others = zip(*(name.partition(" on ") for name in outside), strict=True)
        keys = "~* " if any(of_others) else ""
        change = cli(f"ACL SETUSER {node.user} {keys}{_allowed(names)}")
        yield Finding(FAILED, "permissions", words, data, changes=change)
    if missing or outside:
        return
    if beyond:
        yield Finding(
            NOTE,
            "permissions",
            f"user {node.user} may do all that sessions need, and more ({beyond[0]}); "
            "a user of the sessions' own need not",
            data,
            changes=cli(_rule(node, commands, more)),
        )
    else:
        yield Finding(OK, "permissions", f"user {node.user} may do what sessions need", data)


def _rule(node: Node, commands: Iterable[str], more: Iterable[str]) -> str:
    """Return what gives sessions a user of their own, which may do no more than they need.

    :param more: as :func:`more_commands` names them.
    """
    names, _, of_others = zip(*(name.partition(" on ") for name in (*commands, *more)), strict=True)
    patterns = ["~*" if any(of_others) else _keys(node)]
    if node.single.connection_pool.connection_kwargs.get("db"):
        names += ("select",)
    if node.target.settings.publish_endings:
        patterns.append(f"&{node.target.settings.prefix}*")
        names += ENDINGS + SHARDED_ENDINGS * (node.version >= (7, 0))
    words = f"{' '.join(patterns)} -@all {_allowed(dict.fromkeys(names))}"
    return f"ACL SETUSER sessions on >PASSWORD resetkeys resetchannels {words}"


def _keys(node: Node) -> str:
    return f"~{node.target.settings.prefix}*"


def _allowed(names: Iterable[str]) -> str:
    return " ".join(f"+{name}" for name in names)


def _may(node: Node, form: tuple[Any, ...]) -> bool:
    reply = node.single.execute_command("ACL DRYRUN", node.user, *form)
    return _text(reply) == "OK"


def _can(node: Node, form: tuple[Any, ...]) -> bool:
    try:
        node.single.execute_command(*form)
    except NoPermissionError:
        return False
    except ResponseError:
        pass  # a wrong type, or the wrong node: allowed, but to no avail
    return True


def _is_kept_out(node: Node) -> bool:
    """Whether it is the database that the user may not use: a rule of Valkey 9.1."""
    try:
        node.single.execute_command("EXISTS", node.target.settings.prefix)
    except NoPermissionError as exc:
        return "database" in str(exc)
    return False


CHECKS: tuple[tuple[str, Callable[[Node], Iterator[Finding]]], ...] = (
    ("server", check_server),
    ("connection", check_connection),
    ("access", check_access),
    ("permissions", check_permissions),
    ("scripts", check_scripts),
    ("round trip", check_round_trip),
    ("clock", check_clock),
    ("memory", check_memory),
    ("persistence", check_persistence),
    ("replication", check_replication),
)


def check_node(node: Node) -> Iterator[Finding]:
    """Make all checks of one server."""
    for subject, run in CHECKS:
        try:
            yield from run(node)
        except NoPermissionError:
            yield Finding(NOTE, subject, f"not known: {MAY_NOT}")

"""Checks of the settings, and of the sessions that are stored."""

from __future__ import annotations

import dataclasses
import datetime
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..connect.waits import waits_long
from ..engine.fields import OWNER_FIELD
from ..engine.index import Index
from ..engine.protocol import Absent, Created, Entry, Lifetime, Loaded, Renewal, Save, Saved
from ..engine.scripts import Status
from ..engine.seals import Bound
from ..engine.store import MARKER_MS
from ..engine.tokens import Token
from ..errors import StoreError
from ..migrate import OLD_KEY_FIELD
from ..settings import Settings
from ..settings.checks import SAMPLE_SECRETS, SHORTEST_BINDING
from ..settings.profiles import PROFILES
from .console import duration, plural, size
from .findings import FAILED, NOTE, OK, WARNING, Change, Finding, conf, ini
from .found import all_hashes
from .target import Target

__all__ = ["check_settings", "check_stored", "compact_size", "try_a_session"]

SHORTEST_SECRET = 32

#: Values of hash-max-listpack-value that are worth trying, bytes. Beyond, the
#: compact form costs more time than the memory is worth.
LIMITS = (64, 128, 256, 512, 1024)

#: Fields up to which Redis uses the compact form: hash-max-listpack-entries of
#: 7.0 and later.
MOST_FIELDS = 128

#: What a key of a usual length costs beside its value in Redis 7, bytes.
KEY_BYTES = 104

#: What the page about lifetimes shows, seconds.
ADVISED = {
    "timeout": "timeout = 1200",
    "absolute_timeout": "absolute_timeout = 43200",
    "first_timeout": "first_timeout = 300",
}

#: Share of the sessions' memory from which on a change is worth suggesting.
WORTH = 0.05


# -- settings --------------------------------------------------------------------------


def check_settings(target: Target) -> Iterator[Finding]:
    if not target.configured:
        yield Finding(NOTE, "settings", "not known: there is only a URL")
        return
    yield from _check_secrets(target)
    yield from _check_cookie(target)
    yield from _check_lifetimes(target)
    yield _check_device_binding(target.settings)
    yield from _check_profile(target)
    long = waits_long(target.client)
    if long:
        yield Finding(WARNING, "client", long)
    if target.settings.migrate_from and target.settings.migrate_until is None:
        words = (
            "migrate_from without migrate_until: sessions of another library, pickles as a rule, "
            "are read until migrate_from is removed"
        )
        yield Finding(NOTE, "migration", words, changes=ini(f"migrate_until = {_in_a_month()}"))


def _check_profile(target: Target) -> Iterator[Finding]:
    s = target.settings
    for rule in () if s.profile is None else PROFILES[s.profile]:
        value = getattr(s, rule.name)
        words = f"{s.profile}: {rule.name} = {_shown(value)} ({rule.asked_by})"
        if rule.meets(value):
            yield Finding(OK, "profile", words)
        else:
            words += f", set by hand: it asks for {rule.asks_for}"
            line = f"{rule.name} = {_shown(rule.value)}"
            yield Finding(WARNING, "profile", words, changes=ini(line))


def _shown(value: Any) -> str:
    """Write the value of a setting as an ini file may have it."""
    if callable(value):
        return "a function"
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def _check_secrets(target: Target) -> Iterator[Finding]:
    s = target.settings
    well = True
    for name in ("secret", "seal_secret", "encryption_key"):
        for item in getattr(s, name):
            if item.lower() in SAMPLE_SECRETS:
                well = False
                words = f"{name} is a well-known sample value: anybody can make cookies"
                yield Finding(FAILED, "secrets", words, changes=_new_secret(name))
            elif len(item) < SHORTEST_SECRET:
                well = False
                words = f"{name} is shorter than {SHORTEST_SECRET} bytes: it may be guessed"
                yield Finding(WARNING, "secrets", words, changes=_new_secret(name))
    if s.allow_unsealed_pickle and not s.seal and s.serialize == "pickle":
        well = False
        words = "values are pickled and not sealed: whoever can write to Redis can run code here"
        yield Finding(FAILED, "secrets", words, changes=ini("seal = true"))
    elif not s.seal:
        well = False
        words = "values are not sealed: whoever can write to Redis can change them"
        yield Finding(WARNING, "secrets", words, changes=ini("seal = true"))
    if well:
        yield Finding(OK, "secrets", "long enough, and no sample values; values are sealed")


def _new_secret(name: str) -> tuple[Change, ...]:
    """The reference; ``documentation`` says how to make one."""
    return ini(f"{name} = env:{'ENCRYPTION_KEY' if name == 'encryption_key' else 'SESSION_SECRET'}")


def _in_a_month() -> datetime.date:
    return datetime.date.today() + datetime.timedelta(days=30)


def _check_cookie(target: Target) -> Iterator[Finding]:
    s = target.settings
    flaws: list[str] = []
    lines: list[str] = []
    if s.cookie_secure is False:
        flaws.append("cookie_secure = false sends it over plain http")
        lines.append("cookie_secure = true")
    if not s.cookie_httponly:
        flaws.append("cookie_httponly = false shows it to scripts in the page")
        lines.append("cookie_httponly = true")
    if s.cookie_samesite is None:
        flaws.append("cookie_samesite is left out: the browser decides who may send it")
    if s.cookie_samesite == "None":
        flaws.append("cookie_samesite = None: requests from other sites carry it")
    if s.cookie_samesite in (None, "None"):
        lines.append("cookie_samesite = Lax")
    if flaws:
        yield Finding(WARNING, "cookie", "; ".join(flaws), changes=ini(*lines))
    elif s.cookie_secure is None:
        words = "Secure when a request came over https (cookie_secure = true: always), HttpOnly"
        words += f", SameSite={s.cookie_samesite}"
        yield Finding(NOTE, "cookie", words, changes=ini("cookie_secure = true"))
    else:
        yield Finding(OK, "cookie", f"Secure, HttpOnly, SameSite={s.cookie_samesite}")


def _check_device_binding(s: Settings) -> Finding:
    if not s.device_binding:
        words = "off: whoever has copied a cookie has the session (device_binding)"
        return Finding(NOTE, "device binding", words)
    life = duration(s.device_binding_lifetime * 1000)
    if s.device_binding_lifetime < SHORTEST_BINDING:
        words = (
            f"device_binding_lifetime of {life}: browsers sign too seldom for that, and lock "
            f"their users out; {duration(SHORTEST_BINDING * 1000)} at least"
        )
        line = f"device_binding_lifetime = {SHORTEST_BINDING}"
        return Finding(WARNING, "device binding", words, changes=ini(line))
    if s.cookie_domain is not None:
        words = (
            "sessions are bound to the device where a browser takes that for all hosts of "
            f"{s.cookie_domain}: see its /.well-known/device-bound-sessions"
        )
        return Finding(NOTE, "device binding", words)
    words = f"sessions are bound to the device where the browser can, with a proof every {life}"
    return Finding(OK, "device binding", words)


def _check_lifetimes(target: Target) -> Iterator[Finding]:
    s = target.settings
    if s.timeout is None and s.absolute_timeout is None:
        words = "neither timeout nor absolute_timeout: no session ends"
        yield Finding(WARNING, "lifetimes", words, changes=ini(*ADVISED.values()))
        return
    unset = [name for name in ADVISED if not getattr(s, name)]
    if unset:
        lines = ini(*(ADVISED[name] for name in unset))
        yield Finding(NOTE, "lifetimes", f"not set: {', '.join(unset)}", changes=lines)
    else:
        yield Finding(OK, "lifetimes", "timeout, absolute_timeout and first_timeout are set")


# -- a session of our own --------------------------------------------------------------


def try_a_session(target: Target) -> Iterator[Finding]:
    """Do with a session all that an application does. Nothing of it is left after a minute."""
    lifetime = Lifetime(timeout_ms=MARKER_MS)
    store, began = target.store, time.perf_counter()
    owner = target.codec.encode(f"check {secrets.token_hex(16)}")
    index = Index(store, target.sealer, owner)
    field, value = b".check", target.codec.encode("value")

    def seal(token: Token) -> dict[bytes, bytes]:
        bound = target.sealer.bind(token.locator, token.digest)
        return {field: bound.seal(field, value), b"owner": bound.seal(b"owner", owner)}

    created = None
    try:
        created, _ = store.create(seal, lifetime, [Entry(OWNER_FIELD, owner)])
        if isinstance(created, Absent):
            raise StoreError("a new session is at its end at once")
        token = created.token
        loaded = store.load(token)
        lived = [
            isinstance(loaded, Loaded),
            isinstance(store.save(token, Save({field: seal(token)[field]})), Saved),
            isinstance(store.adjust(token), Saved),
            store.stage(token, "check") is Status.SAVED,
        ]
        store.unstage(token, "check")
        saves = loaded.fields.get(b"saves", b"") if isinstance(loaded, Loaded) else b""
        lived += [
            # Nothing was put in place: something was saved since that load.
            store.renew(token, Renewal(token, {}, [], saves)) is Status.CONFLICT,
            sum(len(index.survey(names).owned) for names in index.members()) == 1,
            store.end(token) is Status.ENDED,
        ]
        index.forget([token.locator])
        if not all(lived):
            raise StoreError("a session vanished while it was used")
    except StoreError as exc:
        yield Finding(FAILED, "session tried", f"a session could not be used: {exc}")
        return
    finally:
        if isinstance(created, Created):
            _tidy_up(target, index, created.token)
    took = (time.perf_counter() - began) * 1000
    yield Finding(
        OK,
        "session tried",
        f"created, read, changed, listed and ended in {took:.1f} ms",
        {"took_ms": took},
    )


def _tidy_up(target: Target, index: Index, token: Token) -> None:
    try:
        index.forget([token.locator])
        target.store.end(token)
    except StoreError:
        pass  # what failed before is what is reported


# -- stored sessions -------------------------------------------------------------------


@dataclasses.dataclass
class Stored:
    """What a look at the stored sessions found.

    :ivar looked: how many sessions were looked at.
    :ivar outdated: sessions with values under an older secret, or not yet
        encrypted; ``values``: those values.
    :ivar bare: sessions without values, of which that cannot be told.
    :ivar broken: sessions that are not authentic.
    :ivar cut_off: sessions whose migration was interrupted.
    :ivar size: bytes of all; ``large``: number of those in the large form.
    :ivar gain: of those that each of ``LIMITS`` would make compact: bytes beyond their
        listpacks; ``count``: how many they are.
    :ivar overhead: of those that are compact: bytes beside their listpacks; ``compact``:
        how many they are.
    """

    looked: int = 0
    outdated: int = 0
    values: int = 0
    bare: int = 0
    broken: int = 0
    cut_off: int = 0
    size: int = 0
    large: int = 0
    gain: dict[int, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(LIMITS, 0))
    count: dict[int, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(LIMITS, 0))
    overhead: int = 0
    compact: int = 0

    def saved(self, limit: int) -> int:
        """What a limit would save, bytes.

        What a key costs differs from server to server, by half: it is taken from the sessions
        that are compact already.
        """
        each = self.overhead / self.compact if self.compact else KEY_BYTES
        return max(0, round(self.gain[limit] - self.count[limit] * each))


def check_stored(
    target: Target,
    sample: int,
    compact: tuple[str, int] | None,
    jemalloc: bool,
    advance: Callable[[int, str], None],
) -> Iterator[Finding]:
    """Look at stored sessions: at all while secrets are rotated, else at some.

    :param compact: the setting that bounds the compact form, and its value,
        bytes; ``None`` = not known.
    :param jemalloc: the server's memory is allocated by that.
    :raises StoreError: the user may not.
    """
    s = target.settings
    rotating = s.seal and (
        any(len(getattr(s, name)) > 1 for name in ("secret", "seal_secret", "encryption_key"))
        or bool(s.encryption_key)
    )
    found = Stored()
    for steps, hashes in all_hashes(target):
        for session in hashes:
            if session.alive and (rotating or found.looked < sample):
                found.looked += 1
                fields = session.stored.raw
                found.cut_off += OLD_KEY_FIELD in fields
                _measure(found, session.stored.size, fields, compact, jemalloc)
                if target.configured:
                    _verify(found, session.bound(target.sealer), fields)
        advance(steps, f"{plural(found.looked, 'session')} looked at")
        if not rotating and found.looked >= sample:
            break
    if not found.looked:
        yield Finding(NOTE, "stored sessions", "there are none yet, or none were to be looked at")
        return
    if rotating:
        yield _rotation(found, s)
    if found.broken:
        yield Finding(
            WARNING,
            "stored sessions",
            f"{found.broken:,} of {found.looked:,} are not authentic: under a secret that is not "
            "configured, or altered by somebody else; their users get a new session",
            {"broken": found.broken, "looked_at": found.looked},
        )
    if found.cut_off:
        yield Finding(
            NOTE,
            "migration",
            f"{plural(found.cut_off, 'session')} not quite carried over, as that was cut off; "
            "migrate completes it",
            {"cut_off": found.cut_off},
        )
    yield _memory(found, compact)


def _verify(found: Stored, bound: Bound, fields: Mapping[bytes, bytes]) -> None:
    bound.outdated.clear()
    opened = bound.open_all(fields)
    if opened is None:
        found.broken += 1
    elif not opened:
        found.bare += 1
    elif bound.outdated:
        found.outdated += 1
        found.values += len(bound.outdated)


def _rotation(found: Stored, s: Settings) -> Finding:
    data = {
        "looked_at": found.looked,
        "outdated_sessions": found.outdated,
        "outdated_values": found.values,
        "sessions_without_values": found.bare,
    }
    bare = f" ({plural(found.bare, 'session')} without values cannot tell)" if found.bare else ""
    if found.outdated:
        return Finding(
            NOTE,
            "rotation",
            f"{plural(found.outdated, 'session')} of {found.looked:,}, with "
            f"{plural(found.values, 'value')}, still under an older secret or not encrypted: "
            f"their users have not come back since, and removing it would log them out{bare}",
            data,
        )
    words = f"all {plural(found.looked, 'session')} are under the first"
    if len(s.secret) < 2:
        # Then no cookie depends on what is rotated.
        several = len(s.seal_secret) > 1 or len(s.encryption_key) > 1
        words += ": older ones can be removed" if several else " key"
        return Finding(OK, "rotation", words, data)
    if s.migrate_from:
        words = (
            "keep all secrets as long as migrate_from stands: the users of "
            f"{' and '.join(s.migrate_from)} who have not come back since have a cookie under one, "
            "and that is not stored"
        )
        return Finding(NOTE, "rotation", words, data)
    wait = f"older ones can be removed {_when(s)}"
    if s.encryption_key:
        words = "values are encrypted, and do not tell under which secret their users' cookies are"
        return Finding(NOTE, "rotation", f"{words}: {wait}", data)
    words += (
        f" secret{bare}. Cookies are not stored: a user whose last answer was lost may have an "
        f"older one, though the values were written anew. So {wait}"
    )
    return Finding(OK, "rotation", words, data)


def _when(s: Settings) -> str:
    """Say how long to wait: a user needs a visit for the cookie, and one for the values."""
    if s.timeout:
        wait = f"{duration(2000 * s.timeout)} (twice the idle timeout)"
    elif s.absolute_timeout:
        wait = f"{duration(1000 * s.absolute_timeout)} (absolute_timeout)"
    else:
        return "when all users have come back, as no session ends"
    return f"{wait} after the first one was put first"


# -- memory ----------------------------------------------------------------------------


def _measure(
    found: Stored,
    used: int,
    fields: Mapping[bytes, bytes],
    compact: tuple[str, int] | None,
    jemalloc: bool,
) -> None:
    longest = max(max(len(name), len(value)) for name, value in fields.items())
    found.size += used
    if compact is None or len(fields) > MOST_FIELDS:
        return
    beside = used - compact_size(fields, jemalloc)
    if longest <= compact[1]:
        found.compact += 1
        found.overhead += beside
        return
    found.large += 1
    for other in LIMITS:
        if longest <= other:
            found.gain[other] += beside
            found.count[other] += 1


def _memory(found: Stored, compact: tuple[str, int] | None) -> Finding:
    mean = found.size / found.looked
    words = f"{size(mean)} a session (of {found.looked:,} looked at)"
    data: dict[str, Any] = {"mean_bytes": mean, "looked_at": found.looked}
    if compact is None:
        words += "; hash-max-listpack-value is not known, as the user may not ask"
        return Finding(NOTE, "session memory", words, data)
    name, limit = compact
    data.update(hash_max_listpack_value=limit, large=found.large)
    best = max(map(found.saved, LIMITS))
    # The smallest that gains nearly all there is to be gained.
    advised = next(other for other in LIMITS if found.saved(other) >= 0.9 * best)
    share = found.saved(advised) / found.size
    if share < WORTH:
        words += f"; {name} {limit} fits"
        return Finding(OK, "session memory", words, data)
    data.update(advised=advised, saved_share=share)
    words += (
        f"; {found.large / found.looked:.0%} have a value longer than {name} ({limit}): "
        f"{advised} would save about {share:.0%} of the sessions' memory"
    )
    changes = conf(f"{name} {advised}")
    return Finding(NOTE, "session memory", words, data, changes=changes)


def compact_size(fields: Mapping[bytes, bytes], jemalloc: bool) -> int:
    """Compute the memory that the fields of a hash take in the compact form (listpack).

    Header and end of a listpack are 7 bytes; each entry has 1, 2 or 5 bytes before
    it and 1 to 4 behind it (``listpack.c`` of Redis and Valkey).

    :param jemalloc: round as jemalloc does; else as the C library of Linux.
    """
    total = 7
    for text in (part for pair in fields.items() for part in pair):
        length = len(text)
        entry = length + (1 if length < 64 else 2 if length < 4096 else 5)
        total += entry + (1 if entry < 128 else 2 if entry < 16384 else 3)
    return _allocated(total) if jemalloc else -(-(total + 8) // 16) * 16 - 8


def _allocated(count: int) -> int:
    """Round up to a size class of jemalloc: four to a doubling, from 128 on."""
    if count <= 128:
        return -(-count // 16) * 16
    step = 1 << ((count - 1).bit_length() - 3)
    return -(-count // step) * step

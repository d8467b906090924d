"""Checks: which values of several settings cannot work together."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from pyramid.exceptions import ConfigurationError

from .parsers import LONGEST_GRACE

if TYPE_CHECKING:
    from .table import Settings

log = logging.getLogger(__name__.partition(".")[0])


class SettingsError(ConfigurationError, ValueError):
    """A setting is unknown, malformed, or clashes with another one.

    The message quotes the full key and the value (never that of a secret, nor
    one that looks like a URL), and names the page of the documentation.
    """

    def __str__(self) -> str:
        return f"{super().__str__()} [docs: settings]"


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


#: Shortest life of a device cookie with which Chromium never runs out of signatures, seconds: it
#: refreshes two minutes ahead, and signs six times in nine minutes for a site.
SHORTEST_BINDING = 240


def check(settings: Settings) -> None:
    """Refuse combinations that cannot work, at the moment of configuration.

    :raises SettingsError: two of them clash.
    """
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
                "redis.sessions.%s is a well-known sample value; anybody can guess it "
                "[docs: secrets]",
                name,
            )
        elif any(len(item) < 32 for item in found):
            log.warning("redis.sessions.%s is shorter than 32 bytes [docs: secrets]", name)
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
    if s.device_binding:
        _check_device_binding(s)


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
        log.warning(
            "redis.sessions.timeout_trigger has no effect: there is no timeout [docs: lifetimes]"
        )
    elif s.timeout_trigger is not None and s.timeout_trigger > cast("float", s.timeout):
        log.warning(
            "redis.sessions.timeout_trigger has no effect: it is longer than the timeout "
            "[docs: lifetimes]"
        )


def _check_device_binding(s: Settings) -> None:
    for name, value, why in (
        ("seal", False, "a session's key must be authentic"),
        ("cookie_secure", False, "browsers bind sessions over https only"),
        ("cookie_partitioned", True, "no browser was seen to refresh such a cookie"),
    ):
        if getattr(s, name) == value:
            raise SettingsError(
                f"redis.sessions.device_binding does not go with redis.sessions.{name} = {value}: "
                f"{why}"
            )
    if s.device_binding_lifetime < SHORTEST_BINDING:
        log.warning(
            "redis.sessions.device_binding_lifetime = %d is so short that Chromium locks its user "
            "out: it refreshes beside every request in the last two minutes, and signs at most six "
            "times in nine minutes for a site [docs: devices]",
            s.device_binding_lifetime,
        )
    # RFC 6265 5.1.4
    under = s.cookie_path.rstrip("/") + "/"
    if not f"{s.device_binding_path}/".startswith(under):
        raise SettingsError(
            f"redis.sessions.device_binding_path = {s.device_binding_path!r} must be under "
            f"redis.sessions.cookie_path = {s.cookie_path!r}: a browser sends the cookie only there"
        )

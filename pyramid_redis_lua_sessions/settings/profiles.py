"""Profiles: what a standard asks of the settings, as one setting.

The numbers are those of the OWASP Application Security Verification Standard (ASVS) 5.0.0,
chapters V3 (cookies) and V7 (sessions). It leaves lifetimes to a documented decision, and
refers to NIST SP 800-63B for it. Revision 4 (2.2.3) has for AAL2: reauthentication after 24 hours
at most, and after an hour of inactivity. That is what meets it. What is taken here is within the
12 hours and 30 minutes of revision 3 (4.2.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["PROFILES", "Rule", "of_profile"]


class Rule(NamedTuple):
    """What a profile asks of one setting.

    :ivar name: of the setting, without its prefix.
    :ivar value: that the profile gives it, parsed.
    :ivar asked_by: numbers of the requirements.
    :ivar meets: tells whether another value does as well.
    :ivar asks_for: what these are, in words.
    """

    name: str
    value: Any
    asked_by: str
    meets: Callable[[Any], bool]
    asks_for: str


HOST, SECURE = "__Host-session", "__Secure-session"


def _at_most(most: float) -> Callable[[Any], bool]:
    return lambda value: value is not None and value <= most


def _is_set(value: Any) -> bool:
    return bool(value)


def _has_prefix(value: Any) -> bool:
    return str(value).lower().startswith(("__host-", "__secure-", "__http-"))


PROFILES = {
    "asvs-l2": (
        Rule("cookie_name", HOST, "3.3.1, 3.3.3", _has_prefix, "a name that begins with __Host-"),
        Rule("cookie_secure", True, "3.3.1", lambda value: value is True, "true"),
        Rule("cookie_httponly", True, "3.3.4", _is_set, "true"),
        Rule("cookie_samesite", "Lax", "3.3.2", _is_set, "Lax or Strict"),
        Rule("timeout", 1200.0, "7.1.1, 7.3.1", _at_most(3600), "at most 3600"),
        Rule("absolute_timeout", 43200.0, "7.1.1, 7.3.2", _at_most(86400), "at most 86400"),
        Rule("owner_sessions", 10, "7.1.2", _is_set, "a number that is documented"),
        Rule("owner_sessions_policy", "end_oldest", "7.1.2", _is_set, "one that is documented"),
        Rule("seal", True, "7.2.1", _is_set, "true"),
    ),
}


def of_profile(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a profile makes; what was set by hand stays.

    :param given: those that were, parsed.
    """
    made = {rule.name: rule.value for rule in PROFILES[name]}
    if given.get("cookie_secure", True) is not True:
        del made["cookie_name"]  # browsers refuse either prefix without Secure
    elif given.get("cookie_domain") is not None or given.get("cookie_path", "/") != "/":
        made["cookie_name"] = SECURE  # __Host- allows neither
    return {**made, **given}

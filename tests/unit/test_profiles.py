"""Profiles: what they set, what wins over them, and that they go together."""

from __future__ import annotations

from typing import Any

import pytest

from pyramid_redis_lua_sessions.settings import Settings, SettingsError
from pyramid_redis_lua_sessions.settings.profiles import PROFILES

SECRET = "0123456789abcdef0123456789abcdef"
RULES = PROFILES["asvs-l2"]


def parse(**given: Any) -> Settings:
    named = {"secret": SECRET, "profile": "asvs-l2", **given}
    return Settings.from_ini({f"redis.sessions.{name}": value for name, value in named.items()})


def test_profile_sets_each_of_its_settings() -> None:
    settings = parse()
    assert {rule.name: getattr(settings, rule.name) for rule in RULES} == {
        "cookie_name": "__Host-session",
        "cookie_secure": True,
        "cookie_httponly": True,
        "cookie_samesite": "Lax",
        "timeout": 1200,
        "absolute_timeout": 43200,
        "owner_sessions": 10,
        "owner_sessions_policy": "end_oldest",
        "seal": True,
    }


def test_all_else_is_as_without_a_profile() -> None:
    plain = Settings.from_options({"secret": SECRET})
    names = {rule.name for rule in RULES} | {"profile"}
    settings = parse()
    for name in vars(plain).keys() - names:
        assert getattr(settings, name) == getattr(plain, name), name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule_is_met_by_its_own_value(rule: Any) -> None:
    assert rule.meets(rule.value)


#: A value by hand, what it is parsed to, and whether it does.
BY_HAND: list[tuple[str, str, Any, bool]] = [
    ("cookie_name", "session", "session", False),
    ("cookie_name", "__Secure-shop", "__Secure-shop", True),
    ("cookie_secure", "false", False, False),
    ("cookie_secure", "auto", None, False),
    ("cookie_httponly", "false", False, False),
    ("cookie_samesite", "Strict", "Strict", True),
    ("cookie_samesite", "", None, False),
    ("timeout", "3600", 3600, True),
    ("timeout", "3601", 3601, False),
    ("timeout", "0", None, False),
    ("absolute_timeout", "86400", 86400, True),
    ("absolute_timeout", "86401", 86401, False),
    ("absolute_timeout", "None", None, False),
    ("owner_sessions", "3", 3, True),
    ("owner_sessions_policy", "refuse", "refuse", True),
    ("seal", "false", False, False),
]


@pytest.mark.parametrize(("name", "raw", "value", "does"), BY_HAND)
def test_what_is_set_by_hand_wins(name: str, raw: str, value: Any, does: bool) -> None:
    more = {"serialize": "json"} if name == "seal" else {}
    settings = parse(**{name: raw}, **more)
    assert getattr(settings, name) == value
    (rule,) = (rule for rule in RULES if rule.name == name)
    assert rule.meets(value) is does


def test_every_setting_of_the_profile_was_tried_by_hand() -> None:
    assert {name for name, *_ in BY_HAND} == {rule.name for rule in RULES}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"cookie_domain": "example.com"}, "__Secure-session"),
        ({"cookie_path": "/shop"}, "__Secure-session"),
        ({"cookie_path": "/"}, "__Host-session"),
        ({"cookie_domain": ""}, "__Host-session"),
        ({"cookie_secure": "true"}, "__Host-session"),
        ({"cookie_secure": "false"}, "session"),
        ({"cookie_secure": "auto", "cookie_path": "/shop"}, "session"),
    ],
)
def test_name_of_the_cookie_goes_with_what_is_set_by_hand(given: dict[str, str], name: str) -> None:
    assert parse(**given).cookie_name == name


def test_clash_by_hand_is_refused_as_ever() -> None:
    with pytest.raises(SettingsError, match="__Host-x"):
        parse(cookie_name="__Host-x", cookie_secure="false")


def test_older_spelling_counts_as_set_by_hand() -> None:
    settings = Settings.from_options({"secret": SECRET, "profile": "asvs-l2", "timeout": 60})
    assert settings.timeout == 60


def test_unknown_profile_is_named() -> None:
    with pytest.raises(SettingsError, match=r"redis\.sessions\.profile = 'asvs-l9' should be"):
        parse(profile="asvs-l9")

"""The cookie: signing, reading a hostile header, attributes, and when it is sent."""

from __future__ import annotations

import base64
import datetime
import itertools
import re
import time
import warnings
from typing import Any

import pytest
import webob.cookies
from hypothesis import given, settings
from hypothesis import strategies as st
from webob.cookies import RequestCookies, SignedSerializer, make_cookie

from pyramid_redis_lua_sessions.cookies import (
    LONGEST_REMEMBERED,
    LONGEST_VALUE,
    REMEMBERED,
    Action,
    CookiePolicy,
    cookie_action,
    cookie_values,
)
from pyramid_redis_lua_sessions.engine.tokens import Ticket, Token
from pyramid_redis_lua_sessions.settings import Settings

# A busy machine is no failure.
no_deadline = settings(deadline=None)

SECRET = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
SESSION_ID = "bD0sLuj1nQZ3T1cVJ7uT0fPq8Zc2dA5xYwK9eRmB4hG"
VERIFIER = "Vq3Z9yH0sK2mX7wBcD1eFg"
TOKEN = Token.of(SESSION_ID, VERIFIER)


def policy(**options: Any) -> CookiePolicy:
    options.setdefault("secret", SECRET)
    return CookiePolicy(Settings.from_options(options))


def value_of(header: str) -> str:
    return header.split(";")[0].split("=", 1)[1]


def read(cookies: CookiePolicy, header: str) -> tuple[Ticket | None, bool]:
    """The first cookie that verifies, and whether any of the name was there."""
    tickets, present = cookies.read(header)
    return (tickets[0] if tickets else None), present


def issue(cookies: CookiePolicy, session_id: str = SESSION_ID, max_age: int | None = None) -> str:
    """A cookie's value."""
    token = Token.of(session_id, VERIFIER)
    return value_of(cookies.header_to_set(token, "http", max_age, None))


def attributes(header: str) -> dict[str, str]:
    parts = [part.strip().partition("=") for part in header.split(";")[1:]]
    return {name.lower(): value for name, _, value in parts}


def issued_at(cookies: CookiePolicy, seconds_ago: float, monkeypatch: pytest.MonkeyPatch) -> str:
    moment = time.time() - seconds_ago
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: moment)
        return issue(cookies, max_age=1000)


# -- sign and verify ---------------------------------------------------------------


def test_cookie_comes_back_as_it_was_issued() -> None:
    cookies = policy()
    ticket, present = read(cookies, f"session={issue(cookies)}")
    assert present
    assert ticket is not None
    assert ticket.token == TOKEN
    assert ticket.max_age is None
    assert not ticket.outdated
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    assert now - 60 < ticket.issued <= now


def test_cookie_carries_its_max_age() -> None:
    cookies = policy()
    ticket, _ = read(cookies, f"session={issue(cookies, max_age=86400)}")
    assert ticket is not None
    assert ticket.max_age == 86400


@no_deadline
@given(st.text(min_size=1, max_size=100))
def test_any_session_id_comes_back(session_id: str) -> None:
    # An id_generator of the application may return anything.
    session_id = session_id.encode("utf-8", "replace").decode()
    cookies = policy()
    ticket, _ = read(cookies, f"session={issue(cookies, session_id)}")
    assert ticket is not None
    assert ticket.token.locator == session_id


def test_value_needs_no_quoting_in_a_header() -> None:
    for number in range(50):
        assert re.fullmatch(r"[A-Za-z0-9_-]+", issue(policy(), f"{SESSION_ID}{'x' * number}"))


def test_cookie_does_not_show_the_id_of_another_prefix() -> None:
    # The id alone is in the cookie, not the key in Redis.
    raw = issue(policy(prefix="confidential:"))
    assert b"confidential" not in base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4))


def test_no_header_and_no_cookie_of_the_name_are_no_cookie() -> None:
    cookies = policy()
    for header in ("", "other=1", f"sessions={issue(cookies)}", f"my_session={issue(cookies)}"):
        assert read(cookies, header) == (None, False)


# -- tampering ---------------------------------------------------------------------


def test_every_flipped_bit_of_the_signed_bytes_is_noticed() -> None:
    cookies = policy()
    raw = issue(cookies, max_age=3600)
    data = base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4))
    for position in range(len(data) * 8):
        forged = bytearray(data)
        forged[position // 8] ^= 1 << position % 8
        value = base64.urlsafe_b64encode(bytes(forged)).decode().rstrip("=")
        assert read(cookies, f"session={value}") == (None, True)


def test_every_truncation_is_noticed() -> None:
    cookies = policy()
    raw = issue(cookies)
    for length in range(len(raw)):
        assert read(cookies, f"session={raw[:length]}")[0] is None
        if length:
            assert read(cookies, f"session={raw[length:]}")[0] is None


@pytest.mark.parametrize("max_age", [None, 1, 60, 3600])  # lengths of every kind
def test_value_is_accepted_in_the_one_spelling_in_which_it_was_issued(max_age: int | None) -> None:
    # base64 has others for the same bytes: characters that are skipped, a second alphabet,
    # padding, and the bits of the last character that are not used.
    signer = policy()._signer
    raw = signer.dumps(f"1763740000 {max_age or ''} {SESSION_ID}")
    assert signer.loads(raw)[1] is False
    foreign = [b"!", b".", b"=", b"+", b"/", b" ", b"\n", b"\x00", b"\x80", b"\xff"]
    others = {raw + tail for tail in (b"=", b"==", b"===", b"====", b"=junk", b"A", b"AAAA")}
    others |= {raw[:at] + one + raw[at:] for at in range(len(raw) + 1) for one in foreign}
    others |= {raw[:at] + one + raw[at + 1 :] for at in range(len(raw)) for one in foreign}
    others |= {raw[:-1] + bytes([last]) for last in range(256)}
    others |= {raw.replace(b"-", b"+"), raw.replace(b"_", b"/"), raw.replace(b"-", b"+", 1)}
    for other in others - {raw}:
        with pytest.raises(ValueError, match=r"."):
            signer.loads(other)


@no_deadline
@given(st.binary(max_size=200))
def test_bytes_that_nobody_signed_are_no_cookie(data: bytes) -> None:
    value = base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert read(policy(), f"session={value}")[0] is None


@no_deadline
@given(st.text(st.characters(max_codepoint=255), max_size=200))
def test_any_header_has_an_answer(header: str) -> None:
    ticket, present = read(policy(), header)
    assert ticket is None
    assert present in (True, False)
    assert read(policy(), f"session={header}")[0] is None


@pytest.mark.parametrize(
    "payload",
    [
        "",
        " ",
        "a.b",
        "1 a.b",
        "x  a.b",
        "1 x a.b",
        "1.5  a.b",
        f"  {SESSION_ID}.{VERIFIER}",
        "\xff",
        # A verifier is missing, as in the cookies of version 1.
        "1  id",
        f"1763740000  {SESSION_ID}",
    ],
)
def test_a_signed_payload_that_is_no_ticket_is_no_cookie(payload: str) -> None:
    cookies = policy()
    value = cookies._signer.dumps(payload).decode()
    assert read(cookies, f"session={value}") == (None, True)


def test_oversized_value_is_not_even_verified() -> None:
    signer = RecordingSigner()
    cookies = policy(secret=None, cookie_signer=signer, seal_secret=SECRET)
    assert read(cookies, f"session={'A' * 4097}") == (None, True)
    assert signer.seen == []
    read(cookies, f"session={'A' * 4096}")
    assert len(signer.seen) == 1


def test_a_genuine_cookie_that_is_too_long_is_refused() -> None:
    cookies = policy()
    longest = next(n for n in range(4096, 0, -1) if len(cookies._signer.dumps("x" * n)) <= 4096)
    assert longest > 2000
    oversized = cookies._signer.dumps(f"1  {'x' * 5000}").decode()
    assert read(cookies, f"session={oversized}") == (None, True)


def test_cookie_of_another_secret_is_refused() -> None:
    assert read(policy(), f"session={issue(policy(secret=OTHER))}") == (None, True)


def test_cookie_of_another_name_is_refused() -> None:
    # Two factories of one application that share a secret.
    admin, site = policy(cookie_name="admin"), policy(cookie_name="site")
    assert read(admin, f"admin={issue(site)}") == (None, True)
    assert read(site, f"site={issue(site)}")[0] is not None


def test_name_and_payload_cannot_be_shifted_into_each_other() -> None:
    # Signatures over "a" + "bc" and "ab" + "c" must differ.
    one, two = policy(cookie_name="a"), policy(cookie_name="a1")
    signed = one._signer.dumps("1 1  id")
    with pytest.raises(ValueError, match="bad signature"):
        two._signer.loads(signed)


# -- several cookies of one name ---------------------------------------------------


def test_cookies_that_verify_are_found_in_their_order() -> None:
    cookies = policy()
    header = (
        f"session=stale; session={issue(policy(secret=OTHER))}; other=1; "
        f"session={issue(cookies, 'first')}; session={issue(cookies, 'second')}"
    )
    tickets, present = cookies.read(header)
    assert present
    assert [ticket.token.locator for ticket in tickets] == ["first", "second"]


@pytest.mark.parametrize(("stale", "found"), [(7, True), (8, False), (5000, False)])
def test_at_most_eight_cookies_of_the_name_are_tried(stale: int, found: bool) -> None:
    cookies = policy()
    header = "; ".join(["session=stale"] * stale + [f"session={issue(cookies)}"])
    ticket, present = read(cookies, header)
    assert (ticket is not None, present) == (found, True)


def test_only_eight_signatures_are_computed() -> None:
    signer = RecordingSigner()
    cookies = policy(secret=None, cookie_signer=signer, seal_secret=SECRET)
    read(cookies, "; ".join(f"session=v{number}" for number in range(100)))
    assert signer.seen == [b"v%d" % number for number in range(8)]


@pytest.mark.parametrize(
    "bad",
    [
        "other=\xff\xfe",
        "session=\xff\xfe",
        "\xff\xfe=1",
        "other=\xc3",
        'other="unbalanced',
        r'other="\777"',
        r'session="\377\376"',
        "=",
        ";;; ,,",
        "session",
        "session=",
        "a=b=c",
        "other=\x00",
    ],
)
def test_a_malformed_cookie_beside_a_genuine_one_does_no_harm(bad: str) -> None:
    cookies = policy()
    ticket, present = read(cookies, f"{bad}; session={issue(cookies)}")
    assert present
    assert ticket is not None
    assert ticket.token.locator == SESSION_ID


def test_quoted_value_verifies() -> None:
    cookies = policy()
    assert read(cookies, f'session="{issue(cookies)}"')[0] is not None


def test_quotes_of_another_cookie_change_nothing() -> None:
    cookies = policy()
    for other in ('a="b c"', 'a="', '"', 'a="; b="', r'a="\"; session=x; b="', '"session=x'):
        for header in (f"{other}; session={issue(cookies)}", f"session={issue(cookies)}; {other}"):
            assert read(cookies, header)[0] is not None


def test_comma_separates_as_it_does_for_webob() -> None:
    # RFC 9110 5.3: lines of one name may be joined so, and WSGI servers do.
    value = issue(policy())
    for header in (f"a=1,session={value}", f"session={value},a=1", f"a=1 , session={value} ,b=2"):
        assert list(cookie_values(header, "session")) == [value]
        assert RequestCookies({"HTTP_COOKIE": header})["session"] == value


@no_deadline
@given(st.binary(min_size=1, max_size=100))
def test_value_is_read_as_webob_wrote_it(value: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "contains invalid bytes"
        header = make_cookie("session", value).partition("; Path=")[0]
    assert list(cookie_values(f"a=1; {header};b", "session")) == [value.decode("latin-1")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('""', ""),
        ('"', '"'),
        ('"a', '"a'),
        ('a"', 'a"'),
        ('a"b"', 'a"b"'),
        (r'"\"a\\\073\400\08"', r'"a\;40008'),
        (r'"\"', "\\"),
        (r"\073", r"\073"),
    ],
)
def test_quotes_are_undone_around_a_whole_value_only(value: str, expected: str) -> None:
    assert list(cookie_values(f"session = {value} ", "session")) == [expected]


def test_oversized_value_keeps_its_quotes() -> None:
    for length in (LONGEST_VALUE, LONGEST_VALUE + 1):
        value = f'"{"a" * (length - 2)}"'
        expected = value if length > LONGEST_VALUE else value[1:-1]
        assert list(cookie_values(f"session={value}", "session")) == [expected]


def test_header_does_not_reach_a_parser_that_takes_the_square_of_its_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One header of 32,000 characters would keep a process busy for seconds.
    parsed: list[bytes] = []
    monkeypatch.setattr(webob.cookies, "_parse_cookie", lambda data: parsed.append(data) or [])
    flood = "a" * 32_000 + '"'
    for header in (flood, f"session={flood}", f'session="{flood}', f'session=""{flood}'):
        assert read(policy(), header)[0] is None
    assert parsed == []


# -- rotation ----------------------------------------------------------------------


def test_cookie_of_an_older_secret_verifies_and_is_outdated() -> None:
    old, new = policy(), policy(secret=[OTHER, SECRET])
    ticket, _ = read(new, f"session={issue(old)}")
    assert ticket is not None
    assert ticket.outdated
    assert new.due(ticket, {})


def test_first_secret_signs() -> None:
    rotated = policy(secret=f"{OTHER}\n{SECRET}")
    ticket, _ = read(policy(secret=OTHER), f"session={issue(rotated)}")
    assert ticket is not None
    assert read(policy(), f"session={issue(rotated)}") == (None, True)


def test_cookie_of_a_removed_secret_is_refused() -> None:
    assert read(policy(secret=OTHER), f"session={issue(policy())}") == (None, True)


# -- when a persistent cookie is due -----------------------------------------------


@pytest.mark.parametrize(("ago", "due"), [(0, False), (450, False), (550, True), (5000, True)])
def test_persistent_cookie_is_due_past_half_of_its_life(
    ago: int, due: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookies = policy()
    ticket, _ = read(cookies, f"session={issued_at(cookies, ago, monkeypatch)}")
    assert ticket is not None
    assert cookies.due(ticket, {}) is due


def test_cookie_that_ends_with_the_browser_is_never_due() -> None:
    assert not policy().due(Ticket(TOKEN, 0, None, outdated=False), {})


# -- custom signer -----------------------------------------------------------------


class RecordingSigner:
    """Refuses everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def dumps(self, payload: str) -> bytes:
        return payload.encode()

    def loads(self, value: bytes) -> str:
        self.seen.append(value)
        raise ValueError("no")


class TextSerializer:
    """The inner serializer that ``SignedSerializer`` of WebOb takes."""

    def dumps(self, payload: str) -> bytes:
        return payload.encode()

    def loads(self, value: bytes) -> str:
        return value.decode()


def with_signer(signer: Any = None, **options: Any) -> CookiePolicy:
    if signer is None:
        signer = SignedSerializer(SECRET, "salt.", serializer=TextSerializer())
    return policy(secret=None, cookie_signer=signer, seal_secret=SECRET, **options)


def test_custom_signer_signs_and_verifies() -> None:
    cookies = with_signer()
    ticket, _ = read(cookies, f"session={issue(cookies, max_age=60)}")
    assert ticket is not None
    assert (ticket.token.locator, ticket.max_age, ticket.outdated) == (SESSION_ID, 60, False)


def test_custom_signer_refuses_what_it_did_not_sign() -> None:
    cookies = with_signer()
    raw = issue(cookies)
    other = "B" if raw[0] == "A" else "A"
    for value in (raw[:-1], other + raw[1:], "", "x", issue(policy())):
        assert read(cookies, f"session={value}")[0] is None


def test_custom_signer_shared_by_two_cookies_keeps_them_apart() -> None:
    admin, site = with_signer(cookie_name="admin"), with_signer(cookie_name="site")
    assert read(admin, f"admin={issue(site)}") == (None, True)
    assert read(site, f"site={issue(site)}")[0] is not None


@pytest.mark.parametrize("mark", [b"v1; ", b"\xe9"])
@pytest.mark.parametrize("max_age", [None, 0, 60])
def test_value_of_a_cookie_signer_that_no_cookie_may_hold_is_warned_of_and_quoted(
    max_age: int | None, mark: bytes
) -> None:
    class Signer(TextSerializer):
        def dumps(self, payload: str) -> bytes:
            return mark + payload.encode()

        def loads(self, value: bytes) -> str:
            assert value.startswith(mark)
            return value.removeprefix(mark).decode()

    cookies = with_signer(Signer())
    with pytest.warns(RuntimeWarning, match="invalid bytes"):  # of WebOb
        header = cookies.header_to_set(Token.of("an-id", VERIFIER), "http", max_age, None)
    tickets, _ = cookies.read(header.partition("; Path")[0])
    assert [ticket.token.locator for ticket in tickets] == ["an-id"]


def test_custom_signer_may_return_text() -> None:
    class Signer(TextSerializer):
        def dumps(self, payload: str) -> Any:
            return base64.urlsafe_b64encode(payload.encode()).decode()

        def loads(self, value: bytes) -> str:
            return base64.urlsafe_b64decode(value).decode()

    cookies = with_signer(Signer())
    assert read(cookies, f"session={issue(cookies)}")[0] is not None


def test_custom_signer_that_returns_no_text_gives_no_cookie() -> None:
    class Signer(TextSerializer):
        def loads(self, value: bytes) -> Any:
            return value

    assert read(with_signer(Signer()), "session=abc") == (None, True)


# -- remembered values ---------------------------------------------------------------


def remembered(cookies: CookiePolicy) -> Any:
    """What the process remembers of the values of a cookie."""
    return cookies._remembered.cache_info()  # type: ignore[attr-defined]


def count_signatures(cookies: CookiePolicy, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The values whose signatures were computed; grows."""
    seen: list[bytes] = []
    loads = cookies._signer.loads

    class Counting:
        dumps = cookies._signer.dumps

        def loads(self, value: bytes) -> tuple[str, bool]:
            seen.append(value)
            return loads(value)

    monkeypatch.setattr(cookies, "_signer", Counting())
    return seen


def test_value_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cookies = policy()
    header = f"session={issue(cookies)}"
    seen = count_signatures(cookies, monkeypatch)
    first, _ = read(cookies, header)
    assert first is not None
    assert [read(cookies, header)[0] for _ in range(3)] == [first] * 3
    assert len(seen) == 1


def test_every_flipped_bit_is_noticed_after_the_genuine_value_was_remembered() -> None:
    cookies = policy()
    raw = issue(cookies)
    assert read(cookies, f"session={raw}")[0] is not None
    data = base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4))
    for position in range(len(data) * 8):
        forged = bytearray(data)
        forged[position // 8] ^= 1 << position % 8
        value = base64.urlsafe_b64encode(bytes(forged)).decode().rstrip("=")
        assert read(cookies, f"session={value}") == (None, True)
    for other in (raw + "=", raw + "!", " " + raw[1:], raw.lower(), raw[:-1], raw + "\x00"):
        assert read(cookies, f"session={other}") == (None, True)
    assert read(cookies, f"session={raw}")[0] is not None
    assert remembered(cookies).currsize == 1


def test_refusal_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else a flood of forged values would push out those of the visitors.
    cookies = policy()
    assert read(cookies, f"session={issue(cookies)}")[0] is not None
    seen = count_signatures(cookies, monkeypatch)
    for number in range(2 * REMEMBERED):
        read(cookies, f"session=forged{number}")
    for _ in range(3):
        assert read(cookies, "session=forged0") == (None, True)
    assert remembered(cookies).currsize == 1
    assert len(seen) == 2 * REMEMBERED + 3


def test_as_many_values_are_remembered_as_are_allowed() -> None:
    cookies = policy()
    for number in range(REMEMBERED + 10):
        assert read(cookies, f"session={issue(cookies, str(number))}")[0] is not None
    assert remembered(cookies).currsize == REMEMBERED


def test_long_value_is_verified_and_not_remembered() -> None:
    cookies = policy()
    for length in (100, LONGEST_REMEMBERED):
        assert read(cookies, f"session={issue(cookies, 'x' * length)}")[0] is not None
    assert remembered(cookies).currsize == 1


def test_nothing_is_remembered_of_a_custom_signer() -> None:
    # It may revoke, or look at a clock.
    class Revoking(TextSerializer):
        revoked = False

        def loads(self, value: bytes) -> str:
            if self.revoked:
                raise ValueError("revoked")
            return super().loads(value)

    signer = Revoking()
    cookies = with_signer(signer)
    header = f"session={issue(cookies)}"
    assert read(cookies, header)[0] is not None
    signer.revoked = True
    assert read(cookies, header) == (None, True)
    signer.revoked = False
    assert read(cookies, header)[0] is not None


def test_two_policies_do_not_share_what_they_remember() -> None:
    one, other = policy(), policy(secret=OTHER)
    header = f"session={issue(one)}"
    assert read(one, header)[0] is not None
    assert read(other, header) == (None, True)
    assert read(policy(cookie_name="other"), f"other={issue(one)}") == (None, True)


def test_outdated_cookie_is_outdated_each_time() -> None:
    cookies = policy(secret=[OTHER, SECRET])
    header = f"session={issue(policy())}"
    for _ in range(2):
        ticket, _present = read(cookies, header)
        assert ticket is not None
        assert ticket.outdated


# -- attributes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "scheme", "expected"),
    [
        ({}, "http", {"path": "/", "httponly": "", "samesite": "Lax"}),
        ({}, "https", {"path": "/", "httponly": "", "samesite": "Lax", "secure": ""}),
        ({"cookie_secure": True}, "http", {"secure": ""}),
        ({"cookie_secure": False}, "https", {"secure": None}),
        ({"cookie_httponly": False}, "http", {"httponly": None}),
        ({"cookie_samesite": "strict"}, "http", {"samesite": "Strict"}),
        ({"cookie_samesite": ""}, "http", {"samesite": None}),
        ({"cookie_samesite": "None", "cookie_secure": True}, "http", {"samesite": "None"}),
        ({"cookie_path": "/admin"}, "http", {"path": "/admin"}),
        ({"cookie_domain": "example.com"}, "http", {"domain": "example.com"}),
        ({"cookie_comment": "ours"}, "http", {"comment": "ours"}),
        ({"cookie_name": "__Host-s", "cookie_secure": True}, "http", {"secure": "", "path": "/"}),
        ({"cookie_partitioned": True, "cookie_secure": True}, "http", {"partitioned": ""}),
        ({}, "https", {"partitioned": None}),
    ],
)
def test_the_cookie_is_set_and_deleted_with_the_same_attributes(
    options: dict[str, Any], scheme: str, expected: dict[str, str | None]
) -> None:
    cookies = policy(**options)
    name = options.get("cookie_name", "session")
    to_set = cookies.header_to_set(TOKEN, scheme, None, None)
    to_delete = cookies.header_to_delete(scheme)
    assert to_set.startswith(f"{name}=")
    assert to_delete.startswith(f"{name}=;")
    for attribute, value in expected.items():
        assert attributes(to_set).get(attribute) == value
        assert attributes(to_delete).get(attribute) == value
    life = {"max-age", "expires"}
    deleting = attributes(to_delete)
    assert {k: v for k, v in deleting.items() if k not in life} == attributes(to_set)
    assert deleting["max-age"] == "0"


def test_cookie_without_a_life_ends_with_the_browser() -> None:
    header = policy().header_to_set(TOKEN, "http", None, None)
    assert not {"max-age", "expires"} & set(attributes(header))


def test_max_age_is_an_attribute_and_in_the_payload() -> None:
    cookies = policy()
    header = cookies.header_to_set(TOKEN, "http", 3600, datetime.timedelta(days=1))
    assert attributes(header)["max-age"] == "3600"
    ticket, _ = read(cookies, f"session={value_of(header)}")
    assert ticket is not None
    assert ticket.max_age == 3600


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: datetime.timedelta(hours=1), id="timedelta"),
        pytest.param(
            lambda: datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1),
            id="aware",
        ),
        pytest.param(
            lambda: (
                datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=5)))
                + datetime.timedelta(hours=1)
            ),
            id="aware, elsewhere",
        ),
        pytest.param(
            # Naive means UTC, as in WebOb.
            lambda: (
                datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
                + datetime.timedelta(hours=1)
            ),
            id="naive",
        ),
    ],
)
def test_expires_gives_the_cookie_its_life(make: Any) -> None:
    cookies = policy()
    header = cookies.header_to_set(TOKEN, "http", None, make())
    assert 3500 < int(attributes(header)["max-age"]) <= 3600
    end = datetime.datetime.strptime(
        re.sub(r"-", " ", attributes(header)["expires"]), "%a, %d %b %Y %H:%M:%S GMT"
    ).replace(tzinfo=datetime.timezone.utc)
    left = end - datetime.datetime.now(datetime.timezone.utc)
    assert 3400 < left.total_seconds() <= 3601
    ticket, _ = read(cookies, f"session={value_of(header)}")
    assert ticket is not None
    assert ticket.max_age is not None
    assert 3500 < ticket.max_age <= 3600


def test_naive_expires_is_utc_wherever_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    monkeypatch.setenv("TZ", "XXX+05")
    time.tzset()
    try:
        header = policy().header_to_set(TOKEN, "http", None, end.replace(tzinfo=None))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert 3500 < int(attributes(header)["max-age"]) <= 3600


# -- set, delete or nothing --------------------------------------------------------

FACTS = ("may_set", "may_delete", "new_token", "invalidated", "resend")


@pytest.mark.parametrize("facts", list(itertools.product((False, True), repeat=len(FACTS))))
def test_cookie_action_for_every_combination(facts: tuple[bool, ...]) -> None:
    # 1 = yes, 0 = no, - = either: may_set may_delete new_token invalidated resend.
    table = {
        "1-1--": Action.SET,
        "0-1--": Action.NOTHING,
        "-101-": Action.DELETE,
        "-001-": Action.NOTHING,
        "1-001": Action.SET,
        "0-001": Action.NOTHING,
        "--000": Action.NOTHING,
    }
    bits = "".join(str(int(fact)) for fact in facts)
    rows = [
        action
        for pattern, action in table.items()
        if all(wanted in ("-", bit) for wanted, bit in zip(pattern, bits, strict=True))
    ]
    assert len(rows) == 1, "the table covers each combination once"
    assert cookie_action(**dict(zip(FACTS, facts, strict=True))) is rows[0]


@pytest.mark.parametrize("odd", "\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0")
def test_only_spaces_and_tabs_around_a_value_are_taken_off(odd: str) -> None:
    cookies = policy()
    value = issue(cookies)
    assert read(cookies, f" session = \t{value} ")[0] is not None
    for header in (f"session={odd}{value}", f"session={value}{odd}", f"{odd}session={value}"):
        assert read(cookies, header)[0] is None

"""Errors say what happened, and never an id or a value."""

from __future__ import annotations

import pytest
from transaction.interfaces import TransientError

from pyramid_redis_lua_sessions import errors
from pyramid_redis_lua_sessions.errors import (
    InvalidSession,
    RawDeserializationError,
    SessionConflict,
    SessionError,
    StoreUnavailable,
    UnserializableValue,
    fingerprint,
)

SESSION_ID = "bD0sLuj1nQZ3T1cVJ7uT0fPq8Zc2dA5xYwK9eRmB4hG"


def test_every_public_exception_is_a_session_error() -> None:
    exceptions = [getattr(errors, name) for name in errors.__all__ if name != "fingerprint"]
    assert all(issubclass(exception, SessionError) for exception in exceptions)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("InvalidSession_BadCookie", "InvalidSession"),
        ("InvalidSession_NotInBackend", "InvalidSession"),
        ("InvalidSession_PayloadTimeout", "InvalidSession_NotInBackend"),
        ("InvalidSession_DeserializationError", "InvalidSession"),
        ("RawDeserializationError", "InvalidSession_DeserializationError"),
        ("StoreUnavailable", "StoreError"),
    ],
)
def test_whoever_catches_the_wide_error_catches_the_narrow_one(narrow: str, wide: str) -> None:
    assert issubclass(getattr(errors, narrow), getattr(errors, wide))


# -- fingerprint -------------------------------------------------------------------


def test_fingerprint_is_short_and_stable_and_tells_ids_apart() -> None:
    first = fingerprint(SESSION_ID)
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert fingerprint(SESSION_ID) == first
    assert len({fingerprint(f"{SESSION_ID}{number}") for number in range(1000)}) == 1000


def test_fingerprint_shows_nothing_of_the_id() -> None:
    shown = fingerprint(SESSION_ID).lower()
    pieces = {SESSION_ID[i : i + 4].lower() for i in range(len(SESSION_ID) - 3)}
    assert not [piece for piece in pieces if piece in shown]


def test_fingerprint_takes_any_text() -> None:
    assert len(fingerprint("")) == len(fingerprint("\udcff é")) == 12


# -- messages ----------------------------------------------------------------------


class Confidential:
    """A value whose text must appear nowhere."""

    def __repr__(self) -> str:
        return "the credit card"

    __str__ = __repr__


def texts(error: Exception) -> str:
    return f"{error} {error!r} {error.args}"


def test_invalid_session_names_the_reason_and_the_fingerprint() -> None:
    shown = fingerprint(SESSION_ID)
    error = InvalidSession("it had expired", shown)
    assert str(error) == f"it had expired (session {shown})"
    assert (error.reason, error.fingerprint) == ("it had expired", shown)


def test_invalid_session_without_an_id_names_the_reason_alone() -> None:
    error = RawDeserializationError("no cookie verifies")
    assert str(error) == "no cookie verifies"
    assert error.fingerprint is None


def test_unserializable_value_names_the_key_and_the_type_and_no_value() -> None:
    error = UnserializableValue("cart", Confidential, TypeError)
    assert error.key == "cart"
    assert "'cart'" in str(error)
    assert "Confidential" in str(error)
    assert "TypeError" in str(error)
    assert "credit" not in texts(error)


def test_conflict_says_that_nothing_was_saved() -> None:
    assert "nothing was saved" in str(SessionConflict())


def test_conflict_is_retryable_for_transaction_and_pyramid_retry() -> None:
    from pyramid_retry import IRetryableError

    assert issubclass(SessionConflict, TransientError)
    assert IRetryableError.providedBy(SessionConflict())
    assert not IRetryableError.providedBy(StoreUnavailable())

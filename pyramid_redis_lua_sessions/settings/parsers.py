"""Parsers: what an ini file or code gives, to a setting's value.

Each raises :exc:`ValueError` with what is expected, and never with the value.
"""

from __future__ import annotations

import datetime
import math
import os
import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from pyramid.path import DottedNameResolver
from pyramid.settings import asbool

from .predecessors import PICKLE_SPELLINGS, not_given

Parser = Callable[[Any], Any]


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a non-empty string")
    return value


def optional_text(value: Any) -> str | None:
    if not_given(value):
        return None
    return text(value)


def resolved(value: str) -> str:
    """What ``env:NAME`` or ``file:PATH`` stands for; any other value is itself.

    So that a secret stands neither in a configuration file nor in a command line.

    :returns: of a file, the content without the line break at its end.
    :raises ValueError: there is no such variable or file, or it is empty.
    """
    kind, _, name = value.partition(":")
    if kind == "env":
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError('"env:" and the name of an environment variable')
        found = os.environ.get(name, "")
        if not found:
            raise ValueError(f"the environment variable {name}, which is not set, or empty")
    elif kind == "file":
        problem = "is empty"
        try:
            found = Path(name).read_text("utf-8").rstrip("\r\n")
        except OSError as exc:
            found, problem = "", f"cannot be read ({type(exc).__name__})"
        except ValueError:  # its message shows some of the content
            found, problem = "", "is no UTF-8 text"
        if not found:
            raise ValueError(f"the content of the file {name}, which {problem}")
    else:
        found = value
    return found


def secret_text(value: Any) -> str:
    return text(resolved(text(value)))


def optional_secret_text(value: Any) -> str | None:
    found = optional_text(value)
    return None if found is None else resolved(found)


def host(value: Any) -> str:
    # redis-py quotes it when it cannot connect, with the password that a URL may hold.
    if "://" in text(value):
        raise ValueError("a host name (for a URL see url)")
    return text(value)


def socket_path(value: Any) -> str | None:
    found = optional_text(value)
    if found is not None and "://" in found:
        raise ValueError("a path (for a URL see url)")
    return found


# RFC 1034 3.5, RFC 1123 2.1, with the underscore that names in use have; RFC 6265 5.2.3 has
# browsers ignore a leading dot.
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"\.?(?:{_LABEL}\.)*{_LABEL}", re.ASCII | re.IGNORECASE)
# A host whose last label is a number is an address (WHATWG URL, "ends in a number checker").
_ADDRESS = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.IGNORECASE)


def domain(value: Any) -> str | None:
    found = optional_text(value)
    if found is not None and (not _DOMAIN.fullmatch(found) or _ADDRESS.fullmatch(found)):
        raise ValueError(
            "one domain, such as example.com, without scheme, port, path or wildcard; "
            "a cookie of an address or of one host alone has none"
        )
    return found


def url_path(value: Any) -> str:
    # A browser compares it with the path of the URL, as that is sent (RFC 6265 5.1.4).
    if not re.fullmatch(r"/[!$-+\--:<-\[\]-~]*", text(value)) or "?" in value:
        raise ValueError('a path that begins with "/", %-encoded as in a URL, without query')
    return cast("str", value)


def plain_path(value: Any) -> str:
    # That it is the same in a URL, and in the pattern of a route.
    if not re.fullmatch(r"/[A-Za-z0-9/._~-]*", text(value)):
        raise ValueError('a path that begins with "/", of letters, digits and /._~-')
    return cast("str", value)


def any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def flag(value: Any) -> bool:
    if value not in (True, False) and str(value).strip().lower() not in (
        "t true y yes on 1 f false n no off 0".split()
    ):
        raise ValueError("true or false")
    return bool(asbool(value))


def optional_flag(value: Any) -> bool | None:
    return None if not_given(value) else flag(value)


def integer(value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = int(value)
        if number < 0 or number != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a whole number, 0 or more") from None
    return number


def positive(value: Any) -> int:
    try:
        number = integer(value)
    except ValueError:
        number = 0
    if not number:
        raise ValueError("a whole number, 1 or more")
    return number


def limit(value: Any) -> int | Callable[..., Any]:
    """A number, or a callable that gives one, or its dotted name."""
    try:
        return positive(value)
    except ValueError:
        if not callable(value) and not (isinstance(value, str) and set(value) & set(".:")):
            wanted = "a whole number, 1 or more; or a callable, or its dotted name"
            raise ValueError(wanted) from None
    return cast("Callable[..., Any]", function(value))


def port(value: Any) -> int:
    try:
        number = integer(value)
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise ValueError("a port number, 1 to 65535")
    return number


#: Life of the marker that an ended session leaves, seconds.
LONGEST_GRACE = 60.0

#: A hundred years: far under the range of Redis' own millisecond clock.
MAX_SECONDS = 100 * 366 * 24 * 3600


def seconds(value: Any, most: int = MAX_SECONDS) -> float | None:
    """Seconds, fractions allowed; ``None``, ``""``, ``"None"`` and 0 mean none."""
    if not_given(value):
        return None
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("a number of seconds, or None") from None
    if not math.isfinite(number) or not 0 <= number <= most:
        raise ValueError(f"a number of seconds from 0 to {most}, or None")
    if 0 < number < 0.001:
        raise ValueError("0, or at least a millisecond (0.001)")
    return number or None


def some_seconds(value: Any) -> float:
    number = seconds(value)
    return 0.0 if number is None else number


def whole_seconds(value: Any) -> int | None:
    number = seconds(value)
    if number is None:
        return None
    if number != int(number):
        raise ValueError("a whole number of seconds, or None")
    return int(number)


def life(value: Any) -> int:
    try:
        number = whole_seconds(value)
    except ValueError:
        number = None
    if number is None:
        raise ValueError(f"a whole number of seconds, from 1 to {MAX_SECONDS}")
    return number


def dotted(value: Any) -> Any:
    """An object, or the dotted name of one."""
    if not_given(value):
        return None
    try:
        return DottedNameResolver(None).maybe_resolve(value)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ValueError("a dotted name that can be imported") from exc


def function(value: Any) -> Callable[..., Any] | None:
    resolved = dotted(value)
    if resolved is not None and not callable(resolved):
        raise ValueError("a callable, or the dotted name of one")
    return cast("Callable[..., Any] | None", resolved)


def signer(value: Any) -> Any:
    resolved = dotted(value)
    if resolved is not None and not (hasattr(resolved, "loads") and hasattr(resolved, "dumps")):
        raise ValueError("an object with the methods loads and dumps, or its dotted name")
    return resolved


def serializer_function(value: Any) -> Any:
    """A callable, its dotted name, or the name of a built-in serializer."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if value in PICKLE_SPELLINGS:
            return "pickle"
        if value in BUILT_IN_SERIALIZERS:
            return value
        if "." not in value and ":" not in value:
            raise ValueError(
                f"{', '.join(BUILT_IN_SERIALIZERS)}, or a callable, or its dotted name"
            )
    resolved = function(value)
    return "pickle" if resolved in (pickle.dumps, pickle.loads) else resolved


#: Serializers that need only be named.
BUILT_IN_SERIALIZERS = ("pickle", "json", "msgpack")


def secrets(value: Any) -> tuple[bytes, ...]:
    """One secret, or several (in an ini file, one a line): the first signs, all verify."""
    if value is None or value in ("", b""):
        return ()
    if isinstance(value, str):
        value = _lines(value)
    elif isinstance(value, bytes):
        value = [value]
    elif not isinstance(value, Iterable):
        raise ValueError("a string, or a list of strings")
    found: list[bytes] = []
    for item in value:
        if not isinstance(item, (str, bytes)):
            raise ValueError("a string, or a list of strings")
        if item and not item.strip():
            raise ValueError("something else than white space")
        if isinstance(item, str):
            behind = resolved(item)
            lines = [item] if behind == item else _lines(behind)
            found += [line.encode("utf-8") for line in lines if line]
        elif item:
            found.append(bytes(item))
    return tuple(found)


def _lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines()] if "\n" in value.strip() else [value]


def secure(value: Any) -> bool | None:
    """True, False, or ``"auto"`` (``None``): as the request's scheme says."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return None
    try:
        return flag(value)
    except ValueError:
        raise ValueError("true, false or auto") from None


def samesite(value: Any) -> str | None:
    if value is None or value == "":
        return None
    for allowed in ("Strict", "Lax", "None"):
        if isinstance(value, str) and value.strip().lower() == allowed.lower():
            return allowed
    raise ValueError("Strict, Lax or None, or empty to leave the attribute out")


def cookie_end(value: Any) -> datetime.datetime | datetime.timedelta | None:
    if value is None or isinstance(value, (datetime.datetime, datetime.timedelta)):
        return value
    raise ValueError("a datetime or timedelta, which only code can give (see cookie_max_age)")


#: What Clear-Site-Data may name: https://w3c.github.io/webappsec-clear-site-data/, and the
#: caches of single pages that browsers have besides.
SITE_DATA = (
    "cache",
    "cookies",
    "storage",
    "executionContexts",
    "clientHints",
    "prefetchCache",
    "prerenderCache",
    "*",
)


def moment(value: Any) -> float | None:
    """Seconds since the epoch. A time without zone is UTC; a date counts to its end."""
    if not_given(value):
        return None
    day = datetime.timedelta(0)
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ValueError
            return float(value)
        if isinstance(value, str):
            if value.strip().isdigit():
                return float(value)
            if len(value.strip()) == len("2000-01-01"):
                value = datetime.date.fromisoformat(value.strip())
            else:
                value = datetime.datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
        if not isinstance(value, datetime.datetime):
            value = datetime.datetime.combine(value, datetime.time())
            day = datetime.timedelta(days=1)
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.timezone.utc)
        return cast("float", (value + day).timestamp())
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            "a date or time (2000-01-31, 2000-01-31T12:00:00+00:00), or seconds since the epoch"
        ) from None


def not_from_ini(value: Any) -> Any:
    if isinstance(value, str):  # an empty one is not given
        raise ValueError("an object, which only code can give (see url)")
    return value


def some_of(*allowed: str) -> Parser:
    """Of a list, or a string with commas or blanks between, each item is allowed."""

    def parse(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            # Quoted, as in a header.
            value = [] if value == "None" else re.sub('[,"]', " ", value).split()
        try:
            items = tuple(value or ())
            if not set(items) <= set(allowed):
                raise ValueError
        except (TypeError, ValueError):
            raise ValueError(f"one or more of {', '.join(allowed)}") from None
        return items

    return parse


def optional_choice(*allowed: str) -> Parser:
    chosen = choice(*allowed)
    return lambda value: None if not_given(value) else chosen(value)


def choice(*allowed: str) -> Parser:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError(" or ".join(allowed))
        return cast("str", value)

    return parse

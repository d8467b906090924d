"""``docs/migrating.rst`` says the truth about everything the predecessors offer."""

import re
from pathlib import Path

import pytest

import pyramid_redis_lua_sessions
from pyramid_redis_lua_sessions.session import RedisSession
from pyramid_redis_lua_sessions.settings import Row, rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migrating.rst"

#: What each predecessor offers, read in its sources.
OFFERED: dict[tuple[str, str], str] = {
    ("From pyramid_session_redis", "Settings"): """
        secret timeout cookie_name cookie_max_age cookie_path cookie_domain cookie_secure
        cookie_httponly cookie_expires cookie_comment cookie_samesite cookie_on_exception redis_url
        redis_host redis_port redis_db redis_password redis_client_callable redis_socket_timeout
        redis_connection_pool redis_encoding redis_encoding_errors redis_unix_socket_path serialize
        deserialize id_generator prefix set_redis_ttl set_redis_ttl_readheavy detect_changes
        deserialized_fails_new func_check_response_allow_cookies func_invalid_logger
        timeout_trigger python_expires cookie_signer invalidate_empty_session
    """,
    ("From pyramid_session_redis", "Sessions"): """
        session_id managed_dict created timeout expires version new timestamp session_id_safecheck
        _invalidated redis __delitem__ __setitem__ setdefault clear pop update popitem changed
        __getitem__ __contains__ keys items get __iter__ has_key values itervalues iteritems
        iterkeys invalidate flash pop_flash peek_flash new_csrf_token get_csrf_token ensure_id
        do_persist do_refresh please_recookie adjust_cookie_expires adjust_cookie_max_age
        adjust_session_expires adjust_expires_for_session adjust_session_timeout
        adjust_timeout_for_session to_redis from_redis new_session new_payload
        encode_session_payload decode_session_payload serialize deserialize
    """,
    ("From pyramid_session_redis", "Module"): """
        includeme session_factory_from_settings RedisSessionFactory check_response_allow_cookies
        INVALIDATE_EMPTY_SESSION __VERSION__ configs_bool get_default_connection LazyCreateSession
        NotSpecified SESSION_API_VERSION warn_future is_integer to_binary prefixed_id int_time
        empty_session_payload encode_session_payload decode_session_payload
        create_unique_session_id persist recookie refresh SignedSerializerInterface configs_str
        configs_dotable configs_int configs_int_none configs_unsupported InvalidSession
        InvalidSession_NoSessionCookie InvalidSession_Lazycreate InvalidSession_NotInBackend
        InvalidSession_DeserializationError InvalidSession_PayloadTimeout
        InvalidSession_PayloadLegacy RawDeserializationError InvalidSessionId_Deserialization
        InvalidSessionId_Serialization
    """,
    ("From pyramid_redis_sessions", "Settings"): """
        secret timeout cookie_name cookie_max_age cookie_path cookie_domain cookie_secure
        cookie_httponly cookie_on_exception url host port db password socket_timeout
        connection_pool charset errors encoding encoding_errors unix_socket_path client_callable
        serialize deserialize id_generator prefix
    """,
    ("From pyramid_redis_sessions", "Sessions"): """
        session_id managed_dict created timeout new _invalidated redis __delitem__ __setitem__
        setdefault clear pop update popitem changed __getitem__ __contains__ keys items get
        __iter__ has_key values itervalues iteritems iterkeys invalidate flash pop_flash peek_flash
        new_csrf_token get_csrf_token to_redis from_redis adjust_timeout_for_session serialize
        deserialize
    """,
    ("From pyramid_redis_sessions", "Module"): """
        includeme session_factory_from_settings RedisSessionFactory get_default_connection to_binary
        to_unicode prefixed_id get_unique_session_id refresh persist
    """,
}

ROWS: dict[str, Row] = {name: row for row in rows() for name in (row.name, *row.aliases)}


def sections(text: str, underline: str) -> dict[str, str]:
    """The text below each heading of one level."""
    parts = re.split(rf"^(.+)\n{re.escape(underline)}{{3,}}\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def listed(text: str) -> dict[str, str]:
    """Each name of the tables in a text, and what becomes of it: it is changed, or as marked."""
    found: dict[str, str] = {}
    row = r"^   \* - (``(?:.+\n)+?)     - (?:\*\*(.*?)\.\*\*)?"
    for names, marked in re.findall(row, text, re.MULTILINE):
        fate = marked or "Changed"
        for name in re.findall(r"``([^`]+)``", names):
            if name.endswith("."):
                continue  # the table's head
            assert name not in found, f"{name} is there twice"
            found[name] = fate
    return found


def tables(predecessor: str, table: str) -> dict[str, str]:
    section = sections(PAGE.read_text(encoding="utf-8"), "-")[predecessor]
    return listed(sections(section, "~").get(table, section))


def fates(predecessor: str, table: str) -> dict[str, str]:
    """What becomes of each name: as its table says, or the older library's; else it is the same."""
    own, above = tables(predecessor, table), tables("From pyramid_session_redis", table)
    found = {**above, **{name.removeprefix("redis_"): fate for name, fate in above.items()}, **own}
    return {name: found.get(name, "Same") for name in OFFERED[predecessor, table].split()}


@pytest.mark.parametrize(("predecessor", "table"), OFFERED)
def test_tables_name_nothing_that_was_not_offered(predecessor: str, table: str) -> None:
    offered = " ".join(names for (who, _), names in OFFERED.items() if who == predecessor)
    assert set(tables(predecessor, table)) <= set(offered.split())


@pytest.mark.parametrize("predecessor", dict.fromkeys(name for name, _ in OFFERED))
def test_fate_of_every_name_is_so(predecessor: str) -> None:
    for name, fate in fates(predecessor, "Settings").items():
        row = ROWS.get(name)
        assert (row is None) is (fate == "Gone"), name
        assert (row is not None and row.gone is not None) is (fate == "No effect"), name
    for holder, table in ((RedisSession, "Sessions"), (pyramid_redis_lua_sessions, "Module")):
        for name, fate in fates(predecessor, table).items():
            assert fate in ("Same", "Changed", "Gone"), name
            assert hasattr(holder, name) is (fate != "Gone"), name


def test_defaults_that_the_page_states_are_those_of_the_table() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert ROWS["cookie_secure"].default is None
    assert "cookie_secure`` - The default is ``auto``" in text
    assert f"The default is ``{ROWS['cookie_samesite'].default}``." in text
    assert f"The default is {ROWS['socket_timeout'].default:g} seconds." in text
    assert f"The default is ``{ROWS['prefix'].default}``, it stands before" in text
    assert ROWS["deserialized_fails_new"].default is True
    assert ROWS["invalidate_empty_session"].default is False
    assert "deserialized_fails_new`` - The default is true." in text
    assert "invalidate_empty_session`` - The default is false." in text

"""``redis-lua-sessions stats`` and ``sweep``."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyramid_redis_lua_sessions import sessions_of
from pyramid_redis_lua_sessions.cli.stats import GAUGES, percentile
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import let_time_pass, make_browser
from tests.support.command import on_a_terminal, run, write_ini
from tests.support.stored import A_SESSION, TOKEN

from .test_owner import index_keys, make_index_older


def of_size(count: int) -> Any:
    return lambda session: session.update(value="x" * count)


def test_stats_count_and_measure_every_session(
    redis_url: str, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    options = {"first_timeout": 300, "absolute_timeout": 90_000, "timeout": 2000}
    browser = make_browser(redis_url, **options)
    users = [browser.another() for _ in range(10)]
    for number, user in enumerate(users):
        user.use(of_size(3000 if number == 9 else 10))
        if number:
            user.use(dict)
    users[1].use(lambda session: setattr(session, "owner", "ada"))
    users[2].use(lambda session: session.invalidate())
    let_time_pass(redis_client, users[3].key, 1000)
    redis_client.hset("session:x", "field", "value")
    redis_client.set("session:y", "text")
    redis_client.hset("elsewhere", TOKEN, A_SESSION)

    ini = write_ini(tmp_path, redis_url, **options)
    assert run("stats", ini, "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert printed.err == ""
    alive = [user for number, user in enumerate(users) if number != 2]
    sizes = sorted(redis_client.memory_usage(user.key) for user in alive)
    counts = {name: count for name, count in found.items() if isinstance(count, int)}
    assert counts == {
        "sessions": 9,
        "bytes": sum(sizes),
        "with_owner": 1,
        "never_end": 0,
        "cookie_not_back_yet": 1,
        "at_their_end": 0,
        "ended_markers": 1,
        "other_hashes": 1,
    }
    assert found["size_bytes"]["p0"] == sizes[0]
    assert found["size_bytes"]["p50"] == sizes[4]
    assert found["size_bytes"]["p100"] == sizes[-1]
    large = [part for part in found["size_bytes"]["distribution"] if part["from"] >= 2048]
    assert sum(part["sessions"] for part in large) == 1
    assert found["age_seconds"]["p50"] < 60
    assert found["age_seconds"]["p100"] == pytest.approx(1000, abs=20)
    assert found["ends_in_seconds"]["p0"] == pytest.approx(300, abs=20)
    assert found["ends_in_seconds"]["p50"] == pytest.approx(2000, abs=20)
    for name in ("size_bytes", "age_seconds", "ends_in_seconds"):
        assert sum(part["sessions"] for part in found[name]["distribution"]) == 9

    assert run("stats", ini) == 0
    out = capsys.readouterr().out
    assert out.startswith("9 sessions, ")
    assert re.search(r"^ +1  with an owner$", out, re.MULTILINE)
    assert re.search(r"^under 10 min +1  #+$", out, re.MULTILINE)
    assert all(str(user.session_id) not in out for user in users)


def test_stats_of_sessions_that_never_end_and_that_are_over(
    redis_url: str, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    options = {"set_redis_ttl": False}
    browser = make_browser(redis_url, **options)
    eternal, over, user = (browser.another() for _ in range(3))
    for one in (eternal, over, user):
        one.use(of_size(10))
    eternal.use(lambda session: session.adjust_session_timeout(0))
    let_time_pass(redis_client, over.key, 1300)
    ini = write_ini(tmp_path, redis_url, **options)
    assert run("stats", ini, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sessions"], found["never_end"], found["at_their_end"]) == (2, 1, 1)
    assert run("stats", ini) == 0
    assert re.search(r"^ +never +1  #+$", capsys.readouterr().out, re.MULTILINE)


def test_stats_without_sessions(redis_url: str, capsys: Any) -> None:
    assert run("stats", "--url", redis_url) == 0
    assert capsys.readouterr().out == "0 sessions, 0 B in all\n"
    assert run("stats", "--url", redis_url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["size_bytes"]["p50"] is None


def test_stats_on_a_terminal(redis_url: str) -> None:
    make_browser(redis_url).use(of_size(10))
    status, drawn = on_a_terminal("stats", "--url", redis_url)
    assert status == 0
    assert "1 session, " in drawn
    assert "─" in drawn
    status, plain = on_a_terminal("stats", "--url", redis_url, without="rich")
    assert status == 0
    assert "1 session, " in plain
    assert "─" not in plain
    assert "\x1b" not in plain


@pytest.mark.parametrize(
    ("rank", "expected"), [(0, 1), (1, 1), (50, 50), (51, 51), (99, 99), (100, 100)]
)
def test_percentile_is_the_nearest_rank(rank: int, expected: int) -> None:
    assert percentile(range(1, 101), rank) == expected
    assert percentile([7], rank) == 7


# -- sweep -----------------------------------------------------------------------------


def test_sweep_removes_what_has_expired_and_nothing_else(
    redis_url: str, redis_client: Any, capsys: Any
) -> None:
    browser = make_browser(redis_url)
    users = [browser.another() for _ in range(6)]
    for number, user in enumerate(users):
        user.use(lambda session, number=number: setattr(session, "owner", f"owner {number // 2}"))
    make_index_older(redis_client, 3600)
    redis_client.delete(*(user.key for user in users[:3]))  # as if expired
    users[4].use(lambda session: session.invalidate())  # not yet: its marker is there
    late = browser.another()
    late.use(lambda session: setattr(session, "owner", "late"))
    redis_client.delete(late.key)  # not yet: a login under way looks like that
    redis_client.zadd("session:owner", {"x": 1})
    redis_client.set("session:owner:x", "text")
    assert run("sweep", "--url", redis_url) == 0
    assert capsys.readouterr().out == (
        "4 indexes: 3 expired sessions removed, 1 index of which nothing is left\n"
    )
    assert len(index_keys(redis_client)) == 3 + 1  # and the text
    registry = browser.wsgi.registry
    assert [len(sessions_of(registry, f"owner {number}")) for number in range(3)] == [0, 1, 1]
    assert run("sweep", "--url", redis_url) == 0
    assert ": 0 expired sessions removed" in capsys.readouterr().out


def test_sweep_is_one_script_call_a_session(proxy: Any, redis_client: Any, capsys: Any) -> None:
    browser = make_browser(proxy.url)
    for _ in range(20):
        browser.another().use(lambda session: setattr(session, "owner", "ada"))
    make_index_older(redis_client, 3600)
    proxy.reset()
    assert run("sweep", "--url", proxy.url) == 0
    assert proxy.command_names.count("EVALSHA") == 20
    assert proxy.round_trips < 12


def test_stats_speak_of_first_timeout_only_where_it_is_set(
    redis_url: str, tmp_path: Path, capsys: Any
) -> None:
    make_browser(redis_url, first_timeout=300).use(lambda session: session.update(a=1))
    for options, expected in (({"first_timeout": 300}, True), ({}, False)):
        assert run("stats", write_ini(tmp_path, redis_url, **options)) == 0
        out = capsys.readouterr().out
        assert "1  whose cookie has not come back yet" in out
        assert ("first_timeout" in out) == expected


def test_stats_read_of_each_session_no_more_than_they_show(
    proxy: CountingProxy, capsys: Any
) -> None:
    browser = make_browser(proxy.url)
    for _ in range(30):
        browser.another().use(lambda session: session.update({f"k{n}": n for n in range(50)}))
    proxy.reset()
    assert run("stats", "--url", proxy.url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sessions"] == 30
    read = [command for command in proxy.commands if b"session:" in b"".join(command.args)]
    names = Counter(command.name for command in read)
    assert names == {"SCAN": names["SCAN"], "HMGET": 30, "PTTL": 30, "MEMORY": 30}
    assert max(len(command.args) for command in read) < 10


def test_stats_for_prometheus_are_those_of_the_json(
    redis_url: str, tmp_path: Path, capsys: Any
) -> None:
    prefix = 'a "quoted" \\ prefix:'
    browser = make_browser(redis_url, prefix=prefix)
    for number in range(5):
        user = browser.another()
        user.use(of_size(1000 * number))
    user.use(lambda session: setattr(session, "owner", "ada"))
    user.use(lambda session: session.adjust_session_timeout(None))
    ini = write_ini(tmp_path, redis_url, prefix=prefix)
    assert run("stats", ini, "--json") == 0
    known = json.loads(capsys.readouterr().out)
    assert run("stats", ini, "--prometheus") == 0
    families = list(text_string_to_metric_families(capsys.readouterr().out))
    assert {family.type for family in families} == {"gauge"}
    found = {}
    for family in families:
        for sample in family.samples:
            assert sample.labels["prefix"] == prefix
            found[(sample.name, sample.labels.get("quantile"))] = sample.value
    for key, (name, _) in GAUGES.items():
        if isinstance(known[key], dict):
            of = {rank: known[key][f"p{rank}"] for rank in (0, 50, 90, 99, 100)}
            wide = 0 if key == "size_bytes" else 60  # time goes by
            for rank, value in of.items():
                shown = found.pop((name, f"{rank / 100:g}"))
                assert shown == pytest.approx(value, abs=wide)
        else:
            assert found.pop((name, None)) == known[key]
    assert found == {}
    assert (known["sessions"], known["with_owner"], known["never_end"]) == (5, 1, 1)


def test_stats_of_no_sessions_for_prometheus(redis_url: str, tmp_path: Path, capsys: Any) -> None:
    assert run("stats", write_ini(tmp_path, redis_url), "--prometheus") == 0
    families = list(text_string_to_metric_families(capsys.readouterr().out))
    values = [sample.value for family in families for sample in family.samples]
    assert values == [0] * 8


def test_stats_are_in_one_format(redis_url: str, tmp_path: Path, capsys: Any) -> None:
    assert run("stats", write_ini(tmp_path, redis_url), "--prometheus", "--json") == 2
    assert "--prometheus" in capsys.readouterr().err

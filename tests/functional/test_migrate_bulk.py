"""``redis-lua-sessions migrate``: all sessions ahead of time."""

import json
import pickle
import re
import secrets
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from webob.cookies import SignedSerializer

from pyramid_redis_lua_sessions.cli import main
from pyramid_redis_lua_sessions.migrate import OLD_KEY_FIELD
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.command import failure_of
from tests.support.predecessors import SECRET
from tests.support.waiting import wait_until

from .test_migrate import (
    PRS,
    PSR,
    Signer,
    come_back,
    edit,
    forget_markers,
    moving,
    new_keys,
    old_keys,
    psr,
    servers,
)

__all__ = ["psr", "servers"]  # fixtures


@pytest.fixture
def ini(redis_url: str, tmp_path: Path) -> Path:
    return write_ini(tmp_path, redis_url)


def write_ini(directory: Path, url: str, *lines: str) -> Path:
    path = directory / "app.ini"
    path.write_text(
        f"[app:main]\nuse = call:{__name__}:unused_app\n"
        f"redis.sessions.secret = {SECRET}\nredis.sessions.url = {url}\n"
        + "".join(f"redis.sessions.{line}\n" for line in lines or [f"migrate_from = {PSR}, {PRS}"])
    )
    return path


def unused_app(global_config: object, **settings: object) -> None:
    raise AssertionError("the application must not be started")


def run(*args: Any) -> int:
    return main(["redis-lua-sessions", "migrate", *map(str, args)])


def clone(client: Any, number: int) -> list[str]:
    """Make of one real old session many, each with a value of its own; return their ids."""
    (key,) = old_keys(client)
    payload = pickle.loads(client.get(key))
    ttl = client.ttl(key)
    client.delete(key)
    ids = [secrets.token_urlsafe(48) for _ in range(number)]
    with client.pipeline(transaction=False) as pipeline:
        for old_id in ids:
            payload["m"]["own"] = old_id
            pipeline.set(old_id, pickle.dumps(payload), ex=ttl)
        pipeline.execute()
    return ids


def cookie_of(old_id: str) -> str:
    """The cookie that pyramid_session_redis gave to the user of a session."""
    signer = SignedSerializer(SECRET, "pyramid_session_redis.", "sha512", serializer=Signer.Plain())
    return f"session={signer.dumps(old_id).decode()}"


def counts(out: str) -> dict[str, int]:
    """The summary: what is counted, to how many."""
    return {name: int(count) for count, name in re.findall(r"^ *(\d+)  (.*)$", out, re.MULTILINE)}


def test_cookie_of_the_tests_is_that_of_the_library(psr: Any, redis_client: Any) -> None:
    old = psr()
    old.do("session['a'] = 1")
    (key,) = old_keys(redis_client)
    assert cookie_of(key.decode()) == old.cookie


def test_all_sessions_move_and_their_users_come_back_with_their_old_cookies(
    psr: Any, ini: Path, redis_url: str, redis_client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old = psr()
    old.do("session['user'] = 'Ann'; session.flash('hello')")
    ids = clone(redis_client, 1200)
    redis_client.set("another application's", "string")
    redis_client.set(b"\xff\xfe", "binary name")
    redis_client.rpush("a list", "x")
    redis_client.set(secrets.token_urlsafe(48), "a string of somebody else", ex=100)
    assert run(ini, "--yes") == 0
    printed = capsys.readouterr()
    assert counts(printed.out) == {
        "sessions converted": 1200,
        "sessions that cannot be converted; left as they were": 1,
        "other keys of the type string; not looked at": 2,
    }
    assert "does not decode" in printed.out
    assert not any(old_id in printed.out + printed.err for old_id in ids)
    assert len(old_keys(redis_client)) == 3
    assert len(new_keys(redis_client)) == 1200
    for old_id in ids[:20]:
        new = moving(redis_url)
        cookie = cookie_of(old_id)
        seen = come_back(new, cookie, lambda s: (s["user"], s["own"], s.pop_flash(), s.new))
        assert seen == ("Ann", old_id, ["hello"], False)
        assert new.use(lambda session: session["own"]) == old_id
        new.use(lambda session: session.invalidate())
        forget_markers(redis_client)
        assert come_back(new.another(), cookie) == {}
    assert run(ini, "--yes") == 0
    assert counts(capsys.readouterr().out)["sessions converted"] == 0


def test_summary_as_json(psr: Any, ini: Path, redis_client: Any, capsys: Any) -> None:
    psr().do("session['a'] = 1")
    redis_client.set(secrets.token_urlsafe(48), "a string of somebody else", ex=100)
    for args in (["--dry-run"], ["--yes"]):
        assert run(ini, *args, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["moved"], found["refused"], found["complete"]) == (1, 1, True)
        (refused,) = found["left_as_they_were"]
        assert len(refused["session"]) == 12
        assert "does not decode" in refused["why"]


def test_life_that_remains_is_kept_until_the_user_comes_back(
    psr: Any, ini: Path, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    (key,) = old_keys(redis_client)
    redis_client.expire(key, 300)
    created = pickle.loads(redis_client.get(key))["c"]
    assert run(ini, "--yes") == 0
    (new_key,) = new_keys(redis_client)
    assert 295_000 < redis_client.pttl(new_key) <= 300_000
    assert not redis_client.hexists(new_key, OLD_KEY_FIELD)
    new = moving(redis_url)
    assert come_back(new, old, lambda s: (s["a"], s.created)) == (1, created)
    assert redis_client.pttl(new_key) > 1_190_000


def test_dry_run_changes_nothing_and_says_what_would_be(
    psr: Any, ini: Path, redis_client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    clone(redis_client, 30)
    for number, change in enumerate(
        ({"m": {("private", 1): 1}, "c": 1, "v": 1}, {"m": {}, "c": 1, "v": 1, "t": 9, "x": 10})
    ):
        redis_client.set(f"{number}" * 64, pickle.dumps(change))
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    assert run(ini, "--dry-run") == 0
    assert {key: redis_client.dump(key) for key in redis_client.scan_iter()} == before
    printed = capsys.readouterr()
    assert counts(printed.out) == {
        "sessions to convert": 30,
        "sessions that cannot be converted": 1,
        "sessions at their end; left to expire": 1,
    }
    assert "tuple" in printed.out
    assert "private" not in printed.out
    assert printed.err == ""


def test_prefix_and_pattern_decide_which_keys_are_looked_at(
    psr: Any,
    redis_url: str,
    redis_client: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    psr(prefix="shop:").do("session['a'] = 1")
    ours = write_ini(tmp_path, redis_url)
    assert run(ours, "--dry-run") == 0
    assert counts(capsys.readouterr().out)["sessions to convert"] == 0
    named = write_ini(tmp_path, redis_url, f"migrate_from = {PSR}", "prefix = shop:")
    assert run(named, "--dry-run") == 0
    assert counts(capsys.readouterr().out)["sessions to convert"] == 1
    ours = write_ini(tmp_path, redis_url)
    assert run(ours, "--dry-run", "--match", "shop:*") == 0
    assert counts(capsys.readouterr().out)["sessions to convert"] == 1


def test_string_of_another_name_is_never_unpickled(psr: Any, ini: Path, redis_client: Any) -> None:
    redis_client.set("cache:" + "a" * 64, b"cos\n_exit\n(I99\ntR.")
    redis_client.set("a" * 63, b"cos\n_exit\n(I99\ntR.")
    assert run(ini, "--yes") == 0


#: So many that a signal does not come too late on a busy machine.
MANY = 3_000


def test_interrupted_run_loses_nothing_and_is_taken_up(
    psr: Any, ini: Path, redis_url: str, redis_client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    psr().do("session['a'] = 1")
    ids = clone(redis_client, MANY)
    migration = moving(redis_url).factory.migration
    command = [sys.executable, "-m", "pyramid_redis_lua_sessions", "migrate", str(ini), "--yes"]
    moved_before = 0
    for how, least in ((signal.SIGINT, 300), (signal.SIGTERM, 600), (signal.SIGKILL, 1000)):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda least=least: len_of(redis_client) >= least, timeout=60)
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
        left = set(old_keys(redis_client))
        there = set(new_keys(redis_client))
        assert 0 < len(left) < MANY - moved_before, "the signal came too late"
        for old_id in ids:
            new_key = f"session:{migration.token(old_id, SECRET.encode()).locator}".encode()
            assert new_key in there or old_id.encode() in left
            if new_key in there and old_id.encode() in left:
                assert redis_client.hget(new_key, OLD_KEY_FIELD) == old_id.encode()
        if how is not signal.SIGKILL:
            assert process.returncode == 1
            assert "interrupted; no session is lost: run the command again" in err
            assert "Traceback" not in err
            # The one that was on its way is not counted.
            assert counts(out)["sessions converted"] >= least - moved_before - 1
        moved_before = MANY - len(left)
    assert run(ini, "--yes") == 0
    capsys.readouterr()
    assert old_keys(redis_client) == []
    assert len(new_keys(redis_client)) == MANY
    for old_id in ids[::200]:
        assert come_back(moving(redis_url), cookie_of(old_id))["own"] == old_id


def test_summary_is_an_error_of_one_line_where_the_output_cannot_be_written(
    psr: Any, ini: Path, redis_client: Any
) -> None:
    psr().do("session['a'] = 1")
    clone(redis_client, 30)
    redis_client.set("x" * 64, pickle.dumps({"m": {("private", 1): 1}, "c": 1, "v": 1}))
    command = [sys.executable, "-m", "pyramid_redis_lua_sessions", "migrate", str(ini)]
    # Unbuffered, it breaks off; else it finds out in the end.
    for unbuffered in ("1", ""):
        with open("/dev/full", "w") as full:
            line = failure_of([*command, "--dry-run"], full, unbuffered)
        assert "No space left on device" in line
        assert "1 sessions that cannot be converted" in line
        assert unbuffered or "30 sessions to convert" in line


def len_of(client: Any) -> int:
    """How many sessions have moved, as the server counts keys by their type."""
    cursor, found = 0, 0
    while True:
        cursor, keys = client.scan(cursor, match="session:*", count=5000)
        found += len(keys)
        if not cursor:
            return found


def test_run_beside_live_traffic_makes_no_session_twice_and_loses_no_write(
    psr: Any, ini: Path, redis_url: str, redis_client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    psr().do("session['a'] = 1")
    ids = clone(redis_client, 600)
    application = moving(redis_url)
    comers, leavers = ids[::3], ids[1::3]
    failures: list[str] = []

    def traffic(number: int) -> None:
        for old_id in comers[number::4]:
            user = application.another()
            come_back(user, cookie_of(old_id), lambda s: s.update(written=s["own"]))
            if user.use(lambda s: (s["own"], s["written"])) != (old_id, old_id):
                failures.append("a write is lost")
        for old_id in leavers[number::4]:
            user = application.another()
            come_back(user, cookie_of(old_id), lambda s: s.invalidate())

    threads = [threading.Thread(target=traffic, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    assert run(ini, "--yes") == 0
    for thread in threads:
        thread.join()
    capsys.readouterr()
    assert failures == []
    forget_markers(redis_client)
    assert old_keys(redis_client) == []
    assert len(new_keys(redis_client)) == 400
    for old_id in ids:
        seen = come_back(application.another(), cookie_of(old_id))
        if old_id in leavers:
            assert seen == {}
        else:
            assert seen["own"] == old_id
            assert seen.get("written") == (old_id if old_id in comers else None)


def test_what_cannot_be_done_is_said_in_one_line(
    redis_url: str,
    new_redis_server: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(status: int, expected: str, *args: Any) -> None:
        assert run(*args) == status
        printed = capsys.readouterr()
        assert expected in printed.err
        assert len(printed.err.splitlines()) == 1, printed.err

    refused(2, "names no library", write_ini(tmp_path, redis_url, "timeout = 5"), "--yes")
    over = (f"migrate_from = {PSR}", "migrate_until = 2020-01-01")
    refused(2, "has passed", write_ini(tmp_path, redis_url, *over), "--yes")
    refused(2, "--yes", write_ini(tmp_path, redis_url))
    refused(2, "missing.ini", tmp_path / "missing.ini", "--yes")
    server: RedisServer = new_redis_server()
    url = server.url
    server.stop()
    refused(1, "Redis cannot be reached", write_ini(tmp_path, url), "--yes")


def test_redis_that_refuses_to_delete_loses_nothing(
    psr: Any, redis_server: RedisServer, redis_client: Any, tmp_path: Path
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    redis_client.acl_setuser(
        "nodel", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-del"]
    )
    try:
        url = f"redis://nodel:x@127.0.0.1:{redis_server.port}/0"
        assert run(write_ini(tmp_path, url), "--yes") == 1
        assert len(old_keys(redis_client)) == len(new_keys(redis_client)) == 1
        assert redis_client.hget(new_keys(redis_client)[0], OLD_KEY_FIELD)
    finally:
        redis_client.acl_deluser("nodel")
    assert run(write_ini(tmp_path, redis_server.url), "--yes") == 0
    assert old_keys(redis_client) == []
    assert come_back(moving(redis_server.url), old) == {"a": 1}


def test_operator_may_log_in_as_another_user_than_the_applications(
    psr: Any, redis_server: RedisServer, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    redis_client.acl_setuser("weak", enabled=True, nopass=True, commands=["+ping"])
    page = (Path(__file__).parents[2] / "docs" / "operations.rst").read_text("utf-8")
    (words,) = re.findall(r"^    ACL SETUSER operator ((?:.+\n)+)", page, re.MULTILINE)
    redis_client.execute_command("ACL", "SETUSER", "operator", *words.split(), "+get", "~*")
    url = redis_server.url
    ini = write_ini(tmp_path, url.replace("://", "://weak:x@"), f"migrate_from = {PSR}")
    try:
        assert run(ini, "--yes") == 1
        assert run(ini, "--yes", "--url", url.replace("://", "://operator:PASSWORD@")) == 0
    finally:
        redis_client.acl_deluser("weak", "operator")
    assert counts(capsys.readouterr().out)["sessions converted"] == 1
    assert come_back(moving(url), old) == {"a": 1}
    assert run("--url", url, "--yes") == 2
    assert "configuration file" in capsys.readouterr().err


def test_operator_is_asked_first(
    psr: Any, ini: Path, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    psr().do("session['a'] = 1")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer, status, left in (("n", 2, 1), ("", 2, 1), ("y", 0, 0)):
        monkeypatch.setattr("builtins.input", lambda answer=answer: answer)
        assert run(ini) == status
        assert len(old_keys(redis_client)) == left


def test_session_edited_by_nobody_is_found_by_its_shape_alone(
    psr: Any, redis_url: str, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    """A payload of a library that migrate_from does not name is left."""
    psr().do("session['a'] = 1")
    edit(redis_client, lambda payload: None)
    assert run(write_ini(tmp_path, redis_url, f"migrate_from = {PRS}"), "--yes") == 0
    assert counts(capsys.readouterr().out)["sessions converted"] == 0
    assert len(old_keys(redis_client)) == 1


def test_several_secrets_need_the_one_that_signed_the_cookies(
    psr: Any, redis_url: str, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    newer = "a newer secret of more than 32 bytes"
    ini = write_ini(
        tmp_path, redis_url, f"secret =\n    {newer}\n    {SECRET}", "migrate_from = " + PSR
    )
    ini.write_text(ini.read_text().replace(f"redis.sessions.secret = {SECRET}\n", "", 1))
    for number in ((), ("--signed-by", "0"), ("--signed-by", "3")):
        assert run(ini, "--yes", *number) == 2
        assert "--signed-by" in capsys.readouterr().err
    assert run(ini, "--yes", "--signed-by", "2") == 0
    # Also a process finds it that does not have the newer secret yet; but it cannot verify what
    # is sealed with that.
    new = moving(redis_url, secret=[SECRET, newer])
    assert come_back(new, old) == {"a": 1}
    assert len(new_keys(redis_client)) == 1

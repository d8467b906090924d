"""The console script ``redis-lua-sessions``."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

import pyramid_redis_lua_sessions
from pyramid_redis_lua_sessions.cli import main
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.testing import RedisServer, RedisServerError
from tests.support.command import failure_of
from tests.support.waiting import wait_until

NewServer = Callable[..., RedisServer]
SECRET = "a secret of more than thirty-two bytes"
PASSWORD = "hunter2-is-private"


def run(*args: str) -> int:
    return main(["redis-lua-sessions", *args])


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def write_ini(path: Path, url: str, section: str = "app:main", more: str = "") -> str:
    ini = path / "app.ini"
    ini.write_text(
        f"[{section}]\nuse = call:{__name__}:unused_app\n"
        f"redis.sessions.secret = {SECRET}\nredis.sessions.url = {url}\n{more}\n"
    )
    return str(ini)


def unused_app(global_config: object, **settings: object) -> None:
    """What the ini files name as their application; reading settings does not call it."""
    raise AssertionError("the application must not be started")


def expected_lines(where: str) -> list[tuple[str, str, str]]:
    return [(script.name, script.sha1, where) for script in SCRIPTS.values()]


def printed_lines(out: str) -> list[tuple[str, ...]]:
    return [tuple(re.split(r"  +", line, maxsplit=2)) for line in out.splitlines()]


def test_load_scripts_loads_every_script_and_names_the_node(
    redis_server: RedisServer, redis_client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    redis_client.script_flush()
    assert run("load-scripts", "--url", redis_server.url) == 0
    printed = capsys.readouterr()
    assert printed_lines(printed.out) == expected_lines(f"127.0.0.1:{redis_server.port}")
    assert printed.err == ""
    assert all(redis_client.script_exists(*(script.sha1 for script in SCRIPTS.values())))


def test_load_scripts_over_a_unix_socket_names_its_path(
    redis_server: RedisServer, redis_client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    redis_client.script_flush()
    assert run("load-scripts", "--url", redis_server.unix_url) == 0
    assert printed_lines(capsys.readouterr().out) == expected_lines(redis_server.unix_socket)


@pytest.mark.parametrize("section", ["main", "other"])
def test_load_scripts_reads_the_ini_as_pserve_does(
    section: str,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    redis_client.script_flush()
    ini = write_ini(tmp_path, "redis://127.0.0.1:%(redis_port)s/0", f"app:{section}")
    uri = ini if section == "main" else f"{ini}#{section}"
    assert run("load-scripts", uri, f"redis_port={redis_server.port}") == 0
    where = f"127.0.0.1:{redis_server.port}"
    assert printed_lines(capsys.readouterr().out) == expected_lines(where)


def test_load_scripts_when_redis_cannot_be_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:{closed_port()}/0"
    for args in (["--url", url], [write_ini(tmp_path, url)]):
        assert run("load-scripts", *args) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1
        assert "refused" in printed.err
        assert PASSWORD not in printed.err


@pytest.mark.parametrize("netloc", [f"[{PASSWORD}", f"u:{PASSWORD}\u2100@h", f"h:{PASSWORD}"])
@pytest.mark.parametrize("command", ["check", "stats", "load-scripts"])
def test_url_that_is_malformed_is_an_error_of_one_line_without_the_password(
    netloc: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--url", f"redis://{netloc}/0") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert PASSWORD not in printed.err


def test_load_scripts_when_the_password_is_wrong(
    new_redis_server: NewServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server = new_redis_server(config={"requirepass": "another"})
    url = f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0?client_name=x"
    assert run("load-scripts", "--url", url) == 1
    printed = capsys.readouterr()
    assert f"redis://127.0.0.1:{server.port}/0: " in printed.err
    assert len(printed.err.splitlines()) == 1
    assert PASSWORD not in printed.out + printed.err


def test_load_scripts_with_a_password_never_shows_it(
    new_redis_server: NewServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = new_redis_server(config={"requirepass": PASSWORD})
    for args in (["--url", server.url], [write_ini(tmp_path, server.url)]):
        assert run("load-scripts", *args) == 0
        printed = capsys.readouterr()
        assert printed_lines(printed.out) == expected_lines(f"127.0.0.1:{server.port}")
        assert PASSWORD not in printed.out + printed.err


@pytest.mark.parametrize(
    "url", [f"redis://:{PASSWORD}/x@localhost/0", f"http://:{PASSWORD}@localhost", PASSWORD]
)
def test_load_scripts_when_the_url_is_malformed(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for args in (["--url", url], [write_ini(tmp_path, url)]):
        assert run("load-scripts", *args) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1
        # redis-py quotes what it takes for the port: the start of a password with a slash.
        assert PASSWORD not in printed.err


def test_load_scripts_when_a_percent_sign_in_the_ini_is_not_doubled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ini = write_ini(tmp_path, f"redis://:{PASSWORD}%2F@localhost/0")
    assert run("load-scripts", ini) == 2
    printed = capsys.readouterr()
    assert "app.ini" in printed.err
    assert "redis.sessions.url" in printed.err
    assert PASSWORD not in printed.err
    assert "%2F" not in printed.err


def test_load_scripts_when_the_arguments_are_wrong(
    tmp_path: Path, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ini = write_ini(tmp_path, redis_url)
    misspelt = tmp_path / "misspelt.ini"
    misspelt.write_text(f"{Path(ini).read_text()}redis.sessions.tiemout = 1\n")
    elsewhere = tmp_path / "elsewhere.ini"
    elsewhere.write_text("[app:main]\nuse = egg:not-an-installed-distribution\n")
    garbage = tmp_path / "garbage.ini"
    garbage.write_text("no section here\n")
    for args, message in (
        ([], "either"),
        ([ini, "--prefix", "x:"], "--prefix"),
        ([str(tmp_path / "missing.ini")], "missing.ini"),
        ([f"{ini}#other"], "other"),
        ([ini, "ann"], "'ann' is neither an option nor name=value"),
        ([str(garbage)], "garbage.ini"),
        ([str(elsewhere)], "not-an-installed-distribution"),
        ([str(tmp_path / "app.unknown")], "app.unknown"),
        ([str(misspelt)], "did you mean redis.sessions.timeout?"),
    ):
        assert run("load-scripts", *args) == 2, args
        printed = capsys.readouterr()
        assert printed.out == ""
        assert message in printed.err
        assert len(printed.err.splitlines()) == 1, printed.err


PASTE = f"""
[app:main]
paste.app_factory = {__name__}:unused_app
redis.sessions.secret = {SECRET}
redis.sessions.url = %(url)s
[app:filtered]
use = main
filter-with = filter
[filter:filter]
paste.filter_factory = {__name__}:unused_app
[filter-app:before]
use = filter
next = main
[pipeline:pipe]
pipeline = filter before
[app:using]
use = pipe
[composite:several]
paste.composite_factory = {__name__}:unused_app
/ = main
[app:typo]
paste.app_factory = {__name__}:no_such_app
[app:itself]
use = itself
[app:broken]
paste.app_factory = tests.support.raises_when_imported:app
"""


@pytest.mark.parametrize("section", ["filtered", "before", "pipe", "using"])
def test_load_scripts_finds_the_application_behind_its_filters(
    section: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ini = tmp_path / "app.ini"
    ini.write_text(PASTE)
    assert run("load-scripts", f"{ini}#{section}", f"url={redis_url}") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("several", "app.ini#NAME"),
        ("typo", "no_such_app"),
        ("itself", "its sections use each other"),
        ("broken", "ZeroDivisionError"),
    ],
)
def test_load_scripts_when_there_is_no_such_application(
    section: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ini = tmp_path / "app.ini"
    ini.write_text(PASTE)
    assert run("load-scripts", f"{ini}#{section}", "url=redis://localhost") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1


def test_load_scripts_when_redis_refuses_the_command(
    new_redis_server: NewServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server = new_redis_server()
    with server.client() as client:
        client.acl_setuser(
            "reader", enabled=True, nopass=True, keys=["*"], commands=["+@read", "+@connection"]
        )
    assert run("load-scripts", "--url", f"redis://reader:x@127.0.0.1:{server.port}/0") == 1
    printed = capsys.readouterr()
    assert "permission" in printed.err
    assert len(printed.err.splitlines()) == 1


def test_command_line_without_and_with_an_unknown_subcommand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run() == 2
    assert run("no-such-command") == 2
    assert "load-scripts" in capsys.readouterr().err
    assert run("--help") == 0
    assert "load-scripts" in capsys.readouterr().out


def test_quiet_run_prints_errors_only(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["redis-lua-sessions", "load-scripts", "--url", redis_url], quiet=True) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["redis-lua-sessions", "load-scripts"], quiet=True) == 2
    assert capsys.readouterr().err != ""


def test_exit_status_reaches_the_shell(redis_url: str) -> None:
    command = [sys.executable, "-m", "pyramid_redis_lua_sessions", "load-scripts", "--url"]
    for url, status in ((redis_url, 0), (f"redis://127.0.0.1:{closed_port()}/0", 1), ("x", 2)):
        done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr


def test_version_is_told_and_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyramid_redis_lua_sessions", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"redis-lua-sessions {pyramid_redis_lua_sessions.__version__}\n"


# -- JSON --------------------------------------------------------------------------


def test_load_scripts_as_json(
    redis_server: RedisServer, redis_client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("load-scripts", "--url", redis_server.url, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    node = f"127.0.0.1:{redis_server.port}"
    assert found == {
        "scripts": [
            {"name": script.name, "sha1": script.sha1, "nodes": [node]}
            for script in SCRIPTS.values()
        ],
        "missing_on": [],
    }


@pytest.mark.parametrize(
    "command",
    [
        ["check"],
        ["list"],
        ["load-scripts"],
        ["migrate", "--dry-run"],
        ["revoke", "--all", "--yes"],
        ["simulate", "--seconds", "0.2", "--workers", "1", "--sessions", "2"],
        ["stats"],
        ["sweep"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_prints_one_json_document_when_it_is_asked_to(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    ini = write_ini(tmp_path, redis_url, more="redis.sessions.migrate_from = pyramid_session_redis")
    assert run(command[0], ini, *command[1:], "--json") == 0
    assert json.loads(capsys.readouterr().out) is not None


# -- signals -----------------------------------------------------------------------

HOW: list[signal.Signals] = []


def interrupted_client(request: object, **options: object) -> redis.Redis:
    for number in HOW:
        os.kill(os.getpid(), number)
    return redis.Redis(port=closed_port(), retry=Retry(NoBackoff(), 0))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_signal_to_end_is_an_interrupt_to_a_command_and_to_nobody_else(
    how: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ini = tmp_path / "app.ini"
    ini.write_text(
        f"[app:main]\nuse = call:{__name__}:unused_app\nredis.sessions.secret = {SECRET}\n"
        f"redis.sessions.client_callable = {__name__}.interrupted_client\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "HOW", [how])
    before = signal.signal(how, signal.SIG_DFL)
    try:
        assert run("stats", str(ini)) == 1
        assert capsys.readouterr().err == "redis-lua-sessions: interrupted\n"
        assert signal.getsignal(how) is signal.SIG_DFL
        # As under nohup.
        signal.signal(how, signal.SIG_IGN)
        assert run("stats", str(ini)) == 1
        assert "interrupted" not in capsys.readouterr().err
        assert signal.getsignal(how) is signal.SIG_IGN
    finally:
        signal.signal(how, before)


# -- standard streams ----------------------------------------------------------------


def test_output_that_cannot_be_written_is_an_error_of_one_line(redis_url: str) -> None:
    command = [sys.executable, "-m", "pyramid_redis_lua_sessions", "stats", "--url", redis_url]
    for unbuffered in ("", "1"):
        with open("/dev/full", "w") as full:
            assert "No space left" in failure_of(command, full, unbuffered)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_command_whose_reader_has_enough_ends_silently(redis_url: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody_reads:
        done = subprocess.run(
            [sys.executable, "-m", "pyramid_redis_lua_sessions", "check", "--url", redis_url],
            stdout=nobody_reads,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_command_whose_output_or_errors_are_closed(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert run("load-scripts", "--url", redis_url) == 0
        assert run("stats", "--url", "nonsense") == 2
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert run("load-scripts", "--url", redis_url) == 0
        capsys.readouterr()
        assert run("stats", "--url", "nonsense") == 2
    assert capsys.readouterr() == ("", "")


# -- Redis Cluster -----------------------------------------------------------------

SLOTS = 16384


def start_cluster_node(new_redis_server: NewServer) -> RedisServer:
    for _ in range(20):
        try:
            return new_redis_server(config={"cluster-enabled": "yes"})
        except RedisServerError:
            continue  # the port has no room for the cluster bus, which is 10,000 above
    raise AssertionError("no cluster node started")


def is_ready(client: redis.Redis) -> bool:
    info: Any = client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3")


@pytest.fixture
def cluster(new_redis_server: NewServer) -> Iterator[list[RedisServer]]:
    """Three primaries of one cluster."""
    servers = [start_cluster_node(new_redis_server) for _ in range(3)]
    clients = [server.client(decode_responses=True) for server in servers]
    for number, client in enumerate(clients):
        first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3
        client.execute_command("CLUSTER ADDSLOTS", *range(first, last))
        client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        client.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].port)
    wait_until(lambda: all(is_ready(client) for client in clients), timeout=20)
    yield servers
    for client in clients:
        client.close()


def test_load_scripts_reaches_every_primary_of_a_cluster(
    cluster: list[RedisServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ini = tmp_path / "cluster.ini"
    ini.write_text(
        f"[app:main]\nuse = call:{__name__}:unused_app\n"
        f"redis.sessions.secret = {SECRET}\n"
        f"redis.sessions.client_callable = {__name__}.cluster_client\n"
        f"redis.sessions.port = {cluster[0].port}\n"
    )
    for args in (["--url", cluster[0].url], [str(ini)]):
        for server in cluster:
            with server.client() as client:
                client.script_flush()
        assert run("load-scripts", *args) == 0
        printed = printed_lines(capsys.readouterr().out)
        assert [line[:2] for line in printed] == [line[:2] for line in expected_lines("")]
        for _, _, nodes in printed:
            assert set(nodes.split(", ")) == {f"127.0.0.1:{server.port}" for server in cluster}
        for server in cluster:
            with server.client() as client:
                assert all(client.script_exists(*(script.sha1 for script in SCRIPTS.values())))


def cluster_client(request: object, **options: object) -> RedisCluster:
    return RedisCluster(host="127.0.0.1", port=options["port"])  # type: ignore[arg-type]

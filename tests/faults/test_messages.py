"""An error says which Redis could not be reached, and why; never with what secret."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pyramid_redis_lua_sessions import StoreError
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import make_browser

PASSWORD = "hunter2-of-the-tests"


@pytest.fixture
def closed() -> Iterator[int]:
    """A port at which nothing listens: it is bound only."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def failed(url: str) -> StoreError:
    browser = make_browser(url, preload_scripts="false", redis_retries=0)
    with pytest.raises(StoreError) as caught:
        browser.use(lambda session: session.update(a=1))
    return caught.value


def chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://u:{password}@127.0.0.1:{port}/3", "127.0.0.1:{port}, db 3"),
        ("redis+sentinel://u:{password}@127.0.0.1:{port}/main", "main of the sentinels 127.0.0.1"),
        ("redis+cluster://u:{password}@127.0.0.1:{port}", "127.0.0.1:{port}"),
    ],
    ids=["redis", "sentinel", "cluster"],
)
def test_refused_connection_names_host_and_port(url: str, where: str, closed: int) -> None:
    error = failed(url.format(password=PASSWORD, port=closed))
    assert f" at {where.format(port=closed)}" in str(error)
    assert error.__cause__ is not None
    if "sentinel" not in url:
        assert "errno 111, Connection refused" in str(error)
        assert any(isinstance(one, ConnectionRefusedError) for one in chain(error))
    assert PASSWORD not in " ".join(f"{one} {one!r}" for one in chain(error))


def test_unknown_host_is_named() -> None:
    error = failed("redis://nowhere.invalid:7000")
    assert " at nowhere.invalid:7000 (ConnectionError: errno -" in str(error)
    assert any(isinstance(one, socket.gaierror) for one in chain(error))


def test_socket_that_is_not_there_is_named(tmp_path: Any) -> None:
    error = failed(f"unix://{tmp_path}/redis.sock")
    assert f" at {tmp_path}/redis.sock (ConnectionError: errno 2, No such file" in str(error)


def test_wrong_database_is_named(redis_server: RedisServer) -> None:
    error = failed(f"redis://127.0.0.1:{redis_server.port}/99")
    assert f"no such database at 127.0.0.1:{redis_server.port}, db 99" in str(error)

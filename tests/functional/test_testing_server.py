"""RedisServer and CountingProxy, on a real server."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer, RedisServerError, servers

NewServer = Callable[..., RedisServer]
NO_RETRY = Retry(NoBackoff(), 0)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def config_of(client: redis.Redis, name: str) -> str:
    return client.config_get(name)[name]  # type: ignore[index,no-any-return]


def test_server_is_private_and_keeps_nothing(new_redis_server: NewServer) -> None:
    server = new_redis_server()
    assert server.port != 6379
    with server.client(decode_responses=True) as client:
        info = client.info()
        assert info["process_id"] == server.pid
        assert server.version == tuple(map(int, info["redis_version"].split(".")))
        assert config_of(client, "save") == ""
        assert config_of(client, "appendonly") == "no"
        assert config_of(client, "bind") == "127.0.0.1"


def test_server_config_reaches_the_server(new_redis_server: NewServer) -> None:
    server = new_redis_server(config={"maxmemory": "10mb", "requirepass": "secret", "hz": 50})
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert config_of(client, "maxmemory") == str(10 * 1024 * 1024)
        assert config_of(client, "hz") == "50"
    with (
        pytest.raises(redis.AuthenticationError),
        server.client(password=None, retry=NO_RETRY) as client,
    ):
        client.ping()


def test_server_when_config_is_wrong(redis_binary: str) -> None:
    server = RedisServer(redis_binary, config={"no-such-directive": "1"})
    with pytest.raises(RedisServerError, match="no-such-directive"):
        server.start()
    assert not server.running


def test_server_on_a_unix_socket(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.unix_url) as client:
        assert client.info("server")["process_id"] == redis_server.pid  # type: ignore[index]


def test_server_when_its_port_was_taken_meanwhile(
    redis_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer(redis_binary) as other, socket.create_server(("127.0.0.1", 0)) as silent:
        free_port = servers._free_port
        ports = [other.port, silent.getsockname()[1]]
        monkeypatch.setattr(servers, "_free_port", lambda: ports.pop(0) if ports else free_port())
        with RedisServer(redis_binary) as server:
            assert ports == []
            assert server.port not in {other.port, silent.getsockname()[1]}
            with server.client() as client:
                assert client.ping()


def test_server_stop_leaves_nothing(redis_binary: str) -> None:
    server = RedisServer(redis_binary).start()
    pid, directory = server.pid, server._directory
    watchdog = server._watchdog
    assert is_alive(pid)
    assert directory is not None
    assert directory.is_dir()
    assert watchdog is not None
    server.stop()
    assert not is_alive(pid)
    assert not is_alive(watchdog.pid)
    assert not directory.exists()
    server.stop()


def test_server_stop_when_paused(redis_binary: str) -> None:
    server = RedisServer(redis_binary).start()
    pid = server.pid
    server.pause()
    started = time.monotonic()
    server.stop()
    assert not is_alive(pid)
    assert time.monotonic() - started < servers.STOP_SECONDS


def test_server_stop_in_a_forked_process_does_nothing(new_redis_server: NewServer) -> None:
    server = new_redis_server(unix_socket=True)
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert Path(server.unix_socket).exists()
    with server.client() as client:
        assert client.ping()


def test_server_kill_and_start_again(new_redis_server: NewServer) -> None:
    server = new_redis_server()
    port, pid = server.port, server.pid
    with server.client(retry=NO_RETRY) as client:
        client.set("key", "value")
        server.kill()
        assert not server.running
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert server.port == port
        assert server.pid != pid
        assert client.get("key") is None


@pytest.mark.parametrize("appendonly", ["no", "yes"])
def test_server_restart(new_redis_server: NewServer, appendonly: str) -> None:
    server = new_redis_server(config={"appendonly": appendonly})
    port = server.port
    with server.client() as client:
        client.set("key", "value")
        server.restart(keep_data=True)
        assert server.port == port
        assert client.get("key") == b"value"
        server.restart()
        assert client.get("key") is None


def test_server_pause_and_resume(new_redis_server: NewServer) -> None:
    server = new_redis_server()
    with server.client(socket_timeout=0.2, retry=NO_RETRY) as client:
        client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        assert server.running
        server.resume()
        assert client.ping()


@pytest.mark.parametrize("how", [None, signal.SIGTERM, signal.SIGKILL])
def test_server_ends_with_the_process_that_started_it(
    redis_binary: str, how: signal.Signals | None
) -> None:
    program = (
        "import sys\n"
        "from pyramid_redis_lua_sessions.testing import RedisServer\n"
        "server = RedisServer(sys.argv[1]).start()\n"
        "print(server.pid, server._directory, flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, redis_binary],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        assert is_alive(int(pid))
        if how is None:
            parent.stdin.write("\n")
            parent.stdin.flush()
        else:
            parent.send_signal(how)
        parent.wait(10)
    wait_until(lambda: not is_alive(int(pid)))
    wait_until(lambda: not Path(directory).exists())


@pytest.fixture
def proxied(proxy: CountingProxy) -> redis.Redis:
    """A connected client through the proxy, which has forgotten the handshake."""
    client = redis.Redis.from_url(proxy.url, retry=NO_RETRY)
    client.ping()
    proxy.reset()
    return client


def test_proxy_counts_nothing_when_nothing_is_sent(
    proxy: CountingProxy, proxied: redis.Redis
) -> None:
    assert (proxy.round_trips, proxy.bytes_sent, proxy.bytes_received) == (0, 0, 0)
    assert proxy.commands == []


def test_proxy_counts_each_command_sent_alone(proxy: CountingProxy, proxied: redis.Redis) -> None:
    for number in range(20):
        proxied.set("key", number)
        assert proxy.round_trips == number + 1
    assert proxied.get("key") == b"19"
    assert proxy.round_trips == 21
    assert proxy.command_names == ["SET"] * 20 + ["GET"]
    assert proxy.commands[-1].args == (b"GET", b"key")


def test_proxy_counts_bytes_each_way(proxy: CountingProxy, proxied: redis.Redis) -> None:
    proxied.set("key", "value")
    assert proxy.bytes_sent == len(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n")
    assert proxy.bytes_received == len(b"+OK\r\n")


def test_proxy_counts_a_pipeline_as_one(proxy: CountingProxy, proxied: redis.Redis) -> None:
    with proxied.pipeline(transaction=False) as pipeline:
        for number in range(10):
            pipeline.set(f"key{number}", number)
        pipeline.execute()
    assert proxy.round_trips == 1
    assert len(proxy.commands) == 10


def test_proxy_counts_a_pipeline_as_one_when_sent_in_pieces(
    proxy: CountingProxy, proxied: redis.Redis
) -> None:
    # The client library sends a pipeline of large values piece by piece, and the server
    # answers the first while the last is still on its way.
    value = b"x" * 200_000
    with proxied.pipeline(transaction=False) as pipeline:
        for number in range(10):
            pipeline.set(f"key{number}", value)
            pipeline.get(f"key{number}")
        replies = pipeline.execute()
    assert replies == [True, value] * 10
    assert proxy.round_trips == 1
    assert proxy.command_names == ["SET", "GET"] * 10


def test_proxy_counts_one_when_the_server_answers_before_the_client_has_sent_everything(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    with (
        CountingProxy(redis_server.port, settle=1.0) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as client,
    ):
        client.sendall(b"INCR counter\r\n")
        wait_until(lambda: redis_client.get("counter") == b"1")
        client.sendall(b"INCR counter\r\n")
        replies = b""
        while replies != b":1\r\n:2\r\n":
            replies += client.recv(100)
        assert proxy.round_trips == 1
        assert proxy.command_names == ["INCR", "INCR"]


def test_proxy_counts_watch_and_transaction(proxy: CountingProxy, proxied: redis.Redis) -> None:
    with proxied.pipeline() as pipeline:
        pipeline.watch("key")
        pipeline.multi()
        pipeline.set("key", 1)
        pipeline.execute()
    assert proxy.command_names[:4] == ["WATCH", "MULTI", "SET", "EXEC"]
    assert proxy.round_trips == 2


def test_proxy_names_the_script(proxy: CountingProxy, proxied: redis.Redis) -> None:
    sha = proxied.script_load("return ARGV[1]")
    proxy.reset()
    assert proxied.evalsha(sha, 0, "answer") == b"answer"  # type: ignore[arg-type]
    (command,) = proxy.commands
    assert (command.name, command.sha) == ("EVALSHA", sha)
    assert command.args == (b"EVALSHA", str(sha).encode(), b"0", b"answer")


def test_proxy_when_many_clients_use_it(proxy: CountingProxy, redis_client: redis.Redis) -> None:
    clients = [redis.Redis.from_url(proxy.url) for _ in range(50)]
    for client in clients:
        client.ping()
    proxy.reset()

    def count(client: redis.Redis) -> None:
        for _ in range(5):
            client.execute_command("INCR", "counter")

    threads = [threading.Thread(target=count, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    assert redis_client.get("counter") == b"250"
    assert proxy.round_trips == 250
    assert proxy.command_names == ["INCR"] * 250
    assert len({command.connection for command in proxy.commands}) == 50


def test_proxy_loses_a_reply_after_the_server_has_acted(
    proxy: CountingProxy, proxied: redis.Redis, redis_client: redis.Redis
) -> None:
    proxy.lose_replies()
    with pytest.raises(redis.ConnectionError):
        proxied.incr("counter")
    assert redis_client.get("counter") == b"1"
    assert proxied.incr("counter") == 2


def test_proxy_when_the_server_is_gone_and_comes_back(new_redis_server: NewServer) -> None:
    server = new_redis_server()
    with CountingProxy(server.port) as proxy:
        client = redis.Redis.from_url(proxy.url, retry=NO_RETRY)
        client.ping()
        server.kill()
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                client.ping()
        server.start()
        assert client.ping()


def test_proxy_close_breaks_connections(redis_server: RedisServer) -> None:
    before = threading.active_count()
    proxy = CountingProxy(redis_server.port).start()
    client = redis.Redis.from_url(proxy.url, retry=NO_RETRY)
    client.ping()
    proxy.close()
    assert threading.active_count() == before
    with pytest.raises(redis.ConnectionError):
        client.ping()
    with pytest.raises(RuntimeError):
        _ = proxy.url
    proxy.close()

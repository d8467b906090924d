"""Fixtures shared by all tests: a real private Redis server, a client, a counting proxy.

``REDIS_TOPOLOGY=cluster`` or ``sentinel`` gives the functional tests a Redis Cluster, or a
primary behind sentinels, instead of one server. Those that are about the server, or about what
travels to it, are left out then. ``VARIANTS=3`` keeps at most three variants of each test.
"""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.testing import (
    CountingProxy,
    RedisServer,
    find_redis_server,
)

# So that their assertions show what they compared.
pytest.register_assert_rewrite("tests.support")
from tests.support.topology import Cluster, Sentinels  # noqa: E402

# A shell's background job ignores the one, what runs under nohup the other; and so would the
# commands that tests end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

TOPOLOGIES = {"cluster": Cluster, "sentinel": Sentinels}
TOPOLOGY = os.environ.get("REDIS_TOPOLOGY", "")

#: At most so many variants of each parametrized test, evenly chosen; 0 = all.
VARIANTS = int(os.environ.get("VARIANTS", "0"))

#: Fixtures of the tests that need one server of their own, or see it through a proxy.
ONE_SERVER = {"redis_server", "proxy", "new_redis_server"}

#: Further tests, or files, that need one server, and why.
ONE_SERVER_TESTS = {
    "test_arguments.py::test_every_script_is_among_them": (
        "it needs all variants of the test before it"
    ),
    "test_bench.py::test_only_the_requests_that_are_counted_lie_between_two_marks": (
        "the benchmark is of one server"
    ),
    "test_cli_check.py::test_check_warns_of_a_client_with_which_a_page_can_hang_for_long": (
        "its client is of one server"
    ),
    "test_client_callable.py::test_callable_by_dotted_name": "its client is of one server",
    "test_first_timeout.py::test_flood_without_cookies_leaves_only_the_last_minute": (
        "it measures the memory of one server"
    ),
    "test_indexes.py::test_value_is_not_stored_without_its_index": (
        "its ACL user is known to one node"
    ),
    "test_limits.py::test_login_that_redis_refuses_leaves_its_room": (
        "its ACL user is known to one node"
    ),
    "test_owner.py::test_decoding_client_lists_and_revokes": "its client is of one server",
    "test_owner.py::test_login_does_not_fail_when_the_index_cannot_be_tidied": (
        "its ACL user is known to one node"
    ),
    "test_owner_of_many.py::test_limit_holds_with_a_client_of_the_applications_own": (
        "its client is of one server"
    ),
    "test_packaging.py": "its program knows only redis-py, and URLs of one server",
    "test_preload.py::test_script_that_was_lost_once_stays_however_many_others_run": (
        "it asks one server; for a node there is a test of its own"
    ),
    "test_regenerate.py::test_new_id_that_cannot_be_completed_is_taken_back": (
        "its client is of one server"
    ),
    "test_round_trips.py::test_redis_executes_one_write_for_a_read_without_a_trigger": (
        "MONITOR shows one node"
    ),
    "test_round_trips.py::test_redis_executes_only_reading_commands_for_a_read_with": (
        "MONITOR shows one node"
    ),
    "test_save_points.py::test_save_happens_before_tweens_above_see_the_response": (
        "its KEYS, by the application's client, is of one node"
    ),
}


def _runs_on_topology(item: Any) -> bool:
    name = f"{item.path.name}::{item.originalname}"
    return (
        "functional" in item.path.parts
        and "redis_url" in item.fixturenames
        and not ONE_SERVER & set(item.fixturenames)
        and name not in ONE_SERVER_TESTS
        and item.path.name not in ONE_SERVER_TESTS
        # Its client does not ask sentinels; what it steps through is the same on one server.
        and not (TOPOLOGY == "sentinel" and "step" in item.fixturenames)
    )


def _fewer_variants(items: list[Any], most: int) -> list[Any]:
    """Keep at most so many variants of each test, from its first to its last."""
    variants: dict[str, list[Any]] = {}
    for item in items:
        variants.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept: list[Any] = []
    for same in variants.values():
        count = min(most, len(same))
        kept += [same[number * (len(same) - 1) // max(1, count - 1)] for number in range(count)]
    return kept


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leave out what cannot run on the topology that was asked for, or is too much."""
    chosen = [item for item in items if not TOPOLOGY or _runs_on_topology(item)]
    if VARIANTS:
        chosen = _fewer_variants(chosen, VARIANTS)
    kept = set(map(id, chosen))
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = chosen


@pytest.fixture(scope="session")
def redis_binary() -> str:
    """Path of the server binary. Without one the tests fail: they never skip."""
    return find_redis_server()


@pytest.fixture(scope="session")
def redis_server(redis_binary: str) -> Iterator[RedisServer]:
    """The server that the tests share. Who pauses, kills or reconfigures one takes its own,
    from ``new_redis_server``."""
    with RedisServer(redis_binary, unix_socket=True) as server:
        yield server


if TOPOLOGY:

    @pytest.fixture(scope="session")
    def shared_redis(redis_binary: str) -> Iterator[Any]:
        """The servers that the tests share."""
        with TOPOLOGIES[TOPOLOGY](redis_binary) as topology:
            yield topology

else:

    @pytest.fixture(scope="session")
    def shared_redis(redis_server: RedisServer) -> Any:
        """The server that the tests share."""
        return redis_server


@pytest.fixture(scope="session")
def shared_client(shared_redis: Any) -> Iterator[redis.Redis]:
    """One client for all tests: that of a cluster takes its time to connect."""
    with shared_redis.client() as client:
        yield client


@pytest.fixture
def redis_client(shared_client: redis.Redis) -> redis.Redis:
    """A client of the shared server, whose data were just removed (its scripts were not)."""
    shared_client.flushall()
    return shared_client


@pytest.fixture
def redis_url(shared_redis: Any, redis_client: redis.Redis) -> str:
    """URL of the shared server, whose data were just removed."""
    return str(shared_redis.url)


@pytest.fixture
def proxy(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[CountingProxy]:
    """A counting proxy to the shared server, whose data were just removed."""
    with CountingProxy(redis_server.port) as counting:
        yield counting


@pytest.fixture
def new_redis_server(redis_binary: str) -> Iterator[Callable[..., RedisServer]]:
    """Starts a server of the test's own: ``new_redis_server(config={...})``."""
    servers: list[RedisServer] = []

    def start(**options: object) -> RedisServer:
        server = RedisServer(redis_binary, **options)  # type: ignore[arg-type]
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()

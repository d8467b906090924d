"""Metrics and traces, beside what really happened."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import redis
import yaml
from opentelemetry import trace
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pyramid.exceptions import ConfigurationError
from pyramid.response import Response
from pyramid_retry import mark_error_retryable

from pyramid_redis_lua_sessions import SessionConflict, StoreUnavailable, revoke
from pyramid_redis_lua_sessions.engine import observer
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS, Status
from pyramid_redis_lua_sessions.observe import NEEDED
from pyramid_redis_lua_sessions.observe.measuring import METRICS
from pyramid_redis_lua_sessions.observe.otel import _server
from pyramid_redis_lua_sessions.observe.otel import name_of as otel_name
from pyramid_redis_lua_sessions.observe.prometheus import name_of
from pyramid_redis_lua_sessions.settings import Settings
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import SECRET, Browser, make_browser, take_along
from tests.support.serving import served
from tests.support.topology import free_port
from tests.support.waiting import wait_until

DOCS = Path(__file__).resolve().parents[2] / "docs"

SECRETS = ("a-value-that-nobody-may-see", "ada@example.com")
VALUE, OWNER = SECRETS

#: What the 100 requests are, and what each of them does; see :func:`drive`.
EXPECTED = {
    ("created", "first write"): 14,
    ("created", "login"): 2,
    ("created", "ensure_id"): 2,
    ("regenerated", "login"): 5,
    ("regenerated", "regenerate_id"): 3,
    ("ended", "invalidate"): 5,
    ("ended", "owner_sessions"): 1,
    ("ended", "revoke"): 1,
    ("ended", "emptied"): 2,
    ("conflicts", "outdated"): 2,
    ("rejected", "no cookie of the session verifies"): 4,
    ("rejected", "no such session"): 3,
    ("dropped_changes", "session has ended; changes dropped"): 2,
}


class Driven(NamedTuple):
    """What the requests were, as seen from outside.

    :ivar calls: of each script, as the proxy saw them.
    """

    requests: int
    calls: Counter[str]
    round_trips: int
    bytes_sent: int
    bytes_received: int


def sorry(request: Any) -> Response:
    return Response(status=409)


def configure(config: Any) -> None:
    config.add_exception_view(sorry, context=SessionConflict)


def write(session: Any) -> None:
    session["a"] = [session.get("a"), VALUE]


def drive(proxy: CountingProxy, prefix: str, **options: Any) -> Driven:
    """Make 100 requests of all kinds, one after the other."""
    user = make_browser(
        proxy.url,
        prefix=prefix,
        invalidate_empty_session=True,
        owner_sessions=2,
        configure=configure,
        **options,
    )
    retry = make_browser(
        proxy.url, prefix=prefix, on_conflict="retry", configure=configure, **options
    )
    for each in (user, retry):  # the application has connected
        each.factory.store_for(None).client.ping()
    proxy.reset()
    requests = 0

    def use(who: Browser, what: Callable[[Any], Any], **more: Any) -> None:
        nonlocal requests
        requests += 1
        who.use(what, **more)

    for _ in range(9):
        user.another().visit(lambda request: None)
        requests += 1
    users = [user.another() for _ in range(10)]
    for each in users:
        use(each, lambda session: session.update(a=VALUE))  # first write
        use(each, dict)
        use(each, write)
    for number, each in enumerate(users[:5]):
        use(each, lambda session, number=number: setattr(session, "owner", f"{number}{OWNER}"))
    for _ in range(2):  # the second one is one too many, and ends the first of all
        use(user.another(), lambda session: setattr(session, "owner", f"0{OWNER}"))
    for each in users[1:4]:
        use(each, lambda session: session.regenerate_id())
        use(each, lambda session: session.adjust_session_timeout(900))
    for _ in range(2):
        use(user.another(), lambda session: session.ensure_id())
    for _ in range(4):
        forged = user.another()
        forged.app.set_cookie("session", VALUE)
        use(forged, dict)
    for _ in range(3):
        stale = users[5].copy()
        stale.factory.store_for(None).client.delete(stale.key)
        use(stale, dict)
    for each in users[6:8]:  # a request whose session ends while it is under way

        def overtaken(session: Any, each: Browser = each) -> None:
            write(session)
            use(each.copy(), lambda other: other.invalidate())

        use(each, overtaken)
    for each in users[1:4]:
        use(each, lambda session: session.invalidate())
    requests += 1
    users[9].visit(lambda request: revoke(request, f"4{OWNER}"))
    for _ in range(2):
        emptied = user.another()
        use(emptied, lambda session: session.update(a=1))
        use(emptied, lambda session: session.clear())
    for _ in range(2):

        def outdated(session: Any, each: Browser) -> None:
            write(session)
            use(each.copy(), write)

        each = retry.another()
        use(each, lambda session: session.update(a=1))
        use(each, lambda session, each=each: outdated(session, each), status=409)
    users[9].factory.store_for(None).client.script_flush()
    while requests < 100:  # the first of them finds that its script is lost
        use(users[9], dict)
    names = {script.sha1: name for name, script in SCRIPTS.items()}
    calls = Counter[str]()
    for command in proxy.commands:
        if command.sha is not None:
            calls[names[command.sha]] += 1
        elif command.name in ("ZRANGE", "ZREM", "ZSCAN"):
            calls[command.name.lower()] += 1
    own = [c for c in proxy.commands if c.name in ("DEL", "SCRIPT") and c.args[1] != b"LOAD"]
    assert len(own) == 4  # sent by this function itself, and no session's: 30 bytes or so each
    sent = sum(size_of(command.args) for command in own)
    received = len(b":1\r\n:0\r\n:0\r\n+OK\r\n")
    return Driven(
        requests,
        calls,
        proxy.round_trips - len(own),
        proxy.bytes_sent - sent,
        proxy.bytes_received - received,
    )


def size_of(command: tuple[bytes, ...]) -> int:
    return len(b"*%d\r\n" % len(command)) + sum(
        len(b"$%d\r\n%b\r\n" % (len(word), word)) for word in command
    )


# -- Prometheus --------------------------------------------------------------------


def samples(prefix: str, text: str | None = None) -> dict[tuple[str, ...], float]:
    """What the text format says of one prefix: (name, label, ...) to value."""
    found = {}
    shown = generate_latest(REGISTRY).decode() if text is None else text
    for family in text_string_to_metric_families(shown):
        for sample in family.samples:
            labels = dict(sample.labels)
            if labels.pop("prefix", None) == prefix and not sample.name.endswith("_created"):
                found[(sample.name, *labels.values())] = sample.value
    return found


def total(found: dict[tuple[str, ...], float], name: str) -> dict[str, float]:
    return {key[1]: value for key, value in found.items() if key[0] == name}


@pytest.fixture
def server_proxy(new_redis_server: Callable[..., RedisServer]) -> Iterator[CountingProxy]:
    """A proxy to a server of the test's own."""
    with CountingProxy(new_redis_server().port) as proxy:
        yield proxy


def test_every_number_is_what_happened(server_proxy: CountingProxy) -> None:
    driven = drive(server_proxy, "hundred:", observe="prometheus")
    assert driven.requests == 100
    found = samples("hundred:")
    events = {
        (name, key[1]): int(value)
        for name in {name for name, _ in EXPECTED}
        for key, value in found.items()
        if key[0] == f"redis_sessions_{name}_total"
    }
    assert events == EXPECTED
    # The calls, as the proxy saw them; one that found no script was sent, too.
    by_script = Counter[str]()
    for key, value in found.items():
        if key[0] == "redis_sessions_calls_total":
            by_script[key[1]] += int(value)
    assert by_script == driven.calls
    calls = {key[1:]: value for key, value in found.items() if key[0].endswith("_calls_total")}
    assert calls[("create_unique", "CREATED")] == 14 + 2 + 2
    assert calls[("load_and_touch", "GONE")] == 3
    assert calls[("save_fields", "MOVED")] == 2
    assert calls[("save_if_changed", "CONFLICT")] == 2
    assert calls[("save_if_changed", "EMPTIED")] == 2
    assert calls[("adjust_timeout", "ADJUSTED")] == 3
    assert calls[("end_session", "ENDED")] == 5 + 1 + 1
    assert calls[("zscan", "OK")] == 1
    assert found[("redis_sessions_round_trips_total",)] == driven.round_trips
    assert found[("redis_sessions_sent_bytes_total",)] == driven.bytes_sent
    assert found[("redis_sessions_received_bytes_total",)] == driven.bytes_received
    durations = total(found, "redis_sessions_call_duration_seconds_count")
    # A login asks for two scripts at once, and each packet is one step; a lost script's
    # second packet belongs to the step that found out.
    assert sum(durations.values()) == driven.round_trips - 1
    assert durations["index_session + renew_token"] == 5 + 3  # and the owners' new tokens
    assert 0 < sum(total(found, "redis_sessions_call_duration_seconds_sum").values()) < 60
    # One after the other they need one connection, and nobody waits.
    assert total(found, "redis_sessions_connections") == {"used": 0, "idle": 1}
    assert found[("redis_sessions_connections_max",)] == 50
    assert ("redis_sessions_connection_wait_seconds_count",) not in found
    assert ("redis_sessions_redirections_total",) not in found
    text = generate_latest(REGISTRY).decode()
    assert not [secret for secret in SECRETS if secret in text]


def test_attempts_of_a_request_are_one_request(redis_url: str) -> None:
    user = make_browser(
        redis_url,
        prefix="attempts:",
        observe="prometheus",
        configure=lambda config: config.include("pyramid_retry"),
        settings={"retry.attempts": 3},
    )
    attempts = 0

    def thrice(session: Any) -> None:
        nonlocal attempts
        attempts += 1
        session["a"] = VALUE
        session.ensure_id()
        if attempts < 3:
            again = ZeroDivisionError()
            mark_error_retryable(again)
            raise again

    user.app.set_cookie("session", "forged")
    user.use(thrice)
    assert attempts == 3
    found = samples("attempts:")
    assert total(found, "redis_sessions_rejected_total") == {"no cookie of the session verifies": 1}
    # What is created and what ends stay in balance: one of them lives.
    assert total(found, "redis_sessions_created_total") == {"first write": 3}
    assert total(found, "redis_sessions_ended_total") == {"undelivered": 2}


def test_session_whose_cookie_may_not_be_sent_is_counted_as_ended(redis_url: str) -> None:
    user = make_browser(
        redis_url,
        prefix="in vain:",
        observe="prometheus",
        func_check_response_allow_cookies=lambda response: False,
    )
    user.use(lambda session: session.ensure_id())
    found = samples("in vain:")
    assert total(found, "redis_sessions_created_total") == {"ensure_id": 1}
    assert total(found, "redis_sessions_ended_total") == {"undelivered": 1}


def test_waits_and_redirections_are_counted(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()
    user = make_browser(server.url, prefix="waits:", observe="prometheus", redis_max_connections=1)
    user.use(write)
    pool = user.factory.store_for(None).client.connection_pool
    taken = pool.get_connection()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(user.use, dict)
        wait_until(lambda: bool(pool._waiting))
        pool.release(taken)
        reading.result()
    found = samples("waits:")
    assert found[("redis_sessions_connection_wait_seconds_count",)] == 1
    assert found[("redis_sessions_connection_wait_seconds_sum",)] > 0
    assert found[("redis_sessions_connections_max",)] == 1
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreUnavailable):
        user.use(dict)
    found = samples("waits:")
    assert found[("redis_sessions_redirections_total",)] == 2  # the call, and its repetition
    failed = ("redis_sessions_calls_total", "load_and_touch", "StoreUnavailable")
    assert found[failed] == 1


def test_names_are_those_of_the_text_format_and_documented() -> None:
    page = (DOCS / "monitoring.rst").read_text("utf-8")
    shown = {family.name: family for family in REGISTRY.collect()}
    for metric in METRICS.values():
        family = shown[name_of(metric)]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        name = name_of(metric) + ("_total" if metric.kind == "counter" else "")
        assert f"``{name}``" in page, name
        assert f"``{otel_name(metric.name)}``" in page, metric.name
        for label in metric.labels:
            assert f"``{label}``" in page, label


def metrics_of(browser: Browser) -> str:
    response = browser.app.get("/metrics")
    assert response.content_type == "text/plain"
    assert "Set-Cookie" not in response.headers
    return str(response.text)


def with_metrics(config: Any) -> None:
    config.add_route("metrics", "/metrics")
    config.add_view("pyramid_redis_lua_sessions.observe.prometheus.metrics", route_name="metrics")


def test_view_shows_what_was_collected(redis_url: str) -> None:
    user = make_browser(redis_url, prefix="view:", observe="prometheus", configure=with_metrics)
    user.use(write)
    before = samples("view:", metrics_of(user))
    assert before[("redis_sessions_created_total", "first write")] == 1
    # To look at them asks nothing of Redis.
    assert samples("view:", metrics_of(user)) == before


WORKER = """
import sys
from tests.functional.test_monitoring import with_metrics, write
from tests.support.browser import make_browser
user = make_browser(sys.argv[1], prefix="many:", observe="prometheus", configure=with_metrics)
for _ in range(int(sys.argv[2])):
    user.another().use(write)
print(user.app.get("/metrics").text)
"""


def test_several_processes_are_one_application(redis_url: str, tmp_path: Path) -> None:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for number in (2, 3):
        done = subprocess.run(
            [sys.executable, "-c", WORKER, redis_url, str(number)],
            env=environ,
            cwd=DOCS.parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    found = samples("many:", done.stdout)
    assert found[("redis_sessions_created_total", "first write")] == 2 + 3
    assert found[("redis_sessions_calls_total", "create_unique", "CREATED")] == 2 + 3
    assert found[("redis_sessions_call_duration_seconds_count", "create_unique")] == 2 + 3


# -- OpenTelemetry -----------------------------------------------------------------


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture(scope="module")
def reader() -> InMemoryMetricReader:
    reader = InMemoryMetricReader()
    set_meter_provider(MeterProvider(metric_readers=[reader]))
    return reader


def points(reader: InMemoryMetricReader, prefix: str) -> dict[tuple[Any, ...], Any]:
    """What was measured: (name, label, ...) to value."""
    found: dict[tuple[Any, ...], Any] = {}
    data: Any = reader.get_metrics_data()
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    labels = dict(point.attributes)
                    of_pool = labels.pop("db.client.connection.pool.name", prefix)
                    if labels.pop("prefix", of_pool) == prefix:
                        value = getattr(point, "value", None)
                        value = point.count if value is None else value
                        found[(metric.name, *labels.values())] = value
    return found


def test_every_number_is_what_happened_for_opentelemetry_too(
    server_proxy: CountingProxy, reader: InMemoryMetricReader, spans: InMemorySpanExporter
) -> None:
    spans.clear()
    driven = drive(server_proxy, "telemetry:", observe="otel")
    found = points(reader, "telemetry:")
    events = {
        (name, key[1]): value
        for name in {name for name, _ in EXPECTED}
        for key, value in found.items()
        if key[0] == f"redis_sessions.{name}"
    }
    assert events == EXPECTED
    by_script = Counter[str]()
    for key, value in found.items():
        if key[0] == "redis_sessions.calls":
            by_script[key[1]] += value
    assert by_script == driven.calls
    assert found[("redis_sessions.round_trips",)] == driven.round_trips
    assert found[("redis_sessions.sent",)] == driven.bytes_sent
    assert found[("redis_sessions.received",)] == driven.bytes_received
    assert found[("db.client.connection.count", "used")] == 0
    assert found[("db.client.connection.count", "idle")] == 1
    assert found[("db.client.connection.max",)] == 50
    durations = [v for k, v in found.items() if k[0] == "db.client.operation.duration"]
    assert sum(durations) == driven.round_trips - 1
    # A span a step.
    finished = spans.get_finished_spans()
    assert len(finished) == driven.round_trips - 1
    shown = repr([(span.name, dict(span.attributes or {})) for span in finished])
    for secret in (*SECRETS, "telemetry:"):
        assert secret not in shown


def test_span_is_a_child_of_the_requests_and_follows_the_conventions(
    redis_server: RedisServer, redis_client: redis.Redis, spans: InMemorySpanExporter
) -> None:
    user = make_browser(f"{redis_server.url}", observe="otel")
    spans.clear()
    with trace.get_tracer("tests").start_as_current_span("GET /") as request:
        user.use(write)
        user.use(lambda session: setattr(session, "owner", OWNER))
    create, load, login, _ = spans.get_finished_spans()
    for span in (create, load, login):
        assert span.parent is not None
        assert span.parent.span_id == request.get_span_context().span_id
        assert span.kind is SpanKind.CLIENT
        assert span.status.status_code is StatusCode.UNSET
        assert span.start_time is not None
        assert span.end_time is not None
        assert 0 < span.end_time - span.start_time < 60e9
    assert create.name == "EVALSHA create_unique"
    assert dict(create.attributes or {}) == {
        "db.system.name": "redis",
        "db.operation.name": "EVALSHA",
        "db.stored_procedure.name": "create_unique",
        "db.namespace": "0",
        "server.address": "127.0.0.1",
        "server.port": redis_server.port,
    }
    assert login.name == "PIPELINE EVALSHA index_session + renew_token"
    attributes = dict(login.attributes or {})
    assert attributes["db.operation.name"] == "PIPELINE EVALSHA"
    assert attributes["db.operation.batch.size"] == 2
    assert "db.stored_procedure.name" not in attributes


def test_call_that_fails_is_a_span_that_does(
    new_redis_server: Callable[..., RedisServer],
    spans: InMemorySpanExporter,
    reader: InMemoryMetricReader,
) -> None:
    server = new_redis_server()
    user = make_browser(server.url, prefix="fails:", observe="otel", redis_retries=0)
    user.use(write)
    server.kill()
    spans.clear()
    with pytest.raises(StoreUnavailable):
        user.use(dict)
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == "StoreUnavailable"
    found = points(reader, "fails:")
    assert found[("redis_sessions.calls", "load_and_touch", "StoreUnavailable")] == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"server.address": "localhost", "server.port": 6379, "db.namespace": "0"}),
        (
            {"url": "redis://u:p@h:1/3"},
            {"server.address": "h", "server.port": 1, "db.namespace": "3"},
        ),
        ({"url": "unix:///s?db=2"}, {"server.address": "/s", "db.namespace": "2"}),
        ({"unix_socket_path": "/s"}, {"server.address": "/s", "db.namespace": "0"}),
        ({"url": "redis+cluster://a:1,b:2"}, {}),
        ({"url": "redis+sentinel://a:1/service/0"}, {}),
        ({"client_callable": "tests.functional.test_monitoring.sorry"}, {}),
    ],
    ids=str,
)
def test_server_is_named_where_it_is_one(options: dict[str, Any], expected: Any) -> None:
    given = Settings.from_options({"secret": SECRET, **options})
    assert _server(given) == expected


# -- what is not there, and what fails -------------------------------------------------


@pytest.mark.parametrize("name", ["prometheus", "otel"])
def test_extra_that_is_not_installed_is_an_error_at_start(
    name: str, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    monkeypatch.setitem(NEEDED, name, "no_such_module_anywhere")
    wanted = rf"redis.sessions.observe = {name} needs the extra {name}: .*\[{name}\]"
    with pytest.raises(ConfigurationError, match=wanted):
        make_browser(redis_url, observe=name)


def test_core_imports_neither(redis_url: str) -> None:
    code = (
        "import sys, pyramid_redis_lua_sessions as p; p.RedisSessionFactory('s' * 32);"
        "print([m for m in sys.modules if m.split('.')[0] in ('prometheus_client',)"
        " or m.startswith('pyramid_redis_lua_sessions.observe')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_collector_that_fails_touches_no_request(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    user = make_browser(redis_url, observe="prometheus, otel")
    plain = take_along(user, redis_url)

    def fails(*args: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(observer, "_failure_logged", -observer.FAILURES_LOGGED)
    for watcher in user.factory.watchers:
        for name in ("add", "record", "stand"):
            monkeypatch.setattr(watcher, name, fails)
    user.use(write)
    user.use(lambda session: setattr(session, "owner", OWNER))
    assert user.use(lambda session: (session["a"], session.owner)) == ([None, VALUE], OWNER)
    user.use(lambda session: session.invalidate())
    plain.use(dict)
    failures = [record for record in caplog.records if "an observer" in record.getMessage()]
    assert len(failures) == 1


# -- the dashboard and the rules -------------------------------------------------------

MONITORING = DOCS / "monitoring"


def expressions() -> dict[str, str]:
    """Every query, by where it stands."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    (group,) = rules["groups"]
    return found | {rule["alert"]: rule["expr"] for rule in group["rules"]}


def exposed() -> set[str]:
    """The names of all samples that there can be, with those that stand for no event yet."""
    names = set()
    for metric in METRICS.values():
        name = name_of(metric)
        if metric.kind == "histogram":
            names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")}
        else:
            names.add(name + ("_total" if metric.kind == "counter" else ""))
    return names


def test_every_metric_is_in_the_dashboard_and_there_is_no_other() -> None:
    used = set[str]()
    for expression in expressions().values():
        used |= set(re.findall(r"redis_sessions_\w+", expression))
    assert used <= exposed()
    shown = {re.sub("_(bucket|count|sum)$", "", name) for name in used}
    assert shown == {re.sub("_(bucket|count|sum)$", "", name) for name in exposed()}


def test_names_of_the_samples_are_those_of_the_text_format(server_proxy: CountingProxy) -> None:
    drive(server_proxy, "names:", observe="prometheus")
    found = {key[0] for key in samples("names:")}
    assert found <= exposed()
    # Of these the tests of waits, and of devices, tell.
    rare = re.compile("connection_wait|redirections|device_")
    assert found == {name for name in exposed() if not rare.search(name)}


def test_labels_in_the_queries_are_those_that_are_given() -> None:
    statuses = {*Status.__members__, "StoreUnavailable", "StoreError"}
    source = "".join(
        path.read_text("utf-8")
        for path in (DOCS.parent / "pyramid_redis_lua_sessions").rglob("*.py")
    )
    for where, expression in expressions().items():
        for label, operator, value in re.findall(r'(\w+)(=~?)"([^"]*)"', expression):
            if label == "reason":
                assert f'"{value}"' in source, where
            elif label == "status" and operator == "=":
                assert value in statuses, where
            else:
                assert (label, operator) in {("prefix", "=~"), ("script", "=~"), ("status", "=~")}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_rules_and_metrics(redis_url: str) -> None:
    user = make_browser(redis_url, prefix="tool:", observe="prometheus", configure=with_metrics)
    user.use(write)
    subprocess.run(["promtool", "check", "rules", str(MONITORING / "alerts.yml")], check=True)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics_of(user), text=True, capture_output=True
    )
    ours = [line for line in checked.stdout.splitlines() if line.startswith("redis_sessions")]
    assert ours == []


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_prometheus_answers_every_query(redis_url: str, tmp_path: Path) -> None:
    user = make_browser(redis_url, prefix="real:", observe="prometheus", configure=with_metrics)
    user.use(write)
    with served(user.wsgi) as application_port:
        application = f"127.0.0.1:{application_port}"
        port = free_port()
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
            "rule_files": [str(MONITORING / "alerts.yml")],
            "scrape_configs": [
                {"job_name": "application", "static_configs": [{"targets": [application]}]}
            ],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stderr=subprocess.DEVNULL,
        )
        try:

            def ask(path: str, **query: str) -> Any:
                url = f"http://127.0.0.1:{port}/api/v1/{path}?{urlencode(query)}"
                with urlopen(url, timeout=10) as answer:
                    return json.load(answer)["data"]

            def has_scraped() -> bool:
                try:
                    return bool(
                        ask("query", query='redis_sessions_calls_total{prefix="real:"}')["result"]
                    )
                except OSError:
                    return False  # it is starting, or says that it is not ready yet

            wait_until(has_scraped, 30)
            for expression in expressions().values():
                query = expression.replace("$prefix", "real:").replace("$__rate_interval", "5m")
                ask("query", query=query)
            wait_until(
                lambda: all(r["health"] == "ok" for r in ask("rules")["groups"][0]["rules"]), 30
            )
            created = ask("query", query='redis_sessions_created_total{prefix="real:"}')["result"]
            assert [sample["value"][1] for sample in created] == ["1"]
        finally:
            process.terminate()
            process.wait(30)

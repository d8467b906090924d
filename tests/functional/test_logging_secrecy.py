"""No id, cookie, secret or session value is ever shown: in logs, errors, or ``repr``."""

import logging
import secrets
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from pyramid.response import Response
from webtest import TestApp

from pyramid_redis_lua_sessions import (
    InvalidSession,
    RedisSessionFactory,
    SessionConflict,
    SessionError,
    SettingsError,
    StoreError,
)
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.application import (
    make_app,
    session_id_in,
    set_cookies,
    signed_cookie,
    stored_sessions,
)

# Made at random, so that a source line in a traceback cannot contain them.
VALUE = secrets.token_hex(16)
SECOND = secrets.token_hex(16)
MESSAGE = secrets.token_hex(16)
SECRET = secrets.token_hex(32)
PASSWORD = secrets.token_hex(16)

#: So many characters of something hidden are a leak.
PART = 12


def write(request: Any) -> None:
    request.session.update(value=VALUE, basket=[VALUE])
    request.session.flash(MESSAGE)


def read(request: Any) -> str:
    return f"{sorted(request.session.items())} {request.session.peek_flash()}"


def change(request: Any) -> None:
    request.session["value"] = SECOND
    request.session["basket"].append(SECOND)
    request.session.flash(SECOND)


def add(request: Any) -> None:
    request.session["added"] = SECOND
    request.session.flash(SECOND)


def login(request: Any) -> None:
    request.session["value"] = SECOND
    request.session.owner = SECOND


def logout(request: Any) -> None:
    request.session.invalidate()


def renew(request: Any) -> None:
    request.session.invalidate()
    request.session["value"] = SECOND


def adjust(request: Any) -> None:
    request.session.adjust_session_timeout(60)


VIEWS = {
    "write": write,
    "read": read,
    "change": change,
    "login": login,
    "logout": logout,
    "renew": renew,
    "adjust": adjust,
}


class Watch:
    """An application of which every text that it shows is collected."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        self._caplog = caplog
        self.hidden = {
            "value": VALUE,
            "second value": SECOND,
            "message": MESSAGE,
            "secret": SECRET,
            "password": PASSWORD,
        }
        self.errors: list[BaseException] = []
        self._texts: list[str] = []

    def app(
        self, url: str, views: dict[str, Callable[[Any], Any]] | None = None, **options: Any
    ) -> TestApp:
        def render(exc: Any, request: Any) -> Response:
            self.seen(exc)
            return Response("failed", status=500)

        def configure(config: Any) -> None:
            config.add_exception_view(render, context=Exception)
            # In the place of the default one.
            config.add_exception_view(render, context=SessionConflict)

        own = {"func_invalid_logger": self.report, "id_generator": self.new_id}
        options = {"secret": SECRET, **own, **options}
        return make_app(url, {**VIEWS, **(views or {})}, configure=configure, **options)

    def start(self, app: TestApp) -> str:
        """Make a session; return its cookie."""
        app.reset()
        (cookie,) = set_cookies(app.get("/write"))
        header = f"session={cookie.value}"
        self.hide_ids(header)
        app.reset()
        return header

    def new_id(self) -> str:
        """Make a session id, hidden even if Redis then refuses to take it."""
        session_id = secrets.token_urlsafe(32)
        self.hidden[f"new id {len(self.hidden)}"] = session_id
        return session_id

    def hide_ids(self, header: str) -> None:
        value = header.partition("=")[2]
        self.hidden[f"cookie {len(self.hidden)}"] = value
        session_id = session_id_in(header, secret=SECRET)
        if session_id is not None:
            self.hidden[f"id {len(self.hidden)}"] = session_id

    def get(self, app: TestApp, path: str, cookie: str, environ: Any = None) -> Any:
        app.reset()
        response = app.get(
            path, extra_environ={"HTTP_COOKIE": cookie, **(environ or {})}, expect_errors=True
        )
        for new in set_cookies(response):
            if new.value:
                self.hide_ids(f"session={new.value}")
        return response

    def report(self, request: Any, problem: InvalidSession) -> None:
        self.seen(problem)

    def seen(self, exc: BaseException) -> None:
        self.errors.append(exc)
        self._texts += [str(exc), repr(exc), "".join(traceback.format_exception(exc))]
        self._texts += [repr(exc.args), repr(vars(exc))]

    def shown(self, text: str) -> None:
        self._texts.append(text)

    def leaks(self) -> list[str]:
        """Which of the hidden was shown, and where."""
        records = [f"{record!r} {record.getMessage()}" for record in self._caplog.records]
        texts = [*self._texts, *records, self._caplog.text]
        return [
            f"{name}: {text}"
            for name, hidden in self.hidden.items()
            for text in texts
            # redis-py cuts what it quotes, so a part is looked for.
            if any(hidden[n : n + PART] in text for n in range(len(hidden) - PART + 1))
        ]


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Iterator[Watch]:
    watch = Watch(caplog)
    yield watch
    assert watch.leaks() == []


def test_leak_is_found_by_these_tests(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch(caplog)
    logging.getLogger("pyramid_redis_lua_sessions").debug("value is %s", VALUE)
    assert len(watch.leaks()) == 2
    try:
        raise SessionError("outer") from redis.ResponseError(f"inner {SECOND}")
    except SessionError as exc:
        watch.seen(exc)
    assert any("second value" in leak for leak in watch.leaks())


# -- ordinary life -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["read", "change", "login", "logout", "renew", "adjust"])
@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
def test_ordinary_requests_show_nothing(
    watch: Watch, redis_url: str, path: str, on_conflict: str
) -> None:
    app = watch.app(redis_url, on_conflict=on_conflict)
    cookie = watch.start(app)
    assert watch.get(app, "/" + path, cookie).status_int == 200
    # The old cookie again: of an ended session in some cases.
    watch.get(app, "/change", cookie)


def test_repr_of_a_session_shows_nothing(watch: Watch, redis_url: str) -> None:
    def look(request: Any) -> None:
        session = request.session

        def show() -> None:
            watch.shown(f"{session!r} {session!s} {session}")

        show()
        assert session["value"]
        show()
        session["value"] = SECOND
        session.flash(SECOND)
        show()
        session.regenerate_id()
        show()
        request.add_response_callback(lambda request, response: show())

    def forget(request: Any) -> None:
        request.session.invalidate()
        watch.shown(repr(request.session))

    app = watch.app(redis_url, {"look": look, "forget": forget})
    cookie = watch.start(app)
    assert watch.get(app, "/look", cookie).status_int == 200
    watch.get(app, "/look", cookie)
    watch.get(app, "/forget", watch.start(app))


def test_repr_of_factory_and_settings_shows_nothing(watch: Watch, redis_url: str) -> None:
    url = redis_url.replace("redis://", f"redis://:{PASSWORD}@")
    factory = RedisSessionFactory(SECRET, redis_url=url, redis_password=PASSWORD)
    watch.shown(f"{factory!r} {factory.settings!r} {factory.cookies!r} {factory.sealer!r}")


# -- cookies and data that are refused -----------------------------------------------------


def test_refused_cookies_show_nothing(watch: Watch, redis_url: str) -> None:
    app = watch.app(redis_url)
    cookie = watch.start(app)
    watch.get(app, "/read", cookie[:-5])
    watch.get(app, "/write", cookie + "x")
    forged = secrets.token_urlsafe(90)
    watch.hide_ids(f"session={forged}")
    watch.get(app, "/read", f"session={forged}")
    stale = secrets.token_urlsafe(32)
    header = signed_cookie(stale, secret=SECRET)
    watch.hide_ids(header)
    watch.get(app, "/read", header)
    assert len(watch.errors) == 4


@pytest.mark.parametrize("fails_new", ["true", "false"])
@pytest.mark.parametrize("how", ["seal", "string", "list", "token", "undecodable"])
def test_refused_data_show_nothing(
    watch: Watch, redis_url: str, redis_client: redis.Redis, how: str, fails_new: str
) -> None:
    options = {
        "undecodable": {"seal": "false", "serialize": "json"},
    }.get(how, {})
    app = watch.app(redis_url, deserialized_fails_new=fails_new, **options)
    cookie = watch.start(app)
    (session_id,) = stored_sessions(redis_client)
    key = f"session:{session_id}"
    if how in ("seal", "undecodable"):
        redis_client.hset(key, ".value", SECOND)
    elif how == "token":
        redis_client.hset(key, "@", f"x{SECOND}")
    else:
        redis_client.delete(key)
        redis_client.set(key, SECOND) if how == "string" else redis_client.rpush(key, SECOND)
    watch.get(app, "/read", cookie)
    assert watch.errors


class Unserializable:
    """Whose every text, and every error of the serializer, quotes the value."""

    def __repr__(self) -> str:
        return VALUE

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle {VALUE}")


@pytest.mark.parametrize("options", [{}, {"seal": "false", "serialize": "json"}])
@pytest.mark.parametrize("where", ["value", "flash"])
def test_unserializable_value_names_its_key_and_shows_nothing_else(
    watch: Watch, redis_url: str, options: dict[str, str], where: str
) -> None:
    def view(request: Any) -> None:
        if where == "flash":
            request.session.flash(Unserializable())
        else:
            request.session["the culprit"] = Unserializable()

    app = watch.app(redis_url, {"view": view}, **options)
    cookie = watch.start(app)
    assert watch.get(app, "/view", cookie).status_int == 500
    (error,) = watch.errors
    assert ("flash message" if where == "flash" else "the culprit") in str(error)


# -- changes that cannot be kept -------------------------------------------------------------


@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
@pytest.mark.parametrize("path", ["change", "login", "adjust"])
def test_dropped_changes_and_conflicts_show_nothing(
    watch: Watch, redis_url: str, path: str, on_conflict: str
) -> None:
    def race(request: Any) -> None:
        assert request.session["value"] == VALUE
        intruder = "/change" if on_conflict == "retry" else "/logout"
        watch.get(other, intruder, request.environ["HTTP_COOKIE"])
        VIEWS[path](request)

    other = watch.app(redis_url)
    app = watch.app(redis_url, {"race": race}, on_conflict=on_conflict)
    cookie = watch.start(app)
    watch.get(app, "/race", cookie)
    seen = {type(error).__name__ for error in watch.errors}
    if on_conflict == "retry":
        assert seen == {"SessionConflict"}
    elif path == "login":
        assert seen == set()  # it becomes a session of its own
    else:
        assert seen == {"InvalidSession_ChangesDropped"}


def test_undeliverable_cookie_shows_nothing(watch: Watch, redis_url: str) -> None:
    app = watch.app(redis_url, func_check_response_allow_cookies=lambda response: False)
    app.get("/write")
    assert watch.errors


def test_taken_ids_show_nothing(watch: Watch, redis_url: str) -> None:
    taken = secrets.token_urlsafe(32)
    watch.hidden["taken id"] = taken
    app = watch.app(redis_url, id_generator=lambda: taken)
    watch.start(app)
    assert watch.get(app, "/write", "").status_int == 500
    assert isinstance(watch.errors[-1], StoreError)


# -- Redis that refuses ----------------------------------------------------------------------


def stop(server: RedisServer) -> None:
    server.kill()


def fill(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)


def make_replica(server: RedisServer) -> None:
    # A replica refuses writes; of a primary that does not exist it has no data to replace its own.
    with server.client() as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", "1")


def forbid_keys(server: RedisServer) -> None:
    # Redis' own message may quote the key that was asked for.
    with server.client() as client:
        client.acl_setuser("default", enabled=True, reset_keys=True, keys=["nothing:*"])


def forbid_scripts(server: RedisServer) -> None:
    with server.client() as client:
        client.acl_setuser("default", enabled=True, commands=["-evalsha", "-eval"])


def demand_password(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("requirepass", PASSWORD)
        client.client_kill_filter(_type="normal", skipme=True)


def demand_replicas(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)


REFUSALS = {
    "stopped": stop,
    "out of memory": fill,
    "read-only replica": make_replica,
    "no permission for the key": forbid_keys,
    "no permission for scripts": forbid_scripts,
    "password": demand_password,
    "not enough replicas": demand_replicas,
}


@pytest.mark.parametrize("refuse", REFUSALS.values(), ids=REFUSALS.keys())
def test_redis_that_refuses_to_load_shows_nothing(
    watch: Watch,
    new_redis_server: Callable[..., RedisServer],
    refuse: Callable[[RedisServer], None],
) -> None:
    server = new_redis_server()
    app = watch.app(server.url)
    cookie = watch.start(app)
    refuse(server)
    for path in ("/change", "/login", "/renew", "/logout", "/adjust"):
        watch.get(app, path, cookie)
    assert any(isinstance(error, SessionError) for error in watch.errors)


@pytest.mark.parametrize("refuse", REFUSALS.values(), ids=REFUSALS.keys())
# What replaces a long value deletes its pieces first, and is not refused memory then.
@pytest.mark.parametrize("act", [add, login], ids=["save", "login pipeline"])
def test_redis_that_refuses_to_save_shows_nothing(
    watch: Watch,
    new_redis_server: Callable[..., RedisServer],
    refuse: Callable[[RedisServer], None],
    act: Callable[[Any], None],
) -> None:
    # redis-py puts the whole command, arguments included, into errors of a pipeline.
    server = new_redis_server()

    def view(request: Any) -> None:
        assert request.session["value"] == VALUE
        refuse(server)
        act(request)

    app = watch.app(server.url, {"view": view})
    cookie = watch.start(app)
    assert watch.get(app, "/view", cookie).status_int == 500
    (error,) = watch.errors
    assert isinstance(error, StoreError)


def test_redis_that_does_not_know_the_command_and_quotes_it_shows_nothing(
    watch: Watch, new_redis_server: Callable[..., RedisServer]
) -> None:
    # Managed services switch off scripting like this. Redis then answers "unknown command,
    # with args beginning with", and the key is among those.
    working = new_redis_server()
    cookie = watch.start(watch.app(working.url))
    crippled = new_redis_server(config={"rename-command": 'EVALSHA ""'})
    app = watch.app(crippled.url)
    for path in ("/read", "/change", "/login", "/renew", "/logout"):
        assert watch.get(app, path, cookie).status_int == 500
    watch.get(app, "/write", "")
    assert all(isinstance(error, StoreError) for error in watch.errors)


# -- configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"url": f"redis://:{PASSWORD}@localhost:port/0"},
        {"url": f"redis//{PASSWORD}@localhost"},
        {"url": f"redis://:{PASSWORD}@localhost/0?socket_timeout=x"},
        {"password": f"{PASSWORD}", "timeout": "x"},
        {"secret": f"{SECRET}", "cookie_signer": "json"},
        {"secret": f"{SECRET}", "seal_secret": f"{SECRET}"},
        {"secrett": f"{SECRET}"},
        {"passwort": f"{PASSWORD}"},
    ],
    ids=lambda options: " ".join(options),
)
def test_refused_configuration_shows_no_secret(
    watch: Watch, redis_url: str, options: dict[str, str]
) -> None:
    options = {"url": redis_url, **options}
    with pytest.raises(SettingsError) as caught:
        watch.app(options.pop("url"), **options)
    watch.seen(caught.value)


def test_redis_that_is_down_at_start_shows_no_secret(
    watch: Watch, new_redis_server: Callable[..., RedisServer]
) -> None:
    server = new_redis_server(config={"requirepass": PASSWORD})
    url = server.url
    server.kill()
    app = watch.app(url)
    assert watch.get(app, "/write", "").status_int == 500


def test_wrong_password_shows_no_secret(
    watch: Watch, new_redis_server: Callable[..., RedisServer]
) -> None:
    server = new_redis_server(config={"requirepass": PASSWORD})
    wrong = secrets.token_hex(16)
    watch.hidden["wrong password"] = wrong
    app = watch.app(server.url.replace(PASSWORD, wrong))
    assert watch.get(app, "/write", "").status_int == 500

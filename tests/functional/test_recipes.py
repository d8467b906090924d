"""The recipes of docs/ for what stands around the sessions: each is tried as it is written."""

from __future__ import annotations

import base64
import configparser
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import pytest
import redis
import yaml
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.paster import bootstrap
from pyramid.response import Response
from webtest import TestApp

from demo.tls import make_certificate
from pyramid_redis_lua_sessions import RedisSessionFactory, StoreUnavailable, sessions_of
from pyramid_redis_lua_sessions.cli import main
from pyramid_redis_lua_sessions.testing import RedisServer, RedisServerError
from tests.functional.test_documentation import keep_eventlet_out, samples
from tests.support.application import SECRET
from tests.support.browser import Browser, make_browser
from tests.support.command import write_ini
from tests.support.least_privilege import PASSWORD, USER, add_user
from tests.support.serving import free_port, served
from tests.support.waiting import wait_until

DOCS = Path(__file__).resolve().parents[2] / "docs"
DEPLOY = DOCS / "deploy"

NewServer = Callable[..., RedisServer]


@pytest.fixture(autouse=True)
def no_eventlet(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_eventlet_out(monkeypatch)


def page(name: str) -> Any:
    """The functions of a page's samples."""
    module: Any = types.ModuleType(f"page_{name.replace('-', '_')}")
    path = DOCS / f"{name}.rst"
    for sample in samples(path, "python"):
        exec(compile(sample.text, str(path), "exec"), module.__dict__)
    return module


# -- security policies that an application has already -------------------------------------


def with_policy(redis_url: str, policy: Any) -> Browser:
    return make_browser(redis_url, configure=lambda config: config.set_security_policy(policy))


def log_in(request: Any) -> Response:
    from pyramid.security import remember

    return Response(headerlist=[*remember(request, "ann"), ("Content-Type", "text/plain")])


def log_out(request: Any) -> Response:
    from pyramid.security import forget

    return Response(headerlist=[*forget(request), ("Content-Type", "text/plain")])


def user_of(browser: Browser) -> Any:
    return browser.visit(lambda request: request.authenticated_userid)


POLICIES: dict[str, Callable[[Any], Any]] = {
    "SessionPolicy": lambda module: module.SessionPolicy(),
    "OwnedSessionPolicy": lambda module: module.OwnedSessionPolicy(),
    "TicketPolicy": lambda module: without_secure(module.TicketPolicy("a secret of the tickets")),
    "MovingPolicy": lambda module: without_secure(module.MovingPolicy("a secret of the tickets")),
}


def without_secure(policy: Any) -> Any:
    """WebTest's requests come over http."""
    policy.helper.cookie_profile.secure = False
    policy.helper.secure = False
    return policy


@pytest.mark.parametrize("name", POLICIES)
def test_policy_of_the_page_gives_a_new_token_at_login_and_ends_it_at_logout(
    name: str, redis_url: str
) -> None:
    browser = with_policy(redis_url, POLICIES[name](page("pyramid-policies")))
    browser.use(lambda session: session.update(cart="tea"))
    planted, before = browser.copy(), browser.token
    browser.visit(log_in)
    assert user_of(browser) == "ann"
    assert browser.token not in (None, before)
    assert browser.use(lambda session: session["cart"]) == "tea"
    assert planted.use(dict) == {}
    assert user_of(planted) is None

    stolen = browser.copy()
    browser.visit(log_out)
    assert user_of(browser) is None
    assert browser.use(dict) == {}
    assert stolen.use(dict) == {}
    # The page says it: a copy of a ticket stays good.
    assert user_of(stolen) == ("ann" if name == "TicketPolicy" else None)


def test_helper_alone_renews_no_token_and_ends_nothing(redis_url: str) -> None:
    class Policy:
        def __init__(self) -> None:
            helper = SessionAuthenticationHelper()
            self.authenticated_userid = helper.authenticated_userid
            self.remember, self.forget = helper.remember, helper.forget

    browser = with_policy(redis_url, Policy())
    browser.use(lambda session: session.update(cart="tea"))
    planted, before = browser.copy(), browser.token
    browser.visit(log_in)
    assert browser.token == before
    assert user_of(planted) == "ann"
    browser.visit(log_out)
    assert planted.use(lambda session: session["cart"]) == "tea"


def test_owned_policy_of_the_page_lists_sessions(redis_url: str) -> None:
    browser = with_policy(redis_url, page("pyramid-policies").OwnedSessionPolicy())
    browser.visit(log_in)
    assert len(browser.visit(lambda request: sessions_of(request, "ann"))) == 1


def test_moving_policy_of_the_page_takes_a_ticket_once(redis_url: str) -> None:
    module = page("pyramid-policies")
    policy = POLICIES["MovingPolicy"](module)
    browser = with_policy(redis_url, policy)

    def old_login(request: Any) -> Response:
        return Response(headerlist=[*policy.helper.remember(request, "ann")])

    browser.visit(old_login)
    assert "auth_tkt" in browser.app.cookies

    def rendered(request: Any) -> Response:
        user = request.authenticated_userid
        response = request.response
        response.text = user
        return response

    browser.visit(rendered)
    assert browser.response.text == "ann"
    assert "auth_tkt" not in browser.app.cookies
    assert browser.use(lambda session: session.owner) == "ann"
    browser.visit(log_out)
    assert user_of(browser) is None


# -- from signed cookies ------------------------------------------------------------------


def test_session_of_a_signed_cookie_is_taken_over_once(redis_url: str) -> None:
    module = page("migrating")
    browser = make_browser(redis_url, cookie_name="sid", configure=module.includeme)

    def fill(request: Any) -> None:
        old = module.old_factory(request)
        old["cart"] = "tea"
        old.flash("hello", "news")
        old.get_csrf_token()

    before = make_browser(redis_url, cookie_name="sid")
    before.visit(fill)
    browser.app.set_cookie("session", before.app.cookies["session"])
    assert browser.use(dict) == {"cart": "tea"}
    sent = browser.response.headers.getall("Set-Cookie")
    assert [cookie for cookie in sent if cookie.startswith("session=; Max-Age=0")]
    assert browser.use(lambda session: session.pop_flash("news")) == ["hello"]
    browser.use(lambda session: session.update(cart="milk"))
    browser.app.set_cookie("session", before.app.cookies["session"])
    assert browser.use(dict) == {"cart": "milk"}
    forged = browser.another()
    forged.app.set_cookie("session", "forged")
    assert forged.use(dict) == {}


# -- behind a proxy --------------------------------------------------------------------


def test_subscriber_of_the_page_keeps_what_the_session_made_private(redis_url: str) -> None:
    browser = make_browser(redis_url, configure=page("proxies").includeme)
    browser.use(lambda session: session.update(a=1))
    assert set(browser.response.headers["Cache-Control"].split(", ")) == {"private", "no-store"}
    browser.visit(lambda request: None)
    assert "Cache-Control" not in browser.response.headers
    browser.visit(lambda request: (request.session.get("a"), Response(cache_control="no-cache"))[1])
    assert browser.response.headers["Cache-Control"] == "no-cache"


def test_nginx_of_the_page_sets_what_a_browser_could_forge() -> None:
    text = (DEPLOY / "nginx.conf").read_text("utf-8")
    code = re.sub(r"#.*", "", text)
    assert code.count("{") == code.count("}")
    for line in filter(None, map(str.strip, code.splitlines())):
        assert line[-1] in "{};", line
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in code
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in code


# -- Docker, Kubernetes, systemd -----------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("vendor.compose-spec", [DEPLOY / "compose.yaml"]),
        ("vendor.github-workflows", sorted((DOCS.parent / ".github" / "workflows").glob("*"))),
    ],
    ids=["compose", "workflows"],
)
def test_file_is_what_its_schema_asks(schema: str, paths: list[Path]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_compose_file_of_the_page_is_whole() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    for service in compose["services"].values():
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in compose["volumes"]
    assert "ports" not in compose["services"]["redis"]
    # Its command is one that Redis takes.
    arguments = compose["services"]["redis"]["command"].split()
    config = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    options = {name.removeprefix("--"): value for name, value in config.items()}
    with RedisServer(config=options) as server, server.client() as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    url = compose["services"]["app"]["environment"]["SESSION_REDIS"]
    assert urlsplit(url).hostname in compose["services"]


def manifests() -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8")))


@pytest.mark.parametrize("manifest", manifests(), ids=lambda one: one["kind"])
def test_manifest_of_the_page_is_what_kubernetes_takes(manifest: Any) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    # It would see a name that there is not.
    first = next(iter(manifest["spec"]))
    wrong = {**manifest, "spec": {**manifest["spec"], f"{first}Misspelt": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_manifests_of_the_page_belong_together() -> None:
    found = {one["kind"]: one for one in manifests()}
    deployment, service = found["Deployment"]["spec"], found["Service"]["spec"]
    template = deployment["template"]
    labels = template["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels == service["selector"]
    (container,) = template["spec"]["containers"]
    named = {one["valueFrom"]["secretKeyRef"]["name"] for one in container["env"]}
    assert {one["name"] for one in container["env"]} == {"SESSION_REDIS", "SESSION_SECRET"}
    assert named == {found["Deployment"]["metadata"]["name"]}
    ports = {one["containerPort"] for one in container["ports"]}
    assert {one["targetPort"] for one in service["ports"]} == ports
    assert container["readinessProbe"]["httpGet"]["port"] in ports
    (backend,) = (
        path["backend"]["service"]
        for rule in found["Ingress"]["spec"]["rules"]
        for path in rule["http"]["paths"]
    )
    assert backend["name"] == found["Service"]["metadata"]["name"]
    assert backend["port"]["number"] in {one["port"] for one in service["ports"]}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
@pytest.mark.parametrize("wrong", [False, True])
def test_unit_of_the_page_is_what_systemd_takes(wrong: bool, tmp_path: Path) -> None:
    unit = (DEPLOY / "shop.service").read_text("utf-8")
    for theirs, ours in (
        ("/srv/shop/env/bin/gunicorn", sys.executable),  # it has to be there
        ("PrivateTmp=yes", "PrivateTmpp=yes" if wrong else "PrivateTmp=yes"),
    ):
        assert unit.count(theirs) == 1
        unit = unit.replace(theirs, ours)
    path = tmp_path / "shop.service"
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", path], capture_output=True, text=True, check=False
    )
    assert (str(path) in done.stderr) is wrong, done.stderr


def test_settings_of_the_page_come_from_the_surroundings(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = samples(DOCS / "containers.rst", "text")[0]
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(sample.text)
    monkeypatch.setenv("SESSION_REDIS", redis_url)
    monkeypatch.setenv("SESSION_SECRET", SECRET)
    settings = {key: value for key, value in parser["app:main"].items() if key != "use"}
    browser = make_browser(None, settings=settings)
    browser.visit(
        lambda request: request.session.update(a=1), extra_environ={"wsgi.url_scheme": "https"}
    )
    assert "secure" in browser.response.headers["Set-Cookie"].lower()


# -- Redis that somebody else runs -----------------------------------------------------------


def test_client_of_the_page_asks_for_a_token_whenever_it_connects(
    new_redis_server: NewServer,
) -> None:
    server = new_redis_server()
    add_user(server)
    asked: list[str] = []

    def make_token() -> str:
        asked.append("token")
        return PASSWORD

    module = page("managed-redis")
    provider = module.TokenProvider(USER, make_token)
    make = module.make_client_callable("127.0.0.1", server.port, provider, db=0, driver_info=None)
    browser = make_browser(None, redis_client_callable=make)
    browser.use(lambda session: session.update(a=1))
    assert browser.use(dict) == {"a": 1}
    assert asked
    with server.client() as client:
        assert client.config_get("maxmemory")  # the operator may
        names = {one["user"] for one in client.client_list()}
        assert USER in names
    with pytest.raises(redis.exceptions.NoPermissionError):
        make(None).config_get("maxmemory")
    before = len(asked)
    make(None).connection_pool.disconnect()
    assert browser.use(dict) == {"a": 1}
    assert len(asked) > before


@pytest.mark.parametrize(
    "url", re.findall(r"``(rediss\S*?://\S+?)``", (DOCS / "managed-redis.rst").read_text("utf-8"))
)
def test_addresses_of_the_page_are_accepted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "the password")
    if "://" in url and "@" in url:
        RedisSessionFactory(secret=SECRET, redis_url=url)


@pytest.fixture(params=["one server", "cluster"])
def managed(
    request: Any, new_redis_server: NewServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The URL of a Redis that is set up as the page's: with TLS, and the user of the rule."""
    certificate = make_certificate(tmp_path)
    port = free_port()
    config: dict[str, Any] = {
        "tls-port": port,
        "tls-cert-file": certificate.chain,
        "tls-key-file": certificate.chain,
        "tls-ca-cert-file": certificate.authority,
        "tls-auth-clients": "no",
    }
    of_cluster = request.param == "cluster"
    if of_cluster:
        config |= {"cluster-enabled": "yes", "tls-cluster": "yes", "cluster-port": free_port()}
    try:
        server = new_redis_server(config=config)
    except RedisServerError:
        pytest.skip("the server was built without TLS")
    add_user(server)
    with server.client() as client:
        if of_cluster:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
            client.execute_command("ACL", "SETUSER", USER, "+cluster|slots", "+command", "+asking")
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    scheme, path = ("rediss+cluster", "") if of_cluster else ("rediss", "/0")
    # redis-py puts an address in the place of a cluster's "localhost", which no certificate names.
    options = "ssl_check_hostname=false&" if of_cluster else ""
    options += f"ssl_ca_certs={certificate.authority}"
    return f"{scheme}://{USER}:env:REDIS_PASSWORD@localhost:{port}{path}?{options}"


def test_sessions_work_where_redis_is_set_up_as_a_managed_one(
    managed: str, tmp_path: Path, capsys: Any
) -> None:
    browser = make_browser(managed)
    browser.use(lambda session: session.update(a=1))
    browser.use(lambda session: setattr(session, "owner", "ann"))
    assert browser.use(dict) == {"a": 1}
    assert len(browser.visit(lambda request: sessions_of(request, "ann"))) == 1

    ini = write_ini(tmp_path, managed, cookie_secure="true")
    assert main(["redis-lua-sessions", "check", ini]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ok +connection +as user sessions, over TLS", printed, re.MULTILINE)
    assert re.search(r"^note +memory +maxmemory and maxmemory-policy are not known", printed, re.M)

    # A server of another authority is none of ours.
    other = make_certificate(tmp_path).authority
    stranger = make_browser(re.sub(r"(?<=ssl_ca_certs=).*", str(other), managed))
    with pytest.raises(StoreUnavailable):
        stranger.use(lambda session: session.update(a=1))


# -- logs -----------------------------------------------------------------------------------


#: sentry-sdk says that a setting of its own is deprecated.
QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_structured_logs_of_the_page_name_session_and_user(redis_url: str) -> None:
    import structlog

    browser = make_browser(redis_url, configure=page("logs").includeme)
    browser.use(lambda session: setattr(session, "owner", "ann"))
    written = io.StringIO()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(written),
    )
    try:
        browser.visit(lambda request: structlog.get_logger().info("hello"))
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    fingerprint = browser.use(lambda session: session.fingerprint)
    assert f'"session": "{fingerprint}"' in written.getvalue()
    assert '"user": "ann"' in written.getvalue()


def in_a_process_of_its_own(act: Callable[[], None]) -> None:
    """Call a function that changes its process for good."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return
    try:
        act()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


@QUIET
@pytest.mark.parametrize("pii", [False, True])
def test_sentry_of_the_page_gets_no_cookie_and_no_value(
    pii: bool, new_redis_server: NewServer
) -> None:
    # It replaces functions of Pyramid and of the standard library, and never puts them back.
    in_a_process_of_its_own(lambda: check_what_sentry_gets(pii, new_redis_server()))


def check_what_sentry_gets(pii: bool, server: RedisServer) -> None:
    import sentry_sdk
    from sentry_sdk.transport import Transport

    sent: list[Any] = []
    value = "-".join("a value of a session".split())  # no line of the source has it

    class Kept(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            sent.append(envelope.get_event())

    page("logs").start_sentry("http://key@localhost/1", transport=Kept, send_default_pii=pii)
    try:
        # Sentry knows the name "session", and hides that by itself.
        browser = make_browser(server.url, cookie_name="shop")
        browser.use(lambda session: session.update(cart=value))
        cookie = browser.app.cookies["shop"]

        def view(request: Any) -> None:
            held = request.session["cart"]
            raise LookupError(len(held))

        with pytest.raises(LookupError):
            browser.visit(view)
        server.kill()
        with pytest.raises(StoreUnavailable):
            browser.use(dict)
    finally:
        server.stop()
        sentry_sdk.init()
    found, away = sent
    assert away["fingerprint"] == ["redis-away"]
    assert found["exception"]["values"][-1]["type"] == "LookupError"
    for event in sent:
        text = repr(event)
        assert cookie not in text
        assert value not in text


# -- OpenID Connect ---------------------------------------------------------------------------


class Issuer:
    """A small provider: it knows one user, and signs what it says."""

    def __init__(self) -> None:
        from joserfc.jwk import RSAKey

        self.key = RSAKey.generate_key(2048, parameters={"kid": "one", "use": "sig"})
        self.challenges: dict[str, str] = {}
        self.nonces: dict[str, str] = {}
        self.claims: dict[str, Any] = {}
        self.url = ""

    @property
    def keys(self) -> Any:
        return {"keys": [self.key.as_dict(private=False)]}

    @property
    def configuration(self) -> dict[str, str]:
        return {
            "issuer": "https://id.example.com",
            "authorization_endpoint": "https://id.example.com/authorize",
            "token_endpoint": f"{self.url}/token",
        }

    def authorize(self, url: str) -> str:
        """What the browser comes back with."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(self.nonces)}"
        self.nonces[code], self.challenges[code] = asked["nonce"], asked["code_challenge"]
        return f"code={code}&state={asked['state']}"

    def token(self, request: Any) -> Response:
        from joserfc import jwt

        digest = hashlib.sha256(request.POST["code_verifier"].encode()).digest()
        code = request.POST["code"]
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != self.challenges[code]:
            return Response(json_body={"error": "invalid_grant"}, status=400)
        claims = {
            "iss": "https://id.example.com",
            "aud": "shop",
            "sub": "user-7",
            "email": "ann@example.com",
            "nonce": self.nonces[code],
            "exp": int(time.time()) + 300,
            **self.claims,
        }
        token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)
        return Response(json_body={"access_token": "x", "token_type": "Bearer", "id_token": token})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    with Configurator() as config:
        config.add_route("token", "/token")
        config.add_view(issuer.token, route_name="token")
        app = config.make_wsgi_app()
    with served(app) as port:
        issuer.url = f"http://127.0.0.1:{port}"
        yield issuer


@pytest.fixture
def shop(issuer: Issuer, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Browser:
    """A user of the page's application."""
    # The provider of these tests speaks http.
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    module = page("openid-connect")

    def configure(config: Configurator) -> None:
        module.includeme(config)
        config.add_route("home", "/home")
        config.add_view(lambda request: Response(), route_name="home")

    browser = make_browser(redis_url, configure=configure)
    browser.wsgi.registry.oidc = module.Provider(
        "shop", "a secret of the client", issuer.configuration, issuer.keys
    )
    return browser


def start_login(shop: Browser, issuer: Issuer) -> str:
    return issuer.authorize(shop.app.post("/login", status=303).location)


def test_openid_login_of_the_page(shop: Browser, issuer: Issuer) -> None:
    shop.use(lambda session: session.update(cart="tea"))
    planted, before = shop.copy(), shop.token
    first, second = start_login(shop, issuer), start_login(shop, issuer)  # two tabs
    shop.app.get(f"/oidc/callback?{first}", status=303)
    kept = shop.use(dict)
    assert (kept["cart"], kept["email"]) == ("tea", "ann@example.com")
    assert shop.use(lambda session: session.owner) == "user-7"
    assert shop.token != before
    assert planted.use(dict) == {}
    shop.app.get(f"/oidc/callback?{second}", status=303)
    shop.app.post("/logout", status=303)
    assert shop.use(lambda session: session.owner) is None


@pytest.mark.parametrize(
    "claims",
    [{"nonce": "other"}, {"aud": "other"}, {"iss": "other"}, {"exp": 1}, {"sub": None}],
    ids=lambda claims: next(iter(claims)),
)
def test_openid_login_of_the_page_refuses_what_is_not_for_it(
    claims: dict[str, Any], shop: Browser, issuer: Issuer
) -> None:
    issuer.claims = claims
    came_back = start_login(shop, issuer)
    shop.app.get(f"/oidc/callback?{came_back}", status=400)
    assert shop.use(lambda session: session.owner) is None


def test_openid_login_of_the_page_refuses_a_trip_that_it_did_not_begin(
    shop: Browser, issuer: Issuer
) -> None:
    came_back = start_login(shop.another(), issuer)
    shop.app.get(f"/oidc/callback?{came_back}", status=400)
    shop.app.get("/oidc/callback?error=access_denied", status=400)
    mine = start_login(shop, issuer)
    other_code = came_back.partition("&")[0]
    state = mine.partition("&")[2]
    shop.app.get(f"/oidc/callback?{other_code}&{state}", status=400)
    assert shop.use(lambda session: session.owner) is None


# -- databases ------------------------------------------------------------------------------

ALEMBIC_ENV = """\
from alembic import context
from pyramid.paster import get_appsettings
from sqlalchemy import engine_from_config

settings = get_appsettings(context.config.config_file_name)
with engine_from_config(settings, prefix="sqlalchemy.").connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""

REVISION = """\
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "one", None, None, None

def upgrade():
    op.create_table("baskets", sa.Column("id", sa.Integer, primary_key=True))
"""


def test_page_of_databases_alembic_needs_neither_secret_nor_redis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import alembic.command
    import alembic.config
    import sqlalchemy as sa

    monkeypatch.delenv("SESSION_SECRET", raising=False)
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    (tmp_path / "migrations" / "env.py").write_text(ALEMBIC_ENV)
    (tmp_path / "migrations" / "versions" / "one.py").write_text(REVISION)
    ini = tmp_path / "production.ini"
    ini.write_text(
        "[app:main]\nuse = call:tests.functional.test_recipes:small_application\n"
        "sqlalchemy.url = sqlite:///%(here)s/shop.sqlite\n"
        "redis.sessions.url = redis://127.0.0.1:1/0\nredis.sessions.secret = env:SESSION_SECRET\n"
        "[alembic]\nscript_location = %(here)s/migrations\n"
    )
    alembic.command.upgrade(alembic.config.Config(str(ini)), "head")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.sqlite")
    assert "baskets" in sa.inspect(engine).get_table_names()
    engine.dispose()


def test_page_of_databases_includes_go_together(redis_url: str) -> None:
    sample = configparser.ConfigParser(interpolation=None)
    sample.read_string(samples(DOCS / "databases.rst", "text")[0].text)
    settings = {
        **sample["app:main"],
        "redis.sessions.url": redis_url,
        "redis.sessions.secret": SECRET,
    }

    def fail(request: Any) -> Response:
        request.session["a"] = 1
        if "fail" in request.GET:
            raise LookupError
        return Response(str(request.session["a"]))

    with Configurator(settings=settings) as config:
        page("databases").includeme(config)
        config.add_route("home", "/")
        config.add_view(fail, route_name="home")
        app = config.make_wsgi_app()
    visitor = TestApp(app)
    with pytest.raises(LookupError):
        visitor.get("/?fail")
    assert visitor.cookies == {}
    visitor.get("/")
    assert visitor.cookies


def test_page_of_databases_keeps_an_id_and_finds_its_row(redis_url: str) -> None:
    import sqlalchemy as sa
    import zope.sqlalchemy
    from sqlalchemy import orm

    class Base(orm.DeclarativeBase):
        pass

    class Basket(Base):
        __tablename__ = "baskets"
        id = sa.Column(sa.Integer, primary_key=True)
        tea = sa.Column(sa.String)

    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(engine)
    module = page("databases")

    def dbsession(request: Any) -> Any:
        session = orm.Session(engine)
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    def configure(config: Configurator) -> None:
        config.include("pyramid_tm")
        config.add_request_method(dbsession, reify=True)

    def take(request: Any, tea: str) -> None:
        basket = Basket(tea=tea)
        request.dbsession.add(basket)
        request.dbsession.flush()
        module.choose(request, basket)
        if tea == "milk":
            raise LookupError

    browser = make_browser(
        redis_url, settings={"tm.manager_hook": "pyramid_tm.explicit_manager"}, configure=configure
    )
    browser.visit(lambda request: take(request, "assam"))
    # A transaction that fails leaves neither row nor id.
    with pytest.raises(LookupError):
        browser.visit(lambda request: take(request, "milk"))
    assert browser.visit(lambda request: module.chosen(request, Basket).tea) == "assam"
    engine.dispose()


def test_page_of_databases_scripts_start_where_redis_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SESSION_SECRET", SECRET)
    ini = tmp_path / "production.ini"
    ini.write_text(
        "[app:main]\nuse = call:tests.functional.test_recipes:small_application\n"
        "redis.sessions.url = redis://127.0.0.1:1/0\nredis.sessions.secret = env:SESSION_SECRET\n"
    )
    with bootstrap(str(ini)) as env:
        assert env["request"].session is not None
    assert "could not be loaded at start" in caplog.text
    monkeypatch.delenv("SESSION_SECRET")
    with pytest.raises(Exception, match="SESSION_SECRET"):
        bootstrap(str(ini))


def small_application(global_config: Any, **settings: Any) -> Any:
    with Configurator(settings=settings) as config:
        config.include("pyramid_redis_lua_sessions")
        return config.make_wsgi_app()

"""How docs/ starts an application, and what stands before it: run as it is written there.

Of the samples only addresses, paths and the name of the application are changed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from demo.tls import Certificate, make_certificate
from tests.functional.test_documentation import samples
from tests.support.application import SECRET
from tests.support.serving import LOOPBACK, ROOT, free_port, running

DOCS = ROOT / "docs"
BIN = Path(sys.executable).parent
HOST = "shop.example.com"

#: The commands of the page, by the name of the server.
COMMANDS = dict(
    re.findall(
        r"^(gunicorn with|\w+) +``((?:gunicorn|uwsgi|pserve) [^`]+)``",
        re.sub(r"\n {15}", " ", (DOCS / "servers.rst").read_text("utf-8")),
        re.MULTILINE,
    )
)


@pytest.fixture
def site(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the ``production.ini`` of the page about containers."""
    sample = samples(DOCS / "containers.rst", "text")[0].text
    assert sample.count("egg:shop") == 1
    ini = sample.replace("egg:shop", "call:tests.servers.shop:main")
    (tmp_path / "production.ini").write_text(ini)
    monkeypatch.setenv("SESSION_REDIS", redis_url)
    monkeypatch.setenv("SESSION_SECRET", SECRET)
    return tmp_path


def started(site: Path, command: str, *more: str) -> contextlib.AbstractContextManager[int]:
    """Run a command of the pages in a directory, on a port of its own."""

    def on(port: int) -> list[str]:
        name, *arguments = shlex.split(command)
        if name == "pserve":
            with (site / "production.ini").open("a") as ini:
                ini.write(f"listen = {LOOPBACK}:{port}\n")
        else:
            assert command.count("127.0.0.1:8000") == 1
        arguments = [one.replace("127.0.0.1:8000", f"{LOOPBACK}:{port}") for one in arguments]
        return [str(BIN / Path(name).name), *arguments, *more]

    return running(on, site / f"{Path(shlex.split(command)[0]).name}.log", site)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: str

    @property
    def seen(self) -> Any:
        return json.loads(self.body)

    @property
    def address(self) -> str:
        return str(self.seen["address"])

    @property
    def cookie(self) -> str:
        return (self.headers["Set-Cookie"] or "").partition(";")[0]


def visit(connection: http.client.HTTPConnection, path: str = "/", **headers: str) -> Answer:
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items() if value}
        connection.request("GET", path, headers={"Host": HOST, **named})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read().decode())


def plain(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(LOOPBACK, port, timeout=30)


def with_waitress(site: Path, trusted: str) -> None:
    """Add the server section of the page about proxies."""
    (section,) = re.findall(
        r"^( +)\[server:main\]\n((?:\1.*\n)+)", (DOCS / "proxies.rst").read_text("utf-8"), re.M
    )
    lines = [line.strip() for line in section[1].splitlines()]
    text = "\n".join(["[server:main]", *lines, ""])
    assert text.count("10.0.0.1") == 1
    with (site / "production.ini").open("a") as ini:
        ini.write(text.replace("10.0.0.1", trusted))


@pytest.mark.parametrize("name", COMMANDS)
def test_command_of_the_page_serves_sessions(name: str, site: Path) -> None:
    if name == "waitress":
        with_waitress(site, LOOPBACK)
    with started(site, COMMANDS[name]) as port:
        answer = visit(plain(port), X_Forwarded_Proto="https")
        assert answer.seen["visits"] == 1
        assert visit(plain(port), Cookie=answer.cookie).seen["visits"] == 2


def test_command_of_unit_and_image_is_the_one_that_is_tried() -> None:
    """But for the number of threads, and the address."""
    (started,) = re.findall(
        r"^ExecStart=/srv/shop/env/bin/(.*)$",
        (DOCS / "deploy" / "shop.service").read_text("utf-8"),
        re.MULTILINE,
    )
    (image,) = re.findall(r"^CMD (.*)$", (DOCS / "deploy" / "Dockerfile").read_text("utf-8"), re.M)
    assert started == COMMANDS["gunicorn"].replace(" --threads 8", "")
    assert " ".join(json.loads(image)) == started.replace(LOOPBACK, "0.0.0.0")


def test_page_has_a_command_for_each_server() -> None:
    assert set(COMMANDS) == {"gunicorn", "gunicorn with", "uWSGI", "waitress"}


# -- behind nginx ----------------------------------------------------------------------

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
NEEDS_NGINX = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

#: What stands around the file of the page, which is the part of a site.
AROUND = """
daemon off;
pid {directory}/nginx.pid;
error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/site.conf;
}}
"""


class Proxy(NamedTuple):
    """nginx, as the page has it.

    :ivar plain: its port for http, and ``secure`` for https.
    """

    plain: int
    secure: int
    certificate: Certificate

    def visit(self, path: str = "/", **headers: str) -> Answer:
        """As a browser does, over https."""
        return visit(self.connect(), path, **headers)

    def connect(self) -> http.client.HTTPConnection:
        context = ssl.create_default_context(cafile=str(self.certificate.authority))
        connection = plain(self.secure)
        connection.connect()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=HOST)
        return connection


@pytest.fixture
def nginx(tmp_path: Path) -> Callable[..., contextlib.AbstractContextManager[Proxy]]:
    """Starts nginx before a server."""
    certificate = make_certificate(tmp_path, [HOST])

    @contextlib.contextmanager
    def start(upstream: int, *changes: tuple[str, str]) -> Iterator[Proxy]:
        ports = {}

        def command(port: int) -> list[str]:
            ports.update(plain=port, secure=free_port())
            site = (DOCS / "deploy" / "nginx.conf").read_text("utf-8")
            for theirs, ours in (
                ("127.0.0.1:8000", f"{LOOPBACK}:{upstream}"),
                ("listen 80;", f"listen {LOOPBACK}:{port};"),
                ("listen 443 ssl;", f"listen {LOOPBACK}:{ports['secure']} ssl;"),
                ("/etc/ssl/shop.pem", str(certificate.chain)),
                ("/etc/ssl/shop.key", str(certificate.chain)),
                *changes,
            ):
                assert site.count(theirs) == 1, theirs
                site = site.replace(theirs, ours)
            (tmp_path / "site.conf").write_text(site)
            user = "user root;" if os.getuid() == 0 else ""
            main = AROUND.format(directory=tmp_path, user=user)
            (tmp_path / "nginx.conf").write_text(main)
            return [str(NGINX), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]

        with running(command, tmp_path / "nginx.log", tmp_path):
            yield Proxy(ports["plain"], ports["secure"], certificate)

    return start


def secured(site: Path, how: str) -> None:
    """Have ``cookie_secure`` go by what the server says, or not."""
    path = site / "production.ini"
    text = path.read_text()
    assert text.count("cookie_secure = true") == 1
    path.write_text(text.replace("cookie_secure = true", f"cookie_secure = {how}"))


#: Servers behind nginx: the command, and what is different in the file of nginx.
BEHIND: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "gunicorn": (COMMANDS["gunicorn"], ()),
    "waitress": (COMMANDS["waitress"], ()),
    "uWSGI": (COMMANDS["uWSGI"], ()),
    "uWSGI by its own protocol": (
        COMMANDS["uWSGI"].replace("--http-socket", "--uwsgi-socket"),
        (
            ("proxy_pass http://shop;", "include /etc/nginx/uwsgi_params; uwsgi_pass shop;"),
            ("proxy_http_version 1.1;", "uwsgi_param HTTP_X_FORWARDED_PROTO $scheme;"),
        ),
    ),
}


@NEEDS_NGINX
@pytest.mark.parametrize("name", BEHIND)
def test_application_behind_nginx_of_the_page_knows_that_it_is_served_over_https(
    name: str, site: Path, nginx: Callable[..., Any]
) -> None:
    secured(site, "auto")  # so that it shows what the server believes
    if name == "waitress":
        with_waitress(site, LOOPBACK)
    command, changes = BEHIND[name]
    with started(site, command) as upstream, nginx(upstream, *changes) as proxy:
        redirected = visit(plain(proxy.plain))
        assert (redirected.status, redirected.headers["Location"]) == (301, f"https://{HOST}/")

        answer = proxy.visit()
        assert (answer.seen["visits"], answer.address) == (1, f"https://{HOST}/")
        assert "; secure" in answer.headers["Set-Cookie"].lower()
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"

        # What a browser sends under these names is gone.
        forged = proxy.visit(
            Cookie=answer.cookie, X_Forwarded_Proto="http", X_Forwarded_For="192.0.2.1"
        )
        assert (forged.seen["visits"], forged.address) == (2, f"https://{HOST}/")


@NEEDS_NGINX
@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_proxy_that_is_not_named_is_not_believed_and_the_cookie_is_secure_by_its_setting(
    server: str, site: Path, nginx: Callable[..., Any]
) -> None:
    command, more = COMMANDS[server], ()
    if server == "waitress":
        with_waitress(site, "10.0.0.1")
    else:
        more = ("--forwarded-allow-ips", "10.0.0.1")
    with started(site, command, *more) as upstream, nginx(upstream) as proxy:
        answer = proxy.visit()
    assert answer.address.startswith("http:")
    assert "; secure" in answer.headers["Set-Cookie"].lower()


@NEEDS_NGINX
def test_log_warns_where_the_proxy_is_not_believed(site: Path, nginx: Callable[..., Any]) -> None:
    secured(site, "auto")
    more = ("--forwarded-allow-ips", "10.0.0.1")
    with started(site, COMMANDS["gunicorn"], *more) as upstream, nginx(upstream) as proxy:
        assert "; secure" not in proxy.visit().headers["Set-Cookie"].lower()
    assert "[docs: proxies]" in (site / "gunicorn.log").read_text()


@NEEDS_NGINX
def test_ending_arrives_at_once_through_nginx_of_the_page(
    site: Path, nginx: Callable[..., Any]
) -> None:
    with (site / "production.ini").open("a") as ini:
        ini.write("redis.sessions.publish_endings = true\n")
    with started(site, COMMANDS["gunicorn"]) as upstream, nginx(upstream) as proxy:
        answer = proxy.visit()
        with contextlib.closing(proxy.connect()) as stream:
            path = f"/session-endings?session={answer.seen['session']}"
            stream.request("GET", path, headers={"Host": HOST, "Cookie": answer.cookie})
            events = stream.getresponse()
            assert (events.status, events.headers["Content-Type"][:17]) == (
                200,
                "text/event-stream",
            )
            assert events.readline()  # it has begun, and waits
            proxy.visit("/log_out", Cookie=answer.cookie)
            lines = iter(lambda: events.readline().decode(), "")
            told = next(line for line in lines if line.startswith("data:"))
        assert json.loads(told.removeprefix("data:")) == {"reason": "ended"}

"""The demo's views: each ends in one page, or in a redirect to it."""

from __future__ import annotations

import html
import math
import secrets
import string
import time
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.exceptions import BadCSRFToken
from pyramid.httpexceptions import HTTPNotFound, HTTPSeeOther
from pyramid.response import Response
from pyramid.view import exception_view_config, notfound_view_config, view_config

from pyramid_redis_lua_sessions import StoreUnavailable
from pyramid_redis_lua_sessions.errors import fingerprint

HERE = Path(__file__).parent
LONGEST_NAME = 40


def make_app(redis_url: str, **overrides: str) -> Any:
    """Return the WSGI application.

    :param overrides: further ``redis.sessions.*`` settings, without that prefix.
    """
    options = {
        "url": redis_url,
        # Made anew at each start: the embedded Redis keeps nothing either.
        "secret": secrets.token_urlsafe(32),
        "timeout": "600",
        **overrides,
    }
    settings = {f"redis.sessions.{name}": value for name, value in options.items()}
    with Configurator(settings=settings) as config:
        config.include("pyramid_redis_lua_sessions")
        config.set_default_csrf_options(require_csrf=True)
        config.add_static_view("static", str(HERE / "static"))
        for name in ("count", "flash", "login", "logout"):
            config.add_route(name, f"/{name}")
        config.add_route("home", "/")
        config.scan(__name__)
        return config.make_wsgi_app()


# -- pages -------------------------------------------------------------------------


class Markup(str):
    """Text that is HTML already."""


def render(template: str, **values: Any) -> Markup:
    """Fill in a template; every value is escaped, unless it is :class:`Markup`."""
    text = (HERE / "templates" / template).read_text(encoding="utf-8")
    escaped = {
        name: value if isinstance(value, Markup) else html.escape(str(value))
        for name, value in values.items()
    }
    return Markup(string.Template(text).substitute(escaped))


def page(title: str, content: Markup, status: int = 200) -> Response:
    body = render("page.html", title=title, content=content)
    return Response(body, status=status, cache_control="no-store")


def message_page(title: str, text: str, status: int) -> Response:
    return page(title, render("message.html", title=title, text=text), status)


def back_home(request: Any) -> HTTPSeeOther:
    """Redirect after a form, so that reloading the page does not send it again."""
    return HTTPSeeOther(request.route_url("home"))


@view_config(route_name="home", request_method="GET")
def home(request: Any) -> Response:
    session = request.session
    token = Markup(
        f'<input type="hidden" name="csrf_token" value="{html.escape(get_csrf_token(request))}">'
    )
    user = session.get("user")
    if user is None:
        account = render("login.html", csrf=token, longest=LONGEST_NAME)
    else:
        account = render("logout.html", csrf=token, user=user)
    messages = Markup("".join(f"<li>{html.escape(text)}</li>" for text in session.pop_flash()))
    left = seconds_left(session)
    content = render(
        "home.html",
        csrf=token,
        messages=Markup(f'<ul class="messages">{messages}</ul>' if messages else ""),
        count=session.get("count", 0),
        account=account,
        user="nobody" if user is None else user,
        session="not stored yet" if session.new else fingerprint(session.session_id),
        created=time.strftime("%H:%M:%S", time.localtime(session.created)),
        left="" if left is None else left,
        left_text="starts with this page" if left is None else clock(left),
        timeout=clock(int(session.timeout)),
    )
    return page("Sessions in Redis", content)


def seconds_left(session: Any) -> int | None:
    """Seconds until the session ends, if its user does not come back."""
    if session.expires is None:
        return None
    return max(0, math.floor(session.expires - time.time()))


def clock(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02}"


# -- forms -------------------------------------------------------------------------


@view_config(route_name="count", request_method="POST")
def count(request: Any) -> HTTPSeeOther:
    request.session["count"] = request.session.get("count", 0) + 1
    return back_home(request)


@view_config(route_name="flash", request_method="POST")
def flash(request: Any) -> HTTPSeeOther:
    request.session.flash(f"A message, left at {time.strftime('%H:%M:%S')}.")
    return back_home(request)


@view_config(route_name="login", request_method="POST")
def login(request: Any) -> HTTPSeeOther:
    name = " ".join(request.POST.get("name", "").split())[:LONGEST_NAME]
    if not name:
        request.session.flash("Please enter a name.")
        return back_home(request)
    # Whoever knew the id before the login must not share the session after it.
    request.session.regenerate_id()
    request.session["user"] = name
    request.session.flash(f"Welcome, {name}. Your session has a new id.")
    return back_home(request)


@view_config(route_name="logout", request_method="POST")
def logout(request: Any) -> HTTPSeeOther:
    request.session.invalidate()
    # What is put in after invalidate() goes into a new session.
    request.session.flash("You are logged out, and the session has ended in Redis.")
    return back_home(request)


# -- what can go wrong ---------------------------------------------------------------


@exception_view_config(BadCSRFToken)
def bad_csrf(request: Any) -> Response:
    text = "The page was out of date: its session has ended. Go back to the start and try again."
    return message_page("This form has expired", text, 400)


@exception_view_config(StoreUnavailable)
def unavailable(request: Any) -> Response:
    return message_page("Redis is away", "The session cannot be read at present.", 503)


@notfound_view_config()
def not_found(request: Any) -> Response:
    return message_page("No such page", "There is nothing at this address.", HTTPNotFound.code)

"""The demo's pages and forms: each form ends in a redirect to the page."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import Any, NamedTuple

from pyramid.exceptions import BadCSRFToken, URLDecodeError
from pyramid.httpexceptions import HTTPBadRequest, HTTPNotFound, HTTPSeeOther
from pyramid.interfaces import ISessionFactory
from pyramid.view import exception_view_config, notfound_view_config, view_config

from pyramid_redis_lua_sessions import StoreUnavailable, return_path, sessions_of
from pyramid_redis_lua_sessions.settings.profiles import PROFILES

from . import race

LONGEST_NAME = 40
LONGEST_MESSAGE = 120
MOST_IN_CART = 60

#: How long the voucher counts, seconds, and what it takes off, percent.
VOUCHER_SECONDS = 30
VOUCHER_PERCENT = 10

#: How long who has said once more who they are is believed, seconds.
FRESH_SECONDS = 60

#: Idle timeouts to choose from, seconds.
TIMEOUTS = {20: "20 s", 120: "2 min", 600: "10 min", 3600: "1 h"}

#: Word in a browser's User-Agent to its name; the first that is there counts.
BROWSERS = {
    "Edg": "Edge",
    "OPR": "Opera",
    "Firefox": "Firefox",
    "Chrome": "Chrome",
    "Safari": "Safari",
}
SYSTEMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Windows": "Windows",
    "Mac OS": "macOS",
    "Linux": "Linux",
}

#: Parts of the page that have messages of their own.
CARDS = ("session", "cart", "account", "flash")

DEVICES = ("Phone", "Tablet", "Library computer", "Work laptop")


class Tea(NamedTuple):
    """:ivar cents: price of 100 g."""

    name: str
    cents: int


TEAS = {
    "assam": Tea("Assam", 590),
    "oolong": Tea("Oolong", 840),
    "rooibos": Tea("Rooibos", 450),
    "sencha": Tea("Sencha", 720),
}


# -- the page ------------------------------------------------------------------------


@view_config(route_name="home", request_method="GET", renderer="templates/home.jinja2")
def home(request: Any) -> dict[str, Any]:
    request.response.cache_control = "no-store"
    session = request.session
    cart = contents_of_cart(session)
    total = sum(TEAS[tea].cents * number for tea, number in cart.items())
    voucher = "voucher" in session  # past its end it is not
    if voucher:
        total = total * (100 - VOUCHER_PERCENT) // 100
    user = session.owner
    return {
        "title": "Sessions in Redis",
        "user": user,
        # So that the page is told when this session ends.
        "fingerprint": None if user is None else session.fingerprint,
        "longest_name": LONGEST_NAME,
        # Each message stands in the card that it is about, in a queue of that name.
        "messages": {card: session.pop_flash(card) for card in CARDS},
        # This request was under way when its session ended: nothing brings it back.
        "has_ended": session.ended,
        # Its cookie was copied from another browser, to whose device it is bound (DEVICES=1).
        "is_locked": session.device_locked,
        "timeout": session.timeout,
        "timeouts": TIMEOUTS,
        "teas": TEAS,
        "cart": cart,
        "total": f"{total / 100:.2f}",
        "voucher": voucher,
        "voucher_seconds": VOUCHER_SECONDS,
        "voucher_percent": VOUCHER_PERCENT,
        "longest_message": LONGEST_MESSAGE,
        "sessions": [] if user is None else sessions_of(request, user),
        "label": session.label or "",
        "fresh_seconds": FRESH_SECONDS,
        "profile": profile(request),
        "predecessor": request.registry.predecessor,
        "race": race,
    }


def back_home(request: Any, card: str) -> HTTPSeeOther:
    """Redirect after a form, so that reloading the page does not send it again."""
    return HTTPSeeOther(request.route_path("home", _anchor=card))


def tell(session: Any, card: str, text: str, *, error: bool = False) -> None:
    """Show a message once, in a card of the next page."""
    session.flash((text, error), card)


# -- the cart: every packet is a key of its own, so clicks that overlap add up ---------


def packets(session: Any, tea: str = "") -> list[str]:
    return [key for key in session.keys() if key.startswith(f"cart:{tea}")]  # noqa: SIM118


def contents_of_cart(session: Any) -> Counter[str]:
    return Counter(key.split(":")[1] for key in packets(session))


@view_config(route_name="cart", request_method="POST")
def cart(request: Any) -> HTTPSeeOther:
    session, form = request.session, request.POST
    if form.get("add") in TEAS:
        if len(packets(session)) < MOST_IN_CART:
            session[f"cart:{form['add']}:{secrets.token_hex(4)}"] = 1
        else:
            tell(session, "cart", "The cart is full.", error=True)
    elif form.get("remove") in TEAS:
        for key in packets(session, form["remove"])[:1]:
            session.pop(key, None)
    elif "empty" in form:
        for key in packets(session):
            session.pop(key, None)
    return back_home(request, "cart")


@view_config(route_name="voucher", request_method="POST")
def voucher(request: Any) -> HTTPSeeOther:
    # It ends by Redis' clock, and nobody who can write to Redis makes it last.
    request.session.set("voucher", VOUCHER_PERCENT, ttl=VOUCHER_SECONDS)
    return back_home(request, "cart")


# -- flash messages, timeout -----------------------------------------------------------


@view_config(route_name="flash", request_method="POST")
def flash(request: Any) -> HTTPSeeOther:
    text = plain(request.POST.get("message", ""), LONGEST_MESSAGE)
    if text:
        tell(request.session, "flash", text)
    else:
        tell(request.session, "flash", "Please write a message.", error=True)
    return back_home(request, "flash")


@view_config(route_name="timeout", request_method="POST")
def timeout(request: Any) -> HTTPSeeOther:
    wanted = request.POST.get("seconds", "")
    if wanted in map(str, TIMEOUTS):
        request.session.adjust_session_timeout(int(wanted))
        text = f"This session now ends {TIMEOUTS[int(wanted)]} after the last visit."
        tell(request.session, "session", text)
    return back_home(request, "session")


# -- logging in and out ------------------------------------------------------------------


@view_config(route_name="login", request_method="POST")
def login(request: Any) -> HTTPSeeOther:
    session, name = request.session, plain(request.POST.get("name", ""), LONGEST_NAME)
    if not name:
        tell(session, "account", "Please enter a name.", error=True)
        return back_home(request, "account")
    # Another owner is a login: the session gets a new token, as whoever knew the
    # old one must not share the session from now on.
    session.owner = name
    session.label = device(request.headers.get("User-Agent", ""))
    text = f"Welcome, {name}. Your session has a new token, and kept its data."
    tell(session, "account", text)
    return back_home(request, "account")


@view_config(route_name="logout", request_method="POST")
def logout(request: Any) -> HTTPSeeOther:
    request.session.invalidate()
    # What is put in after invalidate() goes into a new session.
    text = "You are logged out: the session has ended in Redis, too."
    tell(request.session, "account", text)
    return back_home(request, "account")


@view_config(
    route_name="payment",
    request_method="GET",
    renderer="templates/message.jinja2",
    fresh=FRESH_SECONDS,
)
def payment(request: Any) -> dict[str, Any]:
    """Show what only they may see who have just said once more who they are."""
    request.response.cache_control = "no-store"
    user = request.session.owner
    return {
        "title": "Your payment details",
        "text": f"{user} pays by invoice. You have said who you are less than {FRESH_SECONDS} "
        "seconds ago, by the clock of Redis, and got a new token for it. After that, this page "
        "asks again.",
        "user": user,
    }


@view_config(route_name="confirm", renderer="templates/confirm.jinja2")
def confirm(request: Any) -> Any:
    """Ask for what stands for the password here, and go back to where the user came from."""
    request.response.cache_control = "no-store"
    session, back = request.session, return_path(request, request.route_path("home"))
    if session.owner is None:
        return back_home(request, "account")
    said = plain(request.POST.get("name", ""), LONGEST_NAME)
    if request.method == "POST" and said == session.owner:
        session.confirm()
        return HTTPSeeOther(back)
    return {"title": "Who are you?", "user": session.owner, "said": said, "next": back}


@view_config(route_name="label", request_method="POST")
def label(request: Any) -> HTTPSeeOther:
    text = plain(request.POST.get("label", ""), LONGEST_NAME)
    if request.session.owner is not None and text:
        request.session.label = text
        tell(request.session, "account", f"This session is called “{text}” now.")
    return back_home(request, "account")


@view_config(route_name="elsewhere", request_method="POST")
def elsewhere(request: Any) -> HTTPSeeOther:
    """Log the user in on a device that does not exist: nobody has its cookie."""
    user = request.session.owner
    if user is not None:
        other = request.blank("/")
        other.registry = request.registry
        session = request.registry.getUtility(ISessionFactory)(other)
        session.owner = user
        session.label = secrets.choice(DEVICES)
        session.ensure_id()
        text = f"{user} is now logged in on another device: {session.label}."
        tell(request.session, "account", text)
    return back_home(request, "account")


def profile(request: Any) -> list[dict[str, Any]]:
    """Compare the settings with what OWASP ASVS asks, line by line, as the command check does."""
    settings = request.registry.getUtility(ISessionFactory).settings
    lines = []
    for rule in PROFILES["asvs-l2"]:
        value = getattr(settings, rule.name)
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        lines.append({"rule": rule, "value": shown, "met": rule.meets(value)})
    return lines


def plain(text: object, longest: int) -> str:
    """Return a form's text on one line; a file, which no form here sends, is no text."""
    return " ".join(text.split())[:longest].strip() if isinstance(text, str) else ""


def device(user_agent: str) -> str:
    """Name a browser for the list of sessions."""
    found = [
        next((name for word, name in names.items() if word in user_agent), "")
        for names in (BROWSERS, SYSTEMS)
    ]
    return " on ".join(filter(None, found)) or "Some device"


# -- what can go wrong ---------------------------------------------------------------------


@exception_view_config(BadCSRFToken, renderer="templates/message.jinja2")
def bad_csrf(request: Any) -> dict[str, str]:
    request.response.status_int = 400
    return {
        "title": "This form has expired",
        "text": "Its session has ended, or got a new token at a login, since the page was loaded. "
        "Nothing was changed. Go back to the start and try again.",
    }


@exception_view_config(StoreUnavailable, renderer="templates/message.jinja2")
def unavailable(request: Any) -> dict[str, str]:
    request.response.status_int = 503
    return {"title": "Redis is away", "text": "The session cannot be read at present."}


@notfound_view_config(renderer="templates/message.jinja2")
def not_found(request: Any) -> dict[str, str]:
    request.response.status_int = HTTPNotFound.code
    return {"title": "No such page", "text": "There is nothing at this address."}


@exception_view_config(URLDecodeError, renderer="templates/message.jinja2")
def undecodable(request: Any) -> dict[str, str]:
    request.response.status_int = HTTPBadRequest.code
    return {"title": "No such page", "text": "This address is not UTF-8."}

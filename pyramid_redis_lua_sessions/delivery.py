"""What a response carries to the browser: the session's cookie, and what goes with it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .cookies import DELETE, NOTHING, cookie_action
from .engine.plan import STORED
from .engine.state import UNSET, Resend
from .engine.tokens import Ticket
from .errors import StoreError

if TYPE_CHECKING:
    from .turn import Turn

__all__ = ["offer_binding", "send_cookie"]

log = logging.getLogger(__package__)


def send_cookie(turn: Turn, ticket: Ticket | None, cookie_can_go: bool, due: bool) -> None:
    """Add the cookie to the response, if one is due.

    :param ticket: what the request's own says.
    :param cookie_can_go: the response may carry one; ``due``: it is due again.
    """
    state = turn.state
    action = cookie_action(
        may_set=cookie_can_go,
        may_delete=turn.allowed(),
        new_token=state.token_made,
        invalidated=state.cookie_is_stale and ticket is not None,
        resend=due and not state.invalidated and not state.unreachable,
    )
    if action is NOTHING:
        return
    try:
        if action is not DELETE:
            state.look()  # may be the first
        token = None if action is DELETE else state.token
        if turn.cookie_sent is not None and turn.cookie_sent == (token or ""):
            return
        if action is DELETE:
            header = turn.factory.cookies.header_to_delete(_scheme(turn))
        elif state.token_made or state.alive():  # no old token goes over a new one
            header = _header_to_set(turn, ticket)
        else:
            return
    except StoreError as exc:
        log.warning("the cookie is not sent again: %s", exc)
        return
    turn.cookie_sent = token or ""
    turn.response.headerlist.append(("Set-Cookie", header))
    if action is DELETE and turn.factory.devices is not None:
        # Without it the browser asks, and is told that the binding is over.
        cookie = turn.factory.devices.cookie_to_delete()
        turn.response.headerlist.append(("Set-Cookie", cookie))
    if state.cookie_is_stale and ticket is not None:
        _clear_site_data(turn)


def _header_to_set(turn: Turn, ticket: Ticket | None) -> str:
    state, settings = turn.state, turn.settings
    max_age, expires = state.resend or Resend()
    if max_age is UNSET:
        if expires is not UNSET:
            max_age = None
        elif ticket is not None and not state.new and ticket.max_age is not None:
            max_age = ticket.max_age  # the life that the application once chose
        else:
            max_age = settings.cookie_max_age
    if expires is UNSET:
        expires = settings.cookie_expires
    cookies = turn.factory.cookies
    return cookies.header_to_set(state.stored_token(), _scheme(turn), max_age, expires)


def _scheme(turn: Turn) -> str:
    # Pyramid's DummyRequest has none.
    scheme: str = getattr(turn.request, "scheme", "http")
    if scheme == "http" and turn.settings.cookie_secure is None:
        turn.factory.note_proxy(turn.request.environ)
    return scheme


def _clear_site_data(turn: Turn) -> None:
    """Have the browser remove what is configured, at the end of the session that it knew."""
    items = turn.settings.clear_site_data
    if turn.state.token_made:  # its cookie must stay
        items = tuple(item for item in items if item not in ("cookies", "*"))
    if items:
        value = ", ".join(f'"{item}"' for item in items)
        turn.response.headers.setdefault("Clear-Site-Data", value)


def offer_binding(turn: Turn) -> None:
    """Offer the browser to bind the session to its device, now that it is saved."""
    state = turn.state
    if state.phase is STORED and not state.contents.is_bound():
        offer = turn.factory.devices.registration(turn.request, state.stored_token())
        if offer is not None:
            turn.response.headerlist.append(("Secure-Session-Registration", offer))

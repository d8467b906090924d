"""The page: what a user's sessions are, and the forms that end them."""

from __future__ import annotations

import dataclasses
from typing import Any

from pyramid.csrf import get_csrf_token
from pyramid.httpexceptions import HTTPBadRequest, HTTPForbidden, HTTPSeeOther
from pyramid.i18n import TranslationStringFactory
from pyramid.interfaces import IDefaultCSRFOptions

from ..engine.fields import DEVICE_FIELD, LABEL_FIELD, PLACES_FIELD
from ..engine.tokens import digest_stored
from ..owners import SessionInfo, context, index_of, info_of, revoke, with_current
from .places import Place, places_in

__all__ = ["ROUTE", "Device", "add_views", "devices_of"]

#: Name of the route.
ROUTE = "redis_sessions_devices"

#: The asset to override.
TEMPLATE = "pyramid_redis_lua_sessions:device_page/templates/devices.jinja2"

#: Queue of its flash messages.
QUEUE = "devices"

DOMAIN = "pyramid_redis_lua_sessions"
_ = TranslationStringFactory(DOMAIN)

#: What the template says, by name; the msgid stands in ``locale/``.
TEXTS = {
    "title": _("Your devices"),
    "intro": _("You are logged in here. End what you do not know, and change your password."),
    "unnamed": _("Unnamed device"),
    "this": _("this device"),
    "bound": _("bound to its device"),
    "since": _("Since"),
    "seen": _("Last seen"),
    "login": _("Logged in from"),
    "last": _("Last used from"),
    "end": _("Log out"),
    "others": _("Log out all other devices"),
    "everywhere": _("Log out everywhere"),
}
ONE_ENDED = _("One device was logged out.")
MANY_ENDED = _("${n} devices were logged out.")


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """A session, as its user knows it.

    :ivar session: what :func:`~pyramid_redis_lua_sessions.sessions_of` says of it.
    :ivar login: from where it was logged in; ``last``: from where it was used last;
        ``None``: it was not noted.
    """

    session: SessionInfo
    login: Place | None
    last: Place | None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it; moments in ISO 8601."""
        info = self.session
        return {
            "name": info.fingerprint,
            "label": info.label,
            "created": info.created.isoformat(),
            "last_seen": None if info.last_seen is None else info.last_seen.isoformat(),
            "current": info.current,
            "device_bound": info.device_bound,
            "login": None if self.login is None else self.login._asdict(),
            "last": None if self.last is None else self.last._asdict(),
        }


def devices_of(request_or_registry: Any, owner: str | int) -> list[Device]:
    """List the live sessions of an owner with the places from which they are used.

    :param owner: as assigned to ``session.owner``.
    :returns: that of the request first, then those that were seen last.
    :raises StoreError: Redis failed.
    """
    factory, store, current = context(request_or_registry)
    index = index_of(factory, store, owner, {})
    devices = []
    for members in with_current(current, index.members()):
        for name, known in index.survey(members, LABEL_FIELD, DEVICE_FIELD, PLACES_FIELD).owned:
            bound = factory.sealer.bind(name, digest_stored(known.token))
            stored = known.told[PLACES_FIELD]
            data = bound.open(PLACES_FIELD, stored) if stored else None
            try:
                places = places_in(None if data is None else factory.codec.decode(data))
            except Exception:
                places = (None, None)  # the serializer was changed since
            devices.append(Device(info_of(factory, name, known, name == current), *places))
    devices.sort(key=lambda one: one.session.last_seen or one.session.created, reverse=True)
    return sorted(devices, key=lambda one: not one.session.current)


def add_views(config: Any, fresh: float | None) -> None:
    """Add the route, and its views.

    :param fresh: how many seconds ago the user must have confirmed his password at most.
    """
    options = {} if fresh is None else {"fresh": fresh}
    config.add_route(ROUTE, "/devices")
    for accept, show, answer, renderer in (
        ("text/html", page, redirect, TEMPLATE),
        ("application/json", listing, count, "json"),
    ):
        shared = {"route_name": ROUTE, "accept": accept, "http_cache": (0, {"no_store": True})}
        config.add_view(show, request_method="GET", renderer=renderer, **shared, **options)
        config.add_view(
            answer, request_method="POST", renderer="json", require_csrf=True, **shared, **options
        )


def page(request: Any) -> dict[str, Any]:
    """The page, as HTML."""
    translate = request.localizer.translate
    return {
        "texts": {name: translate(text) for name, text in TEXTS.items()},
        "devices": devices_of(request, _user(request)),
        "messages": request.session.pop_flash(QUEUE),
        "csrf_name": _csrf_name(request),
        "csrf_token": get_csrf_token(request),
        "action": request.route_path(ROUTE),
    }


def _csrf_name(request: Any) -> str:
    """Return under which name the application looks for the CSRF token in a form."""
    chosen = request.registry.queryUtility(IDefaultCSRFOptions)
    return (chosen and chosen.token) or "csrf_token"


def listing(request: Any) -> dict[str, Any]:
    """The same, as JSON."""
    devices = [one.as_json() for one in devices_of(request, _user(request))]
    return {"devices": devices, "csrf_token": get_csrf_token(request)}


def redirect(request: Any) -> Any:
    """End what the form says, and show the page again."""
    ended = _end(request)
    if "everywhere" in request.POST:
        return HTTPSeeOther(request.application_url + "/")
    pluralize = request.localizer.pluralize
    text = pluralize(ONE_ENDED, MANY_ENDED, ended, domain=DOMAIN, mapping={"n": ended})
    request.session.flash(text, QUEUE)
    return HTTPSeeOther(request.route_path(ROUTE))


def count(request: Any) -> dict[str, int]:
    """End what the form says."""
    return {"ended": _end(request)}


def _end(request: Any) -> int:
    """End one session of the user's, all others, or all; return how many."""
    owner, form = _user(request), request.POST
    if "everywhere" in form:
        ended = revoke(request, owner)
        request.session.invalidate()
        return ended + 1
    if "others" in form:
        return revoke(request, owner)
    name = form.get("end")
    if not isinstance(name, str):
        raise HTTPBadRequest()
    return revoke(request, owner, fingerprint=name)


def _user(request: Any) -> str | int:
    owner: str | int | None = request.session.owner
    if owner is None:
        raise HTTPForbidden()
    return owner

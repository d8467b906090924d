"""View options: what a view says of the session that it uses.

Each is an option of ``config.add_view`` and ``@view_config``. A view that has none of them is
left as it is, and its requests pay nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, cast
from urllib.parse import urlsplit

from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.interfaces import PHASE3_CONFIG, IRoutesMapper
from pyramid.viewderivers import INGRESS

from .cookies import vary_on_cookie
from .engine.state import Host, NoHost
from .settings import Settings, SettingsError
from .settings.parsers import seconds
from .turn import TURNS, Turn

__all__ = ["add_view_options", "return_path"]

View = Callable[[Any, Any], Any]


def add_view_options(config: Any, settings: Settings) -> None:
    """Give ``config.add_view`` the options of this module."""
    # Before the permission and the CSRF token are checked: either may look at the session.
    for deriver in (touch_session_view, uses_session_view):
        config.add_view_deriver(deriver, under=INGRESS, over="secured_view")
    fresh = _fresh_view(settings.confirm_route)
    # After them: who may not see the view is not asked for the password.
    config.add_view_deriver(fresh, name="fresh_view", under="csrf_view", over="owrapped_view")
    if settings.confirm_route is not None and not config.autocommit:
        config.action(None, _check_route, (config, settings.confirm_route), order=PHASE3_CONFIG + 1)


def _check_route(config: Any, name: str) -> None:
    mapper = config.registry.queryUtility(IRoutesMapper)
    route = None if mapper is None else mapper.get_route(name)
    if route is None:
        raise SettingsError(f"redis.sessions.confirm_route = {name!r} is no route")
    # The route itself has only the path of what was given; its introspectable has all.
    given = (config.introspector.get("routes", name) or {}).get("external_url", "")
    if urlsplit(given).hostname:
        raise SettingsError(
            f"redis.sessions.confirm_route = {name!r} is an external route ({given}): it should be "
            "one of the application's own"
        )
    if route.pregenerator is None:
        try:
            route.generate({})
        except KeyError as exc:
            raise SettingsError(
                f"redis.sessions.confirm_route = {name!r} is a route that needs {exc.args[0]!r} in "
                "its path, and nobody knows what that is to be"
            ) from None


# -- touch_session -------------------------------------------------------------------


def touch_session_view(view: View, info: Any) -> View:
    """``touch_session=False``: a request of this view keeps nobody alive."""
    if _flag(info, "touch_session") is not False:
        return view
    name = _name(info)

    def untouched(turn: Turn) -> None:
        if turn.looked_at() and turn.state.touches:
            raise RuntimeError(
                f"{name} has touch_session=False, and something looked at the session before it "
                "[docs: timeouts]"
            )
        turn.state.touches = False

    def without_touch(context: Any, request: Any) -> Any:
        _ruled(request).obey(untouched)
        return view(context, request)

    return without_touch


touch_session_view.options = ("touch_session",)  # type: ignore[attr-defined]


# -- uses_session ----------------------------------------------------------------------


def uses_session_view(view: View, info: Any) -> View:
    """``uses_session=False``: this view fails if the session is used. ``True``: what it answers
    varies on ``Cookie``, also where it did not come to look."""
    uses = _flag(info, "uses_session")
    if uses is None:
        return view

    def with_session(context: Any, request: Any) -> Any:
        request.add_response_callback(lambda _, response: vary_on_cookie(response))
        return view(context, request)

    if uses:
        return with_session
    why = f"{_name(info)} has uses_session=False, and used the session [docs: cacheable-views]"
    refusal = cast("Host", NoHost(why))

    def refuse(turn: Turn) -> None:
        if turn.looked_at():
            raise RuntimeError(
                f"{_name(info)} has uses_session=False, and something used the session before it "
                "[docs: cacheable-views]"
            )
        turn.state.host = refusal

    def without_session(context: Any, request: Any) -> Any:
        turns = _ruled(request)
        try:
            turns.obey(refuse)
            return view(context, request)
        except BaseException:
            # What renders an error is another view.
            turns.rules = [rule for rule in turns.rules if rule is not refuse]
            for turn in turns:
                turn.state.host = turn
            raise

    return without_session


uses_session_view.options = ("uses_session",)  # type: ignore[attr-defined]


# -- fresh -----------------------------------------------------------------------------

#: What is confirmed where nothing else is named: as in ``session.confirm()``.
DEFAULT_NAME = "password"


def _fresh_view(confirm_route: str | None) -> Any:
    def fresh_view(view: View, info: Any) -> View:
        """``fresh=300``: first send those away to confirm their password who have not done so in
        the last 300 seconds. ``fresh=(300, "totp")``: what ``session.confirm("totp")`` notes."""
        wanted = info.options.get("fresh")
        if wanted is None:
            return view
        within, name = _fresh(wanted, info)
        if confirm_route is None:
            raise ConfigurationError(
                f"fresh = {wanted!r} of {_name(info)} needs redis.sessions.confirm_route "
                "[docs: login]"
            )
        if info.options.get("route_name") == confirm_route:
            raise ConfigurationError(
                f"fresh = {wanted!r} of {_name(info)} sends users from the page on which they "
                "confirm to that page (redis.sessions.confirm_route), without end [docs: login]"
            )

        def with_fresh_login(context: Any, request: Any) -> Any:
            if request.session.confirmed_within(within, name):
                return view(context, request)
            back = _way_back(request)
            query = {} if back is None else {"next": back}
            if name != DEFAULT_NAME:
                query["name"] = name
            location = request.route_path(confirm_route, _query=query)
            return HTTPSeeOther(location, cache_control="no-store")

        return with_fresh_login

    fresh_view.options = ("fresh",)  # type: ignore[attr-defined]
    return fresh_view


def _fresh(wanted: Any, info: Any) -> tuple[float, str]:
    """Parse the option ``fresh``.

    :raises ConfigurationError: it is something else.
    """
    pair = wanted if isinstance(wanted, tuple) and len(wanted) == 2 else (wanted, DEFAULT_NAME)
    try:
        within = seconds(pair[0])
    except ValueError:
        within = None
    if within is None or not isinstance(pair[1], str):
        raise ConfigurationError(
            f"fresh = {wanted!r} of {_name(info)} should be a number of seconds above 0, or that "
            "and the name of what is confirmed [docs: login]"
        )
    return within, pair[1]


def _way_back(request: Any) -> str | None:
    """Return the path of the page to which a user can come back by ``GET``."""
    if request.method in ("GET", "HEAD"):
        return cast("str", request.path_qs)
    referrer = request.referrer or ""
    origin = request.host_url + "/"
    return referrer[len(origin) - 1 :] if referrer.startswith(origin) else None


def return_path(request: Any, default: str = "/") -> str:
    """Return the path of the page from which a view with ``fresh`` sent the user away.

    For the confirmation page, which redirects there. It is of the application's own origin
    (no open redirect, CWE-601), and is asked for by ``GET``: what was sent to a view by
    ``POST`` is not sent again; the path is that of the form's page then.

    :param default: where there is none, or one that leads elsewhere.
    """
    try:
        path = request.params.get("next")
    except ValueError:  # not UTF-8
        return default
    if not isinstance(path, str) or not _SAFE_PATH.fullmatch(path):
        return default
    return path


#: An absolute path with a query: no host (``//host``), and nothing that a browser takes for the
#: start of one, as a backslash, or removes before it looks, as a tab (WHATWG URL, 4.4).
_SAFE_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]{0,2000}")


# -- what they have in common ------------------------------------------------------------


Rule = Callable[[Turn], None]


class Ruled(list[Turn]):
    """The turns of a request, with rules that hold for those to come, too."""

    def __init__(self, turns: Iterable[Turn]) -> None:
        super().__init__(turns)
        self.rules: list[Rule] = []

    def append(self, turn: Turn) -> None:
        super().append(turn)
        for rule in self.rules:
            rule(turn)

    def obey(self, rule: Rule) -> None:
        """Have a rule hold for every session of the request."""
        for turn in self:
            rule(turn)
        self.rules.append(rule)


def _ruled(request: Any) -> Ruled:
    turns = request.__dict__.get(TURNS, ())
    if not isinstance(turns, Ruled):
        turns = request.__dict__[TURNS] = Ruled(turns)
    return turns


def _flag(info: Any, option: str) -> bool | None:
    """Return the value of an option that is on, off or not given.

    :raises ConfigurationError: it is something else.
    """
    value = info.options.get(option)
    if value is not None and not isinstance(value, bool):
        raise ConfigurationError(
            f"{option} = {value!r} of {_name(info)} should be True or False [docs: api]"
        )
    return value


def _name(info: Any) -> str:
    view = info.original_view
    return getattr(view, "__qualname__", None) or type(view).__qualname__

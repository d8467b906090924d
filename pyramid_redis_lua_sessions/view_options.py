"""View options: what a view says of the session that it uses.

Each is an option of ``config.add_view`` and ``@view_config``. A view that has none of them is
left as it is, and its requests pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from pyramid.exceptions import ConfigurationError
from pyramid.viewderivers import INGRESS

from .cookies import vary_on_cookie
from .engine.state import Host
from .turn import TURNS, Turn

__all__ = ["add_view_options"]

View = Callable[[Any, Any], Any]


def add_view_options(config: Any) -> None:
    """Give ``config.add_view`` the options of this module."""
    # Before the permission and the CSRF token are checked: either may look at the session.
    for deriver in (touch_session_view, uses_session_view):
        config.add_view_deriver(deriver, under=INGRESS, over="secured_view")


# -- touch_session -------------------------------------------------------------------


def touch_session_view(view: View, info: Any) -> View:
    """``touch_session=False``: a request of this view keeps nobody alive."""
    if _flag(info, "touch_session") is not False:
        return view
    name = _name(info)

    def untouched(turn: Turn) -> None:
        if turn.looked_at() and turn.state.touches:
            raise RuntimeError(
                f"{name} has touch_session=False, and something looked at the session before it"
            )
        turn.state.touches = False

    def without_touch(context: Any, request: Any) -> Any:
        _rule(request, untouched)
        return view(context, request)

    return without_touch


touch_session_view.options = ("touch_session",)  # type: ignore[attr-defined]


# -- uses_session ----------------------------------------------------------------------


class Refusal:
    """What a session stands under of which a view said that it would not use it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, _: str) -> Any:
        raise RuntimeError(f"{self._name} has uses_session=False, and used the session")


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
    refusal = cast("Host", Refusal(_name(info)))

    def refuse(turn: Turn) -> None:
        if turn.looked_at():
            raise RuntimeError(
                f"{_name(info)} has uses_session=False, and something used the session before it"
            )
        turn.state.host = refusal

    def without_session(context: Any, request: Any) -> Any:
        turns = _rule(request, refuse)
        try:
            return view(context, request)
        except BaseException:
            # What renders an error is another view.
            turns.rules.remove(refuse)
            for turn in turns:
                turn.state.host = turn
            raise

    return without_session


uses_session_view.options = ("uses_session",)  # type: ignore[attr-defined]


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


def _rule(request: Any, rule: Rule) -> Ruled:
    """Have a rule hold for every session of a request."""
    turns = request.__dict__.get(TURNS, ())
    if not isinstance(turns, Ruled):
        turns = request.__dict__[TURNS] = Ruled(turns)
    for turn in turns:
        rule(turn)
    turns.rules.append(rule)
    return turns


def _flag(info: Any, option: str) -> bool | None:
    """Return the value of an option that is on, off or not given.

    :raises ConfigurationError: it is something else.
    """
    value = info.options.get(option)
    if value not in (None, True, False):
        raise ConfigurationError(f"{option} = {value!r} of {_name(info)} should be True or False")
    return cast("bool | None", value)


def _name(info: Any) -> str:
    view = info.original_view
    return getattr(view, "__qualname__", None) or type(view).__qualname__

"""The tween right under the exception views: the regular save point of a request's sessions."""

from __future__ import annotations

import time
from typing import Any

from .turn import RESPONSE, START, TURNS, Turn

__all__ = ["session_tween_factory"]


def session_tween_factory(handler: Any, registry: Any) -> Any:
    """Tween right under the exception views: the regular save point.

    An error of the save is raised here, so the application's exception views
    render it like one of a view.
    """

    def session_tween(request: Any) -> Any:
        request.__dict__[START] = time.monotonic()
        request.add_response_callback(_keep_response)
        try:
            response = handler(request)
        except BaseException as exc:
            _after_exception(request, exc)
            raise
        save_point(request, response)
        return response

    return session_tween


def _keep_response(request: Any, response: Any) -> None:
    """Keep what goes out: an exception view, or a tween above, may have replaced the view's."""
    request.__dict__[RESPONSE] = response


def save_point(request: Any, response: Any) -> None:
    """Save the sessions of a request, or have its transaction save them."""
    turns = request.__dict__.get(TURNS)
    if turns:
        _save_all(turns, _transactions(request), response)


def _save_all(turns: list[Turn], managed: Any, response: Any) -> None:
    for turn in turns:
        turn.response = response
        if managed is None or not managed.join(turn):
            turn.save()


def _after_exception(request: Any, exc: BaseException) -> None:
    turns = request.__dict__.get(TURNS)
    if not turns:
        return
    managed = _transactions(request)
    if getattr(exc, "status_int", 500) < 400:
        # A redirect that was raised instead of returned.
        if managed is not None and not managed.can_commit_after_exception(request):
            # What is saved in any case is saved here, where errors reach exception views.
            managed = None
        _save_all(turns, managed, exc)
    elif managed is not None:
        # The transaction says whether the view's changes count, unless the
        # exception is rendered with a status under 400.
        for turn in turns:
            if turn.state.set_aside():
                managed.join_after_exception(turn)


def _transactions(request: Any) -> Any:
    """Return what joins a turn to the request's transaction, if it has one."""
    if not request.environ.get("tm.active"):
        return None
    from . import transaction

    return transaction

"""Draws ``life-of-a-request.svg``: ``python docs/_ext/request_diagram.py``.

The steps are the functions themselves, in the order in which a request calls them, and
the save point's ways are those of the table of plans; tests compare both with a request.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import session_plan

from pyramid_redis_lua_sessions import tween
from pyramid_redis_lua_sessions.engine import executor
from pyramid_redis_lua_sessions.engine.memory import Memory
from pyramid_redis_lua_sessions.engine.plan import TABLE, Act
from pyramid_redis_lua_sessions.engine.store import Store
from pyramid_redis_lua_sessions.factory import RedisSessionFactory
from pyramid_redis_lua_sessions.turn import Turn

TARGET = Path(__file__).resolve().parents[1] / "life-of-a-request.svg"


class Step(NamedTuple):
    """Something that the application does with a session.

    :ivar what: the function; ``title`` and ``notes``: what is written.
    """

    what: Callable[..., Any] | None
    title: str
    notes: tuple[str, ...]


class Trip(NamedTuple):
    """A call of Redis: one script, and what it answers."""

    what: Callable[..., Any]
    script: str
    answer: str


class Ways(NamedTuple):
    """What a save point may send."""

    ways: tuple[tuple[str, str], ...]


def ways() -> Ways:
    """The acts, in the order of the table, and the script of each."""
    acts: dict[Act, None] = {Act.REST: None, Act.DROP: None}
    acts |= dict.fromkeys(plan.act for _, plan in TABLE)
    found = [(SHORT[act], session_plan.SCRIPTS.get(act, ("",))[0]) for act in acts]
    return Ways((*found, ("invalidate()", "end_session")))


SHORT = {
    Act.REST: "no changes",
    Act.DROP: "nowhere to save",
    Act.CREATE: "new session",
    Act.SAVE: "changes",
    Act.ADJUST: "lifetime only",
    Act.RENEW: "new token",
}

LIFE: tuple[Step | Trip | Ways, ...] = (
    Step(RedisSessionFactory.__call__, "request.session", ("costs nothing",)),
    Step(Turn.identify, "first look: the cookie", ("the first that verifies",)),
    Trip(Store.load, "load_and_touch", "all fields"),
    Step(Memory.open_all, "every seal is checked", ("values are decoded on access",)),
    Step(None, "the view", ("reads and changes values:", "remembered, not sent")),
    Step(tween.save_point, "the save point", ("under pyramid_tm: in the vote",)),
    Step(executor.settle, "plan(facts)", ("one row of the table decides",)),
    ways(),
    Step(
        Turn.on_response,
        "the response callback",
        ("what changed late is saved;", "the cookie is settled"),
    ),
)

AFTER = Step(Turn.on_finished, "the finished callback", ("the last chance to save",))

WIDTH, BROWSER, APPLICATION, REDIS = 480, 44, 226, 430

STYLE = """
    .life-of-a-request { display: block; width: 100%; max-width: 34rem; height: auto;
      margin: 1.5rem auto; font-family: var(--font-stack, sans-serif); font-size: 13px;
      color: var(--color-foreground-primary, #111); }
    .life-of-a-request text { fill: currentColor; text-anchor: middle; }
    .life-of-a-request .code { font-family: var(--font-stack--monospace, monospace);
      font-size: 12px; }
    .life-of-a-request .small { font-size: 12px;
      fill: var(--color-foreground-secondary, #555); }
    .life-of-a-request .head { font-weight: 600; }
    .life-of-a-request .box { fill: var(--color-background-secondary, #f4f5f7);
      stroke: var(--color-foreground-muted, #888); }
    .life-of-a-request .line { stroke: var(--color-foreground-muted, #888);
      stroke-dasharray: 3 4; fill: none; }
    .life-of-a-request .arrow { stroke: currentColor; stroke-width: 1.4; fill: none; }
    .life-of-a-request .tip { fill: currentColor; }
    .life-of-a-request .trip { stroke: var(--color-brand-content, #2757dd); }
    .life-of-a-request .trip-tip { fill: var(--color-brand-content, #2757dd); }
"""

TEXT = (
    "The browser sends a request with its cookie to the application. As long as nobody looks at "
    "the session's content, nothing is sent to Redis. The first look verifies the cookie and "
    "sends HGETALL and load_and_touch, which refreshes the idle timeout, in one packet; every seal "
    "is checked. The view reads and changes values, which is only remembered. At the save point, "
    "right after the view, one table decides what is sent. The response callback settles the "
    "cookie: it is sent only if the token is new, or the cookie is due again."
)


class Drawing:
    """Elements from top to bottom."""

    def __init__(self) -> None:
        self.y = 50
        self.elements: list[str] = []

    def text(self, x: int, y: int, text: str, kind: str = "") -> None:
        self.elements.append(f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>')

    def box(self, x: int, y: int, width: int, height: int) -> None:
        self.elements.append(
            f'<rect class="box" x="{x - width // 2}" y="{y}" '
            f'width="{width}" height="{height}" rx="5"/>'
        )

    def arrow(self, start: int, end: int, y: int, trip: bool = False) -> None:
        back = 10 if end > start else -10
        kinds = ("arrow trip", "trip-tip") if trip else ("arrow", "tip")
        self.elements += [
            f'<path class="{kinds[0]}" d="M{start} {y}H{end - back}"/>',
            f'<path class="{kinds[1]}" d="M{end} {y}l{-back}-4v8z"/>',
        ]

    def step(self, step: Step) -> None:
        height = 26 + 17 * len(step.notes)
        name = ""
        if step.what is not None:
            module = step.what.__module__.rpartition(".")[2]
            name = f"{module}: {step.what.__qualname__.removesuffix('.__call__')}"
            height += 17
        self.box(APPLICATION, self.y, 216, height)
        y = self.y + 20
        self.text(APPLICATION, y, step.title, "head")
        for note in step.notes:
            y += 17
            self.text(APPLICATION, y, note)
        if name:
            self.text(APPLICATION, y + 17, name, "code small")
        self.y += height + 16

    def trip(self, trip: Trip) -> None:
        middle = (APPLICATION + REDIS) // 2
        self.text(middle, self.y + 8, trip.script, "code")
        self.arrow(APPLICATION, REDIS, self.y + 16, trip=True)
        self.text(middle, self.y + 34, trip.answer)
        self.arrow(REDIS, APPLICATION, self.y + 42, trip=True)
        self.text(APPLICATION - 60, self.y + 33, "one round trip", "small")
        self.y += 60

    def ways(self, ways: Ways) -> None:
        for way, script in ways.ways:
            self.text(APPLICATION - 64, self.y + 14, way, "small")
            if script:
                self.text((APPLICATION + REDIS) // 2, self.y + 9, script, "code")
                self.arrow(APPLICATION, REDIS, self.y + 16, trip=True)
            else:
                self.text((APPLICATION + REDIS) // 2, self.y + 14, "nothing is sent", "small")
            self.y += 26
        self.y += 10


def draw() -> str:
    """Return the diagram."""
    found = Drawing()
    for x, name in ((BROWSER, "Browser"), (APPLICATION, "Application"), (REDIS, "Redis")):
        found.box(x, 6, 84 if x != APPLICATION else 120, 32)
        found.text(x, 27, name, "head")
    middle = (BROWSER + APPLICATION) // 2
    found.text(middle, found.y + 18, "request, with cookie")
    found.arrow(BROWSER, APPLICATION, found.y + 26)
    found.y += 42
    for part in LIFE:
        if isinstance(part, Step):
            found.step(part)
        elif isinstance(part, Trip):
            found.trip(part)
        else:
            found.ways(part)
    found.text(middle, found.y + 8, "response")
    found.arrow(APPLICATION, BROWSER, found.y + 16)
    found.text(middle, found.y + 33, "cookie only if the token is", "small")
    found.text(middle, found.y + 48, "new, or the cookie due again", "small")
    found.y += 64
    found.step(AFTER)
    height = found.y
    lines = "".join(f"M{x} 40V{height - 4}" for x in (BROWSER, APPLICATION, REDIS))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            'class="life-of-a-request" role="img" aria-labelledby="life-title life-text">',
            '<title id="life-title">The life of a request</title>',
            f'<desc id="life-text">{escape(TEXT)}</desc>',
            f"<style>{STYLE}</style>",
            f'<path class="line" d="{lines}"/>',
            *found.elements,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")

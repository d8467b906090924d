"""The directive ``session-plans``: the engine's own table of facts and plans, in words."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from pyramid_redis_lua_sessions.engine.plan import ADRIFT, FRESH, TABLE, Act, Plan

#: What each fact says that the table asks for.
FACTS: dict[tuple[str, object], str] = {
    ("changed", False): "nothing was looked at, or nothing is asked of it",
    ("phase", ADRIFT): "it was found to have ended, is locked, or could not be loaded",
    ("phase", FRESH): "none is stored",
    ("reachable", False): "Redis could not be reached",
    ("locked", True): "it is bound to a device that the request is not from",
    ("login", False): "the request is no login",
    ("sets", True): "values are set",
    ("sets", False): "no value is set",
    ("deletes", True): "values are removed",
    ("lifetime", True): "a lifetime was adjusted",
    ("renews", True): "a new token is due",
    ("checks", True): "what was read must still be so (``on_conflict = retry``)",
    ("cookie_can_go", False): "the response may carry no cookie",
}

#: What each act is.
ACTS: dict[Act, str] = {
    Act.REST: "nothing",
    Act.CREATE: "a new session, with what this request put in",
    Act.SAVE: "the changes",
    Act.ADJUST: "the lifetime",
    Act.RENEW: "a new token, all values sealed for it, and the changes",
    Act.DROP: "nothing; reported",
}

#: The scripts of each act; of two the first where nothing but fields is set and deleted.
SCRIPTS: dict[Act, tuple[str, ...]] = {
    Act.CREATE: ("create_unique",),
    Act.SAVE: ("save_fields", "save_if_changed"),
    Act.ADJUST: ("adjust_timeout",),
    Act.RENEW: ("renew_token",),
}


def facts_in_words(wanted: dict[str, object]) -> str:
    return "; ".join(FACTS[fact] for fact in wanted.items()) or "none of these"


def plan_in_words(plan: Plan) -> str:
    words = ACTS[plan.act]
    if plan.reason.value:
        words += f" as *{plan.reason.value}*"
    return words


def table() -> str:
    """Return the table as reStructuredText, its rows in the order in which they count."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 45 35 20", ""]
    lines += ["   * - The first that holds", "     - What is sent", "     - Script"]
    for wanted, plan in TABLE:
        scripts = SCRIPTS.get(plan.act, ())
        if "checks" in wanted:
            scripts = scripts[-1:]
        lines += [
            f"   * - {facts_in_words(wanted)}",
            f"     - {plan_in_words(plan)}",
            f"     - {' or '.join(f'``{script}``' for script in scripts)}",
        ]
    return "\n".join(lines)


class SessionPlans(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(table())


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("session-plans", SessionPlans)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The directive ``session-settings``: the settings of one group, from the engine's own table."""

from __future__ import annotations

import textwrap
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from pyramid_redis_lua_sessions.settings import PREFIX, Row, rows
from pyramid_redis_lua_sessions.settings.profiles import PROFILES

#: Title of each group, to the first of its settings in the table's order.
GROUPS = {
    "All at once": "profile",
    "Secrets": "secret",
    "Lifetimes": "timeout",
    "Concurrency": "on_conflict",
    "The cookie": "cookie_name",
    "Binding to a device": "device_binding",
    "Saving": "save_on_exception",
    "Redis": "redis_url",
    "Watching": "observe",
    "Migrating": "migrate_from",
    "Without effect": "python_expires",
}


def grouped() -> dict[str, list[Row]]:
    """Return every row of the table in its group."""
    titles = {first: title for title, first in GROUPS.items()}
    found: dict[str, list[Row]] = {}
    title = ""
    for row in rows():
        title = titles.get(row.name, title)
        found.setdefault(title, []).append(row)
    if list(found) != list(GROUPS):
        raise ValueError(f"the groups of settings are {list(found)}, not {list(GROUPS)}")
    return found


def default_of(row: Row) -> str:
    """Return how the default is spelt in an ini file: what the parser makes the default of."""
    default = row.default
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    if default == ():
        return ""
    if default is not None:
        return str(default)
    for word in ("auto", "None", ""):
        try:
            if row.parser(word) is None:
                return word
        except ValueError:
            continue
    return "None"  # only code can give this one


def describe(row: Row) -> str:
    """Return the reStructuredText that documents one setting."""
    default = default_of(row)
    lines = [f".. confval:: {PREFIX}{row.name}"]
    if row.gone is None:
        lines.append(f"   :default: {f'``{default}``' if default else 'none'}")
    lines += ["", textwrap.indent(row.doc, "   "), ""]
    if row.aliases:
        spellings = ", ".join(f"``{PREFIX}{alias}``" for alias in row.aliases)
        lines += [f"   Also spelt {spellings}.", ""]
    return "\n".join(lines)


class SessionSettings(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        group = grouped().get(self.arguments[0])
        if group is None:
            raise self.error(f"no group of settings is called {self.arguments[0]!r}")
        return self.parse_text_to_nodes("\n".join(describe(row) for row in group))


class SessionProfile(SphinxDirective):
    """What a profile sets, from the engine's own table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines = [".. list-table::", "   :header-rows: 1", "", "   * - Setting", "     - Value"]
        lines.append("     - Asked for by")
        for rule in PROFILES[self.arguments[0]]:
            value = f"{rule.value:g}" if isinstance(rule.value, float) else str(rule.value)
            lines += [f"   * - ``{rule.name}``", f"     - ``{value}``", f"     - {rule.asked_by}"]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("session-settings", SessionSettings)
    app.add_directive("session-profile", SessionProfile)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

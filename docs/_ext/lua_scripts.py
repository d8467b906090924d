"""The directives ``lua-script``, a script as Redis gets it, and ``lua-part``, a file of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS

LUA = Path(__file__).resolve().parents[2] / "lua"


class LuaScript(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        script = SCRIPTS.get(self.arguments[0])
        if script is None:
            raise self.error(f"no script is called {self.arguments[0]!r}")
        for path in (LUA / f"{script.name}.lua", *LUA.glob("parts/*.lua")):
            self.env.note_dependency(str(path))
        return [block(script.source)]


class LuaPart(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = LUA / "parts" / f"{self.arguments[0]}.lua"
        if not path.is_file():
            raise self.error(f"no part is called {self.arguments[0]!r}")
        self.env.note_dependency(str(path))
        return [block(path.read_text(encoding="utf-8"))]


def block(text: str) -> nodes.Node:
    # Pygments takes a "<" for the beginning of an attribute such as <const>: no error of ours.
    return nodes.literal_block(text, text, language="lua", force=True)


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("lua-script", LuaScript)
    app.add_directive("lua-part", LuaPart)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

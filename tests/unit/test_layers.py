"""Which module may import which: arrows point only downward."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pyramid_redis_lua_sessions

PACKAGE = pyramid_redis_lua_sessions.__name__
DIRECTORY = Path(pyramid_redis_lua_sessions.__file__).parent

#: From the bottom to the top: a module may import what stands before it.
LAYERS = (
    "errors",
    "settings",
    "scripts",
    "serializers",
    "seals",
    "addresses",
    "pools",
    "sentinels",
    "cluster",
    "client",
    "calls",
    "store",
    "contents",
    "cookies",
    "events",
    "state",
    "session",
    "factory",
    "owners",
    "__init__",
)

#: They may import the layers. The layers import them at most within a function.
LEAVES = ("__main__", "census", "cli", "debugtoolbar", "migrate", "testing", "transaction", "watch")

#: Layers that may import redis-py.
KNOW_REDIS = LAYERS[LAYERS.index("addresses") : LAYERS.index("store") + 1]

#: Modules that import nothing but errors, of this package.
FOUNDATIONS = ("errors", "scripts")


def imports(source: str, *, within_functions: bool) -> set[str]:
    """The modules of the package that a module imports, relatively or by full name."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = f"{PACKAGE}.{base}" if base else PACKAGE
            names = [base]
            if base == PACKAGE:
                names = [f"{PACKAGE}.{alias.name}" for alias in node.names]
        else:
            names = []
        for name in names:
            if name == PACKAGE:
                found.add("__init__")
            elif name.startswith(f"{PACKAGE}."):
                found.add(name.split(".")[1])
        for child in ast.iter_child_nodes(node):
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if within_functions or not function:
                visit(child)

    visit(ast.parse(source))
    return found


def upward(module: str, source: str) -> set[str]:
    """What a module of a layer imports and must not."""
    allowed = set(LAYERS[: LAYERS.index(module)])
    # A function may import a leaf, when its feature is in use.
    everywhere = imports(source, within_functions=True)
    at_import = imports(source, within_functions=False)
    return (everywhere - allowed - set(LEAVES)) | (at_import & set(LEAVES))


def test_every_module_has_its_place() -> None:
    assert {path.stem for path in DIRECTORY.glob("*.py")} - set(LEAVES) == set(LAYERS)


@pytest.mark.parametrize("module", LAYERS)
def test_layer_imports_only_what_is_below(module: str) -> None:
    assert upward(module, (DIRECTORY / f"{module}.py").read_text("utf-8")) == set()


@pytest.mark.parametrize("module", FOUNDATIONS)
def test_foundation_stands_alone(module: str) -> None:
    source = (DIRECTORY / f"{module}.py").read_text("utf-8")
    assert imports(source, within_functions=True) == set()


@pytest.mark.parametrize("module", [m for m in LAYERS if m not in KNOW_REDIS])
def test_only_what_is_from_the_addresses_to_the_store_knows_redis(module: str) -> None:
    tree = ast.parse((DIRECTORY / f"{module}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not [a.name for a in node.names if a.name.split(".")[0] == "redis"]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").split(".")[0] != "redis"


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("store", "from .session import RedisSession", {"session"}),
        ("store", "import pyramid_redis_lua_sessions.factory", {"factory"}),
        ("store", "from pyramid_redis_lua_sessions.cookies import Ticket", {"cookies"}),
        ("store", "from . import factory", {"factory"}),
        ("store", "from pyramid_redis_lua_sessions import session", {"session"}),
        ("store", "import pyramid_redis_lua_sessions", {"__init__"}),
        ("store", "def f():\n    from .session import RedisSession", {"session"}),
        ("store", "try:\n    from .session import a\nexcept ImportError:\n    pass", {"session"}),
        ("store", "from .errors import StoreError", set()),
        ("store", "import redis.session", set()),
        ("factory", "from .transaction import join", {"transaction"}),
        ("factory", "class A:\n    from .testing import RedisServer", {"testing"}),
        ("factory", "def f():\n    from .transaction import join", set()),
    ],
)
def test_the_check_finds_an_upward_import(module: str, line: str, expected: set[str]) -> None:
    assert upward(module, line) == expected

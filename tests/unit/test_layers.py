"""Which module may import which: arrows point only downward."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import pyramid_redis_lua_sessions

PACKAGE = pyramid_redis_lua_sessions.__name__
DIRECTORY = Path(pyramid_redis_lua_sessions.__file__).parent

#: From the bottom to the top: a module may import what stands before it.
LAYERS = (
    # What all stand on.
    "errors",
    "settings.predecessors",
    "settings.parsers",
    "settings.checks",
    "settings.profiles",
    "settings.table",
    "settings",
    # From settings to a client of Redis.
    "connect.addresses",
    "connect.tally",
    "connect.pools",
    "connect.sentinels",
    "connect.lines",
    "connect.cluster",
    "connect.client",
    "connect.waits",
    "connect.naming",
    "connect",
    # A session in Redis: neither Pyramid nor cookies.
    "engine.scripts",
    "engine.tokens",
    "engine.observer",
    "engine.failures",
    "engine.fields",
    "engine.pieces",
    "engine.ends",
    "engine.serializers",
    "engine.seals",
    "engine.memory",
    "engine.protocol",
    "engine.calls",
    "engine.store",
    "engine.index",
    "engine.flash",
    "engine.exposed",
    "engine.contents",
    "engine.plan",
    "engine.trace",
    "engine.refusals",
    "engine.admission",
    "engine.staging",
    "engine.executor",
    "engine.state",
    "engine",
    # A request of Pyramid.
    "cookies",
    "events",
    "session",
    "delivery",
    "reports",
    "turn",
    "tween",
    "factory",
    "owners",
    "accounts",
    "view_options",
    "__init__",
)

#: They may import the layers. The layers import them at most within a function.
LEAVES = (
    "__main__",
    "census",
    "cli",
    "debugtoolbar",
    "device_page",
    "devices",
    "endings",
    "health",
    "migrate",
    "observe",
    "testing",
    "time_left",
    "transaction",
    "watch",
)

#: Layers that may import redis-py.
KNOW_REDIS = (
    *(layer for layer in LAYERS if layer.startswith("connect")),
    *("engine.observer", "engine.failures", "engine.calls", "engine.store"),
)

#: Modules that import nothing but errors, of this package.
FOUNDATIONS = ("errors", "engine.scripts", "engine.tokens", "engine.plan")


def path_of(module: str) -> Path:
    path = DIRECTORY.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(module: str, source: str, *, within_functions: bool) -> set[str]:
    """The modules of the package that a module imports, relatively or by full name.

    What only a type checker imports is left out: it makes nothing depend on it.
    """
    found: set[str] = set()
    package = f"{PACKAGE}.{module}"
    if path_of(module).name != "__init__.py" or module == "__init__":
        package = package.rpartition(".")[0]

    def visit(node: ast.AST) -> None:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            submodules = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if is_module(name) else base for name in submodules]
        for name in names:
            if name == PACKAGE:
                found.add("__init__")
            elif name.startswith(f"{PACKAGE}."):
                inner = name.removeprefix(f"{PACKAGE}.")
                found.add(inner if inner in LAYERS else inner.split(".")[0])
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            children = list(node.orelse)
        for child in children:
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if within_functions or not function:
                visit(child)

    visit(ast.parse(source))
    return found


def is_module(name: str) -> bool:
    return name.startswith(f"{PACKAGE}.") and path_of(name.removeprefix(f"{PACKAGE}.")).exists()


def upward(module: str, source: str) -> set[str]:
    """What a module of a layer imports and must not."""
    allowed = set(LAYERS[: LAYERS.index(module)])
    # A function may import a leaf, when its feature is in use.
    everywhere = imports(module, source, within_functions=True)
    at_import = imports(module, source, within_functions=False)
    return (everywhere - allowed - set(LEAVES)) | (at_import & set(LEAVES))


def modules() -> set[str]:
    """Every module and package, but those within a leaf."""
    found = set()
    for path in DIRECTORY.rglob("*.py"):
        parts = path.relative_to(DIRECTORY).with_suffix("").parts
        inner = parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts
        if parts[0] not in LEAVES:
            found.add(".".join(inner))
    return found


def test_every_module_has_its_place() -> None:
    assert modules() == set(LAYERS)
    for leaf in LEAVES:
        assert path_of(leaf).exists(), leaf


def test_how_it_works_leads_through_every_module_of_a_request() -> None:
    page = (DIRECTORY.parent / "docs" / "how-it-works.rst").read_text("utf-8")
    table = page.partition("from cookie to cookie meets the modules")[2]
    named = [name.replace("/", ".") for name in re.findall(r"``([a-z_/]+)``", table)]
    request = LAYERS[LAYERS.index("connect") + 1 :]
    assert sorted(named) == sorted({*request} - {"engine", "__init__"})


@pytest.mark.parametrize("module", LAYERS)
def test_layer_imports_only_what_is_below(module: str) -> None:
    assert upward(module, path_of(module).read_text("utf-8")) == set()


@pytest.mark.parametrize("module", FOUNDATIONS)
def test_foundation_stands_alone(module: str) -> None:
    source = path_of(module).read_text("utf-8")
    assert imports(module, source, within_functions=True) == set()


@pytest.mark.parametrize("module", [m for m in LAYERS if m not in KNOW_REDIS])
def test_only_what_is_from_the_addresses_to_the_store_knows_redis(module: str) -> None:
    tree = ast.parse(path_of(module).read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not [a.name for a in node.names if a.name.split(".")[0] == "redis"]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").split(".")[0] != "redis"


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("engine.store", "from ..session import RedisSession", {"session"}),
        ("engine.store", "import pyramid_redis_lua_sessions.factory", {"factory"}),
        ("engine.store", "from pyramid_redis_lua_sessions.cookies import Ticket", {"cookies"}),
        ("engine.store", "from .. import factory", {"factory"}),
        ("engine.store", "from . import state", {"engine.state"}),
        ("engine.store", "from pyramid_redis_lua_sessions import session", {"session"}),
        ("engine.store", "import pyramid_redis_lua_sessions", {"__init__"}),
        ("engine.store", "def f():\n    from ..session import RedisSession", {"session"}),
        (
            "engine.store",
            "try:\n    from ..session import a\nexcept ImportError:\n    pass",
            {"session"},
        ),
        ("engine.store", "from ..errors import StoreError", set()),
        ("engine.store", "import redis.session", set()),
        ("engine.store", "from ..settings.parsers import seconds", set()),
        ("errors", "from .settings.parsers import seconds", {"settings.parsers"}),
        ("errors", "from .settings import parsers", {"settings.parsers"}),
        ("settings.parsers", "from .predecessors import POSITIONAL", set()),
        ("settings.parsers", "from . import table", {"settings.table"}),
        ("settings.parsers", "from .table import Settings", {"settings.table"}),
        ("settings.parsers", "from . import Settings", {"settings"}),
        ("settings.parsers", "from ..engine.store import Store", {"engine.store"}),
        ("settings.parsers", "from ..errors import SessionError", set()),
        ("settings", "from .table import Settings", set()),
        ("settings.checks", "if TYPE_CHECKING:\n    from .table import Settings", set()),
        ("factory", "from .transaction import join", {"transaction"}),
        ("factory", "class A:\n    from .testing import RedisServer", {"testing"}),
        ("factory", "def f():\n    from .transaction import join", set()),
    ],
)
def test_the_check_finds_an_upward_import(module: str, line: str, expected: set[str]) -> None:
    assert upward(module, line) == expected

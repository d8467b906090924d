"""``redis-lua-sessions load-scripts``."""

from __future__ import annotations

import argparse
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from ..census import primaries
from ..engine.scripts import SCRIPTS
from .console import Console, RedisFailure
from .target import address, connected

__all__ = ["add_to", "load_scripts"]


def add_to(commands: Any, target: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "load-scripts",
        parents=[target],
        help="load the Lua scripts and show which node has them",
        description="Load the Lua scripts into Redis, and print for each its name, its SHA1 "
        "and the nodes that have it: of a Redis Cluster every primary.",
    )
    command.set_defaults(command=load_scripts)


def load_scripts(console: Console, args: argparse.Namespace) -> int:
    with connected(args) as target:
        try:
            nodes = dict(load_on_node(node) for node in primaries(target.client))
        except (RedisError, RedisClusterException, OSError) as exc:
            raise RedisFailure(
                f"{target.name}: the scripts could not be loaded: {exc or type(exc).__name__}"
            ) from exc
    loaded: list[dict[str, Any]] = []
    lacking: set[str] = set()
    for script in SCRIPTS.values():
        having = [node for node, held in nodes.items() if script.sha1 in held]
        lacking.update(set(nodes) - set(having))
        loaded.append({"name": script.name, "sha1": script.sha1, "nodes": having})
    if args.json:
        console.json({"scripts": loaded, "missing_on": sorted(lacking)})
    else:
        rows = [(s["name"], s["sha1"], ", ".join(s["nodes"]) or "-") for s in loaded]
        console.table(("", "", ""), rows)
    if lacking:
        raise RedisFailure(f"scripts are missing on {', '.join(sorted(lacking))}")
    return 0


def load_on_node(client: Any) -> tuple[str, set[str]]:
    """Load every script, then ask the node which it has.

    :returns: its address; the SHA1s of the scripts found there.
    """
    sha1s = [script.sha1 for script in SCRIPTS.values()]
    # One connection, so that the address shown is that of the server that did
    # the work (Sentinel chooses it when it connects).
    with client.client() as single:
        for script in SCRIPTS.values():
            single.script_load(script.source)
        held = single.script_exists(*sha1s)
        where = address(single.connection)
    return where, {sha1 for sha1, there in zip(sha1s, held, strict=True) if there}

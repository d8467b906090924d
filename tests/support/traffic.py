"""What passed a proxy, in calls."""

from __future__ import annotations

from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.testing import Command, CountingProxy

LOAD = SCRIPTS["load_and_touch"].sha1


def calls(proxy: CountingProxy) -> list[Command]:
    """The commands that were sent, a load's HGETALL and its script as one."""
    found = []
    commands = proxy.commands
    for command, following in zip(commands, [*commands[1:], None], strict=False):
        if command.name == "HGETALL":
            assert following is not None
            assert (following.connection, following.args[3]) == (
                command.connection,
                command.args[1],
            )
            assert following.sha == LOAD
        else:
            found.append(command)
    return found


def call_names(proxy: CountingProxy) -> list[str]:
    """The names of :func:`calls`."""
    return [command.name for command in calls(proxy)]

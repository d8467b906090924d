"""Break one rule, or one guarantee, at a time, and see a test fail.

Each mutation is applied to a copy of the package; the tests named beside it then run against
the copy. A mutation that they survive is a rule that nobody checks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from pyramid_redis_lua_sessions.testing import RedisServer

pytestmark = pytest.mark.torture

ROOT = Path(__file__).parents[2]
COPIED = ["pyramid_redis_lua_sessions", "lua", "tests", "pyproject.toml"]

#: Copies that are tested at a time.
WORKERS = 2

#: All orders of two requests, without lost replies and with them.
ORDERS = "tests/torture/test_every_interleaving.py -k test_two_requests"
SAVING = "tests/lua/test_save_if_changed.py"
ENDING = "tests/lua/test_end_session.py"
CREATING = "tests/lua/test_create_unique.py"
LOADING = "tests/lua/test_load_and_touch.py"
ADJUSTING = "tests/lua/test_adjust_timeout.py"
INDEXING = "tests/lua/test_index_session.py"
RENEWING = "tests/lua/test_new_token.py"
REMEMBERING = "tests/lua/test_remembered.py"
STAGING = "tests/lua/test_stage_save.py"
TOKENS = "tests/lua/test_token.py"

SAVE = "lua/save_if_changed.lua"
PLAIN_SAVE = "lua/save_fields.lua"
RENEW = "lua/renew_token.lua"
END = "lua/end_session.lua"
CREATE = "lua/create_unique.lua"
INDEX = "lua/index_session.lua"
CHECKS = "lua/parts/checks.lua"
GONE = "lua/parts/gone.lua"
LIFE = "lua/parts/life.lua"
MARKER = "lua/parts/leave_marker.lua"
REMEMBER = "lua/parts/remember.lua"
REMEMBERED = "lua/parts/remembered.lua"
STAGED = "lua/parts/staged.lua"
TOKEN = "lua/parts/token.lua"
ENGINE = "pyramid_redis_lua_sessions/engine"
CONTENTS = f"{ENGINE}/contents.py"
EXECUTOR = f"{ENGINE}/executor.py"
PLAN = f"{ENGINE}/plan.py"
SEALS = f"{ENGINE}/seals.py"


class Mutation(NamedTuple):
    """One broken rule.

    :ivar path: the file to break; ``old``: text that stands there once; ``new``: what takes
        its place.
    :ivar tests: what should notice.
    """

    path: str
    old: str
    new: str
    tests: str


ALL_KEYS = Mutation(
    CONTENTS,
    "        values = {}\n        for key in list(self._assigned):",
    "        values = dict(self._plain)\n        for key in list(self._assigned):",
    ORDERS,
)

MUTATIONS = {
    "gone: a marker is a session": Mutation(
        GONE, "if not token then\n", "if not token and not moved then\n", TOKENS
    ),
    "gone: a marker is an unknown id": Mutation(
        GONE, "if not moved then return {0} end", "if true then return {0} end", ENDING
    ),
    "token: every verifier opens the session": Mutation(
        TOKEN, "if string.sub(token, 1, 16) ~= digest then", "if false then", TOKENS
    ),
    "token: nobody says that it was replaced": Mutation(
        TOKEN, "1 + redis.call('HEXISTS', session_key, 'owner')", "0", TOKENS
    ),
    "checks: nobody compares what was read": Mutation(
        CHECKS, "#check > 1 and (not value or redis.sha1hex(value) ~= check)", "false", SAVING
    ),
    "checks: what was read as absent may be there": Mutation(
        CHECKS, "if check == '' and value\n", "if false\n", SAVING
    ),
    "checks: what was read as present may be gone": Mutation(
        CHECKS, "or check == '+' and not value\n", "", SAVING
    ),
    "checks: nobody compares the names of the fields": Mutation(
        CHECKS, "if names ~= '' then", "if false then", SAVING
    ),
    "life: past its end a session can be saved": Mutation(
        LIFE, "or (expires and (tonumber(expires) or 0) <= now_ms)", "", SAVING
    ),
    "marker: it never expires": Mutation(
        MARKER, "redis.call('PEXPIRE', session_key, marker_ms)\n", "", ENDING
    ),
    "marker: none is left": Mutation(
        MARKER, "redis.call('HSET', session_key, 'moved', marker)\n", "", ENDING
    ),
    "marker: what was stored stays beside it": Mutation(
        MARKER, "if #ended > 0 then", "if false then", ENDING
    ),
    "remember: a save is not remembered": Mutation(
        REMEMBER, "save_id .. string.char(moment) .. recent", "recent", REMEMBERING
    ),
    "remember: it is remembered for ever": Mutation(
        REMEMBER, "> remember_s do", "> 1000 do", REMEMBERING
    ),
    "remember: what is in the ring is forgotten": Mutation(
        REMEMBERED, "then repeated = true end", "then repeated = false end", REMEMBERING
    ),
    "save: a conflict is half saved": Mutation(
        SAVE,
        "if not repeated then\n",
        "if not repeated then\n"
        "  for i = first_set, #ARGV, 2 do\n"
        "    redis.call('HSETNX', session_key, ARGV[i], ARGV[i + 1])\n"
        "  end\n",
        SAVING,
    ),
    "save: nothing is deleted": Mutation(SAVE, "-- @include delete_fields\n", "", SAVING),
    "save: the request decides that a session is empty": Mutation(
        SAVE, "if left == 0 then", "if true then", ORDERS
    ),
    "save: an emptied session lives on": Mutation(
        SAVE, "if left == 0 then", "if false then", SAVING
    ),
    "save: a repeated emptying save is dropped": Mutation(
        SAVE, "if string.sub(moved, 1, 6) == save_id then return {7} end", "", SAVING
    ),
    "save: an emptied session is in flight": Mutation(
        SAVE,
        "save_id .. digest .. '0', end_if_empty",
        "save_id .. digest .. string.format('%.0f', now_ms), end_if_empty",
        SAVING,
    ),
    "renewal: it stands on what is no longer so": Mutation(
        RENEW, "loaded_saves ~= (saves or '')", "false", ORDERS
    ),
    "renewal: a repeated one does not find its own change": Mutation(
        RENEW,
        "if repeated then new_timeout, new_deadline = nil, nil\nelse\n",
        "if repeated then new_timeout, new_deadline = nil, nil\nend\ndo\n",
        ORDERS,
    ),
    "renewal: it puts no new token in place": Mutation(
        RENEW,
        "local digest = new_digest\n",
        "",
        RENEWING,
    ),
    "plain save: a repeated one writes over what came in between": Mutation(
        PLAIN_SAVE,
        "if repeated then return 5 end\n",
        "",
        ORDERS,
    ),
    "plain save: nothing is deleted": Mutation(
        PLAIN_SAVE, "-- @include delete_fields\n", "", ORDERS
    ),
    "staged: nobody waits": Mutation(STAGED, "if clash then return {10} end", "", STAGING),
    "staged: it holds for ever": Mutation(
        STAGED,
        "left > 0 and left <= 60000 then",
        "left <= 60000 then",
        STAGING,
    ),
    "end: a newer token's session ends too": Mutation(
        END, "if digest ~= '' then\n", "if false then\n", ENDING
    ),
    "end: a repeated call does not find its own ending": Mutation(
        END, "if string.sub(moved, 1, 6) == nonce then return {9} end", "", ENDING
    ),
    "end: a session that is about to be created is not marked": Mutation(
        END, "if mark and not token and not moved and", "if false and", ENDING
    ),
    "create: a taken id is used": Mutation(
        CREATE, "if redis.call('EXISTS', session_key) == 1 then", "if false then", CREATING
    ),
    "create: the id of an ended session is used": Mutation(
        CREATE,
        "if redis.call('EXISTS', session_key) == 1 then",
        "if redis.call('HEXISTS', session_key, '@') == 1 then",
        CREATING,
    ),
    "create: a repeated call finds its id taken": Mutation(
        CREATE,
        "if token and string.sub(token, 1, 16) == digest then",
        "if false then",
        CREATING,
    ),
    "create: a session that was ended is created again": Mutation(
        CREATE, "elseif not token and moved and", "elseif false and", CREATING
    ),
    "index: a locator that is added again changes its place": Mutation(
        INDEX, "'ZADD', index_key, 'NX',", "'ZADD', index_key,", INDEXING
    ),
    "executor: a renewal that comes late takes the session away": Mutation(
        EXECUTOR, "store.take_back(before, token)", "pass", ORDERS
    ),
    "state: deletions are lost in silence": Mutation(
        f"{ENGINE}/state.py",
        "self.contents.pending() or self.lost or self.asked",
        "self.contents.pending() or self.asked",
        ORDERS,
    ),
    "plan: who logs in while another does is not logged in": Mutation(
        PLAN,
        '({"phase": ADRIFT, "login": False}, Plan(Act.DROP, Reason.ENDED)),',
        '({"phase": ADRIFT}, Plan(Act.DROP, Reason.ENDED)),',
        ORDERS,
    ),
    "seals: they are not bound to the token": Mutation(
        SEALS, "header = _framed(locator) + digest\n", "header = _framed(locator)\n", ORDERS
    ),
    "owners: a revoke forgets what it did not end": Mutation(
        "pyramid_redis_lua_sessions/owners.py",
        "found.forget(ended)",
        "found.forget(members)",
        ORDERS,
    ),
    "request: all keys are saved": ALL_KEYS,
}

#: Each guarantee, broken; a test that docs/guarantees.rst names for it is what should notice.
GUARANTEES = {
    "G1": Mutation(
        f"{ENGINE}/state.py",
        "loaded = host.store().load(token)\n",
        "loaded = [host.store().load(token) for _ in range(2)][0]\n",
        "tests/functional/test_round_trips.py::test_session_of_a_user_is",
    ),
    "G2": Mutation(
        RENEW,
        "loaded_saves ~= (saves or '')",
        "false",
        "tests/functional/test_regenerate.py::"
        "test_a_write_is_kept_when_it_slips_in_between_load_and_regeneration",
    ),
    "G3": Mutation(
        CONTENTS,
        ALL_KEYS.old,
        ALL_KEYS.new,
        "tests/functional/test_round_trips.py::test_save_carries_only_what_changed",
    ),
    "G4": Mutation(
        GONE,
        "if not token then\n",
        "if not token then token = digest .. struct.pack('>I6', now_ms) end\nif not token then\n",
        "tests/lua/test_save_if_changed.py::test_save_never_creates_a_session",
    ),
    "G5": Mutation(
        TOKEN,
        "if string.sub(token, 1, 16) ~= digest then",
        "if false then",
        "tests/functional/test_token.py::"
        "test_locator_without_its_verifier_opens_nothing_and_refreshes_nothing",
    ),
    "G6": Mutation(
        f"{ENGINE}/store.py",
        "self.creation(token, fields, lifetime, None, absolute_ms, first_ms, clocked)",
        "self.creation(token, fields, lifetime, "
        "int(__import__('time').time() * 1000), absolute_ms, first_ms, clocked)",
        "tests/functional/test_timeouts.py::"
        "test_lifetimes_are_right_when_the_application_servers_clock_is",
    ),
    "G7": Mutation(
        SEALS,
        "            if self.open(field, fields[field]) is None:\n                return None\n"
        "        return opened\n\n\ndef _tail",
        "            self.open(field, fields[field])\n        return opened\n\n\ndef _tail",
        "tests/functional/test_bad_data.py::"
        "test_one_broken_seal_refuses_the_session_before_any_value_is_used",
    ),
    "G8": Mutation(
        REMEMBER,
        "save_id .. string.char(moment) .. recent",
        "recent",
        "tests/lua/test_save_if_changed.py::test_repeated_save_does_not_undo_what_came_in_between",
    ),
}

MUTATIONS |= GUARANTEES


#: ``make torture`` breaks every rule; a test run, for its time, every so many.
EVERY = int(os.environ.get("TORTURE_MUTATIONS", "8"))
CHOSEN = dict(list(MUTATIONS.items())[::EVERY])


#: Loads the scripts of a copy.
LOADS = """
import sys, redis
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
client = redis.Redis.from_url(sys.argv[1])
for script in SCRIPTS.values():
    client.script_load(script.source)
client.close()
"""


def run_tests(directory: Path, mutation: Mutation, server: RedisServer) -> tuple[int, str]:
    """Run a mutation's tests against a mutated copy; return pytest's status and output."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, directory / name)
    path = directory / mutation.path
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        return -1, f"{mutation.path} does not hold this text just once:\n{mutation.old}"
    mutated = text.replace(mutation.old, mutation.new)
    path.write_text(mutated, encoding="utf-8")
    if path.suffix == ".lua":
        # It is still Lua: it must not fail for a typing error.
        subprocess.run([sys.executable, "-c", LOADS, server.url], cwd=directory, check=True)
    run = subprocess.run(
        # The working directory comes first on the path: the copy is what is imported.
        [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider", *mutation.tests.split()],
        cwd=directory,
        env={
            **os.environ,
            "REDIS_SERVER": str(server.binary),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TORTURE_SCALE": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return run.returncode, run.stdout


#: A change that breaks nothing: the copies work, and what fails, fails for its mutation.
HARMLESS = {
    tests: Mutation(TOKEN, "~= digest then", "~= (digest) then", tests)
    for tests in sorted({mutation.tests for mutation in CHOSEN.values()})
}

Runs = dict[str, "Future[tuple[int, str]]"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Runs]:
    with ThreadPoolExecutor(WORKERS) as workers:
        yield {
            name: workers.submit(run_tests, tmp_path_factory.mktemp("copy"), mutation, redis_server)
            for name, mutation in {**HARMLESS, **CHOSEN}.items()
        }


@pytest.mark.parametrize("tests", HARMLESS)
def test_the_tests_pass_when_no_rule_is_broken(runs: Runs, tests: str) -> None:
    status, output = runs[tests].result()
    assert status == pytest.ExitCode.OK, output


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_a_mutation_breaks_is_there(name: str) -> None:
    mutation = MUTATIONS[name]
    assert (ROOT / mutation.path).read_text(encoding="utf-8").count(mutation.old) == 1


@pytest.mark.parametrize("name", CHOSEN)
def test_a_test_fails_when_a_rule_is_broken(runs: Runs, name: str) -> None:
    status, output = runs[name].result()
    assert status == pytest.ExitCode.TESTS_FAILED, output

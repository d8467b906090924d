"""Break one rule of the scripts at a time, and see a test fail.

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

CONCURRENCY = "tests/functional/test_concurrency.py"
GONE = "tests/functional/test_gone.py"
JAR = "tests/functional/test_cookie_jar.py"
REGENERATE = "tests/functional/test_regenerate.py"
REVIVING = "tests/lua/test_revive_session.py"
REVOKE = "tests/functional/test_revoke.py"

SAVE = "lua/save_if_changed.lua"
END = "lua/end_session.lua"
CREATE = "lua/create_unique.lua"
LOAD = "lua/load_and_touch.lua"
ADJUST = "lua/adjust_timeout.lua"
SWAP = "lua/swap_fields.lua"
REVIVE = "lua/revive_session.lua"
INDEX = "lua/index_session.lua"
REVOKING = "lua/revoke_index.lua"


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


DIGEST = "or #check > 1 and (not value or redis.sha1hex(value) ~= check) then"
NOT_CREATED = "\nif not created then\n"
UNCHECKED = "\nif false then\n"
MARKER_COUNTS = "\nif not created and not moved then\n"

MUTATIONS = {
    "save: a save creates a session": Mutation(SAVE, NOT_CREATED, UNCHECKED, GONE),
    "save: a marker is a session": Mutation(SAVE, NOT_CREATED, MARKER_COUNTS, GONE),
    "save: past its end a session can be saved": Mutation(
        SAVE, "or (expires and (tonumber(expires) or 0) <= now_ms)", "", GONE
    ),
    "save: nobody compares what was read": Mutation(SAVE, DIGEST, "then", CONCURRENCY),
    "save: what was read as absent may be there": Mutation(
        SAVE, "if check == '' and value\n", "if false\n", CONCURRENCY
    ),
    "save: what was read as present may be gone": Mutation(
        SAVE, "or check == '+' and not value\n", "", CONCURRENCY
    ),
    "save: nobody compares the names of the fields": Mutation(
        SAVE, "if names ~= '' then", "if false then", CONCURRENCY
    ),
    "save: a conflict is half saved": Mutation(
        SAVE,
        "if not repeated then\n",
        "if not repeated then\n"
        "  for i = first_set, #ARGV, 2 do\n"
        "    redis.call('HSETNX', session_key, ARGV[i], ARGV[i + 1])\n"
        "  end\n",
        CONCURRENCY,
    ),
    "save: a repeated save is a conflict with itself": Mutation(
        SAVE, "if id == save_id then repeated = true end", "", CONCURRENCY
    ),
    "save: the last save is not remembered": Mutation(
        SAVE, "local remembered = {save_id .. moment}", "local remembered = {}", CONCURRENCY
    ),
    "save: nothing is deleted": Mutation(
        SAVE, "for i = first_delete, first_set - 1, BATCH do", "for i = 1, 0 do", CONCURRENCY
    ),
    "save: the request decides that a session is empty": Mutation(
        SAVE, "if redis.call('HLEN', session_key) == held then", "if true then", CONCURRENCY
    ),
    "save: an emptied session lives on": Mutation(
        SAVE, "if redis.call('HLEN', session_key) == held then", "if false then", CONCURRENCY
    ),
    "save: an emptied session leaves no marker": Mutation(
        SAVE,
        "redis.call('HSET', session_key, 'moved', '0 ' .. save_id)\n",
        "",
        GONE,
    ),
    "save: a repeated emptying save is dropped": Mutation(
        SAVE, "if string.match(moved, '^%d+ (%S+)') == save_id then return {7} end", "", GONE
    ),
    "save: an emptied session is in flight": Mutation(
        SAVE, "'moved', '0 ' .. save_id", "'moved', string.format('%.0f ', now_ms) .. save_id", GONE
    ),
    "save: nobody notes which fields a save wrote": Mutation(
        SAVE, "remembered[1] = save_id .. ':' .. wrote .. moment\n", "", CONCURRENCY
    ),
    "end: no marker is left": Mutation(
        END,
        "  redis.call('HSET', session_key, 'moved', marker)\n  local names",
        "  local names",
        JAR,
    ),
    "end: the marker never expires": Mutation(
        END,
        "  redis.call('PEXPIRE', session_key, marker_ms)\n"
        "  redis.call('HSET', session_key, 'moved', marker)\n",
        "  redis.call('PERSIST', session_key)\n"
        "  redis.call('HSET', session_key, 'moved', marker)\n",
        GONE,
    ),
    "end: the old id lives on beside the new one": Mutation(
        END, "  redis.call('HDEL', session_key, 'created')\n", "", REGENERATE
    ),
    "end: a marker ends again": Mutation(END, NOT_CREATED, MARKER_COUNTS, GONE),
    "end: a repeated call returns no fields": Mutation(
        END, "if ended_by ~= nonce then", "if true then", REGENERATE
    ),
    "end: writes that slipped in are forgotten": Mutation(
        END, "  fields = redis.call('HGETALL', session_key)\n", "", REGENERATE
    ),
    "end: nobody compares what was read": Mutation(END, DIGEST, "then", REGENERATE),
    "end: nobody compares the names of the fields": Mutation(
        END, "if names ~= '' then", "if false then", REGENERATE
    ),
    "create: a taken id is used": Mutation(
        CREATE, "if redis.call('EXISTS', session_key) == 1 then", "if false then", CONCURRENCY
    ),
    "create: the id of an ended session is used": Mutation(
        CREATE,
        "if redis.call('EXISTS', session_key) == 1 then",
        "if redis.call('HEXISTS', session_key, 'created') == 1 then",
        REGENERATE,
    ),
    "create: a repeated call finds its id taken": Mutation(
        CREATE, "if made_by == nonce then\n", "if false then\n", GONE
    ),
    "create: a new id starts a new life": Mutation(
        CREATE, "created_ms = created_ms or now_ms", "created_ms = now_ms", REGENERATE
    ),
    "load: a marker is an unknown id": Mutation(
        LOAD, "  if moved then\n", "  if false then\n", JAR
    ),
    "load: what is kept beside a marker is a session": Mutation(
        LOAD, NOT_CREATED, "\ncreated = created or moved\nif not created then\n", REGENERATE
    ),
    "adjust: it creates a session": Mutation(ADJUST, NOT_CREATED, UNCHECKED, GONE),
    "adjust: a marker is a session": Mutation(ADJUST, NOT_CREATED, MARKER_COUNTS, GONE),
    "swap: what another request wrote is put back too": Mutation(
        SWAP,
        "if same and not left_alone then",
        "if true then",
        CONCURRENCY,
    ),
    "swap: it creates a session": Mutation(SWAP, NOT_CREATED, UNCHECKED, CONCURRENCY),
    "revive: the ending of another request is taken back": Mutation(
        REVIVE, "or ended_by ~= nonce ", "", REVIVING
    ),
    "create: a session that was ended is created again": Mutation(
        CREATE, "if made_by == nonce then return {2, now_ms - tonumber(at)} end", "", REVOKE
    ),
    "end: a session that is about to be created is not marked": Mutation(
        END, "if mark and redis.call('EXISTS', session_key) == 0 then", "if false then", REVOKE
    ),
    "index: a revoked session gets new ids": Mutation(
        INDEX, "if not added or added <= tombstone then", "if false then", REVOKE
    ),
    "index: a session that is not there was revoked": Mutation(
        INDEX, "if tombstone then\n  if old_id", "if true then\n  if old_id", REVOKE
    ),
    "index: a login after a revoke gets no new ids": Mutation(
        INDEX, "score = math.max(score, tombstone + 1)", "score = tombstone", REVOKE
    ),
    "revoke: the spared session gets no new ids": Mutation(
        REVOKING, "if spared then redis.call(", "if false then redis.call(", REVOKE
    ),
    "request: all keys are saved": Mutation(
        "pyramid_redis_lua_sessions/contents.py",
        "        values = {}\n        for key in list(self._assigned):",
        "        values = dict(self._plain)\n        for key in list(self._assigned):",
        CONCURRENCY,
    ),
}


#: ``make torture`` breaks every rule; a test run, for its time, every so many.
EVERY = int(os.environ.get("TORTURE_MUTATIONS", "4"))
CHOSEN = dict(list(MUTATIONS.items())[::EVERY])


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
        with server.client() as client:
            client.script_load(mutated)  # it is still Lua: it must not fail for a typing error
    run = subprocess.run(
        # The working directory comes first on the path: the copy is what is imported.
        [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider", mutation.tests],
        cwd=directory,
        env={**os.environ, "REDIS_SERVER": str(server.binary), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return run.returncode, run.stdout


#: A change that breaks nothing: the copies work, and what fails, fails for its mutation.
HARMLESS = {
    tests: Mutation(SAVE, "\nlocal repeated = false\n", "\nlocal repeated = not true\n", tests)
    for tests in (CONCURRENCY, GONE, JAR, REGENERATE, REVIVING)
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

"""The scripts as Python loads them, and whether each header says what its body does.

A script is compared as Redis gets it: with the text of ``lua/parts/`` where it asks for it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import pyramid_redis_lua_sessions
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS, Script, Status

# Every command that a script may call, by what it does.
HASH_READS = {"EXISTS", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET"}
INDEX_READS = {"ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZSCORE"}
READ_COMMANDS = HASH_READS | INDEX_READS | {"PTTL", "TIME"}
WRITE_COMMANDS = {
    *("DEL", "HDEL", "HPEXPIREAT", "HSET", "PERSIST", "PEXPIRE", "PUBLISH", "SPUBLISH"),
    *("ZADD", "ZREM"),
}

# Every call of these writes; the others may find nothing to do.
ALWAYS_WRITE = {"index_session"}

# The scripts whose key is an index; that of the others is a session's.
OF_INDEXES = {"index_session"}

# A screen.
MOST_LINES = 80

# What Lua and Redis give.
BUILTINS = {"ARGV", "KEYS", "ipairs", "math", "redis", "string", "struct"}
BUILTINS |= {"tonumber", "type", "unpack"}
KEYWORDS = set(
    "and break do else elseif end false for function if in local nil not or repeat return then "
    "true until while".split()
)

PACKAGE = Path(pyramid_redis_lua_sessions.__file__).parent
DIRECTORY = next(p for p in (PACKAGE / "lua", PACKAGE.parent / "lua") if p.is_dir())
FILES = {path.stem: path.read_text("utf-8") for path in sorted(DIRECTORY.glob("*.lua"))}
PARTS = {path.stem: path.read_text("utf-8") for path in sorted(DIRECTORY.glob("parts/*.lua"))}


# -- loading -----------------------------------------------------------------------


def with_parts(text: str) -> str:
    """A file's text with each part where a line asks for it, as far to the right as that line."""
    lines = []
    for line in text.splitlines():
        indent, found, name = line.partition("-- @include ")
        if found:
            body = PARTS[name].split("]]\n", 1)[1]
            lines += [indent + part if part else "" for part in body.splitlines()]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def test_every_file_of_the_directory_is_loaded() -> None:
    assert set(SCRIPTS) == {
        "adjust_timeout",
        "create_unique",
        "describe_session",
        "end_session",
        "end_values",
        "index_session",
        "load_and_touch",
        "peek_session",
        "renew_token",
        "save_fields",
        "save_if_changed",
        "stage_save",
    }
    expected = {name: with_parts(text) for name, text in FILES.items()}
    assert {name: script.source for name, script in SCRIPTS.items()} == expected


def test_every_part_is_put_in_somewhere_and_nothing_else_is_asked_for() -> None:
    asked = {name for text in FILES.values() for name in includes(text)}
    assert asked == set(PARTS)
    # One that is spelt otherwise would stay a comment.
    assert [name for name, script in SCRIPTS.items() if "include" in script.source] == []
    assert [name for name, text in PARTS.items() if "include" in text] == []


def includes(text: str) -> list[str]:
    return re.findall(r"-- @include (\w+)$", text, re.MULTILINE)


@pytest.mark.parametrize("name", [*FILES, *(f"parts/{name}" for name in PARTS)])
def test_file_fits_on_one_screen(name: str) -> None:
    code = (DIRECTORY / f"{name}.lua").read_text("utf-8").split("]]\n", 1)[1]
    lines = [line.strip() for line in code.splitlines()]
    assert len([line for line in lines if line and not line.startswith("--")]) <= MOST_LINES
    assert max(map(len, code.splitlines())) <= 100


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_sha1_is_that_of_the_source(script: Script) -> None:
    assert script.sha1 == hashlib.sha1(script.source.encode()).hexdigest()
    assert SCRIPTS[script.name] is script


def test_scripts_cannot_be_replaced() -> None:
    with pytest.raises(TypeError):
        SCRIPTS["load_and_touch"] = next(iter(SCRIPTS.values()))  # type: ignore[index]
    with pytest.raises(AttributeError):
        SCRIPTS["load_and_touch"].source = ""  # type: ignore[misc]


# -- header and body ---------------------------------------------------------------


def without_comments_and_strings(body: str) -> str:
    """The code alone; a string becomes ``''``."""
    body = re.sub(r"--\[\[.*?\]\]", "", body, flags=re.DOTALL)
    return re.sub(
        r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|--[^\n]*",
        lambda match: "" if match[0].startswith("--") else "''",
        body,
    )


def problems(name: str, source: str) -> list[str]:
    """What the header of a script says and its body does not do, or the other way around."""
    match = re.match(r"--\[\[\n(.*?)\]\]\n(.*)\Z", source, re.DOTALL)
    if match is None:
        return ["no header block at the top"]
    header, body = match.groups()
    code = without_comments_and_strings(body)
    found = []
    if not header.startswith(f"{name}: "):
        found.append("the header does not begin with the script's name")
    found += _arguments(header, body, code)
    found += _statuses(header, body)
    found += _commands(name, header, body)
    found += [f"global variable {variable}" for variable in _globals(code)]
    return found


def _arguments(header: str, body: str, code: str) -> list[str]:
    found = []
    documented = dict(
        re.findall(r"^((?:KEYS|ARGV)\[\d+\])[ \t]+([a-z]\w*)(?=[ \t]{2,}\S)", header, re.MULTILINE)
    )
    if list(documented)[:1] != ["KEYS[1]"]:
        found.append("KEYS[1] is not documented first")
    for number, place in enumerate(list(documented)[1:], start=1):
        if place != f"ARGV[{number}]":
            found.append(f"{place} is documented out of its order")

    bound: dict[str, str] = {}
    for variable, value in re.findall(r"^local (\w+) = (.*)$", body, re.MULTILINE):
        place = re.fullmatch(
            r"(?:tonumber\()?((?:KEYS|ARGV)\[\d+\])\)?(?: == '1')?(?: *--.*)?", value
        )
        if place is not None and place[1] not in bound:
            bound[place[1]] = variable
    for place, argument in documented.items():
        if bound.get(place) != argument:
            found.append(f"{place} {argument} is documented and bound to {bound.get(place)}")
    found += [
        f"{place} is bound to {variable} and not documented"
        for place, variable in bound.items()
        if place not in documented
    ]

    used = set(re.findall(r"(?:KEYS|ARGV)\[[^\]]*\]", code))
    found += [
        f"{place} is used and not documented"
        for place in used
        if re.search(r"\[\d+\]", place) and place not in documented
    ]
    if set(re.findall(r"\bKEYS\b(?:\[[^\]]*\])?", code)) != {"KEYS[1]"}:
        found.append("a key other than KEYS[1] is used")

    rest = re.findall(r"^ARGV\[(\d+)\.\.\.\]", header, re.MULTILINE)
    begins = re.findall(r"^local (?:FIRST|first)_\w+(?:, \w+)* = (\d+)\b", body, re.MULTILINE)
    if rest != begins:
        found.append(f"the rest of ARGV is documented from {rest} and read from {begins}")
    if rest and int(rest[0]) != len([place for place in documented if place[0] == "A"]) + 1:
        found.append("the rest of ARGV does not follow the documented arguments")
    return found


#: What stands before a reply: also in ``return gone and {0} or {9}``.
REPLY = r"\b(?:return|and|or)"


def _statuses(header: str, body: str) -> list[str]:
    found = []
    block = re.search(r"^Returns: \{status, \.\.\.\}\n(.*?)^Writes:", header, re.DOTALL | re.M)
    if block is None:
        return ["no block 'Returns: {status, ...}' before 'Writes:'"]
    documented = {}
    for number, status, rest in re.findall(
        r"^  (\d+) ([A-Z]+) +(.*(?:\n {3,}.*)*)$", block[1], re.MULTILINE
    ):
        documented[int(number)] = rest
        if Status.__members__.get(status) != int(number):
            found.append(f"{number} {status} is no member of Status")
        if not rest.startswith(f"{{{number}"):
            found.append(f"{number} {status} documents a reply of another status")
    returned = {int(number) for number in re.findall(rf"{REPLY} \{{(\d+)", body)}
    found += [f"status {n} is documented, not returned" for n in documented.keys() - returned]
    found += [f"status {n} is returned, not documented" for n in returned - documented.keys()]
    # Replies that are literal numbers, such as {0, 1}, must be the same ones too; {8, 0} may
    # be documented as {8, remaining_ms}.
    literal = r"\{(\d+(?:, \d+)*)\}"
    in_body = set(re.findall(rf"{REPLY} {literal}", body))
    in_header = {reply for rest in documented.values() for reply in re.findall(literal, rest)}
    named = set(re.findall(r"\{(\d+), [a-z]", block[1]))
    found += [
        f"reply {{{reply}}} is returned, not documented"
        for reply in in_body - in_header
        if "," not in reply or reply.split(",")[0] not in named
    ]
    found += [f"reply {{{r}}} is documented, not returned" for r in in_header - in_body]
    return found


def _commands(name: str, header: str, body: str) -> list[str]:
    found = []
    only_key = "index_key" if name in OF_INDEXES else "session_key"
    writes = re.search(r"^Writes: (.*)\Z", header, re.DOTALL | re.MULTILINE)
    if writes is None:
        return ["no 'Writes:' at the end of the header"]
    if bool(re.search(r"\bnothing\b", writes[1])) == (name in ALWAYS_WRITE):
        found.append("'Writes:' is wrong about whether there may be nothing to write")
    documented = set(re.findall(r"\b[A-Z]{3,}\b", writes[1]))
    called = set()
    for command, key in re.findall(
        r"\b(?:redis\.p?call|touch)\(\s*'(\w+)'(?:,\s*(\w+))?", body.replace("...", "")
    ):
        called.add(command)
        if key != ("" if command == "TIME" else only_key):
            found.append(f"{command} is called on {key or 'no key'}")
    found += [f"unknown command {c}" for c in called - READ_COMMANDS - WRITE_COMMANDS]
    found += [f"{c} is documented, not called" for c in documented - called]
    found += [f"{c} is called, not documented" for c in (called & WRITE_COMMANDS) - documented]
    return found


def _declared(code: str) -> set[str]:
    """Names that are local somewhere in the code."""
    local = set(re.findall(r"\blocal function (\w+)", code))
    for names in (
        *re.findall(r"\blocal (?!function\b)([\w, ]+)", code),
        *re.findall(r"\bfunction\s*\w*\s*\(([^)]*)\)", code),
        *re.findall(r"\bfor ([\w, ]+?)(?: in\b| =)", code),
    ):
        local |= set(re.findall(r"\w+", names))
    return local


def _globals(code: str) -> set[str]:
    """Names that are assigned without being local. (Lua has no other way to make a variable.)"""
    assigned = set(re.findall(r"(?<!local )\bfunction (\w+)", code))
    for names in re.findall(r"(?<![\w.\]=~<>])(\w+(?:\s*,\s*\w+)*)\s*=(?!=)", code):
        assigned |= set(re.findall(r"\w+", names))
    return assigned - _declared(code) - {"local"}


def _foreign(code: str) -> set[str]:
    """Names that are used and not local in the code, nor given by Lua or Redis."""
    names = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", code))
    return names - _declared(code) - BUILTINS - KEYWORDS


# -- parts -------------------------------------------------------------------------


def names_of(header: str, title: str) -> set[str]:
    """The names that a part's header lists under ``Needs:`` or ``Gives:``."""
    block = re.search(rf"^{title}: (.*(?:\n {{7}}.*)*)", header, re.MULTILINE)
    lines = re.sub(r"^ {7}", "", block[1], flags=re.MULTILINE).splitlines() if block else []
    listed = [re.match(r"(\w+(?:, \w+)*)(?:  |$)", line) for line in lines]
    return {name for names in listed if names for name in names[1].split(", ")}


def part_problems(text: str) -> list[str]:
    """What the header of a part says and its body does not do, or the other way around."""
    match = re.match(r"--\[\[\n([A-Z].*?)\]\]\n(.*)\Z", text, re.DOTALL)
    if match is None:
        return ["no header block at the top"]
    header, body = match.groups()
    code = without_comments_and_strings(body)
    needs, gives = names_of(header, "Needs"), names_of(header, "Gives")
    foreign, assigned = _foreign(code), _globals(code)
    top = _declared("\n".join(line for line in code.splitlines() if line.startswith("local ")))
    return [
        *(f"{name} is needed, and not in the header" for name in foreign - needs - gives),
        *(f"{name} is in the header, and not needed" for name in needs - foreign),
        *(f"{name} is in the header, and not given" for name in gives - top - assigned),
        *(f"{name} is changed, and not in the header" for name in assigned - gives - needs),
    ]


def inclusion_problems(text: str) -> list[str]:
    """Whether a script has what its parts need, and uses of them only what they give."""
    found = []
    own, place = set(), 0
    code = text.split("]]\n", 1)[1]
    for match in re.finditer(r"-- @include (\w+)$", code, re.MULTILINE):
        own |= _declared(without_comments_and_strings(code[place : match.start()]))
        header = PARTS[match[1]].split("]]\n", 1)[0]
        missing = names_of(header, "Needs") - own
        found += [f"{match[1]} needs {name}, which is not there yet" for name in missing]
        own |= names_of(header, "Gives")
        place = match.end()
    own |= _declared(without_comments_and_strings(code[place:]))
    unknown = _foreign(without_comments_and_strings(code)) - own
    return found + [f"{name} is used, and nothing gives it" for name in unknown]


@pytest.mark.parametrize("name", PARTS)
def test_header_of_a_part_says_what_it_needs_and_gives(name: str) -> None:
    assert part_problems(PARTS[name]) == []


@pytest.mark.parametrize("name", FILES)
def test_script_has_what_its_parts_need(name: str) -> None:
    assert inclusion_problems(FILES[name]) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        pytest.param("gone", "--[[\n", "--\n", "no header", id="no header"),
        pytest.param("gone", "moved, now_ms", "now_ms", "moved is needed", id="need left out"),
        pytest.param("gone", "moved, now", "moved, hash, now", "hash is in", id="need too many"),
        pytest.param("clock", "Gives: time ", "Gives: hour ", "hour is in the header, and not gi"),
        pytest.param("remember", "Gives: saves ", "Gives: rings ", "saves", id="change left out"),
        pytest.param("life", "local idle", "idle", "idle is needed", id="global"),
    ],
)
def test_the_comparison_of_parts_finds_a_difference(
    name: str, old: str, new: str, expected: str
) -> None:
    assert part_problems(PARTS[name]) == []
    assert old in PARTS[name]
    found = part_problems(PARTS[name].replace(old, new))
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        pytest.param(
            "stage_save", "-- @include clock\n", "", "gone needs now_ms, which is", id="a part less"
        ),
        pytest.param(
            "save_if_changed", "local names = ARGV[14]\n", "", "checks needs names", id="no name"
        ),
        pytest.param(
            "adjust_timeout", "return {8, remaining}", "return {8, left}", "left is used", id="typo"
        ),
        pytest.param(
            "adjust_timeout", "return {8, remaining}", "return {8, idle}", "idle", id="inner name"
        ),
    ],
)
def test_the_comparison_of_a_script_with_its_parts_finds_a_difference(
    name: str, old: str, new: str, expected: str
) -> None:
    assert old in FILES[name]
    found = inclusion_problems(FILES[name].replace(old, new))
    assert any(expected in problem for problem in found), found


# -- a script with its parts -------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_header_says_what_the_body_does(script: Script) -> None:
    assert problems(script.name, script.source) == []


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_every_status_of_the_enum_is_in_use_and_every_script_has_one(script: Script) -> None:
    assert re.search(r"^  \d+ [A-Z]+ ", script.source, re.MULTILINE)
    used = {int(n) for s in SCRIPTS.values() for n in re.findall(r"return \{(\d+)", s.source)}
    assert used == {int(status) for status in Status}


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        pytest.param("load_and_touch", "--[[\n", "-- \n", "no header", id="no header"),
        pytest.param("load_and_touch", "load_and_touch:", "load:", "name", id="other name"),
        pytest.param(
            "load_and_touch",
            "local trigger_ms = ARGV[4]\n",
            "",
            "ARGV[4] trigger_ms is documented and bound to None",
            id="argument not bound",
        ),
        pytest.param(
            "load_and_touch",
            "local trigger_ms = ARGV[4]\n",
            "local trigger = ARGV[4]\n",
            "ARGV[4] trigger_ms is documented and bound to trigger",
            id="argument bound to another name",
        ),
        pytest.param(
            "adjust_timeout",
            "ARGV[8] new_deadline  integer",
            "        new_deadline  integer",
            "ARGV[8] is bound to new_deadline and not documented",
            id="argument not documented",
        ),
        pytest.param(
            "adjust_timeout",
            "ARGV[8] new_deadline  integer",
            "ARGV[9] new_deadline  integer",
            "out of its order",
            id="a number skipped",
        ),
        pytest.param(
            "create_unique",
            "local first_set = 10",
            "local first_set = 11",
            "the rest of ARGV is documented from ['10'] and read from ['11']",
            id="rest from elsewhere",
        ),
        pytest.param(
            "save_if_changed", "return {7}", "return {8}", "status 8 is returned", id="status"
        ),
        pytest.param(
            "save_if_changed", "  6 CONFLICT {6}", "  7 CONFLICT {7}", "no member", id="number"
        ),
        pytest.param(
            "end_session", "  2 MOVED    {2", "  2 GOING    {2", "no member", id="status name"
        ),
        pytest.param(
            "load_and_touch",
            "return {0, 2}",
            "return {0, 3}",
            "reply {0, 3} is returned, not documented",
            id="another detail",
        ),
        pytest.param(
            "end_session",
            "redis.call('PEXPIRE', session_key",
            "redis.call('PERSIST', session_key",
            "PERSIST is called, not documented",
            id="write not documented",
        ),
        pytest.param(
            "end_session",
            "Writes: ",
            "Writes: PERSIST, ",
            "PERSIST is documented, not called",
            id="write not called",
        ),
        pytest.param(
            "load_and_touch",
            "touch('PERSIST', session_key)",
            "touch('EXPIRE', session_key)",
            "unknown command EXPIRE",
            id="another command",
        ),
        pytest.param(
            "load_and_touch",
            "local remaining = expires",
            "remaining = expires",
            "global variable remaining",
            id="global variable",
        ),
        pytest.param(
            "load_and_touch",
            "local function touch(",
            "function touch(",
            "global variable touch",
            id="global function",
        ),
        pytest.param(
            "create_unique",
            "local life = math.huge",
            "local life, _ = math.huge\nif life then one, other = 1, 2 end",
            "global variable one",
            id="two globals",
        ),
        pytest.param(
            "create_unique",
            "redis.call('EXISTS', session_key)",
            "redis.call('EXISTS', KEYS[2])",
            "a key other than KEYS[1]",
            id="another key",
        ),
        pytest.param(
            "create_unique",
            "redis.call('EXISTS', session_key)",
            "redis.call('EXISTS', digest)",
            "EXISTS is called on digest",
            id="a key that is none",
        ),
    ],
)
def test_the_comparison_finds_a_difference(name: str, old: str, new: str, expected: str) -> None:
    source = SCRIPTS[name].source
    assert old in source
    found = problems(name, source.replace(old, new))
    assert any(expected in problem for problem in found), found

"""The console script over Sentinel: it works on the primary, whichever that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import make_browser
from tests.support.command import run, write_ini
from tests.support.topology import Sentinels


@pytest.mark.parametrize("by_url", [True, False])
def test_command_works_on_the_primary(
    by_url: bool, sentinels: Sentinels, clean: None, tmp_path: Path, capsys: Any
) -> None:
    browser = make_browser(sentinels.url)
    users = [browser.another() for _ in range(3)]
    for user in users:
        user.use(lambda session: session.update(a=1))
    target = ["--url", sentinels.url] if by_url else [write_ini(tmp_path, sentinels.url)]
    primary = f"127.0.0.1:{sentinels.primary.port}"

    assert run("check", *target, "--json") == 0
    printed = capsys.readouterr()
    assert "hush" not in printed.out + printed.err
    found = {one["subject"]: one for one in json.loads(printed.out)["findings"]}
    assert found["server"]["nodes"] == [primary]
    assert found["replication"]["replicas"] == 2
    assert found["session tried"]["level"] == "ok"

    assert run("list", *target, "--json") == 0
    sessions = json.loads(capsys.readouterr().out)
    assert len(sessions) == 3
    assert run("revoke", *target, "--session", sessions[0]["session"], "--yes") == 0
    assert sorted(bool(user.use(dict)) for user in users) == [False, True, True]
    assert run("revoke", *target, "--all", "--yes") == 0
    assert not any(user.use(dict) for user in users)

"""The tracked text files are as the hooks of ``.pre-commit-config.yaml`` would leave them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The tracked text files, by path."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    # What was deleted and not committed yet is listed, too.
    paths = [path for path in listed.split("\0") if path and (CHECKOUT / path).is_file()]
    contents = {path: (CHECKOUT / path).read_bytes() for path in paths}
    return {path: content.decode() for path, content in contents.items() if b"\0" not in content}


def test_every_text_file_ends_in_one_newline(texts: dict[str, str]) -> None:
    assert "README.rst" in texts
    assert [
        path
        for path, text in texts.items()
        if text and (not text.endswith("\n") or text.endswith("\n\n"))
    ] == []


def test_no_line_ends_in_blanks(texts: dict[str, str]) -> None:
    assert [
        f"{path}:{number}"
        for path, text in texts.items()
        for number, line in enumerate(text.split("\n"), 1)
        if line != line.rstrip()
    ] == []

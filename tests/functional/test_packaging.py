"""The Lua scripts are found, and are right, however the package was installed."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from pyramid_redis_lua_sessions import __version__
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from tests.support import release

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "pyramid_redis_lua_sessions"
SCRIPT_FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("lua/**/*.lua"))

# Loads every script into a real Redis and tells what Redis said.
PROGRAM = f"""\
import json, sys
import redis
import {PACKAGE}
from {PACKAGE}.engine import scripts
client = redis.Redis.from_url(sys.argv[1], decode_responses=True)
print(json.dumps({{
    "file": {PACKAGE}.__file__,
    "scripts": {{
        key: [script.name, script.source, script.sha1, client.script_load(script.source)]
        for key, script in scripts.SCRIPTS.items()
    }},
}}))
client.close()
"""


class Built(NamedTuple):
    checkout: Path
    sdist: Path
    wheel: Path


def run(*command: object, **options: Any) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        **options,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean_environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A copy of the checkout, and what ``python -m build`` makes of it: the sdist from the copy,
    the wheel from the sdist."""
    directory = tmp_path_factory.mktemp("packaging")
    checkout = directory / "checkout"
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "_build", "build", "dist", "tests"
    )
    shutil.copytree(ROOT, checkout, ignore=ignored)
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory / "dist"),
        checkout,
        cwd=directory,
        env=clean_environ(),
    )
    (sdist,) = (directory / "dist").glob("*.tar.gz")
    (wheel,) = (directory / "dist").glob("*.whl")
    return Built(checkout, sdist, wheel)


@pytest.fixture
def clean_python(tmp_path: Path) -> Path:
    """The interpreter of a new environment, which sees the dependencies of this one, and so
    needs no network, but not what this one has installed for development."""
    directory = tmp_path / "venv"
    venv.create(directory, with_pip=False, symlinks=True)
    (site_packages,) = directory.glob("lib/python*/site-packages")
    # A .pth file adds directories without running the .pth files in them.
    dependencies = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return directory / "bin" / "python"


def install(python: Path, *what: object) -> None:
    run(
        *(python, "-I", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
        *("--no-build-isolation", "--ignore-installed", *what),
        cwd=python.parent,
        env=clean_environ(),
    )


def check_scripts(output: str, client: redis.Redis) -> Path:
    """Every script is there, as it is in the checkout, under the SHA1 that Redis gives it.

    Returns the path of the module that was imported.
    """
    told = json.loads(output)
    expected = {name: script.source for name, script in SCRIPTS.items()}
    assert {key: source for key, (_, source, _, _) in told["scripts"].items()} == expected
    for key, (name, _, sha1, redis_sha1) in told["scripts"].items():
        assert name == key
        assert sha1 == redis_sha1
    assert all(client.script_exists(*(sha1 for _, _, sha1, _ in told["scripts"].values())))
    return Path(told["file"]).resolve()


@pytest.fixture
def scriptless_url(redis_url: str, redis_client: redis.Redis) -> str:
    redis_client.script_flush()
    return redis_url


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_scripts_load_when_installed_from(
    kind: str, built: Built, clean_python: Path, scriptless_url: str, redis_client: redis.Redis
) -> None:
    install(clean_python, getattr(built, kind))
    output = run(
        *(clean_python, "-I", "-c", PROGRAM, scriptless_url),
        cwd=clean_python.parent,
        env=clean_environ(),
    )
    module = check_scripts(output, redis_client)
    assert module.is_relative_to(clean_python.parents[1].resolve())
    assert not module.is_relative_to(ROOT)
    assert not module.is_relative_to(built.checkout.resolve())
    assert (module.parent / "py.typed").is_file()
    assert (module.parent / "debugtoolbar.dbtmako").is_file()
    assert (clean_python.parent / "redis-lua-sessions").is_file()


def test_scripts_load_when_installed_editable(
    built: Built, clean_python: Path, scriptless_url: str, redis_client: redis.Redis
) -> None:
    install(clean_python, "--editable", built.checkout)
    output = run(
        *(clean_python, "-I", "-c", PROGRAM, scriptless_url),
        cwd=clean_python.parent,
        env=clean_environ(),
    )
    module = check_scripts(output, redis_client)
    assert module.is_relative_to(built.checkout.resolve())


def test_scripts_load_when_the_checkout_is_on_the_path(
    built: Built, clean_python: Path, scriptless_url: str, redis_client: redis.Redis
) -> None:
    output = run(
        *(clean_python, "-c", PROGRAM, scriptless_url),
        cwd=clean_python.parent,
        env={**clean_environ(), "PYTHONPATH": str(built.checkout)},
    )
    module = check_scripts(output, redis_client)
    assert module.is_relative_to(built.checkout.resolve())


def test_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {PACKAGE}
    scripts = [f"{PACKAGE}/{name}" for name in SCRIPT_FILES]
    assert any("/parts/" in name for name in scripts)
    assert sorted(name for name in names if name.endswith(".lua")) == scripts
    assert any(name.endswith("/LICENSE.txt") for name in names)


def test_sdist_holds_the_scripts_where_the_checkout_has_them(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(SCRIPT_FILES) <= names
    assert {"LICENSE.txt", "README.rst", "CHANGES.rst", "pyproject.toml"} <= names


def test_version_is_the_one_of_the_package(built: Built) -> None:
    import pyramid_redis_lua_sessions

    version = pyramid_redis_lua_sessions.__version__
    assert built.wheel.name.startswith(f"{PACKAGE}-{version}-")
    assert built.sdist.name == f"{PACKAGE}-{version}.tar.gz"


def test_long_description_has_no_links_that_only_a_checkout_has(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        (member,) = (
            one
            for one in archive.getmembers()
            if one.name.count("/") == 1 and one.name.endswith("PKG-INFO")
        )
        extracted = archive.extractfile(member)
        assert extracted is not None
        text = extracted.read().decode("utf-8")
    assert "I want to ..." in text
    assert ".rst>" not in text
    assert "demo.png" not in text


def test_release_check_compares_the_versions() -> None:
    assert release.stated_version("") == __version__
    with pytest.raises(release.Unfit, match=r"the tag is v9\.9"):
        release.stated_version("v9.9")
    changes = (ROOT / "CHANGES.rst").read_text("utf-8")
    if f"{__version__} (unreleased)" in changes:
        with pytest.raises(release.Unfit, match="not on which day"):
            release.stated_version(f"v{__version__}")


def test_release_check_refuses_what_has_another_name() -> None:
    built = [Path(f"{PACKAGE}-9.9-py3-none-any.whl"), Path(f"{PACKAGE}-9.9.tar.gz")]
    with pytest.raises(release.Unfit, match="built"):
        release.check_names(built, __version__)
    release.check_names(built, "9.9")

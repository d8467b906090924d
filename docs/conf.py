"""Sphinx configuration; ``make docs`` builds."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from pyramid_redis_lua_sessions import __version__  # noqa: E402

project = "pyramid_redis_lua_sessions"
copyright = "the pyramid_redis_lua_sessions contributors"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "lua_scripts", "session_plan", "session_settings"]
exclude_patterns = ["_build"]
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "none"

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["docs.css"]

"""The settings: one declarative table, the parsers of its rows, and what is checked beyond.

The names that the rest of the package uses; parsers and limits are in the modules.
"""

from __future__ import annotations

from .checks import SettingsError
from .predecessors import POSITIONAL
from .table import PREFIX, Row, Settings, rows

__all__ = ["POSITIONAL", "PREFIX", "Row", "Settings", "SettingsError", "rows"]

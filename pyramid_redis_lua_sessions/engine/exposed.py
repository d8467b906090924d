"""The ``dict`` that an application gets which wants all of a session as one."""

from __future__ import annotations

from typing import Any

from .fields import KEY_KINDS, equal_key, field_of

__all__ = ["Exposed", "is_bad"]


class Exposed(dict[Any, Any]):
    """All keys and values, as an application may change them.

    What does not decode is not among them; removed by name, or with all, it is
    removed as well.

    :param bad: the fields that do not decode; ``deleted``: those to delete.
    """

    __slots__ = ("_bad", "_deleted")

    def __init__(self, data: dict[Any, Any], bad: set[bytes], deleted: set[bytes]) -> None:
        super().__init__(data)
        self._bad = bad
        self._deleted = deleted

    def _remove_bad(self, fields: set[bytes]) -> None:
        self._deleted |= fields
        self._bad -= fields

    def __delitem__(self, key: Any) -> None:
        if is_bad(key, self._bad):
            self._remove_bad({field_of(equal_key(key))})
        else:
            super().__delitem__(key)

    def pop(self, key: Any, *default: Any) -> Any:
        if is_bad(key, self._bad):
            self._remove_bad({field_of(equal_key(key))})
        return super().pop(key, *default)

    def clear(self) -> None:
        super().clear()
        self._remove_bad({field for field in self._bad if field[:1] in KEY_KINDS})

    def __reduce__(self) -> Any:
        return dict, (dict(self),)  # elsewhere it is a dict as any other


def is_bad(key: Any, bad: set[bytes]) -> bool:
    try:
        return bool(bad) and field_of(equal_key(key)) in bad
    except KeyError:
        return False

"""What a process remembers to have verified, so that equal bytes are not verified again.

It is of one factory, and so of one prefix, of the same secrets and the same kind of
protection. What is remembered stands under the digest of a token's verifier, which
no other session has, and is used only for a field whose bytes are the same as then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .seals import Bound, NoSeal, Sealer
from .tokens import Token

__all__ = ["Memory"]

#: Bytes of a session that is still remembered, and of all together.
LARGEST = 64 * 1024
MOST = 4 * 1024 * 1024

#: What a session and a field take beside their bytes.
OVERHEAD = 200


class Known(NamedTuple):
    """A session as it was loaded last: as stored, and the encoded values."""

    stored: dict[bytes, bytes]
    plain: dict[bytes, bytes]


class Memory:
    """The values of the sessions that were loaded last.

    They are of two generations; where the younger one has grown to half of what
    there may be, it becomes the older one, and that is forgotten. Threads need no
    lock: all that they can do to each other is to forget something.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._is_used = not isinstance(sealer, NoSeal)
        self._younger: dict[bytes, Known] = {}
        self._older: dict[bytes, Known] = {}
        self._size = 0

    def open_all(
        self, token: Token, fields: Mapping[bytes, bytes]
    ) -> tuple[dict[bytes, bytes] | None, Bound | None]:
        """Verify a session that was loaded.

        :param fields: all that was loaded.
        :returns: the encoded values, ``None`` if one is not authentic; and what
            protects the session, if that was needed.
        """
        digest = token.digest
        known = self._younger.get(digest) or self._older.get(digest)
        if known is not None and known.stored == fields:
            if digest not in self._younger:
                self._remember(digest, *known)
            return dict(known.plain), None
        bound = self._sealer.bind(token.locator, digest)
        if known is None:
            plain = bound.open_all(fields)
        else:
            before, values = known
            changed = {f: stored for f, stored in fields.items() if before.get(f) != stored}
            opened = bound.open_all(changed)
            if opened is None:
                return None, bound
            kept = {f: values[f] for f in fields if f in values and f not in changed}
            plain = {**kept, **opened}
        # What an older secret protects is to be found each time, until it is sealed anew.
        if plain is not None and self._is_used and not bound.outdated:
            self._remember(digest, dict(fields), dict(plain))
        return plain, bound

    def _remember(
        self, digest: bytes, stored: dict[bytes, bytes], plain: dict[bytes, bytes]
    ) -> None:
        size = sum(map(len, stored)) + 2 * sum(map(len, stored.values()))
        size += OVERHEAD * (1 + len(stored))
        if size > LARGEST:
            self._younger.pop(digest, None)
            self._older.pop(digest, None)
            return
        self._younger[digest] = Known(stored, plain)
        self._size += size
        if self._size > MOST // 2:
            self._older, self._younger, self._size = self._younger, {}, 0

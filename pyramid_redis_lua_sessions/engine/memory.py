"""What a process remembers to have verified, so that equal bytes are not verified again.

It is of one factory, and so of one prefix, of the same secrets and the same kind of
protection. What is remembered stands under the digest of a token's verifier, which
no other session has, and is used only for a field whose bytes are the same as then.
"""

from __future__ import annotations

from collections.abc import Mapping

from .pieces import has_pieces
from .seals import Bound, NoSeal, Sealer
from .tokens import Token

__all__ = ["Memory"]

#: Bytes of a session that is still remembered, and of all together.
LARGEST = 64 * 1024
MOST = 4 * 1024 * 1024

#: What a session and a field take beside their bytes.
OVERHEAD = 200


#: A session as it was loaded last: as stored, the encoded values, and what both take in bytes.
Known = tuple[dict[bytes, bytes], dict[bytes, bytes], int]

#: Each save changes it, and no seal protects it.
SAVES = b"saves"


class Memory:
    """The values of the sessions that were loaded, or saved, last.

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
        self, token: Token, fields: dict[bytes, bytes]
    ) -> tuple[dict[bytes, bytes] | None, Bound | None]:
        """Verify a session that was loaded.

        :param fields: all that was loaded.
        :returns: the encoded values, ``None`` if one is not authentic; and what
            protects the session, if that was needed.
        """
        digest = token.digest
        known = self._younger.get(digest) or self._older.get(digest)
        if known is None:
            return self._open_changed(token, fields, ({}, {}, OVERHEAD))
        saves = fields.pop(SAVES, None)
        same = known[0] == fields
        if saves is not None:
            fields[SAVES] = saves
        if not same:
            return self._open_changed(token, fields, known)
        if digest not in self._younger:
            self._remember(digest, *known)
        return dict(known[1]), None

    def _open_changed(
        self, token: Token, fields: dict[bytes, bytes], known: Known
    ) -> tuple[dict[bytes, bytes] | None, Bound]:
        """As :meth:`open_all`: verify what is not known."""
        before, values, size = known
        bound = self._sealer.bind(token.locator, token.digest)
        changed = {f: stored for f, stored in fields.items() if before.get(f) != stored}
        if before and (has_pieces(fields) or has_pieces(before)):
            # A value is verified with all of its pieces.
            changed, before, values, size = fields, {}, {}, OVERHEAD
        plain = bound.open_all(changed)
        if plain is None:
            return None, bound
        if values:
            plain = {**values, **plain}
            if before.keys() - fields.keys():
                plain = {field: value for field, value in plain.items() if field in fields}
        # What an older secret protects is to be found each time, until it is sealed anew.
        if self._is_used and not bound.outdated:
            stored = dict(fields)
            stored.pop(SAVES, None)
            self._remember(token.digest, stored, dict(plain), size + _size(changed))
        return plain, bound

    def learn(
        self, digest: bytes, sealed: Mapping[bytes, bytes], values: Mapping[bytes, bytes]
    ) -> None:
        """Remember what was sealed here, of a session that is known.

        :param digest: of the token for which it was sealed; ``values``: encoded.
        """
        known = self._younger.get(digest) or self._older.get(digest)
        if known is not None:
            stored, plain, size = known
            size += _size(sealed)
            self._remember(digest, {**stored, **sealed}, {**plain, **values}, size)

    def _remember(
        self, digest: bytes, stored: dict[bytes, bytes], plain: dict[bytes, bytes], size: int
    ) -> None:
        """Remember a session.

        :param size: what it takes at most: of a field that was replaced, each value counts.
        """
        if size > LARGEST:
            size = OVERHEAD + _size(stored)
            if size > LARGEST:
                self._younger.pop(digest, None)
                self._older.pop(digest, None)
                return
        self._younger[digest] = (stored, plain, size)
        self._size += size
        if self._size > MOST // 2:
            self._older, self._younger, self._size = self._younger, {}, 0


def _size(fields: Mapping[bytes, bytes]) -> int:
    """Return what fields take, stored and as values."""
    lengths = sum(map(len, fields)) + 2 * sum(map(len, fields.values()))
    return lengths + OVERHEAD * len(fields)

"""Migrating: sessions of ``pyramid_session_redis`` and ``pyramid_redis_sessions``.

Their session is one string, a pickle as a rule, at a key that is the session id
in their cookie. It moves in steps, each of which can be repeated:

1. Read it. Convert it. Nothing has changed yet if it cannot be converted.
2. Create the new session, under a token derived from the old id with the secret that
   signed its cookie: of several requests that do so at once, one creates, the others
   find it taken, whichever other secrets they have. The new session remembers the
   old key.
3. Delete the old key, which now cannot lose anything.
4. Let the new session forget the old key.

Whoever stops in between leaves a state from which the next request with the old
cookie, or the next bulk run, goes on. A new cookie is sent only after step 3.
So whoever can end the new session knows that the old key is gone, and a logout
is final; its marker, which is at the derived id, keeps a request in flight from
creating the session again. That marker lives for a minute, so a move that has
taken longer than ``PATIENCE_MS`` since its read creates nothing, and starts over.
"""

from .bulk import Summary, migrate_all, old_name
from .moves import OLD_KEY_FIELD, Migration, Outcome
from .predecessors import CannotMigrate

__all__ = [
    "OLD_KEY_FIELD",
    "CannotMigrate",
    "Migration",
    "Outcome",
    "Summary",
    "migrate_all",
    "old_name",
]

"""What is done with a session at a save point: one pure function.

Facts say where a session stands and what the request asks of it; the plan says
what follows. It is a table: the first row whose facts all hold decides. What
carrying a plan out brings to light (the session had ended, say) are new facts,
and are planned anew, until there is nothing left to do.
"""

from __future__ import annotations

import enum
import functools
from typing import NamedTuple

__all__ = [
    "ADRIFT",
    "FRESH",
    "STORED",
    "TABLE",
    "UNREAD",
    "Act",
    "Cause",
    "Facts",
    "Happened",
    "Phase",
    "Plan",
    "Reason",
    "plan",
]


class Phase(enum.Enum):
    """Where a session stands, as far as this request knows."""

    # There is one object of each; that of Enum is slow Python code.
    __hash__ = object.__hash__

    #: Nothing was looked at yet.
    UNREAD = "unread"
    #: No session is stored; one is created at the save point if it holds anything.
    FRESH = "fresh"
    #: It lives in Redis.
    STORED = "stored"
    #: Changes go nowhere: it ended while this request was in flight, is locked or out of reach, or
    #: the cookie could not be sent.
    ADRIFT = "adrift"


# Python 3.11 takes long to look up a member of an enum.
UNREAD, FRESH, STORED, ADRIFT = Phase.UNREAD, Phase.FRESH, Phase.STORED, Phase.ADRIFT


class Act(enum.Enum):
    """What is sent to Redis."""

    __hash__ = object.__hash__

    #: Nothing.
    REST = "rest"
    #: A new session, with what this request put in.
    CREATE = "create"
    #: The changes.
    SAVE = "save"
    #: Only a lifetime.
    ADJUST = "adjust"
    #: A new token, with all values sealed for it, and the changes.
    RENEW = "renew"
    #: Nothing; the changes are lost, audibly.
    DROP = "drop"


class Reason(enum.Enum):
    """Why changes are dropped."""

    NONE = ""
    ENDED = "session has ended; changes dropped"
    LOCKED = "session is locked; changes dropped"
    EXPIRED = "session has expired; changes dropped"
    UNREACHABLE = "Redis cannot be reached; changes dropped"
    UNDELIVERABLE = "the cookie cannot be sent; changes dropped"


class Happened(enum.Enum):
    """What became of a session, as the application is told."""

    CREATED = "created"
    #: It got a new token.
    REGENERATED = "regenerated"
    #: It was ended by the application.
    INVALIDATED = "invalidated"
    #: A request could not save it.
    CONFLICTED = "conflicted"


class Cause(enum.Enum):
    """Why that happened."""

    LOGIN = "login"
    FIRST_WRITE = "first write"
    ENSURE_ID = "ensure_id"
    REGENERATE_ID = "regenerate_id"
    INVALIDATE = "invalidate"
    REVOKE = "revoke"
    EMPTIED = "emptied"
    #: Its owner has too many.
    OWNER_SESSIONS = "owner_sessions"
    #: No browser will hold its cookie.
    UNDELIVERED = "undelivered"
    #: What was read is no longer so.
    OUTDATED = "outdated"
    #: Another save is under way.
    BUSY = "busy"


class Facts(NamedTuple):
    """What is known of a session at a save point.

    :ivar sets: fields are to be set; ``deletes``: fields are to be deleted.
    :ivar lifetime: the application adjusted a lifetime.
    :ivar renews: it asked for a new token (``regenerate_id()``, another owner).
    :ivar login: it set an owner; or, where nobody sets owners, a new token and values.
    :ivar lost: the session turned out not to live any more when it was to be saved.
    :ivar checks: what was read must still be so (``on_conflict = retry``).
    :ivar reachable: Redis could be reached when the session was looked at.
    :ivar cookie_can_go: the response may carry a cookie.
    :ivar locked: it lives, bound to a device that the request is not from.
    """

    phase: Phase
    sets: bool = False
    deletes: bool = False
    lifetime: bool = False
    renews: bool = False
    login: bool = False
    lost: bool = False
    checks: bool = False
    reachable: bool = True
    cookie_can_go: bool = True
    locked: bool = False

    @property
    def changed(self) -> bool:
        """Anything is asked of a session that was looked at."""
        asked = self.sets or self.deletes or self.lifetime or self.renews or self.login
        return self.phase is not UNREAD and (asked or self.lost)


class Plan(NamedTuple):
    act: Act
    reason: Reason = Reason.NONE


NOTHING = Plan(Act.REST)

#: Facts that must hold, and what is done then. ``changed`` stands for any change at all.
TABLE: tuple[tuple[dict[str, object], Plan], ...] = (
    # Nothing is asked of it.
    ({"changed": False}, NOTHING),
    # There is no session that could be changed ...
    ({"phase": ADRIFT, "reachable": False}, Plan(Act.DROP, Reason.UNREACHABLE)),
    ({"phase": ADRIFT, "locked": True, "login": False}, Plan(Act.DROP, Reason.LOCKED)),
    # ... but who logs in is logged in, with what this request itself wrote.
    ({"phase": ADRIFT, "login": False}, Plan(Act.DROP, Reason.ENDED)),
    ({"phase": ADRIFT, "cookie_can_go": False}, Plan(Act.DROP, Reason.UNDELIVERABLE)),
    ({"phase": ADRIFT}, Plan(Act.CREATE)),
    # None is stored yet: one comes into being with its first value.
    ({"phase": FRESH, "sets": False}, NOTHING),
    ({"phase": FRESH, "cookie_can_go": False}, Plan(Act.DROP, Reason.UNDELIVERABLE)),
    ({"phase": FRESH}, Plan(Act.CREATE)),
    # It lives. Privileges do not change under a cookie from before.
    ({"renews": True, "cookie_can_go": False}, Plan(Act.DROP, Reason.UNDELIVERABLE)),
    ({"renews": True}, Plan(Act.RENEW)),
    ({"sets": True}, Plan(Act.SAVE)),
    ({"deletes": True}, Plan(Act.SAVE)),
    ({"checks": True}, Plan(Act.SAVE)),
    ({"lifetime": True}, Plan(Act.ADJUST)),
    # It is stored as it is to be.
    ({}, NOTHING),
)


@functools.cache
def plan(facts: Facts) -> Plan:
    """Return what is to be done."""
    known = {**facts._asdict(), "changed": facts.changed}
    for wanted, found in TABLE:
        if all(known[name] is value for name, value in wanted.items()):
            return found
    raise AssertionError("the table has a last row")

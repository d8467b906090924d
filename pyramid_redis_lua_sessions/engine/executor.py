"""Carries out plans: each act is one call to the store, and what its answer means."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import StoreError, fingerprint
from .admission import admit, drawing, entries_of, indexes_of
from .contents import Changes
from .failures import was_answered
from .fields import OWNER_FIELD
from .index import Index
from .pieces import cut, left_over
from .plan import ADRIFT, FRESH, Act, Cause, Facts, Happened, Plan, Reason, plan
from .protocol import (
    NO_CHECKS,
    NO_LIFETIME,
    Absent,
    Checks,
    Loaded,
    Renewal,
    Save,
    Saved,
    sha1,
    still_so,
)
from .refusals import just_ended
from .scripts import Status
from .seals import Bound, Sealer
from .staging import hold, in_turn
from .tokens import TOKEN_FIELD, Token, digest_stored, draw_verifier, is_marked

if TYPE_CHECKING:
    from .state import Ending, SessionState

__all__ = ["abandon", "create", "reseal", "save", "settle", "stage", "tidy"]

#: How often values are loaded and sealed again for a new token, where others save meanwhile.
MOST_RENEWALS = 32


def save(state: SessionState, cookie_can_go: bool) -> None:
    """Send what is pending to Redis.

    :param cookie_can_go: whether a new token could reach the browser. If
        not, none is put in place, and the changes are dropped.
    :raises UnserializableValue: nothing was sent; the session is as it was.
    :raises SessionConflict: ``on_conflict = retry``; nothing was saved.
    :raises StoreError: Redis failed.
    """
    settle(state, cookie_can_go)
    while state.endings:
        end_next(state)


def settle(state: SessionState, cookie_can_go: bool) -> None:
    """Do what the request asks of its session, until there is nothing left to do."""
    while state.may_have_changed():
        changes = state.changes()
        decided = plan(facts_of(state, changes, cookie_can_go))
        act = _ACTS.get(decided.act)
        if act is None or act(state, changes, decided):
            return


def facts_of(state: SessionState, changes: Changes, cookie_can_go: bool) -> Facts:
    lifetime = state.asked.lifetime != NO_LIFETIME
    return Facts(
        state.phase,
        bool(changes.values),
        bool(changes.deletes),
        lifetime,
        state.asked.renews,
        state.is_login(changes.values.keys()),
        state.lost != "",
        # Unless something is to be saved, nobody minds what was read.
        lifetime and state.contents.checks() != NO_CHECKS,
        state.failure is None,
        cookie_can_go,
        state.locked is not None,
    )


# -- acts --------------------------------------------------------------------------


def create(state: SessionState, changes: Changes, _: Plan | None = None) -> bool:
    """Create the session; one that was invalidated before it ends in the same call."""
    return _create(state, changes, state.endings[0] if state.endings else None)


def _create(state: SessionState, changes: Changes, ending: Ending | None) -> bool:
    """Create the session.

    :param ending: the first of what was invalidated, if it is to end with this call.
    """
    sealing = Sealing(state.shared.sealer, changes.values)
    entries = entries_of(state, changes.values)
    if ending is not None and ending.checks != NO_CHECKS:
        # What is put into the new session may stand on what was read of the old one.
        end_next(state, ending.checks)
        ending = None
    if ending is not None:
        state.endings[0] = ending._replace(tried=True)
    ends, clocked, _field = state.contents.timing(changes.values)
    created, ended = state.host.store().create(
        sealing,
        state.asked.lifetime,
        entries,
        returning=state.phase is ADRIFT,
        ending=None if ending is None else ending.token,
        ending_owner=None if ending is None else _owner_of(state, ending),
        draw=drawing(state, entries),
        ends=ends,
        clocked=clocked,
    )
    if ending is not None and ended is not None:
        _note_ending(state, ending, ended)
    if isinstance(created, Absent):
        moved = created.status is Status.MOVED
        return _drop(state, changes, Plan(Act.DROP, Reason.ENDED if moved else Reason.EXPIRED))
    filled = Cause.FIRST_WRITE if changes.values else Cause.ENSURE_ID
    cause = Cause.LOGIN if state.asked.login else filled
    state.adopt(created, sealing, clocked)
    state.announce(Happened.CREATED, cause)
    if entries:
        state.entered = list(zip(entries, created.indexed, strict=True))
    return True


def _save(state: SessionState, changes: Changes, _: Plan) -> bool:
    contents = state.contents
    whole = {field: state.bound.seal(field, data) for field, data in changes.values.items()}
    ends, _clocked, token_field = contents.timing(changes.values)
    empties = state.shared.settings.invalidate_empty_session and contents.would_empty(changes)
    if empties and (lapsed := contents.lapsed()):
        changes = Changes(changes.values, [*lapsed.union(changes.deletes)])
    sealed, deletes = contents.cut(whole, changes.deletes)
    entries = indexes_of(changes.values)
    save = Save(
        sealed,
        deletes,
        state.asked.lifetime,
        contents.checks(),
        empties,
        ends,
        token_field,
        is_marked(contents.raw.get(TOKEN_FIELD, b"")),
        stage_id=state.stage_id,
    )
    store, token = state.host.store(), state.stored_token()
    result = in_turn(state, lambda: store.save(token, save, entries))
    if isinstance(result, Saved):
        if token_field:
            contents.raw[TOKEN_FIELD] = token_field
        state.unstaged()
        state.saved(result, changes, sealed)
    elif isinstance(result, Absent):
        state.drift(changes)
        return False
    elif result is Status.EMPTIED:
        # The cookie stays: this response may arrive after that of a login.
        state.announce(Happened.INVALIDATED, Cause.EMPTIED)
        state.stand(FRESH)
    else:
        raise state.conflict()
    return True


def _adjust(state: SessionState, changes: Changes, _: Plan) -> bool:
    result = state.host.store().adjust(state.stored_token(), state.asked.lifetime)
    if isinstance(result, Absent):
        state.drift(changes)
        return False
    state.saved(result, changes, {})
    return True


def _renew(state: SessionState, changes: Changes, _: Plan) -> bool:
    """Put a new token in place; load and seal again if something slipped in between."""
    contents, before, store = state.contents, state.stored_token(), state.host.store()
    merged = contents.merged(changes)
    entries = entries_of(state, merged)
    admit(state, entries)
    for _attempt in range(MOST_RENEWALS):
        token = Token.of(before.locator, draw_verifier())
        sealing = Sealing(state.shared.sealer, merged)
        sealed = sealing.sealed = contents.placed(sealing(token))
        ends, clocked, _field = contents.timing(merged)
        renewal = Renewal(
            token,
            sealed,
            [
                *sorted({*changes.deletes, *contents.lapsed()}.difference(merged)),
                *left_over(contents.raw, contents.raw),
            ],
            contents.raw.get(b"saves", b""),
            state.asked.lifetime,
            state.asked.restarts,
            clocked,
            ends,
            state.stage_id,
        )
        try:
            result = in_turn(state, functools.partial(store.renew, before, renewal, entries))
        except BaseException as exc:  # also what ends a greenlet, or a signal handler raises
            if not was_answered(exc):
                # No browser will ever hold the new token.
                store.take_back(before, token)
            raise
        if isinstance(result, Saved):
            state.unstaged()
            if entries:
                state.entered = list(zip(entries, result.indexed, strict=True))
            cause = Cause.LOGIN if state.asked.login else Cause.REGENERATE_ID
            state.renewed(result, sealing, changes, clocked)
            state.announce(Happened.REGENERATED, cause)
            return True
        if result is Status.ENDED:
            # It was revoked, say: what was in place must not come back as another session.
            state.in_flight = True
            return _drop(state, changes, Plan(Act.DROP, Reason.ENDED))
        if isinstance(result, Absent) or not _reload(state, before, changes):
            state.drift(changes)
            return False
        merged = contents.merged(changes)
    raise state.conflict()


def _reload(state: SessionState, token: Token, changes: Changes) -> bool:
    """Stand on what others have saved meanwhile; what this request changed stays.

    :returns: whether the session still lives.
    :raises SessionConflict: what it had read is no longer so (``on_conflict = retry``).
    """
    checks = state.contents.checks()
    loaded = state.host.store().load(token)
    if not isinstance(loaded, Loaded):
        return False
    fields = loaded.fields
    plain = state.bound.open_all(fields)
    if plain is None:
        return False
    if not still_so(checks, fields):
        raise state.conflict()
    state.note_time(loaded)
    state.contents.reload(fields, plain, changes.values)
    return True


def _drop(state: SessionState, _: Changes, decided: Plan) -> bool:
    """Lose the changes, audibly."""
    state.report_lost(decided.reason)
    state.note_lost(decided.reason.value)
    if state.token_made:
        _end_made(state)
    state.trace.leaves(state.contents)
    failure, locked = state.failure, state.locked
    state.stand(ADRIFT)
    state.failure, state.locked = failure, locked
    return True


#: Each returns whether that was all; else what it found is planned anew.
_ACTS: dict[Act, Callable[[SessionState, Changes, Plan], bool]] = {
    Act.CREATE: create,
    Act.SAVE: _save,
    Act.ADJUST: _adjust,
    Act.RENEW: _renew,
    Act.DROP: _drop,
}


# -- endings -----------------------------------------------------------------------


def end_next(state: SessionState, checks: Checks = NO_CHECKS) -> None:
    """End the first of what was invalidated.

    :raises SessionConflict: what was read of it is no longer so (``on_conflict = retry``).
    """
    ending = state.endings[0]
    state.endings[0] = ending._replace(tried=True)
    result = state.host.store().end(ending.token, checks, _owner_of(state, ending))
    if result is Status.CONFLICT:
        state.endings[0] = ending
        raise state.conflict()
    _note_ending(state, ending, result)


def _owner_of(state: SessionState, ending: Ending) -> bytes | None:
    """Return whose session it is that ends, encoded: for those who watch it.

    :returns: ``None`` where it has no owner, it is not known, or nobody wants to know.
    """
    if ending.seen or not state.shared.settings.publish_endings:
        return ending.owner
    token = ending.token
    try:
        (known,) = state.host.store().describe([token.locator], OWNER_FIELD)
    except StoreError:
        return None  # that it ends is what matters
    if isinstance(known, Absent) or digest_stored(known.token) != token.digest:
        return None
    held = known.told[OWNER_FIELD]
    return state.shared.sealer.bind(token.locator, token.digest).open(OWNER_FIELD, held) or None


def _note_ending(state: SessionState, ending: Ending, result: Status | Absent) -> None:
    """Note what became of the first of what was invalidated.

    :param ending: as it was before this try.
    """
    del state.endings[0]
    if result is Status.ENDED:
        if state.staged == ending.token:
            state.unstaged()  # it went with the session
        name = fingerprint(ending.token.locator)
        state.announce(Happened.INVALIDATED, Cause.INVALIDATE, name)
        state.trace.ends(name)
    elif isinstance(result, Absent) and not ending.tried:
        # Else it may be this request that ended it.
        state.in_flight = state.in_flight or ending.seen or just_ended(state, result)


def abandon(state: SessionState, reason: Reason = Reason.NONE) -> None:
    """End the session whose token this request put in place: no browser will hold it.

    :param reason: reported as the reason for which changes are lost.
    """
    if state.token_made:
        _end_made(state)
        if reason is not Reason.NONE:
            state.report_lost(reason)
        state.stand(ADRIFT)


def _end_made(state: SessionState) -> None:
    """End the session whose token this request put in place."""
    if state.host.store().end(state.stored_token()) is Status.ENDED:
        state.announce(Happened.INVALIDATED, Cause.UNDELIVERED)


# -- after the save point ------------------------------------------------------------


def tidy(state: SessionState) -> None:
    """End the owner's sessions that are too many, now that this one is sure to stand."""
    entered, state.entered = state.entered, ()
    for entry, indexed in entered:
        if state.token is None:
            return
        index = Index(state.host.store(), state.shared.sealer, entry.value, entry.field)
        tidied = index.tidy(entry, state.token.locator, indexed)
        for ended in tidied.ended:
            state.announce(Happened.INVALIDATED, Cause.OWNER_SESSIONS, fingerprint(ended))
        if not tidied.stays:
            # In a browser that sent both, its cookie must not replace the newer one's.
            state.report_lost(Reason.ENDED)
            state.in_flight = True
            state.stand(ADRIFT)


def reseal(state: SessionState) -> None:
    """Protect with the first secret what another one protects, where it is still the same."""
    contents, bound = state.contents, state.bound
    held = contents.stored(bound.outdated)
    bound.outdated.clear()
    whole = contents.placed({field: bound.seal(field, data) for field, _, data in held})
    values, deletes = contents.cut(whole, [])
    swaps = [(field, values[field], raw) for field, raw, _ in held]
    unchanged = Checks({field: sha1(raw) for field, _, raw in swaps})
    ends = contents.timing({field: data for field, _, data in held})[0]
    save = Save(values, deletes, checks=unchanged, ends=ends)
    result = state.host.store().save(state.stored_token(), save)
    if isinstance(result, Saved):
        contents.resealed(swaps, values)


# -- retry mode under a transaction --------------------------------------------------


def stage(state: SessionState, cookie_can_go: bool) -> None:
    """Announce what the transaction will save when it commits.

    :raises SessionConflict: what was read is no longer so, or others hold it.
    """
    changes = state.changes()
    decided = plan(facts_of(state, changes, cookie_can_go))
    if decided.act is Act.CREATE:
        # What was invalidated ends when the transaction has committed: another attempt needs
        # it. Until then nobody may change what was read of it: the new one may stand on that.
        if state.endings and state.endings[0].checks != NO_CHECKS:
            ending = state.endings[0]
            hold(state, ending.token, ending.checks, Changes({}, []), False)
        # There is nothing yet that anybody else could touch.
        _create(state, changes, None)
    elif decided.act is Act.DROP:
        _drop(state, changes, decided)
    elif decided.act is not Act.REST:
        everything = decided.act is Act.RENEW
        checks = state.contents.checks()
        hold(state, state.stored_token(), checks, changes, everything)


class Sealing:
    """Seals data for the token that a session gets, and remembers how it did.

    Sealing again would not give the same bytes where values are encrypted.
    """

    __slots__ = ("_sealer", "bound", "data", "sealed", "token")

    bound: Bound
    token: Token

    def __init__(self, sealer: Sealer, data: dict[bytes, bytes]) -> None:
        self._sealer = sealer
        self.data = data
        self.sealed: dict[bytes, bytes] = {}

    def __call__(self, token: Token) -> dict[bytes, bytes]:
        self.token = token
        self.bound = self._sealer.bind(token.locator, token.digest)
        seal = self.bound.seal
        whole = {field: seal(field, value) for field, value in self.data.items()}
        self.sealed = cut(whole, {})
        return self.sealed

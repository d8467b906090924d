"""What a session holds in one request: values, flash messages, and what changed.

Pure data: nothing here sends anything, or knows cookies or requests; how values lie in the hash
it knows. They are decoded when they are looked at; what a save would send is found by comparing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import UnserializableValue
from .ends import NO_ENDS, Clock, ends_in, split, until
from .exposed import Exposed, is_bad
from .fields import (
    CONFIRMED_FIELD,
    DATA_KINDS,
    DEVICE_FIELD,
    FLASH_KIND,
    KEY_KINDS,
    equal_key,
    exact_key,
    field_of,
    key_of,
    order_of,
)
from .flash import Flash, is_of_queue
from .pieces import cut, left_over
from .protocol import NO_CHECKS, Checks, names_digest, sha1
from .serializers import ATOMS, ChangedType, Codec
from .tokens import TOKEN_FIELD, as_clocked

__all__ = ["Changes", "Contents"]


#: What depends on the time where nothing does; see :meth:`Contents.timing`.
TIMELESS: tuple[Mapping[bytes, int], bool, bytes] = (NO_ENDS, False, b"")


class Changes(NamedTuple):
    """What a save would send.

    :ivar values: field to encoded value, not sealed yet.
    :ivar deletes: fields to delete.
    """

    values: dict[bytes, bytes]
    deletes: list[bytes]

    def __bool__(self) -> bool:
        return bool(self.values or self.deletes)


class Contents:
    """Keys, values and flash messages over what was loaded.

    :param raw: every field of the stored hash, as stored.
    :param plain: the fields that hold data: encoded values, seals verified.
    :param codec: encodes and decodes values.
    :param tracks_reads: remember what was read, for ``on_conflict = retry``.
    :ivar undecodable: how many stored values were met that do not decode.
    """

    __slots__ = (
        "_accessed",
        "_assigned",
        "_bad",
        "_beneath",
        "_codec",
        "_complete",
        "_data",
        "_deleted",
        "_flash",
        "_meta",
        "_names_read",
        "_plain",
        "_reads",
        "_tracks_reads",
        "clock",
        "compare_all",
        "raw",
        "undecodable",
    )

    def __init__(
        self,
        raw: dict[bytes, bytes],
        plain: dict[bytes, bytes],
        codec: Codec,
        tracks_reads: bool,
    ) -> None:
        self.raw = raw
        self._plain = plain
        self._codec = codec
        self._tracks_reads = tracks_reads
        self.undecodable = 0
        #: The time, where it is known: without it, no value that ends is there.
        self.clock: Clock | None = None
        #: Fields whose values do not decode: absent, and stored until they are replaced.
        self._bad: set[bytes] = set()
        self.forget_changes()

    def unchanged(self) -> Contents:
        """Return the same as loaded, or as last saved."""
        other = Contents(dict(self.raw), dict(self._plain), self._codec, self._tracks_reads)
        other.undecodable = self.undecodable
        other.clock = self.clock and Clock(self.clock.now_ms)
        return other

    def forget_changes(self) -> None:
        """Stand as just loaded, or as last saved."""
        #: The values that were decoded or assigned, by key; all, if it is complete.
        self._data: dict[Any, Any] = {}
        self._complete = False
        self._flash: Flash | None = None
        #: Keys whose values are to be saved, and those whose may have changed in place: in _data.
        self._assigned: set[Any] = set()
        self._accessed: set[Any] = set()
        #: Fields to delete: none of them is of a key in _data.
        self._deleted: set[bytes] = set()
        #: Owner, label and the like, as they are to be; ``None`` = removed.
        self._meta: dict[bytes, Any] = {}
        #: What was read, in retry mode: field to what a save checks; and whether all names were.
        self._reads: dict[bytes, str] = {}
        self._names_read = False
        #: ``session.changed()`` was called.
        self.compare_all = False
        #: Changes that were made before these, on the same: see lay_over.
        self._beneath: Contents | None = None

    # -- keys and values ---------------------------------------------------------

    def get(self, key: Any) -> Any:
        """Return the value of a key.

        :raises KeyError: there is none, or it does not decode.
        """
        if type(key) is not str and type(key) is not int:
            key = equal_key(key)
        if self._tracks_reads:
            self._note_read(key)
        data = self._data
        value = data[key] if key in data else self._decode(key)
        if type(value) not in ATOMS:
            self._accessed.add(key)
        return value

    def has(self, key: Any) -> bool:
        """Tell whether a key is there."""
        try:
            if type(key) is not str and type(key) is not int:
                key = equal_key(key)
            if self._tracks_reads:
                self._note_read(key, presence=True)
            if key not in self._data:
                self._decode(key)
        except KeyError:
            return False
        return True

    def assign(self, key: str | int, value: Any) -> None:
        """Assign a value; ``key`` is exact, see :func:`exact_key`."""
        self._data[key] = value
        self._assigned.add(key)
        if self._deleted or self._bad or self.clock:
            field = field_of(key)
            self._deleted.discard(field)
            self._bad.discard(field)
            if self.clock:
                self.clock.ends.pop(field, None)

    def assign_until(self, key: str | int, value: Any, end_ms: int, now_ms: int) -> None:
        """Assign a value that ends.

        :param end_ms: its end, ms since the epoch, by Redis' clock; ``now_ms``: that clock.
        """
        self.assign(key, value)
        self.clock = self.clock or Clock(now_ms)
        self.clock.ends[field_of(key)] = end_ms

    def delete(self, key: Any) -> None:
        """Delete a key, also one whose value does not decode.

        :raises KeyError: it is not there.
        """
        if not self.has(key) and not self.is_bad(key):
            raise KeyError(key)
        key = equal_key(key)
        dict.pop(self._data, key, None)
        self._assigned.discard(key)
        self._accessed.discard(key)
        field = field_of(key)
        self._bad.discard(field)
        if field in self.raw:
            self._deleted.add(field)

    def drop(self, key: str) -> None:
        """Delete a key, also if another request is about to store it."""
        if self.has(key):
            self.delete(key)
        self._deleted.add(field_of(key))

    def is_bad(self, key: Any) -> bool:
        """Tell whether a value was found under a key that does not decode."""
        return is_bad(key, self._bad)

    def clear(self) -> None:
        """Delete all keys and flash messages, also those that do not decode."""
        dict.clear(self._data)
        self._assigned.clear()
        self._accessed.clear()
        self._bad.clear()
        self._flash = Flash(self._codec)
        self._complete = self._names_read = True
        self._deleted.update(field for field in self._plain if field[:1] in DATA_KINDS)

    def everything(self, values: bool) -> dict[Any, Any]:
        """Return the ``dict`` of all keys and values: not a copy.

        :param values: whether the caller gives out values, or only keys.
        """
        self._decode_all()
        self._names_read = True
        if values:
            if self._tracks_reads:
                for key in self._data:
                    self._note_read(key)
            self._accessed.update(self._data)
        return self._data

    def expose(self) -> dict[Any, Any]:
        """Return that ``dict`` to somebody who may assign to it and delete from it."""
        data = self.everything(values=True)
        if not isinstance(data, Exposed):
            self._data = data = Exposed(data, self._bad, self._deleted)
        return data

    def _decode(self, key: str | int) -> Any:
        if self._complete:
            raise KeyError(key)
        field = b"." + key.encode("utf-8", "surrogatepass") if type(key) is str else field_of(key)
        stored = self._plain.get(field)
        if stored is None or field in self._deleted or field in self._bad:
            raise KeyError(key)
        try:
            value = self._codec.decode(stored)
        except Exception:
            value = self._decode_ending(key, field, stored)
        self._data[key] = value
        return value

    def _decode_ending(self, key: str | int, field: bytes, stored: bytes) -> Any:
        """Decode a value that ends.

        :raises KeyError: it has ended, or it is none.
        """
        found = split(stored)
        if found is not None:
            end_ms, data = found
            if self.clock is None or end_ms <= self.clock.now_ms:
                raise KeyError(key) from None
            with suppress(Exception):
                value = self._codec.decode(data)
                self.clock.ends[field] = end_ms
                return value
        self._bad.add(field)  # absent for this request; it stays stored until it is removed
        self.undecodable += 1
        raise KeyError(key) from None

    def _decode_all(self) -> None:
        if self._complete:
            return
        for field in list(self._plain):
            if field[:1] not in KEY_KINDS:
                continue
            try:
                key = key_of(field)
                if key not in self._data:
                    self._decode(key)
            except (KeyError, ValueError):
                continue
        self._complete = True

    # -- flash messages ----------------------------------------------------------

    def flash(self, read: bool = True) -> Flash:
        """Return the flash messages.

        :param read: whether the caller looks at what is there.
        """
        if read:
            self._names_read = True
        if self._flash is None:
            fields = [field for field in self._plain if field[:1] == FLASH_KIND]
            fields.sort(key=lambda field: order_of(field, self.raw[field]))
            self._flash = Flash(self._codec)
            bad = self._flash.load((field, self._plain[field]) for field in fields)
            self._bad |= bad
            self.undecodable += len(bad)
        return self._flash

    def pop_flash(self, queue: str) -> list[Any]:
        """Remove the messages of a queue, and return those that decode."""
        messages, fields = self.flash().pop(queue)
        self._deleted |= fields & self.raw.keys()
        if self._bad:
            bad = {field for field in self._bad if is_of_queue(field, queue)}
            self._deleted |= bad
            self._bad -= bad
        return messages

    # -- owner and label -----------------------------------------------------------

    def meta(self, field: bytes, read: bool = True) -> Any:
        """Return the owner or the label, or ``None``.

        :param read: whether the application looks at it.
        """
        if field in self._meta:
            return self._meta[field]
        if read and self._tracks_reads:
            raw = self.raw.get(field)
            self._reads[field] = "" if raw is None else sha1(raw)
        stored = self._plain.get(field)
        if stored is None:
            return None
        try:
            return self._codec.decode(stored)
        except Exception:
            self.undecodable += 1
            return None

    def encoded(self, field: bytes) -> bytes | None:
        """Return what is stored in a field, encoded, ``None`` where nothing is; unread."""
        return self._plain.get(field)

    def assign_meta(self, field: bytes, value: Any) -> None:
        """Set the owner or the label; ``None`` removes it."""
        self._meta[field] = value

    def sets(self, field: bytes) -> bool:
        """Tell whether the owner, or the label, was set here."""
        return self._meta.get(field) is not None

    def assigns(self, field: bytes) -> bool:
        """Tell whether the owner, or the label, was set or removed here."""
        return field in self._meta

    def is_bound(self) -> bool:
        """Tell whether the session is bound to a device, and stays so."""
        return DEVICE_FIELD in self.raw and DEVICE_FIELD not in self._meta

    def unbind(self) -> None:
        """End the binding, also one that another request is about to store."""
        self._meta[DEVICE_FIELD] = None

    # -- what was read, what changed -----------------------------------------------

    def _note_read(self, key: str | int, presence: bool = False) -> None:
        field = field_of(key)
        if key in self._assigned or field in self._deleted:
            return
        stored = self.raw.get(field)
        if stored is None:
            self._reads[field] = ""
        elif presence:
            self._reads.setdefault(field, "+")
        else:
            self._reads[field] = sha1(stored)

    def checks(self) -> Checks:
        """Return what was read, as a save in retry mode checks it."""
        if not self._tracks_reads:
            return NO_CHECKS
        reads, names_read = self._reads, self._names_read
        if self._beneath is not None:
            # A value that was read says more than that it was there.
            whole = {field: check for field, check in reads.items() if check != "+"}
            reads = {**reads, **self._beneath._reads, **whole}
            names_read = names_read or self._beneath._names_read
        return Checks(reads, names_digest(self.raw) if names_read else "")

    def pending(self) -> bool:
        """Cheaply rule out that anything changed."""
        return bool(
            self._assigned
            or self._accessed
            or self._deleted
            or (self._flash is not None and self._flash.added)
            or type(self._data) is Exposed
            or self._meta
            or self._beneath
        )

    def lay_over(self, earlier: Contents) -> None:
        """Take up what was changed before, on the same that was loaded.

        What was changed here since counts where both changed the same.
        """
        self._beneath = earlier

    def rest(self) -> None:
        """Stop watching the values that were looked at so far."""
        self._accessed.clear()

    def changes(self, detect: bool) -> Changes:
        """Find and encode what changed since the load or the last save.

        Changed is what was assigned; or looked at, mutable, and now encoded
        differently both from what is stored and from what that encodes to
        when it is decoded and encoded again (sets encode in any order).

        :param detect: look for values that were changed in place.
        :raises UnserializableValue: a value cannot be encoded.
        """
        if isinstance(self._data, Exposed):
            self._find_exposed()
        values = {}
        for key in list(self._assigned):  # an object's __reduce__ may look at the session
            values[field_of(key)] = self._encode(key, self._data[key])
        if detect or self.compare_all:
            for key in self._accessed - self._assigned:
                value = self._data[key]
                if type(value) in ATOMS:
                    continue
                field = field_of(key)
                stored = self._without_end(field)
                if self._codec.may_change and self._encode(key, value, sketch=True) == stored:
                    continue
                now = self._encode(key, value)
                if self._differs(now, stored):
                    values[field] = now
        if self.clock:
            for field in self.clock.ends.keys() & values.keys():
                values[field] = until(self.clock.ends[field]) + values[field]
        if self._flash is not None:
            for field, messages in self._flash.new():
                values[field] = self._encode_messages(messages)
        deletes = sorted(self._deleted)
        for field, value in self._meta.items():
            if value is not None:
                values[field] = self._encode(field.decode("ascii"), value)
            elif field in self.raw or field == DEVICE_FIELD or self._beneath is not None:
                deletes.append(field)
        if self._beneath is not None:
            earlier = self._beneath.changes(detect)
            kept = {f: v for f, v in earlier.values.items() if f not in deletes}
            deletes = sorted({*deletes, *earlier.deletes}.difference(values))
            values = {**kept, **values}
        return Changes(values, deletes)

    def touched(self, detect: bool) -> set[bytes]:
        """Name the fields of :meth:`changes`, also where a value cannot be encoded."""
        try:
            changes = self.changes(detect)
        except UnserializableValue:
            return {*map(field_of, self._assigned | self._accessed), *self._deleted, *self._meta}
        return {*changes.values, *self.raw.keys() & changes.deletes}

    def _without_end(self, field: bytes) -> bytes | None:
        """Return what is stored of a value, encoded, without its end."""
        stored = self._plain.get(field)
        if self.clock and stored is not None and field in self.clock.ends:
            found = split(stored)
            return stored if found is None else found[1]
        return stored

    def _differs(self, now: bytes, stored: bytes | None) -> bool:
        codec = self._codec
        return stored is None or (now != stored and now != codec.encode(codec.decode(stored)))

    def _find_exposed(self) -> None:
        """Find what was done to the ``dict`` that :meth:`expose` gave out."""
        held = {}
        for key in self._data:
            held[field_of(exact_key(key))] = key
        self._assigned.intersection_update(self._data)
        self._accessed = set(self._data)
        for field, key in held.items():
            stored = self._without_end(field)
            if stored is None or field in self._deleted or field in self._bad:
                self._assigned.add(key)
                self._deleted.discard(field)
                self._bad.discard(field)
            elif type(self._data[key]) in ATOMS and self._encode(key, self._data[key]) != stored:
                self._assigned.add(key)
        self._deleted.update(
            f for f in self._plain if f[:1] in KEY_KINDS and f not in held and f not in self._bad
        )

    def _encode_messages(self, messages: list[Any]) -> bytes:
        if len(messages) > 1:
            return self._codec.join(messages)
        return self._encode("flash message", messages[0])

    def _encode(self, key: Any, value: Any, sketch: bool = False) -> bytes:
        codec = self._codec
        try:
            return codec.sketch(value) if sketch else codec.encode(value)
        except ChangedType as exc:
            raise UnserializableValue(key, type(value).__name__, str(exc)) from None
        except Exception as exc:
            # The serializer's own message may quote the value.
            raise UnserializableValue(key, type(value).__name__, type(exc).__name__) from None

    def would_empty(self, changes: Changes) -> bool:
        """Tell whether, as far as this request knows, these changes leave nothing."""
        # The key of a device is no value, and what is past its end is none any more.
        left = self.held().difference(changes.deletes, (DEVICE_FIELD,), self.lapsed())
        return bool(changes.deletes) and not (changes.values or left)

    def settle(self, changes: Changes, sealed: Mapping[bytes, bytes]) -> None:
        """Take what was saved as what is stored.

        :param sealed: the values as they were sent.
        """
        for field in changes.deletes:
            self.raw.pop(field, None)
            self._plain.pop(field, None)
        self.raw.update(sealed)
        self._plain.update(changes.values)
        self._mark_saved()

    def _may_have_pieces(self) -> bool:
        # Each save pays for this. Token and memory of saves are no values either.
        return len(self.raw) > len(self._plain) + 1 + (b"saves" in self.raw)

    def cut(
        self, sealed: dict[bytes, bytes], deletes: list[bytes]
    ) -> tuple[dict[bytes, bytes], list[bytes]]:
        """Return which fields are to be set and deleted, so that some values are.

        :param sealed: values to set; ``deletes``: fields of values to delete.
        """
        if self._may_have_pieces():
            deletes = [*deletes, *left_over(self.raw, {*sealed, *deletes})]
        return cut(sealed, self.raw, deletes), deletes

    def rebase(
        self, raw: dict[bytes, bytes], plain: dict[bytes, bytes], own: Container[bytes]
    ) -> None:
        """Take this as all that is stored now, and what is held as saved.

        :param own: the fields that were changed here.
        """
        self.reload(raw, plain, own)
        self._mark_saved()

    def reload(
        self, raw: dict[bytes, bytes], plain: dict[bytes, bytes], own: Container[bytes]
    ) -> None:
        """Stand on what others have saved meanwhile; what was changed here stays.

        :param own: the fields that were changed here.
        """
        before, self.raw, self._plain = self._plain, raw, plain
        for key in list(self._data) if before else ():
            field = field_of(key)
            if field not in own and plain.get(field) != before.get(field):
                dict.pop(self._data, key, None)
                self._accessed.discard(key)
                if self.clock:
                    self.clock.ends.pop(field, None)
        self._complete = False

    def _mark_saved(self) -> None:
        if self._beneath is not None:
            self.forget_changes()  # what is held here does not show what was beneath
            return
        # What can change in place stays under watch.
        self._accessed.update(key for key in self._assigned if type(self._data[key]) not in ATOMS)
        self._assigned.clear()
        self._deleted.clear()
        if self._flash is not None:
            self._flash.added.clear()
        self._meta.clear()
        self._reads = {}
        self._names_read = False

    def stored(self, fields: Iterable[bytes]) -> list[tuple[bytes, bytes, bytes]]:
        """Return what is stored in some fields: (field, as stored, encoded)."""
        plain = self._plain
        return [(field, self.raw[field], plain[field]) for field in fields if field in plain]

    def resealed(
        self, swaps: Iterable[tuple[bytes, bytes, bytes]], sealed: Mapping[bytes, bytes]
    ) -> None:
        """Take values as stored under another seal: (field, now, before).

        :param sealed: as they were sent.
        """
        self.raw.update(sealed)
        for field, now, before in swaps:
            if self._reads.get(field) == sha1(before):
                self._reads[field] = sha1(now)

    def types(self) -> dict[bytes, str]:
        """Return the names of the types of the values that were decoded or assigned."""
        exact = [(key, value) for key, value in self._data.items() if type(key) in (str, int)]
        return {field_of(key): type(value).__name__ for key, value in exact}

    def held(self) -> set[bytes]:
        """Return the fields that hold data, owner and label included, as last saved."""
        return set(self._plain)

    def merged(self, changes: Changes) -> dict[bytes, bytes]:
        """Return all data with the changes applied, encoded."""
        gone = {*changes.deletes, *self.lapsed()}
        kept = {field: data for field, data in self._plain.items() if field not in gone}
        return {**kept, **changes.values}

    def timing(self, values: Mapping[bytes, bytes]) -> tuple[Mapping[bytes, int], bool, bytes]:
        """Tell what among values that are to be stored depends on the time.

        :returns: the ends of those that end; whether loads are to tell the time; and what the
            field of the token is to be for that, if it changes.
        """
        if self.clock is None and CONFIRMED_FIELD not in values:
            return TIMELESS  # as most are
        ends = NO_ENDS if self.clock is None else ends_in(values)
        clocked = bool(ends) or CONFIRMED_FIELD in values
        token = self.raw.get(TOKEN_FIELD, b"")
        token_field = as_clocked(token) if clocked else token
        return ends, clocked, token_field if token_field != token else b""

    def lapsed(self) -> set[bytes]:
        """Return the fields that are stored of values past their end."""
        if self.clock is None:
            return set()
        now_ms = self.clock.now_ms
        return {field for field, end_ms in ends_in(self._plain).items() if end_ms <= now_ms}

    def placed(self, sealed: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Let messages that were stored before keep their places in the order.

        :param sealed: fields as they are to be stored.
        """
        placed = dict(sealed)
        for field in sealed.keys() & self.raw.keys():
            place = order_of(field, self.raw[field])
            if place:
                placed[field] = place + sealed[field][len(place) :]
        return placed

    def own(self, changes: Changes) -> Contents:
        """Return what was changed here, over nothing.

        :param changes: as :meth:`changes` finds them.
        """
        other = Contents({}, {}, self._codec, self._tracks_reads)
        for key, value in self._data.items():
            if field_of(key) in changes.values:
                other.assign(key, value)
        if self.clock:
            ends = {f: end for f, end in self.clock.ends.items() if f in changes.values}
            other.clock = Clock(self.clock.now_ms, ends)
        if self._flash is not None:
            other._flash = self._flash.own(changes.values)
        other._meta = {field: value for field, value in self._meta.items() if value is not None}
        if self._beneath is not None:
            other.lay_over(self._beneath.own(changes))
        return other

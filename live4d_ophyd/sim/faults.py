"""What goes wrong in the simulated DCU, on request: in its stream, in its series, in its answers over REST.

In: texts and numbers of a user, and the ids of one trigger. Out: :class:`Faults`, and of the stream's a
:class:`Schedule`, the messages in sending order. Pure NumPy, any thread. Who acts on the rest: dcu.py on those of
series, rest_faults.py on those of REST.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

#: frames a piece of :meth:`Faults.schedules`: a series may have billions
PIECE = 1 << 18

# Flags of Schedule.flags
CORRUPT, TRUNCATE, FOREIGN, WRONG_SHAPE, WRONG_DTYPE = 1, 2, 4, 8, 16

#: lowest value of the faults that are numbers, where it is not 0
_LOWEST = {"late_by": 1, "stall_at": -1}
#: an hour of silence is as good as for ever to whoever waits, and ends by itself
_HIGHEST = {"rest_latency": 3600.0, "arm_latency": 3600.0, "stall_s": 3600.0}


@dataclass(frozen=True)
class Pick:
    """Which frames: every n-th (ids n-1, 2n-1, ...), or a list of ids."""

    every: int = 0
    ids: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Pick:
        """``""`` (none), ``"every:100"`` or ``"3,17,900"``. Raises ValueError for anything else."""
        if not text:
            return cls()
        if match := re.fullmatch(r"every:([1-9][0-9]*)", text):
            return cls(every=int(match[1]))
        if re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
            return cls(ids=tuple(int(part) for part in text.split(",")))
        raise ValueError(f"{text!r} picks no frames; expected every:N or a list of frame ids as in 3,17,900")

    def mask(self, image_ids: np.ndarray) -> np.ndarray:
        """``(n,) bool``: the picked ones of ``(n,)`` ids."""
        if self.every:
            return image_ids % self.every == self.every - 1
        return np.isin(image_ids, self.ids)

    def __str__(self) -> str:
        return f"every:{self.every}" if self.every else ",".join(map(str, self.ids))


@dataclass(frozen=True)
class Schedule:
    """Image messages of one trigger in sending order."""

    #: ``(n,) int64`` frame id of each message
    image_id: np.ndarray
    #: ``(n,) int64`` bits CORRUPT, TRUNCATE, FOREIGN, WRONG_SHAPE, WRONG_DTYPE
    flags: np.ndarray
    #: ``(n,) int64`` exposure (0-based within the trigger) after which the message is sent, never falling
    slot: np.ndarray
    #: the stream stands still for so long before the first of these messages, s
    pause_s: float = 0.0

    def stalled(self, slot: int, pause_s: float) -> tuple[Schedule, Schedule]:
        """What is sent before exposure ``slot``, and the rest, for which the stream makes a pause."""
        k = int(np.searchsorted(self.slot, slot))
        before = replace(self, image_id=self.image_id[:k], flags=self.flags[:k], slot=self.slot[:k])
        rest = Schedule(self.image_id[k:], self.flags[k:], self.slot[k:], pause_s)
        return before, rest


@dataclass(frozen=True)
class Faults:
    """What goes wrong until it is changed; what is counted or happens once is used up (:meth:`without_one`)."""

    #: never sent
    drop: Pick = Pick()
    #: sent `late_by` exposures later than they should be
    late: Pick = Pick()
    late_by: int = 8
    #: sent twice
    duplicate: Pick = Pick()
    #: bytes of the first channel's blob flipped, the first block's size always among them: no decoder can
    #: miss it
    corrupt: Pick = Pick()
    #: the second half of the message is missing
    truncate: Pick = Pick()
    #: a stray frame with this id from the series before goes first
    foreign: Pick = Pick()
    #: half as many rows as `start` announced; every pixel is 1
    wrong_shape: Pick = Pick()
    #: another dtype than `start` announced; every pixel is 1
    wrong_dtype: Pick = Pick()
    #: the stream stands still for `stall_s` before this frame (-1: never). The exposures go on: what has become due
    #: follows at once, from then on frames are as punctual as before
    stall_at: int = -1
    #: s
    stall_s: float = 1.0
    #: further frames of an aborted series that are sent after `abort` was answered
    after_abort: int = 0
    no_start: bool = False
    no_end: bool = False
    #: the next armed series breaks off half way through its first trigger, with state `error`
    fail_series: bool = False
    #: every SIMPLON request is carried out at once and answered that late, s
    rest_latency: float = 0.0
    #: the command arm is carried out at once and answered that late, s
    arm_latency: float = 0.0
    #: so many SIMPLON requests are not carried out but answered with status 500
    rest_errors: int = 0
    #: so many, after those, are not carried out but answered with a web page, status 200
    rest_garbage: int = 0
    #: seed of the flipped bytes
    seed: int = 0

    @classmethod
    def parse(cls, **texts: Any) -> Faults:
        """From texts (picks as in :meth:`Pick.parse`), numbers, booleans. Raises ValueError with the name."""
        known = {f.name: f for f in fields(cls)}
        values: dict[str, object] = {}
        for name, text in texts.items():
            if name not in known:
                raise ValueError(f"unknown fault {name!r}; known: {', '.join(known)}")
            default: Any = known[name].default
            if isinstance(default, Pick):
                try:
                    values[name] = Pick.parse(str(text))
                except ValueError as error:
                    raise ValueError(f"fault {name}: {error}") from None
            else:
                values[name] = _checked(name, text, default)
        return cls(**values)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, object]:
        """What :meth:`parse` takes."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: str(value) if isinstance(value, Pick) else value for name, value in values.items()}

    def without_one(self, name: str) -> Faults:
        """The same when a fault that is counted, or happens once, has happened."""
        left = getattr(self, name)
        return replace(self, **{name: type(left)(left - 1)})

    def schedules(self, first: int, count: int) -> Iterator[Schedule]:
        """Messages of the frames ``first .. first + count - 1`` in pieces; nothing is late beyond one."""
        stall = self.stall_at - first
        for done in range(0, count, PIECE):
            piece = self.schedule(first + done, min(PIECE, count - done))
            piece = replace(piece, slot=piece.slot + done)
            if done <= stall < min(done + PIECE, count):
                yield from piece.stalled(stall, self.stall_s)
            else:
                yield piece

    def schedule(self, first: int, count: int) -> Schedule:
        """Messages of the frames ``first .. first + count - 1`` at once."""
        ids = np.arange(first, first + count, dtype=np.int64)
        slot = np.arange(count, dtype=np.float64)
        flags = CORRUPT * self.corrupt.mask(ids) + TRUNCATE * self.truncate.mask(ids)
        flags += WRONG_SHAPE * self.wrong_shape.mask(ids) + WRONG_DTYPE * self.wrong_dtype.mask(ids)
        # A late message goes right after the exposure that is late_by further on.
        slot += np.where(self.late.mask(ids), self.late_by + 0.5, 0.0)
        kept = ~self.drop.mask(ids)
        twice, stray = kept & self.duplicate.mask(ids), self.foreign.mask(ids)
        all_ids = np.concatenate([ids[kept], ids[twice], ids[stray]])
        all_flags = np.concatenate([flags[kept], flags[twice], np.full(stray.sum(), FOREIGN)])
        all_slots = np.concatenate([slot[kept], slot[twice] + 0.25, slot[stray] - 0.25])
        order = np.argsort(all_slots, kind="stable")
        due = np.clip(np.ceil(all_slots[order]), 0, max(count - 1, 0))
        return Schedule(all_ids[order], all_flags[order].astype(np.int64), due.astype(np.int64))


def _checked(name: str, value: Any, default: Any) -> Any:
    """``value`` in the type of ``default``. Raises ValueError that says what is expected."""
    kind, lowest, highest = type(default), _LOWEST.get(name, 0), _HIGHEST.get(name, 2**53)
    # A bool is an int to Python, and JSON writes 2.0 as 2: neither is taken for granted.
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or not lowest <= value <= highest:
        bound = "" if kind is bool else f" from {lowest} to {highest}"
        raise ValueError(f"fault {name} is {value!r}; expected a {kind.__name__}{bound} like {default!r}")
    return kind(value)

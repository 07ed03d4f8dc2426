"""What goes wrong in a simulated series, on request: which image messages are lost, late, doubled or damaged.

In: the ids of one trigger. Out: a :class:`Schedule`, the messages in sending order. Pure NumPy, any thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

#: images a piece of :meth:`Faults.schedules`: a series may have billions
PIECE = 1 << 18

# Flags of Schedule.flags
CORRUPT, TRUNCATE, FOREIGN = 1, 2, 4


@dataclass(frozen=True)
class Pick:
    """Which images: every n-th (ids n-1, 2n-1, ...), or a list of ids."""

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
        raise ValueError(f"{text!r} picks no images; expected every:N or a list of image ids as in 3,17,900")

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

    #: ``(n,) int64`` image id of each message
    image_id: np.ndarray
    #: ``(n,) int64`` bits CORRUPT, TRUNCATE, FOREIGN
    flags: np.ndarray
    #: ``(n,) int64`` exposure (0-based within the trigger) after which the message is sent, never falling
    slot: np.ndarray


@dataclass(frozen=True)
class Faults:
    """Faults of every series until they are changed."""

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
    no_start: bool = False
    no_end: bool = False
    #: seed of the flipped bytes
    seed: int = 0

    @classmethod
    def parse(cls, **texts) -> Faults:
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
            elif type(text) is not type(default) or (name == "late_by" and text < 1):
                raise ValueError(
                    f"fault {name} is {text!r}; expected a {type(default).__name__} like {default!r}"
                )
            else:
                values[name] = text
        return cls(**values)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, object]:
        """What :meth:`parse` takes."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: str(value) if isinstance(value, Pick) else value for name, value in values.items()}

    def schedules(self, first: int, count: int) -> Iterator[Schedule]:
        """Messages of the images ``first .. first + count - 1`` in pieces; nothing is late beyond one."""
        for done in range(0, count, PIECE):
            piece = self.schedule(first + done, min(PIECE, count - done))
            yield replace(piece, slot=piece.slot + done)

    def schedule(self, first: int, count: int) -> Schedule:
        """Messages of the images ``first .. first + count - 1`` at once."""
        ids = np.arange(first, first + count, dtype=np.int64)
        slot = np.arange(count, dtype=np.float64)
        flags = CORRUPT * self.corrupt.mask(ids) + TRUNCATE * self.truncate.mask(ids)
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

"""Ring: slots of memory that one thread fills with messages and another takes, in order, without a lock or a copy.

The filling thread (`traffic.pump`) has one slot at a time and publishes it; the taking thread (`ZmtpReceiver.receive`)
lends it to a `FrameBatch`; when the batch gives it back, from any thread, it is free. Full or not is a question of
slots: nothing is dropped, and who fills waits.

Three words go between the threads without a lock: ``head`` (slots published), ``tail`` (slots taken) and ``busy`` of
each slot. A word is stored with release and loaded with acquire order, so that who sees it sees the slot's memory as
the other left it, also on aarch64, where plain stores may be seen in another order than they were made in.

The first free slot is filled, not the next: while the taker keeps up, the same two or three stay in the cache.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
import weakref

import numpy as np
from numba import int64, njit

from live4d_ophyd.frames.batch import COLUMNS, HOST_MEMORY, SLACK, BatchMemory, FrameBatch
from live4d_ophyd.frames.c_functions import OTHERS, addresses, monotonic_ns
from live4d_ophyd.frames.memory import (
    NOGIL,
    call_int_ptr_word_int,
    call_word,
    call_word_int_ptr_word,
    load_acquire,
    load_u32,
    store_i64,
    store_release,
)

#: messages of a connection are kept in 64 MiB: 130 ms of 120 kHz at 4 kB a frame; in 6 slots at least, so that while
#: three are decoded (a GPU has slots of 16 MiB) there are some to fill
RING_BYTES, FEWEST_SLOTS = 64 << 20, 6
#: channel names that the filling thread can know; what is asked for beyond them is indexed by who takes it
_CHANNELS, _CHANNEL_BYTES = 32, 256
#: how long a wait lasts before the stop flag is looked at again, ms
_BLOCK_MS = 20

#: columns of `Ring.slots`
ADDRESS, CAPACITY, COUNT, CHANNEL = range(4)
#: `Ring.words`, one in a cache line of its own
HEAD, TAIL, WANTED, LINGER_NS, CLOSING = 0, 8, 16, 24, 32
_LINE = 8
#: `Ring.functions`, of the C library
_FUNCTIONS = ("recv", "send", "poll", "read", "write", "setsockopt", "__errno_location")
RECV, SEND, POLL, READ, WRITE, SETSOCKOPT, ERRNO_AT = range(OTHERS, OTHERS + len(_FUNCTIONS))

POLLIN = 1
EINTR = errno.EINTR


@njit(**NOGIL)
def word(words, at):
    """Address of a word."""
    return int64(words.ctypes.data) + 8 * at


@njit(**NOGIL)
def last_error(functions):
    """errno of this thread."""
    return load_u32(call_word(functions[ERRNO_AT]))


@njit(**NOGIL)
def free_slot(busy, but):
    """A slot that nobody has, other than ``but``; -1 when there is none."""
    for k in range(busy.shape[0]):
        if k != but and load_acquire(int64(busy.ctypes.data) + 8 * _LINE * k) == 0:
            return k
    return -1


@njit(**NOGIL)
def publish(functions, words, order, busy, slot, event, scratch):
    """Hand the slot to the taking thread, and wake it."""
    head = words[HEAD]
    busy[slot, 0] = 1
    order[head % order.shape[0]] = slot
    store_release(word(words, HEAD), head + 1)
    store_i64(int64(scratch.ctypes.data), 1)
    call_word_int_ptr_word(functions[WRITE], event, int64(scratch.ctypes.data), 8)


@njit(**NOGIL)
def all_taken(words):
    """Whether the taking thread has come as far as the filling one."""
    return load_acquire(word(words, TAIL)) == load_acquire(word(words, HEAD))


@njit(**NOGIL)
def release(busy, slot):
    """The slot is free again."""
    store_release(int64(busy.ctypes.data) + 8 * _LINE * slot, 0)


@njit(**NOGIL)
def _set_word(words, at, value):
    store_release(word(words, at), value)


@njit(**NOGIL)
def _take(functions, words, order, event, scratch, stop, wait_ns):
    """The next slot; -1 after ``wait_ns`` without one, or when ``stop`` is set. Sleeps in poll() on ``event``."""
    address = int64(scratch.ctypes.data)
    started = monotonic_ns(functions, scratch)
    while stop[0] == 0:
        tail = words[TAIL]
        if load_acquire(word(words, HEAD)) != tail:
            slot = order[tail % order.shape[0]]
            store_release(word(words, TAIL), tail + 1)
            return slot
        # Emptied before the ring is looked at again: what is published after that look wakes the poll.
        call_word_int_ptr_word(functions[READ], event, address, 8)
        if load_acquire(word(words, HEAD)) != tail:
            continue
        left = wait_ns - (monotonic_ns(functions, scratch) - started)
        if left <= 0:
            break
        scratch[0] = event | POLLIN << 32
        call_int_ptr_word_int(functions[POLL], address, 1, min(left // 1_000_000 + 1, _BLOCK_MS))
    return -1


class Lease:
    """A slot that a batch has; free again when it is given back, or when the batch is gone."""

    def __init__(self, ring: Ring, slot: int, batch: FrameBatch) -> None:
        self._ring, self._slot = ring, slot
        self._own = batch.buffer, batch.index

    def give_back(self, batch: FrameBatch) -> None:
        """The batch has its own memory again."""
        batch.buffer, batch.index = self._own
        batch.lease = None
        self._end()

    def _end(self) -> None:
        slot, self._slot = self._slot, -1
        if slot >= 0:
            self._ring.free(slot)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # of a module that is gone when Python ends
            self._end()


class Ring:
    """``slots`` of ``memory`` each, by default as many as `RING_BYTES` have. For a larger message a slot grows until it
    is given back.

    All grown slots have at most ``grown_bytes`` together; one message may have as many. Two slots are for who fills:
    the others are as many as can be lent at a time.
    """

    def __init__(
        self,
        grown_bytes: int,
        memory: BatchMemory = HOST_MEMORY,
        *,
        slots: int = 0,
    ) -> None:
        slots = slots or max(FEWEST_SLOTS, RING_BYTES // memory.nbytes)
        if slots < 3:
            raise ValueError(f"a ring has {slots} slots; expected at least 3: two to fill, one to lend")
        self.slot_bytes = memory.nbytes
        # Of a CPU's they are not touched until they are used: a quiet stream has one or two of them in memory.
        self._own = [memory.empty(memory.nbytes + SLACK) for _ in range(slots)]
        self.buffers = list(self._own)
        self.index = memory.index(slots * memory.messages).reshape(slots, memory.messages, COLUMNS)
        self.slots = np.zeros((slots, 4), np.int64)
        for slot in range(slots):
            self._set(slot, self._own[slot])
        self.busy = np.zeros((slots, _LINE), np.int64)
        self.order = np.zeros(slots, np.int64)
        self.words = np.zeros(48, np.int64)
        self.names = np.zeros((_CHANNELS, _CHANNEL_BYTES), np.uint8)
        self.name_bytes = np.zeros(_CHANNELS, np.int64)
        self._channels = {b"": 0}
        self._asked: tuple[bytes, float] | None = None
        self.functions = addresses(ctypes.CDLL(None), _FUNCTIONS)
        self._scratch = np.zeros(2, np.int64)
        self.event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Open as long as anybody has the ring: another file would get its number.
        weakref.finalize(self, os.close, self.event).atexit = False
        self._grown_bytes = grown_bytes
        self._grown = 0
        # Of what is grown. The garbage collector gives slots back in any thread, also in one that has the lock.
        self._lock = threading.RLock()

    def _set(self, slot: int, buffer: np.ndarray) -> None:
        self.buffers[slot] = buffer
        self.slots[slot, ADDRESS], self.slots[slot, CAPACITY] = buffer.ctypes.data, len(buffer) - SLACK

    # By the thread that takes ----------------------------------------------------------------------------------

    def ask(self, channel: bytes, linger: float) -> None:
        """What batches that are begun from now on are indexed for, and how long they wait for more messages, s."""
        if (channel, linger) == self._asked:
            return
        self._asked = channel, linger
        number = self._channels.get(channel)
        if number is None:
            number = len(self._channels)
            if number < _CHANNELS and len(channel) <= _CHANNEL_BYTES:
                # A line that no number points to yet: the filling thread does not look there.
                self.names[number, : len(channel)] = np.frombuffer(channel, np.uint8)
                self.name_bytes[number] = len(channel)
                self._channels[channel] = number
            else:
                number = 0
        _set_word(self.words, WANTED, number)
        _set_word(self.words, LINGER_NS, int(linger * 1e9))

    def take(self, stop: np.ndarray, wait: float) -> int:
        """The next slot, -1 after ``wait`` s without one."""
        return _take(
            self.functions, self.words, self.order, self.event, self._scratch, stop, int(max(0.0, wait) * 1e9)
        )

    def lend(self, slot: int, batch: FrameBatch) -> None:
        """The slot's messages are the batch's, until it gives the slot back or is gone."""
        batch.lease = Lease(self, slot, batch)
        batch.buffer, batch.index = self.buffers[slot], self.index[slot]
        batch.count = int(self.slots[slot, COUNT])
        batch.channel = list(self._channels)[self.slots[slot, CHANNEL]]

    @property
    def waiting(self) -> int:
        """Slots that are published and not taken."""
        return int(self.words[HEAD] - self.words[TAIL])

    # From any thread -------------------------------------------------------------------------------------------

    def free(self, slot: int) -> None:
        """Whoever had the slot is done with it."""
        self.shrink(slot)
        release(self.busy, slot)

    def shrink(self, slot: int) -> None:
        """Give back what the slot grew by. For who has it."""
        with self._lock:
            if self.buffers[slot] is not self._own[slot]:
                self._grown -= len(self.buffers[slot])
                self._set(slot, self._own[slot])

    def stop_filling(self) -> None:
        """Let the filling thread return; see `traffic.pump`."""
        _set_word(self.words, CLOSING, 1)

    # By the thread that fills ----------------------------------------------------------------------------------

    def grow(self, slot: int, needed: int, filled: int) -> bool:
        """Make room for ``needed`` bytes in the slot, keep the ``filled`` first. False: not now, others have it all."""
        size = needed + SLACK
        with self._lock:
            old = 0 if self.buffers[slot] is self._own[slot] else len(self.buffers[slot])
            others = self._grown - old
            if others and others + size > self._grown_bytes:
                return False
            buffer = np.empty(size, np.uint8)
            self._grown += size - old
            buffer[:filled] = self.buffers[slot][:filled]
            self._set(slot, buffer)
        return True

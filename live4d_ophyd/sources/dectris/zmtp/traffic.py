"""Traffic: messages of a connection whose handshake is over, from its socket into a ring's slots, without the GIL.

In: a socket's file descriptor and a `Ring`. Out: slots full of indexed messages, and why the connection ended. `recv`
writes where the messages stay. Only what is there of the next message when a slot is published is copied, to the slot
that is filled next. PING is answered, other commands are ignored. Runs in the receiver's thread, ``live4d-zmtp``.
"""

from __future__ import annotations

import errno
import socket

import numpy as np
from numba import int64, njit

from live4d_ophyd.frames.batch import (
    IMAGE_ID,
    LENGTH,
    MULTIPART,
    OFFSET,
    RECEIVED_NS,
    SERIES_ID,
    STATUS,
)
from live4d_ophyd.frames.c_functions import monotonic_ns, nap
from live4d_ophyd.frames.memory import (
    NOGIL,
    call_int_int_int_int_ptr_int,
    call_int_ptr_word_int,
    call_word_int_ptr_word_int,
    copy_bytes,
    load_acquire,
    load_i64_be,
    load_u8,
    load_u32,
    move_bytes,
    store_u8,
)
from live4d_ophyd.sources.dectris.index import SCRATCH_SIZE, index_message
from live4d_ophyd.sources.dectris.zmtp.frame import COMMAND, LONG, MAX_COMMAND_BYTES, MORE
from live4d_ophyd.sources.dectris.zmtp.ring import (
    ADDRESS,
    CAPACITY,
    CHANNEL,
    CLOSING,
    COUNT,
    EINTR,
    LINGER_NS,
    POLL,
    POLLIN,
    RECV,
    SEND,
    SETSOCKOPT,
    WANTED,
    Ring,
    all_taken,
    free_slot,
    last_error,
    publish,
    word,
)

#: bytes asked for in one recv: after each the clock is looked at
_READ_BYTES = 1 << 20
#: Bytes that the kernel waits for while the slot has messages that are not due (SO_RCVLOWAT): a wake-up brings many,
#: and a fast sender is read from as often as it needs. 300 MB/s, the detector's own rate, bring as much in 0.9 ms.
#: The kernel makes its buffer twice as large.
_WAKE_BYTES = 256 << 10
#: how long to sleep until a slot is free, us: longer and longer; and until those before are taken, ms
_PAUSE_US, _LONGEST_PAUSE_US, _PAUSE_MS = 300, 5_000, 2
_SOL_SOCKET, _SO_RCVLOWAT = socket.SOL_SOCKET, socket.SO_RCVLOWAT
#: how long a poll lasts before the closing flag is looked at again, should its wake-up be missed, ms
_BLOCK_MS = 500
_DONTWAIT, _NOSIGNAL = 0x40, 0x4000
_EAGAIN = errno.EAGAIN

#: columns of `Traffic.state`
SLOT, FILLED, ERROR, NEEDED, _IN_PARTS, _LEAST = range(6)
#: ERROR, beside errno: what the peer did
CLOSED, BAD_FRAME, LONG_COMMAND, TOO_LARGE, CUT_PONG, ERROR_COMMAND = range(10_001, 10_007)

_PING = int.from_bytes(b"PING", "little")
_ERROR_NAME = int.from_bytes(b"ERRO", "little")
_PONG = np.frombuffer(bytes([COMMAND, 5]) + b"\x04PONG" + bytes(17), np.uint8)
#: bytes in front of a PONG's context, and the longest context
_PONG_HEAD, _CONTEXT = 7, 16


@njit(**NOGIL)
def _answer(functions, fd, body, size, pong):
    """Take one command: 0, or what is wrong with it."""
    if size < 1 or load_u8(body) + 1 > size:
        return BAD_FRAME
    # 4 "PING", time to live (2 bytes), context
    if size >= 7 and load_u8(body) == 4 and load_u32(body + 1) == _PING:
        context = min(size - 7, _CONTEXT)
        at = int64(pong.ctypes.data)
        copy_bytes(at + _PONG_HEAD, body + 7, context)
        store_u8(at + 1, _PONG_HEAD - 2 + context)
        length = _PONG_HEAD + context
        sent = call_word_int_ptr_word_int(functions[SEND], fd, at, length, _DONTWAIT | _NOSIGNAL)
        # One that cannot be sent is left out: what a peer that is gone has sent before may still be read.
        return CUT_PONG if 0 < sent < length else 0
    if size >= 6 and load_u8(body) == 5 and load_u32(body + 1) == _ERROR_NAME and load_u8(body + 5) == 82:
        return ERROR_COMMAND
    return 0


@njit(**NOGIL)
def _await_bytes(functions, pollfds, fd, state, least, scratch, ms):
    """Sleep until the socket has ``least`` bytes or is closed, or the wake-up is called, or ``ms`` are over."""
    if least != state[_LEAST]:
        state[_LEAST] = scratch[0] = least  # an int on both ends: little-endian
        at = int64(scratch.ctypes.data)
        call_int_int_int_int_ptr_int(functions[SETSOCKOPT], fd, _SOL_SOCKET, _SO_RCVLOWAT, at, 4)
    call_int_ptr_word_int(functions[POLL], int64(pollfds.ctypes.data), 2, ms)


@njit(**NOGIL)
def pump(
    functions,
    words,
    order,
    busy,
    slots,
    index,
    names,
    name_bytes,
    event,
    fd,
    state,
    pollfds,
    pong,
    scratch,
    times,
    normal,
    largest,
):
    """Fill and publish slots until the connection ends (ERROR), a slot must grow (NEEDED), or the ring is closing.

    It goes on with slot SLOT, which has FILLED bytes of a first message. ``normal``: bytes of a slot that
    did not grow, ``largest`` of a message.
    """
    state[ERROR] = state[NEEDED] = 0
    k, filled = state[SLOT], state[FILLED]
    base, capacity = slots[k, ADDRESS], slots[k, CAPACITY]
    rows = index.shape[1]
    count = 0
    at = 0  # first byte that is not of a message or command read so far
    first_ns = 0
    pause = _PAUSE_US
    empty = False  # the socket, when it was read from last
    wanted = int64(0)
    now = monotonic_ns(functions, times)
    while True:
        error = 0
        whole = 0  # bytes of the frame at `at`, as far as known
        while count < rows:
            whole = 0
            left = filled - at
            if left < 2:
                break
            flags = load_u8(base + at)
            if flags > 7 or (flags & COMMAND and flags & MORE):
                error = BAD_FRAME
                break
            size, head = load_u8(base + at + 1), int64(2)
            if flags & LONG:
                if left < 9:
                    break
                size, head = load_i64_be(base + at + 1), int64(9)
            if size < 0 or size > (MAX_COMMAND_BYTES if flags & COMMAND else largest):
                error = LONG_COMMAND if flags & COMMAND else TOO_LARGE
                break
            whole = head + size
            if whole > left:
                break
            body = at + head
            if flags & COMMAND:
                error = _answer(functions, fd, base + body, size, pong)
                if error:
                    break
            elif state[_IN_PARTS]:
                state[_IN_PARTS] = flags & MORE
            else:
                now = monotonic_ns(functions, times)
                if count == 0:
                    first_ns = now
                    wanted = load_acquire(word(words, WANTED))
                row = index[k, count]
                row[OFFSET] = body
                row[LENGTH] = size
                row[RECEIVED_NS] = now
                if flags & MORE:
                    # Stream v2 never sends parts: the first tells what it is, the others are left out.
                    row[STATUS:RECEIVED_NS] = 0
                    row[SERIES_ID] = row[IMAGE_ID] = -1
                    row[STATUS] = MULTIPART
                    state[_IN_PARTS] = 1
                else:
                    index_message(base + body, size, base, row, names[wanted, : name_bytes[wanted]], scratch)
                count += 1
            at += whole
            whole = 0
        if error:
            break
        if load_acquire(word(words, CLOSING)) != 0:
            break
        if at == filled and count == 0:
            at = filled = 0
        # A slot that grew is for one message; it is read no further than that.
        limit = normal
        if at == 0 and whole > normal:
            if whole > capacity:
                state[NEEDED] = whole
                break
            limit = whole
        full = count == rows or filled >= limit or at + whole > limit
        if full and count == 0:  # behind commands, or parts that are left out
            filled -= at
            move_bytes(base, base + at, filled)
            at = 0
            continue
        # While there are slots to be taken, this one may as well wait and become fuller.
        due = count > 0 and now - first_ns >= load_acquire(word(words, LINGER_NS)) and all_taken(words)
        if full or due:
            other = free_slot(busy, k)
            if other >= 0:
                tail = filled - at
                copy_bytes(slots[other, ADDRESS], base + at, tail)
                slots[k, COUNT], slots[k, CHANNEL] = count, wanted
                publish(functions, words, order, busy, k, event, times)
                k, filled, at, count = other, tail, 0, 0
                base, capacity = slots[k, ADDRESS], slots[k, CAPACITY]
                pause = _PAUSE_US
                continue
        if full:  # the rest is left to the kernel, whose full buffer stops the sender
            nap(functions, pause)
            pause = min(2 * pause, _LONGEST_PAUSE_US)
            continue
        if empty:
            least, ms = min(max(1, whole - (filled - at)), _WAKE_BYTES), int64(_BLOCK_MS)
            if count > 0:
                left = load_acquire(word(words, LINGER_NS)) - (now - first_ns)
                least, ms = min(limit - filled, _WAKE_BYTES), int64(_PAUSE_MS)
                if left > 0:
                    ms = (left + 999_999) // 1_000_000
            _await_bytes(functions, pollfds, fd, state, least, times, ms)
        asked = min(limit - filled, _READ_BYTES)
        got = call_word_int_ptr_word_int(functions[RECV], fd, base + filled, asked, _DONTWAIT)
        reason = last_error(functions) if got < 0 else 0
        now = monotonic_ns(functions, times)
        empty = got < asked
        if got > 0:
            filled += got
        elif got == 0:
            error = CLOSED
            break
        elif reason == EINTR:
            continue
        elif reason != _EAGAIN:
            error = reason
            break
    if error:
        # The last whole messages of the connection; what is there of the next one is of no use.
        if count > 0:
            slots[k, COUNT], slots[k, CHANNEL] = count, wanted
            while load_acquire(word(words, CLOSING)) == 0:
                other = free_slot(busy, k)
                if other >= 0:
                    publish(functions, words, order, busy, k, event, times)
                    k = other
                    break
                nap(functions, _LONGEST_PAUSE_US)
        filled = 0
        state[_IN_PARTS] = 0
    state[SLOT], state[FILLED], state[ERROR] = k, filled, error


#: what ended a connection, where the peer is to blame; CLOSED is no fault
REASONS = {
    BAD_FRAME: "it breaks the protocol: what it sends is no ZMTP frame",
    LONG_COMMAND: f"it breaks the protocol: a command has more than {MAX_COMMAND_BYTES} bytes",
    TOO_LARGE: "a message is larger than any that is taken",
    CUT_PONG: "it does not read the answers to its pings",
    ERROR_COMMAND: "it ended the connection with an ERROR command",
}


class Traffic:
    """What `pump` works with, for one ring: one connection after the other, in one thread."""

    def __init__(self, ring: Ring, largest: int) -> None:
        self._ring, self._largest = ring, largest
        self._state = np.zeros(6, np.int64)
        self._pollfds = np.zeros(2, np.int64)
        self._pong = _PONG.copy()
        self._scratch = np.zeros(SCRATCH_SIZE, np.int64)
        self._times = np.zeros(2, np.int64)

    def run(self, fd: int, wake: int, first: bytes) -> int:
        """Take what comes at ``fd``, after the bytes ``first``, until the connection ends. 0: the ring is closing.

        Returns errno, CLOSED, or a key of `REASONS`. ``wake`` becomes readable when the ring is closing.
        """
        ring, state = self._ring, self._state
        self._pollfds[:] = fd | POLLIN << 32, wake | POLLIN << 32
        state[_LEAST] = 0  # not known of this socket
        ring.buffers[state[SLOT]][: len(first)] = np.frombuffer(first, np.uint8)
        state[FILLED] = len(first)
        while True:
            pump(
                ring.functions, ring.words, ring.order, ring.busy, ring.slots, ring.index, ring.names,
                ring.name_bytes, ring.event, fd, state, self._pollfds, self._pong, self._scratch, self._times,
                self._ring.slot_bytes, self._largest,
            )  # fmt: skip
            if not state[NEEDED]:
                ring.shrink(int(state[SLOT]))
                return int(state[ERROR])
            try:
                grown = ring.grow(int(state[SLOT]), int(state[NEEDED]), int(state[FILLED]))
            except MemoryError:
                ring.shrink(int(state[SLOT]))
                state[FILLED] = 0
                return errno.ENOMEM
            if not grown:
                nap(ring.functions, _LONGEST_PAUSE_US)

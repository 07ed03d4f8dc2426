"""The stream's PUSH socket: image messages put together and sent at a set rate, without Python per frame.

In: an :class:`~.encode.ImageTemplate`, :class:`~.payloads.Frames` and a :class:`~.faults.Schedule`. Out:
messages on the wire and how many nobody fetched. One thread at a time calls in (the series' thread, see
dcu.py); it holds no GIL while it sends. :meth:`StreamSender.stop` may be called from any thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import zmq
from numba import int64, njit

from live4d_ophyd.frames.c_functions import monotonic_ns, nap
from live4d_ophyd.frames.memory import (
    NOGIL,
    call_int,
    call_int_ptr_ptr_word_int,
    copy_bytes,
    load_u8,
    store_u8,
)
from live4d_ophyd.sim.encode import ImageTemplate
from live4d_ophyd.sim.faults import CORRUPT, FOREIGN, TRUNCATE, WRONG_DTYPE, WRONG_SHAPE, Schedule
from live4d_ophyd.sim.payloads import Frames, Payloads, Stopped, store_cbor_head
from live4d_ophyd.sources.dectris import libzmq

#: messages kept for a client that does not fetch; more are dropped
BUFFERED_MESSAGES = 20_000

#: `control` words: set to stop; results
STOP, SENT, DROPPED, ERROR = range(4)

# Sleeps while the next message is not due. Longest: how fast a stop is noticed. Shortest: below it, waking up
# (here, in libzmq's thread and at the client) would cost more than sending.
_LONGEST_SLEEP_US, _SHORTEST_SLEEP_US = 20_000, 250
_RETRY_US = 100
_POLL_MS = 20


@njit(**NOGIL)
def _compose(parts, ends, image_id, start_time, stop_time, payload, length, destination):
    """Image message at ``destination``. Returns where its payload begins; it ends ``length`` later."""
    end = destination
    copy_bytes(end, parts, ends[0])
    end = store_cbor_head(0, image_id, end + ends[0])
    copy_bytes(end, parts + ends[0], ends[1] - ends[0])
    end = store_cbor_head(0, start_time, end + ends[1] - ends[0])
    copy_bytes(end, parts + ends[1], ends[2] - ends[1])
    end = store_cbor_head(0, stop_time, end + ends[2] - ends[1])
    copy_bytes(end, parts + ends[2], ends[3] - ends[2])
    end += ends[3] - ends[2]
    copy_bytes(end, payload, length)
    return end


@njit(**NOGIL)
def _flip_bytes(blob, length, seed):
    """The size of the first block (byte 12 of a compressed array) and three bytes anywhere after it."""
    where = min(int64(12), length - 1)
    state = int64(seed) & 0x7FFFFFFF
    for _ in range(4):
        store_u8(blob + where, load_u8(blob + where) ^ 0x55)
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        where = length - 1 - (state >> 8) % max(int64(1), length - 16)


@njit(**NOGIL)
def send_images(
    socket,
    functions,
    timespec,
    parts,
    ends,
    foreign_parts,
    foreign_ends,
    image_ids,
    frames,
    flags,
    slots,
    payloads,
    frame_ticks,
    count_ticks,
    interval_ns,
    block,
    seed,
    message,
    started,
    control,
):
    """Send the scheduled messages, each when it is due after ``started`` (ns); results go to ``control``.

    ``payloads`` is ``(4, n) int64``: address, length, blob offset and length; message k takes frame ``frames[k]``.
    Whenever the next message is not due the thread sleeps a little longer than needed; those that have
    become due meanwhile follow at once, so that the mean rate is kept without a core spinning.
    """
    now = monotonic_ns(functions, timespec)
    for k in range(len(image_ids)):
        due = started + int64(slots[k] * interval_ns)
        while now < due and control[STOP] == 0:
            wait = max(min((due - now) // 1000, _LONGEST_SLEEP_US), _SHORTEST_SLEEP_US)
            nap(functions, wait)
            now = monotonic_ns(functions, timespec)
        if control[STOP]:
            return
        frame = frames[k]
        length = payloads[1, frame]
        start_time = int64(image_ids[k] * frame_ticks + 0.5)
        head, head_ends = (foreign_parts, foreign_ends) if flags[k] & FOREIGN else (parts, ends)
        content = _compose(
            head,
            head_ends,
            image_ids[k],
            start_time,
            start_time + count_ticks,
            payloads[0, frame],
            length,
            message,
        )
        if flags[k] & CORRUPT:
            _flip_bytes(content + payloads[2, frame], payloads[3, frame], seed + image_ids[k])
        size = content + length - message
        if flags[k] & TRUNCATE:
            size //= 2
        while True:
            sent = call_int_ptr_ptr_word_int(functions[libzmq.SEND], socket, message, size, libzmq.DONTWAIT)
            if sent >= 0:
                control[SENT] += 1
                break
            error = call_int(functions[libzmq.ERRNO])
            if error == libzmq.EAGAIN:
                if not block:
                    control[DROPPED] += 1
                    break
                nap(functions, _RETRY_US)
            elif error != libzmq.EINTR:
                control[ERROR] = error
                return
            if control[STOP]:
                return
        now = monotonic_ns(functions, timespec)


@dataclass(frozen=True)
class Sent:
    """What became of the messages of one call."""

    messages: int
    #: not fetched in time by anybody
    dropped: int
    elapsed_s: float
    stopped: bool
    #: id of the frame whose turn it was when it was stopped; None: all were sent
    next_image: int | None = None


def bound_address(socket: zmq.Socket) -> str:
    """Where a socket is bound, with the real port."""
    return bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()


class StreamSender:
    """Owns the PUSH socket. No thread of its own: the caller's thread sends."""

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:0",
        *,
        buffered: int = BUFFERED_MESSAGES,
        block: bool = False,
        context: zmq.Context | None = None,
    ) -> None:
        """Bind. ``block``: wait for a slow client instead of dropping. OSError when the port is taken."""
        self._context = context or zmq.Context.instance()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.sndhwm = buffered
        self._socket.linger = 0
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close()
            raise OSError(
                error.errno, f"cannot stream at {endpoint}: {os.strerror(error.errno or 0)}"
            ) from None
        self.endpoint = bound_address(self._socket)
        self.block = block
        self._functions = libzmq.addresses()
        self._timespec = np.zeros(2, np.int64)
        self._control = np.zeros(4, np.int64)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let :meth:`send_images` return at once, now and later, until :meth:`resume`."""
        self._control[STOP] = 1
        self._stopped.set()

    def resume(self) -> None:
        """Before a new series."""
        self._control[STOP] = 0
        self._stopped.clear()

    @property
    def progress(self) -> tuple[int, int]:
        """Messages sent and dropped so far by the running :meth:`send_images`; zeros when none runs."""
        return int(self._control[SENT]), int(self._control[DROPPED])

    def wait_for_peer(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until a client is connected (and fetches). False when ``stopped()`` became true before."""
        while not self._socket.poll(_POLL_MS, zmq.POLLOUT):
            if stopped():
                return False
        return True

    def send(self, message: bytes, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Send one message as soon as somebody fetches. False when ``stopped()`` became true before."""
        while self.wait_for_peer(stopped):
            try:
                self._socket.send(message, zmq.DONTWAIT)
            except zmq.Again:
                continue
            return True
        return False

    def send_images(
        self,
        template: ImageTemplate,
        frames: Frames,
        schedules: Iterable[Schedule],
        rate: float,
        *,
        foreign: ImageTemplate | None = None,
        misfits: Payloads | None = None,
        seed: int = 0,
    ) -> Sent:
        """Send the schedules at ``rate`` frames a second (0: as fast as they go). Raises zmq.ZMQError.

        Where frames are not there in time everything after them is that much later. ``foreign`` is the series of stray
        frames; ``misfits`` are two frames, of wrong shape and of wrong dtype.
        """
        if len(frames) == 0:
            raise ValueError("no frames to send: the raster has no positions")
        parts, ends = _packed(template)
        foreign_parts, foreign_ends = _packed(foreign or template)
        heads = max(len(parts), len(foreign_parts)) + 27
        message = np.empty(heads, np.uint8)
        interval = 1e9 / rate if rate > 0 else 0.0
        control = self._control
        next_image = None
        begun = started = time.monotonic_ns()
        try:
            for schedule in schedules:
                if schedule.pause_s:
                    self._stopped.wait(schedule.pause_s)
                for run in _runs(schedule, frames):
                    ids = schedule.image_id[run]
                    asked = time.monotonic_ns()
                    try:
                        table, index, held = _table(schedule, run, frames, misfits, self._stopped.is_set)
                    except Stopped:
                        next_image = int(ids[0])
                        break
                    now = time.monotonic_ns()
                    # The microscope waited for what was not computed; what is late for other reasons catches up.
                    late = now - (started + int(schedule.slot[run][0] * interval))
                    if interval and late > 0:
                        started += min(late, now - asked)
                    if len(message) < heads + table[1].max():
                        message = np.empty(heads + 2 * int(table[1].max()), np.uint8)
                    before = sum(self.progress)
                    send_images(
                        int(self._socket.underlying),
                        self._functions,
                        self._timespec,
                        int(parts.ctypes.data),
                        ends,
                        int(foreign_parts.ctypes.data),
                        foreign_ends,
                        ids,
                        index,
                        schedule.flags[run],
                        schedule.slot[run],
                        table,
                        float(template.frame_ticks),
                        template.count_ticks,
                        interval,
                        self.block,
                        seed,
                        int(message.ctypes.data),
                        started,
                        control,
                    )
                    del held  # until here the addresses of its frames were used
                    if control[ERROR]:
                        raise zmq.ZMQError(int(control[ERROR]))
                    left = ids[sum(self.progress) - before :]
                    if len(left):
                        next_image = int(left[0])
                        break
                if next_image is not None:
                    break
            elapsed = (time.monotonic_ns() - begun) * 1e-9
            return Sent(*self.progress, elapsed, bool(control[STOP]), next_image)
        finally:
            control[SENT] = control[DROPPED] = control[ERROR] = 0

    def close(self, linger_s: float = 0.0) -> None:
        """Stop and close; what a client has not fetched after ``linger_s`` is thrown away."""
        self.stop()
        self._socket.close(linger=int(linger_s * 1000))


def _packed(template: ImageTemplate) -> tuple[np.ndarray, np.ndarray]:
    """The constant parts as one array, and where each ends."""
    data = np.frombuffer(b"".join(template.parts), np.uint8)
    return data, np.cumsum([len(part) for part in template.parts])


_MISFIT = WRONG_SHAPE | WRONG_DTYPE


def _runs(schedule: Schedule, frames: Frames) -> Iterator[slice]:
    """Messages that are sent in one go: as long as the next one does not need a later chunk of frames."""
    most = frames.chunk_frames if len(frames) > frames.chunk_frames else len(schedule.image_id)
    chunk = schedule.image_id % len(frames) // frames.chunk_frames
    start = 0
    while start < len(chunk):
        later = np.flatnonzero(chunk[start : start + most] > chunk[start])
        end = start + int(later[0]) if len(later) else min(start + most, len(chunk))
        yield slice(start, end)
        start = end


def _table(
    schedule: Schedule, run: slice, frames: Frames, misfits: Payloads | None, stopped: Callable[[], bool]
) -> tuple[np.ndarray, np.ndarray, list[Payloads]]:
    """Where the frames of a run are, as send_images wants it, which of them each message takes, and what holds them.

    Raises Stopped.
    """
    number, within = np.divmod(schedule.image_id[run] % len(frames), frames.chunk_frames)
    flags = schedule.flags[run]
    parts, index, known = [], np.empty(len(number), np.int64), 0
    for needed in np.unique(number):
        part = frames.chunk(int(needed), stopped)
        chosen = number == needed
        index[chosen] = within[chosen] + known
        parts.append(part)
        known += len(part)
    if (flags & _MISFIT).any():
        if misfits is None:
            raise ValueError("frames of wrong shape or dtype are scheduled, but there are no misfits")
        index[flags & WRONG_DTYPE != 0] = known + 1
        index[flags & WRONG_SHAPE != 0] = known
        parts.append(misfits)
    columns = ("address", "length", "blob_offset", "blob_length")
    return (
        np.stack([np.concatenate([getattr(part, name) for part in parts]) for name in columns]),
        index,
        parts,
    )

"""Receiver: one PULL connection to the detector control unit, from socket to indexed FrameBatch.

``receive`` is one call without the GIL for hundreds of messages: it takes them from libzmq, copies them into
the batch and indexes their envelopes. It runs in the thread that calls it; one thread at a time.
"""

from __future__ import annotations

import time

import numpy as np
import zmq
from numba import int64, njit
from zmq.utils.monitor import recv_monitor_message

from live4d_ophyd.frames.batch import LENGTH, MULTIPART, OFFSET, RECEIVED_NS, SLACK, STATUS, FrameBatch
from live4d_ophyd.frames.c_functions import monotonic_ns, nap
from live4d_ophyd.frames.memory import (
    NOGIL,
    call_int,
    call_int_ptr,
    call_int_ptr_ptr_int,
    call_word_ptr,
    copy_bytes,
)
from live4d_ophyd.sources.dectris.index import SCRATCH_SIZE, channel_name, index_images, index_message
from live4d_ophyd.sources.dectris.libzmq import (
    DONTWAIT,
    EAGAIN,
    EINTR,
    ERRNO,
    MESSAGE_BYTES,
    MSG_CLOSE,
    MSG_DATA,
    MSG_INIT,
    MSG_MORE,
    MSG_RECV,
    MSG_SIZE,
    addresses,
)

#: Messages libzmq queues while nobody receives. Its default of 1000 is 8 ms of a 120 kHz stream; this is 170 ms,
#: and 200 MB of 10 kB messages.
HIGH_WATER_MARK = 20_000
#: libzmq disconnects from who sends a larger one (a 16-megapixel u32 frame without compression is 67 MB).
MAX_MESSAGE_BYTES = 512 << 20
#: How long a blocking receive sleeps before it looks at the stop flag, ms.
_BLOCK_MS = 20
#: How long to sleep when the queue is empty and the batch is not, us: the I/O thread then wakes this one once
#: for many messages instead of once for each.
_NAP_US = 300

# slots of Receiver._state
_PENDING, _COUNT, _FIRST_NS, _ERROR, _NEEDED = range(5)


@njit(**NOGIL)
def _receive(
    functions, socket, message, state, stop, buffer, index, channel, scratch, times, wait_ns, linger_ns
):
    """Fill the batch; see Receiver.receive. Leaves count, times and errors in ``state``."""
    base = int64(buffer.ctypes.data)
    capacity = buffer.shape[0] - SLACK
    msg = int64(message.ctypes.data)
    count = 0
    position = 0
    state[_ERROR] = 0
    state[_NEEDED] = 0
    started = monotonic_ns(functions, times)
    now = started
    # A blocking receive lasts up to _BLOCK_MS, which may be longer than what is asked for.
    hurried = wait_ns < _BLOCK_MS * 1_000_000
    while count < index.shape[0] and stop[0] == 0:
        if state[_PENDING] == 0:
            flags = DONTWAIT if count > 0 or hurried else 0
            if call_int_ptr_ptr_int(functions[MSG_RECV], msg, socket, flags) < 0:
                error = call_int(functions[ERRNO])
                if error != EAGAIN and error != EINTR:
                    state[_ERROR] = error
                    break
                now = monotonic_ns(functions, times)
                if count > 0:
                    if now - state[_FIRST_NS] >= linger_ns:
                        break
                    nap(functions, _NAP_US)
                elif now - started >= wait_ns:
                    break
                elif hurried:
                    nap(functions, _NAP_US)
                continue
            state[_PENDING] = 1
        size = call_word_ptr(functions[MSG_SIZE], msg)
        if size > capacity - position:
            # It stays in the zmq_msg_t, nothing is cut off: the next call begins with it.
            if count == 0:
                state[_NEEDED] = size
            break
        now = monotonic_ns(functions, times)
        if count == 0:
            state[_FIRST_NS] = now
        copy_bytes(base + position, call_word_ptr(functions[MSG_DATA], msg), size)
        state[_PENDING] = 0
        row = index[count]
        row[OFFSET] = position
        row[LENGTH] = size
        if call_int_ptr(functions[MSG_MORE], msg) != 0:
            # Stream v2 never sends parts; the first one tells what it is, the others are taken off.
            while call_int_ptr(functions[MSG_MORE], msg) != 0:
                if call_int_ptr_ptr_int(functions[MSG_RECV], msg, socket, 0) < 0:
                    break
            row[STATUS] = MULTIPART
        else:
            row[STATUS] = index_message(base + position, size, base, row, channel, scratch)
        row[RECEIVED_NS] = now
        count += 1
        position += (size + 63) & ~63
        if now - state[_FIRST_NS] >= linger_ns:
            break
    state[_COUNT] = count


@njit(**NOGIL)
def _discard(functions, message):
    """Free the pending message."""
    call_int_ptr(functions[MSG_CLOSE], int64(message.ctypes.data))
    call_int_ptr(functions[MSG_INIT], int64(message.ctypes.data))


class Receiver:
    """One PULL connection to ``endpoint`` (``tcp://dcu:31001``).

    It connects at once and keeps what arrives in libzmq's queue until :meth:`receive` is called, so make it
    before the detector is armed: a later client can miss the ``start`` message.
    """

    def __init__(self, endpoint: str, *, high_water_mark: int = HIGH_WATER_MARK) -> None:
        self.endpoint = endpoint
        self._functions = addresses()
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.PULL)
        # Set before connecting: afterwards it has no effect on the connection.
        self._socket.rcvhwm = high_water_mark
        self._socket.maxmsgsize = MAX_MESSAGE_BYTES
        self._socket.rcvtimeo = _BLOCK_MS
        self._socket.linger = 0
        # A detector whose power fails says nothing: without this the connection would stay half open for ever, s.
        self._socket.tcp_keepalive = 1
        self._socket.tcp_keepalive_idle, self._socket.tcp_keepalive_intvl, self._socket.tcp_keepalive_cnt = (
            10,
            5,
            3,
        )
        self._socket.reconnect_ivl = 50
        self._socket.reconnect_ivl_max = 1000
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(
                f"cannot connect to {endpoint!r}: {error}; a stream endpoint looks like tcp://dcu:31001"
            ) from error
        self._connected = False
        self._message = np.zeros(MESSAGE_BYTES // 8, np.int64)
        _initialise(self._functions, self._message)
        self._state = np.zeros(5, np.int64)
        self._times = np.zeros(2, np.int64)
        self._scratch = np.zeros(SCRATCH_SIZE, np.int64)
        #: set to 1 from any thread to make a running `receive` return
        self.stop = np.zeros(1, np.int64)

    def connected(self, wait: float = 0.0) -> bool:
        """Whether the other side has answered; waits up to ``wait`` s for it."""
        deadline = time.monotonic() + wait
        while True:
            while self._monitor.poll(0):
                event = recv_monitor_message(self._monitor)["event"]
                self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            left = deadline - time.monotonic()
            if self._connected or left <= 0:
                return self._connected
            self._monitor.poll(max(1, int(left * 1000)))

    def receive(
        self, batch: FrameBatch, *, channel: bytes = b"", wait: float = 0.1, linger: float = 0.01
    ) -> FrameBatch:
        """Fill ``batch`` with the next messages.

        Returns after ``linger`` s from the first message, when the batch is full, after ``wait`` s without
        any message (``count`` 0), or when ``stop`` is set. ``channel`` names the data channel to index,
        empty takes the first of each message. The batch's buffer grows when one message needs more.

        Raises ``zmq.ZMQError`` when libzmq fails.
        """
        wanted = channel_name(channel)
        while True:
            _receive(
                self._functions, self._socket.underlying, self._message, self._state, self.stop,
                batch.buffer, batch.index, wanted, self._scratch, self._times,
                int(wait * 1e9), int(linger * 1e9),
            )  # fmt: skip
            batch.count, batch.channel = int(self._state[_COUNT]), channel
            if self._state[_ERROR]:
                raise zmq.ZMQError(int(self._state[_ERROR]))
            needed = int(self._state[_NEEDED])
            if not needed:
                return batch
            batch.buffer = np.zeros(2 * needed + SLACK, np.uint8)

    def close(self) -> None:
        """Disconnect and drop what is still queued."""
        if not self._socket.closed:
            if hasattr(self, "_message"):
                _discard(self._functions, self._message)
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger=0)
            self._context.term()


@njit(**NOGIL)
def _initialise(functions, message):
    """Make the zeroed memory a valid empty zmq_msg_t."""
    call_int_ptr(functions[MSG_INIT], int64(message.ctypes.data))


def warm_up() -> None:
    """Compile the receive loop, or load it from the cache, before the first message counts."""
    receiver, batch = Receiver("inproc://warm-up"), FrameBatch.allocate(0, 1)
    receiver.receive(batch, wait=0.0)
    receiver.close()
    index_images(batch, np.arange(0), "threshold_1")

"""SourceTests: what the engine relies on in every source of frames, as a pytest class.

In: a source that brings frames which the suite has chosen. The suite receives them as a lane does, a batch at a time,
and decodes them one by one with the general decoder.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from typing import Any

import numpy as np

from live4d_ophyd.decode import DecodeError, decode_array
from live4d_ophyd.frames import batch as columns
from live4d_ophyd.frames.batch import BatchMemory, FrameBatch
from live4d_ophyd.frames.codecs import CODECS
from live4d_ophyd.frames.encoded_array import DTYPES, FIRST_TAG, EncodedArray
from live4d_ophyd.sources.source import (
    Ended,
    Frames,
    FrameSource,
    Item,
    OpenSource,
    SeriesHeader,
    SeriesSource,
    Started,
)  # fmt: skip


@dataclasses.dataclass
class Received:
    """What one connection said, in order, and the frames that came with it."""

    events: list[type] = dataclasses.field(default_factory=list)
    headers: list[SeriesHeader] = dataclasses.field(default_factory=list)
    #: (frame id, frame, or None where it cannot be decoded)
    frames: list[tuple[int, np.ndarray | None]] = dataclasses.field(default_factory=list)


class SourceTests:
    """Inherit, and define `source`.

    Examples
    --------
    >>> from contextlib import contextmanager
    >>> class TestMySource(SourceTests):
    ...     @contextmanager
    ...     def source(self, frames, sent, bad=(), connections=1, series=1):
    ...         with MyServer(frames, sent, bad, series) as server:
    ...             yield MySource(server.address, connections=connections)
    """

    #: of the frames
    shape = (12, 16)
    dtype = "uint16"
    count = 30
    #: bytes and messages of the batches: small ones, so that a series takes several
    capacity, max_messages = 1 << 16, 8
    #: s, that one `receive` may take
    wait = 0.1
    #: s, that a series may take on a busy machine
    patience = 60.0

    # What a user says -----------------------------------------------------------------------------

    def source(
        self,
        frames: np.ndarray,
        sent: Sequence[int],
        bad: Sequence[int] = (),
        connections: int = 1,
        series: int = 1,
    ) -> AbstractContextManager[FrameSource]:
        """A source whose frame n is ``frames[n]``, (count, q_y, q_x).

        It brings those whose ids are ``sent``, in this order: ids may be missing, out of order or there twice. Those
        of ``bad`` cannot be decoded. All that comes once for each of ``series`` series, one after the other, and is
        split over ``connections``. It need not begin before the source is opened.
        """
        raise NotImplementedError("define source()")

    def frames(self) -> np.ndarray:
        """(count, q_y, q_x): Poisson counts, brighter with every frame, so that no two are alike."""
        rng = np.random.default_rng(0)
        means = 3.0 + np.arange(self.count)
        return rng.poisson(means[:, None, None], (self.count, *self.shape)).astype(self.dtype)

    # How it is received ---------------------------------------------------------------------------

    def receive(self, taken: SeriesSource) -> list[Received]:
        """All that comes until the series has ended and no connection brings anything more of it."""
        connections = taken.connections
        found = [Received() for _ in connections]
        deadline = time.monotonic() + self.patience
        ended = quiet = False
        while not (ended and quiet and taken.all_came(self._last_missing(found))):
            quiet = True
            for connection, received in zip(connections, found):
                batch = FrameBatch.allocate(self.capacity, self.max_messages)
                for item in connection.receive(batch, self.wait):
                    quiet = False
                    self._note(received, item)
            ended = any(Ended in received.events for received in found)
            assert time.monotonic() < deadline, f"after {self.patience:g} s no end of the series: {found}"
        return found

    def _last_missing(self, found: list[Received]) -> int:
        came = {n for received in found for n, _ in received.frames}
        return max(set(range(self.count)) - came, default=-1)

    def _note(self, received: Received, item: Item) -> None:
        received.events.append(type(item))
        if isinstance(item, Started):
            received.headers.append(item.header)
        elif isinstance(item, Frames):
            entries = np.asarray(item.entries)
            assert entries.dtype == np.int64
            ids = item.batch.image_id[entries]
            decoded = [self._decoded(item.batch, int(entry)) for entry in entries]
            received.frames.extend(zip(map(int, ids), decoded))

    def _decoded(self, batch: FrameBatch, entry: int) -> np.ndarray | None:
        row = batch.index[entry]
        if row[columns.STATUS] != columns.IMAGE:
            return None
        offset, length = int(row[columns.BLOB_OFFSET]), int(row[columns.BLOB_LENGTH])
        shape = int(row[columns.ROWS]), int(row[columns.COLS])
        dtype = DTYPES[int(row[columns.ARRAY_TAG]) - FIRST_TAG]
        if dtype is None:
            return None
        blob = batch.buffer[offset : offset + length].tobytes()
        algorithm = CODECS[int(row[columns.ALGORITHM])].name
        try:
            return decode_array(EncodedArray(shape, dtype, algorithm, int(row[columns.ELEM_SIZE]), blob))
        except DecodeError:
            return None

    def receive_all(self, sent: Sequence[int], series: int = 1, **options: Any) -> list[list[Received]]:
        """What each connection brings of each series of a source that was asked for this."""
        with ExitStack() as stack:
            source = stack.enter_context(self.source(self.frames(), sent, series=series, **options))
            opened = stack.enter_context(closing(source.open(BatchMemory())))
            assert opened.connected(self.patience), "the other side does not answer"
            return [self._receive_next(source, opened, options.get("connections", 1)) for _ in range(series)]

    def _receive_next(self, source: FrameSource, opened: OpenSource, connections: int) -> list[Received]:
        taken = source.next_series(opened)
        assert len(taken.connections) == connections
        received = self.receive(taken)
        taken.interrupt()
        taken.finish()
        headers = [header for one in received for header in one.headers]
        assert {header.key for header in headers} <= {taken.key}
        assert taken.header is not None or not headers
        return received

    def check(self, received: list[Received], sent: Sequence[int], bad: Sequence[int] = ()) -> None:
        """Raises AssertionError unless the series brought these frames, on whichever connections."""
        frames = self.frames()
        came = [pair for one in received for pair in one.frames]
        # What cannot be read may have no id.
        good = [(n, frame) for n, frame in came if n not in bad and (n >= 0 or frame is not None)]
        assert sorted(n for n, _ in good) == sorted(n for n in sent if n not in bad)
        for n, frame in good:
            assert frame is not None, f"frame {n} cannot be decoded"
            np.testing.assert_array_equal(frame, frames[n], err_msg=f"frame {n}")
        assert all(frame is None for n, frame in came if n in bad)

    # The contract ---------------------------------------------------------------------------------

    def test_it_goes_to_the_engine_as_plain_fields(self) -> None:
        with self.source(self.frames(), []) as source:
            assert dataclasses.is_dataclass(source)
            assert type(source).__dataclass_params__.frozen
            values = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
            assert type(source)(**values) == source

    def test_a_series_starts_brings_its_frames_and_ends(self) -> None:
        ((received,),) = took = self.receive_all(range(self.count))
        self.check(took[0], range(self.count))
        first, *between, last = received.events
        assert (first, last) == (Started, Ended)
        assert set(between) == {Frames}
        assert [n for n, _ in received.frames] == list(range(self.count))

    def test_it_says_what_the_series_is(self) -> None:
        ((received,),) = self.receive_all(range(self.count))
        (header,) = received.headers
        assert header.rows in (None, self.shape[0])
        assert header.cols in (None, self.shape[1])
        assert header.dtype in (None, np.dtype(self.dtype))
        assert header.frames in (None, self.count)

    def test_frames_keep_their_ids_in_any_order(self) -> None:
        sent = np.random.default_rng(1).permutation(self.count).tolist()
        (received,) = self.receive_all(sent)
        self.check(received, sent)

    def test_duplicates_are_passed_on(self) -> None:
        """The engine counts them, and takes the first."""
        sent = [*range(self.count), 3, 3, self.count - 1]
        (received,) = self.receive_all(sent)
        self.check(received, sent)

    def test_lost_frames_do_not_hold_up_the_others(self) -> None:
        sent = [n for n in range(self.count) if n not in (0, 7, 8, self.count - 1)]
        (received,) = self.receive_all(sent)
        self.check(received, sent)

    def test_bad_frames_cost_no_others(self) -> None:
        bad = (0, 7, self.count - 1)
        (received,) = self.receive_all(range(self.count), bad=bad)
        self.check(received, range(self.count), bad)

    def test_split_over_connections_every_frame_comes_once(self) -> None:
        (received,) = self.receive_all(range(self.count), connections=2)
        self.check(received, range(self.count))
        assert sum(connection.events.count(Ended) for connection in received) >= 1
        for connection in received:
            assert connection.events.count(Started) <= 1
            assert connection.events.count(Ended) <= 1
        assert len({header.key for connection in received for header in connection.headers}) == 1

    def test_one_series_after_the_other(self) -> None:
        """Also where frames of the next came before the one before was left."""
        took = self.receive_all(range(self.count), series=2)
        for received in took:
            self.check(received, range(self.count))
            assert [event for event in received[0].events if event is not Frames] == [Started, Ended]
        first, second = (received[0].headers[0] for received in took)
        assert first.key != second.key

    def test_receiving_ends_after_its_time_when_nothing_comes(self) -> None:
        with ExitStack() as stack:
            source = stack.enter_context(self.source(self.frames(), [], series=0))
            opened = stack.enter_context(closing(source.open(BatchMemory())))
            taken = source.next_series(opened)
            (connection,) = taken.connections
            batch = FrameBatch.allocate(self.capacity, self.max_messages)
            began = time.monotonic()
            assert list(connection.receive(batch, self.wait)) == []
            assert time.monotonic() - began < self.patience
            assert taken.header is None
            assert taken.why_nothing_came("within a moment", False)

"""`SourceTests` passes for a source that keeps the contract, and fails for each way of breaking it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from live4d_ophyd.frames.batch import END, IMAGE, START, FrameBatch
from live4d_ophyd.sources.dectris.index import index_batch
from live4d_ophyd.sources.source import Ended, Frames, SeriesHeader, Started
from live4d_ophyd.testing import SourceTests
from live4d_ophyd.testing.small_dcu import damaged_image, end, image, start


@dataclass(frozen=True)
class Canned:
    """Messages of each series, for each of its connections."""

    messages: tuple[tuple[tuple[bytes, ...], ...], ...]
    shape: tuple[int, int]
    dtype: str

    def open(self, memory):
        return CannedOpen()

    def next_series(self, opened):
        opened.taken += 1
        return self.series_of(self.messages[opened.taken - 1])

    def series_of(self, messages):
        return CannedSeries(self, messages, CannedConnection)


class CannedOpen:
    taken = 0

    def connected(self, wait):
        return True

    def close(self):
        pass


class CannedSeries:
    header = None

    def __init__(self, source, messages, connection):
        self.source = source
        self.connections = [connection(self, list(mine)) for mine in messages]

    @property
    def key(self):
        return self.header and self.header.key

    def all_came(self, last_missing):
        return True

    def why_nothing_came(self, waited, ended):
        return "nothing was canned"

    def interrupt(self):
        pass

    finish = interrupt


class CannedConnection:
    def __init__(self, series, messages):
        self.series, self.source, self.messages = series, series.source, messages

    def receive(self, batch, wait):
        if not self.messages:
            self.nothing_comes(wait)
            return []
        now, self.messages = self.messages[: len(batch.index)], self.messages[len(batch.index) :]
        filled = FrameBatch.from_messages(now)
        batch.buffer[: len(filled.buffer)] = filled.buffer
        batch.index[: filled.count], batch.count = filled.index, filled.count
        index_batch(batch)
        return list(self.events(batch))

    def nothing_comes(self, wait):
        threading.Event().wait(wait)

    def events(self, batch):
        entries = []
        for entry, kind in enumerate(batch.status):
            if kind == IMAGE:
                entries.append(entry)
                continue
            if entries:
                yield self.frames(batch, entries)
                entries = []
            if kind == START:
                yield self.started(int(batch.index[entry, 3]))
            elif kind == END:
                yield Ended()
        if entries:
            yield self.frames(batch, entries)

    def started(self, series_id):
        rows, cols = self.source.shape
        return self.say(SeriesHeader((series_id, 0), rows=rows, cols=cols, dtype=np.dtype(self.source.dtype)))

    def say(self, header):
        self.series.header = header
        return Started(header)

    def frames(self, batch, entries):
        return Frames(batch, np.array(entries, np.int64))


class CannedTests(SourceTests):
    kind = Canned

    @contextmanager
    def source(self, frames, sent, bad=(), connections=1, series=1):
        everything = []
        for series_id in range(1, series + 1):
            messages = [[start(series_id)] for _ in range(connections)]
            for turn, n in enumerate(sent):
                messages[turn % connections].append(
                    (damaged_image if n in bad else image)(frames[n], n, series_id)
                )
            everything.append(tuple((*mine, end(series_id)) for mine in messages))
        yield self.kind(tuple(everything or [((),)]), self.shape, self.dtype)


class TestCanned(CannedTests):
    pass


class TestCannedWithFramesOfOneByte(CannedTests):
    shape, dtype, count = (9, 31), "uint8", 5


# What breaks the contract ----------------------------------------------------------------------------


def broken(until=60.0, **methods):
    """A kind of source whose connections have other methods; it is waited for ``until`` s."""
    connection = type("Broken", (CannedConnection,), methods)

    class Source(Canned):
        patience = until

        def series_of(self, messages):
            return CannedSeries(self, messages, connection)

    return Source


class NotFrozen:
    def __init__(self, messages, shape, dtype):
        pass


def without(kind):
    return lambda self, batch: (
        event for event in CannedConnection.events(self, batch) if not isinstance(event, kind)
    )


def twice(kind):
    def events(self, batch):
        for event in CannedConnection.events(self, batch):
            yield from [event] * (1 + isinstance(event, kind))

    return events


def frames_of(change):
    return lambda self, batch, entries: Frames(batch, np.array(change(entries), np.int64))


def other_ids(self, batch, entries):
    batch.image_id[entries] = range(len(entries))
    return CannedConnection.frames(self, batch, entries)


def each_id_once(self, batch, entries):
    seen = self.__dict__.setdefault("seen", set())
    fresh = [e for e in entries if not (batch.image_id[e] in seen or seen.add(batch.image_id[e]))]
    return CannedConnection.frames(self, batch, fresh)


def stops_at_a_gap(self, batch, entries):
    expected = self.__dict__.setdefault("expected", 0)
    good = [e for n, e in enumerate(entries) if batch.image_id[e] == expected + n]
    self.expected += len(good)
    return CannedConnection.frames(self, batch, good)


def same_key(self, series_id):
    return CannedConnection.started(self, 1)


def other_format(self, series_id):
    cols, rows = self.source.shape
    return self.say(SeriesHeader((series_id, 0), rows=rows, cols=cols))


def key_of_its_own(self, series_id):
    return CannedConnection.started(self, id(self))


def damaged(self, batch, entries):
    batch.buffer[batch.index[entries[0], 6] + 12] ^= 1
    return CannedConnection.frames(self, batch, entries)


def for_ever(self, wait):
    threading.Event().wait(3 * wait)


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (NotFrozen, "it_goes_to_the_engine_as_plain_fields"),
        (broken(events=without(Started)), "a_series_starts_brings_its_frames_and_ends"),
        (broken(until=1.0, events=without(Ended)), "a_series_starts_brings_its_frames_and_ends"),
        (broken(events=twice(Started)), "a_series_starts_brings_its_frames_and_ends"),
        (
            broken(frames=frames_of(lambda entries: entries[::-1])),
            "a_series_starts_brings_its_frames_and_ends",
        ),
        (broken(frames=damaged), "a_series_starts_brings_its_frames_and_ends"),
        (broken(started=other_format), "it_says_what_the_series_is"),
        (broken(frames=other_ids), "frames_keep_their_ids_in_any_order"),
        (broken(frames=each_id_once), "duplicates_are_passed_on"),
        (broken(frames=stops_at_a_gap), "lost_frames_do_not_hold_up_the_others"),
        (broken(frames=frames_of(lambda entries: entries[1:])), "bad_frames_cost_no_others"),
        (broken(events=twice(Ended)), "split_over_connections_every_frame_comes_once"),
        (broken(started=key_of_its_own), "split_over_connections_every_frame_comes_once"),
        (broken(started=same_key), "one_series_after_the_other"),
        (broken(until=0.2, nothing_comes=for_ever), "receiving_ends_after_its_time_when_nothing_comes"),
    ],
)
def test_a_source_that_breaks_the_contract_is_noticed(kind, test):
    suite = CannedTests()
    suite.kind, suite.patience = kind, getattr(kind, "patience", 60.0)
    with pytest.raises(AssertionError):
        getattr(suite, f"test_{test}")()

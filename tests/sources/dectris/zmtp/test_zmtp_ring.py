"""The ring alone: order, who has a slot, what a grown one costs."""

import threading

import numpy as np
import pytest

from live4d_ophyd.frames.batch import LENGTH, OFFSET, SLACK, BatchMemory, FrameBatch
from live4d_ophyd.sources.dectris.zmtp.ring import COUNT, Ring, free_slot, publish

NEVER = np.zeros(1, np.int64)


def small_ring(slots=4, grown=1 << 20):
    return Ring(grown, BatchMemory(1000, 8), slots=slots)


def put(ring, number):
    """Publish a slot whose only message is the number; -1 when all are taken."""
    slot = free_slot(ring.busy, -1)
    if slot >= 0:
        ring.buffers[slot][:8].view(np.int64)[0] = number
        ring.index[slot, 0, [OFFSET, LENGTH]] = 0, 8
        ring.slots[slot, COUNT] = 1
        publish(ring.functions, ring.words, ring.order, ring.busy, slot, ring.event, np.zeros(2, np.int64))
    return slot


def get(ring, wait=0.0):
    batch = FrameBatch.allocate(0, 1)
    slot = ring.take(NEVER, wait)
    if slot >= 0:
        ring.lend(slot, batch)
    return batch


def number(batch):
    assert batch.count == 1
    return int.from_bytes(batch.message(0), "little")


def test_slots_are_taken_in_the_order_they_were_published_in():
    ring = small_ring()
    for turn in range(5):
        assert all(put(ring, 10 * turn + n) >= 0 for n in range(4))
        assert put(ring, 99) == -1
        assert [number(get(ring)) for _ in range(4)] == [10 * turn + n for n in range(4)]
    assert get(ring).count == 0


def test_a_slot_is_free_when_its_batch_gives_it_back_or_is_gone():
    ring = small_ring(slots=3)
    for n in range(3):
        put(ring, n)
    kept, dropped, held = get(ring), get(ring), get(ring)
    assert put(ring, 3) == -1
    own = FrameBatch.allocate(0, 1).buffer.shape
    kept.lease.give_back(kept)
    assert (kept.lease, kept.buffer.shape) == (None, own)
    assert put(ring, 3) >= 0
    assert put(ring, 4) == -1
    assert (number(dropped), number(held)) == (1, 2)
    del dropped
    assert put(ring, 4) >= 0


def test_the_first_free_slot_is_filled_so_that_few_are_touched():
    ring = small_ring()
    used = set()
    for n in range(10):
        used.add(put(ring, n))
        get(ring)
    assert len(used) == 1


def test_who_waits_is_woken_by_what_is_published():
    ring = small_ring()
    took = []
    thread = threading.Thread(target=lambda: took.append(number(get(ring, wait=30.0))))
    thread.start()
    put(ring, 7)
    thread.join(10)
    assert took == [7]


def test_nothing_is_lost_between_two_threads():
    ring = small_ring()
    total = 20_000

    def fill():
        for n in range(total):
            while put(ring, n) < 0:
                pass

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    assert [number(get(ring, wait=30.0)) for _ in range(total)] == list(range(total))
    thread.join(10)


def test_a_grown_slot_keeps_its_bytes_and_is_small_again_when_it_is_given_back():
    ring = small_ring()
    ring.buffers[0][:100] = range(100)
    assert ring.grow(0, 5000, 100)
    assert len(ring.buffers[0]) == 5000 + SLACK
    assert ring.buffers[0][:100].tolist() == list(range(100))
    assert put(ring, 1) == 0
    batch = get(ring)
    assert len(batch.buffer) == 5000 + SLACK
    batch.lease.give_back(batch)
    assert len(ring.buffers[0]) == 1000 + SLACK


def test_grown_slots_have_a_budget_together_but_one_message_always_fits():
    ring = small_ring(grown=10_000)
    assert ring.grow(0, 6000, 0)
    assert not ring.grow(1, 6000, 0)
    assert ring.grow(0, 9000, 0)
    ring.shrink(0)
    assert ring.grow(1, 10_000, 0)


def test_a_ring_of_two_slots_cannot_be():
    with pytest.raises(ValueError, match="2 slots; expected at least 3"):
        small_ring(slots=2)


def test_channels_that_are_too_many_or_too_long_are_indexed_for_the_first():
    ring = small_ring()
    names = [b"", *(f"channel-{n}".encode() for n in range(50)), b"x" * 300]
    for name in names:
        ring.ask(name, 0.01)
    assert ring.words[16] == 0
    ring.ask(b"channel-3", 0.01)
    assert list(ring._channels)[ring.words[16]] == b"channel-3"
    assert ring.names[ring.words[16], : ring.name_bytes[ring.words[16]]].tobytes() == b"channel-3"

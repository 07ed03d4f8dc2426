"""What several connections have brought, and whether one of them may still bring what is missing."""

import numpy as np

from live4d_ophyd.frames.batch import END, IMAGE, IMAGE_ID, MALFORMED, SERIES_ID, STATUS, FrameBatch
from live4d_ophyd.sources.dectris.deliveries import _SERIES_KEPT, Deliveries


def batch(connection, *messages):
    """Of (series id, image id, status)."""
    made = FrameBatch.allocate(64, max(1, len(messages)))
    made.connection, made.count = connection, len(messages)
    made.index[: len(messages), [SERIES_ID, IMAGE_ID, STATUS]] = messages
    return made


def images(connection, *ids, series_id=1):
    return batch(connection, *((series_id, image_id, IMAGE) for image_id in ids))


def deliveries(*batches):
    made = Deliveries()
    for one in batches:
        made.add(one)
    return made


def test_connections_that_differ_by_one_message_are_not_behind():
    made = deliveries(images(0, 0, 2, 4), images(1, 1, 3))
    assert made.all_came(1, [0, 1], last_missing=9)
    made.add(images(0, 6))
    assert not made.all_came(1, [0, 1], last_missing=9)


def test_a_connection_that_is_behind_is_waited_for_until_it_is_beyond_what_is_missing():
    made = deliveries(images(0, 0, 2, 4, 6, 8), images(1, 1))
    assert not made.all_came(1, [0, 1], last_missing=5)
    made.add(images(1, 5))
    assert not made.all_came(1, [0, 1], last_missing=5)
    made.add(images(1, 7))
    assert made.all_came(1, [0, 1], last_missing=5)


def test_the_newest_image_is_the_highest_in_whatever_order_they_came():
    made = deliveries(images(0, 0, 2, 4, 6, 8), images(1, 7), images(1, 3))
    assert made.all_came(1, [0, 1], last_missing=5)


def test_behind_end_nothing_comes():
    made = deliveries(images(0, 0, 2, 4, 6, 8), batch(1, (1, 1, IMAGE), (1, -1, END)))
    assert made.all_came(1, [0, 1], last_missing=2**40)


def test_unreadable_messages_may_have_been_of_the_series():
    made = deliveries(images(0, 0, 2, 4), batch(1, (1, 1, IMAGE), (-1, -1, MALFORMED)))
    assert made.all_came(1, [0, 1], last_missing=9)


def test_messages_of_another_series_are_not_counted_for_this_one():
    made = deliveries(images(0, 0, 2, 4), images(1, 1), images(1, 11, 13, 15, series_id=2))
    assert not made.all_came(1, [0, 1], last_missing=9)


def test_only_connections_that_are_alive_are_looked_at():
    made = deliveries(images(0, 0, 2, 4), images(1, 1))
    assert made.all_came(1, [0], last_missing=9)
    assert not made.all_came(1, [0, 1], last_missing=9)


def test_a_connection_that_brought_nothing_is_behind():
    made = deliveries(images(0, 0, 2, 4))
    assert not made.all_came(1, [0, 1], last_missing=-1)
    made = deliveries(images(0, 0))
    assert made.all_came(1, [0, 1], last_missing=9)


def test_series_without_end_take_no_more_memory_and_those_known_still_count():
    made = deliveries(batch(0, *((number, 0, IMAGE) for number in range(1, 5 * _SERIES_KEPT))))
    assert len(made._messages[0]) == len(made._newest[0]) == _SERIES_KEPT
    made.add(batch(0, *((number, 1, IMAGE) for number in np.array([5 * _SERIES_KEPT, 1, 6 * _SERIES_KEPT]))))
    made.add(batch(0, (0, 0, IMAGE), (1, 2, IMAGE)))  # the known one behind an unknown one
    assert made._messages[0][1] == 3
    assert made._newest[0][1] == 2
    assert len(made._messages[0]) == _SERIES_KEPT

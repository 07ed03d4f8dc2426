"""Which format the frames of a series have where its start message and the frames do not say the same."""

from collections import Counter

import numpy as np
import pytest

from live4d_ophyd.decode import FrameFormat
from live4d_ophyd.engine.frame_format import agrees, announced_in_words, choose_format, formats_of, in_words
from live4d_ophyd.frames.batch import ARRAY_TAG, COLS, ROWS, FrameBatch
from live4d_ophyd.sources.source import SeriesHeader

SMALL, LARGE = FrameFormat(2, 3, np.dtype("<u2")), FrameFormat(20, 30, np.dtype("<u2"))


def start(rows=None, cols=None, dtype=None):
    dtype = None if dtype is None else np.dtype(dtype)
    return SeriesHeader((1, 0), rows=rows, cols=cols, dtype=dtype)


@pytest.mark.parametrize(
    ("message", "agreed"),
    [
        (None, True),
        (start(), True),
        (start(2, 3, "u2"), True),
        (start(2, 3), True),
        (start(2), True),
        (start(None, 3), True),
        (start(dtype="u2"), True),
        (start(3, 2), False),
        (start(3), False),
        (start(None, 2), False),
        (start(2, 3, "u4"), False),
        (start(dtype="i2"), False),
    ],
)
def test_start_agrees_unless_it_says_something_else(message, agreed):
    assert agrees(message, SMALL) is agreed


def test_start_names_no_byte_order():
    assert agrees(start(2, 3, "u2"), FrameFormat(2, 3, np.dtype(">u2")))
    assert not agrees(start(2, 3, "u4"), FrameFormat(2, 3, np.dtype(">u2")))


@pytest.mark.parametrize(
    ("message", "found", "all_there", "chosen"),
    [
        (start(2, 3), {SMALL: 1}, False, SMALL),
        (None, {SMALL: 1}, False, SMALL),
        (start(2, 3), {LARGE: 9, SMALL: 1}, False, SMALL),  # what start announces
        (start(2, 3), {LARGE: 1}, False, None),  # the odd one, perhaps
        (start(2, 3), {LARGE: 1}, True, LARGE),
        (start(2, 3), {LARGE: 2}, False, LARGE),
        (None, {LARGE: 1, SMALL: 2}, False, SMALL),
    ],
)
def test_the_format_is_what_start_and_frames_agree_on_else_what_most_frames_say(
    message, found, all_there, chosen
):
    assert choose_format(message, Counter(found), all_there) == chosen


def test_formats_in_words():
    assert in_words(SMALL) == "2 x 3 px of uint16"
    assert in_words(FrameFormat(2, 3, np.dtype(">u2"))) == "2 x 3 px of big-endian uint16"
    assert announced_in_words(None) == announced_in_words(start()) == announced_in_words(start(2)) == ""
    assert announced_in_words(start(None, 3)) == ""
    assert announced_in_words(start(2, 3)) == "2 x 3 px"
    assert announced_in_words(start(dtype="u4")) == "uint32"
    assert announced_in_words(start(2, 3, "u4")) == "2 x 3 px of uint32"


def test_formats_are_counted_in_the_order_in_which_they_come():
    """That of several which are as many decides which one is taken."""
    batch = FrameBatch.allocate(64, 6)
    for entry, frame in enumerate([LARGE, SMALL, SMALL, LARGE, SMALL, LARGE]):
        batch.index[entry, [ROWS, COLS, ARRAY_TAG]] = *frame.shape, frame.tag
    assert list(formats_of(batch, np.arange(6)).items()) == [(LARGE, 3), (SMALL, 3)]
    assert list(formats_of(batch, np.array([1, 4, 5])).items()) == [(SMALL, 2), (LARGE, 1)]

"""A preview has the rows that changed, and is whole again where one before it was lost."""

import numpy as np
import pytest

from live4d_ophyd.engine.process.previews import Changes, Picture, Rows


def growing(rows, shape=(8, 5)):
    image = np.full(shape, np.nan)
    image[:rows] = np.arange(rows * shape[1]).reshape(rows, shape[1])
    return {"vbf": image, "spread": np.array(float(rows))}


def test_only_new_rows_are_sent_and_the_picture_is_whole():
    changes, picture = Changes(), Picture()
    for rows, sent in ((2, 8), (5, 3), (5, 0), (6, 1)):
        outputs = growing(rows)
        number, new = changes.of(outputs)
        assert len(new["vbf"].values) == sent
        shown = picture.take(number, new)
        np.testing.assert_array_equal(shown["vbf"], outputs["vbf"])
        assert shown["spread"] == rows
        assert {array.dtype for array in shown.values()} == {np.dtype(np.float64)}


def test_a_picture_that_was_given_stays_as_it_is():
    changes, picture = Changes(), Picture()
    first = picture.take(*changes.of(growing(2)))
    picture.take(*changes.of(growing(8)))
    np.testing.assert_array_equal(first["vbf"], growing(2)["vbf"])


def test_after_one_that_was_lost_nothing_is_shown_until_a_whole_one_comes():
    changes, picture = Changes(), Picture()
    picture.take(*changes.of(growing(1)))
    changes.of(growing(2))  # lost
    assert picture.take(*changes.of(growing(3))) is None
    changes.reset()
    np.testing.assert_array_equal(picture.take(*changes.of(growing(4)))["vbf"], growing(4)["vbf"])


def test_another_scan_begins_anew():
    changes, picture = Changes(), Picture()
    picture.take(*changes.of(growing(1)))
    shown = picture.take(*changes.of(growing(2, (4, 4))))
    np.testing.assert_array_equal(shown["vbf"], growing(2, (4, 4))["vbf"])


def test_fewer_outputs_than_before_are_all_that_there_are():
    changes, picture = Changes(), Picture()
    picture.take(*changes.of(growing(2)))
    shown = picture.take(*changes.of({"vbf": growing(3)["vbf"]}))
    assert list(shown) == ["vbf"]


def test_an_output_without_rows_is_no_trouble():
    changes, picture = Changes(), Picture()
    for _ in range(2):
        assert picture.take(*changes.of({"none": np.empty((0, 3))}))["none"].shape == (0, 3)


@pytest.mark.parametrize(
    ("first", "shape", "values"),
    [
        (1, (2, 3), np.zeros((2, 3), np.float32)),
        (-1, (2, 3), np.zeros((1, 3), np.float32)),
        (0, (2, 3), np.zeros((1, 4), np.float32)),
        (0, (2, 3), np.zeros((1, 3))),
        (0, (2, 3), np.zeros(3, np.float32)),
    ],
)
def test_rows_that_do_not_lie_in_their_output_are_refused(first, shape, values):
    with pytest.raises(ValueError, match="rows from"):
        Rows(first, shape, values)


def test_rows_of_what_is_not_there_are_refused_and_make_no_memory():
    part = Rows(0, (1 << 40, 3), np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="of which nothing came before"):
        Picture().take(0, {"vbf": part})

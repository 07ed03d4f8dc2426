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
        shown = picture.update(number, new)
        np.testing.assert_array_equal(shown["vbf"], outputs["vbf"])
        assert shown["spread"] == rows
        assert {array.dtype for array in shown.values()} == {np.dtype(np.float64)}


def test_a_picture_that_was_given_stays_as_it_is():
    changes, picture = Changes(), Picture()
    first = picture.update(*changes.of(growing(2)))
    picture.update(*changes.of(growing(8)))
    np.testing.assert_array_equal(first["vbf"], growing(2)["vbf"])


def test_after_one_that_was_lost_nothing_is_shown_until_a_whole_one_comes():
    changes, picture = Changes(), Picture()
    picture.update(*changes.of(growing(1)))
    changes.of(growing(2))  # lost
    assert picture.update(*changes.of(growing(3))) is None
    changes.reset()
    np.testing.assert_array_equal(picture.update(*changes.of(growing(4)))["vbf"], growing(4)["vbf"])


def test_another_scan_begins_anew():
    changes, picture = Changes(), Picture()
    picture.update(*changes.of(growing(1)))
    shown = picture.update(*changes.of(growing(2, (4, 4))))
    np.testing.assert_array_equal(shown["vbf"], growing(2, (4, 4))["vbf"])


def test_fewer_outputs_than_before_are_all_that_there_are():
    changes, picture = Changes(), Picture()
    picture.update(*changes.of(growing(2)))
    shown = picture.update(*changes.of({"vbf": growing(3)["vbf"]}))
    assert list(shown) == ["vbf"]


def test_an_output_without_rows_is_no_trouble():
    changes, picture = Changes(), Picture()
    for _ in range(2):
        assert picture.update(*changes.of({"none": np.empty((0, 3))}))["none"].shape == (0, 3)


def picture_of(changes, outputs, room):
    return Picture().update(*changes.of(outputs, room))


def test_rows_that_take_too_long_are_binned_as_little_as_will_do():
    image = np.arange(70.0).reshape(10, 7)
    for room, bins in ((280, 1), (279, 2), (80, 2), (79, 4), (24, 4), (23, 8), (0, 16)):
        _, rows = Changes().of({"vbf": image}, room)
        assert rows["vbf"].binned == bins
        shown = rows["vbf"].pixels()
        assert shown.shape == image.shape
        block = image[:bins, :bins]
        np.testing.assert_allclose(shown[:bins, :bins], block.mean())
        np.testing.assert_allclose(shown[-1, -1], image[9 // bins * bins :, 6 // bins * bins :].mean())


def test_a_bin_is_the_mean_of_the_pixels_that_are_there():
    image = np.array([[1.0, np.nan, np.nan, np.nan], [4.0, 1.0, np.nan, np.nan]])
    np.testing.assert_array_equal(
        picture_of(Changes(), {"vbf": image}, 8)["vbf"], [[2, 2, np.nan, np.nan]] * 2
    )


def test_binned_rows_join_those_before_and_stay_until_they_change():
    changes, picture = Changes(), Picture()
    picture.update(*changes.of(growing(2)))
    number, rows = changes.of(growing(5), 2 * 12)
    assert (rows["vbf"].first, rows["vbf"].count, rows["vbf"].values.shape) == (2, 3, (1, 2))
    shown = picture.update(number, rows)["vbf"]
    expected = growing(5)["vbf"]
    np.testing.assert_array_equal(shown[:2], expected[:2])
    np.testing.assert_allclose(shown[2:5], [[expected[2:5, :4].mean()] * 4 + [expected[2:5, 4].mean()]] * 3)
    again = picture.update(*changes.of(growing(6)))["vbf"]
    np.testing.assert_array_equal(again[2:5], shown[2:5])
    np.testing.assert_array_equal(again[5:], growing(6)["vbf"][5:])


def test_numbers_and_stacks_are_not_binned():
    outputs = {"spread": np.array(3.0), "stack": np.ones((4, 2, 2)), "vbf": np.ones((4, 4))}
    _, rows = Changes().of(outputs, 1)
    assert {name: part.binned for name, part in rows.items()} == {"spread": 1, "stack": 1, "vbf": 16}


F32 = np.float32


@pytest.mark.parametrize(
    ("first", "count", "binned", "shape", "values"),
    [
        (1, 2, 1, (2, 3), np.zeros((2, 3), F32)),
        (-1, 1, 1, (2, 3), np.zeros((1, 3), F32)),
        (0, 1, 1, (2, 3), np.zeros((1, 4), F32)),
        (0, 1, 1, (2, 3), np.zeros((1, 3))),
        (0, 1, 1, (2, 3), np.zeros(3, F32)),
        (0, 2, 1, (2, 3), np.zeros((1, 3), F32)),
        (0, 2, 0, (2, 3), np.zeros((2, 3), F32)),
        (0, 2, 2, (2, 3), np.zeros((1, 3), F32)),
        (0, 4, 2, (4, 2, 2), np.zeros((2, 1, 1), F32)),
        (0, 32, 32, (32, 32), np.zeros((1, 1), F32)),
        (0, 1 << 20, 16, (1 << 20, 1 << 20), np.zeros((1 << 16, 1 << 16, 0), F32)),
    ],
)
def test_rows_that_do_not_lie_in_their_output_are_refused(first, count, binned, shape, values):
    with pytest.raises(ValueError, match="rows from"):
        Rows(first, count, binned, shape, values)


def test_rows_of_what_is_not_there_are_refused_and_make_no_memory():
    part = Rows(0, 1, 1, (1 << 40, 3), np.zeros((1, 3), F32))
    with pytest.raises(ValueError, match="of which nothing came before"):
        Picture().update(0, {"vbf": part})


def test_a_few_bins_do_not_become_gigabytes():
    bins = np.zeros((1 << 11, 1 << 11), F32)
    with pytest.raises(ValueError, match="binned by 16"):
        Rows(0, 1 << 15, 16, (1 << 15, 1 << 15), bins)

"""What a page is sent of an image."""

import numpy as np
import pytest

pytest.importorskip("bokeh")

from live4d_ophyd.live.color_wheel import wheel_colors
from live4d_ophyd.live.panel import NOT_SEEN, ScanAxes
from live4d_ophyd.view.displayed import MOST_SIDE, displayed, levels
from live4d_ophyd.view.live_run import PatternPicture, ScanPicture
from live4d_ophyd.view.panels import COLOR_MAPS, ImagePanel

ALL = "all values"


def picture(values, **others):
    return ScanPicture("a", np.asarray(values, float), ScanAxes((0.5, 0.25), "nm"), "counts", **others)


def test_values_place_and_levels():
    values = np.arange(12.0).reshape(3, 4)
    values[0, 0] = np.nan
    found = displayed(picture(values), ALL)
    np.testing.assert_array_equal(found.values, values)
    assert (found.size, found.origin, found.unit) == ((1.5, 1.0), (-0.25, -0.125), "nm")
    assert found.levels == (1, 11)
    assert found.seen == 11 / 12


def test_a_large_image_is_sent_as_every_nth_position_and_keeps_its_size():
    values = np.arange(3 * 2 * MOST_SIDE + 3.0).reshape(1, -1)
    found = displayed(picture(values), ALL)
    every = 7
    np.testing.assert_array_equal(found.values, values[:, ::every])
    assert found.values.shape[1] <= MOST_SIDE
    assert found.size == (0.5, 0.25 * values.size)
    assert found.levels == (0, values.max())


def test_levels_of_nothing_and_of_one_value():
    assert levels(np.full((2, 2), np.nan), ALL) == (0, 1)
    assert levels(np.full((2, 2), 5.0), ALL) == (5, 6)


def test_values_of_either_sign_have_two_colours_equally_far_about_0():
    shown = displayed(picture([[-3.0, np.nan], [1.0, 2.0]], symmetric=True), ALL)
    assert shown.levels == (-3, 3)
    assert levels(np.zeros((2, 2)), ALL, symmetric=True) == (-1, 1)
    panel = ImagePanel("a", 200)
    panel.set_color_map("viridis")
    panel.show(shown, "a", "")
    blue, white, red = (panel.mapper.palette[n] for n in (0, 128, 255))
    assert (blue, red) == ("#053061", "#67001f")
    assert min(int(white[n : n + 2], 16) for n in (1, 3, 5)) > 240
    assert (panel.mapper.low, panel.mapper.high) == (-3, 3)
    panel.show(displayed(picture(np.eye(3)), ALL), "b", "")
    assert panel.mapper.palette == COLOR_MAPS["viridis"]


def test_a_wheel_has_the_colors_of_the_other_pictures():
    random = np.random.default_rng(3)
    angle, bright = random.uniform(-180, 180, (5, 6)), random.uniform(0, 2, (5, 6))
    angle[1, 1] = np.nan
    found = displayed(picture(angle, brightness=bright), ALL)
    colors = found.colors.view(np.uint8).reshape(5, 6, 4)
    expected = wheel_colors(angle, bright) * 255
    seen = np.isfinite(expected)
    assert np.abs(colors[..., :3][seen] - expected[seen]).max() <= 1
    assert colors[1, 1, :3].tolist() == [int(NOT_SEEN[n : n + 2], 16) for n in (1, 3, 5)]
    assert (colors[..., 3] == 255).all()


def test_a_pattern_has_its_first_pixel_around_0():
    found = displayed(PatternPicture("p", np.ones((4, 6))), ALL)
    assert (found.size, found.origin, found.unit) == ((4, 6), (-0.5, -0.5), "px")

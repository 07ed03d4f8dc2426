"""The colour wheel: hue is the direction, brightness the magnitude, and a missing position looks like neither."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from live4d_ophyd.live.best_effort import Live4DBestEffortCallback
from live4d_ophyd.live.color_wheel import wheel_colors
from live4d_ophyd.live.panel import NOT_SEEN, ImageFigure, Panel, ScanAxes


@pytest.mark.parametrize(
    ("angle", "color"),
    [
        (0, (1, 0, 0)),
        (120, (0, 1, 0)),
        (-120, (0, 0, 1)),
        (240, (0, 0, 1)),
        (180, (0, 1, 1)),
        (-180, (0, 1, 1)),
    ],
)
def test_the_hue_is_the_angle(angle, color):
    np.testing.assert_allclose(wheel_colors(np.array([[angle]]), np.array([[2.0]]))[0, 0], color, atol=1e-12)


def test_the_brightness_is_the_magnitude_up_to_a_percentile():
    magnitude = np.linspace(0, 10, 1001)[None]
    magnitude[0, -1] = 1e6
    red = wheel_colors(np.zeros_like(magnitude), magnitude)[0, :, 0]
    full = np.percentile(magnitude, 99.5)
    np.testing.assert_allclose(red, np.clip(magnitude[0] / full, 0, 1))


def test_without_counts_it_has_no_colour():
    angle, magnitude = np.array([[0.0, np.nan, 90.0]]), np.array([[1.0, 1.0, np.nan]])
    np.testing.assert_array_equal(np.isnan(wheel_colors(angle, magnitude)[0, :, 0]), [False, True, True])
    assert np.isnan(wheel_colors(np.full((2, 2), np.nan), np.ones((2, 2)))).all()
    np.testing.assert_array_equal(wheel_colors(np.zeros((1, 2)), np.zeros((1, 2))), 0)


def test_a_panel_shows_it_with_the_wheel_beside_it():
    figure = ImageFigure("wheel", ["live4d_dpc_angle"], window=False, percentiles=(0.5, 99.5))
    angle, magnitude = np.array([[0.0, 120.0], [240.0, np.nan]]), np.array([[1.0, 0.5], [0.0, np.nan]])
    figure.show({"live4d_dpc_angle": Panel(angle, ScanAxes(), "deg", magnitude)})
    figure.figure.canvas.draw()
    (image,) = figure.figure.axes[0].get_images()
    assert image.get_array().shape == (2, 2, 3)
    np.testing.assert_allclose(image.get_array()[1, 1], to_rgb(NOT_SEEN))
    np.testing.assert_allclose(image.get_array()[1, 0], 0, atol=1e-12)
    assert image.get_array()[0, 0][0] == pytest.approx(1, abs=0.02)
    legend = figure.figure.axes[0].child_axes[-1]
    right, below = (legend.get_images()[0].get_array()[at] for at in ((50, 99), (83, 50)))
    assert right[0] > 0.95  # red points along +x
    assert right[1:3].max() < 0.05
    assert below[1] > below[0] > below[2]  # +y is at 90 degrees, between yellow and green
    # As an image without brightness, it is grey again.
    figure.show({"live4d_dpc_angle": Panel(angle, ScanAxes(), "deg")})
    assert image.get_array().shape == (2, 2)
    assert not legend.get_visible()


def test_an_event_whose_data_key_names_its_brightness_is_shown_so():
    callback = Live4DBestEffortCallback()
    array = {
        "dtype": "array",
        "shape": [2, 2],
        "source": "it",
        "dims": ["scan_y", "scan_x"],
        "object_name": "it",
    }
    keys = {"it_angle": {**array, "units": "deg", "brightness": "it_size"}, "it_size": array}
    callback("start", {"uid": "a", "time": 0.0, "scan_id": 1})
    callback(
        "descriptor",
        {
            "uid": "b", "run_start": "a", "time": 0.0, "name": "primary", "data_keys": keys, "configuration": {},
            "hints": {}, "object_keys": {"it": list(keys)},
        },
    )  # fmt: skip
    data = {"it_angle": np.zeros((2, 2)), "it_size": np.array([[0.0, 1.0], [2.0, 4.0]])}
    callback(
        "event",
        {
            "uid": "c", "descriptor": "b", "time": 0.0, "seq_num": 1, "data": data, "filled": {},
            "timestamps": dict.fromkeys(data, 0.0),
        },
    )  # fmt: skip
    angle, size = plt.figure("it images").axes[:2]
    assert angle.get_images()[0].get_array().shape == (2, 2, 3)
    assert size.get_images()[0].get_array().shape == (2, 2)
    plt.close("all")

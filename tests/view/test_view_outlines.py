"""Where detectors are drawn: equal to where the methods take their pixels."""

import numpy as np
import pytest

pytest.importorskip("bokeh")

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.view.outlines import outlines


def radii(outline, center):
    return sorted(
        {round(float(r), 6) for row, col in outline.lines for r in np.hypot(row - center[0], col - center[1])}
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"radius": 12.0}, [12]),
        ({"inner": 5.0, "outer": 9.0}, [5, 9]),
        ({"inner": 0.0, "outer": 9.0}, [9]),
        ({"inner": 1.0, "outer": 2.0, "unit": "bf"}, [15, 30]),
        ({"inner": 4.0, "outer": 8.0, "unit": "mrad"}, [8, 16]),
        ({"inner": 1.0, "outer": 2.0, "unit": "bf", "inner_px": 14.0, "outer_px": 28.0}, [14, 28]),
    ],
)
def test_rings_are_where_the_settings_say(settings, expected):
    known = {"d_calibration_bf_radius": 15.0, "d_calibration_mrad_per_px": 0.5}
    found = outlines(
        known | {"d_a_kind": "annulus", "d_a_center": [40.0, 50.0]} | {f"d_a_{k}": v for k, v in settings.items()}, "d"
    )  # fmt: skip
    assert [outline.name for outline in found] == ["a"]
    assert radii(found[0], (40, 50)) == expected


def test_the_center_is_the_detectors_then_the_calibrations_then_the_middle():
    disk = {"d_a_kind": "disk", "d_a_radius": 3.0}
    nan = float("nan")

    def center(settings, shape=None):
        row, col = outlines(disk | settings, "d", shape)[0].lines[0]
        return [round((row.min() + row.max()) / 2, 6), round((col.min() + col.max()) / 2, 6)]

    assert center({"d_detector_y_pixels": 96, "d_detector_x_pixels": 64}) == [47.5, 31.5]
    assert center({}, (10, 20)) == [4.5, 9.5]
    calibrated = {"d_calibration_center": [1.0, 2.0], "d_a_center": [nan, nan]}
    assert center(calibrated) == [1, 2]
    assert center(calibrated | {"d_a_center": [3.0, 4.0]}) == [3, 4]
    assert center(calibrated | {"d_a_center_row": 5.0, "d_a_center_col": 6.0}) == [5, 6]


def test_segments_lie_between_their_lines():
    settings = {
        "d_s_kind": "segments", "d_s_center": (20.0, 20.0), "d_s_inner": 4.0, "d_s_outer": 16.0, "d_s_rings": 2,
        "d_s_sectors": 3, "d_s_rotation": 25.0,
    }  # fmt: skip
    (found,) = outlines(settings, "d")
    assert radii(found, (20, 20)) == [4, 10, 16]
    method = Segments("s", center=(20, 20), inner=4, outer=16, rings=2, sectors=3, rotation=25)
    segment = method.segment_of((41, 41), Calibration())
    for row, col in found.lines[-3:]:
        angle = np.arctan2(row[1] - 20, col[1] - 20)
        sides = [
            segment[round(20 + 7 * np.sin(a)), round(20 + 7 * np.cos(a))]
            for a in (angle - 0.25, angle + 0.25)
        ]
        assert sides[0] != sides[1], "a line is no border of segments"


def test_points_and_polygons():
    points = {"d_p_kind": "points", "d_p_points": "[[1, 2], [5, 6]]", "d_p_radius": 2.0}
    polygon = {"d_q_kind": "polygon", "d_q_points": [[0, 0], [0, 9], [9, 9]], "d_q_unit": "px"}
    first, second = outlines(points | polygon, "d")
    assert len(first.lines) == 2
    assert radii(first, (1, 2))[0] == 2
    row, col = second.lines[0]
    assert (row.tolist(), col.tolist()) == ([0, 0, 9, 0], [0, 9, 9, 0])


def test_what_is_switched_off_or_not_known_is_not_drawn():
    off = {"d_a_kind": "disk", "d_a_radius": 3.0, "d_a_center": (1, 1), "d_a_enabled": False}
    unknown = {
        "d_b_kind": "annulus",
        "d_b_inner": 1.0,
        "d_b_outer": 2.0,
        "d_b_unit": "bf",
        "d_b_center": (1, 1),
    }
    pattern = {"d_c_kind": "mean_pattern", "d_c_enabled": True}
    assert outlines(off | unknown | pattern, "d", (9, 9)) == []

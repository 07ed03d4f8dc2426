"""Panels of the live window: what is lost is red, a line is a line; and the mouse on all kinds of outlines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from qt_display import on_screen, platform

HERE = Path(__file__).parent

pytestmark = [pytest.mark.system]


@pytest.fixture(scope="module")
def seen():
    name, why = platform()
    if why:
        pytest.skip(why)
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    environment = {**os.environ, "MPLBACKEND": "agg", "QT_QPA_PLATFORM": name, "PYTHONPATH": path}
    command = on_screen([sys.executable, "-W", "error::RuntimeWarning", str(HERE / "panels_session.py")])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_lost_positions_are_red_and_those_to_come_blue(seen):
    some, ratio, lost, to_come, outside = seen["lost"]
    assert some
    assert ratio  # 16 positions to come, less the scale bar, to one that was lost
    assert lost == "scan_y 1, scan_x 1.5 nm [2, 3]: lost"
    assert to_come == "scan_y 3.5, scan_x 0 nm [7, 0]: no value"
    assert outside == ""


def test_levels_and_scale_bar_are_those_of_the_image(seen):
    assert seen["levels"] == pytest.approx([0, 100])
    assert seen["bar"] == "1 nm"  # of 4, at most a third


def test_a_scan_of_one_row_is_a_line_and_nothing_is_no_image(seen):
    assert seen["line"] == [9.5, 19, "scan_x (nm)", False]
    assert seen["empty"] is False


def test_points_and_corners_are_placed_one_by_one(seen):
    first, second = seen["point"]["spots_points"]
    assert first == [20, 30]
    assert second == pytest.approx([66, 75], abs=0.2)
    assert seen["corner"]["poly_points"][1] == pytest.approx([18, 84], abs=0.2)
    assert seen["corner"]["poly_points"][2] == pytest.approx([30, 70], abs=1e-6)


def test_detectors_that_share_a_centre_move_together_and_with_shift_alone(seen):
    assert seen["together"].keys() == {"vbf_center", "adf_center"}
    assert seen["together"]["adf_center"] == pytest.approx([44, 46], abs=0.2)
    assert seen["alone"].keys() == {"vbf_center"} or seen["alone"].keys() == {"adf_center"}


def test_what_waits_is_dashed_and_a_tick_switches_a_method(seen):
    assert seen["waiting"] == [True, False]
    assert seen["tick"] == {"adf_enabled": False}


def test_detectors_that_follow_the_calibration_move_with_it_and_are_resized_in_its_unit(seen):
    assert seen["crosses"] == ["calibration"]
    assert seen["calibration"]["calibration_center"] == pytest.approx([45, 54], abs=0.2)
    assert seen["followed"] == pytest.approx([54, 45], abs=0.2)
    assert seen["radius"] == {"abf_inner": pytest.approx(0.6, abs=0.03)}

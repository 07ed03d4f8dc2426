"""The live window under Xvfb: an operator's path by the mouse, in a session of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from qt_display import on_screen, platform

HERE = Path(__file__).parent

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def seen(folder):
    name, why = platform()
    if why:
        pytest.skip(why)
    environment = {
        **os.environ, "MPLBACKEND": "qtagg", "QT_QPA_PLATFORM": name,
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
    }  # fmt: skip
    command = on_screen([sys.executable, str(HERE / "window_session.py"), str(folder)])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_calibrated_detectors_are_moved_together_by_the_mouse(seen):
    assert seen["one window"]
    assert seen["pattern"] == [96, 96]
    assert seen["calibrated"] == pytest.approx([46.8, 48.9, 15.0], abs=0.2)  # the simulator's truth
    vbf, adf = seen["moved"]
    assert seen["px"] < 0.4  # a screen's, of the pattern's: where a drag begins and ends is rounded to it
    assert vbf == adf == pytest.approx([44.0, 50.0], abs=seen["px"])
    assert "vbf_center (" in seen["said"]
    assert seen["view moved"]


def test_a_detector_resized_in_mid_raster_is_so_from_the_next(seen):
    unchanged, words = seen["waits"]
    assert unchanged
    assert words.startswith("vbf_radius")
    assert words.endswith("px: from the next raster")
    assert seen["list"] == "from the next raster"
    assert seen["radii"] == [1, pytest.approx(1.2, abs=0.02)]
    first, second = seen["means"]
    assert second > 1.02 * first  # it has more of the disk, whose centre is 3 px off
    assert seen["previews"] >= 2


def test_a_scan_refuses_it_with_a_word(seen):
    assert "vbf_radius cannot be set now: scan compares its images" in seen["refused"]
    assert seen["kept"]


def test_the_last_images_the_cursor_a_line_and_a_spectrum(seen):
    back, number, title = seen["back"]
    assert (back, number) == (True, 1)
    assert "looking back" in title
    assert "scan 2, count, event 1" in title
    assert seen["back to"]
    text, value = seen["cursor"]
    assert text == f"scan_y 0.6, scan_x 1 nm [3, 5]: {value:.6g} counts"
    assert seen["profile"] == [True, pytest.approx(6.2)]
    visible, unit, text = seen["spectrum"]
    assert (visible, unit) == (True, "1/nm")
    assert text.endswith("period 0.4 nm")
    assert seen["live"] == [False, True]
    assert seen["levels"] == [True, False]


def test_pictures_are_saved_as_they_are_shown_and_say_what_they_are(seen, folder):
    assert seen["selected"] == "adf"
    name, words = seen["saved"]
    assert name.endswith("_live4d_adf.png")
    assert words == f"saved {folder / name}"
    beside = json.loads((folder / f"{name}.json").read_text())
    assert (beside["key"], beside["units"], beside["scale_bar"], beside["unit"]) == (
        "live4d_adf",
        "counts",
        1.0,
        "nm",
    )
    assert beside["step"] == {"scan_y": 0.2, "scan_x": 0.2, "unit": "nm"}
    assert beside["run"]["plan_name"] == "scan"
    assert beside["values"]["live4d_vbf_radius"]["units"] == "px"
    assert beside["values"]["live4d_vbf_radius"]["value"] == pytest.approx(
        seen["calibrated"][2] * 1.2, rel=0.02
    )
    values = np.load(folder / "adf.npy")
    with Image.open(folder / name) as picture:
        pixels = np.asarray(picture.convert("L"), float)
    assert pixels.shape == (768 + 46, 768)
    grey = pixels[12:768:24, 12:768:24]  # a position is 24 px
    shown = np.clip((values - beside["black"]) / (beside["white"] - beside["black"]), 0, 1)
    assert grey == pytest.approx(255 * shown, abs=2.5)  # a place in a table of 256 greys, rounded down twice
    bar = pixels[768 + 46 - 12, :384]  # words are at the right
    assert (bar == 255).sum() == 120  # 1 nm, of 6.4
    with tifffile.TiffFile(folder / "adf.tif") as file:
        assert file.asarray() == pytest.approx(values.astype(np.float32))
        assert file.imagej_metadata["unit"] == "nm"
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert numerator / denominator == pytest.approx(5.0)  # positions a nm
    assert "a picture is .png, .tif or .tiff" in seen["jpg"]


def test_a_window_that_is_closed_lets_go_of_the_run_engine(seen):
    assert seen["let go"] == [1, 0]  # live_preview stays; its memory is free


def test_a_device_that_was_made_anew_has_a_window_of_its_own(seen):
    assert seen["made anew"] == [True, False, True, 2, 17]

"""Runs written in one process are whole in another, also when the first one died."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
from runs import square_image

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

RUNS = str(Path(__file__).with_name("runs.py"))


def python(home, *arguments):
    directory, environment = home
    command = [sys.executable, *arguments, str(directory)]
    done = forked.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def written(home):
    done = python(home, RUNS, "write")
    return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}


@pytest.fixture(scope="module")
def killed(home, written):
    """A process killed while it exposes its fourth image."""
    directory, environment = home
    process = forked.Popen(
        [sys.executable, RUNS, "hang", str(directory)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout.readline() == "three events\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def found(home, written, killed):
    """(facts, arrays) that a third process finds through ``databroker.catalog["live4d"]``."""
    python(home, RUNS, "read")
    with np.load(home[0] / "read.npz") as arrays:
        return json.loads((home[0] / "read.json").read_text()), dict(arrays)


def uid_of(written, which):
    return written["uids"][which]


def test_square_images_keep_pixels_type_dimensions_and_nan(written, found):
    facts, arrays = found
    uid = uid_of(written, "scan")
    dims, dtype, shape = facts[uid]["streams"]["primary"]["live4d_vbf"]
    assert dims == ["time", "scan_y", "scan_x"]
    assert dtype == "float64"
    assert shape == [2, 32, 32]
    stored = arrays[f"{uid}|primary|live4d_vbf"]
    np.testing.assert_array_equal(stored, [square_image(), square_image()])
    assert np.isnan(stored[:, 3, 5]).all()


def test_numbers_and_motor_positions_lie_beside_the_images(written, found):
    facts, arrays = found
    uid = uid_of(written, "scan")
    assert arrays[f"{uid}|primary|motor"].tolist() == [-1, 1]
    assert facts[uid]["streams"]["primary"]["live4d_vbf_contrast"][:1] == [["time"]]
    assert facts[uid]["stop"]["exit_status"] == "success"


def test_devices_with_different_rasters_share_a_stream(written, found):
    facts, _ = found
    keys = facts[uid_of(written, "two devices")]["streams"]["primary"]
    assert keys["live4d_vbf"][0] == ["time", "scan_y", "scan_x"]
    assert keys["other_vbf"] == [["time", "other_vbf_scan_y", "other_vbf_scan_x"], "float64", [1, 8, 20]]


def test_previews_that_were_asked_for_are_a_second_stream_of_the_run(written, found):
    facts, arrays = found
    uid = uid_of(written, "scan")
    keys = facts[uid]["streams"]["live4d_live"]
    assert keys["live4d_vbf"][0] == ["time", "scan_y", "scan_x"]
    fractions = arrays[f"{uid}|live4d_live|live4d_live_fraction"]
    unseen = np.isnan(arrays[f"{uid}|live4d_live|live4d_vbf"][:, :, 0]).mean(axis=1)
    np.testing.assert_allclose(unseen, 1 - fractions)


def test_a_paused_run_is_complete(written, found):
    facts, arrays = found
    uid = uid_of(written, "paused")
    assert facts[uid]["stop"]["exit_status"] == "success"
    np.testing.assert_array_equal(arrays[f"{uid}|primary|live4d_vbf"], [square_image(), square_image()])


def test_runs_are_found_by_uid_scan_id_and_metadata(written, found):
    facts, _ = found
    for uid in written["uids"].values():
        assert facts[uid]["same by uid"]
        assert facts[uid]["same by scan_id"]
        assert facts[uid]["found by sample"] == [uid]


def test_scan_ids_go_on_in_the_next_session(found):
    facts, _ = found
    assert facts[facts["last"]]["same by scan_id"]
    assert facts["documents"][0] == "start"


def test_a_killed_session_leaves_its_finished_events(written, found, home):
    facts, arrays = found
    uid = facts["last"]
    assert uid not in written["uids"].values()
    assert facts[uid]["stop"] is None
    np.testing.assert_array_equal(arrays[f"{uid}|primary|live4d_vbf"], [square_image()] * 3)
    backups = (home[0] / "state" / "live4d-ophyd" / "backup").rglob("*.jsonl")
    assert [path.name for path in backups] == [f"{uid}.jsonl"]


def test_complete_runs_leave_no_backup(written):
    assert written["backups"] == []


def test_the_lines_that_tell_how_to_get_a_run_back_do_it(found):
    facts, arrays = found
    assert facts["described dims"] == ["time", "scan_y", "scan_x"]
    np.testing.assert_array_equal(arrays["as described"], [square_image(), square_image()])


def test_opening_the_catalog_prints_nothing(written):
    assert written["stderr"] == ""

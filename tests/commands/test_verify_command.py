"""Recorded files are looked at frame by frame."""

import json

import h5py
import numpy as np
from click.testing import CliRunner
from recorded_file import recorded_file

from live4d_ophyd.commands import verify as verify_command
from live4d_ophyd.commands.main import live4d
from live4d_ophyd.recording.frame_sets import FRAMES
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.testing.small_dcu import frames

SCAN = ScanGrid(3, 4)


def verify(*arguments):
    result = CliRunner().invoke(live4d, ["verify", *map(str, arguments)])
    return result.exit_code, result.stdout


def found(*arguments):
    code, text = verify("--json", *arguments)
    return code, json.loads(text)


def test_a_whole_file_is_all_right(tmp_path):
    path = recorded_file(tmp_path / "a.h5", frames(12), SCAN)
    code, words = verify(path)
    assert code == 0
    assert words == f"ok      {path}: 12 frames decode\n"


def test_what_was_lost_or_kept_apart_is_said_and_no_fault(tmp_path):
    path = recorded_file(tmp_path / "a.h5", frames(12), SCAN, lost=[3], corrupt=[5, 7], close=False)
    code, said = found(path)
    assert code == 0
    assert (said["frames"], said["lost"], said["bad"], said["corrupt"]) == (9, 3, 0, 2)
    assert said["complete"] is False
    _, words = verify(path)
    assert "1 are not there; 2 corrupt, kept apart; it was not closed" in words


def test_what_the_disk_did_not_take_is_told_from_what_never_came(tmp_path):
    path = recorded_file(tmp_path / "a.h5", frames(12), SCAN, lost=[3, 4, 8], came=np.arange(12) != 8)
    code, said = found(path)
    assert (code, said["frames"], said["lost"], said["unrecorded"]) == (0, 9, 3, 2)
    _, words = verify(path)
    assert "1 lost: they never came; 2 not recorded: they came, and the disk was too slow" in words


def test_frames_of_all_channels_are_looked_at(tmp_path):
    first, second, third = frames(12), frames(12, seed=1), frames(12, seed=2)
    path = recorded_file(
        tmp_path / "a.h5", first, SCAN, others={"threshold_2": second, "none": third}, lost=[3, 15, *range(24, 36)],
        corrupt=[17],
    )  # fmt: skip
    code, said = found(path)
    assert (code, said["frames"], said["lost"], said["corrupt"], said["wrong"]) == (0, 21, 15, 1, "")
    with h5py.File(path) as file:
        place = file["/entry/data_threshold_2/data_000001"].id.get_chunk_info(4).byte_offset
    with open(path, "r+b") as file:
        file.seek(place + 12)
        file.write(b"\xff" * 100)
    code, said = found(path)
    assert (code, said["bad"]) == (1, 1)
    assert said["wrong"].startswith(
        "1 frames of /entry/data_threshold_2/data_000001 are not what it says: frame "
    )


def test_a_frame_that_was_damaged_later_is_found(tmp_path):
    path = recorded_file(tmp_path / "a.h5", frames(12), SCAN)
    with h5py.File(path) as file:
        place = file[FRAMES].id.get_chunk_info(4).byte_offset
    with open(path, "r+b") as file:
        file.seek(place + 12)
        file.write(b"\xff" * 100)
    code, said = found(path)
    assert code == 1
    assert (said["frames"], said["bad"]) == (11, 1)
    assert "frame 4 is good, and cannot be decoded" in said["wrong"]


def test_what_is_no_file_of_frames_is_named(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"nothing")
    result = CliRunner().invoke(live4d, ["verify", str(tmp_path / "a.h5")])
    assert result.exit_code == 1
    assert "is no HDF5 file" in result.output


def test_a_file_is_looked_at_without_the_settings_of_its_live_image(tmp_path):
    pixels = frames(4)
    pixels[1, 0, 0] = 65535
    mask = {"dtype": "|b1", "shape": [1, 1], "zlib": "x"}
    notes = {"saturated": "nan", "gain": "nonsense", "pixel_mask": mask}
    path = recorded_file(tmp_path / "a.h5", pixels, ScanGrid(2, 2), notes=notes)
    assert verify(path) == (0, f"ok      {path}: 4 frames decode\n")


def test_scans_of_more_frames_than_a_row_may_have_are_looked_at():
    assert verify_command._grid_of(1440000).size == 1440000

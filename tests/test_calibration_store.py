"""Calibrations are kept by name over sessions: whole or not at all, converted where exact, refused where not."""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from live4d_ophyd import Calibration, NoSuchCalibration, StoredCalibration, calibrations
from live4d_ophyd.calibration_store import folder, free_name, read_calibration, write_calibration

KNOWN = Calibration(
    (30.25, 41.5), 12.5, 0.8, ellipticity=1.02, ellipse_angle=33.0, rotation=-12.0, transpose=True, semiangle=10.0,
    camera_length=1.5, energy=200e3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _data_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def stored(name="gold", **others):
    rng = np.random.default_rng(71)
    mask = np.zeros((64, 66), bool)
    mask[3, 4] = mask[20, 21] = True
    gain = rng.uniform(0.9, 1.1, (64, 66))
    gain[3, 4] = np.nan
    values = {
        "shape": (64, 66),
        "bad_pixels": "spread",
        "pixel_mask": mask,
        "gain": gain,
        "runs": "flat_field=1a2b",
    }
    return StoredCalibration(name, KNOWN, **{**values, **others})


def test_all_of_it_comes_back():
    before = stored(detector="ARINA E-1")
    path = write_calibration(before)
    assert path == folder() / "gold.json"
    after = read_calibration("gold")
    assert after.calibration == KNOWN
    for name in ("name", "shape", "bad_pixels", "runs", "detector", "uid", "saved"):
        assert getattr(after, name) == getattr(before, name)
    np.testing.assert_array_equal(after.pixel_mask, before.pixel_mask)
    np.testing.assert_array_equal(after.gain, before.gain)
    assert after.pixel_mask.dtype == bool
    assert [child.name for child in folder().iterdir()] == ["gold.json"]  # nothing half written is left
    assert folder().stat().st_mode & 0o77 == 0


def test_what_is_not_known_stays_so():
    write_calibration(StoredCalibration("little", Calibration(rotation=3.0)))
    after = read_calibration("little")
    assert (after.calibration, after.shape, after.pixel_mask, after.gain) == (
        Calibration(rotation=3.0), None, None, None,
    )  # fmt: skip


def test_a_name_that_is_taken_is_refused_unless_it_shall_be_overwritten():
    first, second = stored(), stored()
    write_calibration(first)
    write_calibration(first)  # the same again, as after a pause
    with pytest.raises(FileExistsError, match=r"there is a calibration 'gold' already.*overwrite=True"):
        write_calibration(second)
    assert read_calibration("gold").uid == first.uid
    write_calibration(second, overwrite=True)
    assert read_calibration("gold").uid == second.uid


def test_the_list_has_the_newest_first_and_leaves_out_what_cannot_be_read(caplog):
    assert re.fullmatch("no calibration is stored in .*", repr(calibrations()))
    for name, when in (("old", 1e9), ("new", 1.5e9)):
        write_calibration(stored(name, saved=when))
    (folder() / "broken.json").write_text('{"live4d_calibration": 1, "name": "broken"')
    with caplog.at_level(logging.WARNING):
        found = calibrations()
    assert [one.name for one in found] == ["new", "old"]
    assert "broken.json cannot be read" in caplog.text
    assert (
        repr(found)
        .splitlines()[0]
        .startswith(
            "'new': radius 12.50 px, 0.8 mrad/px, rotation -12.0 deg, 2 bad px, flat field (saved 2017-07-14"
        )
    )


def test_an_unknown_name_is_answered_with_those_that_there_are():
    with pytest.raises(NoSuchCalibration, match=r"no calibration 'gold' in .*: there is none yet"):
        read_calibration("gold")
    for name in ("2026-11-28 200 kV 20 mrad", "2026-11-28 80 kV 20 mrad", "x"):
        write_calibration(stored(name))
    with pytest.raises(
        NoSuchCalibration, match="there are '2026-11-28 200 kV 20 mrad', '2026-11-28 80 kV 20 mrad'"
    ):
        read_calibration("2026-11-27 200 kV 20 mrad")


@pytest.mark.parametrize(
    "name", ["", "../gold", "a/b", ".gold", "gold ", "x" * 101, "\u91d1" * 90, "new\nline", None]
)
def test_names_that_are_none_are_refused(name):
    with pytest.raises(ValueError, match="a calibration cannot be called"):
        stored(name)
    with pytest.raises(ValueError, match="a calibration cannot be called"):
        read_calibration(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"live4d_calibration": 2}, "of another version"),
        ({"calibration": {"bf_radius": -1}}, "bf_radius of the calibration is -1"),
        ({"calibration": {"colour": 1}}, "colour"),
        ({"pixel_mask": {"dtype": "|O", "shape": [1], "zlib": ""}}, "numbers of the type object"),
        ({"shape": []}, "list index out of range"),
        ({"shape": [0, 66], "pixel_mask": None, "gain": None}, r"frames of \(0, 66\) px"),
        ({"bad_pixels": "mend"}, "bad_pixels is 'mend'; expected one of exclude, spread"),
        ({"saved": 1e300}, "expected Unix time"),
        ({"shape": [3, 4]}, "pixel_mask of the calibration 'gold' has the shape"),
        ({"gain": None, "uid": None, "saved": "now"}, "could not convert string to float"),
    ],
)  # fmt: skip
def test_a_file_that_holds_none_is_refused_with_the_reason(change, words):
    path = write_calibration(stored())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(
        ValueError, match=f"the calibration in .*gold.json cannot be read .*{words}.*: measure it anew"
    ):
        read_calibration("gold")


def test_a_file_that_is_copied_has_the_name_of_its_copy():
    write_calibration(stored()).rename(folder() / "copper.json")
    assert read_calibration("copper").name == "copper"
    assert [one.name for one in calibrations()] == ["copper"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_ARRAY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["|b1", "<f8", "|O", "<M8", "3f8", "(", ",", ""]) | _JSON,
        "shape": st.lists(st.integers(-2, 70), max_size=3) | _JSON,
        "zlib": st.sampled_from(["", "====", "eJwDAAAAAAE="]) | _JSON,
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["calibration", "shape", "bad_pixels", "pixel_mask", "gain", "runs", "uid", "saved"]),
        _JSON | _ARRAY | st.dictionaries(st.sampled_from([*asdict(KNOWN)]), _JSON),
        min_size=1,
    )
)
def test_whatever_a_file_holds_is_a_calibration_or_refused_by_its_name(change):
    path = write_calibration(stored(), overwrite=True)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused = None
    try:
        found = read_calibration("gold")
    except ValueError as error:
        refused = error
    if refused is not None:
        assert "gold.json cannot be read" in str(refused)
        return
    assert str(found).startswith("'gold': ")
    with suppress(ValueError):
        found.on((32, 33))


# Frames of another binning -------------------------------------------------------------------------------


def test_positions_follow_a_binning_exactly_and_a_square_with_a_bad_pixel_is_bad():
    binned = stored(gain=None).on((32, 33))
    assert binned.calibration.center == (14.875, 20.5)  # (c + 0.5) / 2 - 0.5
    assert (binned.calibration.bf_radius, binned.calibration.mrad_per_px) == (6.25, 1.6)
    assert binned.calibration.rotation == -12.0
    assert np.argwhere(binned.pixel_mask).tolist() == [[1, 2], [10, 10]]
    assert binned.shape == (32, 33)
    no_bad = stored(gain=None, pixel_mask=None).on((32, 33)).on((64, 66))
    assert no_bad.calibration == KNOWN


def test_a_binning_with_pixels_left_over():
    rest = StoredCalibration("rest", KNOWN, shape=(65, 67), pixel_mask=np.ones((65, 67), bool)).on((32, 33))
    assert rest.pixel_mask.shape == (32, 33)


def test_the_same_frames_and_frames_that_are_not_known_change_nothing():
    one = stored()
    assert one.on((64, 66)) is one
    assert one.on(None) is one


@pytest.mark.parametrize(
    ("others", "shape", "words"),
    [
        ({}, (48, 50), "no binning makes one of the other. Calibrate on these"),
        ({}, (32, 66), "no binning makes one of the other"),
        ({}, (32, 33), r"its flat field is not that of the 2 x 2 squares.*gain=False"),
        ({"gain": None}, (128, 132), "which of the pixels in a bad square are bad is not known"),
    ],
)
def test_what_does_not_fit_is_refused(others, shape, words):
    with pytest.raises(
        ValueError, match=f"is of frames of 64 x 66 px, .* {shape[0]} x {shape[1]}: .*{words}"
    ):
        stored(**others).on(shape)


# Names ---------------------------------------------------------------------------------------------------


def test_a_name_is_made_of_what_is_known():
    noon = 1795867200.0  # 2026-11-28 12:00 UTC
    assert re.fullmatch(r"2026-11-2[789] 200 kV 10 mrad", free_name(KNOWN, noon))
    assert re.fullmatch(r"2026-11-2[789]", free_name(Calibration(), noon))
    write_calibration(stored(free_name(KNOWN, noon)))
    assert free_name(KNOWN, noon).endswith(" 200 kV 10 mrad (2)")


def test_a_method_without_a_rotation_has_that_of_the_calibration():
    assert KNOWN.turn(None, False) == (-12.0, True)
    assert KNOWN.turn(5.0, False) == (5.0, False)
    assert Calibration().turn(None, True) == (None, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ellipticity", 0.9),
        ("rotation", float("inf")),
        ("transpose", 1),
        ("semiangle", 0),
        ("energy", "200 kV"),
    ],
)
def test_what_no_calibration_can_be(field, value):
    with pytest.raises(ValueError, match=f"{field} of the calibration is {value!r}"):
        Calibration(**{field: value})

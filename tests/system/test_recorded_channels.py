"""Recorded frames of several channels are found in the catalog, each under a key of its own."""

from contextlib import closing

import bluesky.plans as bp
import numpy as np
import pytest
from fake_device import run_engine

from live4d_ophyd import Disk, Live4D, ScanGrid, image, open_catalog
from live4d_ophyd.storage import record
from live4d_ophyd.testing.small_dcu import SmallDcu, end, frames, start
from live4d_ophyd.testing.small_dcu import image as image_message

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def test_frames_of_each_channel_are_read_from_the_catalog(tmp_path, monkeypatch):
    monkeypatch.setattr("tiled.profiles.paths", [tmp_path / "profiles"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LIVE4D_PROFILE", "test")
    low, high = frames(12), frames(12, seed=7)
    db = open_catalog(tmp_path / "catalog", name="test")
    with closing(db.context), closing(SmallDcu()) as dcu, run_engine() as RE:
        record(RE, db)
        live4d = Live4D(
            dcu.endpoint, name="live4d", scan=ScanGrid(3, 4), methods=[Disk("vbf", center=(12, 16), radius=6)],
            channels=("threshold_1", "difference"), record=str(tmp_path / "m.h5"), backend="cpu", timeout=30.0,
        )  # fmt: skip
        with closing(live4d):
            both = [{"threshold_1": a, "difference": b} for a, b in zip(low, high)]
            sent = [image_message(None, n, channels=channels) for n, channels in enumerate(both)]
            dcu.send([start(number_of_images=12), *sent, end()])
            RE(bp.count([live4d]))
        run = db[-1]
        for key, pixels in (("live4d_raw", low), ("live4d_raw_difference", high)):
            raw = run["primary"][key]
            np.testing.assert_array_equal(np.asarray(raw[0, 2, 3]), pixels[11], err_msg=key)
            assert raw.shape == (1, 3, 4, 24, 32)
        found = image(run, "vbf_difference")
        weights = Disk("vbf", center=(12, 16), radius=6).weights((24, 32))
        np.testing.assert_array_equal(found.values.ravel(), (high * weights).sum(axis=(1, 2)))
        assert found.attrs["channel"] == "difference"
        assert found.attrs["detector_radius"] == 6

"""A Live4D with all its data keys and a simulated detector's settings, whose images are made here: no engine runs."""

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device

from live4d_ophyd import Live4D
from live4d_ophyd.device.signals import Number
from live4d_ophyd.device.statuses import RasterStatus
from live4d_ophyd.engine import RasterResult
from live4d_ophyd.engine.results import Losses
from live4d_ophyd.engine.series_record import SeriesRecord

ROWS, COLS = 6, 9
INFO = SeriesRecord(
    unique_id="01M8", channel="threshold_1", detector="ARINA E-01", energy=80e3, threshold=40e3,
    count_time=20e-6, frame_time=25e-6, saturation=4095.0, pixels_masked=3, pixel_mask="ab12", detector_mask="cd34",
)  # fmt: skip


def picture(number, detector):
    """Image ``number`` (from 0) of the detector's index; all values differ, and one position has none."""
    image = 1000.0 * (number + 1) + 100 * detector + np.arange(ROWS * COLS, dtype=float).reshape(ROWS, COLS)
    image[2, 3] = np.nan
    return image


class Canned(Live4D):
    """Each trigger gives the next `picture`; 1 frame of each raster is lost."""

    taken = 0

    def _engine(self, timeout=60.0):
        self.backend.put("cpu")
        self.backend_detail.put("made in a test")
        self.versions.put("live4d-ophyd 0.1.0, numpy 2")

    def image(self, detector):
        return picture(self.taken, detector)

    def trigger(self):
        status = RasterStatus(self)
        self.taken_with.begin(self.settings_now() | self.detector.as_armed())
        images = {
            name: self.image(n) if output.dims else np.array(float(n))
            for n, (name, output) in enumerate(self.outputs().items())
        }
        losses = Losses(expected=ROWS * COLS, received=ROWS * COLS - 1, lost=1, bad=0, beyond=0, saturated=2)
        raster = RasterResult(
            self.taken, images, losses, self.taken + 1, 3e4, "cpu", dropped=0, info=INFO
        )  # fmt: skip
        self.publish(raster)
        self.taken += 1
        status.set_finished()
        return status


class Column(Device):
    """A microscope with the names that a baseline may use."""

    beam_energy = Cpt(Number, value=80.0, units="keV", kind="normal")
    camera_length = Cpt(Number, value=200.0, units="mm", kind="normal")
    convergence_angle = Cpt(Number, value=21.5, units="mrad", kind="normal")
    magnification = Cpt(Number, value=2e6, kind="normal")
    defocus = Cpt(Number, value=0.0, units="nm", kind="normal")
    stage_x = Cpt(Number, value=12.0, units="nm", kind="normal")

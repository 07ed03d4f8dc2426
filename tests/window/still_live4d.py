"""A Live4D with all of its settings, whose rasters are over at once: it needs no engine."""

import numpy as np

from live4d_ophyd import Live4D, ScanGrid
from live4d_ophyd.device.statuses import TellingStatus


class StillLive4D(Live4D):
    """``taken`` has the readings of settings that each raster was triggered with; ``at_trigger`` is called before."""

    def __init__(self, *args, at_trigger=lambda: None, **kwargs):
        super().__init__(*args, **kwargs)
        self.taken = []
        self.at_trigger = at_trigger

    def stage(self):
        return [self]

    def unstage(self):
        return [self]

    def trigger(self):
        self.taken.append({key: reading["value"] for key, reading in self.settings_now().items()})
        self.at_trigger()
        rows, cols = self.grid().shape
        self.put_outputs(
            {
                name: np.full((rows, cols), len(self.taken))
                for name in self.outputs()
                if name in ("vbf", "adf")
            }
        )
        status = TellingStatus(self)
        status.set_finished()
        return status


def still_live4d(*methods, **kwargs):
    return StillLive4D("tcp://127.0.0.1:9", name="live4d", scan=ScanGrid(4, 6), methods=methods, **kwargs)

"""A session with Qt windows: one count with previews, then what was drawn where, as JSON on the last line."""

import json
import sys
import threading

import matplotlib

matplotlib.use("qtagg")

import matplotlib.pyplot as plt
import numpy as np
from bluesky import RunEngine
from bluesky import plans as bp
from fake_device import FakeLive4D

from live4d_ophyd.live import Live4DBestEffortCallback, live_preview
from live4d_ophyd.live.panel import ImageFigure


def main():
    plt.ion()
    threads, masked = set(), []
    show = ImageFigure.show

    def watched_show(self, panels):
        threads.add(threading.current_thread().name)
        masked.extend(float(np.isnan(panel.image).mean()) for panel in panels.values())
        show(self, panels)

    ImageFigure.show = watched_show
    RE = RunEngine({})
    device = FakeLive4D(name="live4d", shape=(32, 48), rows_per_s=40)
    RE.preprocessors.append(live_preview([device], max_rate=10))
    RE.subscribe(Live4DBestEffortCallback(max_rate=10))
    RE(bp.count([device]))
    figure = plt.figure("live4d images")
    for _ in range(5):
        figure.canvas.flush_events()
    if len(sys.argv) > 1:
        figure.canvas.grab().save(sys.argv[1])
    result = {
        "backend": matplotlib.get_backend(),
        "visible": figure.canvas.isVisible(),
        "threads": sorted(threads),
        "masked": masked,
        "title": figure.axes[0].get_title(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

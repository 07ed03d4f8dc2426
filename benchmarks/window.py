"""What the live window costs: how late the RunEngine's loop is beside it, and what drawing takes.

``xvfb-run -a -s "-screen 0 1600x1000x24" python -m benchmarks.window``: JSON. A device whose previews change ten
times a second, four images of 512 x 512, with NaN where no frame came yet; no engine runs, so that nothing else takes
the cores.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from statistics import median

import bluesky.plans as bp
import matplotlib
import numpy as np

from benchmarks.loop import LoopWatch
from live4d_ophyd import Annulus, Disk, Live4D, Live4DBestEffortCallback, ScanGrid, live_preview
from live4d_ophyd.device.statuses import TellingStatus
from live4d_ophyd.live.panel import ImageFigure, Panel, ScanAxes

SIDE, IMAGES, SECONDS, HZ = 512, 4, 10.0, 10
NAMES = [f"d{n}" for n in range(IMAGES)]


class Previewing(Live4D):
    """Rasters of `SECONDS`, made up."""

    def stage(self):
        return [self]

    def unstage(self):
        return [self]

    def request_preview(self):
        pass

    def trigger(self):
        status = TellingStatus(self)
        threading.Thread(target=self._raster, args=(status,), daemon=True).start()
        return status

    def _raster(self, status):
        whole = np.random.default_rng(1).poisson(1000, (IMAGES, SIDE, SIDE)).astype(float)
        steps = round(SECONDS * HZ)
        for step in range(1, steps):
            seen = whole.copy()
            seen[:, SIDE * step // steps :] = np.nan
            self.preview.update(dict(zip(NAMES, seen)), step / steps)
            time.sleep(1 / HZ)
        self.put_outputs(dict(zip(NAMES, whole)))
        status.set_finished()


def device():
    methods = [
        Disk(NAMES[0], radius=15),
        *(Annulus(name, inner=20, outer=30 + n) for n, name in enumerate(NAMES[1:])),
    ]
    return Previewing("tcp://127.0.0.1:9", name="live4d", scan=ScanGrid(SIDE, SIDE), methods=methods)


def timed(call, into):
    """A callback that notes how long it holds the RunEngine's thread, ms."""

    def callback(name, doc):
        begin = time.perf_counter()
        call(name, doc)
        into.append(1e3 * (time.perf_counter() - begin))

    return callback


def beside(kind):
    """A raster with previews: how late the loop was, and how long callbacks took of its thread."""
    from bluesky import RunEngine

    from live4d_ophyd import live_window

    RE, live4d, held, window = RunEngine({}), device(), [], None
    RE.preprocessors.append(live_preview([live4d], max_rate=HZ))
    if kind == "window":
        subscribe = RE.subscribe
        RE.subscribe = lambda callback, name="all": subscribe(timed(callback, held), name)
        window = live_window(live4d, RE)
        RE.subscribe = subscribe
    if kind == "figures":
        bec = Live4DBestEffortCallback(max_rate=HZ)
        RE.subscribe(timed(bec, held))
    watch = LoopWatch(RE.loop)
    events = []
    RE.subscribe(lambda name, doc: events.append(name), "event")
    RE(bp.count([live4d]))  # the first makes the window
    held.clear()
    events.clear()
    began = time.process_time()
    with watch.watching():
        RE(bp.count([live4d]))
    found = {"events": len(events), "cpu_share": (time.process_time() - began) / SECONDS, **watch.report()}
    if held:
        found |= {"held_ms_median": median(held), "held_ms_longest": max(held)}
    if window is not None:
        window.close()
    return found


def median_ms(draw, number=30):
    draw()
    took = []
    for _ in range(number):
        begin = time.perf_counter()
        draw()
        took.append(1e3 * (time.perf_counter() - begin))
    return {"median_ms": median(took), "longest_ms": max(took)}


def drawing():
    """Four images, new values each time, to the screen: by pyqtgraph as in the window, and by matplotlib."""
    import matplotlib.pyplot as plt
    from pyqtgraph.Qt import QtWidgets

    from live4d_ophyd.window.image_panel import ImagePanel, View

    app = QtWidgets.QApplication.instance()
    images = np.random.default_rng(1).poisson(1000, (8, IMAGES, SIDE, SIDE)).astype(float)
    images[:, :, SIDE // 2 :] = np.nan
    turn = iter(range(10**6))
    whole = QtWidgets.QWidget()
    grid = QtWidgets.QGridLayout(whole)
    panels = [ImagePanel(name) for name in NAMES]
    for place, panel in enumerate(panels):
        grid.addWidget(panel, place // 2, place % 2)
    whole.resize(960, 800)
    whole.show()
    app.processEvents()

    def by_pyqtgraph():
        for panel, image in zip(panels, images[next(turn) % 8]):
            panel.show_view(View(image, ScanAxes(), "counts"))
        for panel in panels:
            panel.graphics.viewport().repaint()

    found = {"pyqtgraph": median_ms(by_pyqtgraph)}
    whole.close()
    plt.ion()
    figure = ImageFigure("drawing", NAMES, window=True, percentiles=(0.5, 99.5))

    def by_matplotlib():
        figure.show(
            {name: Panel(image, ScanAxes(), "counts") for name, image in zip(NAMES, images[next(turn) % 8])}
        )
        figure.redraw("a run")
        figure.figure.canvas.draw()
        figure.figure.canvas.repaint()

    found["matplotlib"] = median_ms(by_matplotlib)
    plt.close("all")
    return found


if __name__ == "__main__":
    matplotlib.use("qtagg")
    kinds = sys.argv[1:] or ["nothing", "window", "figures"]
    result = {kind: beside(kind) for kind in kinds}
    print(json.dumps({"beside a raster": result, "drawing": drawing()}, indent=1))

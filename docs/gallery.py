"""`make gallery`: the pictures of docs/how-to/imaging.md, from one simulated scan, as a session would take it."""

import sys
import tempfile
from pathlib import Path

import bluesky.plans as bp
import matplotlib
import numpy as np
from bluesky import RunEngine
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from live4d_ophyd import ABF, ADF, BF, DPC, IDPC, CenterOfMass, Disk, Live4D, MeanPattern, ScanGrid, Simplon
from live4d_ophyd.live.color_wheel import draw_legend, wheel_colors
from live4d_ophyd.plans import calibrate_bright_field
from live4d_ophyd.sim import SimulatorProcess

SIDE, STEP_NM, SEMIANGLE_MRAD = 128, 0.1, 10.0
#: colour bars, in parts of the image's sides; data keys of the grey images and their titles
BAR = (1.03, 0.0, 0.045, 1.0)
SHOWN = {"bf": "BF", "abf": "ABF", "adf": "ADF", "idpc": "iDPC"}


def scan():
    """The data of one Event, and the device as it was: calibrated first, then scanned."""
    events = []
    RE = RunEngine({})
    with SimulatorProcess(rows=SIDE, cols=SIDE, step=STEP_NM, beam_current=200.0, seed=5) as simulator:
        live4d = Live4D(
            simulator.stream_endpoint, name="live4d", scan=ScanGrid(SIDE, SIDE, step=STEP_NM, unit="nm"),
            methods=[
                BF("bf"), ABF("abf"), ADF("adf"), CenterOfMass("com", Disk("all", radius=3, unit="bf")),
                DPC("dpc"), IDPC("idpc", unit="rad"), MeanPattern("pattern"),
            ],
            control=Simplon(simulator.rest_url), timeout=60.0,
        )  # fmt: skip
        live4d.wait_for_connection()
        RE(calibrate_bright_field(live4d, "bf", semiangle=SEMIANGLE_MRAD))
        RE(bp.count([live4d]), lambda name, doc: events.append(doc) if name.startswith("event") else None)
        live4d.close()
    data = {key.removeprefix("live4d_"): value for key, value in events[-1]["data"].items()}
    return {key: value[0] if isinstance(value, list) else value for key, value in data.items()}


def draw(data, path):
    """Six panels into a PNG file."""
    figure = Figure(figsize=(13, 7.4), layout="constrained")
    # The layout does not see the colour bars, as they are inside of axes: room for their labels.
    figure.get_layout_engine().set(wspace=0.07, hspace=0.04, rect=(0.01, 0, 0.985, 1))
    axes = figure.subplots(2, 3)
    extent = (0, SIDE * STEP_NM, SIDE * STEP_NM, 0)
    for ax, (key, title) in zip([axes[0, 0], axes[0, 1], axes[0, 2], axes[1, 1]], SHOWN.items()):
        image = np.asarray(data[key])
        low, high = np.nanpercentile(image, (0.5, 99.5))
        drawn = ax.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent)
        # As high as the image, whatever room the layout leaves beside it.
        figure.colorbar(drawn, cax=ax.inset_axes(BAR), label="rad" if key == "idpc" else "counts")
        ax.set(title=title, xlabel="scan_x [nm]", ylabel="scan_y [nm]")
    wheel = axes[1, 0]
    wheel.imshow(
        wheel_colors(np.asarray(data["dpc_angle"]), np.asarray(data["dpc_magnitude"])), extent=extent
    )
    wheel.set(title="centre of mass (DPC)", xlabel="scan_x [nm]", ylabel="scan_y [nm]")
    draw_legend(wheel.inset_axes((1.04, 0.76, 0.24, 0.24)))
    pattern = axes[1, 2]
    drawn = pattern.imshow(np.log10(np.asarray(data["pattern"]) + 1e-3), cmap="magma")
    figure.colorbar(drawn, cax=pattern.inset_axes(BAR), label="log10 counts a frame")
    center = data["abf_center_col_px"], data["abf_center_row_px"]
    for key, length, color in (
        ("abf", "inner", "cyan"), ("abf", "outer", "cyan"), ("adf", "inner", "lime"), ("adf", "outer", "lime"),
        ("bf", "radius", "black"),
    ):  # fmt: skip
        style = "--" if key == "bf" else "-"
        circle = Circle(center, data[f"{key}_{length}_px"], fill=False, color=color, lw=1.2, ls=style)
        pattern.add_patch(circle)
    for text, color in (("BF", "black"), ("ABF", "cyan"), ("ADF", "lime")):
        pattern.plot([], [], color=color, label=text)
    pattern.legend(loc="upper right", fontsize="small", facecolor="lightgrey")
    pattern.set(title="mean pattern, virtual detectors", xlabel="q_x [px]", ylabel="q_y [px]")
    draft = Path(tempfile.mkstemp(suffix=".png")[1])
    figure.savefig(draft, dpi=100)
    path.write_bytes(draft.read_bytes())
    draft.unlink()


if __name__ == "__main__":
    matplotlib.use("agg")
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "images" / "gallery.png")
    found = scan()
    print(
        {
            key: float(found[key])
            for key in ("dpc_rotation_used", "dpc_transpose_used", "dpc_curl", "dpc_skewness")
        }
    )
    draw(found, out)
    print(out)

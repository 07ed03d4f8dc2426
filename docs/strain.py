"""`make gallery`: the picture of strain in docs/how-to/imaging.md, and how far the maps are from the true ones.

A simulated crystal with known strain, scanned through the device: the lattice is calibrated, then mapped by windows and
by edges of the disks from the same frames.
"""

import sys
import tempfile
from pathlib import Path

import bluesky.plans as bp
import matplotlib
import numpy as np
from bluesky import RunEngine
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from live4d_ophyd import Live4D, MeanPattern, ScanGrid, Simplon, Strain
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.strain import strains
from live4d_ophyd.plans import calibrate_lattice
from live4d_ophyd.sim import SimulatorProcess
from live4d_ophyd.sim.crystal import Crystal
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, truth
from live4d_ophyd.sources.source import SeriesInfo

SIDE, STEP_NM = 64, 1.2
MICROSCOPE, DETECTOR = Microscope(semiangle_mrad=2.0), Detector(128, 128, bf_radius_px=8.0)
MAPS = {"e_rr": "e_rr", "e_cc": "e_cc", "e_rc": "e_rc", "theta": "rotation"}


def scan():
    """The data of one Event by the names of the outputs."""
    events = []
    RE = RunEngine({})
    with SimulatorProcess(
        rows=SIDE, cols=SIDE, step=STEP_NM, shape=(DETECTOR.rows, DETECTOR.cols), bf_radius=DETECTOR.bf_radius,
        semiangle=MICROSCOPE.semiangle_mrad, specimen="crystal", beam_current=100.0, seed=17,
    ) as simulator:  # fmt: skip
        live4d = Live4D(
            simulator.stream_endpoint, name="live4d", scan=ScanGrid(SIDE, SIDE, step=STEP_NM, unit="nm"),
            methods=[Strain("strain"), Strain("edges", refine=True), MeanPattern("pattern")],
            control=Simplon(simulator.rest_url), timeout=120.0,
        )  # fmt: skip
        live4d.wait_for_connection()
        for name in ("strain", "edges"):
            RE(calibrate_lattice(live4d, name))
        RE(bp.count([live4d]), lambda name, doc: events.append(doc) if name.startswith("event") else None)
        live4d.close()
    data = {key.removeprefix("live4d_"): value for key, value in events[-1]["data"].items()}
    return {key: value[0] if isinstance(value, list) else value for key, value in data.items()}


def true_maps():
    """Of the crystal, relative to the median of the scan; NaN in vacuum."""
    crystal, true = Crystal(), truth(MICROSCOPE, DETECTOR)
    pixel_nm = true.window_nm / DETECTOR.window
    positions = Scan(SIDE, SIDE, STEP_NM).positions_nm()
    lattices = crystal.reciprocal(pixel_nm) @ np.linalg.inv(crystal.deformation(positions, pixel_nm))
    lattices[crystal.is_vacuum(positions, pixel_nm)] = np.nan
    values = strains(lattices, np.nanmedian(lattices, axis=0), 0.0, False).T.reshape(4, SIDE, SIDE)
    return dict(zip(MAPS, (*values[:3], np.degrees(values[3]))))


def off(data, true, name):
    """Measured less true strain and rotation (rad), of positions that have both, by map."""
    found = {key: np.asarray(data[f"{name}_{key}"]) - true[key] for key in MAPS}
    found["theta"] = np.radians(found["theta"])
    return {key: values[np.isfinite(values)] for key, values in found.items()}


def draw(data, true, path):
    """Measured and true maps, what is beside them, and how far they are apart, into a PNG file."""
    figure = Figure(figsize=(14, 10), layout="constrained")
    axes = figure.subplots(3, 4)
    extent = (0, SIDE * STEP_NM, SIDE * STEP_NM, 0)
    colors = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#8f8f8f")
    for column, (key, title) in enumerate(MAPS.items()):
        largest = np.nanpercentile(np.abs(true[key]), 99.5)
        for row, (image, of) in enumerate(((data[f"edges_{key}"], "measured"), (true[key], "true"))):
            ax, scale = axes[row, column], 1 if key == "theta" else 100
            drawn = ax.imshow(
                np.asarray(image) * scale,
                cmap=colors,
                vmin=-largest * scale,
                vmax=largest * scale,
                extent=extent,
            )
            figure.colorbar(drawn, ax=ax, shrink=0.8, label="deg" if key == "theta" else "%")
            ax.set(title=f"{title}, {of}", xlabel="scan_x [nm]", ylabel="scan_y [nm]")
    for ax, key, label in ((axes[2, 0], "residual", "px"), (axes[2, 1], "indexed", "part of the disks")):
        grey = matplotlib.colormaps["viridis"].with_extremes(bad="#8f8f8f")
        image = np.asarray(data[f"edges_{key}"])
        drawn = ax.imshow(image, cmap=grey, vmin=0, vmax=np.nanpercentile(image, 99.5), extent=extent)
        figure.colorbar(drawn, ax=ax, shrink=0.8, label=label)
        ax.set(title=key, xlabel="scan_x [nm]", ylabel="scan_y [nm]")
    ax = axes[2, 2]
    drawn = ax.imshow(np.log10(np.asarray(data["pattern"]) + 1e-3), cmap="magma")
    figure.colorbar(drawn, ax=ax, shrink=0.8, label="log10 counts a frame")
    center, g1, g2 = (
        (data[f"strain_{key}_row"], data[f"strain_{key}_col"]) for key in ("center", "g1", "g2")
    )
    method = Strain("strain", center, g1=g1, g2=g2, radius=data["strain_radius"])
    frame = FrameFormat(DETECTOR.rows, DETECTOR.cols, np.dtype("uint16"))
    windows = method.windows_on(SeriesInfo((1, 0), frame))
    for row, col in windows.at:
        ax.add_patch(Circle((col, row), windows.reach, fill=False, color="cyan", lw=1))
    ax.set(title="mean pattern, windows", xlabel="q_x [px]", ylabel="q_y [px]")
    ax = axes[2, 3]
    for name, label in (("strain", "windows"), ("edges", "edges")):
        error = off(data, true, name)["e_rr"] * 100
        ax.hist(error, np.linspace(-1.5, 1.5, 61), histtype="step", label=f"{label}, rms {error.std():.2f} %")
    ax.set_ylim(top=1.4 * ax.get_ylim()[1])  # room for the legend
    ax.legend(fontsize="small", loc="upper center")
    ax.set(title="e_rr, measured less true", xlabel="%", ylabel="positions")
    draft = Path(tempfile.mkstemp(suffix=".png")[1])
    figure.savefig(draft, dpi=80)
    path.write_bytes(draft.read_bytes())
    draft.unlink()


if __name__ == "__main__":
    matplotlib.use("agg")
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "images" / "strain.png")
    found, known = scan(), true_maps()
    for name in ("strain", "edges"):
        words = [f"{key} {e.std():.1e} ({e.mean():+.0e})" for key, e in off(found, known, name).items()]
        print(f"{name}: rms (mean) of {', '.join(words)}; mapped {found[f'{name}_mapped']:.3f}")
    draw(found, known, out)
    print(out)

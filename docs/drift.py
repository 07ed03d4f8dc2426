"""`make gallery`: the picture of drift in docs/how-to/imaging.md, and what was found beside what is true.

A movie of a drifting specimen by the simulator's patterns, through the method as the engine feeds it, raster by raster.
"""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from live4d_ophyd import Drift, ScanGrid
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen, truth

SIDE, STEP_NM, RASTERS, ELECTRONS = 96, 0.25, 12, 8.0
#: nm a raster at the beginning and at the end, (row, col)
SPEEDS = np.array([[0.55, -0.25], [0.1, 0.4]])
MICROSCOPE, DETECTOR, SPECIMEN = Microscope(), Detector(96, 96), Specimen()
GRID = ScanGrid(SIDE, SIDE, step=STEP_NM, unit="nm")


def drift_at(rasters):
    """Where the specimen is after so many rasters, (..., 2) nm: its speed changes evenly."""
    part = np.asarray(rasters)[..., np.newaxis] / RASTERS
    return RASTERS * (part * SPEEDS[0] + part**2 / 2 * (SPEEDS[1] - SPEEDS[0]))


def movie():
    """Dark-field counts of each raster, what is expected of one without drift, and the true drift of each, nm."""
    true, optics = truth(MICROSCOPE, DETECTOR), Optics(SPECIMEN, MICROSCOPE, DETECTOR)
    y, x = np.indices((96, 96))
    far = np.hypot(y - true.bf_center[0], x - true.bf_center[1]) / true.bf_radius
    ring = (far > 1.2) & (far <= 3)
    positions = Scan(SIDE, SIDE, STEP_NM).positions_nm()
    time = np.arange(GRID.size) / GRID.size

    def dark_field(at):
        parts = [optics.quantised(part) for part in np.array_split(at, 16)]
        patterns = (
            (part.amplitudes[:, ring].astype(np.float32) ** 2).sum(axis=1) * part.units for part in parts
        )
        return np.concatenate(list(patterns)).reshape(SIDE, SIDE)

    # What the middle of the first raster shows is scanned later when it has moved to later rows.
    number = np.arange(RASTERS) + 0.5
    moved = np.zeros((RASTERS, 2))
    for _ in range(8):
        moved = drift_at(number + moved[:, 0] / STEP_NM / SIDE) - drift_at(0.5)
    images = np.array([dark_field(positions - drift_at(time + number)) for number in range(RASTERS)])
    still = dark_field(positions - drift_at(0.5))
    rng = np.random.default_rng(4)
    scale = ELECTRONS / still.mean()
    return rng.poisson(images * scale).astype(float), still * scale, moved


def followed(images):
    """What the method gives of each raster."""
    method, fit, given = Drift("drift", "adf", strips=3), None, []
    for image in images:
        fit = method.refit(None, GRID, {"adf": image}, fit, lambda: False)
        given.append(method.results(None, GRID, {"adf": image}, fit))
        fit = method.next_raster(fit)
    return given


def draw(images, still, true, given, path):
    """Four panels into a PNG file."""
    plain, corrected = images.mean(axis=0), given[-1]["drift"]
    seen = np.isfinite(corrected)

    def like(image):
        return np.corrcoef(image[seen], still[seen])[0, 1]

    figure = Figure(figsize=(14.5, 4.4), layout="constrained")
    axes = figure.subplots(1, 4)
    extent = (0, SIDE * STEP_NM, SIDE * STEP_NM, 0)
    titles = (
        f"plain mean of {RASTERS}, correlation {like(plain):.2f}",
        f"corrected, correlation {like(corrected):.2f}",
        "without drift and noise",
    )
    low, high = np.percentile(still, (0.5, 99.5))
    for ax, image, title in zip(axes, (plain, corrected, still), titles):
        drawn = ax.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent)
        ax.set(title=title, xlabel="scan_x [nm]", ylabel="scan_y [nm]")
    figure.colorbar(drawn, ax=axes[:3], shrink=0.8, label="counts a raster")
    found = np.array([[float(outputs[f"drift_{axis}"]) for axis in ("row", "col")] for outputs in given])
    for axis, (name, color) in enumerate((("row", "C0"), ("col", "C1"))):
        axes[3].plot(np.arange(1, RASTERS + 1), true[:, axis], color=color, label=f"{name}, true")
        axes[3].plot(
            np.arange(1, RASTERS + 1), found[:, axis], "o", color=color, mfc="none", label=f"{name}, found"
        )
    axes[3].set(title="drift", xlabel="raster", ylabel="nm", xticks=range(1, RASTERS + 1))
    axes[3].legend()
    draft = Path(tempfile.mkstemp(suffix=".png")[1])
    figure.savefig(draft, dpi=90)
    path.write_bytes(draft.read_bytes())
    draft.unlink()
    off = np.abs(found - true).max() / STEP_NM
    return [
        *titles,
        f"drift off by at most {off:.3f} positions; largest drift {np.abs(true).max() / STEP_NM:.1f}",
    ]


if __name__ == "__main__":
    matplotlib.use("agg")
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "images" / "drift.png")
    taken, expected, where = movie()
    print(*draw(taken, expected, where, followed(taken), out), out, sep="\n")

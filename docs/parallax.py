"""`make gallery`: the picture of parallax and single sidebands in docs/how-to/imaging.md, with the true numbers beside.

Patterns of the simulator, 300 A from focus with 60 A of astigmatism, the scan turned by 12 degrees, through the method
as the engine feeds it: a quarter of the rows, and all.
"""

import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import map_coordinates

from live4d_ophyd import Calibration, Parallax, ScanGrid
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen, truth
from live4d_ophyd.sources.source import SeriesInfo

SIDE, STEP_NM, ELECTRONS, ROTATION = 96, 0.1, 2e4, -12.0
MICROSCOPE = Microscope(
    defocus_nm=30.0, astigmatism_nm=6.0, astigmatism_angle_deg=29.0, semiangle_mrad=20.0, energy_eV=300e3
)
DETECTOR = Detector(96, 96, bf_radius_px=15.0)
#: single weak atoms, hardly a film: larger things have their phase in frequencies that no defocus of this size passes
SPECIMEN = Specimen(
    seed=11, size_nm=20.0, radius_nm=(0.09, 0.11), coverage=0.12, atoms_per_nm3=110.0, atom_phase_rad_nm2=0.004,
    film_atoms_per_nm2=1.0,
)  # fmt: skip


def scan():
    """Frames, and the specimen's phase at the positions."""
    positions = Scan(SIDE, SIDE, STEP_NM, rotation_deg=ROTATION).positions_nm()
    kept = Optics(SPECIMEN, MICROSCOPE, DETECTOR).quantised(positions)
    rng = np.random.default_rng(3)
    frames = np.stack(
        [
            rng.poisson(amplitudes.astype(float) ** 2 * (unit * ELECTRONS)).astype(np.uint16)
            for amplitudes, unit in zip(kept.amplitudes, kept.units)
        ]
    )
    nm_per_px = truth(MICROSCOPE, DETECTOR).window_nm / DETECTOR.window
    phase = SPECIMEN.phase(nm_per_px)
    at = map_coordinates(phase, positions.T / nm_per_px, order=3, mode="grid-wrap")
    return frames, at.reshape(SIDE, SIDE)


def parallax(frames):
    """Results of the first quarter of the rows, and of all."""
    true, grid = truth(MICROSCOPE, DETECTOR), ScanGrid(SIDE, SIDE, step=STEP_NM, unit="nm")
    series = SeriesInfo(
        (1, 0), FrameFormat(96, 96, frames.dtype), len(frames), energy=MICROSCOPE.energy_eV,
        calibration=Calibration(true.bf_center, true.bf_radius, true.mrad_per_px),
    )  # fmt: skip
    method = Parallax("parallax", ssb=True)
    tiles, part = method.demand(series, grid).bands, method.accumulator(series, grid, None)
    results, fit = [], None
    for rows in np.split(np.arange(grid.size), [grid.size // 4]):
        sums = [frames[rows, first : first + len(tile)][:, tile].sum(axis=1) for first, tile in tiles]
        part.add(rows, np.stack(sums, axis=1))
        fit = method.refit(series, grid, [part], fit, lambda: False)
        results.append(method.results(series, grid, [part], fit))
    return results


TRUE = f"C10 -300.0 A, C12 60.0 A at {MICROSCOPE.astigmatism_angle_deg + ROTATION:.1f} deg, rotation {ROTATION:.2f} deg"


def in_words(found):
    c10, c12, phi12, turn = (
        float(found[f"parallax_{key}"]) for key in ("C10", "C12", "phi12", "rotation_used")
    )
    return f"C10 {c10:.1f} A, C12 {c12:.1f} A at {np.degrees(phi12):.1f} deg, rotation {turn:.2f} deg"


def draw(frames, phase, found, path):
    """Bright field, parallax, the phase from single sidebands and the true one into a PNG file."""
    true = truth(MICROSCOPE, DETECTOR)
    y, x = np.indices(frames.shape[1:])
    disk = np.hypot(y - true.bf_center[0], x - true.bf_center[1]) <= true.bf_radius
    vbf = frames[:, disk].sum(axis=1).reshape(SIDE, SIDE)
    inner = np.s_[8:-8, 8:-8]

    def like(image):
        return np.corrcoef(image[inner].ravel(), phase[inner].ravel())[0, 1]

    ssb = found["parallax_phase"]
    slope = np.polyfit(phase[inner].ravel(), ssb[inner].ravel(), 1)[0]
    figure = Figure(figsize=(10.5, 9.6), layout="constrained")
    axes = figure.subplots(2, 2).flat
    titles = (
        f"bright field, correlation {round(like(vbf), 2) + 0.0:.2f}",
        f"parallax, correlation {like(found['parallax']):.2f}",
        f"single sidebands, correlation {like(ssb):.2f}, slope {slope:.2f}",
        "phase of the specimen, less its mean",
    )
    shown_images = (vbf, found["parallax_fine"], ssb, phase - phase.mean())
    range_of_phases = np.percentile(shown_images[2:], (0.5, 99.5))
    for ax, shown, title, label in zip(axes, shown_images, titles, ("counts", "", "rad", "rad")):
        low, high = range_of_phases if label == "rad" else np.nanpercentile(shown, (0.5, 99.5))
        extent = (0, SIDE * STEP_NM, SIDE * STEP_NM, 0)
        drawn = ax.imshow(shown, cmap="gray", vmin=low, vmax=high, extent=extent)
        figure.colorbar(drawn, ax=ax, shrink=0.8, label=label)
        ax.set(title=title, xlabel="scan_x [nm]", ylabel="scan_y [nm]")
    figure.suptitle(f"true:  {TRUE}\nfound: {in_words(found)}", family="monospace", fontsize="medium")
    draft = Path(tempfile.mkstemp(suffix=".png")[1])
    figure.savefig(draft, dpi=90)
    path.write_bytes(draft.read_bytes())
    draft.unlink()
    return titles


if __name__ == "__main__":
    matplotlib.use("agg")
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "images" / "parallax.png")
    taken, specimen = scan()
    first, whole = parallax(taken)
    print(f"true: {TRUE}")
    print(f"after {SIDE // 4} rows: {in_words(first)}")
    print(f"after {SIDE} rows: {in_words(whole)}")
    print(*draw(taken, specimen, whole, out), f"largest phase {np.ptp(specimen):.2f} rad", out, sep="\n")

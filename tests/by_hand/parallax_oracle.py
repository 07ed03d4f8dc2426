"""`make oracles` and `make quantem`: our parallax beside that of libertem-parallax, py4DSTEM and quantem, of the same
simulated frames. Three parts, as all need an older NumPy than we do, and quantem torch:

    PYTHONPATH=tests/imaging python tests/by_hand/parallax_oracle.py ours DIR    frames, what is true, and ours
    python tests/by_hand/parallax_oracle.py theirs DIR    libertem-parallax and py4DSTEM: writes DIR/parallax.json
    python tests/by_hand/parallax_oracle.py quantem DIR   quantem's fit: adds to it

libertem-parallax fits nothing: it is given what ours found. It wraps at the edges of the scan, where ours ends, so sums
are compared where nothing was wrapped.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

SEEDS, SIDE, STEP, ELECTRONS = range(501, 509), 64, 1.0, 2e4
#: A, A, rad, degrees; of frames whose disk is about the middle of a pixel, which libertem-parallax expects
EXACT = {"C10": -300.0, "C12": 60.0, "phi12": 0.29, "rotation": -12.0}
ENERGY, SEMIANGLE, RADIUS = 300e3, 20.0, 15.0
#: of the disk, in which both have the same pixels
USED = 0.95
UPSAMPLINGS = 1, 2


# Ours ---------------------------------------------------------------------------------------------


def ours(folder: Path) -> None:
    from test_parallax_bars import GRID, simulated
    from weak_phase import taken

    from live4d_ophyd.imaging.parallax import Parallax

    folder.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        defocus, astigmatism = rng.uniform(15, 45) * rng.choice([-1, 1]), rng.uniform(1, 6)
        angle, rotation = rng.uniform(-90, 90), rng.uniform(-60, 60)
        scan = simulated(seed, defocus, astigmatism, angle, rotation)
        method = Parallax("p", rotation=rotation)
        parts = taken(method, scan.frames, scan.series, GRID)
        began = time.process_time()
        fit = method.refit(scan.series, GRID, parts, None, lambda: False)
        took = time.process_time() - began
        images = method.results(scan.series, GRID, parts, fit)
        np.savez(
            folder / f"parallax-{seed}.npz",
            frames=scan.frames.reshape(SIDE, SIDE, *scan.frames.shape[1:]),
            phase=scan.phase,
            center=scan.series.calibration.center,
            mrad=scan.series.calibration.mrad_per_px,
            true=[scan.c10, abs(scan.c12), np.angle(scan.c12) / 2, scan.rotation],
            found=[fit.c10, fit.c12, fit.phi12, fit.rotation],
            seconds=took,
            image=images["p"],
        )
    exact(folder)


def exact(folder: Path) -> None:
    """Sums of all pixels after the shifts of known aberrations, less the mean of each frame: nothing is fitted."""
    from weak_phase import Truth, phase_of_atoms, scan_of, taken

    from live4d_ophyd.imaging.accumulators import Scatter
    from live4d_ophyd.imaging.parallax import Parallax, placed
    from live4d_ophyd.imaging.sidebands import probe_of

    rng = np.random.default_rng(SEEDS[0])
    truth = Truth(EXACT["C10"], EXACT["C12"], EXACT["phi12"], EXACT["rotation"])
    phase = phase_of_atoms((SIDE + 32, SIDE + 32), STEP, rng)
    shape, center = (40, 40), (20.0, 20.0)
    frames, series, grid = scan_of(
        phase, STEP, truth, radius=RADIUS, center=center, shape=shape, electrons=ELECTRONS, rng=rng
    )
    method = Parallax("p", radius=USED, tiles=4096)
    tiles = method.tiles_on(series)
    assert (tiles.pixels == 1).all(), "a tile is to be a pixel here"
    stack = Scatter.merged(taken(method, frames, series, grid), grid, len(tiles.maps)).astype(float)
    stack -= stack.mean(axis=0)
    turn = np.radians(truth.rotation)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = probe_of(truth.c10, truth.c12, truth.phi12) @ turned
    shifts = tiles.at * (SEMIANGLE * 1e-3 / RADIUS) @ matrix.T / STEP
    ones = np.ones(len(stack))
    np.savez(
        folder / "parallax-exact.npz",
        frames=frames.reshape(SIDE, SIDE, *shape),
        far=np.ceil(np.abs(shifts).max()),
        pixels=len(stack),
        **{f"sum {by}": placed(stack, ones, shifts, grid.shape, by) for by in UPSAMPLINGS},
    )


# Theirs -------------------------------------------------------------------------------------------


def of_libertem(
    frames: np.ndarray, mrad: float, aberrations: dict[str, float], by: int, flip: bool = False, **options
) -> np.ndarray:
    """The sum; the disk is about the pixel N // 2."""
    from libertem.api import Context
    from libertem_parallax import ParallaxPhaseFlipUDF, ParallaxUDF
    from libertem_parallax.utils import electron_wavelength

    per_px = mrad * 1e-3 / electron_wavelength(ENERGY)
    udf = ParallaxUDF.from_parameters(
        frames.shape,
        scan_sampling=(STEP, STEP),
        energy=ENERGY,
        semiangle_cutoff=SEMIANGLE * USED,
        reciprocal_sampling=(per_px, per_px),
        aberration_coefs={key: aberrations[key] for key in ("C10", "C12", "phi12")},
        rotation_angle=np.radians(aberrations["rotation"]),
        upsampling_factor=by,
        **options,
    )
    if flip:
        udf = ParallaxPhaseFlipUDF.from_parallax_udf(udf)
    context = Context.make_with("inline")
    dataset = context.load("memory", data=frames.astype(np.float64), sig_dims=2)
    return np.asarray(context.run_udf(dataset, udf)["reconstruction"].data)


def about_the_middle(frames: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Rolled so that the direct beam is as near as can be to the pixel N // 2."""
    by = [size // 2 - round(float(at)) for size, at in zip(frames.shape[2:], center)]
    return np.roll(frames, by, axis=(2, 3))


def of_py4dstem(data: dict[str, np.ndarray]) -> tuple[list[float], np.ndarray, float]:
    import py4DSTEM

    mrad = float(data["mrad"])
    cube = py4DSTEM.DataCube(data["frames"].astype(np.float32))
    cube.calibration.set_Q_pixel_size(mrad)
    cube.calibration.set_Q_pixel_units("mrad")
    cube.calibration.set_R_pixel_size(STEP)
    cube.calibration.set_R_pixel_units("A")
    began = time.process_time()
    parallax = py4DSTEM.process.phase.Parallax(
        energy=ENERGY, datacube=cube, device="cpu", object_padding_px=(16, 16), verbose=False
    )
    parallax.preprocess(
        edge_blend=4,
        threshold_intensity=0.5,
        descan_correction_fit_function="plane",
        plot_average_bf=False,
    )
    parallax.reconstruct(min_alignment_bin=4, plot_aligned_bf=False, progress_bar=False)
    parallax.aberration_fit(max_radial_order=2, plot_CTF_comparison=False)
    took = time.process_time() - began
    c12 = complex(parallax.aberrations_C12a, parallax.aberrations_C12b)
    rotation = float(np.degrees(parallax.rotation_Q_to_R_rads))
    found = [float(parallax.aberrations_C1), abs(c12), np.angle(c12) / 2, rotation]
    parallax.aberration_correct(plot_corrected_phase=False)
    image = np.asarray(parallax.recon_phase_corrected)
    start = [(size - SIDE) // 2 for size in image.shape]
    image = image[start[0] : start[0] + SIDE, start[1] : start[1] + SIDE]
    return found, image, took


def of_quantem(data: dict[str, np.ndarray]) -> tuple[list[float], float]:
    """Its fit by gradients, which begins 15 % from the true C10, 5 degrees from the rotation, without astigmatism."""
    from quantem.core.datastructures import Dataset4d
    from quantem.diffractive_imaging.direct_ptychography import DirectPtychography

    mrad = float(data["mrad"])
    dataset = Dataset4d.from_array(
        data["frames"].astype(np.float32),
        sampling=(STEP, STEP, mrad, mrad),
        units=("A", "A", "mrad", "mrad"),
    )
    direct = DirectPtychography.from_dataset4d(
        dataset,
        energy=ENERGY,
        semiangle_cutoff=SEMIANGLE,
        aberration_coefs={"C10": 0.85 * float(data["true"][0]), "C12": 0.0, "phi12": 0.0},
        rotation_angle=float(data["true"][3]) + 5.0,
        force_fitted_origin=tuple(data["center"].tolist()),
        verbose=False,
    )
    began = time.process_time()
    direct.fit_hyperparameters_gradient(
        parameters=("C10", "C12", "phi12", "rotation_angle"), use_initial_state=True
    )
    took, state = time.process_time() - began, direct.hyperparameter_state
    found = [float(state.optimized_aberrations[key]) for key in ("C10", "C12", "phi12")]
    return [*found, float(state.optimized_rotation_angle)], took


# The table ----------------------------------------------------------------------------------------


def apart(found: list[float], true: list[float]) -> dict[str, float]:
    """Of C10 relative, of C12 as a vector in A, of the rotation in degrees; of the two solutions the nearer one."""
    c10, c12, phi12, rotation = found
    turns = round((rotation - true[3]) / 180)
    if turns % 2:  # half a turn further all of the probe has the other sign
        c10, phi12 = -c10, phi12 + np.pi / 2
    return {
        "C10, %": 100 * abs(c10 - true[0]) / abs(true[0]),
        "C12, A": abs(c12 * np.exp(2j * phi12) - true[1] * np.exp(2j * true[2])),
        "rotation, degrees": abs(rotation - 180 * turns - true[3]),
    }


def like(image: np.ndarray, other: np.ndarray, found: list[float]) -> float:
    """Their correlation where no shift led over the edge of the scan."""
    far = math.ceil((abs(found[0]) + found[1]) * SEMIANGLE * 1e-3 * USED / STEP)
    inner = np.s_[far:-far, far:-far]
    return float(np.corrcoef(image[inner].ravel(), other[inner].ravel())[0, 1])


def table(rows: list[dict[str, float]], worst: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return {
        key: {"median": float(np.median(values)), "worst": worst(values)} for key, values in columns.items()
    }


def scans(folder: Path) -> list[dict[str, np.ndarray]]:
    return [dict(np.load(folder / f"parallax-{seed}.npz")) for seed in SEEDS]


def theirs(folder: Path) -> None:
    data = dict(np.load(folder / "parallax-exact.npz"))
    sums = {}
    for by in UPSAMPLINGS:
        own = data[f"sum {by}"]
        other = of_libertem(data["frames"], SEMIANGLE / RADIUS, EXACT, by, suppress_Nyquist_noise=False)
        inside = np.s_[(edge := int(data["far"]) * by) : -edge, edge:-edge]
        sums[f"upsampling {by}"] = {
            "largest difference, counts": float(np.abs(own - other)[inside].max()),
            "rms of the sum, counts": float(other[inside].std()),
            "pixels compared": int(own[inside].size),
        }
    print(json.dumps(sums, indent=1), flush=True)
    fits: dict[str, list[dict[str, float]]] = {"ours": [], "py4DSTEM": []}
    images: list[dict[str, float]] = []
    seconds: dict[str, list[float]] = {"ours": [], "py4DSTEM": []}
    for seed, scan in zip(SEEDS, scans(folder)):
        found, py4dstem, took = of_py4dstem(scan)
        for key, values, of in (
            ("ours", scan["found"].tolist(), float(scan["seconds"])),
            ("py4DSTEM", found, took),
        ):
            fits[key].append(apart(values, scan["true"].tolist()))
            seconds[key].append(of)
        given = dict(zip(("C10", "C12", "phi12", "rotation"), scan["found"].tolist()))
        rolled = about_the_middle(scan["frames"], scan["center"])
        libertem = {
            f"libertem-parallax, {name}": of_libertem(rolled, float(scan["mrad"]), given, 1, flip)
            for name, flip in (("not flipped", False), ("flipped", True))
        }
        shown = {"ours": scan["image"], "py4DSTEM": py4dstem, **libertem}
        images.append(
            {key: like(image, scan["phase"], scan["found"].tolist()) for key, image in shown.items()}
        )
        images[-1]["libertem-parallax, flipped, with ours"] = like(
            libertem["libertem-parallax, flipped"], scan["image"], scan["found"].tolist()
        )
        print(seed, fits["ours"][-1], fits["py4DSTEM"][-1], images[-1], flush=True)
    report = {
        "versions": {name: version(name) for name in ("libertem-parallax", "libertem", "py4DSTEM", "numpy")},
        "frames": f"{SIDE} x {SIDE}, {STEP:g} A, {ELECTRONS:g} electrons, a disk of {RADIUS:g} px, {len(SEEDS)} seeds",
        "sums of libertem-parallax beside ours": {"pixels of the disk": int(data["pixels"]), **sums},
        "off the truth": {key: table(rows, max) for key, rows in fits.items()},
        "C10 as it is, and by how much each was off, %": [
            [float(scan["true"][0]), *(rows[n]["C10, %"] for rows in fits.values())]
            for n, scan in enumerate(scans(folder))
        ],
        "correlation": table(images, min),
        "CPU seconds of a fit": {key: float(np.median(of)) for key, of in seconds.items()},
    }
    (folder / "parallax.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def quantem(folder: Path) -> None:
    report, rows, seconds = json.loads((folder / "parallax.json").read_text()), [], []
    for seed, scan in zip(SEEDS, scans(folder)):
        found, took = of_quantem(scan)
        rows.append(apart(found, scan["true"].tolist()))
        seconds.append(took)
        print(seed, rows[-1], f"{took:.0f} s", flush=True)
    report["versions"] |= {name: version(name) for name in ("quantem", "torch")}
    report["off the truth"]["quantem"] = table(rows, max)
    report["CPU seconds of a fit"]["quantem"] = float(np.median(seconds))
    (folder / "parallax.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


PARTS: dict[str, Callable[[Path], None]] = {"ours": ours, "theirs": theirs, "quantem": quantem}

if __name__ == "__main__":
    PARTS[sys.argv[1]](Path(sys.argv[2]))

"""`make oracles`: our images beside those of LiberTEM and py4DSTEM, of the same simulated frames. Two halves, as both
need an older NumPy than we do:

    python tests/by_hand/oracles.py ours DIR     in our environment: frames, and what our methods give
    python tests/by_hand/oracles.py theirs DIR   in theirs: what they give; prints a table, writes DIR/oracles.json
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

SIDE, STEP_NM, ELECTRONS, ROTATION = 64, 0.1, 2e4, 17.0


def ours(folder: Path) -> None:
    from live4d_ophyd.calibration import Calibration
    from live4d_ophyd.frames.format import FrameFormat
    from live4d_ophyd.imaging.center_of_mass import CenterOfMass
    from live4d_ophyd.imaging.dpc import DPC, IDPC
    from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
    from live4d_ophyd.scan import ScanGrid
    from live4d_ophyd.sim.patterns import Optics
    from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen, truth
    from live4d_ophyd.sources.source import SeriesInfo

    microscope, detector = Microscope(), Detector(96, 96)
    true = truth(microscope, detector)
    positions = Scan(SIDE, SIDE, STEP_NM, rotation_deg=ROTATION).positions_nm()
    patterns = Optics(Specimen(), microscope, detector).quantised(positions).patterns
    frames = np.random.default_rng(11).poisson(patterns * ELECTRONS).astype(np.uint16)
    scan = ScanGrid(SIDE, SIDE, step=STEP_NM, unit="nm")
    calibration = Calibration(true.bf_center, true.bf_radius, true.mrad_per_px)
    series = SeriesInfo(
        (1, 0), FrameFormat(96, 96, np.dtype("uint16")), energy=microscope.energy_eV, calibration=calibration
    )
    found = {}
    for method in (
        Disk("bf", radius=15.0),
        Annulus("adf", inner=18.0, outer=45.0),
        CenterOfMass("com", Disk("all", radius=200)),
    ):
        sums = [
            (frames[:, first : first + len(band)].astype(np.int64) * band).sum(axis=(1, 2))
            for first, band in method.demand(series, scan).bands
        ]
        accumulator = method.accumulator(series, scan, None)
        accumulator.add(np.arange(scan.size), np.stack(sums, axis=1))
        found |= method.results(series, scan, [accumulator])
    for name, dpc in (("dpc", DPC("dpc", descan="constant")), ("plane", DPC("dpc"))):
        fit = dpc.refit(series, scan, found, None, lambda: False)
        images = dpc.results(series, scan, found, fit)
        found |= {key.replace("dpc", name): value for key, value in images.items()}
    found |= IDPC("idpc", unit="rad", high_pass=0.0).results(series, scan, found)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "oracles.npz", frames=frames.reshape(SIDE, SIDE, 96, 96), center=true.bf_center, mrad=true.mrad_per_px,
        **found,
    )  # fmt: skip


def theirs(folder: Path) -> None:
    import py4DSTEM
    from libertem.api import Context
    from libertem.udf.com import CoMUDF, guess_corrections
    from libertem.udf.masks import ApplyMasksUDF

    data = np.load(folder / "oracles.npz")
    frames, (row, col) = data["frames"], data["center"]
    context = Context.make_with("inline")
    dataset = context.load("memory", data=frames, sig_dims=2)
    y, x = np.indices((96, 96))
    away = np.hypot(y - row, x - col)
    masks = [(away <= 15.0), (away > 18.0) & (away <= 45.0)]
    udf = ApplyMasksUDF(
        mask_factories=[lambda m=m: m.astype(np.float64) for m in masks],
        use_sparse=False,
        mask_dtype=np.float64,
    )
    sums = context.run_udf(dataset, udf)["intensity"].data
    com = context.run_udf(dataset, CoMUDF.with_params(cy=row, cx=col, r=np.inf))["raw_shifts"].data
    guessed = guess_corrections(com[..., 0], com[..., 1])
    plane = context.run_udf(dataset, CoMUDF.with_params(cy=row, cx=col, r=np.inf, regression=1))["field"].data

    cube = py4DSTEM.DataCube(frames.astype(np.float32))
    cube.calibration.set_R_pixel_size(STEP_NM * 10)
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_Q_pixel_size(float(data["mrad"]))
    cube.calibration.set_Q_pixel_units("mrad")
    phase = py4DSTEM.process.phase.DPC(datacube=cube, energy=100e3, verbose=False)
    phase.preprocess(fit_function="constant", plot_center_of_mass=False, plot_rotation=False)
    phase.reconstruct(max_iter=64, reset=True)
    theirs = np.asarray(phase.object_phase)[:SIDE, :SIDE] * 2 * np.pi  # it integrates without 2 pi
    theirs_rotation = float(np.degrees(phase._rotation_best_rad))
    ours = data["idpc"]

    def spectrum(image: np.ndarray) -> np.ndarray:
        """Without the lowest frequencies, which depend on what is assumed behind the edges."""
        from scipy.fft import dctn, idctn

        q = (np.arange(SIDE) / (2 * SIDE)) ** 2
        square = q[:, None] + q
        return idctn(dctn(image - image.mean(), norm="ortho") * square / (square + 0.03**2), norm="ortho")

    one, other = spectrum(ours).ravel(), spectrum(theirs).ravel()
    report = {
        "versions": {name: version(name) for name in ("libertem", "py4DSTEM", "numpy", "scipy")},
        "frames": f"{SIDE} x {SIDE} of 96 x 96, {ELECTRONS:g} electrons, rotation {ROTATION:g} deg",
        "sums, largest difference (LiberTEM), counts": float(
            max(np.abs(sums[..., n] - data[key]).max() for n, key in enumerate(("bf", "adf")))
        ),
        "centre of mass, largest difference (LiberTEM), px": float(
            np.abs(com - np.stack([data["com_y"], data["com_x"]], axis=-1)).max()
        ),
        "centre of mass, largest difference (py4DSTEM), px": float(
            max(
                np.abs(phase._com_measured_x - data["com_y"] - row).max(),
                np.abs(phase._com_measured_y - data["com_x"] - col).max(),
            )
        ),
        "plane taken away, largest difference of the length (LiberTEM), px": float(
            np.abs(np.hypot(plane[..., 0], plane[..., 1]) - data["plane_magnitude"]).max()
        ),
        "rotation, deg": {
            "true": ROTATION, "ours": float(data["dpc_rotation_used"]), "py4DSTEM": theirs_rotation,
            "LiberTEM, of the other sign": float(guessed.scan_rotation),
        },
        "iDPC (py4DSTEM times 2 pi), damped: correlation, slope": [
            float(np.corrcoef(one, other)[0, 1]), float(np.polyfit(one, other, 1)[0]),
        ],
    }  # fmt: skip
    (folder / "oracles.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    {"ours": ours, "theirs": theirs}[sys.argv[1]](Path(sys.argv[2]))

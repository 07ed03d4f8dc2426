"""`make quantem`: our phase from single sidebands beside quantem's and LiberTEM's, of the same simulated frames. Two
halves, as both need an older NumPy than we do:

    PYTHONPATH=tests/imaging python tests/by_hand/ssb_oracle.py ours DIR   frames, the true phase, and ours
    python tests/by_hand/ssb_oracle.py theirs DIR                          theirs: prints a table, writes DIR/ssb.json

quantem has every pixel of the disk, and the aberrations and the rotation that our fit found. LiberTEM's knows of no
aberrations: it is compared in focus, where ours is told that there are none, as nothing can be fitted there.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

SEEDS, SIDE, ELECTRONS = range(301, 309), 64, 2e4


def ours(folder: Path) -> None:
    from test_parallax_bars import GRID, simulated
    from weak_phase import taken

    from live4d_ophyd.imaging.parallax import Fit, Parallax, Reason

    folder.mkdir(parents=True, exist_ok=True)
    for seed in [*SEEDS, 0]:
        rng = np.random.default_rng(seed)
        defocus, astigmatism = rng.uniform(15, 45) * rng.choice([-1, 1]), rng.uniform(1, 6)
        angle, rotation = rng.uniform(-90, 90), rng.uniform(-180, 180)
        if seed == 0:
            defocus = astigmatism = rotation = 0.0
        scan, found = simulated(seed or 300, defocus, astigmatism, angle, rotation), {}
        for key, fields in {
            "ours": {},
            "ours, to 1.03 of the radius": {"radius": 1.03},
            "ours, a tile a pixel": {"tiles": 1024, "radius": 1.03},
        }.items():
            method = Parallax("p", ssb=True, rotation=rotation, **fields)
            parts = taken(method, scan.frames, scan.series, GRID)
            fit = method.refit(scan.series, GRID, parts, None, lambda: False)
            if seed == 0:
                fit = Fit(Reason.FITTED, np.zeros((2, 2)), 0.0, 0.0, 0.0, 0.0)
            images = method.results(scan.series, GRID, parts, fit)
            found[key] = images["p_phase"]
            if key == "ours":
                used = {"C10": fit.c10, "C12": fit.c12, "phi12": fit.phi12, "rotation": fit.rotation}
                if seed:
                    found["parallax"] = images["p"]
        row, col = scan.series.calibration.center
        np.savez(
            folder / f"ssb-{seed}.npz",
            frames=scan.frames.reshape(SIDE, SIDE, *scan.frames.shape[1:]),
            phase=scan.phase,
            center=(row, col),
            mrad=scan.series.calibration.mrad_per_px,
            **used,
            **{f"image {key}": image for key, image in found.items()},
        )


def of_quantem(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from quantem.core.datastructures import Dataset4d
    from quantem.diffractive_imaging.direct_ptychography import DirectPtychography

    mrad = float(data["mrad"])
    dataset = Dataset4d.from_array(
        data["frames"].astype(np.float32), sampling=(1.0, 1.0, mrad, mrad), units=("A", "A", "mrad", "mrad")
    )
    direct = DirectPtychography.from_dataset4d(
        dataset,
        energy=300e3,
        semiangle_cutoff=20.0,
        aberration_coefs={key: float(data[key]) for key in ("C10", "C12", "phi12")},
        rotation_angle=float(data["rotation"]),
        force_fitted_origin=tuple(data["center"].tolist()),
        verbose=False,
    )
    images = {}
    for kernel in ("ssb", "obf", "wiener"):
        direct.reconstruct(deconvolution_kernel=kernel, verbose=False)
        images[f"quantem, {kernel}"] = np.squeeze(np.asarray(direct.obj))
    return images


def of_libertem(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from libertem.api import Context
    from ptychography40.reconstruction.ssb import SSB_UDF

    context = Context.make_with("inline")
    dataset = context.load("memory", data=data["frames"].astype(np.float32), sig_dims=2)
    row, col = data["center"].tolist()
    udf = SSB_UDF(
        lamb=1.96875e-12,
        dpix=1e-10,
        semiconv=0.02,
        semiconv_pix=20.0 / float(data["mrad"]),
        cy=row,
        cx=col,
        dtype=np.float32,
    )
    return {"LiberTEM": context.run_udf(dataset, udf)["phase"].data}


def compared(folder: Path, seeds: list[int], of_others) -> dict[str, object]:
    """Correlation with the true phase and with ours of the whole disk, and slope, away from edges: median and least."""
    inner, rows = np.s_[8:-8, 8:-8], []
    for seed in seeds:
        data = dict(np.load(folder / f"ssb-{seed}.npz"))
        images = {key.removeprefix("image "): data[key] for key in data if key.startswith("image ")}
        images |= of_others(data)
        phase, own = data["phase"][inner].ravel(), images["ours, to 1.03 of the radius"][inner].ravel()
        row = {}
        for key, image in images.items():
            values = image[inner].ravel()
            slope = float(np.polyfit(phase, values, 1)[0])
            row[key] = [float(np.corrcoef(values, one)[0, 1]) for one in (phase, own)] + [slope]
        rows.append(row)
        print(seed, {key: [round(value, 3) for value in found] for key, found in row.items()}, flush=True)
    return {
        key: {
            what: [float(np.median(values)), float(np.min(values))]
            for what, values in zip(
                ("correlation with the phase", "with ours of the whole disk", "slope"),
                zip(*(row[key] for row in rows)),
            )
        }
        for key in rows[0]
    }


def theirs(folder: Path) -> None:
    report = {
        "versions": {
            name: version(name) for name in ("quantem", "ptychography40", "libertem", "torch", "numpy")
        },
        "frames": f"{SIDE} x {SIDE}, {ELECTRONS:g} electrons, a disk of 15 px, {len(SEEDS)} seeds",
        "150 to 450 A from focus": compared(folder, list(SEEDS), of_quantem),
        "in focus": compared(folder, [0], of_libertem),
    }
    (folder / "ssb.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    {"ours": ours, "theirs": theirs}[sys.argv[1]](Path(sys.argv[2]))

"""`make oracles` and `make quantem`: our strain beside py4DSTEM's and quantem's, of the same simulated frames, and all
beside the truth. Three parts, as both need an older NumPy than we do, and quantem torch:

    python tests/by_hand/strain_oracle.py ours DIR      in our environment: frames, truth, and what we measure
    python tests/by_hand/strain_oracle.py theirs DIR    py4DSTEM: prints a table, writes DIR/strain.json
    python tests/by_hand/strain_oracle.py quantem DIR   adds quantem's to it
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

SIDE, ELECTRONS, RADIUS, CENTER = 24, 2e4, 8.0, (95.3, 97.1)


def ours(folder: Path) -> None:
    from live4d_ophyd.frames.format import FrameFormat
    from live4d_ophyd.imaging.lattice_fit import fit_lattice
    from live4d_ophyd.imaging.method import Patterns
    from live4d_ophyd.imaging.strain import Strain
    from live4d_ophyd.scan import ScanGrid
    from live4d_ophyd.sim.crystal import Crystal
    from live4d_ophyd.sim.patterns import Optics
    from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, truth
    from live4d_ophyd.sources.source import SeriesInfo

    crystal = Crystal(size_nm=50.0, a_nm=0.4, b_nm=0.4, phase_rad=0.35, fall=0.35, vacuum_nm=0.0)
    microscope, detector = Microscope(semiangle_mrad=2.0, energy_eV=300e3), Detector(192, 192, CENTER, RADIUS)
    optics = Optics(crystal, microscope, detector)
    positions = Scan(SIDE, SIDE, 1.5).positions_nm()
    rng = np.random.default_rng(77)
    parts = (optics.quantised(some).patterns for some in np.array_split(positions, 9))
    frames = np.concatenate([rng.poisson(patterns * ELECTRONS).astype(np.uint16) for patterns in parts])
    basis = crystal.reciprocal(optics.pixel_nm) * truth(microscope, detector).window_nm
    basis[1] *= np.sign(basis[1, 1])
    lattice = fit_lattice(frames.mean(axis=0), len(frames))
    series, scan = SeriesInfo((1, 0), FrameFormat(192, 192, frames.dtype)), ScanGrid(SIDE, SIDE)
    found = {}
    for name, refine in (("windows", False), ("edges", True)):
        g1, g2 = map(tuple, basis.tolist())
        method = Strain(
            "s", lattice.center, g1=g1, g2=g2, radius=lattice.radius, reference="lattice", refine=refine
        )
        demand, part = method.demand(series, scan), method.accumulator(series, scan, None)
        values = frames
        if not isinstance(demand, Patterns):
            values = np.stack(
                [(frames[:, first : first + len(w)] * w).sum(axis=(1, 2)) for first, w in demand.bands],
                axis=1,
            )
        part.add(np.arange(scan.size), values)
        maps = method.results(series, scan, [part])
        found[name] = np.stack([maps["s_e_rr"], maps["s_e_cc"], maps["s_e_rc"], np.radians(maps["s_theta"])])
    folder.mkdir(parents=True, exist_ok=True)
    deformation = crystal.deformation(positions, optics.pixel_nm)
    np.savez(folder / "strain.npz", frames=frames, basis=basis, deformation=deformation, **found)


def components(f: np.ndarray) -> np.ndarray:
    """e_rr, e_cc, e_rc and theta (4, n) of F (n, 2, 2)."""
    return np.array(
        [f[:, 0, 0] - 1, f[:, 1, 1] - 1, (f[:, 0, 1] + f[:, 1, 0]) / 2, (f[:, 1, 0] - f[:, 0, 1]) / 2]
    )


def of_vectors(measured: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Of lattice vectors (positions, 2, 2) the finite tensor, as ours: theirs are of small strain."""
    return components(np.linalg.solve(measured, np.broadcast_to(basis, measured.shape)))


def theirs(folder: Path) -> None:
    import py4DSTEM
    from py4DSTEM import PointList
    from py4DSTEM.braggvectors import Probe
    from py4DSTEM.process.strain import latticevectors

    data = np.load(folder / "strain.npz")
    frames, basis = data["frames"], data["basis"]
    cube = py4DSTEM.DataCube(frames.reshape(SIDE, SIDE, 192, 192).astype(np.float32))
    probe = Probe.generate_synthetic_probe(RADIUS, 1.0, (192, 192))
    kernel = probe.get_kernel(mode="flat", origin=(96, 96))
    began = time.process_time()
    vectors = cube.find_Bragg_disks(
        template=kernel, minAbsoluteIntensity=0.15, minRelativeIntensity=0.002, minPeakSpacing=12, edgeBoundary=10,
        subpixel="multicorr",
    )  # fmt: skip
    vectors.measure_origin(center_guess=CENTER)
    vectors.fit_origin(plot=False)
    vectors.setcal()
    orders = [(h, k) for h in range(-2, 3) for k in range(-2, 3) if h * h + k * k <= 4]
    lattice = PointList(
        np.zeros(len(orders), [("qx", float), ("qy", float), ("g1_ind", int), ("g2_ind", int)])
    )
    lattice.data["qx"], lattice.data["qy"] = (np.array(orders) @ basis).T
    lattice.data["g1_ind"], lattice.data["g2_ind"] = np.array(orders).T
    indexed = latticevectors.add_indices_to_braggvectors(vectors, lattice, maxPeakSpacing=4)
    fitted = latticevectors.fit_lattice_vectors_all_DPs(indexed)
    seconds = time.process_time() - began
    measured = np.stack(
        [fitted.get_slice(name).data.ravel() for name in ("g1x", "g1y", "g2x", "g2y")], axis=1
    )
    py4dstem = of_vectors(measured.reshape(-1, 2, 2), basis)
    true = components(data["deformation"])
    maps = {
        "windows": data["windows"].reshape(4, -1),
        "edges": data["edges"].reshape(4, -1),
        "py4DSTEM": py4dstem,
    }
    report = {
        "versions": {name: version(name) for name in ("py4DSTEM", "numpy")},
        "frames": f"{SIDE} x {SIDE} of 192 x 192, {ELECTRONS:g} electrons, disks of {RADIUS:g} px",
        "rms off the truth: e_rr, e_cc, e_rc, theta (rad)": {
            name: (found - true).std(axis=1).tolist() for name, found in maps.items()
        },
        "mean off the truth": {name: (found - true).mean(axis=1).tolist() for name, found in maps.items()},
        "correlation of the errors with those of py4DSTEM": {
            name: [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(found - true, py4dstem - true)]
            for name, found in maps.items()
            if name != "py4DSTEM"
        },
        "py4DSTEM, frames a second of CPU time": SIDE**2 / seconds,
    }
    (folder / "strain.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def quantem(folder: Path) -> None:
    from quantem.core.datastructures import Dataset4dstem
    from quantem.diffraction.bragg_vectors import BraggVectors

    data = np.load(folder / "strain.npz")
    frames, basis = data["frames"].reshape(SIDE, SIDE, 192, 192).astype(np.float32), data["basis"]
    y, x = np.indices((192, 192))
    probe = np.clip(RADIUS - np.hypot(y - 96, x - 96) + 0.5, 0, 1)
    began = time.process_time()
    vectors = BraggVectors.from_dataset(Dataset4dstem.from_array(frames))
    vectors.make_template_from_probe(probe, center=(96.0, 96.0))
    vectors.detect_disks(
        min_abs_intensity=0.15, min_spacing=12, edge_boundary=10, sigma_cc=1.0, progressbar=False
    )
    vectors.choose_basis_vectors(CENTER, basis[0], basis[1], plot=False)
    vectors.index_peaks(plot=False)
    vectors.fit_lattice(progressbar=False, plot=False)
    seconds = time.process_time() - began
    measured = np.stack([vectors.g1_array, vectors.g2_array], axis=2).reshape(-1, 2, 2)
    there = np.isfinite(measured).all(axis=(1, 2))
    off = of_vectors(measured[there], basis) - components(data["deformation"])[:, there]
    report = json.loads((folder / "strain.json").read_text())
    report["versions"] |= {name: version(name) for name in ("quantem", "torch")}
    report["rms off the truth: e_rr, e_cc, e_rc, theta (rad)"]["quantem"] = off.std(axis=1).tolist()
    report["mean off the truth"]["quantem"] = off.mean(axis=1).tolist()
    report["quantem, part of the positions"] = float(there.mean())
    report["quantem, frames a second of CPU time"] = SIDE**2 / seconds
    (folder / "strain.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    {"ours": ours, "theirs": theirs, "quantem": quantem}[sys.argv[1]](Path(sys.argv[2]))

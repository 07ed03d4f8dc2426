"""`make abtem`: parallax and single sidebands of patterns that abTEM computed by multislice, with its own potentials,
probe and signs, beside what it was told. Two halves, each in an environment of its own:

    python tests/by_hand/abtem_oracle.py frames DIR     abTEM's: patterns, and what is true
    PYTHONPATH=.:tests/imaging python tests/by_hand/abtem_oracle.py ours DIR
                                                        ours: adds counts, prints a table, writes
                                                        benchmarks/results/abtem-oracle.json

abTEM's axes x and y are rows and columns here. The detector has its frame; the scan is turned against it, and with it
phi12. A slice of its multislice refracts at its beginning, so C10 at the specimen is that of the probe, which is at the
first slice, plus the depth of the slices. Pixels are sums of 5 x 5 of abTEM's.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

ENERGY, SEMIANGLE = 300e3, 20.0
#: of the periodic cell and between positions, A
CELL, STEP = 64.0, 0.9
#: abTEM's pixels end at 41 mrad: what comes from beyond 40 cannot meet the direct beam in the disk
GPTS, BINNING, SIDE, ELECTRONS, SEED = 400, 5, 64, 2e4, 41
#: of the detector, px, and abTEM's pixels before that of the direct beam: it is in no pixel's middle
SHAPE, BEFORE = (40, 41), (101, 104)
#: of a slice and of amorphous carbon, A; single atoms on it, and how many of them, 1/A^2
SPECIMENS = {"weak": (2.0, 4.0, "Mo", 0.02), "strong": (4.0, 20.0, "Pt", 0.06)}
#: atoms of the carbon, 1/A^3
DENSITY = 0.1
#: specimen, defocus (A, positive is underfocus), C12 (A), phi12 (degrees, on the detector), rotation (degrees)
SCANS = {
    "+30 nm": ("weak", 300.0, 60.0, 29.0, -12.0),
    "+15 nm": ("weak", 150.0, 20.0, -50.0, 35.0),
    "-20 nm": ("weak", -200.0, 60.0, 75.0, 100.0),
    "+30 nm, strong": ("strong", 300.0, 60.0, 29.0, -12.0),
}
METHODS = {"188 tiles": {}, "188 tiles to 1.03": {"radius": 1.03}, "188 tiles to 0.7": {"radius": 0.7}}


# abTEM --------------------------------------------------------------------------------------------


def atoms_of(slice_: float, thickness: float, symbol: str, per_area: float):
    """A film without order, with atoms at least 1.3 A apart, and in a slice before it single atoms."""
    from ase import Atoms

    rng = np.random.default_rng(SEED)
    places: list[np.ndarray] = []
    count, single = round(DENSITY * CELL**2 * thickness), round(per_area * CELL**2)
    while len(places) < single + count:
        place = rng.uniform(0, 1, 3) * (CELL, CELL, thickness) + (0, 0, slice_)
        apart = 1.3
        if len(places) < single:
            place[2], apart = slice_ / 2, 2.5
        there = np.array(places).reshape(-1, 3) - place
        there[:, :2] -= CELL * np.round(there[:, :2] / CELL)
        if not (np.linalg.norm(there, axis=1) < apart).any():
            places.append(place)
    height = slice_ + thickness
    return Atoms([symbol] * single + ["C"] * count, places, cell=(CELL, CELL, height), pbc=True)


def positions_of(rotation: float) -> np.ndarray:
    """(positions, 2) A on the detector's axes: a vector v there is R v in the scan's frame, as in `parallax`."""
    turn = np.radians(rotation)
    to_scan = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    grid = (np.indices((SIDE, SIDE)).reshape(2, -1).T - (SIDE - 1) / 2) * STEP
    return (grid @ to_scan + CELL / 2) % CELL  # rows are R^T v


def at_positions(phase: np.ndarray, positions: np.ndarray, rotation: float, finest: float) -> np.ndarray:
    """The periodic phase there, without the frequencies (1/A) above ``finest`` along the scan's rows and columns."""
    q = np.fft.fftfreq(GPTS, CELL / GPTS)
    turn = np.exp(1j * np.radians(rotation))
    in_scan = (q[:, np.newaxis] + 1j * q) * turn  # v_y + i v_x turns with the rotation from rows to columns
    inside = (np.abs(in_scan.real) <= finest) & (np.abs(in_scan.imag) <= finest)
    spectrum = np.fft.fft2(phase)[inside] / phase.size
    at = np.argwhere(inside)
    waves = np.stack([q[at[:, 0]], q[at[:, 1]]])
    some = [np.exp(2j * np.pi * (part @ waves)) @ spectrum for part in np.array_split(positions, 100)]
    return np.concatenate(some).real


def binned(fine: np.ndarray) -> np.ndarray:
    """Patterns (n, rows, cols) about their middle pixel on a detector of SHAPE, whose pixels are of BINNING."""
    start = [size // 2 - before for size, before in zip(fine.shape[1:], BEFORE)]
    rows, cols = (slice(first, first + n * BINNING) for first, n in zip(start, SHAPE))
    cut = fine[:, rows, cols]
    assert cut.shape[1:] == tuple(n * BINNING for n in SHAPE), f"{fine.shape} is too few for {SHAPE}"
    return cut.reshape(len(fine), SHAPE[0], BINNING, SHAPE[1], BINNING).sum(axis=(2, 4))


def frames(folder: Path) -> None:
    import abtem
    from abtem.core.energy import energy2sigma

    abtem.config.set({"diagnostics.progress_bar": False, "dask.lazy": False, "fftw.threads": 1})
    folder.mkdir(parents=True, exist_ok=True)
    detector = abtem.PixelatedDetector(max_angle=35.0)
    for number, (key, (specimen, defocus, c12, phi12, rotation)) in enumerate(SCANS.items()):
        began = time.perf_counter()
        atoms, slice_ = atoms_of(*SPECIMENS[specimen]), SPECIMENS[specimen][0]
        potential = abtem.Potential(atoms, gpts=GPTS, slice_thickness=slice_).build(lazy=False)
        slices = energy2sigma(ENERGY) * np.asarray(potential.array, dtype=float)
        phase = slices.sum(axis=0)
        depths = np.arange(len(slices)) * slice_
        middle = float(np.average(depths, weights=slices.var(axis=(1, 2))))
        probe = abtem.Probe(
            energy=ENERGY,
            semiangle_cutoff=SEMIANGLE,
            defocus=defocus,
            astigmatism=c12,
            astigmatism_angle=np.radians(phi12),
        )
        probe.grid.match(potential)
        positions = positions_of(rotation)
        patterns = np.empty((len(positions), *SHAPE), np.float32)
        for part in np.array_split(np.arange(len(positions)), len(positions) // 24):
            measured = probe.scan(
                potential, scan=abtem.CustomScan(positions[part]), detectors=detector, lazy=False
            )
            patterns[part] = binned(np.asarray(measured.array))
        np.savez(
            folder / f"abtem-{number}.npz",
            patterns=patterns,  # parts of the beam
            center=[(before + 0.5) / BINNING - 0.5 for before in BEFORE],
            mrad=measured.angular_sampling[0] * BINNING,
            C10=-defocus + middle,
            middle=middle,
            C12=c12,
            phi12=phi12 + rotation,
            rotation=rotation,
            whole=at_positions(phase, positions, rotation, np.inf).reshape(SIDE, SIDE),
            phase=at_positions(phase, positions, rotation, 0.5 / STEP).reshape(SIDE, SIDE),
            versions=json.dumps({name: version(name) for name in ("abtem", "ase", "numpy")}),
        )
        print(
            f"{key}: {len(slices)} slices, middle {middle:.2f} A, phase rms {phase.std():.3f} rad, "
            f"of the beam recorded {patterns.sum(axis=(1, 2)).mean():.3f}, {time.perf_counter() - began:.0f} s",
            flush=True,
        )


# Ours ---------------------------------------------------------------------------------------------


def ours(folder: Path) -> None:
    from weak_phase import taken

    from benchmarks.report import machine
    from live4d_ophyd.calibration import Calibration
    from live4d_ophyd.frames.format import FrameFormat
    from live4d_ophyd.imaging.parallax import Parallax, Reason
    from live4d_ophyd.scan import ScanGrid
    from live4d_ophyd.sources.source import SeriesInfo

    grid, inner = ScanGrid(SIDE, SIDE, step=STEP / 10, unit="nm"), np.s_[8:-8, 8:-8]
    scans = {}
    for number, key in enumerate(SCANS):
        data = np.load(folder / f"abtem-{number}.npz")
        versions = json.loads(str(data["versions"]))
        counts = np.random.default_rng(SEED + number).poisson(data["patterns"] * ELECTRONS).astype(np.uint16)
        series = SeriesInfo(
            (1, 0),
            FrameFormat(*SHAPE, counts.dtype),
            len(counts),
            energy=ENERGY,
            calibration=Calibration(
                tuple(data["center"].tolist()), SEMIANGLE / float(data["mrad"]), float(data["mrad"])
            ),
        )
        true = {name: float(data[name]) for name in ("C10", "C12", "phi12", "rotation")}
        true["phi12"] -= 180 * round(true["phi12"] / 180)
        bright = counts.sum(axis=(1, 2), dtype=float).reshape(SIDE, SIDE)

        def like(image: np.ndarray, data=data) -> float:
            return float(np.corrcoef(image[inner].ravel(), data["phase"][inner].ravel())[0, 1])

        def slope(image: np.ndarray, data=data) -> float:
            return float(np.polyfit(data["phase"][inner].ravel(), image[inner].ravel(), 1)[0])

        scans[key] = {"true": true, "bright field": like(bright), "phase rms": float(data["phase"].std())}
        scans[key]["whole phase rms"] = float(data["whole"].std())
        for name, fields in METHODS.items():
            method = Parallax("p", ssb=True, **fields)
            # the second one without noise: what is left of its deviation is no matter of electrons
            fits = [
                (parts, method.refit(series, grid, parts, None, lambda: False))
                for parts in (taken(method, some, series, grid) for some in (counts, data["patterns"] * 1e6))
            ]
            found = method.results(series, grid, *fits[0])
            scans[key][name] = {
                "reason": Reason(int(found["p_reason"])).name,
                "C10": float(found["p_C10"]),
                "C10 without noise": fits[1][1].c10,
                "C12": float(found["p_C12"]),
                "phi12": float(np.degrees(found["p_phi12"])),
                "rotation": float(found["p_rotation_used"]),
                "errors": [
                    float(found["p_C10_error"]),
                    float(found["p_C12_error"]),
                    float(np.degrees(found["p_phi12_error"])),
                    float(found["p_rotation_error"]),
                ],
                "image with the phase": like(found["p"]),
                "phase with the phase": like(found["p_phase"]),
                "slope": slope(found["p_phase"]),
            }
    report = {
        "benchmark": "abtem-oracle",
        "command": "make abtem",
        "machine": machine(),
        "versions": versions,
        "frames": f"{SIDE} x {SIDE}, {STEP:g} A, {ELECTRONS:g} electrons, {ENERGY / 1e3:g} keV, {SEMIANGLE:g} mrad, "
        f"a disk of {SEMIANGLE / float(data['mrad']):.2f} px",
        "scans": scans,
    }
    path = Path("benchmarks/results/abtem-oracle.json")
    path.write_text(json.dumps(report, indent=1) + "\n")
    table(scans)
    print(path)


def table(scans: dict) -> None:
    """True and found numbers, the found ones with their errors, and correlations with the phase."""
    for key, scan in scans.items():
        print(
            f"{key}: bright field {scan['bright field']:.3f}, phase {scan['phase rms']:.3f} rad rms below the scan's "
            f"finest frequency, {scan['whole phase rms']:.3f} with all"
        )
        print("  true".ljust(22), *(f"{name} {value:8.2f}".ljust(24) for name, value in scan["true"].items()))
        for name in METHODS:
            found = scan[name]
            values = (
                f"{what} {found[what]:8.2f} +- {error:.2f}".ljust(24)
                for what, error in zip(scan["true"], found["errors"])
            )
            print(f"  {name}".ljust(22), *values, found["reason"])
            print(
                " " * 22,
                f"image {found['image with the phase']:.3f}, phase {found['phase with the phase']:.3f}, "
                f"slope {found['slope']:.3f}; C10 without noise {found['C10 without noise']:.2f}",
            )


if __name__ == "__main__":
    {"frames": frames, "ours": ours}[sys.argv[1]](Path(sys.argv[2]))

"""How far drift that was found is off, beside what a prototype reached: simulated movies with noise, of many seeds.

    python tests/by_hand/drift_bars.py [SEEDS]

Each seed is a specimen, a steady drift of up to 2.5 positions a raster along each axis, and counts: 4 rasters of 64 x
64 positions with 15 electrons a position in annular dark field, and one with the scan turned by 90 degrees. Prints a
table.
"""

from __future__ import annotations

import sys

import numpy as np

from live4d_ophyd.imaging.drift import Followed, MovedSum, path_of
from live4d_ophyd.imaging.drift_pair import drift_of_pair
from live4d_ophyd.imaging.registration import displacement
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, Specimen, truth

SIDE, RASTERS, ELECTRONS, FASTEST = 64, 4, 15.0, 2.5
#: of the seeds; those below 1000 were used while it was written
FIRST = 1000
DETECTOR = Detector(96, 96, bf_radius_px=15.0)
KINDS = {
    "single atoms, step 0.06 nm": (
        0.06,
        Microscope(semiangle_mrad=20.0, energy_eV=300e3),
        {
            "size_nm": 20.0, "radius_nm": (0.09, 0.11), "coverage": 0.12, "atoms_per_nm3": 110.0,
            "atom_phase_rad_nm2": 0.004, "film_atoms_per_nm2": 1.0,
        },
    ),
    "gold spheres, step 0.25 nm": (0.25, Microscope(), {}),
}  # fmt: skip


def taken(kind: str, seed: int):
    """Dark-field and bright-field images (rasters, rows, cols), dark field of the turned scan, positions a raster."""
    step, microscope, of = KINDS[kind]
    rng = np.random.default_rng([seed, 31])
    speed = rng.uniform(-FASTEST, FASTEST, 2)
    true, optics = truth(microscope, DETECTOR), Optics(Specimen(seed=seed, **of), microscope, DETECTOR)
    y, x = np.indices((96, 96))
    far = np.hypot(y - true.bf_center[0], x - true.bf_center[1]) / true.bf_radius
    masks = (far > 1.2) & (far <= 3), far <= 1
    images: list[list[np.ndarray]] = [[], []]
    for number in range(RASTERS + 1):
        rotation = 90.0 if number == RASTERS else 0.0
        time = np.arange(SIDE**2) / SIDE**2 + number
        at = Scan(SIDE, SIDE, step, rotation_deg=rotation).positions_nm() - time[:, np.newaxis] * speed * step
        kept = optics.quantised(at)
        patterns = kept.amplitudes.astype(np.float32) ** 2 * kept.units[:, None, None].astype(np.float32)
        for found, mask in zip(images, masks):
            found.append(patterns[:, mask].sum(axis=1).reshape(SIDE, SIDE))
    dark, bright = np.array(images[0]), np.array(images[1])
    dark = rng.poisson(dark * ELECTRONS / dark.mean()).astype(float)
    return dark[:RASTERS], rng.poisson(bright[:RASTERS] * 2e4).astype(float), dark[RASTERS], speed


def errors(kind: str, seeds: int) -> dict[str, np.ndarray]:
    """Of each quantity all errors, (n, 2) positions; NaN where nothing was found."""
    made: dict[str, list] = {
        key: [] for key in ("rigid", "bright", "strips of 32", "strips of 16", "movie", "pair")
    }
    other: list[float] = []
    before = None
    for seed in range(FIRST, FIRST + seeds):
        dark, bright, turned, speed = taken(kind, seed)
        # What moves towards later rows is scanned later, and has moved the more from one raster to the next.
        seen = speed / (1 - speed[0] / SIDE)
        followed = Followed(MovedSum(dark[0].shape))
        for number, image in enumerate(dark):
            followed = followed.with_raster(image, 8)
            assert followed.path is not None
            whole = followed.path.whole
            if number:
                made["movie"].append(np.array([whole.row, whole.col]) - number * seen)
                for key, movie in (("rigid", dark), ("bright", bright)):
                    found = displacement(movie[number], movie[number - 1], 8)
                    made[key].append(np.array([found.row, found.col]) - seen)
                for rows in (32, 16):
                    path = path_of(image, dark[number - 1], 8, strips=SIDE // rows)
                    made[f"strips of {rows}"].extend(path.strips - seen)
        made["pair"].append(drift_of_pair(dark[-1], turned).speed - speed)
        if before is not None:
            other.append(displacement(dark[0], before, 8).confidence)
        before = dark[0]
    return {key: np.array(values) for key, values in made.items()} | {"another place": np.array(other)}


def main(seeds: int) -> None:
    print("| specimen | what | n | found | rms (row, col) | largest |\n|---|---|---|---|---|---|")
    for kind in KINDS:
        found = errors(kind, seeds)
        for key, values in found.items():
            if key == "another place":
                print(f"| {kind} | {key} taken for this one | {len(values)} | {(values > 0.2).sum()} | | |")
                continue
            good = values[np.isfinite(values).all(axis=1)]
            rms = np.sqrt((good**2).mean(axis=0)) if len(good) else np.full(2, np.nan)
            largest = np.abs(good).max() if len(good) else np.nan
            print(
                f"| {kind} | {key} | {len(values)} | {len(good)} | {rms[0]:.3f}, {rms[1]:.3f} | {largest:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)

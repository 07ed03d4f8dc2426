"""By hand: how far strain is from the truth on fresh seeds, the tables of docs/how-to/imaging.md; a minute or two.

Windows and edges are given the lattice without strain; "large" edges one that is strained and turned besides, which
most positions need a search for.

PYTHONPATH=tests/imaging python tests/by_hand/strain_bars.py [FIRST LAST]
"""

from __future__ import annotations

import sys

import numpy as np
from drawn_lattice import series_of, taken

from live4d_ophyd.imaging.lattice_fit import fit_lattice
from live4d_ophyd.imaging.strain import Strain, strains
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sim.crystal import Crystal
from live4d_ophyd.sim.patterns import Optics
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan, truth

GRID, STEP_NM = ScanGrid(24, 24), 1.5
MICROSCOPE = Microscope(semiangle_mrad=2.0, energy_eV=300e3)
#: of 20,000 electrons: rms, and mean error
BARS, MEAN_BAR = {"windows": 3.8e-3, "edges": 2.5e-3, "large": 2.5e-3}, 6e-4


def far_from(basis: np.ndarray, seed: int) -> np.ndarray:
    """Another lattice, by 2 to 8 % of strain along each axis and 6 to 15 degrees, whose disks do not meet."""
    rng = np.random.default_rng((seed, 1))
    while True:
        stretch = rng.uniform(0.02, 0.08, 2) * rng.choice([-1, 1], 2)
        angle = np.radians(rng.uniform(6, 15) * rng.choice([-1, 1]))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        far = basis @ np.diag(1 + stretch) @ turn
        between = np.hypot(*np.array([far[0], far[1], far[0] + far[1], far[0] - far[1]]).T).min()
        if between > 17.5 and np.hypot(*(far - basis).T).max() < 0.3 * between:
            return far


def off(seed: int) -> tuple[dict[tuple[float, str], np.ndarray], dict[tuple[float, str], float]]:
    """Measured less true e_rr, e_cc, e_rc, theta (n, 4; rad) by electrons a frame and way; part that was searched."""
    rng = np.random.default_rng(seed)
    strain, rotation = tuple(rng.uniform(-0.02, 0.02, 4).tolist()), float(rng.uniform(-180, 180))
    angle, gamma = float(rng.uniform(-40, 40)), float(rng.choice([90.0, 80.0, 60.0]))
    center = (95.5 + float(rng.uniform(-2, 2)), 95.5 + float(rng.uniform(-2, 2)))
    detector = Detector(192, 192, bf_center_px=center, bf_radius_px=8.0)
    crystal = Crystal(50.0, 0.4, 0.4, gamma, angle, phase_rad=0.35, fall=0.35, strain=strain, vacuum_nm=0.0)
    optics = Optics(crystal, MICROSCOPE, detector)
    positions = Scan(*GRID.shape, STEP_NM, rotation_deg=rotation).positions_nm()
    parts = (optics.quantised(some).patterns for some in np.array_split(positions, 9))
    frames = np.concatenate([rng.poisson(patterns * 2e4).astype(np.uint16) for patterns in parts])
    lattice = fit_lattice(frames.mean(axis=0), len(frames))
    basis = crystal.reciprocal(optics.pixel_nm) * truth(MICROSCOPE, detector).window_nm
    basis = np.rint(np.array([lattice.g1, lattice.g2]) @ np.linalg.inv(basis)) @ basis
    local = basis @ np.linalg.inv(crystal.deformation(positions, optics.pixel_nm))
    found, searched = {}, {}
    for electrons, counts in ((2e4, frames), (5e3, rng.binomial(frames, 0.25).astype(np.uint16))):
        for what in BARS:
            reference = far_from(basis, seed) if what == "large" else basis
            g1, g2 = map(tuple, reference.tolist())
            method = Strain(
                "s", lattice.center, g1=g1, g2=g2, radius=lattice.radius, reference="lattice", rotation=rotation,
                refine=what != "windows",
            )  # fmt: skip
            maps = taken(method, counts, series_of(counts), GRID)
            images = [maps["s_e_rr"], maps["s_e_cc"], maps["s_e_rc"], np.radians(maps["s_theta"])]
            true = strains(local, reference, rotation, False)
            found[electrons, what] = np.stack([image.ravel() for image in images], axis=1) - true
            searched[electrons, what] = float(maps["s_searched"])
    return found, searched


if __name__ == "__main__":
    first, last = map(int, sys.argv[1:3] or (301, 316))
    seeds = [off(seed) for seed in range(first, last + 1)]
    for key in seeds[0][0]:
        of = np.array([errors[key] for errors, _ in seeds])
        searched = np.mean([share[key] for _, share in seeds])
        rms, mean = np.nanstd(of, axis=1), np.abs(np.nanmean(of, axis=1))
        missed = ((rms > BARS[key[1]]) | (mean > MEAN_BAR)).any(axis=1)
        print(
            f"{key[0]:g} electrons, {key[1]}: rms {rms.max(axis=0)}, mean {mean.max(axis=0)}, largest "
            f"{np.nanmax(np.abs(of)):.2g}, NaN {np.isnan(of[..., 0]).sum()} positions, searched {searched:.1%}; bars "
            f"of 20,000 electrons missed by {missed.sum()} of {len(of)}: {np.flatnonzero(missed) + first}"
        )

"""By hand: how far strain is from the truth on fresh seeds, the table of docs/how-to/imaging.md; a minute or two.

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
#: of 20,000 electrons: rms without and with refine, and of the mean error
BARS, MEAN_BAR = (3.8e-3, 2.5e-3), 6e-4


def off(seed: int) -> dict[tuple[float, bool], np.ndarray]:
    """Measured less true e_rr, e_cc, e_rc, theta (n, 4; rad) by electrons a frame and refine."""
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
    true = strains(local, basis, rotation, False)
    found = {}
    for electrons, counts in ((2e4, frames), (5e3, rng.binomial(frames, 0.25).astype(np.uint16))):
        for refine in (False, True):
            g1, g2 = map(tuple, basis.tolist())
            method = Strain(
                "s", lattice.center, g1=g1, g2=g2, radius=lattice.radius, reference="lattice", rotation=rotation,
                refine=refine,
            )  # fmt: skip
            maps = taken(method, counts, series_of(counts), GRID)
            images = [maps["s_e_rr"], maps["s_e_cc"], maps["s_e_rc"], np.radians(maps["s_theta"])]
            found[electrons, refine] = np.stack([image.ravel() for image in images], axis=1) - true
    return found


if __name__ == "__main__":
    first, last = map(int, sys.argv[1:3] or (301, 316))
    errors = [off(seed) for seed in range(first, last + 1)]
    for key in errors[0]:
        of = np.array([each[key] for each in errors])
        rms, mean = np.nanstd(of, axis=1), np.abs(np.nanmean(of, axis=1))
        what = f"{key[0]:g} electrons, {'edges' if key[1] else 'windows'}"
        missed = ((rms > BARS[key[1]]) | (mean > MEAN_BAR)).any(axis=1)
        print(
            f"{what}: rms {rms.max(axis=0)}, mean {mean.max(axis=0)}, NaN {np.isnan(of[..., 0]).sum()} positions; bars "
            f"of 20,000 electrons missed by {missed.sum()} of {len(of)}: {np.flatnonzero(missed) + first}"
        )

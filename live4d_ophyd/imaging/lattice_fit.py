"""Where the diffraction disks of a crystal are on a mean pattern: centre, radius and two reciprocal lattice vectors.

In comes a mean pattern, out comes a :class:`LatticeFit`. The bright-field disk is found first (`disk_fit`); the others
have its radius. Dead pixels may be there if they are told. Any thread; tenths of a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy.fft
from scipy import ndimage

from live4d_ophyd.imaging.disk_fit import fit_disk

#: disks that are looked at, at most, the strongest first
_MOST_DISKS = 60
#: of these the vectors, and their differences, that a lattice is tried with
_TRIED = 10
#: counts of a disk above its surroundings, in standard deviations
_SIGNIFICANCE = 5.0
#: the same, as a part of the surroundings
_CONTRAST = 0.05
#: part of a disk that must lie on good pixels
_LEAST_SEEN = 0.7
#: how far a disk may be from its place on the lattice: part of the shorter vector, and then px
_TOLERANCE, _TOLERANCE_PX = 0.12, 1.0
#: part of the disks that must lie on one lattice
_LEAST_INDEXED = 0.7
#: half widths of the ring about a disk's edge in which its place is found, px, one after the other
_RINGS = (2.0, 2.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class LatticeFit:
    """Disks of one radius at ``center + h g1 + k g2``; pairs are (row, col) in px."""

    center: tuple[float, float]
    radius: float
    #: the vector of the two shortest ones that is nearer to the direction of the rows
    g1: tuple[float, float]
    g2: tuple[float, float]
    #: how many were fitted, with the central one
    disks: int
    #: rms distance of the disks from the lattice, px
    residual: float


def fit_lattice(pattern: np.ndarray, frames: int = 1, valid: np.ndarray | None = None) -> LatticeFit:
    """Fit the lattice of the mean ``pattern`` (rows, cols) of ``frames`` frames, counts a frame.

    The bright-field disk must be the brightest, and disks must not overlap. ``valid`` (rows, cols): False where a pixel
    is to be left out; pixels that are not finite always are. Raises ValueError when there is no bright-field disk, or
    no lattice about it: vacuum, one row of disks only, or disks of several crystals.
    """
    pattern = np.asarray(pattern, np.float64)
    disk = fit_disk(pattern, valid)
    good = np.isfinite(pattern) if valid is None else np.isfinite(pattern) & np.asarray(valid, bool)
    counts = np.where(good, pattern, 0.0)
    found = _candidates(counts, good, disk.center, disk.radius, max(1, frames))
    at, weights = _refined(counts, good, found, disk.radius)
    if len(at) < 2:
        raise ValueError(
            f"no lattice: {len(at)} diffraction disk{'s' * (len(at) != 1)} found beside the bright-field disk of "
            f"radius {disk.radius:.1f} px about row {disk.center[0]:.1f}, col {disk.center[1]:.1f} px; expected at "
            "least 2. Is a crystal under the beam, and does each disk stand alone?"
        )
    vectors = at - disk.center
    basis = _basis(vectors, weights, disk.radius)
    if basis is None:
        raise ValueError(
            f"no lattice: the {len(at)} diffraction disks lie on one line; expected disks in two directions"
        )
    return _fitted(at, weights, np.array(disk.center), basis, disk.radius)


def edge_step(
    counts: np.ndarray, good: np.ndarray, at: np.ndarray, radius: float, half_width: float
) -> tuple[np.ndarray, float]:
    """How far a disk is from ``at`` (row, col), by what its edge has more on one side: (2,) px, and its counts.

    delta = r / N sum over | |q| - r | < h of I q / |q|. (The shift of a flat disk adds counts at its edge in proportion
    to the cosine of the angle to the shift.) A pixel that is not good counts as the one opposite.
    """
    reach = radius + half_width + 0.5
    lows = [max(0, math.ceil(x - reach)) for x in at]
    highs = [min(n, math.floor(x + reach) + 1) for x, n in zip(at, counts.shape)]
    here = np.s_[lows[0] : highs[0], lows[1] : highs[1]]
    y, x = np.arange(lows[0], highs[0])[:, np.newaxis] - at[0], np.arange(lows[1], highs[1]) - at[1]
    distance = np.sqrt(y * y + x * x) + 1e-9
    values = counts[here]
    if not good[here].all():
        rows, cols = np.nonzero(~good[here])
        other = np.rint(2 * at - np.stack([rows + lows[0], cols + lows[1]], axis=1)).astype(int)
        inside = ((other >= 0) & (other < counts.shape)).all(axis=1)
        values = values.copy()
        values[rows[inside], cols[inside]] = counts[tuple(other[inside].T)]
    total = float((values * np.clip(radius + 0.5 - distance, 0, 1)).sum())
    around = values * np.clip(half_width + 0.5 - np.abs(distance - radius), 0, 1)
    shift = np.array([(around * y / distance).sum(), (around * x / distance).sum()])
    return shift * (radius / max(total, 1e-12)), total


def _disk_of(shape: tuple[int, int], inner: float, outer: float) -> np.ndarray:
    """Spectrum of a ring about pixel (0, 0), periodic; from ``inner`` (excluded) to ``outer``."""
    y, x = (np.fft.fftfreq(n, 1 / n) for n in shape)
    distance = np.hypot(y[:, np.newaxis], x)
    return scipy.fft.rfft2(((distance <= outer) & (distance > inner)).astype(float))


def _candidates(
    counts: np.ndarray, good: np.ndarray, center: tuple[float, float], radius: float, frames: int
) -> np.ndarray:
    """Whole positions (n, 2) that are brighter than what is around, within a disk; the strongest first."""
    shape = tuple(scipy.fft.next_fast_len(n + math.ceil(2 * radius), real=True) for n in counts.shape)
    spectra = scipy.fft.rfft2(counts, shape), scipy.fft.rfft2(good.astype(float), shape)

    def sums(inner: float, outer: float) -> tuple[np.ndarray, np.ndarray]:
        """Counts and good pixels in a ring about each pixel."""
        ring = _disk_of(shape, inner, outer)
        of_counts, of_pixels = (scipy.fft.irfft2(spectrum * ring, shape) for spectrum in spectra)
        cut = np.s_[: counts.shape[0], : counts.shape[1]]
        return np.clip(of_counts[cut], 0, None), np.clip(np.rint(of_pixels[cut]), 0, None)

    total, pixels = sums(-1.0, radius)
    level = total / np.maximum(pixels, 1)
    seen = pixels >= _LEAST_SEEN * math.pi * radius**2
    rim = math.ceil(radius + 1)  # a disk that is cut off has no edge on one side
    for edge in (np.s_[:rim], np.s_[-rim:], np.s_[:, :rim], np.s_[:, -rim:]):
        seen[edge] = False
    size = 2 * max(1, round(0.4 * radius)) + 1
    peak = seen & (ndimage.maximum_filter(np.where(seen, level, 0.0), size=size) == level) & (level > 0)
    places = np.indices(counts.shape)
    y, x = places[0], places[1]
    peak &= np.hypot(y - center[0], x - center[1]) > 1.5 * radius
    at = np.argwhere(peak)
    at = at[np.argsort(-level[peak])][: 4 * _MOST_DISKS]
    kept = []
    wide = math.ceil(radius + 4.5)
    for row, col in at.tolist():
        # The median around does not see a neighbour's edge.
        here = np.s_[max(0, row - wide) : row + wide + 1, max(0, col - wide) : col + wide + 1]
        near = np.hypot(y[here] - row, x[here] - col)
        around = counts[here][good[here] & (near > radius + 1.5) & (near < radius + 4.5)]
        if len(around) < 10:
            continue
        background = float(np.median(around))
        excess = level[row, col] - background
        noise = math.sqrt(max(level[row, col], 1 / frames) / (pixels[row, col] * frames))
        if excess > max(_SIGNIFICANCE * noise, _CONTRAST * background):
            kept.append((row, col))
    return np.array(kept[:_MOST_DISKS], float).reshape(-1, 2)


def _refined(
    counts: np.ndarray, good: np.ndarray, found: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Places of disks by their edges (n, 2), and their counts (n,): of those that stay where they were found."""
    at: list[np.ndarray] = []
    weights: list[float] = []
    for start in found:
        here = start.copy()
        for half_width in _RINGS:
            step, total = edge_step(counts, good, here, radius, half_width)
            here += np.clip(step, -half_width, half_width)
        alone = all(math.dist(here, other) > 1.2 * radius for other in at)
        if math.dist(here, start) < 0.5 * radius and alone:
            at.append(here)
            weights.append(total)
    return np.array(at).reshape(-1, 2), np.array(weights)


def _basis(vectors: np.ndarray, weights: np.ndarray, radius: float) -> np.ndarray | None:
    """Two reduced vectors, the rows of (2, 2), on whose lattice most of ``vectors`` (n, 2) lie; None: all on a line."""
    strongest = vectors[np.argsort(-weights)][:_TRIED]
    tried = [*strongest, *(one - other for one, other in combinations(strongest, 2))]
    tried = [v for v in tried if np.hypot(*v) > 1.5 * radius]
    bases, scores = [], []
    for one, other in combinations(tried, 2):
        basis = np.stack([one, other])
        if abs(np.linalg.det(basis)) > 0.3 * np.hypot(*one) * np.hypot(*other):
            bases.append(basis)
            scores.append(float(_on_lattice(vectors, basis)[1].mean()))
    if not bases:
        return None
    # Of lattices that hold as many the widest: any finer one holds all.
    enough = [basis for basis, score in zip(bases, scores) if score > max(scores) - 0.02]
    return _reduced(max(enough, key=lambda basis: abs(np.linalg.det(basis))))


def _on_lattice(vectors: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orders (n, 2) of vectors, and whether they are near a point of the lattice (n,)."""
    orders = np.rint(vectors @ np.linalg.inv(basis))
    away = np.hypot(*(vectors - orders @ basis).T)
    return orders, away < _TOLERANCE * np.hypot(*basis.T).min()


def _reduced(basis: np.ndarray) -> np.ndarray:
    """The two shortest vectors of a lattice (Gauss), first the one along the rows, each towards larger indices."""
    one, other = basis
    while True:
        if other @ other < one @ one:
            one, other = other, one
        times = round(float(one @ other) / float(one @ one))
        if not times:
            break
        other = other - times * one
    steep = [abs(v[0]) / np.hypot(*v) for v in (one, other)]
    first, second = (one, other) if steep[0] >= steep[1] else (other, one)
    return np.stack([first * (1 if first[0] >= 0 else -1), second * (1 if second[1] >= 0 else -1)])


def _fitted(
    at: np.ndarray, weights: np.ndarray, center: np.ndarray, basis: np.ndarray, radius: float
) -> LatticeFit:
    """Least squares of centre and vectors, weighted by counts; the bright-field disk is one of the disks."""
    at = np.concatenate([center[np.newaxis], at])
    weights = np.concatenate([[weights.max()], weights])
    start, inside = basis, np.ones(len(at), bool)
    for turn in range(4):
        orders, near = _on_lattice(at - center, basis)
        away = np.hypot(*(at - center - orders @ basis).T)
        inside = near & ((away < _TOLERANCE_PX) | (turn < 2))
        design = np.column_stack([np.ones(len(at)), orders])[inside]
        root = np.sqrt(weights[inside])[:, np.newaxis]
        if np.linalg.matrix_rank(design) < 3:
            break
        solution = np.linalg.lstsq(design * root, at[inside] * root, rcond=None)[0]
        center, basis = solution[0], solution[1:]
    if inside.sum() < max(3, _LEAST_INDEXED * len(at)) or np.hypot(*(basis - start).T).max() > radius:
        raise ValueError(
            f"no lattice: only {np.count_nonzero(inside)} of {len(at)} disks lie on one; expected nearly all. Are "
            "there several crystals under the beam? Take the pattern of one"
        )
    residual = math.sqrt(float((away[inside] ** 2).mean()))
    (row, col), (g1, g2) = center, basis
    return LatticeFit(
        (float(row), float(col)), float(radius), (float(g1[0]), float(g1[1])), (float(g2[0]), float(g2[1])),
        int(inside.sum()), residual,
    )  # fmt: skip

"""Counts of electrons: Poisson numbers for whole diffraction patterns, the same for the same seed, in any order.

In: patterns as :class:`~.patterns.Quantised` keeps them, electrons of the dwell time, one seed a frame. Out: counts
in the detector's dtype. Numba without the GIL on the calling thread.

A mean is its whole and its fractional part, and the number the sum of a number of each. That of the fraction is
counted out without a branch, for a row at a time: most of a frame is a dark field where nothing else is needed. That
of the whole part is looked up in the distribution's table; from ``TABLES`` on both come by transformed rejection
(W. Hoermann, Insurance: Mathematics and Economics 12 (1993) 39, "PTRS").
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, uint64
from scipy.special import pdtr

from live4d_ophyd.frames.memory import NOGIL

#: means below are drawn with tables
TABLES = 128

# Cumulative distributions of the whole means; a uniform number finds its place from the guide on.
_CUMULATED = pdtr(np.arange(2 * TABLES + 64), np.arange(TABLES, dtype=float)[:, None])
_CUMULATED[:, -1] = 1.0
_GUIDES = 256
_GUIDE = np.array(
    [np.searchsorted(row, np.arange(_GUIDES) / _GUIDES, "right") for row in _CUMULATED], np.int64
)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_U30, _U27, _U31, _U11, _U32 = (np.uint64(bits) for bits in (30, 27, 31, 11, 32))
_LOW = np.uint64(0xFFFFFFFF)
_OF_53, _OF_32 = 1.0 / (1 << 53), 1.0 / (1 << 32)
_ROOT_E = math.exp(-0.5)


@njit(**NOGIL)
def _mixed(state):
    """splitmix64's output for a state: 64 random bits."""
    state = (state ^ (state >> _U30)) * _MIX_1
    state = (state ^ (state >> _U27)) * _MIX_2
    return state ^ (state >> _U31)


@njit(**NOGIL)
def _uniform(state):
    """A number in [0, 1)."""
    return (_mixed(state) >> _U11) * _OF_53


@njit(**NOGIL)
def _none(mean):
    """exp(-mean) of a mean in [0, 1], within 3e-10."""
    x = 0.5 - mean
    high = 1 / 120 + x * (1 / 720 + x * (1 / 5040 + x * (1 / 40320 + x * (1 / 362880))))
    return _ROOT_E * (1.0 + x * (1.0 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * high)))))


@njit(**NOGIL)
def _beyond_four(mean, uniform):
    """The number of a fraction that ``uniform`` puts beyond 4."""
    probability = below = _none(mean)
    count = 0
    while uniform >= below and count < 20:
        count += 1
        probability *= mean / count
        below += probability
    return count


@njit(**NOGIL)
def _rejected(mean, state):
    """A Poisson number of a mean from 10 on."""
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    v_r = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        state += _GOLDEN
        u = _uniform(state) - 0.5
        state += _GOLDEN
        v = _uniform(state)
        u_s = 0.5 - abs(u)
        if u_s <= 0.0:
            continue
        count = math.floor((2.0 * a / u_s + b) * u + mean + 0.43)
        if u_s >= 0.07 and v <= v_r:
            return count
        if count < 0 or v <= 0.0 or (u_s < 0.013 and v > u_s):
            continue
        alpha = 1.1239 + 1.1328 / (b - 3.4)
        if math.log(v * alpha / (a / (u_s * u_s) + b)) <= count * math.log(mean) - mean - math.lgamma(
            count + 1
        ):
            return count


@njit(**NOGIL)
def _fill(amplitudes, scales, seeds, top, left, highest, cumulated, guide, out):
    frames, edge, _ = amplitudes.shape
    # So far above: it would be cut off in any case, and no logarithm has to be right there.
    certain = 2.0 * highest + 1e3
    whole, fraction, uniform = np.empty(edge), np.empty(edge), np.empty(edge)
    counts = np.empty(edge)
    for f in range(frames):
        state = seeds[f]
        for r in range(edge):
            amplitude = amplitudes[f, r]
            for c in range(edge):
                mean = float(amplitude[c]) * float(amplitude[c]) * scales[f]
                whole[c] = math.floor(mean)
                fraction[c] = mean - whole[c]
            for c in range(edge // 2):
                bits = _mixed(state + uint64(c) * _GOLDEN)
                uniform[2 * c] = (bits & _LOW) * _OF_32
                uniform[2 * c + 1] = (bits >> _U32) * _OF_32
            state += uint64(edge) * _GOLDEN
            for c in range(edge):
                mean, u = fraction[c], uniform[c]
                p0 = _none(mean)
                p1 = p0 * mean
                p2 = p1 * mean * (1 / 2)
                p3 = p2 * mean * (1 / 3)
                b1 = p0 + p1
                b2 = b1 + p2
                b3 = b2 + p3
                b4 = b3 + p3 * mean * (1 / 4)
                counts[c] = (
                    (1.0 if u >= p0 else 0.0)
                    + (1.0 if u >= b1 else 0.0)
                    + (1.0 if u >= b2 else 0.0)
                    + (1.0 if u >= b3 else 0.0)
                    + (1.0 if u >= b4 else 0.0)
                )
            line = out[f, top + r]
            for c in range(edge):
                count = counts[c]
                if count >= 5.0:
                    count = float(_beyond_four(fraction[c], uniform[c]))
                if whole[c] >= 1.0:
                    mean = whole[c] + fraction[c]
                    other = _mixed(state ^ uint64(c))
                    if mean < cumulated.shape[0]:
                        u = (other >> _U11) * _OF_53
                        row = int(whole[c])
                        k = guide[row, int(u * guide.shape[1])]
                        while u >= cumulated[row, k]:
                            k += 1
                        count += k
                    elif mean < certain:
                        count = float(_rejected(mean, other))
                    else:
                        count = highest
                line[left + c] = min(count, highest)


@njit(**NOGIL)
def _seeds(key, first, out):
    for i in range(len(out)):
        out[i] = _mixed(_mixed(key + uint64(first + i) * _MIX_2))


def frame_seeds(key: int, first: int, count: int) -> np.ndarray:
    """Seeds of the frames ``first .. first + count - 1``, ``(count,) uint64``; ``key`` is one of all of them."""
    seeds = np.empty(count, np.uint64)
    _seeds(np.uint64(key), first, seeds)
    return seeds


def poisson_counts(
    amplitudes: np.ndarray,
    scales: np.ndarray,
    seeds: np.ndarray,
    out: np.ndarray,
    origin: tuple[int, int] = (0, 0),
    highest: int | None = None,
) -> None:
    """Draw counts of the means ``amplitudes**2 * scales`` into the square of ``out`` that begins at ``origin``.

    ``amplitudes`` is ``(b, n, n) uint16`` with an even ``n``, ``scales`` ``(b,) float64``, ``seeds`` ``(b,) uint64``,
    ``out`` ``(b, rows, cols)`` of unsigned integers. Counts above ``highest`` (the dtype's maximum) become that.
    """
    most = float(np.iinfo(out.dtype).max if highest is None else highest)
    _fill(amplitudes, scales, seeds, *origin, most, _CUMULATED, _GUIDE, out)

"""The lattice under the probe, position by position: least squares of disk places, from moments or from patterns.

In: sums under windows, or decoded frames, and where disks are without strain. Out: centre and lattice vectors of each
frame. Numba without the GIL on the calling thread.

A disk's place from the counts N and the first moments of a window that holds all of it, less an even background, has
the variance r^2 / (4 N) along each axis. That of its edge (lattice_fit.py has the formula) has about a third of it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from live4d_ophyd.frames.memory import NOGIL
from live4d_ophyd.imaging.lattice_search import (
    FARTHEST,
    LEAST_GAP,
    around,
    has_edges,
    mean_about,
    search,
    shortest_of,
)

#: of a position: it has a lattice, why it has none, or that a search found it
FITTED, TOO_FEW, OUTSIDE, SEARCHED = 0, 1, 2, 3
#: numbers of a position: centre, g1, g2 (row, col), rms distance of the disks from the lattice (px), part of the disks
#: that were used, and the standard deviation of strain that their variances leave
NUMBERS = 9
#: disks without which there is no lattice: with three there is nothing to tell whether they lie on one
LEAST_DISKS = 4
#: counts of a disk, and how many standard deviations of the background they must be above 0
_LEAST_COUNTS, _SIGNIFICANCE = 8.0, 4.0
#: how far a disk may be from the lattice of the others, px, and in standard deviations
_TOLERANCE, _SIGMAS = 1.0, 3.0
#: variance that places have besides that of counts, px^2: a bright disk must not outweigh all others
_FLOOR = 0.01
#: how far within the margin of its window the lattice must leave a disk, px: the edge of a disk is a pixel wide, and a
#: window that cuts it off pulls at the strain
_WITHIN = 0.25
#: how far a vector may be from that without strain if no search saw it, part of the distance of disks: disks that move
#: further get to places of others, and a lattice fits that is none
_MOST_CHANGE = 0.1
#: disks of a lattice that was searched for, and those of them in neither direction of g1 and g2: two crystals, one with
#: disks along g1 and one along g2, have none
_LEAST_SEARCHED, _LEAST_MIXED = 7, 2
#: width of the ring of background about a disk, px, and pixels without which there is none
RING, LEAST_RING = 2.5, 12
#: half widths of the ring about the edge, px, one pass each
_RINGS = (1.0, 0.5, 0.5)


@njit(**NOGIL)
def _solved(y, x, variance, orders, used, lattice):
    """Weighted least squares of y, x = lattice[0] + h lattice[1] + k lattice[2]; whether there is a solution.

    ``lattice[3]`` has the variances of both vectors along each axis.
    """
    s = s_h = s_k = hh = hk = kk = 0.0
    by = np.zeros((3, 2))
    for j in range(len(y)):
        if not used[j]:
            continue
        w, h, k = 1.0 / variance[j], orders[j, 0], orders[j, 1]
        s += w
        s_h += w * h
        s_k += w * k
        hh += w * h * h
        hk += w * h * k
        kk += w * k * k
        for axis in range(2):
            value = w * (y[j] if axis == 0 else x[j])
            by[0, axis] += value
            by[1, axis] += value * h
            by[2, axis] += value * k
    a, b, c = hh * kk - hk * hk, s_k * hk - s_h * kk, s_h * hk - s_k * hh
    d, e, f = s * kk - s_k * s_k, s_h * s_k - s * hk, s * hh - s_h * s_h
    determinant = s * a + s_h * b + s_k * c
    if not determinant > 1e-6 * s * hh * kk:
        return False
    for axis in range(2):
        p, q, r = by[0, axis], by[1, axis], by[2, axis]
        lattice[0, axis] = (a * p + b * q + c * r) / determinant
        lattice[1, axis] = (b * p + d * q + e * r) / determinant
        lattice[2, axis] = (c * p + e * q + f * r) / determinant
    lattice[3, 0], lattice[3, 1] = d / determinant, f / determinant
    return True


@njit(**NOGIL)
def _fitted(y, x, variance, orders, at, margin, used, lattice):
    """The lattice without disks that are far from it, or that it moves out of their windows about ``at``.

    Returns FITTED and the rms distance, or why there is none. ``used`` has what was used.
    """
    count, outside = 0, 0
    for j in range(len(y)):
        count += used[j]
    for _ in range(4):
        if count < LEAST_DISKS or not _solved(y, x, variance, orders, used, lattice):
            return (OUTSIDE if outside > 1 else TOO_FEW), 0.0
        dropped, squares, total = 0, 0.0, 0.0
        for j in range(len(y)):
            if not used[j]:
                continue
            row = lattice[0, 0] + orders[j, 0] * lattice[1, 0] + orders[j, 1] * lattice[2, 0]
            col = lattice[0, 1] + orders[j, 0] * lattice[1, 1] + orders[j, 1] * lattice[2, 1]
            away = (y[j] - row) ** 2 + (x[j] - col) ** 2
            moved = (row - at[j, 0]) ** 2 + (col - at[j, 1]) ** 2
            if moved > (margin - _WITHIN) ** 2:
                outside += 1
            if away > (_TOLERANCE + _SIGMAS * math.sqrt(variance[j])) ** 2 or moved > (margin - _WITHIN) ** 2:
                used[j] = False
                dropped += 1
            else:
                squares += away / variance[j]
                total += 1 / variance[j]
        count -= dropped
        if not dropped:
            return FITTED, math.sqrt(squares / total)
    return (OUTSIDE if outside > 1 else TOO_FEW), 0.0


@njit(**NOGIL)
def _keep(status, residual, used, lattice, out):
    if status not in (FITTED, SEARCHED):
        out[:] = np.nan
        return
    share = 0.0
    for j in range(len(used)):
        share += used[j]
    for n in range(6):
        out[n] = lattice[n // 2, n % 2]
    out[6], out[7] = residual, share / len(used)
    relative = 0.0
    for n in range(2):
        relative += lattice[3, n] / (lattice[1 + n, 0] ** 2 + lattice[1 + n, 1] ** 2)
    out[8] = math.sqrt(relative / 2)


# From sums under windows --------------------------------------------------------------------------


@njit(**NOGIL)
def fit_moments(sums, orders, at, origin, window, first, ring, radius, reach, margin, out, status):
    """Lattices of positions from ``sums`` (disks, 4, positions): counts, their moments in row and col, and the ring's.

    ``window`` and ``ring`` (disks,) are pixels, ``first`` (disks, 2) the moments of the window's pixels and ``origin``
    (disks, 2) what all moments are about, less what bad pixels move a disk by. ``out`` (positions, NUMBERS); ``status``
    (positions,), -1 where no frame came.
    """
    disks = len(orders)
    y, x, variance = np.empty(disks), np.empty(disks), np.empty(disks)
    used, lattice = np.empty(disks, np.bool_), np.empty((4, 2))
    for p in range(sums.shape[2]):
        if math.isnan(sums[0, 0, p]):
            status[p] = -1
            out[p, :] = np.nan
            continue
        for j in range(disks):
            level = sums[j, 3, p] / ring[j] if ring[j] > 0 else 0.0
            under = level * window[j]
            counts = sums[j, 0, p] - under
            noise = math.sqrt(under * (1 + window[j] / ring[j])) if ring[j] > 0 else 0.0
            used[j] = counts > _LEAST_COUNTS + _SIGNIFICANCE * noise
            if used[j]:
                y[j] = origin[j, 0] + (sums[j, 1, p] - level * first[j, 0]) / counts
                x[j] = origin[j, 1] + (sums[j, 2, p] - level * first[j, 1]) / counts
                variance[j] = _FLOOR + (radius * radius + reach * reach * under / counts) / (4 * counts)
        status[p], residual = _fitted(y, x, variance, orders, at, margin, used, lattice)
        _keep(status[p], residual, used, lattice, out[p])


# From patterns ------------------------------------------------------------------------------------


@njit(**NOGIL)
def _count(pattern, good, limit, row, col, center_row, center_col):
    """Counts of a pixel; -1 where it holds none. One that is not good counts as the one opposite."""
    if not good[row, col]:
        row, col = round(2 * center_row - row), round(2 * center_col - col)
        inside = 0 <= row < pattern.shape[0] and 0 <= col < pattern.shape[1]
        if not (inside and good[row, col]):
            return 0.0
    value = pattern[row, col]
    return -1.0 if value >= limit or value != value else float(value)


@njit(**NOGIL)
def _place(pattern, good, limit, row, col, reach, radius, level, pixels):
    """Place of a disk by the moments within ``reach`` of (row, col), and its variance; variance -1: there is none."""
    total = by_row = by_col = 0.0
    size = first_row = first_col = 0.0
    low, high = math.ceil(row - reach), math.floor(row + reach)
    left, right = math.ceil(col - reach), math.floor(col + reach)
    if low < 0 or left < 0 or high >= pattern.shape[0] or right >= pattern.shape[1]:
        return 0.0, 0.0, -1.0
    for r in range(low, high + 1):
        y = r - row
        for c in range(left, right + 1):
            x = c - col
            if y * y + x * x > reach * reach:
                continue
            value = _count(pattern, good, limit, r, c, row, col)
            if value < 0:
                return 0.0, 0.0, -1.0
            total += value
            by_row += value * y
            by_col += value * x
            size += 1
            first_row += y
            first_col += x
    under = level * size
    counts = total - under
    noise = math.sqrt(under * (1 + size / pixels)) if pixels else 0.0
    if not counts > _LEAST_COUNTS + _SIGNIFICANCE * noise:
        return 0.0, 0.0, -1.0
    variance = _FLOOR + (radius * radius + reach * reach * under / counts) / (4 * counts)
    return row + (by_row - level * first_row) / counts, col + (by_col - level * first_col) / counts, variance


@njit(**NOGIL)
def _edge(pattern, good, limit, row, col, radius, half_width, level):
    """Place of a disk by the counts at its edge, and its variance; variance -1: there is none."""
    total = by_row = by_col = around = area = 0.0
    reach = radius + half_width + 0.5
    low, high = math.ceil(row - reach), math.floor(row + reach)
    left, right = math.ceil(col - reach), math.floor(col + reach)
    if low < 0 or left < 0 or high >= pattern.shape[0] or right >= pattern.shape[1]:
        return 0.0, 0.0, -1.0
    for r in range(low, high + 1):
        y = r - row
        for c in range(left, right + 1):
            x = c - col
            distance = math.sqrt(y * y + x * x) + 1e-9
            if distance > reach:
                continue
            value = _count(pattern, good, limit, r, c, row, col)
            if value < 0:
                return 0.0, 0.0, -1.0
            inside = min(1.0, max(0.0, radius + 0.5 - distance))
            total += value * inside
            area += inside
            weight = min(1.0, max(0.0, half_width + 0.5 - abs(distance - radius)))
            by_row += weight * value * y / distance
            by_col += weight * value * x / distance
            around += weight * weight * value
    counts = total - level * area
    if not counts > _LEAST_COUNTS:
        return 0.0, 0.0, -1.0
    gain = radius / counts
    most = 1.5 * half_width
    step_row, step_col = max(-most, min(most, by_row * gain)), max(-most, min(most, by_col * gain))
    return row + step_row, col + step_col, 0.25 * _FLOOR + gain * gain * around / 2


@njit(**NOGIL)
def _followed(pattern, good, limit, orders, offsets, radius, reach, wide, lattice, used):
    """The lattice of a pattern from ``lattice``, which becomes it: why there is none, and the rms distance of disks.

    Windows follow the disks, then their edges are fitted. ``used`` (disks,) has those that are on the lattice.
    """
    disks = len(orders)
    y, x, variance = np.empty(disks), np.empty(disks), np.empty(disks)
    level, pixels, at = np.empty(disks), np.empty(disks), np.empty((disks, 2))
    state, residual = TOO_FEW, 0.0
    # The first disks tell where the others are; then all, about where they are, with the edges at last.
    for turn in range(3 + len(_RINGS)):
        before = lattice.copy()
        here = min(disks, 5) if turn == 0 else disks
        for j in range(disks):
            row = before[0, 0] + orders[j, 0] * before[1, 0] + orders[j, 1] * before[2, 0]
            col = before[0, 1] + orders[j, 0] * before[1, 1] + orders[j, 1] * before[2, 1]
            at[j, 0], at[j, 1] = row, col
            used[j] = j < here
            if not used[j]:
                continue
            if turn < 3:
                level[j], pixels[j] = mean_about(pattern, good, limit, row, col, offsets)
                window = wide if turn == 0 else reach
                y[j], x[j], variance[j] = _place(
                    pattern, good, limit, row, col, window, radius, level[j], pixels[j]
                )
            else:
                y[j], x[j], variance[j] = _edge(
                    pattern, good, limit, row, col, radius, _RINGS[turn - 3], level[j]
                )
                # What the moments did not see as a disk has no edge either.
                used[j] = level[j] >= 0
            used[j] = used[j] and variance[j] > 0
            if turn == 2 and not used[j]:
                level[j] = -1.0
        state, residual = _fitted(y, x, variance, orders, at, 1e9, used, lattice)
        if state != FITTED:
            lattice[:] = before
            if turn > 0:
                break
    return state, residual


@njit(**NOGIL)
def _change(lattice, start):
    """How far the vectors are from those without strain, px; the larger one."""
    most = 0.0
    for g in range(1, 3):
        row, col = lattice[g, 0] - start[g, 0], lattice[g, 1] - start[g, 1]
        most = max(most, math.sqrt(row * row + col * col))
    return most


@njit(**NOGIL)
def _searched(pattern, good, limit, start, orders, radius, margin, lattice, used):
    """The lattice of a pattern by a search, then as by `_followed`; SEARCHED if there is one, and the rms distance."""
    if not search(pattern, good, limit, start, orders, radius, lattice):
        return TOO_FEW, 0.0
    reach = radius + max(0.5, min(margin, shortest_of(lattice[1:3]) / 2 - radius))
    offsets = around(lattice[1:3], reach, RING)
    if len(offsets) < LEAST_RING:
        offsets = offsets[:0]
    state, residual = _followed(pattern, good, limit, orders, offsets, radius, reach, reach, lattice, used)
    if state != FITTED:
        return state, 0.0
    count = mixed = 0
    for j in range(len(orders)):
        count += used[j]
        mixed += used[j] and orders[j, 0] != 0 and orders[j, 1] != 0
    shortest = shortest_of(lattice[1:3])
    far = _change(lattice, start) > FARTHEST * shortest_of(start[1:]) or shortest < 2 * radius + LEAST_GAP
    if far or count < _LEAST_SEARCHED or mixed < _LEAST_MIXED:
        return OUTSIDE, 0.0
    if not has_edges(pattern, good, limit, lattice, orders, used, radius, offsets):
        return OUTSIDE, 0.0
    return SEARCHED, residual


@njit(**NOGIL)
def fit_patterns(
    patterns, good, limit, start, orders, offsets, radius, reach, wide, between, margin, out, status
):
    """Lattices of ``patterns`` (n, q_y, q_x) float32: from that without strain, or where that fails, by a search.

    ``start`` (3, 2): centre and vectors without strain. ``reach`` is the radius of windows, ``wide`` that of the first
    ones, ``between`` half the distance of disks; ``offsets`` (m, 2) pixels of the background about a disk. ``out`` and
    ``status`` as of `fit_moments`; that of a lattice by a search is SEARCHED.
    """
    used, lattice = np.empty(len(orders), np.bool_), np.empty((4, 2))
    for n in range(len(patterns)):
        pattern = patterns[n]
        lattice[:3] = start
        for _ in range(3):  # descan: the bright-field disk first, which stands alone
            row, col, found = _place(
                pattern, good, limit, lattice[0, 0], lattice[0, 1], between, radius, 0.0, 0
            )
            if found > 0:
                lattice[0, 0], lattice[0, 1] = row, col
        state, residual = _followed(pattern, good, limit, orders, offsets, radius, reach, wide, lattice, used)
        if state == FITTED and _change(lattice, start) > 2 * _MOST_CHANGE * between:
            state = OUTSIDE
        if state != FITTED:
            other, residual = _searched(pattern, good, limit, start, orders, radius, margin, lattice, used)
            if other == SEARCHED:
                state = SEARCHED
        status[n] = state
        _keep(state, residual, used, lattice, out[n])


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache (seconds the first time on a machine)."""
    none, sums = np.zeros(0), np.zeros((1, 4, 0), np.float32)
    pair, one, out, status = np.zeros((1, 2)), np.zeros(1), np.zeros((0, NUMBERS)), none.astype(np.int64)
    fit_moments(sums, pair, pair, pair, one, pair, one, 1.0, 1.0, 1.0, out, status)
    good, offsets = np.zeros((1, 1), bool), np.zeros((0, 2), np.int64)
    patterns = np.zeros((0, 1, 1), np.float32)
    fit_patterns(patterns, good, 1.0, np.zeros((3, 2)), pair, offsets, 1.0, 1.0, 1.0, 1.0, 1.0, out, status)

"""Where the disks of one pattern are, without knowing the lattice but for what is near the reference: a seed for a fit.

In: a pattern, and centre and vectors without strain. Out: centre and vectors to within about a pixel. Numba without the
GIL on the calling thread, the same numbers whatever came before: no pattern is a seed for another one.

A place is compared with a disk: counts a pixel within the radius, less those of a ring just beyond its edge. The
bright-field disk is found first and taken out: its edge outshines all others, and would look like disks all around it.
Time is bounded: places about 5 points, a quarter of a radius apart, and 36 lattices at most.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from live4d_ophyd.frames.memory import NOGIL

#: how far a vector may be from that without strain, part of the shortest one: beyond it orders are not sure. Disks that
#: do not meet are 2/3 of it apart at least, and 1/3 from a place there is one
FARTHEST = 1 / 3
#: least width of what is between two disks, px
LEAST_GAP = 1.0
#: counts of a disk above the background, and in standard deviations of it: hundreds of places are looked at
_LEAST_COUNTS, _SIGNIFICANCE = 8.0, 5.0
#: ring of background about a disk, from its edge, px
_INNER, _OUTER = 1.0, 2.5
#: part of a disk that must be seen
_LEAST_SEEN = 0.7
#: places are this part of the radius apart, and then a pixel
_STEP = 0.25
#: peaks that are kept about a place of the reference
_PEAKS = 3
#: disks without which there is no lattice, beside that in the middle
_LEAST_SEEN_DISKS = 4
#: part of what a disk is above the background that must be gone within two pixels of its edge: where disks of two
#: crystals overlap, and in speckle and rings of what is amorphous, it is less
_LEAST_EDGE = 0.7


@njit(**NOGIL)
def around(vectors, reach, width):
    """Pixels from ``reach`` to ``reach + width`` about a disk that are beyond the reach of those beside it (n, 2)."""
    side = math.ceil(reach + width + 0.5)
    found, count = np.empty(((2 * side + 1) ** 2, 2), np.int64), 0
    for row in range(-side, side + 1):
        for col in range(-side, side + 1):
            away = math.sqrt(row * row + col * col)
            free = reach + 0.5 < away <= reach + width + 0.5
            for h in range(-2, 3):
                for k in range(-2, 3):
                    if not free or (h == 0 and k == 0):
                        continue
                    y = row - h * vectors[0, 0] - k * vectors[1, 0]
                    x = col - h * vectors[0, 1] - k * vectors[1, 1]
                    free = math.sqrt(y * y + x * x) > reach + 0.5
            if free:
                found[count, 0], found[count, 1] = row, col
                count += 1
    return found[:count]


@njit(**NOGIL)
def shortest_of(vectors):
    """Length of the shortest vector of the lattice of two, which are nearly reduced."""
    least = np.inf
    for h in range(-2, 3):
        for k in range(-2, 3):
            if h or k:
                row = h * vectors[0, 0] + k * vectors[1, 0]
                col = h * vectors[0, 1] + k * vectors[1, 1]
                least = min(least, math.sqrt(row * row + col * col))
    return least


@njit(**NOGIL)
def _between(low, high):
    """Pixels from ``low`` to ``high`` about a place (n, 2)."""
    side = math.ceil(high)
    found, count = np.empty(((2 * side + 1) ** 2, 2), np.int64), 0
    for row in range(-side, side + 1):
        for col in range(-side, side + 1):
            if low <= math.sqrt(row * row + col * col) <= high:
                found[count, 0], found[count, 1] = row, col
                count += 1
    return found[:count]


@njit(**NOGIL)
def mean_about(pattern, good, limit, center_row, center_col, offsets):
    """Counts a pixel of those at ``offsets`` (m, 2) about a place, and how many pixels that is."""
    total, pixels = 0.0, 0
    row, col = round(center_row), round(center_col)
    for n in range(len(offsets)):
        r, c = row + offsets[n, 0], col + offsets[n, 1]
        if 0 <= r < pattern.shape[0] and 0 <= c < pattern.shape[1] and good[r, c]:
            value = pattern[r, c]
            if value < limit:
                total += value
                pixels += 1
    return (total / pixels, pixels) if pixels else (0.0, 0)


@njit(**NOGIL)
def _sums_about(pattern, good, limit, row, col, offsets, direction, found):
    """Counts and pixels of those at ``offsets`` (m, 2): ``found`` (2, 2), along ``direction`` (2,) and across it."""
    found[:] = 0.0
    row, col = round(row), round(col)
    for n in range(len(offsets)):
        y, x = offsets[n, 0], offsets[n, 1]
        r, c = row + y, col + x
        if 0 <= r < pattern.shape[0] and 0 <= c < pattern.shape[1] and good[r, c] and pattern[r, c] < limit:
            along = y * direction[0] + x * direction[1]
            across = y * direction[1] - x * direction[0]
            side = 0 if abs(along) >= abs(across) else 1
            found[side, 0] += pattern[r, c]
            found[side, 1] += 1


@njit(**NOGIL)
def has_edges(pattern, good, limit, lattice, orders, used, radius, background):
    """Whether what is at the ``used`` orders of ``lattice``, but for the middle, ends like disks of this radius.

    Towards the middle and away from it as well as to both sides: a ring about the middle goes on there.
    """
    inside, rim = _between(0.0, radius - 0.5), _between(radius - 2.5, radius - 0.75)
    beyond = around(lattice[1:3], radius + 0.5, 1.5)
    step, whole = np.zeros(2), np.zeros(2)
    within, outside = np.empty((2, 2)), np.empty((2, 2))
    for j in range(len(orders)):
        h, k = orders[j, 0], orders[j, 1]
        if not used[j] or (h == 0 and k == 0):
            continue
        direction = h * lattice[1] + k * lattice[2]
        row, col = lattice[0, 0] + direction[0], lattice[0, 1] + direction[1]
        _sums_about(pattern, good, limit, row, col, rim, direction, within)
        _sums_about(pattern, good, limit, row, col, beyond, direction, outside)
        level, wide = mean_about(pattern, good, limit, row, col, background)
        disk = mean_about(pattern, good, limit, row, col, inside)[0]
        for side in range(2):
            if within[side, 1] and outside[side, 1]:
                beside = outside[side, 0] / outside[side, 1]
                step[side] += within[side, 0] / within[side, 1] - beside
                whole[side] += disk - (level if wide else beside)
    return step[0] >= _LEAST_EDGE * whole[0] and step[1] >= _LEAST_EDGE * whole[1]


@njit(**NOGIL)
def _contrast(pattern, row, col, inside, ring):
    """Counts of a disk there above what is around it, and whether that is significant; -inf where too little is seen.

    ``pattern`` is below 0 where nothing is seen.
    """
    total, pixels, under, beside = 0.0, 0, 0.0, 0
    rows, cols = pattern.shape
    for n in range(len(inside)):
        r, c = row + inside[n, 0], col + inside[n, 1]
        if 0 <= r < rows and 0 <= c < cols and pattern[r, c] >= 0:
            total += pattern[r, c]
            pixels += 1
    if pixels < _LEAST_SEEN * len(inside):
        return -np.inf, False
    for n in range(len(ring)):
        r, c = row + ring[n, 0], col + ring[n, 1]
        if 0 <= r < rows and 0 <= c < cols and pattern[r, c] >= 0:
            under += pattern[r, c]
            beside += 1
    if 3 * beside < len(ring):
        return -np.inf, False
    under *= pixels / beside
    excess = total - under
    noise = math.sqrt(under * (1 + pixels / beside))
    return excess * len(inside) / pixels, excess > _LEAST_COUNTS + _SIGNIFICANCE * noise


@njit(**NOGIL)
def _peaks(pattern, row, col, reach, step, inside, ring, found):
    """Places within ``reach`` of (row, col) that are more of a disk than those around; how many.

    ``found`` (_PEAKS, 3): row, col and contrast, the strongest first.
    """
    side = int(reach / step) + 1
    grid = np.empty((2 * side + 3, 2 * side + 3))
    middle_row, middle_col = round(row), round(col)
    for i in range(2 * side + 3):
        for j in range(2 * side + 3):
            y, x = (i - side - 1) * step, (j - side - 1) * step
            if y * y + x * x > (reach + 1.5 * step) ** 2:
                grid[i, j] = -np.inf
            else:
                grid[i, j] = _contrast(pattern, middle_row + y, middle_col + x, inside, ring)[0]
    count = 0
    for i in range(1, 2 * side + 2):
        for j in range(1, 2 * side + 2):
            best = grid[i, j]
            if not best > 0:
                continue
            peak = True
            for a in range(-1, 2):
                for b in range(-1, 2):
                    peak = peak and best >= grid[i + a, j + b]
            if not peak:
                continue
            here_row, here_col = middle_row + (i - side - 1) * step, middle_col + (j - side - 1) * step
            stride = step
            while stride > 1:  # to the pixel
                stride = (stride + 1) // 2
                top, left = here_row, here_col
                for a in range(-1, 2):
                    for b in range(-1, 2):
                        value = _contrast(pattern, top + a * stride, left + b * stride, inside, ring)[0]
                        if value > best:
                            best, here_row, here_col = value, top + a * stride, left + b * stride
            if not _contrast(pattern, here_row, here_col, inside, ring)[1]:
                continue
            if (here_row - row) ** 2 + (here_col - col) ** 2 > (reach + 1) ** 2:
                continue
            known = False
            for n in range(count):
                known = known or abs(found[n, 0] - here_row) + abs(found[n, 1] - here_col) <= 2 * step
            if known:
                continue
            at = min(count, _PEAKS - 1)
            if count == _PEAKS and best <= found[at, 2]:
                continue
            while at > 0 and found[at - 1, 2] < best:
                found[at] = found[at - 1]
                at -= 1
            found[at, 0], found[at, 1], found[at, 2] = here_row, here_col, best
            count = min(count + 1, _PEAKS)
    return count


@njit(**NOGIL)
def search(pattern, good, limit, start, orders, radius, seed):
    """Whether there is a lattice near that of ``start`` (3, 2), centre and vectors; ``seed`` (3, 2) becomes it.

    Disks that count are those of ``orders`` (disks, 2). A vector differs by FARTHEST of the shortest one, at most.
    """
    rows, cols = pattern.shape
    seen = np.empty((rows, cols), np.float32)
    for r in range(rows):
        for c in range(cols):
            value = pattern[r, c]
            seen[r, c] = value if good[r, c] and value < limit else -1.0
    inside, ring = _between(0.0, radius), _between(radius + _INNER, radius + _OUTER)
    reach = FARTHEST * shortest_of(start[1:])
    step = max(1, int(_STEP * radius))
    found = np.empty((_PEAKS, 3))
    center_row, center_col = start[0, 0], start[0, 1]
    if _peaks(seen, center_row, center_col, reach, step, inside, ring, found):
        center_row, center_col = found[0, 0], found[0, 1]
        side = math.ceil(radius + 1.5)
        for r in range(max(0, int(center_row) - side), min(rows, int(center_row) + side + 1)):
            for c in range(max(0, int(center_col) - side), min(cols, int(center_col) + side + 1)):
                if (r - center_row) ** 2 + (c - center_col) ** 2 < (radius + 1.5) ** 2:
                    seen[r, c] = -1.0
    vectors, count = np.empty((2, 2 * _PEAKS, 2)), np.zeros(2, np.int64)
    for g in range(2):
        for sign in (1, -1):
            row, col = center_row + sign * start[1 + g, 0], center_col + sign * start[1 + g, 1]
            for n in range(_peaks(seen, row, col, reach, step, inside, ring, found)):
                away_row, away_col = sign * (found[n, 0] - center_row), sign * (found[n, 1] - center_col)
                for m in range(count[g]):  # g and -g tell the same
                    if abs(vectors[g, m, 0] - away_row) + abs(vectors[g, m, 1] - away_col) < radius / 2:
                        vectors[g, m, 0] = (vectors[g, m, 0] + away_row) / 2
                        vectors[g, m, 1] = (vectors[g, m, 1] + away_col) / 2
                        break
                else:
                    vectors[g, count[g], 0], vectors[g, count[g], 1] = away_row, away_col
                    count[g] += 1
        if count[g] == 0:
            return False
    most, strongest = _LEAST_SEEN_DISKS - 1, 0.0
    tried = np.empty((2, 2))
    for n in range(count[0]):
        for m in range(count[1]):
            tried[0], tried[1] = vectors[0, n], vectors[1, m]
            if shortest_of(tried) < 2 * radius + LEAST_GAP - 1:  # places are whole pixels
                continue
            disks, total = 0, 0.0
            for j in range(len(orders)):
                h, k = orders[j, 0], orders[j, 1]
                if h == 0 and k == 0:
                    continue
                row = round(center_row + h * tried[0, 0] + k * tried[1, 0])
                col = round(center_col + h * tried[0, 1] + k * tried[1, 1])
                excess, is_there = _contrast(seen, row, col, inside, ring)
                if is_there:
                    disks += 1
                    total += excess
            if disks > most or (disks == most and total > strongest):
                most, strongest = disks, total
                seed[0, 0], seed[0, 1] = center_row, center_col
                seed[1], seed[2] = tried[0], tried[1]
    return most >= _LEAST_SEEN_DISKS

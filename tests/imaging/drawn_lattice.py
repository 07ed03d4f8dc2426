"""Diffraction patterns of a crystal as evenly bright disks, with their places known exactly; pairs are (row, col)."""

import numpy as np

from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.method import Patterns
from live4d_ophyd.sources.source import SeriesInfo

SHAPE, CENTER, RADIUS = (72, 76), (35.3, 38.6), 5.0
G1, G2 = (13.2, 2.1), (-1.9, 13.6)


def drawn(
    vectors, center=CENTER, *, counts=20_000.0, first=700.0, background=0.0, shape=SHAPE, radius=RADIUS
):
    """Frames (n, q_y, q_x) of what is expected: g1 and g2 are the rows of ``vectors`` (n, 2, 2).

    The bright-field disk has ``counts``, disks of the first order have ``first``, others less. ``center`` is of all
    frames, or (n, 2).
    """
    vectors = np.asarray(vectors, float)
    frames = np.full((len(vectors), *shape), float(background))
    y, x = np.indices(shape)
    centers = np.broadcast_to(center, (len(vectors), 2))
    for h in range(-3, 4):
        for k in range(-3, 4):
            order = h * h + k * k
            if order > 8:
                continue
            part = counts if not order else first * np.exp(1.2 * (1 - order))
            at = centers + np.array([h, k]) @ vectors
            distance = np.hypot(y - at[:, :1, np.newaxis], x - at[:, 1:, np.newaxis])
            disk = np.clip(radius + 0.5 - distance, 0, 1)
            frames += part * disk / (np.pi * radius**2)
    return frames


def strained(deformations, basis=(G1, G2)):
    """Lattice vectors (n, 2, 2) of a crystal that is deformed by F (n, 2, 2): g' = F^-T g."""
    return np.asarray(basis) @ np.linalg.inv(np.asarray(deformations, float))


def series_of(frames, **more):
    return SeriesInfo((1, 0), FrameFormat(*frames.shape[1:], np.dtype("uint16")), len(frames), **more)


def taken(method, frames, series, grid, positions=None):
    """Results after these frames, as the engine feeds them."""
    positions = np.arange(len(frames)) if positions is None else positions
    demand, part = method.demand(series, grid), method.accumulator(series, grid, None)
    here = np.asarray(frames)[positions]
    if isinstance(demand, Patterns):
        values = here
    else:
        bad = np.zeros(here.shape[1:], bool) if series.pixel_mask is None else series.pixel_mask
        seen = np.where(bad, 0, here).astype(np.int64)
        if series.saturation is not None:
            seen[here >= series.saturation] = 0
        values = np.stack(
            [(seen[:, first : first + len(w)] * w).sum(axis=(1, 2)) for first, w in demand.bands], axis=1
        )
    part.add(positions, values)
    return method.results(series, grid, [part])

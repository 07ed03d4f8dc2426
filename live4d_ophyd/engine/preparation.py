"""What frames of a series are asked for: pixel mask, and the demands of all methods together, kept for the next series.

Masks and weights take time for millions of pixels. What they are made of seldom changes from one series to the next.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from live4d_ophyd.decode import decode_array
from live4d_ophyd.decode.decoder import Demand
from live4d_ophyd.engine.errors import RAISED_BY_METHODS, MethodFailed, refuse_method
from live4d_ophyd.engine.frame_format import BELIEVED_PIXELS
from live4d_ophyd.engine.request import MAX_OUTPUTS_BYTES, AcquisitionRequest
from live4d_ophyd.frames.encoded_array import EncodedArray
from live4d_ophyd.imaging.method import Images, Method, Output, Patterns, Sums
from live4d_ophyd.imaging.of_channel import channel_of
from live4d_ophyd.imaging.spread import good_neighbours, spread_sums
from live4d_ophyd.imaging.weights import combined_weights
from live4d_ophyd.sources.source import SeriesInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedChannel:
    """What frames of one of the detector's channels are asked for."""

    series: SeriesInfo  #: as methods see it: with the mask that is applied
    detectors_mask: np.ndarray | None  #: pixels that the detector calls bad, (q_y, q_x) bool
    demand: Demand  #: of all methods of the channel together
    #: what the sums of each column are divided by, (columns,) float64; None: by nothing
    divisors: np.ndarray | None = None
    pixels_spread: int = 0  #: bad pixels whose weight is on their neighbours

    @property
    def mask(self) -> np.ndarray | None:
        """Pixels that are left out, (q_y, q_x) bool."""
        return self.series.pixel_mask


@dataclass(frozen=True)
class Prepared:
    """The methods of a series, and what they demand of its frames, channel by channel."""

    channels: Mapping[str, PreparedChannel]  #: "" is the one that the source takes, and always there
    methods: tuple[
        Method, ...
    ]  #: those with outputs, in an order in which each comes behind what it is made of
    outputs_of: Mapping[str, Mapping[str, Output]]  #: by method
    columns: Mapping[
        str, slice
    ]  #: of the sums of its channel, by method; methods that take patterns have none
    derived: Mapping[str, Images]  #: methods made from others' outputs

    @property
    def outputs(self) -> dict[str, Output]:
        """Those of all methods."""
        return {name: output for outputs in self.outputs_of.values() for name, output in outputs.items()}

    def of(self, method: Any) -> PreparedChannel:
        """The channel of a method."""
        return self.channels[channel_of(method)]


class Preparation:
    """What the last series was asked for. For one thread at a time."""

    def __init__(self) -> None:
        #: whether it was logged that no pixel is masked
        self.unmasked_logged = False
        self._made_of: tuple[Any, ...] | None = None
        self._prepared: Prepared | None = None
        self._last: tuple[SeriesInfo, Mapping[str, EncodedArray | None]] | None = None

    def prepare(
        self,
        request: AcquisitionRequest,
        series: SeriesInfo,
        detectors_masks: Mapping[str, EncodedArray | None],
    ) -> Prepared:
        """What frames of the series are asked for.

        ``detectors_masks`` are those that the detector sent, by channel, "" for the source's: any bit makes a pixel
        bad. Raises ValueError where the user's mask or a method does not fit the frames.
        """
        frame = series.format
        series = replace(series, calibration=request.calibration)
        made_of = (
            request.methods, request.grid, frame.shape, frame.dtype.newbyteorder("="), series.saturation,
            series.energy, request.calibration, request.pixel_mask, request.gain, request.bad_pixels,
            tuple(detectors_masks.get(channel) for channel in ("", *request.channels)),
        )  # fmt: skip
        if self._prepared is None or not _same(made_of, self._made_of):
            self._made_of = None
            own = {
                channel: _decoded(detectors_masks.get(channel), frame.shape)
                for channel in ("", *request.channels)
            }
            self._prepared = _prepared(request, series, own)
            self._made_of = made_of
            self._last = series, detectors_masks
        channels = {
            name: replace(prepared, series=replace(series, pixel_mask=prepared.mask))
            for name, prepared in self._prepared.channels.items()
        }
        return replace(self._prepared, channels=channels)

    def knows(self, shape: tuple[int, int]) -> bool:
        """Whether the last series had frames of this shape."""
        return self._last is not None and self._last[0].format.shape == shape

    def free_if_large(self) -> None:
        """Free what was made for frames of a size that is believed only when they come."""
        if self._last is not None and self._last[0].format.pixels > BELIEVED_PIXELS:
            self._made_of = self._prepared = self._last = None

    def prepare_again(self, request: AcquisitionRequest) -> None:
        """Make before arming what frames like those of the last series need; what does not fit is said later."""
        if self._last is not None:
            with contextlib.suppress(ValueError, MethodFailed):
                self.prepare(request, *self._last)


def _prepared(
    request: AcquisitionRequest, series: SeriesInfo, own: Mapping[str, np.ndarray | None]
) -> Prepared:
    """``own``: the detector's masks, by channel."""
    scan, shape = request.grid, series.format.shape
    # What a demand may depend on is what decides whether the one before holds.
    known = {
        channel: replace(
            series,
            key=(0, 0),
            frames=None,
            note={},
            pixel_mask=_combined(request.pixel_mask, shape, mask),
        )
        for channel, mask in own.items()
    }
    outputs_of: dict[str, Mapping[str, Output]] = {}
    demands: dict[str, Sums | Patterns | Images] = {}
    for method in request.methods:
        try:
            of_channel = known[channel_of(method)]
            if outputs := dict(method.outputs(of_channel, scan)):
                outputs_of[method.name] = outputs
                demands[method.name] = method.demand(of_channel, scan)
        except RAISED_BY_METHODS as error:
            refuse_method(method, error)
    size = sum(math.prod(output.shape) * 8 for outputs in outputs_of.values() for output in outputs.values())
    if size > MAX_OUTPUTS_BYTES:
        raise ValueError(
            f"the outputs of {', '.join(outputs_of)} are {size >> 20} MiB; a raster may have {MAX_OUTPUTS_BYTES >> 20} "
            "MiB: fewer methods, or a smaller scan"
        )
    methods = [method for method in request.methods if method.name in outputs_of]
    derived = {name: demand for name, demand in demands.items() if isinstance(demand, Images)}
    columns: dict[str, slice] = {}
    channels: dict[str, PreparedChannel] = {}
    for channel, of_channel in known.items():
        here = {m.name: demands[m.name] for m in methods if channel_of(m) == channel}
        channels[channel] = _together(here, of_channel, own[channel], request, columns)
    return Prepared(channels, _ordered(methods, derived, outputs_of), outputs_of, columns, derived)


def _together(
    demands: Mapping[str, Any],
    series: SeriesInfo,
    own: np.ndarray | None,
    request: AcquisitionRequest,
    columns: dict[str, slice],
) -> PreparedChannel:
    """The demand of all methods of a channel, by their names; which ``columns`` of the sums are whose.

    ``own``: the mask that the detector sent.
    """
    sums = {name: demand for name, demand in demands.items() if isinstance(demand, Sums)}
    mask, divisors, pixels_spread = series.pixel_mask, None, 0
    if request.bad_pixels == "spread" and mask is not None:
        pixels_spread = int(np.count_nonzero(good_neighbours(mask)[mask]))
        sums, divisors = spread_sums(sums, mask, series.format.dtype)
    maps = combined_weights(list(sums.values()), series.format.shape, mask, request.gain) if sums else None
    if maps is not None:
        maps.sums_of(series.format)  # refuses what does not fit, before anything is armed
    begin = 0
    for name, demand in sums.items():
        columns[name] = slice(begin, begin + len(demand.bands))
        begin += len(demand.bands)
    together = Demand(maps, any(isinstance(demand, Patterns) for demand in demands.values()))
    return PreparedChannel(series, own, together, divisors, pixels_spread)


def _ordered(
    methods: list[Method], derived: Mapping[str, Images], outputs_of: Mapping[str, Mapping[str, Output]]
) -> tuple[Method, ...]:
    """Each method behind those whose outputs it is made of."""
    ordered = [method for method in methods if method.name not in derived]
    waiting = [method for method in methods if method.name in derived]
    known = {name for method in ordered for name in outputs_of[method.name]}
    everything = sorted(name for outputs in outputs_of.values() for name in outputs)
    while waiting:
        next_ = next((m for m in waiting if known.issuperset(derived[m.name].names)), None)
        if next_ is None:
            method = waiting[0]
            missing = next(name for name in derived[method.name].names if name not in known)
            raise ValueError(
                f"the method {method.name} is made from {missing!r}, which "
                + ("is made from it" if missing in everything else f"no method gives; there are {everything}")
            )
        waiting.remove(next_)
        ordered.append(next_)
        known.update(outputs_of[next_.name])
    return tuple(ordered)


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal, with arrays anywhere in them."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    if is_dataclass(one):
        return all(_same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return bool(one == other)


def _combined(
    users: np.ndarray | None, shape: tuple[int, int], detectors: np.ndarray | None
) -> np.ndarray | None:
    if users is None:
        return detectors
    if users.shape != shape:
        raise ValueError(f"pixel_mask has shape {users.shape}, the frames have {shape}")
    mask = users.astype(bool)
    return mask if detectors is None else mask | detectors


def _decoded(mask: EncodedArray | None, shape: tuple[int, int]) -> np.ndarray | None:
    """Pixels that the detector calls bad, (q_y, q_x) bool; None where its mask cannot be used."""
    if mask is None:
        return None
    if mask.shape != shape:
        log.warning("the detector's pixel mask of %s is not used for frames of %s px", mask.shape, shape)
        return None
    if not mask.plausible:
        log.warning(
            "the detector's pixel mask is not used: it has %d bytes for %d x %d px", len(mask.data), *shape
        )
        return None
    try:
        bits = decode_array(mask)
    except ValueError as error:
        log.warning("the detector's pixel mask is not used: %s", error)
        return None
    return bits != 0

"""Signals of a further channel that is imaged: what came of its frames, and what the series says of it.

In: a channel's name, and a `ChannelResult` in the engine client's thread. Out: components ``frames_bad_difference`` and
the like. Frames that never came are lost in every channel: ``frames_lost`` counts them once.
"""

from __future__ import annotations

import math
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device

from live4d_ophyd.device.signals import Value
from live4d_ophyd.engine.results import ChannelResult
from live4d_ophyd.imaging.of_channel import suffix_of


class OfOneChannel(Value):
    """A value of one channel: its data key says so."""

    def __init__(self, *args: Any, channel: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._channel = channel

    def describe(self) -> dict[str, Any]:
        ((name, entry),) = super().describe().items()
        return {name: {**entry, "channel": self._channel}}


def channel_components(channel: str) -> dict[str, Cpt]:
    """The signals of a channel."""
    values: dict[str, tuple[Any, str | None]] = {
        "frames_received": (0, None),
        "frames_bad": (0, None),
        "frames_saturated": (0, None),
        "series_threshold": (math.nan, "eV"),
        "series_pixels_masked": (0, None),
        "series_pixels_spread": (0, None),
        "series_pixel_mask": ("", None),
        "series_detector_mask": ("", None),
    }
    return {
        name + suffix_of(channel): Cpt(OfOneChannel, value=value, units=units, channel=channel, kind="normal")
        for name, (value, units) in values.items()
    }


def put_channel(device: Device, channel: str, result: ChannelResult) -> None:
    """Put what a raster brought in a channel into its signals."""
    losses, info = result.losses, result.info
    for name, value in (
        ("frames_received", losses.received),
        ("frames_bad", losses.bad),
        ("frames_saturated", losses.saturated),
        ("series_threshold", info.threshold),
        ("series_pixels_masked", info.pixels_masked),
        ("series_pixels_spread", info.pixels_spread),
        ("series_pixel_mask", info.pixel_mask),
        ("series_detector_mask", info.detector_mask),
    ):
        getattr(device, name + suffix_of(channel)).put(value)

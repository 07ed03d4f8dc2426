"""OfChannel: a method on the frames of a further channel of the detector, as another threshold or their difference.

In: a method, and the channel's name. Out: the same outputs, each key with the channel's name behind it:
``vbf_difference`` beside ``vbf``, so that what a method gives stays together. The engine takes it for a method like any
other, decodes the channel for it, and gives it the channel's own pixel mask. A method without it is of the channel that
the source takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from live4d_ophyd.imaging.method import UNIT, Accumulator, Images, Method, Output, Patterns, Sums
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo


def suffix_of(channel: str) -> str:
    """What data keys of a channel end with: its name, and _ for what no identifier has."""
    return "_" + re.sub(r"\W", "_", channel, flags=re.ASCII)


@dataclass(frozen=True)
class OfChannel:
    """``method`` on frames of ``channel``.

    What the method is made of (`Images`) is of the same channel. Raises ValueError for a channel without a name.
    """

    method: Method
    channel: str = field(metadata=UNIT)

    def __post_init__(self) -> None:
        if not isinstance(self.channel, str) or not self.channel:
            raise ValueError(
                f"a channel is called {self.channel!r}; expected a name as the stream has it, threshold_2"
            )
        if isinstance(self.method, OfChannel):
            raise ValueError(f"{self.method.name} is of channel {self.method.channel!r} already")

    @property
    def name(self) -> str:
        return self._key(self.method.name)

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Sums | Patterns | Images:
        """As of the method; what it is made of is of the same channel."""
        demand = self.method.demand(series, scan)
        return Images(tuple(map(self._key, demand.names))) if isinstance(demand, Images) else demand

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> dict[str, Output]:
        """Those of the method; each says its channel."""
        return {
            self._key(key): replace(
                output,
                channel=self.channel,
                brightness=self._key(output.brightness) if output.brightness else "",
            )
            for key, output in self.method.outputs(series, scan).items()
        }

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Accumulator:
        """The method's own."""
        return self.method.accumulator(series, scan, device)

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Any, *fit: Any) -> Mapping[str, np.ndarray]:
        """The method's own, by the channel's keys; ``fit`` for a method that refits."""
        given = self.method.results(series, scan, self._own(parts), *fit)
        return {self._key(key): array for key, array in given.items()}

    def __getattr__(self, name: str) -> Any:
        """What only some methods have: a fit, what they take along to the next raster, and a switch."""
        if name == "refit":
            refit = self.method.refit  # type: ignore[attr-defined]  # none: the method does not refit, nor does this
            return lambda series, scan, parts, fit, stop: refit(series, scan, self._own(parts), fit, stop)
        if name in ("refit_rows", "next_raster", "enabled"):
            return getattr(self.method, name)
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def _key(self, key: str) -> str:
        return key + suffix_of(self.channel)

    def _own(self, parts: Any) -> Any:
        """``parts`` as the method knows them: images of the channel by the names without it."""
        if not isinstance(parts, Mapping):
            return parts
        return {key.removesuffix(suffix_of(self.channel)): array for key, array in parts.items()}


def plain(method: Any) -> Any:
    """The method, without the channel it is put on."""
    return method.method if isinstance(method, OfChannel) else method


def channel_of(method: Any) -> str:
    """The further channel whose frames a method takes; "" for that of the source."""
    return method.channel if isinstance(method, OfChannel) else ""


def channels_of(methods: Iterable[Any]) -> tuple[str, ...]:
    """The further channels of which methods take frames, each once."""
    return tuple(dict.fromkeys(filter(None, map(channel_of, methods))))


def on_channels(methods: Sequence[Any], channels: Sequence[str]) -> tuple[Any, ...]:
    """``methods``, and each again on every one of ``channels``; but for those that say a channel themselves."""
    plain = [method for method in methods if not isinstance(method, OfChannel)]
    return (*methods, *(OfChannel(method, channel) for channel in channels for method in plain))

"""Signals made from methods: an array for each output, statistics of images, a setting for each parameter.

In: methods, frozen dataclasses. Out: the class of a device with their signals, and `MethodSignals`, what such a device
does with them. A method ``vbf`` with a field ``radius`` and an image ``vbf`` gives ``vbf``, ``vbf_mean``,
``vbf_contrast`` (std / mean) and ``vbf_radius``. Threads: `put_outputs` runs in the engine client's, the rest in the
caller's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import packages_distributions, version
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, Kind
from ophyd.device import create_device_from_components

from live4d_ophyd.device.channel_signals import channel_components
from live4d_ophyd.device.imaging_settings import ImagingSettings
from live4d_ophyd.device.parameters import parameters, with_settings
from live4d_ophyd.device.signals import Result, Value, Vector
from live4d_ophyd.imaging import registry
from live4d_ophyd.imaging.method import SCAN, Output
from live4d_ophyd.imaging.of_channel import OfChannel, channels_of, on_channels
from live4d_ophyd.scan import ScanGrid

#: what instances have besides the attributes of the class
_RESERVED = frozenset(dir(Device("", name="reserved"))) | {"control", "preview"}
#: how names begin that the device has for other things
_TAKEN_PREFIXES = ("_", "detector_", "live_")


class OutputArray(Result):
    """A float64 array that a method gives; its shape is known before the first one is taken."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, value=np.full((1, 1), np.nan), **kwargs)

    def describe(self) -> dict[str, Any]:
        output = self.parent.output(self.attr_name)
        # What depends on the detector is known when it has come.
        shape = output.shape if all(output.shape) else np.shape(self._readback)
        key = array_key(self.parent.name, self.attr_name, output, shape)
        return {self.name: key | self.parent.channel_said(output)}


class OutputNumber(Value):
    """A number that a method gives, in its unit."""

    def describe(self) -> dict[str, Any]:
        ((name, entry),) = super().describe().items()
        output = self.parent.output(self.attr_name)
        return {name: {**entry, "units": output.units} | self.parent.channel_said(output)}


class Mean(Value):
    """Mean of an image, in its unit."""

    def describe(self) -> dict[str, Any]:
        ((name, entry),) = super().describe().items()
        output = self.parent.output(self.attr_name.removesuffix("_mean"))
        return {name: {**entry, "units": output.units} | self.parent.channel_said(output)}


class Contrast(Value):
    """Standard deviation of an image over its mean."""

    def describe(self) -> dict[str, Any]:
        ((name, entry),) = super().describe().items()
        output = self.parent.output(self.attr_name.removesuffix("_contrast"))
        return {name: entry | self.parent.channel_said(output)}


def array_key(device: str, name: str, output: Output, shape: tuple[int, ...]) -> dict[str, Any]:
    """Data key of an output. Without ``dtype_numpy`` storage would guess, without ``dims`` it could not name axes.

    ``brightness`` is the data key that an angle is shown with; ``symmetric`` values are shown in two colours about 0.
    """
    key: dict[str, Any] = {
        "source": f"live4d:{device}_{name}",
        "dtype": "array",
        "dtype_numpy": "<f8",
        "shape": list(shape),
        "dims": list(output.dims),
        "units": output.units,
    }
    if output.symmetric:
        key["symmetric"] = True
    return {**key, "brightness": f"{device}_{output.brightness}"} if output.brightness else key


def device_class(
    base: type[Device], methods: Sequence[Any], grid: ScanGrid, channels: Sequence[str] = (), **more: Cpt
) -> type[Device]:
    """``base`` with the signals of these methods, and ``more`` components.

    ``channels``: on which each method works, too, with the same parameters; the channels' counts are signals, too.

    Components are attributes of a class: devices with other methods are of other classes, all called like ``base``.
    Raises ValueError for methods whose signals would have the same name, or that of an attribute of ``base``.
    """
    components: dict[str, Cpt] = {}
    taken: set[str] = set()
    every = on_channels(methods, channels)
    for number, method in enumerate(every):
        hinted = not any(cpt.kind == Kind.hinted for cpt in components.values())
        for attr, cpt in _components(method, grid, hinted, settings=number < len(methods)):
            for key in (attr, f"{attr}_row", f"{attr}_col") if cpt.cls is Vector else (attr,):
                if key in taken:
                    raise ValueError(
                        f"the methods {[m.name for m in methods]} would share the data key {key!r}: names must "
                        "differ, also from each other's with _mean, _contrast and the like"
                    )
                if hasattr(base, key) or key in _RESERVED or key.startswith(_TAKEN_PREFIXES):
                    raise ValueError(
                        f"a method cannot be called {method.name!r}: the device has {key!r} itself"
                    )
                taken.add(key)
            components[attr] = cpt
    for channel in channels_of(every):
        for attr, cpt in channel_components(channel).items():
            if attr in taken or attr in more:
                raise ValueError(
                    f"the channel {channel!r} would have the data key {attr!r}, which is there: name it otherwise at "
                    "the detector, or the method"
                )
            taken.add(attr)
            components[attr] = cpt
    made = create_device_from_components(
        base.__name__, base_class=base, docstring=base.__doc__, **components, **more
    )
    made.__module__, made.__qualname__ = base.__module__, base.__qualname__
    return made


def _components(
    method: Any, grid: ScanGrid, hinted: bool, *, settings: bool = True
) -> Iterator[tuple[str, Cpt]]:
    """The signals of a method's outputs, of its images' statistics, and its settings; some may be called alike.

    ``hinted``: whether the statistics of outputs that say so are for tables and plots. Those of one method are: of a
    virtual detector and three others, four plots and a table too wide would come.
    """
    for key, output in all_outputs(method, grid).items():
        kind = "hinted" if hinted and output.hinted else "normal"
        if not output.dims:
            yield key, Cpt(OutputNumber, value=math.nan, kind=kind)
            continue
        yield key, Cpt(OutputArray, kind="normal")
        if output.dims == SCAN:
            yield f"{key}_mean", Cpt(Mean, value=math.nan, kind=kind)
            if output.units == "counts":  # of what may be below 0 it says nothing
                yield f"{key}_contrast", Cpt(Contrast, value=math.nan, kind=kind)
    if not settings:
        return
    yield f"{method.name}_kind", Cpt(Value, value=described_kind(method), kind="config")
    for parameter in parameters(method):
        yield parameter.key, parameter.component


def described_kind(method: Any) -> str:
    """Which method it is: its kind, and of one of another package that and its version."""
    if isinstance(method, OfChannel):
        return described_kind(method.method)
    kind, package = registry.kind_of(method), type(method).__module__.partition(".")[0]
    if package == "live4d_ophyd":
        return kind
    for name in packages_distributions().get(package, ()):
        return f"{kind} ({name} {version(name)})"
    return f"{kind} ({package})"


def outputs_of(method: Any, grid: ScanGrid) -> Mapping[str, Output]:
    """What a method gives, as far as that is known before a series."""
    return method.outputs(None, grid)


def all_outputs(method: Any, grid: ScanGrid) -> Mapping[str, Output]:
    """What a method gives if it is enabled."""
    switched_off = getattr(method, "enabled", None) is False
    return outputs_of(_switched_on(method) if switched_off else method, grid)


def _switched_on(method: Any) -> Any:
    if isinstance(method, OfChannel):
        return replace(method, method=_switched_on(method.method))
    return replace(method, enabled=True)


class MethodSignals(ImagingSettings):
    """A device of a `device_class` and the methods that it is made for; parameters are as its signals have them.

    ``channels``: on which each method works, too.
    """

    def __init__(
        self, *args: Any, methods: Sequence[Any], channels: Sequence[str] = (), **kwargs: Any
    ) -> None:
        self._methods = tuple(methods)
        self._channels = tuple(channels)
        self._parameters = [parameters(method) for method in methods]
        self._held: dict[str, Output] | None = None
        super().__init__(*args, **kwargs)

    def methods(self, instead: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """The methods as the signals have them now, or with the values of ``instead``, by the names of signals.

        Raises ValueError where parameters do not fit each other.
        """
        return tuple(
            with_settings(method, self, settings, instead)
            for method, settings in zip(self._methods, self._parameters)
        )

    def methods_on_channels(self) -> tuple[Any, ...]:
        """All that makes images: the methods, and each on every further channel. Raises as `methods`."""
        return on_channels(self.methods(), self._channels)

    @property
    def further_channels(self) -> tuple[str, ...]:
        """Channels that are imaged besides that of the signal ``channel``."""
        return channels_of(on_channels(self._methods, self._channels))

    def channel_said(self, output: Output) -> dict[str, str]:
        """What a data key says of its channel, {} where only the series names it."""
        first = getattr(self, "channel", None)
        channel = output.channel or ("" if first is None else first.get())
        return {"channel": channel} if channel else {}

    def check_outputs(self, methods: Sequence[Any]) -> None:
        """Raise ValueError where ``methods`` would not give what the signals are made for."""
        grid = self.grid()
        for method, made_for in zip(methods, self._methods):
            given = all_outputs(method, grid)
            if gone := [key for key in all_outputs(made_for, grid) if key not in given]:
                raise ValueError(
                    f"{method.name} would not give {gone[0]} any more, for which {self.name} has a signal: signals are "
                    f"made with the device. Make one with {method}"
                )
            if missing := [key for key in outputs_of(method, grid) if key not in self.component_names]:
                raise ValueError(
                    f"{method.name} would give {missing[0]}, for which {self.name} has no signal: signals are made "
                    f"with the device. Make one with {method}"
                )

    def outputs(self) -> dict[str, Output]:
        """What the next raster gives, by the names of the signals."""
        return self._outputs(outputs_of)

    def output(self, name: str) -> Output:
        """An output of a method, also of one that is not enabled."""
        return (self._held or self._outputs(all_outputs))[name]

    @contextmanager
    def outputs_held(self) -> Iterator[None]:
        """Within it all outputs are those of now: each signal of a description asks for its own."""
        self._held = self._outputs(all_outputs)
        try:
            yield
        finally:
            self._held = None

    def _outputs(self, of: Any) -> dict[str, Output]:
        try:
            methods = self.methods()
        except ValueError:  # two parameters are being set, one after the other
            methods = self._methods
        grid, methods = self.grid(), on_channels(methods, self._channels)
        found = {name: output for method in methods for name, output in of(method, grid).items()}
        if self.gain.get() is None:
            return found
        # A pattern knows no gain.
        weighted = {
            name: replace(output, units="gain-corrected counts")
            for name, output in found.items()
            if output.dims == SCAN and output.units == "counts"
        }
        return found | weighted

    def preview_keys(self) -> dict[str, dict[str, Any]]:
        """Data keys of the outputs that are shown while a raster runs, by the names of the signals.

        Lengths that depend on the detector are 0.
        """
        return {
            name: array_key(self.name, name, output, output.shape) | self.channel_said(output)
            for name, output in self.outputs().items()
            if output.preview and output.dims
        }

    def known_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the next raster's outputs by data key, of those that do not depend on the detector."""
        return {
            f"{self.name}_{name}": output.shape
            for name, output in self.outputs().items()
            if output.dims and all(output.shape)
        }

    def without_disabled(self, keys: dict[str, Any]) -> dict[str, Any]:
        """``keys`` without those of outputs that the next raster does not give."""
        names = self._outputs(all_outputs).keys() - self.outputs().keys()
        absent = {f"{self.name}_{name}{end}" for name in names for end in ("", "_mean", "_contrast")}
        return {key: entry for key, entry in keys.items() if key not in absent}

    def without_unknown(self, keys: dict[str, Any]) -> dict[str, Any]:
        """``keys`` without those of outputs whose size only the detector knows."""
        outputs = self.outputs()
        unknown = {f"{self.name}_{name}" for name, output in outputs.items() if not all(output.shape)}
        return {key: entry for key, entry in keys.items() if key not in unknown}

    def put_outputs(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put what a raster gave into the signals, and the statistics of images."""
        for name, array in arrays.items():
            getattr(self, name).put(array if array.shape else float(array))
            mean, contrast = statistics(array)
            for end, value in (("mean", mean), ("contrast", contrast)):
                if f"{name}_{end}" in self.component_names:
                    getattr(self, f"{name}_{end}").put(value)


def statistics(image: np.ndarray) -> tuple[float, float]:
    """Mean of the values that are there, and their standard deviation over it; NaN where there is none."""
    seen = image[np.isfinite(image)]
    mean = float(seen.mean()) if seen.size else math.nan
    return mean, float(seen.std() / mean) if seen.size and mean else math.nan

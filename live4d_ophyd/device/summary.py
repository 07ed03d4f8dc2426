"""The text of ``live4d.summary()``: what the device is set to, and what its newest image brought."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from live4d_ophyd.device.signals import Setting, Value, Vector


def lines(device: Any) -> Iterator[str]:
    """The lines for a device: results, then settings, with their units."""
    yield f"{device.name}: frames from {device.endpoint.get()}, decoded on: {device.backend.get() or 'not started yet'}"
    values = [getattr(device, name) for name in device.component_names]
    values = [signal for signal in values if isinstance(signal, Value)]
    yield "\nnewest image"
    for signal in values:
        if not isinstance(signal, Setting):
            yield from _lines(device, signal)
    yield "\nsettings"
    for signal in values:
        if isinstance(signal, Setting):
            yield from _lines(device, signal)


def _lines(device: Any, signal: Value) -> Iterator[str]:
    if isinstance(signal, Vector):  # set as a pair
        row, col = signal.get()
        yield f"  {signal.attr_name:28} ({row:.6g}, {col:.6g}) px"
        return
    described = signal.describe()
    for key, reading in signal.read().items():
        value, unit = reading["value"], described[key].get("units") or ""
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        yield f"  {key.removeprefix(device.name + '_'):28} {shown} {unit}".rstrip()

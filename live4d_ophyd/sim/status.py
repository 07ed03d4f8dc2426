"""What the status keys of the simulated DCU say, and which keys its firmware does not have.

In: a :class:`~.dcu.Dcu`. Out: its status keys by SIMPLON module. Any thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from live4d_ophyd.sim.dcu import Dcu
from live4d_ophyd.sim.settings import Parameter

#: the sensor is cooled by water of 20 degC, degC
TEMPERATURE = 22.5
#: the housing is flushed with dry gas: its dew point is 25 degrees below TEMPERATURE, %
HUMIDITY = 16.0


def statuses(dcu: Dcu) -> dict[str, dict[str, Parameter]]:
    """Module -> key -> value; without the keys that the DCU's firmware does not have."""

    def fixed(value: Any, value_type: str = "string", unit: str = "") -> Parameter:
        return Parameter(value, value_type, unit, writable=False)

    state = dcu.state
    everything = {
        "detector": {
            "state": fixed(state),
            "error": fixed([dcu.error] if dcu.error else [], "list"),
            "high_voltage/state": fixed(dcu.high_voltage),
            "temperature": fixed(TEMPERATURE, "float", "degC"),
            "humidity": fixed(HUMIDITY, "float", "%"),
        },
        "stream": {
            "state": fixed("acquire" if state == "acquire" else "ready"),
            "error": fixed([], "list"),
            "dropped": fixed(dcu.dropped, "uint"),
        },
        "filewriter": {"state": fixed("ready" if dcu.filewriter_config["mode"] == "enabled" else "disabled")},
    }
    return {
        module: {key: value for key, value in keys.items() if key not in dcu.without}
        for module, keys in everything.items()
    }


def hide_keys(dcu: Dcu, keys: Iterable[str]) -> None:
    """As firmware without these config and status keys. Raises ValueError that names one that never was there."""
    configurations = (dcu.config, dcu.stream_config, dcu.filewriter_config)
    known = {key for module in statuses(dcu).values() for key in module}
    known.update(*(configuration.keys() for configuration in configurations))
    keys = frozenset(keys)
    for key in sorted(keys - known):
        raise ValueError(
            f"cannot leave out {key!r}: no such config or status key; there are {', '.join(sorted(known))}"
        )
    for configuration in configurations:
        configuration.hide(keys)
    dcu.without |= keys

"""A RunEngine preprocessor: unmodified plans emit a device's previews while they wait for it.

Comes in: the messages of any plan. Goes out: the same messages, and between ``trigger`` and the end of the
``wait`` for it one Event in the stream ``live4d_live`` every ``1 / max_rate`` seconds. Runs in the thread of
the RunEngine, like all that emits documents: the catalog's client must not be called from two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from bluesky.utils import Msg

from live4d_ophyd.image_streams import preview_stream
from live4d_ophyd.live.messages import LoopMsg, Plan, each_by


def live_preview(devices: Iterable[Any], max_rate: float = 5.0) -> Callable[[Plan], Plan]:
    """A preprocessor for ``RE.preprocessors`` that lets plans show the devices' images as they grow.

    Parameters
    ----------
    devices
        Devices with a ``preview`` that can be read between ``trigger`` and the end of its status, and has the
        key ``<device>_live_fraction``.
    max_rate
        Previews a second, at most. There are fewer while no frames come, and where the callbacks (catalog,
        figure) are slow: emitting previews takes at most half of the RunEngine's time.

    Returns
    -------
    ``plan -> plan``, to be appended to ``RE.preprocessors``, or to be called with one plan.

    Left alone are the plan's own waits with a timeout or with a ``watch`` group; waits for groups in which
    none of the devices was triggered; waits outside a run, or inside an Event that something was read into.
    An Event opened before its triggers (``adaptive_scan``) is closed for the previews and opened again. A
    failed status raises ``FailedStatus`` into the plan as it does without this preprocessor.

    Examples
    --------
    >>> RE.preprocessors.append(live_preview([live4d]))
    >>> RE(bp.scan([live4d], defocus, -200, 200, 9))

    Raises
    ------
    ValueError
        ``max_rate`` is not positive, or a device has no ``preview``.
    """
    devices = tuple(devices)
    if not max_rate > 0:
        raise ValueError(f"max_rate is {max_rate!r}; it must be a positive number of previews a second")
    for device in devices:
        if not hasattr(device, "preview"):
            raise ValueError(f"{device!r} has no preview to read; live_preview needs devices like Live4D")

    def preprocessor(plan: Plan) -> Plan:
        watcher = _PlanWatcher(devices, 1 / max_rate)
        return (yield from each_by(watcher.replace, plan))

    return preprocessor


class _PlanWatcher:
    """Follows one plan's messages and stretches those ``wait`` that it can show something during."""

    def __init__(self, devices: tuple, period: float) -> None:
        self._devices = devices
        self._period = period
        self._exposing: dict[Hashable, list[tuple[Any, Any]]] = {}  # group: (device, status)
        self._open_runs: set[Hashable] = set()
        self._open_events: dict[
            Hashable, Msg | None
        ] = {}  # run: its create message, None once it is read into

    def replace(self, msg: Msg) -> Plan:
        """The messages to send in place of ``msg``; returns the response that the plan expects."""
        match msg.command:
            case "open_run":
                self._open_runs.add(msg.run)
            case "close_run":
                self._open_runs.discard(msg.run)
                self._open_events.pop(msg.run, None)
            case "create":
                self._open_events[msg.run] = msg
            case "read" if msg.run in self._open_events:
                self._open_events[msg.run] = None
            case "save" | "drop":
                self._open_events.pop(msg.run, None)
            case "trigger" if msg.obj in self._devices:
                status = yield msg
                self._exposing.setdefault(msg.kwargs.get("group"), []).append((msg.obj, status))
                return status
            case "wait":
                group = msg.args[0] if msg.args else msg.kwargs.get("group")
                exposing = self._exposing.pop(group, [])
                if exposing and self._may_show_during(msg):
                    return (yield from self._outside_event(msg.run, self._wait(msg, group, exposing)))
        return (yield msg)

    def _may_show_during(self, wait: Msg) -> bool:
        plain = wait.kwargs.get("timeout") is None and wait.kwargs.get("error_on_timeout", True)
        watches = wait.kwargs.get("watch")  # its timeout would be taken for a failure of the watched group
        read_into = self._open_events.get(wait.run, wait) is None
        return plain and not watches and wait.run in self._open_runs and not read_into

    def _outside_event(self, run: Hashable, messages: Plan) -> Plan:
        """``messages`` with the run's open, still empty Event closed meanwhile."""
        create = self._open_events.get(run)
        if create is None:
            return (yield from messages)
        try:
            yield Msg("drop", run=run)
            response = yield from messages
        except GeneratorExit:
            raise
        except BaseException:
            yield create  # the plan may want to drop it
            raise
        yield create
        return response

    def _wait(self, msg: Msg, group: Hashable, exposing: list[tuple[Any, Any]]) -> Plan:
        pause = self._period
        shown: dict[Any, Any] = {}  # device: fraction seen in its newest preview
        for device, status in exposing:
            if not status.done:
                # A device may make previews only when one was read: let the first come soon.
                _fraction(device)
        while True:
            wait = LoopMsg("wait", group=group, timeout=pause, error_on_timeout=False, run=msg.run)
            done = yield wait
            wait.exclude_from_rewind()
            if done:
                # A status that failed or ended within the last timeout is still in the group: the plan's
                # own wait collects it, and gives the plan the response it expects. It is also the wait
                # that the RunEngine repeats if the plan is rewound from further down.
                return (yield msg)
            begin = time.monotonic()
            if (
                done is not None
            ):  # else interrupted: how far the exposure is will be known after the next wait
                for device, status in exposing:
                    if (status is None or not status.done) and shown.get(device, 0.0) != (
                        new := _fraction(device)
                    ):
                        shown[device] = new
                        yield from self._show(device, msg.run)
            if done is None or wait.rewound:
                # The RunEngine has triggered again, and the new statuses are not known here: from now on
                # the end of the group counts for all its devices.
                exposing = [(device, None) for device, _ in exposing]
            spent = time.monotonic() - begin
            pause = max(self._period - spent, spent)

    @staticmethod
    def _show(device: Any, run: Hashable) -> Plan:
        messages = (
            LoopMsg("create", name=preview_stream(device.name), run=run),
            LoopMsg("read", device.preview, run=run),
            LoopMsg("save", run=run),
        )
        for message in messages:
            yield message
        # Together, and only when the Event is out: a rewind inside it has to open it again.
        for message in messages:
            message.exclude_from_rewind()


def _fraction(device: Any) -> Any:
    """Fraction of the raster seen: as long as it stays, at first at 0, there is nothing new to show and store."""
    return device.preview.read()[f"{device.name}_live_fraction"]["value"]

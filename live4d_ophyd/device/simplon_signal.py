"""SimplonSignal: one key of the detector as an ophyd signal, with the unit and limits that the detector gives it.

In: ``set`` of plans. Out: SIMPLON requests. A set value is checked here before anything is sent. What is read may be a
second old, or, while the detector does not answer, older. The parent device has the connection, and lets sets take
turns (`detector_settings`). Threads: the callers', and one for each ``set`` while it lasts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from ophyd import Kind, Signal
from ophyd.status import Status

from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.parameter import Parameter
from live4d_ophyd.sources.dectris.rest import SimplonError, UnknownKey

#: how long a value counts as known, s
FRESH_S = 1.0
_NUMPY = {"number": "<f8", "integer": "<i8"}


class SimplonSignal(Signal):
    """One key of the detector.

    ``keys``: where to find it, ``config/frame_time``, the first that the detector has. One that it does not have is
    left out of readings, and raises UnknownKey when it is used all the same.
    """

    def __init__(self, *args: Any, keys: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._keys = tuple(keys)
        self._kind_if_there: Kind | None = None  #: while it is left out
        self._parameter: Parameter | None = None
        self._ask_at = -np.inf

    @property
    def _control(self) -> Simplon:
        assert self.parent is not None, "a SimplonSignal is a component of DetectorSettings"
        return self.parent.control

    @property
    def asked(self) -> bool:
        """Whether the detector has answered once."""
        return self._ask_at > -np.inf

    @property
    def missing(self) -> bool:
        """Whether the detector was asked and does not have it."""
        return self._kind_if_there is not None

    def refresh(self) -> None:
        """Ask the detector, unless that was a moment ago. Raises SimplonError when nothing is known of the value."""
        if self.stale:
            self.ask()

    def ask(self) -> bool:
        """`refresh`, however fresh; until the answer is there the old value counts. Returns whether it came."""
        try:
            for key in self._keys:
                try:
                    self.update(self._control.rest.read("detector", *key.split("/", 1)))
                    return True
                except UnknownKey:
                    continue
        except SimplonError as error:
            if not self.asked:
                raise
            # The images of a scan must not be lost because its detector went away.
            self.parent.silent(error)
            return False
        self._parameter = None
        self.hold(FRESH_S)
        if self._kind_if_there is None:
            self._kind_if_there = self.kind  # type: ignore[has-type]
            self.kind = Kind.omitted
        return True

    def update(self, parameter: Parameter) -> None:
        """Use what the detector says of the key."""
        self._parameter = parameter
        self.hold(FRESH_S)
        if self._kind_if_there is not None:
            self.kind, self._kind_if_there = self._kind_if_there, None
        value = parameter.in_documents[1]
        if value != self._readback:
            super().put(value, force=True)

    @property
    def stale(self) -> bool:
        """Whether the detector is asked when the value is wanted next."""
        return time.monotonic() >= self._ask_at

    def hold(self, seconds: float) -> None:
        """Hold the value that is known for so long, or longer if that was said before."""
        self._ask_at = max(self._ask_at, time.monotonic() + seconds)

    def invalidate(self) -> None:
        """Ask again when the value is wanted next."""
        if self.asked:
            self._ask_at = time.monotonic()

    @property
    def hints(self) -> dict[str, Any]:
        """Its name, for tables and plots of plans that move it."""
        return {"fields": [self.name]}

    def _known(self) -> Parameter:
        self.refresh()
        if self._parameter is None:
            raise UnknownKey(
                f"{self.name}: the detector at {self._control.url} has no {' or '.join(self._keys)}"
            )
        return self._parameter

    def get(self, **kwargs: Any) -> Any:
        """The value in the detector. Raises UnknownKey where it has none, SimplonError where it cannot be asked."""
        return self._known().in_documents[1]

    def known_number(self) -> float | None:
        """The value as a number, without asking the detector; None where that is not known, or none."""
        value = None if self._parameter is None else self._parameter.value
        return value if isinstance(value, int | float) else None

    def check_value(self, value: Any, **kwargs: Any) -> None:
        """Raise ValueError with the detector's limits unless it would take ``value``."""
        self._known().check(_plain(value))

    def put(self, value: Any, *, force: bool = False, **kwargs: Any) -> None:
        """Set it, and read again what changed with it.

        Raises ValueError, SimplonError with the detector's words, or when it keeps another value.
        """
        known, value = self._known(), _plain(value)
        if not force:
            known.check(value)
        subsystem, _, key = known.key.split("/", 2)
        assert self.parent is not None
        # One at a time: what another sets meanwhile may change this, and would look like disobedience.
        with self.parent.setting:
            self.parent.before_put()
            changed = self._control.put(subsystem, key, value)
            self.parent.remember(key, changed)
            self.parent.update(changed)

    def set(self, value: Any, *, timeout: float | None = None, settle_time: float | None = None) -> Status:
        """As `put`; what is out of limits is refused at once, thresholds may take the detector seconds."""
        self.check_value(value)
        status = Status(self, timeout=timeout, settle_time=settle_time or 0)
        assert self.parent is not None

        def put() -> None:
            try:
                if before is not None:
                    before.join()
                self.put(value)
            except Exception as error:
                status.set_exception(error)
            else:
                status.set_finished()

        thread = threading.Thread(target=put, name=f"{self.name}-set", daemon=True)
        before = self.parent.queue_up(thread)
        thread.start()
        return status

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value; (0, 0), as ophyd has it, where the detector gives none."""
        known = self._known()
        if known.minimum is None and known.maximum is None:
            return 0.0, 0.0
        return (
            -np.inf if known.minimum is None else known.minimum,
            np.inf if known.maximum is None else known.maximum,
        )

    def describe(self) -> dict[str, Any]:
        known = self._known()
        dtype, _ = known.in_documents
        entry: dict[str, Any] = {"source": f"{self._control.url}/{known.key}", "dtype": dtype, "shape": []}
        if dtype in _NUMPY:
            entry["dtype_numpy"] = _NUMPY[dtype]
        if known.unit:
            entry["units"] = known.unit
        if known.minimum is not None:
            entry["lower_ctrl_limit"] = known.minimum
        if known.maximum is not None:
            entry["upper_ctrl_limit"] = known.maximum
        if known.allowed:
            entry["enum_strs"] = [str(value) for value in known.allowed]
        return {self.name: entry}


class SimplonFact(SimplonSignal):
    """A key that stays as it is while the detector is switched on: asked for once a stage, recorded with the run."""

    def ask(self) -> bool:
        if self._parameter is not None and not self.stale:
            return True
        return super().ask()

    def update(self, parameter: Parameter) -> None:
        super().update(parameter)
        self.hold(np.inf)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value

"""Conversation: what the engine may say of one acquisition, checked against what it was asked for.

In: events, in the order they came. Out: whether they belong to it; ProtocolError that names what is wrong with them.
Pure values: no sockets, no threads.
"""

from __future__ import annotations

from live4d_ophyd.engine.errors import ProtocolError
from live4d_ophyd.engine.process.protocol import Armed, Done, Failed, ProgressMade, RasterDone
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.engine.results import check_outputs


class Conversation:
    """Armed once, ProgressMade at any time, each raster in its order, then Done or Failed."""

    def __init__(self, generation: int, request: AcquisitionRequest) -> None:
        self.generation = generation
        self.request = request
        self._armed = False
        self._rasters = 0
        self._asked = request.series.rasters_per_trigger

    def accept(self, event: Armed | ProgressMade | RasterDone | Done | Failed) -> bool:
        """Whether the event is of this acquisition, not of one before. Raises ProtocolError if it is wrong."""
        name = type(event).__name__
        if event.generation > self.generation:
            raise ProtocolError(
                f"{name}: the generation is {event.generation}; expected {self.generation}, which runs, or an earlier "
                "one"
            )
        if event.generation < self.generation:
            return False
        try:
            self._check(event)
        except ValueError as error:
            raise ProtocolError(f"{name}: {error}") from error
        return True

    def _check(self, event: Armed | ProgressMade | RasterDone | Done | Failed) -> None:
        match event:
            case Armed():
                if self._armed:
                    raise ValueError("the detector was said to be armed before")
                self._armed = True
            case ProgressMade():
                event.progress.check(self.request)
                if event.outputs is not None:
                    check_outputs(event.outputs, self.request, preview=True)
            case RasterDone():
                if self._rasters == self._asked:
                    raise ValueError(f"one more than the {self._asked} that were asked for")
                event.raster.check(self.request, self._rasters)
                self._rasters += 1
            case Done():
                if self._rasters < self._asked:
                    raise ValueError(f"{self._rasters} of {self._asked} rasters came before it")
                if not self._armed:
                    raise ValueError("the detector was not said to be armed, or listened to, before it")

"""Live4D: a DECTRIS stream as a Bluesky detector. One Event is one raster scan, one image per virtual detector.

The device is thin: it turns its signals into an AcquisitionSpec, hands that to the engine process and puts what
comes back into its signals. Threads: the RunEngine's calls the methods; the engine client's delivers events; and
``live4d-scan-stop`` and ``live4d-disarm`` where something failed.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.utils import NoReplayAllowed
from ophyd import Component as Cpt
from ophyd import Device, Kind

from live4d_ophyd.decode import ENGINES
from live4d_ophyd.detector import DetectorSettings
from live4d_ophyd.engine import AcquisitionError, AcquisitionSpec, Raster
from live4d_ophyd.engine.client import EngineClient
from live4d_ophyd.engine.spec import Progress
from live4d_ophyd.imaging.detectors import Detector
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.scan_start import ScanStarter
from live4d_ophyd.signals import Image, LivePreview, RasterStatus, Value, Vector
from live4d_ophyd.simplon import Simplon, SimplonError

log = logging.getLogger(__name__)

#: how long a trigger waits until the detector of a lost engine is disarmed, s
DISARM_S = 30.0


@dataclass
class _Running:
    """The acquisition that runs. Events of any other generation are dropped."""

    generation: int
    status: RasterStatus
    flying: bool = False


class Live4D(Device):
    """4D-STEM detector: virtual-detector images of a raster scan, computed while the frames arrive.

    Parameters
    ----------
    endpoint : stream v2 of the detector control unit, ``tcp://dcu:31001``; several addresses with commas between
    name : name of the device and prefix of its data keys
    scan : geometry of the raster the microscope runs
    detectors : virtual detectors (Disk, Annulus); each gives ``<name>_<detector>`` (image), ``..._mean`` and
        ``..._contrast`` (std / mean)
    control : ``Simplon(url)`` configures, arms, triggers and disarms; the detector's own settings are then signals of
        ``detector`` (`DetectorSettings`). None listens to series that something else starts
    scan_start : starts the scan generator once the detector is armed, once for each trigger or movie: a callable, or an
        ophyd object that is set to 1, or, if it cannot be set, triggered. What it raises fails the trigger. Its own
        ``stop()``, if it has one, is called when nothing is to come of the scan. Not with ``trigger_mode="ints"``,
        where the detector starts by itself
    engine : where frames are decoded: "cpu", "gpu", or "auto", which takes a GPU if one works; what was taken is in
        the configuration, as ``<name>_engine`` and ``<name>_engine_detail``
    server : address of an engine started with ``live4d serve``; None starts one on this machine
    curve_keys : folder with client.key_secret and server.key for a ``server`` that asks for them
    channel : data channel (``threshold_1``), empty for the first of each image
    connections : parallel connections to the stream
    nodata : pixels at the dtype's maximum hold no data and count as nothing
    pixel_mask, gain : bad pixels and pixel factors, (det rows, det cols)
    timeout : longest silence of the stream before a trigger fails (or ends with what came), s

    Missing positions are NaN in the images and counted in ``frames_lost`` and ``frames_bad``.

    Examples
    --------
    >>> live4d = Live4D("tcp://dcu:31001", name="live4d", scan=ScanGrid(256, 256),
    ...                 detectors=[Disk("vbf", center=(95.5, 95.5), radius=30)])    # doctest: +SKIP
    >>> RE(bp.count([live4d]))                                                      # doctest: +SKIP
    """

    frames_expected = Cpt(Value, value=0, kind="normal")
    frames_received = Cpt(Value, value=0, kind="normal")
    frames_lost = Cpt(Value, value=0, kind="normal")
    frames_bad = Cpt(Value, value=0, kind="normal")
    frames_dropped = Cpt(Value, value=math.nan, kind="normal")  #: by the detector itself; NaN: not known
    series_id = Cpt(Value, value=0, kind="normal")
    frame_rate = Cpt(Value, value=math.nan, units="Hz", kind="normal")
    pattern = Cpt(Image, dims=("q_y", "q_x"), kind="omitted")

    endpoint = Cpt(Value, value="", kind="config")
    channel = Cpt(Value, value="", kind="config")
    engine = Cpt(Value, value="", kind="config")
    engine_detail = Cpt(Value, value="", kind="config")
    scan_rows = Cpt(Value, value=0, kind="config")
    scan_cols = Cpt(Value, value=0, kind="config")
    scan_serpentine = Cpt(Value, value=False, kind="config")
    scan_flyback = Cpt(Value, value=0, kind="config")
    scan_lead_in = Cpt(Value, value=0, kind="config")
    scan_step_y = Cpt(Value, value=1.0, kind="config")
    scan_step_x = Cpt(Value, value=1.0, kind="config")
    scan_unit = Cpt(Value, value="px", kind="config")
    dwell_time = Cpt(Value, value=math.nan, units="s", kind="config")  #: NaN leaves the detector's frame time
    timeout = Cpt(Value, value=10.0, units="s", kind="config")
    pattern_enabled = Cpt(Value, value=0, kind="config")  #: 1: also read the mean diffraction pattern
    movie_rasters = Cpt(Value, value=10, kind="config")  #: rasters of one flight (kickoff to complete)

    def __new__(
        cls, *args: Any, detectors: Sequence[Detector] = (), control: Simplon | None = None, **kwargs: Any
    ) -> Live4D:
        # Components are class attributes: an instance with its own detectors gets a class with their signals.
        components: dict[str, Cpt] = {}
        for detector in detectors:
            components.update(_detector_components(detector))
        taken = [name for name in components if hasattr(cls, name) or name == "detector"]
        if taken:
            raise ValueError(
                f"a virtual detector cannot be called {taken[0]!r}: the device has that attribute itself"
            )
        if control is not None:
            components["detector"] = Cpt(DetectorSettings, "", control=control, kind="config")
        return super().__new__(type(cls.__name__, (cls,), components))

    def __getattr__(self, name: str) -> Any:
        if name == "detector":
            raise AttributeError(
                f"{self.name} has no settings of the detector: pass control=Simplon('http://dcu')"
            )
        return super().__getattr__(name)

    def __init__(
        self,
        endpoint: str,
        *,
        name: str,
        scan: ScanGrid,
        detectors: Sequence[Detector],
        control: Simplon | None = None,
        scan_start: Any = None,
        engine: str = "auto",
        server: str | None = None,
        curve_keys: str | Path | None = None,
        channel: str = "",
        connections: int = 1,
        nodata: bool = True,
        pixel_mask: np.ndarray | None = None,
        gain: np.ndarray | None = None,
        timeout: float = 10.0,
        **kwargs: Any,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine is {engine!r}; it is one of {', '.join(ENGINES)}")
        self._wanted_engine = engine
        self.detector_names = [d.name for d in detectors]
        self._detectors = tuple(detectors)
        self.control = control
        self._scan = None if scan_start is None else ScanStarter(scan_start)
        self._disarming: threading.Thread | None = None
        self._run_notes: dict[str, Any] = {}
        self._server = server
        self._curve_keys = Path(curve_keys) if curve_keys else None
        self._fixed: dict[str, Any] = {
            "connections": connections,
            "nodata": nodata,
            "pixel_mask": pixel_mask,
            "gain": gain,
        }
        self._client: EngineClient | None = None
        self._fence = threading.RLock()
        self._generation = 0
        self._running: _Running | None = None
        self._movie: deque[dict[str, Any]] = deque()
        super().__init__("", name=name, **kwargs)
        self.preview = LivePreview(self)
        for signal, value in {
            self.endpoint: endpoint,
            self.channel: channel,
            self.timeout: float(timeout),
            self.scan_rows: scan.rows,
            self.scan_cols: scan.cols,
            self.scan_serpentine: scan.serpentine,
            self.scan_flyback: scan.flyback,
            self.scan_lead_in: scan.lead_in,
            self.scan_step_y: scan.steps[0],
            self.scan_step_x: scan.steps[1],
            self.scan_unit: scan.unit,
        }.items():
            signal.put(value)
        for key in self.detector_names:
            getattr(self, key).put(np.full(scan.shape, np.nan))
        self.pattern_enabled.subscribe(self._pattern_switched)
        self.spec()  # an impossible set-up is refused here, not in the first scan

    def _pattern_switched(self, value: Any, **_: Any) -> None:
        self.pattern.kind = Kind.normal if value else Kind.omitted

    # Configuration ------------------------------------------------------------------------------

    def grid(self) -> ScanGrid:
        """The scan geometry as the signals have it now."""
        return ScanGrid(
            rows=self.scan_rows.get(),
            cols=self.scan_cols.get(),
            serpentine=bool(self.scan_serpentine.get()),
            flyback=self.scan_flyback.get(),
            lead_in=self.scan_lead_in.get(),
            step=(self.scan_step_y.get(), self.scan_step_x.get()),
            unit=self.scan_unit.get(),
        )

    def detectors(self) -> tuple[Detector, ...]:
        """The virtual detectors as the signals have them now."""
        return tuple(
            replace(
                d, **{f.name: _from_signal(getattr(self, f"{d.name}_{f.name}").get()) for f in _parameters(d)}
            )
            for d in self._detectors
        )

    def spec(self, rasters: int = 1) -> AcquisitionSpec:
        """What the engine is asked for at the next trigger. Raises ValueError naming what cannot be."""
        dwell, control = self.dwell_time.get(), self._control()
        if self._scan is not None and control is not None and control.software_triggered:
            raise ValueError(
                f"{self.name} has scan_start, but with trigger_mode 'ints' the detector would start before the scan: "
                "use 'exts' or 'exte'"
            )
        return AcquisitionSpec(
            endpoint=self.endpoint.get(),
            grid=self.grid(),
            detectors=self.detectors(),
            rasters=int(rasters),
            control=control,
            channel=self.channel.get(),
            pattern=bool(self.pattern_enabled.get()),
            frame_time=None if math.isnan(dwell) else dwell,
            timeout=self.timeout.get(),
            notes=self._run_notes,
            **self._fixed,
        )

    def _control(self) -> Simplon | None:
        """The control with the trigger mode as the signals have it now."""
        if self.control is None:
            return None
        settings = self.detector
        return replace(
            self.control,
            trigger_mode=settings.trigger_mode.get(),
            trigger_per=settings.trigger_per.get(),
            settings=settings.set_here(),
        )

    def note_run(self, name: str, doc: dict[str, Any]) -> None:
        """Have the stream's header name the run: ``RE.subscribe(live4d.note_run)``."""
        if name == "start":
            self._run_notes = {key: doc[key] for key in ("plan_name", "scan_id", "uid") if key in doc}
        elif name == "stop" and doc["run_start"] == self._run_notes.get("uid"):
            self._run_notes = {}

    # Stage, trigger and what may interrupt them -------------------------------------------------

    def wait_for_connection(self, *args: Any, timeout: float = 60.0, **kwargs: Any) -> None:
        """Start or find the engine; returns when it is ready."""
        super().wait_for_connection(*args, timeout=timeout, **kwargs)
        if self.control is not None:
            self.detector.look()
        self._engine(timeout)

    def stage(self) -> list[Any]:
        spec = self.spec()
        if self.control is not None:
            self.detector.look()  # a detector that does not answer is said before the scan
            if spec.frame_time is not None and not self.detector.frame_time.missing:
                self.detector.frame_time.check_value(spec.frame_time)
        self._engine()
        return super().stage()

    def trigger(self) -> RasterStatus:
        """Take one raster. The status fails with the engine's reason, or with EngineLost."""
        return self._start(self.spec(), flying=False)

    def pause(self) -> None:
        """Give up the raster that runs; the plan takes it again when it resumes. Ends a movie."""
        running = self._running
        flying = running is not None and running.flying
        self._cancel()
        if flying:
            # A replayed kickoff would number the rasters anew: keep what was taken and go on behind it.
            raise NoReplayAllowed(f"the movie of {self.name} ends here, with the rasters taken so far")

    def resume(self) -> None:
        """Nothing to do: the plan triggers again."""

    def stop(self, *, success: bool = False) -> None:
        self._cancel()
        super().stop(success=success)

    def unstage(self) -> list[Any]:
        # The only one of these that abort, stop and halt are sure to call. Idempotent.
        self._cancel()
        if self._client is not None:
            self._client.release()
        return super().unstage()

    def close(self) -> None:
        """End the engine process; the next stage starts a new one."""
        self._cancel()
        if self._client is not None:
            self._client.close()
            self._client = None

    def _engine(self, timeout: float = 60.0) -> EngineClient:
        if self._client is None or not self._client.alive:
            if self._client is not None:
                self._client.close()
            if self._server is None:
                self._client = EngineClient.spawn(self._wanted_engine)
            else:
                self._client = EngineClient(
                    self._server, engine=self._wanted_engine, curve_keys=self._curve_keys
                )
        client = self._client
        try:
            client.wait_ready(timeout)  # returns at once when it is
        except BaseException:  # Ctrl-C too: the next stage starts anew
            self._client = None
            client.close()
            raise
        if (client.engine, client.engine_detail) != (self.engine.get(), self.engine_detail.get()):
            log.info("%s: frames are decoded on the %s (%s)", self.name, client.engine, client.engine_detail)
            self.engine.put(client.engine)
            self.engine_detail.put(client.engine_detail)
        return client

    def _start(self, spec: AcquisitionSpec, *, flying: bool) -> RasterStatus:
        client = self._engine()
        self._cancel()
        if self._disarming is not None:
            # It must not stop the series that is armed now.
            self._disarming.join(DISARM_S)
            self._disarming = None
        self.preview.clear()
        status = RasterStatus(self)
        with self._fence:
            self._generation += 1
            running = self._running = _Running(self._generation, status, flying)
        client.acquire(running.generation, spec, lambda event: self._take(running, event))
        client.request_preview()
        return status

    def request_preview(self) -> None:
        """Ask for the images of the raster that runs; they come to ``preview``."""
        if self._client is not None and self._client.alive:
            self._client.request_preview()

    def _cancel(self) -> None:
        """Fence off what runs: nothing of it reaches a signal any more."""
        with self._fence:
            running, self._running = self._running, None
        if running is None:
            return
        if self._client is not None and self._client.alive:
            self._client.cancel(running.generation)
        if not running.status.done:
            # Not an exception: RunEngine.resume() would raise it although the raster is taken again.
            running.status.set_finished()
        if self._scan is not None:
            self._scan.stop()

    # What the engine says; runs in the engine client's thread -----------------------------------

    def _take(self, running: _Running, event: dict[str, Any]) -> None:
        with self._fence:
            if running is not self._running:
                return
            kind = event["kind"]
            if kind == "armed":
                if self.control is not None:
                    self.detector.forget()  # arming has set the frame time
                if self._scan is not None:
                    self._scan.start(lambda error: self._scan_failed(running, error))
                return
            if kind == "progress":
                progress = Progress(**event["progress"])
                if event["images"] is not None:
                    self.preview.update(event["images"], progress.frames_received / progress.frames_expected)
                running.status.report(progress)
                return
            if kind == "raster":
                try:
                    self._publish(Raster.from_dict(event["raster"]), running)
                except Exception as error:
                    self._fail(running, error)
                return
            if kind != "done":
                self._fail(running, self._why(event))
                return
            self._running = None
        running.status.set_finished()

    def _why(self, event: dict[str, Any]) -> Exception:
        if event["kind"] == "lost":
            self._disarm_for_lost_engine()
            return event["error"]
        return AcquisitionError(event.get("reason", "the engine gave no reason"))

    def _fail(self, running: _Running, error: Exception) -> None:
        """End what runs, here, in the engine and at the scan generator."""
        with self._fence:
            if running is not self._running:
                return
            self._running = None
        if self._client is not None and self._client.alive:
            self._client.cancel(running.generation)
        if self._scan is not None:
            # In a thread: what the engine says must be heard meanwhile.
            threading.Thread(target=self._scan.stop, name="live4d-scan-stop", daemon=True).start()
        running.status.set_exception(error)

    def _scan_failed(self, running: _Running, error: Exception) -> None:
        failure = AcquisitionError(
            f"scan_start failed ({type(error).__name__}: {error}); the detector was disarmed"
        )
        failure.__cause__ = error
        self._fail(running, failure)

    def _publish(self, raster: Raster, running: _Running) -> None:
        """Put a raster into the signals, and into the movie's queue if it is part of one."""
        losses = raster.losses
        for name, image in zip(self.detector_names, raster.images):
            seen = image[np.isfinite(image)]
            mean = float(seen.mean()) if seen.size else math.nan
            getattr(self, name).put(image)
            getattr(self, f"{name}_mean").put(mean)
            getattr(self, f"{name}_contrast").put(
                float(seen.std() / mean) if seen.size and mean else math.nan
            )
        if raster.pattern is not None:
            self.pattern.put(raster.pattern)
        self.frames_expected.put(losses.expected)
        self.frames_received.put(losses.received)
        self.frames_lost.put(losses.lost)
        self.frames_bad.put(losses.bad)
        self.frames_dropped.put(math.nan if raster.dropped is None else float(raster.dropped))
        self.series_id.put(raster.series_id)
        self.engine.put(raster.engine)
        self.frame_rate.put(math.nan if raster.rate_hz is None else raster.rate_hz)
        if losses.lost or losses.bad:
            log.warning(
                "%s: series %d: %d of %d frames lost, %d bad", self.name, raster.series_id, losses.lost,
                losses.expected, losses.bad,
            )  # fmt: skip
        if running.flying:
            reading = self._without_pattern(self.read())
            self._movie.append(
                {
                    "time": time.time(),
                    "data": {key: entry["value"] for key, entry in reading.items()},
                    "timestamps": {key: entry["timestamp"] for key, entry in reading.items()},
                }
            )

    def _disarm_for_lost_engine(self) -> None:
        """The engine would have disarmed; in a thread, as the detector may take long to answer."""
        control = self.control
        if control is None:
            return

        def disarm() -> None:
            try:
                control.release()
            except SimplonError as error:
                log.error("the detector may still be armed: %s", error)

        self._disarming = threading.Thread(target=disarm, name="live4d-disarm", daemon=True)
        self._disarming.start()

    # Flying: a movie of rasters back to back, one Event each ------------------------------------

    def kickoff(self) -> RasterStatus:
        """Start a movie of ``movie_rasters`` rasters in one series; returns at once. Movies have no patterns."""
        self._movie.clear()
        spec = replace(self.spec(self.movie_rasters.get()), pattern=False)
        self._flight = self._start(spec, flying=True)
        started = RasterStatus(self)
        started.set_finished()
        return started

    def complete(self) -> RasterStatus:
        """Status of the movie."""
        return self._flight

    def describe_collect(self) -> dict[str, Any]:
        return {f"{self.name}_movie": self._without_pattern(self.describe())}

    def _without_pattern(self, keys: dict[str, Any]) -> dict[str, Any]:
        """A movie is described before its first raster, when the size of patterns is not known yet."""
        return {key: value for key, value in keys.items() if key != self.pattern.name}

    def collect(self) -> Iterator[dict[str, Any]]:
        """Events of the rasters that ended since the last call."""
        while self._movie:
            yield self._movie.popleft()


def _parameters(detector: Detector) -> list[Any]:
    return [f for f in fields(detector) if f.name != "name"]


def _from_signal(value: Any) -> Any:
    """NaN in a signal means what None means in a detector: its default."""
    if isinstance(value, tuple):
        return None if any(math.isnan(v) for v in value) else value
    return value


def _detector_components(detector: Detector) -> dict[str, Cpt]:
    """The image of a virtual detector, its statistics, and a configuration signal for each of its parameters."""
    components: dict[str, Cpt] = {
        detector.name: Cpt(Image, kind="normal"),
        f"{detector.name}_mean": Cpt(Value, value=math.nan, units="counts", kind="hinted"),
        f"{detector.name}_contrast": Cpt(Value, value=math.nan, kind="hinted"),
    }
    for parameter in _parameters(detector):
        value = getattr(detector, parameter.name)
        if parameter.name == "center":
            value = (math.nan, math.nan) if value is None else tuple(float(v) for v in value)
            component = Cpt(Vector, value=value, units="px", kind="config")
        elif isinstance(value, bool):
            component = Cpt(Value, value=value, kind="config")
        else:
            component = Cpt(Value, value=float(value), units="px", kind="config")
        components[f"{detector.name}_{parameter.name}"] = component
    return components

"""Live4D: a DECTRIS stream as a Bluesky detector. One Event is one raster scan, one image per virtual detector.

The device is thin: it turns its signals into an AcquisitionRequest, hands that to the engine process and puts what
comes back into its signals. Threads: the RunEngine's calls the methods, and none of them waits for the detector
(``live4d-stage``); the engine client's delivers events; ``live4d-disarm`` where something failed; those of
scan_start.py.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.utils import NoReplayAllowed
from ophyd import Component as Cpt
from ophyd import Device, Kind
from ophyd.device import Staged

from live4d_ophyd.decode import ENGINES
from live4d_ophyd.device.detector_settings import DetectorSettings
from live4d_ophyd.device.scan_start import ScanStarter
from live4d_ophyd.device.signals import (
    SETTING,
    Choice,
    Flag,
    Image,
    LivePreview,
    Number,
    PixelArray,
    RasterStatus,
    Setting,
    Settling,
    StageStatus,
    Text,
    Value,
    Vector,
    Whole,
    setting,
)
from live4d_ophyd.engine import AcquisitionError, AcquisitionRequest, RasterResult, checks, error_of
from live4d_ophyd.engine.hold import Claim
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.request import MAX_RECEIVERS, SATURATED
from live4d_ophyd.engine.results import Progress
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.scan import MOST, ScanGrid
from live4d_ophyd.sources.dectris.control import ARM_TIMEOUT_S, Simplon
from live4d_ophyd.sources.dectris.rest import SimplonError

log = logging.getLogger(__name__)

#: how long a trigger waits until the detector of a lost engine is disarmed, s
DISARM_S = 30.0
#: triggers, and frames, that arm_per="run" arms for: then it arms again
RUN_TRIGGERS, RUN_FRAMES = 1000, 1 << 28


#: how long `close` waits for a stage that was given up, and for a scan generator that was told to stop, s
STAGE_S, SCAN_STOP_S = 60.0, 10.0
_NAME = re.compile(r"[A-Za-z0-9_-]+")
#: what instances have besides the attributes of the class
_RESERVED = frozenset(dir(Device("", name="reserved"))) | {"control", "preview", "detector_names"}


@dataclass
class _Running:
    """The acquisition that runs. Events of any other generation are dropped."""

    generation: int
    status: RasterStatus
    flying: bool = False
    #: readings of the detector's settings, as armed
    settings: Future = field(default_factory=Future)


class DwellTime(Number):
    """Count and frame time together, s; NaN, the default, leaves those of the detector. Set when it is armed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, positive=True, nan=True, **kwargs)

    def accepted(self, value: Any) -> float:
        dwell = super().accepted(value)
        if not math.isnan(dwell) and self.parent is not None and self.parent.control is None:
            raise ValueError(
                f"{self.name} = {value!r}: nobody would set it on the detector, as the device has no control; "
                f"{self.parent.name}_series_frame_time has what the detector says"
            )
        return dwell


class Mean(Value):
    """Mean of an image, in its unit."""

    def describe(self) -> dict[str, Any]:
        ((name, entry),) = super().describe().items()
        return {name: {**entry, "units": self.parent.image_units}}


class Live4D(Settling, Device):
    """4D-STEM detector: virtual-detector images of a raster scan, computed while the frames arrive.

    Parameters
    ----------
    endpoint : stream v2 of the detector control unit, ``tcp://dcu:31001``; several addresses with commas between
    name : name of the device and prefix of its data keys
    scan : geometry of the raster the microscope runs
    detectors : virtual detectors (Disk, Annulus); each gives ``<name>_<detector>`` (image), ``..._mean`` and
        ``..._contrast`` (std / mean). Tables and plots show the numbers of the first;
        ``live4d.adf_mean.kind = "hinted"`` adds another
    control : ``Simplon(url)`` configures, arms, triggers and disarms; the detector's own settings are then signals of
        ``detector`` (`DetectorSettings`). None listens to series that something else starts
    scan_start : starts the scan generator once the detector is armed, once for each trigger or movie: a callable, or an
        ophyd object that is set to 1, or, if it cannot be set, triggered. What it raises fails the trigger. Its own
        ``stop()``, if it has one, is called when nothing is to come of the scan. Not with ``trigger_mode="ints"``,
        where the detector starts by itself
    scan_generator : instead of scan_start, what also takes the geometry (`ScanGenerator`): ``prepare(grid)`` before the
        detector is armed, ``start()`` when it is, ``stop()`` when the scan fails or is cancelled
    arm_per : "trigger" arms the detector for each; "run" once for all triggers of a run with the same settings, up to
        1000, or as many as a whole number says: it then waits, armed, for the next trigger's pulses, and is armed anew
        where images were lost or too many. For scans that `scan_start`, or the detector (``ints``), starts
    engine : where frames are decoded: "cpu", "gpu", or "auto", which takes a GPU if one works; what was taken is in
        the configuration, as ``<name>_engine`` and ``<name>_engine_detail``
    server : address of an engine started with ``live4d serve``; None starts one on this machine
    curve_keys : folder with client.key_secret and server.key for a ``server`` that asks for them
    channel : data channel (``threshold_1``), empty for the first that the series names; images without it are bad
    connections : parallel connections to the stream
    nodata : pixels at the dtype's maximum hold no count
    saturated : what becomes of pixels that hold no count, those at the detector's saturation value included: they are
        left out of the sums ("leave_out"), counted as they are ("count"), or make their position NaN ("nan")
    pixel_mask, gain : bad pixels (not 0) and pixel factors, (det rows, det cols), or the path of a ``.npy`` file
    timeout : longest silence of the stream before a trigger fails (or ends with what came), s

    Missing positions are NaN in the images and counted in ``frames_lost`` and ``frames_bad``; images with pixels that
    hold no count in ``frames_saturated``. All settings are signals. Each Event has them as they were when its raster
    was triggered, those of ``detector`` as they were when it was armed; in the configuration they are as of the
    descriptor.

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
    frames_saturated = Cpt(Value, value=0, kind="normal")
    series_id = Cpt(Value, value=0, kind="normal")
    #: what the series says of itself, and what was made of its pixels: `SeriesRecord`
    series_unique_id = Cpt(Value, value="", kind="normal")
    series_channel = Cpt(Value, value="", kind="normal")
    series_detector = Cpt(Value, value="", kind="normal")
    series_energy = Cpt(Value, value=math.nan, units="eV", kind="normal")
    series_threshold = Cpt(Value, value=math.nan, units="eV", kind="normal")
    series_count_time = Cpt(Value, value=math.nan, units="s", kind="normal")
    series_frame_time = Cpt(Value, value=math.nan, units="s", kind="normal")
    series_saturation = Cpt(Value, value=math.nan, units="counts", kind="normal")
    series_pixels_masked = Cpt(Value, value=0, kind="normal")
    series_pixel_mask = Cpt(Value, value="", kind="normal")
    series_detector_mask = Cpt(Value, value="", kind="normal")
    frame_rate = Cpt(Value, value=math.nan, units="Hz", kind="normal")
    pattern = Cpt(Image, dims=("q_y", "q_x"), kind="omitted")

    engine = Cpt(Value, value="", kind=SETTING)
    engine_detail = Cpt(Value, value="", kind=SETTING)
    versions = Cpt(Value, value="", kind="config")  #: of the software that decodes
    connections = setting(Whole, value=1, least=1, most=MAX_RECEIVERS)
    endpoint = setting(Text, value="", check=lambda text: checks.addresses("it", text))
    channel = setting(Text, value="")
    scan_rows = setting(Whole, value=1, least=1, most=MOST)
    scan_cols = setting(Whole, value=1, least=1, most=MOST)
    scan_serpentine = setting(Flag, value=False)
    scan_flyback = setting(Whole, value=0, least=0, most=MOST)
    scan_last_flyback = setting(Flag, value=True)
    scan_lead_in = setting(Whole, value=0, least=0, most=MOST)
    scan_step_y = setting(Number, value=1.0, positive=True)
    scan_step_x = setting(Number, value=1.0, positive=True)
    scan_unit = setting(Text, value="px")
    dwell_time = setting(DwellTime, value=math.nan, units="s")
    nodata = setting(Flag, value=True)
    saturated = setting(Choice, value=SATURATED[0], choices=SATURATED)
    pixel_mask = setting(PixelArray, check=checks.pixel_mask, mask=True)
    gain = setting(PixelArray, check=checks.gain)
    timeout = setting(Number, value=10.0, positive=True, most=checks.LONGEST_S, units="s")
    pattern_enabled = setting(Flag, value=False)  #: also read the mean diffraction pattern
    movie_rasters = setting(Whole, value=10, least=1)  #: rasters of one flight (kickoff to complete)

    def __new__(
        cls,
        *args: Any,
        detectors: Sequence[Disk | Annulus] = (),
        control: Simplon | None = None,
        **kwargs: Any,
    ) -> Live4D:
        # Components are class attributes: an instance with its own detectors gets a class with their signals.
        components: dict[str, Cpt] = {}
        taken: set[str] = set()
        for detector in detectors:
            own = _detector_components(detector, "normal" if components else "hinted")
            keys = [*own, f"{detector.name}_center_row", f"{detector.name}_center_col"]
            for name in keys:
                if name in taken:
                    raise ValueError(
                        f"the virtual detectors {[d.name for d in detectors]} would share the data key {name!r}: "
                        "names must differ, also from each other's with _mean, _contrast and the like"
                    )
                if hasattr(cls, name) or name in _RESERVED or name.startswith(("_", "detector_", "live_")):
                    raise ValueError(
                        f"a virtual detector cannot be called {detector.name!r}: the device has {name!r} itself"
                    )
            components.update(own)
            taken.update(keys)
        if control is not None:
            components["detector"] = Cpt(DetectorSettings, "", control=control, kind=SETTING)
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
        detectors: Sequence[Disk | Annulus],
        control: Simplon | None = None,
        scan_start: Any = None,
        scan_generator: Any = None,
        arm_per: str | int = "trigger",
        engine: str = "auto",
        server: str | None = None,
        curve_keys: str | Path | None = None,
        channel: str = "",
        connections: int = 1,
        nodata: bool = True,
        saturated: str = SATURATED[0],
        pixel_mask: np.ndarray | str | Path | None = None,
        gain: np.ndarray | str | Path | None = None,
        timeout: float = 10.0,
        **kwargs: Any,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine is {engine!r}; it is one of {', '.join(ENGINES)}")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"a device cannot be called {name!r}: its data keys and files begin with the name. Expected letters, "
                "digits, _ and -"
            )
        counted = isinstance(arm_per, int) and not isinstance(arm_per, bool) and arm_per >= 1
        if arm_per not in ("trigger", "run") and not counted:
            raise ValueError(f"arm_per is {arm_per!r}; expected 'trigger', 'run' or a number of triggers")
        if arm_per != "trigger" and control is None:
            raise ValueError(f"arm_per is {arm_per!r}, but without control it is not the device that arms")
        self._arm_per = arm_per
        self._wanted_engine = engine
        self.detector_names = [d.name for d in detectors]
        self._detectors = tuple(detectors)
        self.control = control
        no_scan = scan_start is None and scan_generator is None
        self._scan = None if no_scan else ScanStarter(scan_start, scan_generator)
        self._disarming: threading.Thread | None = None
        self._staging: threading.Thread | None = None
        self._run_notes: dict[str, Any] = {}
        self._server = server
        self._curve_keys = Path(curve_keys) if curve_keys else None
        self._client: EngineClient | None = None
        self._fence = threading.RLock()
        self._generation = 0
        self._running: _Running | None = None
        self._movie: deque[tuple[float, dict[str, Any], Future]] = deque()
        #: readings of the detector's settings while it stays armed
        self._armed_settings: dict[str, Any] | None = None
        self._taken: dict[str, Any] = {}  #: readings of the settings that the newest image was taken with
        self._described: dict[
            str, tuple[int, ...]
        ] = {}  #: shapes of the arrays in the descriptor of this run
        super().__init__("", name=name, **kwargs)
        self.preview = LivePreview(self)
        for signal, value in {
            self.endpoint: endpoint,
            self.channel: channel,
            self.connections: connections,
            self.nodata: nodata,
            self.saturated: saturated,
            self.pixel_mask: pixel_mask,
            self.gain: gain,
            self.timeout: timeout,
            self.scan_rows: scan.rows,
            self.scan_cols: scan.cols,
            self.scan_serpentine: scan.serpentine,
            self.scan_flyback: scan.flyback,
            self.scan_last_flyback: scan.last_flyback,
            self.scan_lead_in: scan.lead_in,
            self.scan_step_y: scan.steps[0],
            self.scan_step_x: scan.steps[1],
            self.scan_unit: scan.unit,
        }.items():
            signal.put(value)
        for key in self.detector_names:
            getattr(self, key).put(np.full(scan.shape, np.nan))
        self.pattern_enabled.subscribe(self._pattern_switched)
        if control is not None:
            self.detector.before_put = self._leave_series
        self.request()  # an impossible set-up is refused here, not in the first scan

    def _pattern_switched(self, value: Any, **_: Any) -> None:
        self.pattern.kind = Kind.normal if value else Kind.omitted

    # Configuration ------------------------------------------------------------------------------

    def grid(self) -> ScanGrid:
        """The scan geometry as the signals have it now."""
        return ScanGrid(
            rows=self.scan_rows.get(),
            cols=self.scan_cols.get(),
            serpentine=self.scan_serpentine.get(),
            flyback=self.scan_flyback.get(),
            last_flyback=self.scan_last_flyback.get(),
            lead_in=self.scan_lead_in.get(),
            step=(self.scan_step_y.get(), self.scan_step_x.get()),
            unit=self.scan_unit.get(),
        )

    def detectors(self) -> tuple[Disk | Annulus, ...]:
        """The virtual detectors as the signals have them now."""
        return tuple(
            replace(
                d, **{f.name: _from_signal(getattr(self, f"{d.name}_{f.name}").get()) for f in _parameters(d)}
            )
            for d in self._detectors
        )

    def request(self, rasters: int | None = None) -> AcquisitionRequest:
        """What the engine is asked for at the next trigger, or for a movie. Raises ValueError naming what cannot be."""
        stay_armed = rasters is None and self._arm_per != "trigger"
        dwell, control = self.dwell_time.get(), self._control()
        detectors = self.detectors()
        self._check_centers(detectors)
        if dwell >= self.timeout.get():  # never true of NaN
            raise ValueError(
                f"{self.name}_dwell_time is {dwell:g} s, and {self.name}_timeout, the longest silence of the stream, "
                f"{self.timeout.get():g} s: dwell times are in seconds; or make the timeout longer"
            )
        if self._scan is not None and control is not None and control.software_triggered:
            raise ValueError(
                f"{self.name} has {self._scan.name}, but with trigger_mode 'ints' the detector would start before the "
                "scan: use 'exts' or 'exte'"
            )
        return AcquisitionRequest(
            endpoint=self.endpoint.get(),
            grid=self.grid(),
            methods=(*detectors, MeanPattern("pattern", enabled=self.pattern_enabled.get())),
            rasters=self._triggers_to_arm() if stay_armed else 1 if rasters is None else rasters,
            stay_armed=stay_armed,
            control=control,
            channel=self.channel.get(),
            frame_time=None if math.isnan(dwell) else dwell,
            timeout=self.timeout.get(),
            connections=self.connections.get(),
            nodata=self.nodata.get(),
            saturated=self.saturated.get(),
            pixel_mask=self.pixel_mask.get(),
            gain=self.gain.get(),
            notes=self._run_notes,
        )

    def _check_centers(self, detectors: Sequence[Disk | Annulus]) -> None:
        """Raise ValueError for a centre that lies off the detector, as far as that has said how large it is."""
        rows, cols = (math.inf, math.inf) if self.control is None else self.detector.largest_frame()
        for detector in detectors:
            center = getattr(detector, "center", None)
            if center is not None and not (0 <= center[0] <= rows - 1 and 0 <= center[1] <= cols - 1):
                raise ValueError(
                    f"{self.name}_{detector.name}_center is {tuple(center)}: the detector has {rows:g} x {cols:g} px, "
                    f"its last is ({rows - 1:g}, {cols - 1:g})"
                )

    @property
    def image_units(self) -> str:
        """Unit of the images' values."""
        return "counts" if self.gain.get() is None else "gain-corrected counts"

    def check_settings(self) -> None:
        """Raise ValueError for settings that do not fit together, as of an annulus whose inner radius is the larger."""
        self.request()

    def summary(self) -> None:
        """Print what the device is set to, and what its newest image brought."""
        print(
            f"{self.name}: frames from {self.endpoint.get()}, decoded on: {self.engine.get() or 'not started yet'}"
        )
        newest: dict[str, list[Value]] = {"newest image": [], "settings": []}
        for name in self.component_names:
            signal = getattr(self, name)
            if isinstance(signal, Setting):
                newest["settings"].append(signal)
            elif isinstance(signal, Value):
                newest["newest image"].append(signal)
        for title, signals in newest.items():
            print(f"\n{title}")
            for signal in signals:
                if isinstance(signal, Vector):  # set as a pair
                    row, col = signal.get()
                    print(f"  {signal.attr_name:28} ({row:.6g}, {col:.6g}) px")
                    continue
                for key, reading in signal.read().items():
                    unit = signal.describe()[key].get("units") or ""
                    print(
                        f"  {key.removeprefix(self.name + '_'):28} {_short(reading['value'])} {unit}".rstrip()
                    )
        if self.control is not None:
            print("\nthe detector's own settings")
            self.detector.summary()

    def _triggers_to_arm(self) -> int:
        if isinstance(self._arm_per, int):
            return self._arm_per
        return max(1, min(RUN_TRIGGERS, RUN_FRAMES // self.grid().frames))

    def _leave_series(self) -> None:
        """Before a setting of the detector changes: it is armed with those of before."""
        self._armed_settings = None
        if self._arm_per == "trigger" or self._running is not None or self._client is None:
            return
        if not self._client.release(ARM_TIMEOUT_S) and self._client.alive:
            raise AcquisitionError(
                f"{self.name}: the detector is still armed for the series before, {ARM_TIMEOUT_S:g} s after it was "
                "told to end: set it when it answers again"
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
        """Know the run: the stream's header names it, and its images keep one shape.

        ``RE.subscribe(live4d.note_run)``
        """
        if name == "start":
            self._run_notes = {key: doc[key] for key in ("plan_name", "scan_id", "uid") if key in doc}
            self._described.clear()
        elif name == "stop" and doc["run_start"] == self._run_notes.get("uid"):
            self._run_notes = {}
            self._described.clear()

    # Stage, trigger and what may interrupt them -------------------------------------------------

    def wait_for_connection(self, *args: Any, timeout: float = 60.0, **kwargs: Any) -> None:
        """Start or find the engine; returns when it is ready."""
        super().wait_for_connection(*args, timeout=timeout, **kwargs)
        if self.control is not None:
            self.detector.look()
        self._engine(timeout)

    def stage(self) -> Any:
        """Make engine and detector ready. In the RunEngine's loop it returns a status of that, else it waits.

        Raises, or the status fails with, ValueError for settings that cannot be, SimplonError for a detector that does
        not answer, EngineLost.
        """
        request = self.request()
        self._described.clear()
        if not _in_event_loop():
            self._get_ready(request)
            return super().stage()
        super().stage()
        status = StageStatus(self)

        def get_ready() -> None:
            try:
                self._get_ready(request)
            except Exception as error:
                status.set_exception(error)
            else:
                status.set_finished()

        self._staging = threading.Thread(target=get_ready, name="live4d-stage", daemon=True)
        self._staging.start()
        return status

    def _get_ready(self, request: AcquisitionRequest) -> None:
        if self.control is not None:
            self.detector.look()  # a detector that does not answer is said before the scan
            if request.frame_time is not None and not self.detector.frame_time.missing:
                self.detector.frame_time.check_value(request.frame_time)
        self._engine()

    def trigger(self) -> RasterStatus:
        """Take one raster. The status fails with the engine's reason, or with EngineLost.

        Raises ValueError where the images would have another shape than those before them in the run.
        """
        request = self.request()
        self._keep_shapes({f"{self.name}_{name}": request.grid.shape for name in self.detector_names})
        return self._start(request, flying=False)

    def _keep_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raise ValueError for arrays of another shape than the descriptor of this run has: storage would pad them."""
        if self._staged is not Staged.yes and not self._run_notes:
            return  # it is not known where a run begins and ends
        for key, shape in shapes.items():
            before = self._described.get(key, shape)
            if shape != before:
                raise ValueError(
                    f"{key} would have the shape {shape} after Events of {before} in the same run: take it in a run of "
                    "its own (within one stage: RE.subscribe(live4d.note_run) tells the device where a run begins)"
                )

    # Readings: an image with the settings that it was taken with ---------------------------------

    def read(self) -> dict[str, Any]:
        """The newest images, their statistics and counts, and the settings that they were taken with."""
        readings = super().read()
        for key in readings.keys() & self._taken.keys():
            readings[key] = self._taken[key]
        arrays = {key: np.shape(readings[key]["value"]) for key in self._described.keys() & readings.keys()}
        self._keep_shapes(arrays)
        return readings

    def describe(self) -> dict[str, Any]:
        keys = super().describe()
        self._described = {
            key: tuple(entry["shape"]) for key, entry in keys.items() if entry["dtype"] == "array"
        }
        return keys

    @property
    def hints(self) -> dict[str, Any]:
        """What tables and plots show: not the settings, which name themselves only when a plan moves them."""
        shown = (getattr(self, name) for name in self.component_names)
        return {"fields": [signal.name for signal in shown if signal.kind == Kind.hinted]}

    def _settings_now(self) -> dict[str, Any]:
        """Readings of the device's own settings."""
        readings: dict[str, Any] = {}
        for name in self.component_names:
            signal = getattr(self, name)
            if isinstance(signal, Setting):
                readings.update(signal.read())
        return readings

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
        self._described.clear()
        if self.control is not None:
            with self._fence:
                self._generation += 1  # what is still read of the detector is of no use any more
                self._armed_settings = None
                self.detector.forget()
        return super().unstage()

    def close(self) -> None:
        """End the engine process; the next stage starts a new one."""
        self._cancel()
        if self._staging is not None:  # it may be starting one
            self._staging.join(STAGE_S)
        if self._scan is not None:
            self._scan.wait(SCAN_STOP_S)
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
        self.versions.put(client.versions)
        return client

    def _start(self, request: AcquisitionRequest, *, flying: bool) -> RasterStatus:
        client = self._engine()
        self._cancel()
        if self._disarming is not None:
            # It must not stop the series that is armed now.
            self._disarming.join(DISARM_S)
            self._disarming = None
        self.preview.clear()
        status = RasterStatus(self)
        taken = self._settings_now()
        with self._fence:
            self._generation += 1
            running = self._running = _Running(self._generation, status, flying)
            self._taken = taken
        if self.control is None:
            running.settings.set_result({})

        def acquire() -> None:
            with self._fence:  # a cancel comes before it, or behind it
                if running is not self._running:
                    return
                client.acquire(running.generation, request, lambda event: self._take(running, event))
            client.request_preview()

        def acquire_when_prepared() -> None:
            try:
                acquire()
            except Exception as error:
                self._fail(running, error)

        if self._scan is not None and self._scan.prepares:
            failed = partial(self._scan_failed, running, "prepare")
            self._scan.prepare(request.grid, request.rasters_per_trigger, acquire_when_prepared, failed)
        else:
            acquire()
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
                    self._note_armed(running)
                if self._scan is not None:
                    self._scan.start(partial(self._scan_failed, running, "start"))
                return
            if kind == "progress":
                progress = Progress(**event["progress"])
                if event["outputs"] is not None:
                    fraction = progress.frames_received / progress.frames_expected
                    self.preview.update(event["outputs"], fraction, progress.saturated)
                running.status.report(progress)
                return
            if kind == "raster":
                try:
                    self._publish(RasterResult.from_dict(event["raster"]), running)
                except Exception as error:
                    self._fail(running, error)
                return
            if kind != "done":
                self._fail(running, self._why(event))
                return
            self._running = None
        # An Event has the detector's settings, too.
        running.settings.add_done_callback(lambda _: running.status.set_finished())

    def _note_armed(self, running: _Running) -> None:
        """Have the detector's settings in the Event; while the raster runs, nobody else asks for them."""
        self.detector.hold()
        if self._armed_settings is not None:  # it stays armed from the trigger before
            self._taken.update(self._armed_settings)
            running.settings.set_result(self._armed_settings)
            return
        # In a thread: what the engine says must be heard meanwhile.
        thread = threading.Thread(
            target=self._note_detector, args=(running,), name="live4d-settings", daemon=True
        )
        thread.start()

    def _note_detector(self, running: _Running) -> None:
        """Read what the detector was armed with; runs in a thread of its own beside the raster."""
        settings: dict[str, Any] = {}
        try:
            settings = self.detector.as_armed()
        except Exception as error:
            log.error("%s: the detector's settings are not in the Event: %s", self.name, error)
        with self._fence:
            if running.generation == self._generation:
                self._taken.update(settings)
                if self._staged is Staged.yes:
                    self.detector.hold()  # the RunEngine reads and describes without a request
                    self._armed_settings = settings if self._arm_per != "trigger" else None
                else:
                    self.detector.forget()
        running.settings.set_result(settings)

    def _why(self, event: dict[str, Any]) -> Exception:
        if event["kind"] == "lost":
            self._disarm_for_lost_engine()
        return error_of(event)

    def _fail(self, running: _Running, error: Exception) -> None:
        """End what runs, here, in the engine and at the scan generator."""
        with self._fence:
            if running is not self._running:
                return
            self._running = None
        if self._client is not None and self._client.alive:
            self._client.cancel(running.generation)
        if self._scan is not None:
            self._scan.stop()
        running.status.set_exception(error)

    def _scan_failed(self, running: _Running, step: str, error: Exception) -> None:
        assert self._scan is not None
        what = "scan_start" if self._scan.name == "scan_start" else f"{self._scan.name}.{step}"
        armed = "; the detector was disarmed" if step == "start" else "; nothing was armed"
        failure = AcquisitionError(f"{what} failed ({type(error).__name__}: {error}){armed}")
        failure.__cause__ = error
        self._fail(running, failure)

    def _publish(self, raster: RasterResult, running: _Running) -> None:
        """Put a raster into the signals, and into the movie's queue if it is part of one."""
        losses = raster.losses
        for name in self.detector_names:
            image = raster.outputs[name]
            seen = image[np.isfinite(image)]
            mean = float(seen.mean()) if seen.size else math.nan
            getattr(self, name).put(image)
            getattr(self, f"{name}_mean").put(mean)
            getattr(self, f"{name}_contrast").put(
                float(seen.std() / mean) if seen.size and mean else math.nan
            )
        if "pattern" in raster.outputs:
            self.pattern.put(raster.outputs["pattern"])
        self.frames_expected.put(losses.expected)
        self.frames_received.put(losses.received)
        self.frames_lost.put(losses.lost)
        self.frames_bad.put(losses.bad)
        self.frames_dropped.put(math.nan if raster.dropped is None else float(raster.dropped))
        self.frames_saturated.put(losses.saturated)
        self.series_id.put(raster.series_id)
        for said in fields(raster.info):
            getattr(self, f"series_{said.name}").put(getattr(raster.info, said.name))
        self.engine.put(raster.engine)
        self.frame_rate.put(math.nan if raster.rate_hz is None else raster.rate_hz)
        if losses.lost or losses.bad:
            log.warning(
                "%s: series %d: %d of %d frames lost, %d bad", self.name, raster.series_id, losses.lost,
                losses.expected, losses.bad,
            )  # fmt: skip
        if running.flying:
            self._movie.append((time.time(), self._without_pattern(self.read()), running.settings))

    def _disarm_for_lost_engine(self) -> None:
        """The engine would have disarmed; in a thread, as the detector may take long to answer."""
        control = self.control
        if control is None:
            return

        def disarm() -> None:
            claim = Claim(control.url)
            if not claim.take():
                log.info("%s: another engine has the detector by now: it is left alone", control.url)
                return
            try:
                control.release()
            except SimplonError as error:
                log.error("the detector may still be armed: %s", error)
            finally:
                claim.give_up()

        self._disarming = threading.Thread(target=disarm, name="live4d-disarm", daemon=True)
        self._disarming.start()

    # Flying: a movie of rasters back to back, one Event each ------------------------------------

    def kickoff(self) -> RasterStatus:
        """Start a movie of ``movie_rasters`` rasters in one series; returns at once. Movies have no patterns."""
        self._movie.clear()
        request = self.request(self.movie_rasters.get())
        # Described before its first raster, when lengths that depend on the detector are not known.
        known = [
            method
            for method in request.methods
            if all(0 not in output.shape for output in method.outputs(None, request.grid).values())
        ]
        request = replace(request, methods=tuple(known))
        self._flight = self._start(request, flying=True)
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
        while self._movie and (self._movie[0][2].done() or self._flight.done):
            when, readings, settings = self._movie.popleft()
            armed = (
                settings.result() if settings.done() else {}
            )  # a flight that was ended while they were asked for
            readings |= {key: entry for key, entry in armed.items() if key in readings}
            yield {
                "time": when,
                "data": {key: entry["value"] for key, entry in readings.items()},
                "timestamps": {key: entry["timestamp"] for key, entry in readings.items()},
            }


def _in_event_loop() -> bool:
    """Whether this is the RunEngine's thread, or another that must not wait."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _parameters(detector: Disk | Annulus) -> list[Any]:
    return [f for f in fields(detector) if f.name != "name"]


def _from_signal(value: Any) -> Any:
    """NaN in a signal means what None means in a detector: its default."""
    if isinstance(value, tuple):
        return None if any(math.isnan(v) for v in value) else value
    return value


def _detector_components(detector: Disk | Annulus, statistics: str) -> dict[str, Cpt]:
    """The image of a virtual detector, its statistics of this kind, and a setting for each of its parameters."""
    components: dict[str, Cpt] = {
        detector.name: Cpt(Image, kind="normal"),
        f"{detector.name}_mean": Cpt(Mean, value=math.nan, kind=statistics),
        f"{detector.name}_contrast": Cpt(Value, value=math.nan, kind=statistics),
    }
    for parameter in _parameters(detector):
        value = getattr(detector, parameter.name)
        if parameter.name == "center":
            value = (math.nan, math.nan) if value is None else tuple(float(v) for v in value)
            component = setting(Vector, value=value, units="px")
        elif isinstance(value, bool):
            component = setting(Flag, value=value)
        else:
            component = setting(Number, value=float(value), least=0.0, units="px")
        components[f"{detector.name}_{parameter.name}"] = component
    return components

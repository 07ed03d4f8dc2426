"""Live4D: a DECTRIS stream as a Bluesky detector. One Event is one raster scan, with what each method makes of it.

The device is thin: it turns its signals into an AcquisitionRequest, hands that to the engine process (`Exposures`) and
puts what comes back into its signals (`SignalUpdater`). Threads: the RunEngine's calls the methods, and none of them
waits for the detector (``live4d-stage``); the engine client's delivers events; those of exposure.py, taken_with.py,
lost_engine.py and scan_start.py.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.utils import NoReplayAllowed
from ophyd import Component as Cpt
from ophyd import Kind
from ophyd.device import Staged

from live4d_ophyd import checks
from live4d_ophyd.calibration import NOT_CALIBRATED, Calibration
from live4d_ophyd.device import summary
from live4d_ophyd.device.detector_settings import DetectorSettings
from live4d_ophyd.device.engine_link import EngineLink
from live4d_ophyd.device.exposure import Exposures
from live4d_ophyd.device.flight import Flight, Flying
from live4d_ophyd.device.lost_engine import disarm_for_lost_engine
from live4d_ophyd.device.method_signals import device_class
from live4d_ophyd.device.preview import LivePreview
from live4d_ophyd.device.raster_signals import RasterSignals
from live4d_ophyd.device.raw_frames import EventFile, RawFrames
from live4d_ophyd.device.recording_path import check_seen, seen_at
from live4d_ophyd.device.scan_start import ScanStarter
from live4d_ophyd.device.signal_updater import SignalUpdater
from live4d_ophyd.device.signals import SETTING
from live4d_ophyd.device.statuses import RasterStatus, TellingStatus
from live4d_ophyd.device.taken_with import TakenWith
from live4d_ophyd.engine import AcquisitionError, AcquisitionRequest, RasterResult
from live4d_ophyd.engine.request import SATURATED
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.method import Method
from live4d_ophyd.imaging.of_channel import channels_of, on_channels, suffix_of
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import ARM_TIMEOUT_S, Simplon

#: how long a trigger waits until the detector of a lost engine is disarmed, s
DISARM_S = 30.0
#: how long `close` waits for a stage that was given up, and for a scan generator that was told to stop, s
STAGE_S, SCAN_STOP_S = 60.0, 10.0
_NAME = re.compile(r"[A-Za-z0-9_-]+")


class Live4D(Flying, EngineLink, RasterSignals):
    """4D-STEM detector: images of a raster scan, computed while the frames arrive.

    Parameters
    ----------
    endpoint : stream v2 of the detector control unit, ``tcp://dcu:31001``; several addresses with commas between
    name : name of the device and prefix of its data keys
    scan : geometry of the raster the microscope runs
    methods : what makes images: Disk, Annulus, Points, Polygon, Mask, Segments, CenterOfMass, MeanPattern, or your
        own. Each image gives ``<name>_<image>``, ``..._mean`` and ``..._contrast`` (std / mean); parameters are
        settings, ``<name>_<method>_<parameter>``. Tables and plots show the numbers of the first virtual detector;
        ``live4d.adf_mean.kind = "hinted"`` adds others. Without a MeanPattern there is one that is not enabled:
        ``bps.mv(live4d.pattern_enabled, 1)``
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
        where frames were lost or too many. For scans that `scan_start`, or the detector (``ints``), starts
    backend : where frames are decoded: "cpu", "gpu", or "auto", which takes a GPU if one works; what was taken is in
        the configuration, as ``<name>_backend`` and ``<name>_backend_detail``
    server : address of an engine started with ``live4d serve``; None starts one on this machine
    curve_keys : folder with client.key_secret and server.key for a ``server`` that asks for them
    channel : data channel (``threshold_1``), empty for the first that the series names; frames without it are bad
    channels : instead of ``channel``, several, ``("threshold_1", "difference")``, each with images of its own by the
        same methods with the same parameters. Keys of the first are as they are without others; those of the others end
        with the channel's name, ``<name>_<image>_difference``. A series without one of them fails the trigger
    connections : parallel connections to the stream
    nodata : pixels at the dtype's maximum hold no count
    saturated : what becomes of pixels that hold no count, those at the detector's saturation value included: they are
        left out of the sums ("leave_out"), counted as they are ("count"), or make their position NaN ("nan")
    pixel_mask, gain : bad pixels (not 0) and pixel factors, (det rows, det cols), or the path of a ``.npy`` file
    bad_pixels : "exclude" (bad pixels weigh nothing) or "spread" (their weight goes to their good neighbours, so that
        sums are as if they counted those neighbours' mean)
    calibration : centre and radius of the bright-field disk and the angle of a pixel, for virtual detectors that are
        not in px: `calibrate_bright_field` measures it
    record : where the compressed frames are recorded as they come, one HDF5 file an Event, by a path at the engine's
        host with fields of the run, ``/data/{date}/{scan_id}_{plan_name}.h5``; a number is put behind the name. The
        frames are then in the run, as ``<name>_raw``. "": nowhere
    record_flyback : flyback and lead-in frames are recorded, too, in a dataset of their own
    record_map : where files of an engine elsewhere are seen here, ``/data=/mnt/gpu-host``
    timeout : longest silence of the stream before a trigger fails (or ends with what came), s

    Missing positions are NaN in the images and counted in ``frames_lost`` and ``frames_bad``; frames with pixels that
    hold no count in ``frames_saturated``. All settings are signals. Each Event has them as they were when its raster
    was triggered, those of ``detector`` as they were when it was armed; in the configuration they are as of the
    descriptor.

    Examples
    --------
    >>> live4d = Live4D("tcp://dcu:31001", name="live4d", scan=ScanGrid(256, 256),
    ...                 methods=[Disk("vbf", center=(95.5, 95.5), radius=30)])    # doctest: +SKIP
    >>> RE(bp.count([live4d]))                                                      # doctest: +SKIP
    """

    def __new__(
        cls, *args: Any, scan: ScanGrid | None = None, methods: Sequence[Method] = (),
        control: Simplon | None = None, channel: str = "", channels: Sequence[str] = (), **kwargs: Any,
    ) -> Live4D:  # fmt: skip
        """Of a class with the signals of its methods, and of the detector that ``control`` controls."""
        if scan is None:
            return super().__new__(cls)
        if not isinstance(scan, ScanGrid):
            hint = ": call it, with ()" if callable(scan) else ""
            raise ValueError(f"scan is {scan!r}; expected a ScanGrid{hint}")
        more = (
            {} if control is None else {"detector": Cpt(DetectorSettings, "", control=control, kind=SETTING)}
        )
        further = _all_channels(channel, channels)[1:]
        return super().__new__(device_class(cls, _with_pattern(methods), scan, further, **more))

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
        methods: Sequence[Method],
        control: Simplon | None = None,
        scan_start: Any = None,
        scan_generator: Any = None,
        arm_per: str | int = "trigger",
        backend: str = "auto",
        server: str | None = None,
        curve_keys: str | Path | None = None,
        channel: str = "",
        channels: Sequence[str] = (),
        connections: int = 1,
        nodata: bool = True,
        saturated: str = SATURATED[0],
        bad_pixels: str = checks.BAD_PIXELS[0],
        pixel_mask: np.ndarray | str | Path | None = None,
        gain: np.ndarray | str | Path | None = None,
        calibration: Calibration = NOT_CALIBRATED,
        record: str = "",
        record_map: str = "",
        record_flyback: bool = False,
        timeout: float = 10.0,
        **kwargs: Any,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"a device cannot be called {name!r}: its data keys and files begin with the name. Expected letters, "
                "digits, _ and -"
            )
        no_scan = scan_start is None and scan_generator is None
        starter = None if no_scan else ScanStarter(scan_start, scan_generator)
        self._exposures = Exposures(starter)
        self._staging: threading.Thread | None = None
        self._disarming: threading.Thread | None = None
        channel, *further = _all_channels(channel, channels)
        imaged = channels_of(on_channels(methods, further))
        self._raw = RawFrames(f"{name}_raw", f"live4d:{name}/raw", imaged)
        self._stands = False  #: whether the detector may stay armed from a trigger of this stage
        super().__init__(
            "", name=name, methods=_with_pattern(methods), channels=further, control=control, scan=starter,
            arm_per=arm_per, wanted_backend=backend, server=server, curve_keys=curve_keys, **kwargs,
        )  # fmt: skip
        self.taken_with = TakenWith(
            None if control is None else self.detector,
            stays_armed=self._arm_per.stays_armed,
            staged=lambda: self._staged is Staged.yes,
        )
        self.preview = LivePreview(self)
        self.put_settings(
            scan, calibration, endpoint=endpoint, channel=channel, connections=connections, nodata=nodata,
            saturated=saturated, bad_pixels=bad_pixels, pixel_mask=pixel_mask, gain=gain, record=record,
            record_map=record_map, record_flyback=record_flyback, timeout=timeout,
        )  # fmt: skip
        for key, shape in self.known_shapes().items():
            getattr(self, key.removeprefix(f"{name}_")).put(np.full(shape, np.nan))
        if control is not None:
            self.detector.before_put = self._end_series
        self.request()  # an impossible set-up is refused here, not in the first scan

    # Configuration ------------------------------------------------------------------------------

    def summary(self) -> None:
        """Print what the device is set to, and what its newest image brought."""
        print(*summary.lines(self), sep="\n")
        if self.control is not None:
            print("\nthe detector's own settings")
            self.detector.summary()

    def _end_series(self) -> None:
        """Before a setting of the detector changes: it is armed with those of before."""
        self.taken_with.series_over()
        if self._exposures.running is not None or self._client is None or not self._arm_per.stays_armed:
            return
        if not self._client.release(ARM_TIMEOUT_S) and self._client.alive:
            raise AcquisitionError(
                f"{self.name}: the detector is still armed for the series before, {ARM_TIMEOUT_S:g} s after it was "
                "told to end: set it when it answers again"
            )

    def note_run(self, name: str, doc: dict[str, Any]) -> None:
        super().note_run(name, doc)
        if name == "start":
            self._raw.begin()
            self.preview.begin()

    # Stage, trigger and what may interrupt them -------------------------------------------------

    def wait_for_connection(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Start or find the engine; returns when it is ready, within ``timeout`` s. A first start takes a minute."""
        super().wait_for_connection(*args, timeout=60.0 if timeout is None else timeout, **kwargs)
        if self.control is not None:
            self.detector.refresh()
        self._engine(timeout)

    def stage(self) -> Any:
        """Make engine and detector ready. In the RunEngine's loop it returns a status of that, else it waits.

        Raises, or the status fails with, ValueError for settings that cannot be, SimplonError for a detector that does
        not answer, EngineLost.
        """
        request = self.request()
        check_seen(self.name, self.record.get(), self.record_map.get())
        self._run.clear_shapes()
        self._raw.begin()
        self.preview.begin()
        self._flight, self._kicked_off = None, False
        if not _in_event_loop():
            self._get_ready(request)
            return super().stage()
        super().stage()
        status = TellingStatus(self, running="is made ready", done="is ready", failed="cannot be staged")
        self._staging = status.follow(lambda: self._get_ready(request), "live4d-stage")
        return status

    def _get_ready(self, request: AcquisitionRequest) -> None:
        if self.control is not None:
            self.detector.refresh()  # fail before the scan if the detector does not answer
            if request.frame_time is None:
                self.detector.warn_of_short_exposure()
            elif not self.detector.frame_time.missing:
                self.detector.frame_time.check_value(request.frame_time)
        self._engine()

    def trigger(self) -> RasterStatus:
        """Take one raster. The status fails with the engine's reason, or with EngineLost.

        Raises ValueError where the images would have another shape than those before them in the run.
        """
        request = self.request()
        self._check_shapes(self.known_shapes())
        if request.record is None and self._raw.described:
            raise ValueError(
                f"{self.record.name} is '', and Events of this run have recorded frames: take it in a run of its own"
            )
        return self.start(request, RasterStatus(self))

    def start(
        self, request: AcquisitionRequest, status: RasterStatus, flight: Flight | None = None
    ) -> RasterStatus:
        client = self._engine()
        self._exposures.cancel()
        if self._disarming is not None:
            # It must not stop the series that is armed now.
            self._disarming.join(DISARM_S)
            self._disarming = None
        self.preview.clear()
        self._stands = self._arm_per.stays_armed
        self._raw.triggered(self._frames_said())
        detectors = self.taken_with.begin(self.settings_now())
        self._exposures.start(client, request, SignalUpdater(self, status, detectors, flight))
        return status

    def disarm_for_lost_engine(self) -> None:
        """Leave the detector idle, as the engine would have, if it was armed from here."""
        if self.control is not None:
            self._disarming = disarm_for_lost_engine(self.control)

    def pause(self) -> None:
        """Give up the raster that runs; the plan takes it again when it resumes. Ends a movie."""
        flying = self._flying
        self._exposures.cancel()
        if flying:
            # A replayed kickoff would number the rasters anew: keep what was taken and go on behind it.
            raise NoReplayAllowed(f"the movie of {self.name} ends here, with the rasters taken so far")

    @property
    def _flying(self) -> bool:
        """Whether a movie runs."""
        running = self._exposures.running
        return isinstance(running, SignalUpdater) and running.flight is not None

    def resume(self) -> None:
        """Nothing to do: the plan triggers again."""

    def stop(self, *, success: bool = False) -> None:
        self._exposures.cancel()
        super().stop(success=success)

    def unstage(self) -> list[Any]:
        # The only one of these that abort, stop and halt are sure to call. Idempotent.
        self._exposures.cancel()
        if self._client is not None:
            if not self._client.alive and self._stands and self._disarming is None:
                self.disarm_for_lost_engine()  # it died between two triggers, where no exposure noticed
            self._stands = False
            self._client.release()
        self._run.clear_shapes()
        self.taken_with.stage_over()
        return super().unstage()

    def close(self) -> None:
        """End the engine process; the next stage starts a new one."""
        self._exposures.cancel()
        if self._staging is not None:  # it may be starting one
            self._staging.join(STAGE_S)
        if self._scan is not None:
            self._scan.wait(SCAN_STOP_S)
        self.close_engine()

    # Readings: an image with the settings that it was taken with ---------------------------------

    def publish(self, raster: RasterResult) -> EventFile | None:
        """Put a raster into the signals; the file of its frames, None where they were not to be recorded."""
        self.put_outputs(raster.outputs)
        recorded = raster.recorded
        path = "" if recorded is None else seen_at(recorded.path, self.record_map.get())
        file = None if recorded is None else EventFile(recorded, path)
        self._raw.raster_done(file, flying=self._flying)
        self.put_raster(raster, path)
        self.backend.put(raster.backend)
        return file

    def read(self) -> dict[str, Any]:
        """The newest images, their statistics and counts, and the settings that they were taken with."""
        readings = self.without_disabled(super().read())
        self.taken_with.put_into(readings)
        self._check_shapes(
            {key: np.shape(readings[key]["value"]) for key in self._run.arrays & readings.keys()}
        )
        return readings

    def describe(self) -> dict[str, Any]:
        """Also of the recorded frames; they are no reading."""
        return self.describe_readings() | self.describe_frames()

    def describe_frames(self) -> dict[str, Any]:
        """The data key of recorded frames, if there are or will be some and their size is known."""
        recording = bool(self.record.get()) and self._staged is Staged.yes
        keys = self._raw.describe(self.grid().shape, self._frames_said(), recording=recording)
        first = self.channel.get()
        return {key: {"channel": first} | entry if first else entry for key, entry in keys.items()}

    def frame_shape(self) -> tuple[int, int] | None:
        """Rows and columns of the frames, as the detector says without being asked; None where that is not known."""
        said = self._frames_said()
        return None if said is None else said.shape

    def _frames_said(self) -> FrameFormat | None:
        return None if self.control is None else self.detector.frames_said()

    def describe_readings(self) -> dict[str, Any]:
        """The data keys of `read`."""
        with self.outputs_held():
            keys = self.without_disabled(super().describe())
        self._run.describe(keys)
        return keys

    def collect_asset_docs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Documents of the recorded frames of the newest raster, or of the movie, for a stream that has their key."""
        if self._raw.is_new or self._flight is None:
            yield from self._raw.documents()
        else:
            files = self._flight.take()
            yield from self._raw.documents(files if self._with_frames else ())

    def _check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if self._staged is Staged.yes or self._run.header:  # else it is not known where a run begins and ends
            self._run.check(shapes)

    @property
    def hints(self) -> dict[str, Any]:
        """What tables and plots show: not the settings, which name themselves only when a plan moves them."""
        shown = (getattr(self, name) for name in self.component_names)
        hinted = {signal.name: None for signal in shown if signal.kind == Kind.hinted}
        return {"fields": list(self.without_disabled(hinted))}


def _with_pattern(methods: Sequence[Method]) -> tuple[Method, ...]:
    """``methods``, with a mean pattern that can be enabled."""
    has_one = any(isinstance(method, MeanPattern) or method.name == "pattern" for method in methods)
    return tuple(methods) if has_one else (*methods, MeanPattern("pattern", enabled=False))


def _all_channels(channel: str, channels: Sequence[str]) -> tuple[str, ...]:
    """Those that are imaged, the first of them first. Raises ValueError for what cannot be."""
    if not channels and not isinstance(channels, str):
        return (channel,)
    if (
        isinstance(channels, str)
        or channel
        or not all(isinstance(each, str) and each for each in channels)
        or len({suffix_of(each) for each in channels}) < len(channels)
    ):
        raise ValueError(
            f"channel is {channel!r} and channels is {channels!r}; expected either one name, or several that differ: "
            'channels=("threshold_1", "difference")'
        )
    return tuple(channels)


def _in_event_loop() -> bool:
    """Whether this is the RunEngine's thread, or another that must not wait."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

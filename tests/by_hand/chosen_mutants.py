"""Lines that hold numbers, memory and threads together, each broken in turn: some test must fail for every one.

These are what a mutation tool does not reach: locks, properties, memory that is freed, and numba kernels (their cache
keeps callers of a kernel that has changed, so every broken kernel gets a cache of its own). Others it could reach, but
their tests are too slow for thousands of mutants: the detector, what is shown, files. Works on a copy.

    python tests/by_hand/chosen_mutants.py [part of a name ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
#: a broken line may make a test wait for ever, s
TIMEOUT_S = 240

ACCUMULATORS = "tests/imaging/test_accumulators.py"
ACQUISITION = "tests/engine/test_acquisition.py"
CONTROL = "tests/sources/simplon/test_simplon_client.py"
DEVICE = "tests/device/test_device.py"
FRAME_SUMS = "tests/decode/test_frame_sums.py"
IMAGING = "tests/engine/test_imaging.py"
LAYOUT = "tests/decode/test_layout.py"
MEAN_PATTERN = "tests/imaging/test_mean_pattern.py"
PREVIEW = "tests/live/test_preview.py"
PROJECT = "tests/decode/test_project.py tests/decode/test_saturation.py"
RASTER = "tests/device/test_raster_signals.py"
RECORDER = "tests/storage/test_recorder.py"
RESTORE = "tests/storage/test_restore.py"
SCAN = "tests/test_scan.py"
SETTINGS = "tests/device/test_detector_settings.py"
SIGNALS = "tests/device/test_signals.py"
STREAM = "tests/sources/simplon/test_stream_settings.py"
TILES = "tests/plans/test_series.py"
TRACKER = "tests/engine/test_frame_tracker.py"


class Broken(NamedTuple):
    name: str
    file: str  #: below live4d_ophyd/
    old: str  #: is in the file once
    new: str
    tests: str  #: of which one must fail: files, or where a file takes minutes one test of it


LOCK = "        with self.changed:\n"
NO_LOCK = "        if True:\n"

CLAIM = "        image_ids = np.ascontiguousarray(image_ids, np.int64)\n"
FINISH = "        received_ns = np.ascontiguousarray(received_ns, np.int64)\n"
CLOSE = 'the rate from its first to its last, Hz."""\n'
FOREIGN = 'Book frames of other series."""\n'
UNREADABLE = 'bad, but no one knows which."""\n'
OF_ONE = 'As of an acquisition of this raster alone."""\n'
ALL = "    def progress(self) -> Progress:\n"
WORKING = 'is not the stream\'s silence."""\n'

BROKEN = [
    # Numbers
    Broken(
        "the user's mask is dropped where the detector has one", "engine/preparation.py",
        "return mask if detectors is None else mask | detectors", "return mask if detectors is None else detectors",
        ACQUISITION,
    ),
    Broken(
        "the detector's mask is dropped where the user has one", "engine/preparation.py",
        "return mask if detectors is None else mask | detectors", "return mask", ACQUISITION,
    ),
    Broken(
        "the mean pattern gets no mask", "engine/preparation.py",
        "series=replace(series, pixel_mask=prepared.mask))", "series=series)", ACQUISITION,
    ),
    Broken(
        "the mean pattern gets no rule of saturation", "engine/projection.py",
        "saturation=None if saturation.counted else saturation.limit(frame.dtype),", "saturation=None,", ACQUISITION,
    ),
    Broken(
        "pixels at the maximum hold no count though the user says so", "engine/projection.py",
        "Saturation(request.nodata, ", "Saturation(True, ", ACQUISITION,
    ),
    Broken(
        "the mask is not applied to the mean pattern", "imaging/mean_pattern.py",
        "(frames > 0) & ~series.pixel_mask", "(frames > 0)", MEAN_PATTERN,
    ),
    Broken(
        "the mask is added to the mean pattern", "imaging/mean_pattern.py",
        "(frames > 0) & ~series.pixel_mask", "(frames > 0) | series.pixel_mask", MEAN_PATTERN,
    ),
    Broken(
        "masked pixels have a mean of 0", "imaging/mean_pattern.py",
        "np.full(series.format.shape, np.nan)", "np.zeros(series.format.shape)", MEAN_PATTERN,
    ),
    Broken(
        "nodata is ignored in the mean pattern", "imaging/accumulators.py",
        "value=series.saturation)", "value=None)", MEAN_PATTERN,
    ),
    Broken(
        "a pixel that is valid in one frame only has no mean", "imaging/mean_pattern.py",
        "frames > 0 if series.pixel_mask is None else (frames > 0)",
        "frames > 1 if series.pixel_mask is None else (frames > 1)", MEAN_PATTERN,
    ),
    Broken(
        "duplicates are not counted", "engine/frame_tracker.py",
        "self._duplicates += len(image_ids) - beyond - int(np.count_nonzero(new))", "pass", TRACKER,
    ),
    Broken(
        "a duplicate is received again", "engine/book_kernels.py",
        "image_id >= lowest and not claimed[image_id]", "image_id >= lowest", TRACKER,
    ),
    Broken(
        "what is late is claimed", "engine/book_kernels.py",
        "image_id >= lowest and not claimed[image_id]", "not claimed[image_id]", TRACKER,
    ),
    Broken(
        "the last frame's time is that of the first", "engine/book_kernels.py",
        "if not time <= last[raster]", "if not time >= last[raster]", TRACKER,
    ),
    Broken(
        "the rate is of one frame too many", "engine/frame_tracker.py",
        "float((frames - 1) / span)", "float(frames / span)", TRACKER,
    ),
    Broken(
        "the frame rate is seven times too high", "device/raster_signals.py",
        "if raster.rate_hz is None else raster.rate_hz)", "if raster.rate_hz is None else 7 * raster.rate_hz)", RASTER,
    ),
    Broken(
        "the frame rate is never put", "device/raster_signals.py",
        "self.frame_rate.put(math.nan if raster.rate_hz is None else raster.rate_hz)", "pass", RASTER,
    ),
    Broken(
        "frames_dropped is always 0", "device/raster_signals.py",
        "math.nan if raster.dropped is None else float(raster.dropped)", "0.0", RASTER,
    ),
    Broken(
        "the detector never dropped a frame", "sources/dectris/control.py",
        "return dropped if isinstance(dropped, int) and not isinstance(dropped, bool) else None", "return 0", CONTROL,
    ),
    Broken(
        "tiles run from the last row to the first", "plans/series.py",
        "        -reach_y,\n        reach_y,\n", "        reach_y,\n        -reach_y,\n", TILES,
    ),
    Broken(
        "tiles run from the last column to the first", "plans/series.py",
        "        -reach_x,\n        reach_x,\n", "        reach_x,\n        -reach_x,\n", TILES,
    ),
    Broken(
        "every second row of tiles runs backwards", "plans/series.py",
        "snake_axes=False", "snake_axes=True", TILES,
    ),
    Broken(
        "a movie has patterns", "device/requesting.py",
        "if any(all(output.shape) for output in method.outputs(None, request.grid).values())", "if True",
        "tests/plans/test_images.py",
    ),
    # The detector
    Broken(
        "no high voltage is switched on", "sources/dectris/control.py",
        "        self._switch_on_high_voltage()\n        if self.url", "        if self.url", CONTROL,
    ),
    Broken(
        "the readout time is not subtracted from the count time", "sources/dectris/control.py",
        "frame_time - readout if room else frame_time", "frame_time", CONTROL,
    ),
    Broken(
        "the stream is not enabled", "sources/dectris/stream_settings.py",
        '"header_detail": "all", "mode": "enabled"}', '"header_detail": "all"}', STREAM,
    ),
    Broken(
        "the stream is enabled for good", "sources/dectris/stream_settings.py",
        'self._rest.write("stream", key, value)', "pass", STREAM,
    ),
    Broken(
        "a scan disables the file writer", "sources/dectris/control.py",
        "            self._stream.apply(appendix)\n",
        '            self._stream.apply(appendix)\n            self.put("filewriter", "mode", "disabled")\n', STREAM,
    ),
    Broken(
        "unstage does not release the stream", "device/live4d.py",
        "            self._client.release()\n        self._run", "        self._run",
        f"{DEVICE}::test_after_unstage_the_stream_is_for_others",
    ),
    Broken(
        "an engine that never gets ready is swallowed", "device/engine_link.py",
        "            client.close()\n            raise\n", "            client.close()\n",
        f"{DEVICE}::test_an_engine_that_never_gets_ready_is_said_before_a_run_and_waited_for_anew",
    ),
    Broken(
        "a detector that falls silent costs the settings", "device/simplon_signal.py",
        "            if not self.asked:\n                raise\n", "            raise\n", SETTINGS,
    ),
    Broken(
        "a detector that falls silent is asked for every setting", "device/detector_settings.py",
        "signal.hold(SILENT_S)", "pass", SETTINGS,
    ),
    # What is shown
    Broken(
        "only the first preview is asked for", "device/preview.py",
        "        self.parent.request_preview()\n", "", SIGNALS,
    ),
    Broken(
        "only the first preview is shown", "live/preview.py",
        "shown.get(device, 0.0) != (", "device not in shown and 0.0 != (", PREVIEW,
    ),
    Broken(
        "a preview is shown again though no frame came", "live/preview.py", "shown[device] = new", "pass", PREVIEW,
    ),
    Broken(
        "a run that is over counts as open", "live/preview.py", "self._open_runs.discard(msg.run)", "pass", PREVIEW,
    ),
    Broken(
        "no time passes", "device/statuses.py", "time_elapsed=elapsed,", "time_elapsed=0.0,", SIGNALS,
    ),
    Broken(
        "what is left takes as long as the whole", "device/statuses.py",
        "elapsed * (expected - done) / done", "elapsed * expected / done", SIGNALS,
    ),
    Broken(
        "the bar is full at first", "device/statuses.py", "fraction=1 - done / expected", "fraction=done / expected",
        SIGNALS,
    ),
    Broken(
        "the line says that what is left takes as long as the whole", "live/progress.py",
        "_clock(time_elapsed * (total - done) / done)", "_clock(time_elapsed * total / done)",
        "tests/live/test_progress.py",
    ),
    # Files
    Broken("nothing is brought to the disk", "storage/journal.py", "os.fsync(file.fileno())", "pass", RECORDER),
    Broken(
        "the failure of a disk that does not take the file escapes", "storage/recorder.py",
        "            journal.sync()\n        except OSError as error:",
        "            journal.sync()\n        except ValueError as error:", RECORDER,
    ),
    Broken(
        "a disk that does not take the file has taken it", "storage/recorder.py",
        "            self._journal_failed(error)\n            return False\n        return True\n\n    # Either",
        "            self._journal_failed(error)\n        return True\n\n    # Either", RECORDER,
    ),
    Broken(
        "a complete backup is refused where the catalog has the run", "storage/restore.py",
        "(fault := _lacks(path, lines))", "(fault := _lacks(path, lines) or 'is there')",
        f"{RESTORE}::test_a_complete_backup_replaces_a_complete_run",
    ),
    Broken(
        "a damaged backup replaces a complete run", "storage/restore.py",
        'return "has lines that cannot be read, or not their arrays"', "continue",
        f"{RESTORE}::test_a_damaged_backup_does_not_replace_a_complete_run",
    ),
    Broken(
        "a damaged line ends the search for the stop document", "storage/restore.py",
        'complete |= document is not None and document[0] == "stop"', 'complete |= document[0] == "stop"',
        f"{RESTORE}::test_a_torn_line_in_the_middle_does_not_hide_the_rest",
    ),
    # Memory
    Broken(
        "what was left over is kept", "sources/dectris/series_filter.py",
        "self._waiting, self._memory.left_over[:] = deque(self._memory.left_over), []",
        "self._waiting = deque(self._memory.left_over)", ACQUISITION,
    ),
    Broken(
        "rasters of a movie are not freed", "engine/acquisition.py",
        "self.series.projection.imaging.release(raster - 1)", "pass", ACQUISITION,
    ),
    Broken(
        "what a series held is not freed behind its end", "engine/acquisition.py",
        "self.series.projection.free()", "pass", ACQUISITION,
    ),
    Broken(
        "what was taken in of a raster is not freed", "engine/imaging.py",
        "made for k, made in self._accumulators.items() if k[0] != raster",
        "made for k, made in self._accumulators.items()", IMAGING,
    ),
    Broken(
        "fits of a raster are not freed", "engine/imaging.py",
        "fit for k, fit in self._fits.items() if k[0] != raster", "fit for k, fit in self._fits.items()",
        "tests/engine/test_refits.py",
    ),
    # Locks
    Broken("claim without a lock", "engine/frame_tracker.py", CLAIM + LOCK, CLAIM + NO_LOCK, TRACKER),
    Broken("finish without a lock", "engine/frame_tracker.py", FINISH + LOCK, FINISH + NO_LOCK, TRACKER),
    Broken("close without a lock", "engine/frame_tracker.py", CLOSE + LOCK, CLOSE + NO_LOCK, TRACKER),
    Broken("foreign without a lock", "engine/frame_tracker.py", FOREIGN + LOCK, FOREIGN + NO_LOCK, TRACKER),
    Broken("unreadable without a lock", "engine/frame_tracker.py", UNREADABLE + LOCK, UNREADABLE + NO_LOCK, TRACKER),
    Broken("progress_of without a lock", "engine/frame_tracker.py", OF_ONE + LOCK, OF_ONE + NO_LOCK, TRACKER),
    Broken("progress without a lock", "engine/frame_tracker.py", ALL + LOCK, ALL + NO_LOCK, TRACKER),
    Broken("working without a lock", "engine/frame_tracker.py", WORKING + LOCK, WORKING + NO_LOCK, TRACKER),
    Broken(
        "accumulators are made without a lock", "engine/imaging.py",
        "            with self._lock:\n                found = self._accumulators.get(key)",
        "            if True:\n                found = self._accumulators.get(key)", IMAGING,
    ),
    Broken(
        "accumulators are read without a lock", "engine/imaging.py",
        "        with self._lock:\n            found = [", "        if True:\n            found = [", IMAGING,
    ),
    Broken(
        "devices are read without a lock", "engine/imaging.py",
        "        with self._lock:\n            return {key[1]", "        if True:\n            return {key[1]", IMAGING,
    ),
    Broken(
        "a raster is freed without a lock", "engine/imaging.py",
        "        with self._lock:\n            self._accumulators = {",
        "        if True:\n            self._accumulators = {", IMAGING,
    ),
    Broken(
        "threads of a GPU share accumulators", "engine/imaging.py",
        "0 if where is None else threading.get_ident()", "0", IMAGING,
    ),
    Broken(
        "threads share sums of patterns", "imaging/accumulators.py",
        "thread = threading.get_ident()", "thread = 0", ACCUMULATORS,
    ),
    Broken(
        "the format is decided without a lock", "engine/projection.py",
        "            with self._lock:\n                if self._frame is None:\n                    self._check",
        "            if True:\n                if self._frame is None:\n                    self._check",
        "tests/engine/test_preparation.py",
    ),
    Broken(
        "an engine is heard beside a cancel", "device/exposure.py",
        "who waits for the end may do anything\n        with self._fence:",
        "who waits for the end may do anything\n        if True:", "tests/device/test_exposure.py",
    ),
    Broken(
        "two settings are put at once", "device/simplon_signal.py",
        "        with self.parent.setting:\n", "        if True:\n", SETTINGS,
    ),
    Broken(
        "a preview is read without a lock", "device/preview.py",
        "        with self._lock:\n            arrays, fraction, when",
        "        if True:\n            arrays, fraction, when",
        SIGNALS,
    ),
    Broken(
        "a preview comes in without a lock", "device/preview.py",
        "        with self._lock:\n            self._arrays, self._fraction, self._saturated = arrays",
        "        if True:\n            self._arrays, self._fraction, self._saturated = arrays", SIGNALS,
    ),
    Broken(
        "who begins to watch is told at once", "device/statuses.py",
        "in list(self._progress_watchers)", "in self._progress_watchers", SIGNALS,
    ),
    # Properties
    Broken(
        "a stream is silent while its frames are decoded", "engine/frame_tracker.py",
        "return 0.0 if self._working else time", "return time", TRACKER,
    ),
    Broken(
        "bad frames are not finished", "engine/frame_tracker.py",
        "return int(self._received.sum() + self._bad.sum())", "return int(self._received.sum())", TRACKER,
    ),
    Broken(
        "bad frames are received", "engine/frame_tracker.py",
        "return int(self._received.sum())\n", "return int(self._received.sum() + self._bad.sum())\n", TRACKER,
    ),
    Broken(
        "a series has begun with all of its frames", "engine/frame_tracker.py",
        "return bool(self._claimed.any())", "return bool(self._claimed.all())", TRACKER,
    ),
    Broken(
        "all have come with the first frame", "engine/frame_tracker.py",
        "return bool(self._claimed.all())", "return bool(self._claimed.any())", TRACKER,
    ),
    Broken(
        "what came changes afterwards", "engine/frame_tracker.py",
        "return self._claimed.copy()", "return self._claimed", TRACKER,
    ),
    Broken(
        "the first missing frame counts as the last", "engine/frame_tracker.py",
        "np.max(np.flatnonzero(~self._claimed), initial=-1)",
        "np.min(np.flatnonzero(~self._claimed), initial=2**40)", TRACKER,
    ),
    Broken(
        "saturated frames of the first raster only", "engine/frame_tracker.py",
        "return int(self._saturated.sum())", "return int(self._saturated[0])", TRACKER,
    ),
    Broken(
        "flyback after the last line is always counted", "scan.py",
        "self.rows if self.last_flyback else self.rows - 1", "self.rows", SCAN,
    ),
    Broken(
        "the step along scan_x is that along scan_y", "scan.py",
        "return self.step if isinstance(self.step, tuple) else", "return", SCAN,
    ),
    Broken(
        "what is left over of a frame is in blocks", "decode/gpu/layout.py",
        "return self.total - self.total % self.granule", "return self.total", LAYOUT,
    ),
    Broken(
        "a last block that is shorter is none", "decode/gpu/layout.py",
        "return -(-self.in_blocks // self.block)", "return self.in_blocks // self.block", LAYOUT,
    ),
    Broken(
        "frames on a GPU are not aligned", "decode/gpu/layout.py",
        "return max(64, -(-self.nbytes // 64) * 64)", "return self.nbytes", LAYOUT,
    ),
    Broken(
        "maps begin at the first row", "decode/weight_maps.py",
        "row[first : first + len(band)] = band", "row[: len(band)] = band", "tests/decode/test_weight_maps.py",
    ),
    # Kernels
    Broken(
        "a pixel at the limit is counted", "decode/cpu/batch_kernels.py",
        "if value >= limit:", "if value > limit:", PROJECT,
    ),
    Broken(
        "the pixels behind the last block are left out", "decode/cpu/batch_kernels.py",
        "left_over = (rows * cols) % 8", "left_over = 0", PROJECT,
    ),
    Broken(
        "coefficients of integer maps are left out", "decode/cpu/batch_kernels.py",
        "+= plan.term_coefficient[term] * under", "+= under", PROJECT,
    ),
    Broken(
        "saturated pixels behind the last block are not found", "decode/cpu/batch_kernels.py",
        "                    saturated[i, number] = True\n", "                    pass\n", PROJECT,
    ),
    Broken(
        "saturated pixels of blocks are not found", "decode/cpu/frame_kernels.py", "hits[mask - 1] = 1",
        "pass", PROJECT,
    ),
    Broken(
        "saturated pixels are never counted", "decode/cpu/frame_kernels.py",
        "        if counted:\n", "        if False:\n", PROJECT,
    ),
    Broken(
        "frames of another shape are summed", "decode/cpu/batch_kernels.py",
        "if index[row, ROWS] != rows or index[row, COLS] != cols:", "if index[row, ROWS] != rows:",
        PROJECT,
    ),
    Broken(
        "a block that no map touches is not checked", "decode/cpu/frame_kernels.py", "elif verify:", "elif False:",
        "tests/decode/test_formats.py",
    ),
    Broken(
        "the highest plane is not used", "decode/cpu/bitplanes.py",
        "return (end + plane_bytes - 1) // plane_bytes", "return end // plane_bytes", PROJECT,
    ),
    Broken(
        "the limit holds for blocks with more planes only", "decode/cpu/bitplanes.py",
        "if used < limit_bits:", "if used <= limit_bits:", PROJECT,
    ),
    Broken(
        "planes are trimmed too far", "decode/cpu/bitplanes.py",
        "            used -= step\n            step = 8\n",
        "            used -= step + 1\n            step = 8\n", PROJECT,
    ),
    Broken(
        "the last pixels of a block are not looked at", "decode/cpu/bitplanes.py",
        "    for byte in range(8 * words, plane_bytes):", "    for byte in range(plane_bytes, plane_bytes):", PROJECT,
    ),
    Broken(
        "long matches are a byte short", "decode/cpu/lz4.py",
        "origin, stop = write - offset, write + match\n", "origin, stop = write - offset, write + match - 1\n",
        "tests/decode/test_lz4.py",
    ),
    Broken(
        "a pixel at the limit is in the sum over frames", "decode/cpu/frame_sums.py",
        'builder.icmp_unsigned("<", pixel, limit)', 'builder.icmp_unsigned("<=", pixel, limit)', FRAME_SUMS,
    ),
    Broken(
        "of four frames the first is summed", "decode/cpu/frame_sums.py",
        "others, step = limit, 4", "others, step = 0, 4", FRAME_SUMS,
    ),
    Broken(
        "the last pixels of a frame are in no sum over frames", "decode/cpu/frame_sums.py",
        "range(first + whole, first + count)", "range(first + count, first + count)", FRAME_SUMS,
    ),
    Broken(
        "NaN is a count in the sum over frames", "decode/cpu/frame_sums.py",
        "if float64(pixel) < limit:", "if not float64(pixel) >= limit:", FRAME_SUMS,
    ),
]  # fmt: skip


def main() -> int:
    names = sys.argv[1:]
    chosen = [broken for broken in BROKEN if not names or any(name in broken.name for name in names)]
    survivors = []
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "checkout"
        for part in ("live4d_ophyd", "plans", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for number, broken in enumerate(chosen):
            kernel = "njit" in (copy / "live4d_ophyd" / broken.file).read_text()
            cache = Path(temporary) / (f"cache-{number}" if kernel else "cache")
            end = _end_of_tests(copy, broken, cache)
            if end == "SURVIVED":
                survivors.append(broken.name)
            print(f"{end:8} {broken.name}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} killed")
    return 1 if survivors else 0


def _end_of_tests(copy: Path, broken: Broken, cache: Path) -> str:
    """What becomes of the broken line: "killed" by a test that fails, "no end" where one waits for ever, or "SURVIVED".

    Raises RuntimeError where there is no such line.
    """
    path = copy / "live4d_ophyd" / broken.file
    whole = path.read_text()
    if whole.count(broken.old) != 1:
        raise RuntimeError(
            f"{broken.name}: {whole.count(broken.old)} such lines in {broken.file}, expected 1"
        )
    path.write_text(whole.replace(broken.old, broken.new))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *broken.tests.split()]
    environment = {**os.environ, "PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(cache)}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, timeout=TIMEOUT_S, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        return "no end"
    finally:
        path.write_text(whole)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{broken.name}: pytest says {done.returncode}:\n{done.stdout[-2000:]}")
    return "killed" if done.returncode else "SURVIVED"


if __name__ == "__main__":
    sys.exit(main())

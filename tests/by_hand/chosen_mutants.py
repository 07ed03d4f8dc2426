"""Lines that hold numbers, memory and threads together, each broken in turn: some test must fail for every one.

These are what a mutation tool does not reach: locks, properties, memory that is freed, and numba kernels (their cache
keeps callers of a kernel that has changed, so every broken kernel gets a cache of its own). Works on a copy.

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

ACQUISITION = "tests/engine/test_acquisition.py"
LEDGER = "tests/engine/test_frame_tracker.py"
METHODS = "tests/imaging/test_methods.py"
SIGNALS = "tests/device/test_signals.py"
SCAN = "tests/test_scan.py"
LAYOUT = "tests/decode/test_layout.py"
PROJECT = "tests/decode/test_project.py tests/decode/test_saturation.py"


class Broken(NamedTuple):
    name: str
    file: str  #: below live4d_ophyd/
    old: str  #: is in the file once
    new: str
    tests: str  #: of which one must fail


LOCK = "        with self.changed:\n"
NO_LOCK = "        if True:\n"
RELEASE = "    def release(self, raster: int) -> None:\n        with self._lock:\n"
FREED = tuple(f"{RELEASE}            self._{held}.pop(raster, None)\n" for held in ("images", "sums"))
KEPT = "    def release(self, raster: int) -> None:\n        pass\n"


CLAIM = 'Duplicates, late ones and ids beyond the grid are not."""\n'
SETTLE = "        rasters = image_ids // self.grid.frames\n"
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
        "the mean pattern gets no mask", "engine/projection.py",
        "pixel_mask=mask, saturation=self._saturation", "saturation=self._saturation", ACQUISITION,
    ),
    Broken(
        "the mean pattern gets no rule of saturation", "engine/projection.py",
        "pixel_mask=mask, saturation=self._saturation", "pixel_mask=mask", ACQUISITION,
    ),
    Broken(
        "the mask is not applied to the mean pattern", "imaging/methods.py",
        "if self._mask is not None:", "if False:", METHODS,
    ),
    Broken(
        "the mask is not applied to the counts of the mean pattern", "imaging/methods.py",
        "total * ~self._mask.astype(bool), seen * ~self._mask.astype(bool)",
        "total * ~self._mask.astype(bool), seen", METHODS,
    ),
    Broken(
        "the mask is added to the mean pattern", "imaging/methods.py",
        "total * ~self._mask.astype(bool), seen * ~self._mask.astype(bool)",
        "total + self._mask.astype(bool), seen", METHODS,
    ),
    Broken(
        "nodata is ignored in the mean pattern", "imaging/methods.py",
        "limit = saturation.limit(frame.dtype)", "limit = NODATA.limit(frame.dtype)", METHODS,
    ),
    Broken(
        "a pixel that is valid in one frame only has no mean", "imaging/methods.py",
        "where=counts > 0", "where=counts > 1", METHODS,
    ),
    Broken(
        "duplicates are not counted", "engine/frame_tracker.py",
        "self._duplicates += len(ids) - int(fresh.sum())", "pass", ACQUISITION,
    ),
    Broken(
        "a duplicate is received again", "engine/frame_tracker.py",
        "fresh = ~self._claimed[ids] & (ids", "fresh = np.ones(len(ids), bool) & (ids", ACQUISITION,
    ),
    # Memory
    Broken(
        "what was left over is kept", "engine/acquisition.py", "del left_over[:]", "pass", ACQUISITION,
    ),
    Broken(
        "rasters of a movie are not freed", "engine/acquisition.py", "method.release(raster - 1)", "pass", ACQUISITION,
    ),
    Broken("images of a raster are not freed", "imaging/methods.py", FREED[0], KEPT, METHODS),
    Broken("the sums of a pattern are not freed", "imaging/methods.py", FREED[1], KEPT, METHODS),
    # Locks
    Broken("claim without a lock", "engine/frame_tracker.py", CLAIM + LOCK, CLAIM + NO_LOCK, LEDGER),
    Broken("settle without a lock", "engine/frame_tracker.py", SETTLE + LOCK, SETTLE + NO_LOCK, LEDGER),
    Broken("close without a lock", "engine/frame_tracker.py", CLOSE + LOCK, CLOSE + NO_LOCK, LEDGER),
    Broken("foreign without a lock", "engine/frame_tracker.py", FOREIGN + LOCK, FOREIGN + NO_LOCK, LEDGER),
    Broken("unreadable without a lock", "engine/frame_tracker.py", UNREADABLE + LOCK, UNREADABLE + NO_LOCK, LEDGER),
    Broken("progress_of without a lock", "engine/frame_tracker.py", OF_ONE + LOCK, OF_ONE + NO_LOCK, LEDGER),
    Broken("progress without a lock", "engine/frame_tracker.py", ALL + LOCK, ALL + NO_LOCK, LEDGER),
    Broken("working without a lock", "engine/frame_tracker.py", WORKING + LOCK, WORKING + NO_LOCK, LEDGER),
    Broken(
        "images are made without a lock", "imaging/methods.py",
        "    def _image(self, raster: int) -> np.ndarray:\n        with self._lock:\n",
        "    def _image(self, raster: int) -> np.ndarray:\n        if True:\n", METHODS,
    ),
    Broken(
        "patterns are summed without a lock", "imaging/methods.py",
        "            with self._lock:\n                sums, counts =",
        "            if True:\n                sums, counts =",
        METHODS,
    ),
    Broken(
        "the result of a pattern is read without a lock", "imaging/methods.py",
        "        with self._lock:\n            if raster not in self._sums:",
        "        if True:\n            if raster not in self._sums:", METHODS,
    ),
    Broken(
        "the format is settled without a lock", "engine/projection.py",
        "            with self._lock:\n                if self._frame is None:\n                    self._formats",
        "            if True:\n                if self._frame is None:\n                    self._formats",
        "tests/engine/test_preparation.py",
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
        "return 0.0 if self._working else time", "return time", LEDGER,
    ),
    Broken(
        "bad frames are not settled", "engine/frame_tracker.py",
        "return int(self._received.sum() + self._bad.sum())", "return int(self._received.sum())", LEDGER,
    ),
    Broken(
        "bad frames are received", "engine/frame_tracker.py",
        "return int(self._received.sum())\n", "return int(self._received.sum() + self._bad.sum())\n", LEDGER,
    ),
    Broken(
        "a series has begun with all of its frames", "engine/frame_tracker.py",
        "return bool(self._claimed.any())", "return bool(self._claimed.all())", LEDGER,
    ),
    Broken(
        "all have come with the first frame", "engine/frame_tracker.py",
        "return bool(self._claimed.all())", "return bool(self._claimed.any())", LEDGER,
    ),
    Broken(
        "what came changes afterwards", "engine/frame_tracker.py",
        "return self._claimed.copy()", "return self._claimed", LEDGER,
    ),
    Broken(
        "the first missing frame counts as the last", "engine/frame_tracker.py",
        "np.max(np.flatnonzero(~self._claimed), initial=-1)",
        "np.min(np.flatnonzero(~self._claimed), initial=2**40)", LEDGER,
    ),
    Broken(
        "saturated frames of the first raster only", "engine/frame_tracker.py",
        "return int(self._saturated.sum())", "return int(self._saturated[0])", LEDGER,
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
        "a pixel at the limit is counted", "decode/cpu/decoder.py", "if value >= limit:", "if value > limit:", PROJECT,
    ),
    Broken(
        "the pixels behind the last block are left out", "decode/cpu/decoder.py",
        "left_over = (rows * cols) % 8", "left_over = 0", PROJECT,
    ),
    Broken(
        "coefficients of integer maps are left out", "decode/cpu/decoder.py",
        "+= plan.term_coefficient[term] * under", "+= under", PROJECT,
    ),
    Broken(
        "saturated pixels behind the last block are not found", "decode/cpu/decoder.py",
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
        "frames of another shape are summed", "decode/cpu/decoder.py",
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
        "            stop = write + match\n            if offset == 1:",
        "            stop = write + match - 1\n            if offset == 1:", "tests/decode/test_lz4.py",
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
            killed = _killed(copy, broken, cache)
            if not killed:
                survivors.append(broken.name)
            print("killed  " if killed else "SURVIVED", broken.name, flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} killed")
    return 1 if survivors else 0


def _killed(copy: Path, broken: Broken, cache: Path) -> bool:
    """Whether a test fails with the broken line. Raises RuntimeError where there is no such line."""
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
        return True
    finally:
        path.write_text(whole)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{broken.name}: pytest says {done.returncode}:\n{done.stdout[-2000:]}")
    return done.returncode == 1


if __name__ == "__main__":
    sys.exit(main())

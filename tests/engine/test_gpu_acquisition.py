"""Whole acquisitions on a GPU: from sockets to images, several lanes and devices, the numbers those of the CPU."""

import sys
import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_refits import Background

from live4d_ophyd.decode import CpuBackend, choose_backend
from live4d_ophyd.engine import Acquisition, AcquisitionRequest
from live4d_ophyd.engine.open_stream import OpenStream
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.protocol import FINAL, Done, RasterDone
from live4d_ophyd.engine.recorder import Recording
from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.offline import reprocess_file
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu, damaged_image, end, frames, image, start

pytestmark = pytest.mark.gpu

GRID = ScanGrid(12, 10, flyback=2)
DISK = Disk("vbf", center=(12, 16), radius=6)
METHODS = (
    DISK, Annulus("adf", center=(12, 16), inner=6.5, outer=11), Segments("dpc", center=(12, 16), inner=0, outer=9),
    CenterOfMass("com", replace(DISK, name="com_disk")), MeanPattern(), Background(),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return torch


def devices(torch):
    """The first GPU twice, and all that there are."""
    return "gpu:0,0", "gpu:" + ",".join(map(str, range(torch.cuda.device_count())))


def take(backend, connections=4, rasters=2, methods=METHODS, record=None):
    """Rasters of a stream over that many connections, with a frame lost, one bad and one there twice."""
    pixels = frames(rasters * GRID.frames, dtype="uint32")
    with closing(SmallDcu()) as dcu, closing(OpenStream(DectrisSource(dcu.endpoint, connections))) as stream:
        images = [image(frame, n) for n, frame in enumerate(pixels) if n != 17]
        images[40] = damaged_image(pixels[41], 41)
        dcu.send([start(number_of_images=len(pixels)), *images, images[30], end()], clients=connections)
        assert stream.connected(60)
        request = AcquisitionRequest(stream.source, GRID, methods, rasters=rasters, timeout=20, record=record)
        return list(Acquisition(request, stream, backend).run())


def check(rasters, expected):
    assert len(rasters) == len(expected)
    for raster, wanted in zip(rasters, expected):
        assert raster.losses == wanted.losses
        assert set(raster.outputs) == set(wanted.outputs)
        for name, array in wanted.outputs.items():
            np.testing.assert_array_equal(raster.outputs[name], array, err_msg=name)


@pytest.fixture(scope="module")
def on_the_cpu():
    return take(CpuBackend())


def test_one_gpu_gives_what_the_cpu_gives(on_the_cpu):
    rasters = take(choose_backend("gpu"))
    check(rasters, on_the_cpu)
    assert {raster.backend for raster in rasters} == {"gpu"}


def test_several_gpus_give_what_the_cpu_gives(on_the_cpu, torch):
    for name in devices(torch):
        check(take(choose_backend(name)), on_the_cpu)


def test_what_a_gpu_decodes_is_recorded_and_reprocessed_on_it(on_the_cpu, tmp_path):
    rasters = take(choose_backend("gpu"), record=Recording(str(tmp_path / "scan.h5")))
    check(rasters, on_the_cpu)
    assert [raster.recorded.frames for raster in rasters] == [
        GRID.size - 2,
        GRID.size,
    ]  # one lost, one corrupt
    assert [raster.recorded.corrupt for raster in rasters] == [1, 0]
    for raster, live in zip(rasters, on_the_cpu):
        again = reprocess_file(raster.recorded.path, METHODS, backend="gpu", quiet=True)
        assert again.backend == "gpu"
        for name, array in live.outputs.items():
            np.testing.assert_array_equal(again.outputs[name], array, err_msg=name)


def test_lanes_go_to_devices_in_turn(torch):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    several = choose_backend(devices(torch)[1])
    numbers = [several.of_lane(lane)._device for lane in range(4)]
    assert numbers == [lane % torch.cuda.device_count() for lane in range(4)]


def test_a_gpu_that_is_not_there_is_named(torch):
    from live4d_ophyd.decode import BackendUnavailable

    with pytest.raises(BackendUnavailable, match=r"there is no GPU 64: this process sees \d+"):
        choose_backend("gpu:64")


def test_methods_of_a_user_s_package_work_in_a_spawned_engine(tmp_path, monkeypatch):
    tests = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(str(tests / "user_package"))
    from installed import install

    monkeypatch.syspath_prepend(str(install(tmp_path)))
    from live4d_extremes import BrightestPixel, Relative

    pixels = frames(GRID.frames)
    request = AcquisitionRequest(
        DectrisSource("tcp://127.0.0.1:9"),
        GRID,
        (DISK, BrightestPixel("peak", border=2), Relative("share", "peak", "vbf")),
        timeout=60,
    )
    with ExitStack() as stack:
        client = stack.enter_context(closing(EngineClient.spawn("gpu")))
        client.wait_ready(120)
        dcu = stack.enter_context(closing(SmallDcu()))
        dcu.send([start(number_of_images=len(pixels)), *(image(p, n) for n, p in enumerate(pixels)), end()])
        events, over = [], threading.Event()

        def on_event(event):
            events.append(event)
            if isinstance(event, FINAL):
                over.set()

        client.acquire(1, replace(request, source=DectrisSource(dcu.endpoint)), on_event)
        assert over.wait(100)
    assert isinstance(events[-1], Done), events[-1]
    outputs = next(event.raster.outputs for event in events if isinstance(event, RasterDone))
    imaged = pixels.reshape(12, 12, 24, 32)[:, :10]  # but for the flyback
    peak = imaged[:, :, 2:-2, 2:-2].max(axis=(2, 3)).astype(float)
    vbf = (imaged * DISK.weights((24, 32))).sum(axis=(2, 3))
    np.testing.assert_array_equal(outputs["peak"], peak)
    np.testing.assert_array_equal(outputs["share"], peak / vbf)
    assert "live4d_extremes" in sys.modules

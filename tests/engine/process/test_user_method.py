"""A user's methods, in one file of a package of their own, found by entry point in every engine that has it."""

import ast
import os
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from served_engine import served_engine

from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.errors import MethodFailed, NoMethod
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.protocol import FINAL, Done, RasterDone
from live4d_ophyd.imaging import registry
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu, frames, series

TESTS = Path(__file__).parents[2]
PACKAGE = TESTS / "user_package"
GRID = ScanGrid(3, 4)
DISK = Disk("vbf", center=(12, 16), radius=6)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package, installed where this process finds it."""
    sys.path.insert(0, str(PACKAGE))
    from installed import install

    folder = str(install(tmp_path_factory.mktemp("site")))
    sys.path[0] = folder
    yield folder
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def methods(installed):
    from live4d_extremes import BrightestPixel, Relative

    return (DISK, BrightestPixel("peak", border=2), Relative("share", "peak", "vbf"))


@pytest.fixture(scope="module")
def spawned(installed):
    with closing(EngineClient.spawn("cpu")) as client:
        client.wait_ready()
        yield client


@contextmanager
def served(*options, path, backend="cpu"):
    """A session of an engine that was started by hand, and can import from here."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    with (
        served_engine("--backend", backend, *options, env=environment) as running,
        closing(EngineClient(running.endpoint, backend=backend)) as client,
    ):
        client.wait_ready(100)
        yield client


def take(client, methods, generation=1):
    """The raster that the engine gives, or the error it gives."""
    pixels = frames(GRID.frames)
    with closing(SmallDcu()) as dcu:
        dcu.send(series(pixels))
        events, over = [], threading.Event()

        def on_event(event):
            events.append(event)
            if isinstance(event, FINAL):
                over.set()

        client.acquire(
            generation, AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, methods, timeout=20), on_event
        )
        assert over.wait(60)
    client.release()
    if not isinstance(events[-1], Done):
        raise events[-1].error
    return pixels, next(event.raster for event in events if isinstance(event, RasterDone))


def check(pixels, raster):
    outputs = raster.outputs
    peak = pixels[:, 2:-2, 2:-2].max(axis=(1, 2)).reshape(GRID.shape).astype(float)
    vbf = (pixels * DISK.weights(pixels.shape[1:])).sum(axis=(1, 2)).reshape(GRID.shape)
    assert list(outputs) == ["vbf", "peak", "share"]
    np.testing.assert_array_equal(outputs["vbf"], vbf)
    np.testing.assert_array_equal(outputs["peak"], peak)
    np.testing.assert_array_equal(outputs["share"], peak / vbf)


def without(folder):
    """What this process can import, but for the user's package."""
    return [path for path in sys.path if path and path not in (folder, str(PACKAGE))]


def test_the_engine_that_a_session_starts_has_them(spawned, methods):
    assert [registry.kind_of(method) for method in methods] == ["disk", "brightest_pixel", "relative"]
    check(*take(spawned, methods))


@pytest.mark.parametrize("backend", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_an_engine_started_by_hand_has_those_that_are_installed_there(installed, methods, backend):
    if backend == "gpu" and not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("torch sees no GPU")
    with served(path=[installed, *without(installed)], backend=backend) as client:
        pixels, raster = take(client, methods)
        check(pixels, raster)
        assert raster.backend == backend


def test_an_engine_without_the_package_refuses_them_by_name(installed, methods):
    with (
        served(path=without(installed)) as client,
        pytest.raises(NoMethod, match="the method 'brightest_pixel' is not installed where the engine runs"),
    ):
        take(client, methods)


def test_modules_are_named_only_to_engines_that_allow_it(installed, methods, monkeypatch):
    monkeypatch.setattr(registry, "_installed", dict)  # no entry point: the session names the module
    assert registry.kind_of(methods[1]) == "live4d_extremes:BrightestPixel"
    refused = pytest.raises(NoMethod, match=r"take methods by module .*: start it with --allow-methods")
    with served(path=[installed, *without(installed)]) as client, refused:
        take(client, methods)
    with served("--allow-methods", path=[installed, *without(installed)]) as client:
        check(*take(client, methods))


def test_a_method_that_fails_is_named_and_the_next_trigger_works(spawned, methods):
    from live4d_extremes import BrightestPixel

    with pytest.raises(MethodFailed, match=r"the method empty \(BrightestPixel\) failed") as caught:
        take(spawned, (DISK, BrightestPixel("empty", border=50)), 2)
    assert caught.value.method == "empty"
    check(*take(spawned, methods, 3))


def test_they_are_one_file_and_nothing_else_knows_of_them():
    """What a method takes: its own file, and a line in its package's pyproject.toml."""
    tree = ast.parse((PACKAGE / "live4d_extremes.py").read_text())
    imported = {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "live4d" in node.module
    }
    assert imported == {"live4d_ophyd.imaging.accumulators", "live4d_ophyd.imaging.method"}
    product = (TESTS.parent / "live4d_ophyd").rglob("*.py")
    assert not [path for path in product if "BrightestPixel" in path.read_text()]

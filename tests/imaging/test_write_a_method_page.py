"""docs/how-to/write-a-method.md: its method, defined as it stands there, keeps the contract; the page's suite passes.

What the page does with a device is in tests/device/test_how_to.py.
"""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging import registry
from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.method import SCAN
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo
from live4d_ophyd.testing import MethodTests

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-method.md"
SERIES = SeriesInfo((1, 0), FrameFormat(6, 8, np.dtype("uint16")))
GRID = ScanGrid(4, 5)


def blocks(info="python"):
    """The page's code blocks that begin with this line."""
    return re.findall(rf"^```{info}\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def page():
    """What the page's code defines, which is in the module my_methods."""
    module = ModuleType("my_methods")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "my_methods", module)
        for code in blocks():
            exec(compile(code, str(PAGE), "exec"), vars(module))
        yield vars(module)


@pytest.fixture(scope="module")
def rectangle(page):
    return page["Rectangle"]


def sums_under(demand, frames):
    """(frames, maps) int64, as a decoder gives them."""
    maps = np.zeros((len(demand.bands), *frames.shape[1:]), np.int64)
    for full, (first, band) in zip(maps, demand.bands):
        full[first : first + len(band)] = band
    return np.einsum("nyx,myx->nm", frames.astype(np.int64), maps)


def test_its_image_is_the_counts_in_the_rectangle_over_two_devices_in_any_order(rectangle):
    random = np.random.default_rng(5)
    frames = random.integers(0, 1000, (GRID.size, 6, 8))
    method = rectangle("bar", top=1, left=2, height=3, width=4)
    sums = sums_under(method.demand(SERIES, GRID), frames)
    order = random.permutation(GRID.size)[:-2]  # two frames were lost
    parts = [method.accumulator(SERIES, GRID, None) for _ in range(2)]
    for n, positions in enumerate(np.array_split(order, 5)):
        parts[n % 2].add(positions, sums[positions])
    image = method.results(SERIES, GRID, parts)["bar"]
    expected = np.full(GRID.size, np.nan)
    expected[order] = frames[order, 1:4, 2:6].sum(axis=(1, 2))
    np.testing.assert_array_equal(image, expected.reshape(GRID.shape))
    output = method.outputs(SERIES, GRID)["bar"]
    assert (output.dims, output.shape, output.units) == (SCAN, image.shape, "counts")


def test_its_accumulator_of_patterns_keeps_the_brightest_pixel(page):
    patterns = np.random.default_rng(6).integers(0, 1000, (GRID.size, 6, 8)).astype(np.uint16)
    brightest = page["Brightest"](GRID, None)
    brightest.add(np.arange(1, GRID.size), patterns[1:])
    image = Scatter.merged([brightest.images], GRID, 1)[0]
    assert np.isnan(image[0, 0])
    np.testing.assert_array_equal(image.ravel()[1:], patterns.max(axis=(1, 2))[1:])


def test_an_engine_finds_it_by_its_module(rectangle):
    assert registry.kind_of(rectangle("bar", top=0, left=0, height=1, width=1)) == "my_methods:Rectangle"


def test_its_parameters_have_units(rectangle):
    fields = rectangle.__dataclass_fields__
    assert {
        name: fields[name].metadata["units"] for name in ("top", "left", "height", "width")
    } == dict.fromkeys(("top", "left", "height", "width"), "px")


@pytest.fixture(scope="module")
def suite(page):
    """The suite that the page tests its method with."""
    (code,) = (code for code in blocks("python notest") if "MethodTests" in code)
    names = {"__name__": "test_my_methods"}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["TestRectangle"]


@pytest.mark.parametrize("test", [name for name in dir(MethodTests) if name.startswith("test_")])
def test_it_passes_the_suite_of_the_page(suite, test):
    getattr(suite(), test)()


def test_the_suite_of_the_page_notices_a_rectangle_elsewhere(suite, rectangle, monkeypatch):
    monkeypatch.setattr(suite, "method", lambda _: rectangle("bar", top=1, left=3, height=3, width=4))
    with pytest.raises(AssertionError):
        suite().test_all_frames_in_order()

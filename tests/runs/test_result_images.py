"""Images of a run as xarray: axes with step and unit, attributes, and plots that are the right way up."""

import json
import math

import bluesky.plans as bp
import matplotlib
import numpy as np
import pytest
import xarray as xr
from canned import COLS, ROWS, picture
from fake_device import run_engine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from live4d_ophyd import image, images, plot_image
from live4d_ophyd.storage import Recorder


@pytest.fixture(scope="module")
def run(catalog):
    return catalog.db[catalog.scan]


def first_of(run):
    """Number of the run's first picture: the series ids count them from 1."""
    return int(run.primary.read(["live4d_series_id"])["live4d_series_id"].values[0]) - 1


def seconds(stack):
    return stack.time.values.astype("datetime64[us]").astype(float) / 1e6


def test_an_image_has_the_positions_as_coordinates(run):
    vbf = image(run, "vbf", event=1)
    np.testing.assert_array_equal(vbf.values, picture(first_of(run), 0))
    assert vbf.dims == ("scan_y", "scan_x")
    np.testing.assert_array_equal(vbf.scan_y, np.arange(ROWS) * 0.5)
    np.testing.assert_array_equal(vbf.scan_x, np.arange(COLS) * 0.25)
    assert (vbf.scan_y.attrs["units"], vbf.scan_x.attrs["step"]) == ("nm", 0.25)
    assert vbf.column_defocus == -50
    assert vbf.name == "live4d_vbf"


def test_its_attributes_explain_it(catalog, run):
    attrs = image(run, "live4d_adf").attrs
    assert (attrs["units"], attrs["uid"], attrs["plan_name"]) == ("counts", catalog.scan, "scan")
    assert (attrs["detector_kind"], attrs["detector_inner"], attrs["detector_outer"]) == ("annulus", 30, 80)
    assert attrs["detector_inner_mrad"] == pytest.approx(1e3 * math.atan(30 * 100e-6 / 0.2))
    assert json.loads(attrs["sample"]) == {"name": "MoS2", "layers": 2}
    assert (attrs["energy_eV"], attrs["frame_time_s"]) == (80e3, 25e-6)
    assert (attrs["frames_lost"], attrs["frames_expected"]) == (
        1,
        ROWS * COLS,
    )  # of this Event, not of all three


@pytest.mark.parametrize(("event", "index"), [(1, 0), (3, 2), (-1, 2), (-2, 1)])
def test_an_event_is_chosen_by_its_number(run, event, index):
    np.testing.assert_array_equal(image(run, "adf", event).values, picture(first_of(run) + index, 1))


def test_all_images_are_along_the_events(run):
    vbf = images(run, "vbf")
    assert vbf.dims == ("event", "scan_y", "scan_x")
    assert vbf.event.values.tolist() == [1, 2, 3]
    assert vbf.column_defocus.values.tolist() == [-50, 0, 50]
    assert vbf.column_defocus.attrs["units"] == "nm"
    stored = run.primary.read(["ts_live4d_vbf"])["ts_live4d_vbf"]
    np.testing.assert_allclose(seconds(vbf), stored, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(vbf.values, [picture(first_of(run) + n, 0) for n in range(3)])


def test_a_raster_has_the_time_of_its_images_and_not_of_a_document_that_was_made_later(catalog):
    """As Bluesky makes those of a movie, of several rasters at once."""
    recorder, ended = Recorder(catalog.db), [1e9, 1e9 + 2, 1e9 + 4]

    def late(name, doc):
        if name == "event":
            when = {"live4d_vbf": ended[doc["seq_num"] - 1]}
            doc = {**doc, "time": 1e9 + 5, "timestamps": dict.fromkeys(doc["timestamps"], 1e9 - 7) | when}
        recorder(name, doc)

    with run_engine() as RE:
        (uid,) = RE(bp.count([catalog.live4d], 3), late)
    assert recorder.wait()
    run = catalog.db[uid]
    assert seconds(images(run, "vbf")).tolist() == ended
    assert image(run, "adf", 2).time == np.datetime64(int(ended[1]), "s")
    of_documents = run.primary.read(["live4d_vbf_mean", "time"])["time"]
    assert set(of_documents.values) == {1e9 + 5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("haadf",), "there are live4d_vbf, live4d_adf"),
        (("vbf", 4), "no Event 4 in the stream 'primary': there are 3"),
        (("vbf", 0), "no Event 0"),
        (("vbf", -4), "no Event -4"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(run, arguments, words):
    with pytest.raises(KeyError, match=words):
        image(run, *arguments)
    with pytest.raises(KeyError, match="there are some in primary"):
        image(run, "vbf", stream="focused")


def test_a_run_is_found_by_its_uid(catalog):
    np.testing.assert_array_equal(image(catalog.scan[:8], "vbf"), image(catalog.db[catalog.scan], "vbf"))


def plotted(draw):
    figure = Figure()
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    draw(ax)
    figure.canvas.draw()
    return figure, ax


@pytest.mark.parametrize("method", ["__call__", "imshow", "pcolormesh"])
def test_a_plot_has_row_0_on_top_and_the_unit_in_its_bar(run, method):
    vbf = image(run, "vbf", event=1)
    figure, ax = plotted(lambda ax: getattr(vbf.plot, method)(ax=ax))
    bottom, top = ax.get_ylim()
    assert bottom > top
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("scan x [nm]", "scan y [nm]")
    assert figure.axes[1].get_ylabel() == "vbf [counts]"
    assert ax.get_aspect() == 1
    assert ax.get_title().startswith("live4d_vbf, scan ")
    assert "column_defocus -50 nm" in ax.get_title()


def test_what_is_drawn_is_the_image_and_not_its_mirror_image(run):
    """By the pixels on the canvas: brighter to the right and to the bottom, as the values are."""
    vbf = image(run, "vbf", event=1).fillna(2000)  # xarray makes a plain DataArray of it
    figure, ax = plotted(lambda ax: plot_image(vbf, ax=ax, add_colorbar=False))
    box = ax.get_window_extent()
    canvas = np.asarray(figure.canvas.buffer_rgba())[..., 0].astype(float)
    height = canvas.shape[0]
    rows = np.linspace(height - box.y1, height - box.y0, 2 * ROWS + 1)[1::2].round().astype(int)
    cols = np.linspace(box.x0, box.x1, 2 * COLS + 1)[1::2].round().astype(int)
    grey = canvas[np.ix_(rows, cols)]
    assert np.corrcoef(grey.ravel(), vbf.values.ravel())[0, 1] > 0.99


def test_positions_without_a_value_have_a_colour_of_their_own(run):
    from live4d_ophyd.live.panel import NOT_SEEN

    _, ax = plotted(lambda ax: image(run, "vbf").plot(ax=ax))
    (mesh,) = ax.collections
    assert matplotlib.colors.to_hex(mesh.get_cmap().get_bad()) == NOT_SEEN


def test_a_scan_of_one_line_is_drawn_as_a_line(run):
    _, ax = plotted(lambda ax: image(run, "vbf").isel(scan_y=slice(0, 1)).plot(ax=ax))
    assert len(ax.lines) == 1
    assert ax.get_xlabel() == "scan x [nm]"


def test_the_plots_of_an_image_stay_right_after_arithmetic_and_the_caller_s_wishes_win(run):
    _, ax = plotted(lambda ax: (image(run, "vbf") / 2).isel(scan_x=slice(1, 5)).plot(ax=ax))
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    _, ax = plotted(lambda ax: image(run, "vbf").plot(ax=ax, yincrease=True, cmap="viridis"))
    assert ax.get_ylim()[0] < ax.get_ylim()[1]
    assert ax.collections[0].get_cmap().name == "viridis"
    assert isinstance(image(run, "vbf"), xr.DataArray)


def test_a_step_that_differs_between_events_gives_numbers_of_positions(catalog):
    def zoom():
        import bluesky.plans as bp

        yield from bp.list_scan([catalog.live4d], catalog.live4d.scan_step_x, [0.25, 0.125])

    run = catalog.db[catalog.take(zoom())]
    catalog.live4d.scan_step_x.put(0.25)
    assert images(run, "vbf").scan_x.attrs["units"] == "px"
    one = image(run, "vbf", 2)
    assert (one.scan_x.attrs["units"], one.scan_x.attrs["step"]) == ("nm", 0.125)

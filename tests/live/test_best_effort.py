"""Live images beside the standard table and plots."""

import threading

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from fake_device import FakeLive4D
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.image import imread
from ophyd import Component as Cpt
from ophyd import Signal
from ophyd.sim import det, motor, motor1, motor2

from live4d_ophyd.live import Live4DBestEffortCallback, live_preview
from live4d_ophyd.live.best_effort import SINGLE_EVENT_STREAMS, scan_axes
from live4d_ophyd.live.panel import ALARM, NOT_SEEN, ImageFigure, Panel, ScanAxes
from live4d_ophyd.live.pictures import service
from live4d_ophyd.plans import bright_field, flat_field, lattice, rotation


@pytest.fixture
def live4d(RE):
    device = FakeLive4D(name="live4d", shape=(16, 24), rows_per_s=200)
    RE.preprocessors.append(live_preview([device], max_rate=100))
    return device


@pytest.fixture
def bec(RE):
    callback = Live4DBestEffortCallback(max_rate=1000)
    RE.subscribe(callback)
    return callback


def shown_image(figure_name, panel=0):
    """(image, extent, axes) of a panel."""
    axes = plt.figure(figure_name).axes[panel]
    (image,) = axes.get_images()
    return image.get_array(), image.get_extent(), axes


def test_the_final_image_is_shown_in_scan_units(RE, bec, live4d):
    RE(bp.count([live4d]))
    image, extent, axes = shown_image("live4d images")
    np.testing.assert_array_equal(image, live4d.vbf.get())
    assert extent == [-0.125, 23.5 * 0.25, 15.5 * 0.5, -0.25]
    assert axes.get_xlabel() == "scan_x [nm]"
    assert axes.get_aspect() == 1
    assert axes.get_title() == "live4d_vbf, 100 % seen"
    assert plt.figure("live4d images").get_suptitle() == "scan 1, count, event 1"


def test_previews_feed_the_same_panel_with_masked_positions(RE, bec, live4d):
    shown = []

    def look(name, doc):
        if "live4d_live_fraction" in doc["data"]:
            image, extent, _ = shown_image("live4d images")
            shown.append((np.ma.getmaskarray(image).mean(), doc["data"]["live4d_live_fraction"], extent))

    RE.subscribe(look, "event")
    RE(bp.count([live4d]))
    assert shown
    for masked, fraction, extent in shown:
        assert masked == pytest.approx(1 - fraction)
        assert extent[1] == 23.5 * 0.25
    assert plt.get_fignums() == [1]


def test_a_preview_is_titled_with_the_event_that_follows(RE, bec, live4d):
    titles = []

    def look(name, doc):
        stream = "live" if "live4d_live_fraction" in doc["data"] else "primary"
        titles.append((stream, plt.figure("live4d images").get_suptitle()))

    RE.subscribe(look, "event")
    RE(bp.count([live4d], num=2))
    assert titles[0] == ("live", "scan 1, count, event 1")
    assert titles[-1] == ("primary", "scan 1, count, event 2")
    assert titles[-2] == ("live", "scan 1, count, event 2")


def test_a_title_says_where_the_plan_has_moved(RE, bec, live4d):
    RE(bp.scan([live4d], motor1, -1, 1, 2))
    assert plt.figure("live4d images").get_suptitle() == "scan 1, scan, event 2, motor1 1"


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"live4d_frames_saturated": 3}, ", 3 frames saturated"),
        ({"live4d_live_saturated": 2}, ", 2 frames saturated"),
        ({"live4d_frames_lost": 12, "live4d_frames_bad": 1}, ", 12 frames lost, 1 frames bad"),
        ({"live4d_frames_lost": 0, "live4d_frames_bad": 0, "live4d_frames_saturated": 0}, ""),
    ],
)
def test_what_is_lost_or_saturated_is_in_the_title_in_red(RE, live4d, counts, words):
    callback = Live4DBestEffortCallback(max_rate=1000)

    def counted(name, doc):
        callback(name, {**doc, "data": {**doc["data"], **counts}} if name == "event" else doc)

    RE(bp.count([live4d]), counted)
    figure = plt.figure("live4d images")
    assert figure.get_suptitle() == f"scan 1, count, event 1{words}"
    assert figure._suptitle.get_color() == (ALARM if words else "black")


def test_detectors_of_a_device_stand_side_by_side(RE, bec):
    device = FakeLive4D(name="live4d", detectors=("vbf", "adf"))
    device.rows_per_s = 1000
    RE(bp.count([device]))
    titles = [axes.get_title() for axes in plt.figure("live4d images").axes]
    assert titles == ["live4d_vbf, 100 % seen", "live4d_adf, 100 % seen"]
    np.testing.assert_array_equal(shown_image("live4d images", panel=1)[0], device.adf.get())


def test_two_devices_have_a_figure_each(RE, bec):
    devices = [FakeLive4D(name=name, rows_per_s=1000) for name in ("first", "second")]
    RE(bp.count(devices))
    assert plt.get_figlabels() == ["first images", "second images"]


def test_a_closed_window_is_opened_again(RE, bec, live4d):
    RE(bp.count([live4d]))
    plt.close("live4d images")
    RE(bp.count([live4d]))
    assert np.isfinite(shown_image("live4d images")[0]).all()


def test_another_set_of_detectors_gets_other_panels(RE, bec):
    RE(bp.count([FakeLive4D(name="live4d", rows_per_s=1000, detectors=("vbf", "adf"))]))
    RE(bp.count([FakeLive4D(name="live4d", rows_per_s=1000)]))
    assert len(plt.figure("live4d images").axes) == 1


def test_table_and_plots_have_the_hinted_numbers_only(RE, bec, live4d, capsys):
    RE(bp.scan([live4d, det], motor, -1, 1, 3))
    printed = capsys.readouterr().out
    assert "live4d_vbf_contrast" in printed
    assert printed.count("New stream: 'primary'") == 1
    assert "live4d_live" not in printed
    rows = [line for line in printed.splitlines() if line.startswith("|") and "seq_num" not in line]
    assert len(rows) == 3
    assert set(plt.get_figlabels()) == {"live4d images", "det live4d_vbf_contrast live4d_vbf_mean vs motor"}


def test_what_was_lost_is_a_column_of_the_table_and_no_curve(RE, bec, live4d, capsys):
    class Counting(FakeLive4D):
        frames_lost = Cpt(Signal, value=7, kind="normal")
        frames_saturated = Cpt(Signal, value=0, kind="normal")

    RE(bp.scan([Counting(name="live4d", rows_per_s=1000)], motor, -1, 1, 2))
    header, *rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert "live4d_frames_lost" in header
    assert "live4d_frames_saturated" in header
    assert [row.split("|")[-3].strip() for row in rows] == ["7", "7"]
    assert set(plt.get_figlabels()) == {"live4d images", "live4d_vbf_contrast live4d_vbf_mean vs motor"}


def test_what_a_calibration_found_is_no_curve_of_one_point(RE, bec, live4d):
    plans = bright_field, flat_field, lattice, rotation
    assert {plan.STREAM for plan in plans} == set(SINGLE_EVENT_STREAMS)

    def plan():
        yield from bps.open_run()
        for stream in (*SINGLE_EVENT_STREAMS, "what the user monitors"):
            yield from bps.create(stream)
            yield from bps.read(det)
            yield from bps.save()
        yield from bps.close_run()

    RE(plan())
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize("detectors", [2, 12])
def test_windows_fit_on_a_screen(RE, bec, detectors, monkeypatch):
    # Each of 24 curves has their figure drawn at each Event, which takes seconds and changes no size.
    monkeypatch.setattr(FigureCanvasBase, "draw_idle", lambda self: None)
    many = [FakeLive4D(name=f"live4d{n}", rows_per_s=1000) for n in range(detectors)]
    RE(bp.scan(many, motor, -1, 1, 2))
    ImageFigure("many", [f"d{n}" for n in range(12)], window=True, percentiles=(0, 100))
    for label in plt.get_figlabels():
        width, height = plt.figure(label).get_size_inches()
        assert (width * 100 <= 1800, height * 100 <= 900) == (True, True)


def test_a_hinted_image_does_not_break_a_grid_scan(RE, bec, live4d, capsys):
    live4d.vbf.kind = "hinted"
    RE(bp.grid_scan([live4d], motor1, -1, 1, 2, motor2, -1, 1, 2))
    assert "live4d images" in plt.get_figlabels()
    assert "| live4d_vbf |" not in capsys.readouterr().out


def test_plots_disabled_means_no_images(RE, bec, live4d):
    bec.disable_plots()
    RE(bp.count([live4d]))
    assert plt.get_fignums() == []


def test_redraws_are_limited_but_the_last_image_is_always_drawn(RE, live4d, monkeypatch):
    titles = []
    redraw = ImageFigure.redraw
    monkeypatch.setattr(
        ImageFigure, "redraw", lambda self, title, *args: (titles.append(title), redraw(self, title, *args))
    )
    RE.subscribe(Live4DBestEffortCallback(max_rate=0.001))
    RE(bp.count([live4d], num=4))
    assert titles == ["scan 1, count, event 1", "scan 1, count, event 4"]


def test_without_a_display_a_run_leaves_a_picture(RE, live4d, tmp_path):
    bec = Live4DBestEffortCallback(image_directory=tmp_path / "pictures")
    RE.subscribe(bec)
    assert bec.picture_path is None
    (uid,) = RE(bp.count([live4d]))
    assert bec.picture_path == tmp_path / "pictures" / f"00001_{uid[:8]}_live4d.png"
    assert [path.name for path in bec.picture_path.parent.iterdir()] == [bec.picture_path.name]
    picture = imread(bec.picture_path)
    assert picture.shape[0] > 300
    assert plt.get_fignums() == []
    RE(bp.count([det]))
    assert uid[:8] in bec.picture_path.name  # the last run with images


def test_with_windows_a_run_leaves_a_picture_of_its_end(RE, live4d, tmp_path):
    bec = Live4DBestEffortCallback(image_directory=tmp_path, windows=True, max_rate=1000)
    RE.subscribe(bec)
    (uid,) = RE(bp.count([live4d]))
    assert bec.picture_path == tmp_path / f"00001_{uid[:8]}_live4d.png"
    assert bec.picture_path.exists()
    assert plt.get_figlabels() == ["live4d images"]


def test_pictures_are_drawn_beside_the_run_and_only_the_newest(RE, live4d, tmp_path, monkeypatch):
    """While one is being drawn, all that come are one."""
    drawing, go_on, drawn = threading.Event(), threading.Event(), []
    redraw = ImageFigure.redraw

    def slow(self, title, *args):
        drawn.append((threading.current_thread().name, title))
        drawing.set()
        assert go_on.wait(60)
        redraw(self, title, *args)

    monkeypatch.setattr(ImageFigure, "redraw", slow)
    monkeypatch.setattr("live4d_ophyd.live.pictures.drawer", service)  # here, where it can be watched
    monkeypatch.setattr("live4d_ophyd.live.best_effort.PICTURE_PERIOD", 0.0)
    bec = Live4DBestEffortCallback(image_directory=tmp_path)
    RE.subscribe(bec)
    RE(bp.count([live4d], num=5))  # returns although nothing is drawn
    assert drawing.wait(60)
    go_on.set()
    assert bec.picture_path.exists()
    assert [title for _, title in drawn][1:] == ["scan 1, count, event 5"]
    assert {thread for thread, _ in drawn} == {"live4d-pictures_0"}


def test_a_picture_that_cannot_be_written_is_said(RE, live4d, tmp_path, caplog):
    (tmp_path / "pictures").write_text("no directory")
    bec = Live4DBestEffortCallback(image_directory=tmp_path / "pictures")
    RE.subscribe(bec)
    RE(bp.count([live4d]))
    assert bec.picture_path is not None
    assert "could not be made" in caplog.text
    assert "File exists" in caplog.text


@pytest.mark.parametrize(("shape", "label"), [((1, 8), "scan_x [nm]"), ((8, 1), "scan_y [nm]")])
def test_a_scan_of_one_row_or_column_is_a_line(shape, label):
    figure = ImageFigure("line", ["live4d_vbf"], window=False, percentiles=(0.5, 99.5))
    values = np.arange(8.0)
    values[3] = np.nan
    figure.show({"live4d_vbf": Panel(values.reshape(shape), ScanAxes((0.5, 0.5), "nm"), "counts")})
    axes = figure.figure.axes[0]
    (line,) = axes.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), np.stack([0.5 * np.arange(8), values], axis=1))
    assert (axes.get_xlabel(), axes.get_ylabel()) == (label, "counts")
    assert not axes.get_images()[0].get_visible()
    figure.show({"live4d_vbf": Panel(np.ones((4, 4)), ScanAxes(), "counts")})
    assert axes.get_images()[0].get_visible()
    assert axes.get_ylim() == (3.5, -0.5)


def test_positions_not_seen_have_a_colour_of_their_own(tmp_path):
    figure = ImageFigure("half", ["live4d_vbf"], window=False, percentiles=(0.5, 99.5))
    image = np.full((8, 8), np.nan)
    image[:4] = np.arange(32).reshape(4, 8)
    figure.show({"live4d_vbf": Panel(image, ScanAxes(), "counts")})
    figure.redraw("scan 1, event 1")
    figure.save(tmp_path / "half.png")
    pixels = imread(tmp_path / "half.png")[..., :3]
    red, green, blue = (int(NOT_SEEN[i : i + 2], 16) / 255 for i in (1, 3, 5))
    assert np.isclose(pixels, (red, green, blue), atol=0.01).all(axis=-1).mean() > 0.1


@pytest.mark.parametrize(
    "image", [np.full((4, 4), np.nan), np.full((4, 4), 7.0), np.ones((1, 3)), np.full((1, 1), 0.0)]
)
def test_images_without_contrast_are_drawn(image):
    figure = ImageFigure("flat", ["live4d_vbf"], window=False, percentiles=(0.5, 99.5))
    figure.show({"live4d_vbf": Panel(image, ScanAxes((0.1, 0.2), "um"), "counts")})
    figure.redraw("scan 1, event 1")
    figure.figure.canvas.draw()


def test_outliers_do_not_set_the_grey_scale():
    figure = ImageFigure("hot", ["live4d_vbf"], window=False, percentiles=(0.5, 99.5))
    image = np.linspace(0, 1, 10000).reshape(100, 100)
    image[0, 0] = 1e9
    figure.show({"live4d_vbf": Panel(image, ScanAxes(), "counts")})
    (shown,) = figure.figure.axes[0].get_images()
    assert 0.9 < shown.get_clim()[1] < 1.1


def test_axes_fall_back_to_pixels():
    assert scan_axes({"configuration": {"live4d": {"data": {"live4d_dwell_time": 1e-5}}}}, "live4d") is None
    assert ScanAxes().extent((2, 3)) == (-0.5, 2.5, 1.5, -0.5)


def test_values_of_either_sign_have_two_colours_as_far_as_each_other():
    figure = ImageFigure("signs", ["live4d_e"], window=False, percentiles=(0, 100))
    values = np.array([[-0.01, 0.02], [0.0, np.nan]])
    figure.show({"live4d_e": Panel(values, ScanAxes(), "", symmetric=True)})
    (image,) = figure.figure.axes[0].get_images()
    assert image.get_clim() == (-0.02, 0.02)
    left, right, zero, missing = image.to_rgba(np.ma.masked_invalid(values))[[0, 0, 1, 1], [0, 1, 0, 1], :3]
    assert left[2] > left[0]  # blue is below 0
    assert right[0] > 0.3 > right[2]  # red above
    assert zero.min() > 0.95
    assert missing.max() < 0.7
    # As an image that is not, it is grey again.
    figure.show({"live4d_e": Panel(values, ScanAxes(), "")})
    assert image.get_clim() == (-0.01, 0.02)
    assert np.ptp(image.to_rgba(np.array(0.02))[:3]) == 0

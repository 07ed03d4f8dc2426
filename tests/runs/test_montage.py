"""Several images of a run as one: tiles where the stage had them, and series with what was moved."""

import matplotlib.image
import numpy as np
import pytest
from canned import COLS, ROWS, Canned
from click.testing import CliRunner
from ophyd import Component as Cpt
from ophyd import Device

from live4d_ophyd import Disk, ScanGrid, images, montage, stitch
from live4d_ophyd.commands.main import live4d
from live4d_ophyd.device.signals import Number
from live4d_ophyd.plans import tile_scan
from live4d_ophyd.runs.montage import draw_montage, label, place_tiles

STEP = (0.5, 0.25)
TRUTH = np.random.default_rng(3).uniform(10, 99, (30, 40))


class Stage(Device):
    y = Cpt(Number, value=7.0, units="nm", kind="normal")
    x = Cpt(Number, value=5.0, units="nm", kind="normal")


class OverTruth(Canned):
    """Sees the part of `TRUTH` that is around the stage's position; its second position is always lost."""

    stage_device = None

    def image(self, detector):
        row, col = (
            round(axis.get() / step - (size - 1) / 2)
            for axis, step, size in zip((self.stage_device.y, self.stage_device.x), STEP, (ROWS, COLS))
        )
        seen = TRUTH[row : row + ROWS, col : col + COLS].copy()
        seen[0, 1] = np.nan
        return seen


@pytest.fixture(scope="module")
def tiled(catalog):
    """A run of 2 x 3 tiles that overlap by a third, around (7.25, 5.0) nm: between two positions."""
    stage = Stage(name="stage")
    stage.y.put(7.25)
    scan = ScanGrid(ROWS, COLS, step=STEP, unit="nm")
    device = OverTruth(
        "tcp://127.0.0.1:9", name="stem", scan=scan, methods=[Disk("vbf", center=(46.5, 48.25), radius=15)],
        control=catalog.live4d.control,
    )  # fmt: skip
    device.stage_device = stage
    return catalog.db[catalog.take(tile_scan([device], stage.y, stage.x, 2, 3, overlap=1 / 3))]


def test_tiles_are_where_the_stage_had_them_and_what_is_not_seen_is_nan(tiled):
    found = stitch(tiled, "vbf")
    shape = (ROWS + 4, COLS + 2 * 6)
    assert found.shape == shape
    first_y, first_x = 7.25 - 1.0 - 2.5 * 0.5, 5.0 - 1.5 - 4 * 0.25
    np.testing.assert_allclose(found.scan_y, first_y + 0.5 * np.arange(shape[0]))
    np.testing.assert_allclose(found.scan_x, first_x + 0.25 * np.arange(shape[1]))
    assert found.scan_y.attrs["units"] == "nm"
    row, col = round(first_y / 0.5), round(first_x / 0.25)
    wanted = TRUTH[row : row + shape[0], col : col + shape[1]].copy()
    wanted[0, 1] = np.nan  # what other tiles have lost, their neighbours saw
    np.testing.assert_allclose(found.values, wanted)
    assert found.attrs["tiles"] == 6


def test_overlaps_are_averaged():
    tiles = np.stack([np.full((2, 3), 10.0), np.full((2, 3), 30.0)])
    tiles[1, 0, 0] = np.nan
    found, corner = place_tiles(tiles, [[0.0, 0.0], [0.0, 4.0]], (1.0, 2.0))
    np.testing.assert_array_equal(found, [[10, 10, 10, 30, 30], [10, 10, 20, 30, 30]])
    assert corner == (-0.5, -2.0)
    apart, _ = place_tiles(tiles[:, :1, :1], [[0.0, 0.0], [2.0, 2.0]], (1.0, 1.0))
    np.testing.assert_array_equal(apart, [[10, np.nan, np.nan], [np.nan] * 3, [np.nan] * 3])


def test_a_stage_that_moves_the_specimen_is_turned_round(tiled):
    plain, turned = stitch(tiled, "vbf"), stitch(tiled, "vbf", sign=(1, -1))
    np.testing.assert_array_equal(turned.values[1:4, :6], plain.values[1:4, 12:18])
    assert turned.scan_x.values[0] > turned.scan_x.values[-1]


@pytest.mark.parametrize(
    ("tiles", "positions", "step", "words"),
    [
        (np.ones((2, 2)), [[0, 0]], (1, 1), "expected \\(n, scan_y, scan_x\\)"),
        (np.ones((2, 2, 2)), [[0, 0]], (1, 1), "expected \\(n, scan_y, scan_x\\)"),
        (np.ones((1, 2, 2)), [[0, np.nan]], (1, 1), "expected finite numbers"),
        (np.ones((1, 2, 2)), [[0, 0]], (1, 0), "expected finite numbers"),
        (np.ones((2, 2, 2)), [[0, 0], [1e6, 1e6]], (1, 1), "in the same unit"),
    ],
)
def test_tiles_that_cannot_be_placed_are_refused(tiles, positions, step, words):
    with pytest.raises(ValueError, match=words):
        place_tiles(tiles, positions, step)


def test_a_run_that_moved_no_stage_is_not_stitched(catalog):
    with pytest.raises(
        ValueError, match=r"\(scan\) moved column_defocus; to stitch, a run must move a stage"
    ):
        stitch(catalog.db[catalog.scan], "vbf")


def test_a_series_has_what_was_moved_above_each_image(catalog):
    run = catalog.db[catalog.scan]
    figure = montage(run, "vbf", columns=2)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["column_defocus -50 nm", "column_defocus 0 nm", "column_defocus 50 nm"]
    drawn = [ax.images[0].get_array().filled(np.nan) for ax in figure.axes if ax.get_title()]
    np.testing.assert_array_equal(drawn, images(run, "vbf").values)
    assert len({ax.images[0].get_clim() for ax in figure.axes if ax.get_title()}) == 1


def test_of_very_many_images_some_are_shown_and_the_title_says_so(catalog):
    stack = images(catalog.db[catalog.scan], "vbf").isel(event=[0] * 130).drop_vars("column_defocus")
    figure = draw_montage(stack)
    assert len([ax for ax in figure.axes if ax.get_title()]) == 44
    assert "every 3 of 130 images" in figure.get_suptitle()
    assert label(stack, 0) == "event 1, 0 s"


def test_the_command_saves_both(catalog, tiled, tmp_path):
    uid = tiled.metadata["start"]["uid"]
    arguments = ["--catalog", str(catalog.directory)]
    paths = [tmp_path / "m.png", tmp_path / "s.png"]
    options = ["--montage", str(paths[0]), "--stitched", str(paths[1])]
    done = CliRunner().invoke(live4d, ["show", uid, *options, *arguments])
    assert done.exit_code == 0, done.output
    assert done.output.split() == [str(path) for path in paths]
    assert all(matplotlib.image.imread(path).std() > 0.05 for path in paths)
    bad = CliRunner().invoke(live4d, ["show", uid, "--stitched", str(tmp_path / "s.jpg"), *arguments])
    assert "expected a name that ends with .png" in bad.output
    none = CliRunner().invoke(live4d, ["show", catalog.scan, "--stitched", str(paths[1]), *arguments])
    assert none.exit_code == 1
    assert "to stitch, a run must move a stage" in none.output

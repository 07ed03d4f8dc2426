"""A region is kept in view by a stage that follows it; what cannot be followed ends the plan, with what to do."""

import re

import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted
from ophyd.utils import LimitError
from scanned_field import Axis
from scipy import ndimage

from live4d_ophyd.imaging.registration import Reason
from live4d_ophyd.plans import FeatureLost, track_region

SHAPE, STEP = (24, 32), 0.5


class Stage(Axis):
    """An axis with limits, in nm."""

    def check_value(self, value):
        if abs(value) > 20:
            raise LimitError(f"{value} is outside of -20 to 20")


class Specimen:
    """What the formula engine shows: blobs that drift by ``speed`` nm a raster, seen where the stage is."""

    def __init__(self, stage, speed, response=((1, 0), (0, 1))):
        self.stage, self.speed = stage, np.array(speed, float)
        self.response = np.array(response, float)  #: how the field of view moves with the stage
        self.blank = set()  #: rasters without beam
        self.count = 0
        rng = np.random.default_rng(3)
        self.field = np.zeros((160, 160))
        self.field[tuple(rng.integers(0, 160, (2, 700)))] = 1.0
        self.field = ndimage.gaussian_filter(self.field, 1.2, mode="wrap")

    def view(self):
        """(row, col) nm of the field of view on the specimen."""
        return self.response @ [axis.position for axis in self.stage] - self.count * self.speed

    def image(self):
        y, x = np.indices(SHAPE)
        row, col = self.view() / STEP
        image = ndimage.map_coordinates(self.field, [y + row + 60, x + col + 60], order=3, mode="grid-wrap")
        counts = np.clip(image * 100 / self.field.mean(), 0, None) * (self.count not in self.blank)
        image = np.random.default_rng(self.count).poisson(counts).astype(float)
        self.count += 1
        return image


@pytest.fixture
def stage():
    return Stage(name="stage_y", value=0.0), Stage(name="stage_x", value=0.0)


@pytest.fixture
def specimen(engine, stage, monkeypatch):
    made = Specimen(stage, (0.4, -0.7))
    raster = type(engine)._raster

    def seen(self, request, index):
        taken = raster(self, request, index)
        taken.outputs["vbf"] = made.image()
        return taken

    monkeypatch.setattr(type(engine), "_raster", seen)
    return made


def column(run, name, stream="primary"):
    return [event["data"][name] for event in run.events[stream]]


def test_the_stage_follows_and_the_region_stays_within_the_limit(RE, run, live4d, stage, specimen, capsys):
    at = RE(track_region(live4d, *stage, 20, 1.5)).plan_result
    away = np.hypot(*np.transpose(at))
    assert away.max() < 1.5 + np.hypot(0.4, 0.7) + 0.1
    # It has drifted by 15 nm, and the stage went with it.
    np.testing.assert_allclose([axis.position for axis in stage], 19 * specimen.speed, atol=2.5)
    np.testing.assert_allclose(column(run, "track_row"), np.transpose(at)[0])
    assert column(run, "track_reason") == [Reason.REFERENCE] + 19 * [Reason.FOUND]
    moves = np.array([column(run, "track_move_y"), column(run, "track_move_x")]).T
    moved = np.abs(moves).sum(axis=1) > 0
    assert 3 <= moved.sum() <= 10
    np.testing.assert_array_equal(moved, away > 1.5)
    said = capsys.readouterr().out
    assert len(re.findall("recentred", said)) == moved[:-1].sum()
    assert "raster  row [nm]  col [nm]  confidence  stage_y [nm]  stage_x [nm]" in said


def test_the_run_says_what_was_done(RE, run, live4d, stage, specimen):
    RE(track_region(live4d, *stage, 3, 1.5, region=(4, 6, 12, 16), md={"sample": "gold"}))
    assert [run.start["plan_name"], run.start["sample"]] == ["track_region", "gold"]
    assert run.start["plan_args"]["region"] == [4, 6, 12, 16]
    assert run.start["plan_args"]["limit"] == 1.5
    keys = run.descriptors["primary"]["data_keys"]
    assert keys["track_row"]["units"] == "nm"
    assert {"live4d_vbf", "stage_y", "stage_x", "track_confidence"} <= keys.keys()
    assert run.descriptors["primary"]["hints"]["track"]["fields"] == ["track_row", "track_col"]
    assert run.start["hints"]["dimensions"] == [(["time"], "primary")]


def test_a_region_is_followed_by_itself(RE, live4d, stage, specimen):
    at = RE(track_region(live4d, *stage, 10, 1.5, region=(3, 4, 18, 24), search=5)).plan_result
    assert np.hypot(*np.transpose(at)).max() < 2.5
    np.testing.assert_allclose([axis.position for axis in stage], 9 * specimen.speed, atol=2.5)


@pytest.mark.parametrize("response", [((-1, 0), (0, 1)), ((0, 1.5), (-0.8, 0)), ((0.6, -0.8), (0.8, 0.6))])
def test_a_probe_measures_how_the_stage_moves_the_image(RE, run, live4d, stage, specimen, response):
    specimen.response = np.array(response)
    at = RE(track_region(live4d, *stage, 12, 1.5, probe=1.5)).plan_result
    assert np.hypot(*np.transpose(at)).max() < 2.5
    assert len(run.events["response"]) == 5
    assert len(run.events["primary"]) == 12
    went = specimen.response @ [axis.position for axis in stage]
    np.testing.assert_allclose(went, 11 * specimen.speed, atol=2.5)


@pytest.mark.parametrize(
    ("search", "words"),
    [(6, "not found in 3 rasters in a row"), (12, r"is 4.\d+ nm away since the stage was moved, and was")],
)
def test_a_stage_that_moves_the_other_way_is_stopped(RE, run, live4d, stage, specimen, search, words):
    specimen.response = -np.eye(2)
    with pytest.raises(
        FeatureLost, match=words + r".*its axes are others than was thought \(try probe=STEP\)"
    ):
        RE(track_region(live4d, *stage, 20, 1.5, search=search))
    assert max(abs(axis.position) for axis in stage) < 3
    assert run.stop["exit_status"] == "fail"


def test_axes_that_move_the_image_the_same_way_are_refused(RE, live4d, stage, specimen):
    specimen.response = np.array(((1, 1), (0.05, 0)))
    with pytest.raises(FeatureLost, match="move the image the same way, or hardly"):
        RE(track_region(live4d, *stage, 5, 1.5, probe=1.5))
    assert [axis.position for axis in stage] == [0, 0]


def test_it_stops_before_the_stage_leaves_its_limits(RE, run, live4d, stage, specimen, capsys):
    for axis in stage:
        axis.set(-18.0).wait()
    with pytest.raises(
        FeatureLost, match=r"stage_x cannot go to -20\.\d+: .* outside of -20 to 20. Nothing was moved"
    ):
        RE(track_region(live4d, *stage, 40, 1.5))
    assert all(-20 <= axis.position <= 20 for axis in stage)
    assert len(run.events["primary"]) < 8
    assert "recentred" in capsys.readouterr().out  # the table is there all the same


def test_it_stops_before_the_stage_leaves_its_reach(RE, live4d, stage, specimen):
    with pytest.raises(FeatureLost, match=r"from where it began: the reach is 4. Nothing was moved"):
        RE(track_region(live4d, *stage, 40, 1.5, reach=4.0))
    assert max(abs(axis.position) for axis in stage) <= 4


def test_a_raster_without_the_region_moves_nothing_and_three_end_it(RE, run, live4d, stage, specimen):
    specimen.blank = {4, 5}
    at = RE(track_region(live4d, *stage, 12, 1.5)).plan_result
    assert np.isnan(at[4:6]).all()
    assert np.isfinite(at[6:]).all()
    assert column(run, "track_move_y")[4:6] == [0, 0]
    assert column(run, "track_reason")[4:6] == [Reason.EMPTY, Reason.EMPTY]
    before = len(run.events["primary"])
    specimen.blank = set(range(specimen.count + 3, 1000))
    with pytest.raises(FeatureLost, match=r"not found in 3 rasters in a row \(the image is empty\)"):
        RE(track_region(live4d, *stage, 12, 1.5))
    assert before == 12
    assert len(run.events["primary"]) == 6


def test_without_beam_there_is_nothing_to_follow(RE, live4d, stage, specimen):
    specimen.blank = {0}
    with pytest.raises(FeatureLost, match="the first vbf image shows nothing"):
        RE(track_region(live4d, *stage, 12, 1.5))


def test_a_pause_leaves_the_stage_to_whoever_recentres(RE, run, live4d, stage, specimen):
    with pytest.raises(RunEngineInterrupted):
        RE(track_region(live4d, *stage, 6, 1.5, beyond="pause"))
    assert [axis.position for axis in stage] == [0, 0]
    paused_after = len(run.events["primary"])
    assert np.hypot(column(run, "track_row")[-1], column(run, "track_col")[-1]) > 1.5
    for axis, position in zip(stage, paused_after * specimen.speed):
        axis.set(position).wait()
    at = RE.resume().plan_result
    assert len(at) == 6
    assert np.hypot(*at[paused_after]) < 1
    assert column(run, "track_move_y") == 6 * [0]


def test_a_scan_in_other_units_than_the_stage_wants_a_probe(RE, live4d, engine):
    stage = Stage(name="stage_y", value=0.0, unit="um"), Stage(name="stage_x", value=0.0, unit="um")
    with pytest.raises(ValueError, match=r"step is in 'nm', stage_y in 'um'.*probe=STEP"):
        RE(track_region(live4d, *stage, 4, 1.0))
    assert engine.asked == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num": 0}, "track_region of 0 rasters"),
        ({"limit": 0.0}, "a limit above 0 nm"),
        ({"beyond": "jump"}, "one of recentre, pause"),
        ({"region": (0, 0, 4, 20)}, "rows and columns"),
        ({"region": (20, 0, 10, 20)}, "on a raster of 24 x 32"),
        ({"region": (0, 0, 10)}, "region is"),
        ({"search": -1}, "search is -1"),
        ({"probe": 0}, "probe is 0"),
        ({"reach": -2.0}, "reach is -2.0"),
        ({"stage_x": "stage_y"}, "stage_y is both axes"),
        ({"name": "haadf"}, "live4d has no 'haadf'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_raster(RE, live4d, engine, stage, options, words):
    axes = stage if "stage_x" not in options else (stage[0], stage[0])
    given = {"num": 3, "limit": 1.0, **options, "stage_y": axes[0], "stage_x": axes[1]}
    with pytest.raises(ValueError, match=words):
        RE(track_region(live4d, **given))
    assert engine.asked == []

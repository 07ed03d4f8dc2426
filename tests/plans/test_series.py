"""Series move what they say, as far as they say, and put it back."""

import numpy as np
import pytest
from scanned_field import Axis

from live4d_ophyd.plans import focal_series, tile_scan


@pytest.fixture
def stage():
    return Axis(name="stage_y", value=100.0), Axis(name="stage_x", value=-50.0)


def positions(run, key):
    return np.unique([event["data"][key] for event in run.events["primary"]])


def test_a_focal_series_visits_its_values_and_returns(RE, run, live4d, defocus):
    RE(focal_series([live4d], defocus, -20, 20, 5))
    assert positions(run, "defocus") == pytest.approx([-20, -10, 0, 10, 20])
    assert defocus.position == -3
    assert run.start["plan_name"] == "focal_series"


def test_a_focal_series_returns_after_a_failure_too(RE, live4d, engine, defocus):
    engine.fails_at = 2
    with pytest.raises(Exception, match="live4d failed"):
        RE(focal_series([live4d], defocus, -20, 20, 5))
    assert defocus.position == -3


def test_tiles_overlap_by_the_part_asked_for(RE, run, live4d, stage):
    stage_y, stage_x = stage
    RE(tile_scan([live4d], stage_y, stage_x, 2, 3, overlap=0.25))
    # 24 x 32 positions of 0.5 nm: tiles of 12 x 16 nm, 9 and 12 nm apart, about where the stage was
    assert positions(run, "stage_y") == pytest.approx([95.5, 104.5])
    assert positions(run, "stage_x") == pytest.approx([-62, -50, -38])
    # row by row, each from its left end
    places = [(event["data"]["stage_y"], event["data"]["stage_x"]) for event in run.events["primary"]]
    np.testing.assert_allclose(places, [(y, x) for y in (95.5, 104.5) for x in (-62, -50, -38)])
    assert (stage_y.position, stage_x.position) == (100, -50)
    assert run.start["tiles"] == {"shape": [2, 3], "field": [12.0, 16.0], "overlap": 0.25}


def test_a_single_tile_is_taken_where_the_stage_is(RE, run, live4d, stage):
    RE(tile_scan([live4d], *stage, 1, 1))
    assert positions(run, "stage_y") == pytest.approx([100])
    assert positions(run, "stage_x") == pytest.approx([-50])


def test_the_field_can_be_given(RE, run, live4d, stage):
    RE(tile_scan([live4d], *stage, 1, 2, overlap=0, field=(5, 7)))
    assert positions(run, "stage_x") == pytest.approx([-53.5, -46.5])


def test_a_scan_step_in_other_units_than_the_stage_is_refused(RE, live4d, stage):
    live4d.scan_unit.put("px")
    with pytest.raises(ValueError, match=r"scan step is in 'px' and stage_y in 'nm'.*field="):
        RE(tile_scan([live4d], *stage, 2, 2))


def test_detectors_without_a_grid_need_a_field(RE, stage):
    with pytest.raises(ValueError, match=r"none of the detectors \(other\) knows"):
        RE(tile_scan([Axis(name="other")], *stage, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"rows": 0}, "0 x 2 tiles"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"overlap": -0.1}, "overlap is -0.1"),
        ({"field": (0, 1)}, r"field is \(0, 1\)"),
    ],
)
def test_tiles_that_cannot_be_are_refused(RE, live4d, stage, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        RE(tile_scan([live4d], *stage, **{"rows": 2, "cols": 2, **arguments}))

"""Focus and astigmatism by parallax: corrected and proved within limits, or the lenses back with the reason.

What parallax finds is a formula of where the lenses are; the plans on patterns are in tests/system.
"""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from bluesky.utils import FailedStatus
from scanned_field import SCAN, Axis, FormulaEngine

from live4d_ophyd import Disk, Live4D, Parallax, ScanGrid
from live4d_ophyd.imaging.parallax import Reason
from live4d_ophyd.plans import AstigmatismNotFound, FocusNotFound, correct_astigmatism, correct_defocus

FOCUS = 12.0  # nm, where the lens is in focus
NEAR = 30.0  # nm: parallax has no number below


class AberrationEngine(FormulaEngine):
    """Parallax as a formula of lens and stigmators."""

    def __init__(self, defocus, stigmators):
        super().__init__(defocus)
        self.stigmators = stigmators
        self.gain = 1.0
        self.response = np.array([[9.0, -4.0], [3.0, 11.0]])  # A a unit
        self.astigmatism = np.array([150.0, -60.0])  # A, without stigmators
        self.wanders = np.zeros(2)  # A a raster
        self.reason = Reason.FITTED
        self.sees_to = 1000.0  # nm

    def _raster(self, request, index):
        raster = super()._raster(request, index)
        defocus = self.gain * (self.defocus.position - FOCUS)
        positions = np.array([stigmator.position for stigmator in self.stigmators])
        c12 = self.astigmatism + self.response @ positions + self.wanders * len(self.asked)
        reason = self.reason
        if abs(defocus) < NEAR:
            reason = Reason.NEAR_FOCUS
        elif abs(defocus) > self.sees_to:
            reason = Reason.NO_COMMON_IMAGE
        found = {
            "defocus": 10 * defocus, "C10": -10 * defocus, "C10_error": 20.0,
            "C12": np.hypot(*c12), "phi12": np.arctan2(c12[1], c12[0]) / 2, "C12_error": 6.0,
        }  # fmt: skip
        if reason:
            found = dict.fromkeys(found, np.nan)
        for key, value in (found | {"reason": float(reason)}).items():
            raster.outputs[f"parallax_{key}"] = np.array(value)
        return raster


@pytest.fixture
def column(RE):
    """live4d, its engine and the lenses of a column with 161 A of astigmatism, which is in focus at 12 nm."""
    defocus = Axis(name="defocus", value=-90.0)
    stigmators = [Axis(name=f"stigmator_{name}", value=0.0, unit="mA") for name in "ab"]
    live4d = Live4D(
        "tcp://nowhere:1",
        name="live4d",
        scan=ScanGrid(*SCAN, step=0.5, unit="nm"),
        methods=[Disk("vbf", radius=10), Parallax("parallax", upsampling=1, enabled=False)],
    )
    engine = AberrationEngine(defocus, stigmators)
    live4d._client = engine
    yield SimpleNamespace(live4d=live4d, engine=engine, defocus=defocus, a=stigmators[0], b=stigmators[1])
    live4d.close()


def limited(axis, low, high):
    axis.limits = (low, high)
    return axis


@pytest.mark.parametrize("start", np.linspace(-170, 190, 10))
def test_it_goes_to_focus_from_either_side_and_from_within(RE, column, start, capsys):
    column.defocus.set(start)
    found = RE(correct_defocus(column.live4d, column.defocus, 90)).plan_result
    assert found == pytest.approx(FOCUS)
    assert column.defocus.position == pytest.approx(FOCUS)
    said = capsys.readouterr().out
    assert re.search(r"defocus = 12 \+- 1\.[45] nm is in focus; it is at 12\n", said)
    assert ("no fit: too near to focus" in said) == (abs(start - FOCUS) < NEAR)


def test_it_ends_as_far_from_focus_as_was_asked(RE, column):
    assert RE(correct_defocus(column.live4d, column.defocus, 90, target=80)).plan_result == pytest.approx(
        FOCUS
    )
    assert column.defocus.position == pytest.approx(FOCUS + 80)


def test_a_lens_in_another_unit(RE, column):
    column.defocus.unit = "um"
    column.engine.gain = 1000.0
    column.engine.sees_to = np.inf
    found = RE(correct_defocus(column.live4d, column.defocus, 90)).plan_result
    assert found == pytest.approx(FOCUS)


def test_the_run_holds_both_measurements_and_an_image(RE, run, column):
    RE(correct_defocus(column.live4d, column.defocus, 90, md={"sample": "atoms"}))
    places = [event["data"]["defocus"] for event in run.events["primary"]]
    assert places == pytest.approx([-90, FOCUS + 90])
    assert [event["data"]["defocus"] for event in run.events["focused"]] == pytest.approx([FOCUS])
    assert [run.start["plan_name"], run.start["sample"]] == ["correct_defocus", "atoms"]
    assert run.start["plan_args"]["offset"] == 90
    assert run.start["hints"]["dimensions"] == [(["defocus"], "primary")]


def test_parallax_is_as_it_was_afterwards(RE, column):
    enabled = column.live4d.parallax_enabled
    RE(correct_defocus(column.live4d, column.defocus, 90))
    assert not enabled.get()
    column.engine.gain = 5.0
    with pytest.raises(FocusNotFound):
        RE(correct_defocus(column.live4d, column.defocus, 90))
    assert not enabled.get()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gain": -1.0}, r"by -1 times as much; expected about 1\. Is it in this unit, and positive"),
        ({"gain": 0.65}, "by 0.65 times as much"),
        ({"gain": 1.5}, "by 1.5 times as much"),
        (
            {"reason": Reason.PERIODIC},
            r"found no defocus at -90 \(a lattice\); 0 \(too near to focus.*\); -180 \(a lattice\)",
        ),
        ({"reason": Reason.UNKNOWN_SIGN}, "the sign is not known: set its rotation"),
        ({"sees_to": 20.0}, r"no defocus at -90 \(too few electrons, vacuum, or far from focus\)"),
    ],
)
def test_what_is_no_focus_is_an_error_and_the_lens_is_back(RE, run, column, change, said):
    for name, value in change.items():
        setattr(column.engine, name, value)
    with pytest.raises(FocusNotFound, match=said) as refused:
        RE(correct_defocus(column.live4d, column.defocus, 90))
    assert "The lens is back where it was" in str(refused.value)
    assert column.defocus.position == pytest.approx(-90)
    assert run.stop["exit_status"] == "fail"


def test_a_lens_that_moves_the_other_way_is_not_taken_beyond_where_it_should_be_in_focus(RE, run, column):
    column.engine.gain = -1.0
    with pytest.raises(FocusNotFound):
        RE(correct_defocus(column.live4d, column.defocus, 90))
    places = [event["data"]["defocus"] for event in run.events["primary"]]
    assert places == pytest.approx([-90, -90 - 102 - 90])


@pytest.mark.parametrize("limits", [(-100, 60), (-20, 300)])
def test_it_stays_within_limits(RE, run, column, limits):
    limited(column.defocus, *limits).set(limits[0] + 10)
    with pytest.raises(
        FocusNotFound, match=rf"beyond its limits {limits[0]} to {limits[1]}|found no defocus"
    ):
        RE(correct_defocus(column.live4d, column.defocus, 90, target=300))
    assert column.defocus.position == limits[0] + 10
    assert all(limits[0] <= event["data"]["defocus"] <= limits[1] for event in run.events["primary"])


@pytest.mark.parametrize("offset", [0, -5, float("nan")])
def test_an_offset_is_a_distance(column, offset):
    with pytest.raises(ValueError, match="expected a distance from focus above 0"):
        list(correct_defocus(column.live4d, column.defocus, offset))


def test_a_lens_without_a_length_is_named(column):
    column.defocus.unit = "mA"
    with pytest.raises(ValueError, match="defocus has the unit 'mA'; expected one of m, mm"):
        list(correct_defocus(column.live4d, column.defocus, 90))


def test_a_device_without_parallax_is_an_error(RE, live4d, defocus):
    with pytest.raises(ValueError, match=r"live4d has no 'parallax_enabled'.*vbf, adf, spot"):
        RE(correct_defocus(live4d, defocus, 90))


def test_a_raster_that_failed_puts_the_lens_back(RE, run, column):
    column.engine.fails_at = 2
    with pytest.raises(FailedStatus):
        RE(correct_defocus(column.live4d, column.defocus, 90))
    assert column.defocus.position == pytest.approx(-90)
    assert not column.live4d.parallax_enabled.get()
    assert run.stop["exit_status"] == "fail"


@pytest.mark.parametrize("seed", range(10))
def test_any_two_stigmators_take_the_astigmatism_away(RE, column, seed, capsys):
    rng = np.random.default_rng(seed)
    column.engine.response = rng.choice([-1, 1]) * (rng.uniform(-5, 5, (2, 2)) + 15 * np.eye(2))
    column.engine.astigmatism = rng.uniform(-200, 200, 2)
    left = RE(correct_astigmatism(column.live4d, column.a, column.b, 4)).plan_result
    assert left < 1e-6
    assert (
        np.hypot(
            *(column.engine.response @ [column.a.position, column.b.position] + column.engine.astigmatism)
        )
        < 1e-6
    )
    size = np.hypot(*column.engine.astigmatism)
    assert re.search(rf"C12 is \S+ \+- 6 A; it was {size:.3g} A", capsys.readouterr().out)


def test_what_a_correction_left_is_corrected_again(RE, run, column):
    """As where stigmators do not move C12 in proportion."""
    raster = type(column.engine)._raster

    def bent(engine, request, index):
        engine.response = np.diag([9.0, 11.0]) * (1 + 0.01 * column.a.position)
        return raster(engine, request, index)

    column.engine._raster = bent.__get__(column.engine)
    assert RE(correct_astigmatism(column.live4d, column.a, column.b, 2, num=6)).plan_result < 6
    assert len(run.events["primary"]) > 4


def test_stigmators_out_of_reach_are_named_and_back(RE, run, column):
    limited(column.a, -10, 10).set(2)
    with pytest.raises(
        AstigmatismNotFound, match=r"stigmator_a would have to be -\S+, beyond its limits -10 to 10"
    ):
        RE(correct_astigmatism(column.live4d, column.a, column.b, 4))
    assert [column.a.position, column.b.position] == [2, 0]
    assert all(-10 <= event["data"]["stigmator_a"] <= 10 for event in run.events["primary"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"response": np.array([[9.0, 9.0], [3.0, 3.0]])}, "or both the same way: take a larger step"),
        ({"response": 0.1 * np.eye(2)}, r"a step of 4 moved C12 by 0.4 and 0.4 A, which is known to 6 A"),
        ({"reason": Reason.NO_COMMON_IMAGE}, r"no astigmatism at 0, 0 \(too few electrons"),
        ({"wanders": np.array([90.0, 0.0])}, "does something else move"),
    ],
)
def test_what_is_not_corrected_is_an_error_and_the_stigmators_are_back(RE, column, change, said):
    for name, value in change.items():
        setattr(column.engine, name, value)
    with pytest.raises(AstigmatismNotFound, match=said) as refused:
        RE(correct_astigmatism(column.live4d, column.a, column.b, 4))
    assert "stigmators are back where they were" in str(refused.value)
    assert [column.a.position, column.b.position] == [0, 0]
    assert not column.live4d.parallax_enabled.get()


@pytest.mark.parametrize("arguments", [{"step": 0}, {"step": 4, "num": 0}])
def test_no_step_and_no_correction_are_refused(column, arguments):
    with pytest.raises(ValueError, match="expected a step that is not 0, and at least 1 correction"):
        list(correct_astigmatism(column.live4d, column.a, column.b, **arguments))

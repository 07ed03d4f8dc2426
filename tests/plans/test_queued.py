"""Plans as a client of bluesky-queueserver calls them, devices by their names: its validator lets them, and they run.

Without a manager: its functions are called here, on the plans that the profile offers.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from ophyd import Component as Cpt
from ophyd import Device, Signal
from scanned_field import Axis

profile_ops = pytest.importorskip(
    "bluesky_queueserver.manager.profile_ops", reason="bluesky-queueserver is not installed"
)

PROFILE = Path(__file__).parents[2] / "profile_collection"


class Settings(Device):
    frame_time = Cpt(Signal, value=0.0)


class Microscope(Device):
    detector = Cpt(Settings)


@pytest.fixture
def queue(live4d, defocus):
    """``validate(name, *args, **kwargs)`` is None or why not; ``plan(name, ...)`` is the plan of names resolved."""
    offered = runpy.run_path(str(PROFILE / "startup" / "20-plans.py"))
    axes = {name: Axis(name=name, value=0.0) for name in ("stage_x", "stage_y")}
    devices = {"live4d": live4d, "defocus": defocus, "microscope": Microscope(name="microscope"), **axes}
    names = {name: value for name, value in offered.items() if not name.startswith("_")} | devices
    plans, listed, plan_objects, device_objects = profile_ops.existing_plans_and_devices_from_nspace(
        nspace=names
    )
    allowed_plans, allowed_devices = profile_ops.load_allowed_plans_and_devices(
        path_user_group_permissions=str(PROFILE / "user_group_permissions.yaml"),
        existing_plans=plans,
        existing_devices=listed,
    )

    def item(name, args, kwargs):
        return {"item_type": "plan", "name": name, "args": args, "kwargs": kwargs, "user_group": "primary"}

    def validate(name, *args, **kwargs):
        allowed, reason = profile_ops.validate_plan(
            item(name, args, kwargs),
            allowed_plans=allowed_plans["primary"],
            allowed_devices=allowed_devices["primary"],
        )
        return None if allowed else reason

    def plan(name, *args, **kwargs):
        prepared = profile_ops.prepare_plan(
            item(name, args, kwargs),
            plans_in_nspace=plan_objects,
            devices_in_nspace=device_objects,
            allowed_plans=allowed_plans,
            allowed_devices=allowed_devices,
            nspace=names,
        )
        return prepared["callable"](*prepared["args"], **prepared["kwargs"])

    return SimpleNamespace(validate=validate, plan=plan, offered=set(plans), devices=devices)


LIVE4D = ["live4d"]
CALLS = [
    ("count", [LIVE4D], {"num": 2, "delay": 0.0, "md": {"sample": "stripes"}}, 2),
    ("scan", [LIVE4D, "defocus", 0, 20, 3], {}, 3),
    ("scan", [LIVE4D, "defocus", 0, 20.5, "stage_x", 0, 1], {"num": 3}, 3),
    ("rel_scan", [LIVE4D, "defocus", -1.5, 20, 3], {}, 3),
    ("list_scan", [LIVE4D, "defocus", [0, 10, 20]], {}, 3),
    ("list_scan", [LIVE4D, "defocus", [0, 10.5, 20], "stage_x", [0, 1, 2]], {"md": {"sample": "stripes"}}, 3),
    ("list_scan", [LIVE4D, "live4d.vbf_radius", [4, 8.5]], {}, 2),
    ("rel_list_scan", [LIVE4D, "defocus", [0, 10.5]], {}, 2),
    ("list_grid_scan", [LIVE4D, "stage_y", [0, 1], "stage_x", [0, 1.5]], {}, 4),
    ("list_grid_scan", [LIVE4D, "stage_y", [0, 1], "stage_x", [0, 1.5]], {"snake_axes": True}, 4),
    ("list_grid_scan", [LIVE4D, "stage_y", [0, 1], "stage_x", [0, 1.5]], {"snake_axes": ["stage_x"]}, 4),
    ("grid_scan", [LIVE4D, "stage_y", 0, 1, 2, "stage_x", 0, 1.5, 2], {}, 4),
    ("grid_scan", [LIVE4D, "stage_y", 0, 1, 2, "stage_x", 0, 1.5, 2], {"snake_axes": True}, 4),
    ("grid_scan", [LIVE4D, "stage_y", 0, 1, 2, "stage_x", 0, 1.5, 2], {"snake_axes": ["stage_x"]}, 4),
    (
        "track_region",
        ["live4d", "stage_y", "stage_x", 2, 1.5],
        {"region": [0, 0, 12, 16], "beyond": "pause"},
        2,
    ),
    ("rel_grid_scan", [LIVE4D, "stage_y", 0, 1, 2, "stage_x", 0, 1.5, 2], {"snake_axes": ["stage_x"]}, 4),
    ("adaptive_scan", [LIVE4D, "live4d_vbf_mean", "defocus", 0, 5, 1, 2, 0.5, False], {}, None),
    ("single_image", [LIVE4D], {}, 1),
    ("movie", ["live4d", 2], {}, 2),
    ("focal_series", [LIVE4D, "defocus", -20, 20, 3], {}, 3),
    ("tile_scan", [LIVE4D, "stage_y", "stage_x", 2, 1], {}, 2),
    ("calibrate_bright_field", ["live4d"], {}, 2),
    ("autofocus", ["live4d", "defocus", -100, 100], {"num": 5}, None),
]
#: what takes a device that this one is not, and is only asked for here: tests/plans/test_aberrations.py, and
#: test_calibrate_lattice.py; and what it has not
ASKED = [
    ("calibrate_lattice", ["live4d"], {}, "strain_center"),
    ("correct_defocus", ["live4d", "defocus", 90], {"target": 80}, "parallax_enabled"),
    ("correct_astigmatism", ["live4d", "stage_y", "stage_x", 4.5], {"num": 2}, "parallax_enabled"),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "events"), CALLS)
def test_a_call_of_names_is_accepted_and_runs(RE, run, queue, name, args, kwargs, events):
    assert queue.validate(name, *args, **kwargs) is None
    RE(queue.plan(name, *args, **kwargs))
    assert run.start["plan_name"] == name
    taken = sum(map(len, run.events.values()))
    assert taken == events or (events is None and taken > 1)


@pytest.mark.parametrize(("name", "args", "kwargs", "absent"), ASKED)
def test_a_call_of_names_is_accepted(RE, queue, name, args, kwargs, absent):
    assert queue.validate(name, *args, **kwargs) is None
    with pytest.raises(ValueError, match=f"live4d has no '{absent}'"):
        RE(queue.plan(name, *args, **kwargs))


@pytest.mark.parametrize(
    ("name", "args", "device", "value"),
    [
        ("mv", ["defocus", 5], "defocus", 5),
        ("mvr", ["defocus", -1.5], "defocus", -4.5),
        ("mv", ["live4d.vbf_radius", 8.5], "live4d.vbf_radius", 8.5),
        ("mv", ["microscope.detector.frame_time", 1e-4], "microscope.detector.frame_time", 1e-4),
    ],
)
def test_axes_and_settings_are_moved_by_name(RE, queue, name, args, device, value):
    assert queue.validate(name, *args) is None
    RE(queue.plan(name, *args))
    first, *rest = device.split(".")
    moved = queue.devices[first]
    for part in rest:
        moved = getattr(moved, part)
    assert (moved.get() if isinstance(moved, Signal) else moved.position) == value


def test_calibrations_by_name(RE, queue, live4d, tmp_path, monkeypatch):
    """Plans without a run of their own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    live4d.calibration_rotation.put(12.0)
    for name in ("save_calibration", "load_calibration"):
        assert queue.validate(name, "live4d", "20 mrad") is None
        RE(queue.plan(name, "live4d", "20 mrad"))
        assert (live4d.calibration_name.get(), live4d.calibration_rotation.get()) == ("20 mrad", 12.0)
        live4d.calibration_rotation.put(13.0)


@pytest.mark.parametrize("name", ["measure_flat_field", "calibrate_rotation"])
def test_calibrations_that_need_more_than_stripes_are_accepted(queue, name):
    assert queue.validate(name, "live4d") is None


def test_every_plan_of_the_profile_is_called_here(queue):
    here = {
        "mv",
        "mvr",
        "sleep",
        "save_calibration",
        "load_calibration",
        "measure_flat_field",
        "calibrate_rotation",
    }
    assert queue.offered == {name for name, *_ in CALLS + ASKED} | here

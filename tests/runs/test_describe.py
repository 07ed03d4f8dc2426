"""The table of a run: every fact that explains an image, with its unit, from where the run has it."""

import json
import math
from types import SimpleNamespace

import pytest
from canned import COLS, ROWS
from click.testing import CliRunner
from scipy import constants

from live4d_ophyd import describe
from live4d_ophyd.calibration import wavelength_m
from live4d_ophyd.commands.main import live4d
from live4d_ophyd.runs import sections
from live4d_ophyd.runs.calibration import Known, angular_scale, microscope
from live4d_ophyd.runs.readings import DeviceReadings, RunReadings
from live4d_ophyd.runs.sections import sections_of_devices


@pytest.fixture(scope="module")
def count(catalog):
    return describe(catalog.db[catalog.count])


@pytest.fixture(scope="module")
def scan(catalog):
    return describe(catalog.db[catalog.scan])


def value(description, section, name):
    fact = description[section][name]
    return fact.value, fact.unit


def test_plan_time_and_metadata(catalog, count, scan):
    start, stop = catalog.db[catalog.count].metadata["start"], catalog.db[catalog.count].metadata["stop"]
    assert value(count, "run", "uid") == (catalog.count, "")
    assert value(count, "run", "duration") == (stop["time"] - start["time"], "s")
    assert value(count, "run", "ended") == ("success", "")
    assert value(count, "plan", "name") == ("count", "")
    assert set(count["metadata"]) == {"sample", "operator"}
    assert str(scan["metadata"]["sample"]) == "name: MoS2, layers: 2"
    assert value(scan, "plan", "column_defocus") == ([-50.0, 0.0, 50.0], "nm")


class WithPreviews(dict):
    """A run whose previews were emitted, and not stored."""

    def __init__(self, run):
        super().__init__({name: run[name] for name in run})
        stop = run.metadata["stop"]
        self.metadata = {
            **run.metadata,
            "stop": {**stop, "num_events": {"live4d_live": 15, **stop["num_events"]}},
        }


def test_streams_that_are_not_in_the_catalog_are_named_as_such(catalog, count):
    events = describe(WithPreviews(catalog.db[catalog.count]))["run"]["events"]
    assert events.value == {"live4d_live": 15, **count["run"]["events"].value}
    assert str(events).startswith("live4d_live 15 (not stored), ")
    assert "not stored" not in str(count["run"]["events"])


def test_a_run_that_was_stored_when_the_backend_was_called_engine(catalog):
    readings = RunReadings(catalog.db[catalog.count])
    device = readings.devices["live4d"]
    for new, old in (("backend", "engine"), ("backend_detail", "engine_detail")):
        for values in (device.events, device.configuration):
            if new in values:
                values[old] = values.pop(new)
    found = sections_of_devices(readings)["live4d"]["decoded by"]
    assert [found[name].value for name in ("backend", "backend_detail")] == ["cpu", "made in a test"]


def test_scan_step_and_field_of_view(count):
    assert value(count, "scan", "positions") == ([ROWS, COLS], "")
    assert value(count, "scan", "step") == ([0.5, 0.25], "nm")
    assert value(count, "scan", "field_of_view") == ([ROWS * 0.5, COLS * 0.25], "nm")
    assert count["scan"]["flyback"].value == 2
    assert "serpentine" not in count["scan"]


def test_virtual_detectors_in_px_and_by_the_camera_length_in_mrad(count):
    # 100 µm pixels, 200 mm camera length
    vbf = count["virtual detectors"]["vbf"].value
    assert (vbf["kind"], vbf["radius"], vbf["center"]) == ("disk", 15.0, [46.5, 48.25])
    assert vbf["radius_mrad"] == pytest.approx(1e3 * math.atan(15 * 100e-6 / 0.2))
    adf = count["virtual detectors"]["adf"].value
    assert (adf["inner"], adf["outer"], adf["center"]) == (30.0, 80.0, None)
    assert adf["outer_mrad"] == pytest.approx(1e3 * math.atan(80 * 100e-6 / 0.2))
    assert count["virtual detectors"]["calibration"].value == pytest.approx(0.5)


def test_the_stored_calibration_that_a_run_was_taken_with(catalog, count):
    assert not {"calibration_name", "calibration_runs"} & set(count["virtual detectors"])
    readings = RunReadings(catalog.db[catalog.count])
    device = readings.devices["live4d"]
    said = {"calibration_name": "200 kV 20 mrad, changed", "calibration_runs": "bright_field=1a2b, changed"}
    for values in (device.events, device.configuration):
        values.update({key: text for key, text in said.items() if key in values})
    found = sections_of_devices(readings)["live4d"]["virtual detectors"]
    assert {key: found[key].value for key in said} == said


def test_pixels_exposure_detector_and_software(count):
    assert str(count["pixels"]["pixel_mask"]) == "none"
    assert value(count, "pixels", "saturation") == (4095.0, "counts")
    assert str(count["pixels"]["saturated_pixels"]) == "left out of the sums"
    assert str(count["pixels"]["nodata"]) == "pixels at the data type's maximum hold no count"
    assert value(count, "exposure", "frame_time") == (25e-6, "s")
    assert str(count["exposure"]["count_time"]) == "20 µs"
    assert value(count, "detector", "model") == ("live4d simulated detector", "")
    assert value(count, "detector", "serial_number") == ("S-00-0001", "")
    assert value(count, "detector", "pixel_size") == (100e-6, "m")
    assert value(count, "detector", "software") == ("1.8.0", "")
    assert value(count, "decoded by", "backend") == ("cpu", "")
    assert "numpy" in count["decoded by"]["versions"].value
    assert count["versions"]["bluesky"].value


def test_losses_are_summed_over_the_events(scan):
    frames = {name: fact.value for name, fact in scan["frames"].items()}
    assert (frames["lost"], frames["saturated"], frames["received"]) == (3, 6, 3 * (ROWS * COLS - 1))
    assert scan["frames"]["lost"].note == "in 3 of 3 Events"


def test_the_beam_is_the_microscope_s_not_what_the_detector_was_told(count):
    assert value(count, "beam", "energy") == (80e3, "eV")
    assert count["beam"]["energy"].note == "column_beam_energy"
    assert value(count, "beam", "camera_length") == (0.2, "m")
    assert value(count, "beam", "convergence_angle") == (21.5, "mrad")
    assert count["beam"]["wavelength"].value == pytest.approx(4.1757e-12, rel=1e-4)  # of 80 keV


def test_the_wavelength_is_that_of_the_textbook():
    momentum = math.sqrt(
        2
        * constants.m_e
        * 300e3
        * constants.e
        * (1 + 300e3 * constants.e / (2 * constants.m_e * constants.c**2))
    )
    assert wavelength_m(300e3) == pytest.approx(constants.h / momentum)


def test_what_differs_from_event_to_event_is_a_list(catalog):
    def widening():
        import bluesky.plans as bp

        yield from bp.list_scan([catalog.live4d], catalog.live4d.vbf_radius, [15, 20])

    uid = catalog.take(widening())
    catalog.live4d.vbf_radius.put(15)
    vbf = describe(catalog.db[uid])["virtual detectors"]["vbf"]
    assert vbf.value["radius"] == [15.0, 20.0]
    assert "radius_mrad" not in vbf.value
    assert "15 px, 20 px by Event" in str(vbf)


def test_the_table_in_text_and_html_has_every_fact(count):
    for section, facts in count.items():
        assert section in repr(count)
        for name, fact in facts.items():
            assert name.replace("_", " ") in repr(count)
            assert str(fact).splitlines()[0] in repr(count)
    assert count._repr_html_().count("<tr>") == len(count) + sum(len(facts) for facts in count.values())


def test_show_prints_the_table_and_json(catalog, count):
    shown = CliRunner().invoke(live4d, ["show", catalog.count[:8]])
    assert shown.exit_code == 0
    assert shown.output.rstrip() == repr(count)
    as_json = CliRunner().invoke(
        live4d, ["show", catalog.count, "--json", "--catalog", str(catalog.directory)]
    )
    said = json.loads(as_json.output)
    assert said == json.loads(json.dumps(count.to_dict()))
    assert said["beam"]["energy"] == {"value": 80e3, "unit": "eV", "note": "column_beam_energy"}


def test_show_takes_minus_one_and_refuses_unknown_options(catalog):
    newest = catalog.take()
    assert newest in CliRunner().invoke(live4d, ["show", "-1"]).output
    assert newest in CliRunner().invoke(live4d, ["show"]).output
    refused = CliRunner().invoke(live4d, ["show", "--jsn"])
    assert refused.exit_code == 2
    assert "No such option" in refused.output
    missing = CliRunner().invoke(live4d, ["show", "99999"])
    assert missing.exit_code == 1
    assert "no such uid or scan id" in missing.output


def test_a_use_of_version_2_leaves_the_description_and_the_images_as_they_are(catalog, count):
    old = catalog.db[catalog.count].v2
    try:
        # Whoever mends that in bluesky-tiled-plugins: docs/how-to/old-runs.md warns of it.
        assert type(catalog.db[catalog.count]) is type(old)
        assert describe(catalog.count).to_dict() == count.to_dict()
        old = catalog.db[catalog.count].v2
        assert describe(old).to_dict() == count.to_dict()
    finally:
        assert old.v3.primary["live4d_vbf"].shape[0] == 1
    assert type(catalog.db[catalog.count]) is not type(old)


def test_a_run_without_a_stop_document_is_not_finished(catalog):
    run = catalog.db[catalog.count]
    without = RunReadings(run)
    without.stop = {}
    from live4d_ophyd.runs.description import description_of

    assert "not finished" in str(description_of(without)["run"]["ended"])


# The names of a baseline ---------------------------------------------------------------------------


def readings(units, **baseline):
    """Of a run whose baseline is of one device, ``scope``."""
    found = RunReadings.__new__(RunReadings)
    found.moved = {}
    found.baseline = {f"scope_{key}": list(values) for key, values in baseline.items()}
    found.units = {f"scope_{key}": unit for key, unit in units.items()}
    found.owners = dict.fromkeys(found.baseline, "scope")
    return found


@pytest.mark.parametrize(
    ("name", "unit", "given", "expected"),
    [
        ("beam_energy", "kV", 200.0, 200e3),
        ("camera_length", "m", 0.3, 0.3),
        ("convergence_angle", "rad", 0.02, 20.0),
        ("magnification", "", 5000, 5000.0),
        ("detector_pixel_size", "um", 75.0, 75e-6),
    ],
)
def test_units_are_taken_from_the_data_keys(name, unit, given, expected):
    found = microscope(readings({name: unit}, **{name: [given, given]}))
    assert found[name].value == pytest.approx(expected)
    assert found[name].key == f"scope_{name}"


def test_names_that_only_end_alike_are_not_taken():
    assert microscope(readings({}, nominal_camera_length=[1.0], camera_length_setpoint=[1.0])) == {}


@pytest.mark.parametrize(
    ("unit", "values", "problem"),
    [
        ("inch", [8.0, 8.0], "has the unit 'inch'; expected one of m, cm, mm"),
        ("mm", [100.0, 200.0], "changed during the run"),
        ("mm", [math.nan, math.nan], "is not known"),
        ("mm", ["long", "long"], "is no number"),
    ],
)
def test_a_value_that_cannot_be_used_is_said(unit, values, problem):
    found = microscope(readings({"camera_length": unit}, camera_length=values))
    assert found["camera_length"].value is None
    assert problem in found["camera_length"].problem
    assert problem in angular_scale(DeviceReadings("live4d"), found).how


def test_the_convergence_angle_over_the_radius_of_the_disk():
    device = DeviceReadings(
        "live4d", images=["adf", "vbf"], configuration={"vbf_radius": 20.0, "adf_inner": 30.0}
    )
    known = {"convergence_angle": Known(30.0, "scope_convergence_angle")}
    scale = angular_scale(device, known)
    assert scale.angle(40.0) == pytest.approx(60.0)
    assert "radius of vbf 20 px" in scale.how
    measured = angular_scale(
        device, {**known, "bright_field_radius": Known(25.0, "scope_bright_field_radius")}
    )
    assert measured.mrad == pytest.approx(30 / 25)


def test_without_pixel_size_or_with_binning_a_camera_length_gives_no_angles():
    known = {"camera_length": Known(0.2, "scope_camera_length")}
    assert "detector_pixel_size" in angular_scale(DeviceReadings("live4d"), known).how
    binned = DeviceReadings(
        "live4d", configuration={"detector_x_pixel_size": 1e-4, "detector_binning_mode": "2x2"}
    )
    assert angular_scale(binned, known).mrad is None
    passive = {**known, "detector_pixel_size": Known(1e-4, "scope_detector_pixel_size")}
    assert angular_scale(DeviceReadings("live4d"), passive).mrad == pytest.approx(0.5)


def test_recorded_frames_are_said_with_their_files():
    counts = {f"frames_{name}": [12, 12] for name in ("expected", "received", "recorded")}
    files = ["/data/1_00001.h5", "/data/1_00002.h5"]
    device = SimpleNamespace(events=counts | {"frames_unrecorded": [0, 0], "recorded_file": files})
    said = {name: str(fact) for name, fact in sections._frames(device).items()}
    assert said["recorded"] == "24 frames"
    assert said["unrecorded"] == "0 frames"
    assert said["recorded in"] == "/data/1_00001.h5, /data/1_00002.h5 by Event"
    device.events["recorded_file"] = ["", ""]
    assert not [name for name in sections._frames(device) if "recorded" in name]

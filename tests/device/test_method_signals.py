"""Signals made from methods: which there are, what they take, and that the class of a device stays its class."""

import copy
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from ophyd import Kind

from live4d_ophyd import Annulus, CenterOfMass, Disk, Live4D, ScanGrid, Segments
from live4d_ophyd.device import method_signals as module
from live4d_ophyd.device.method_signals import MethodSignals, all_outputs, device_class
from live4d_ophyd.engine.series_record import digest
from live4d_ophyd.imaging.method import SCAN, Output

GRID = ScanGrid(3, 4, step=0.5, unit="nm")

#: what every Event has, whatever the methods are
OWN = {
    "frames_expected", "frames_received", "frames_lost", "frames_bad", "frames_dropped", "frames_saturated",
    "frames_recorded", "frames_unrecorded", "recorded_file",
    "series_id", "series_unique_id", "series_channel", "series_detector", "series_energy", "series_threshold",
    "series_count_time", "series_frame_time", "series_saturation", "series_pixels_masked", "series_pixel_mask",
    "series_pixels_spread", "bad_pixels", "calibration_ellipticity", "calibration_ellipse_angle",
    "calibration_rotation", "calibration_transpose", "calibration_semiangle", "calibration_camera_length",
    "calibration_energy", "calibration_name", "calibration_uid", "calibration_runs",
    "series_detector_mask", "frame_rate", "backend", "backend_detail", "connections", "endpoint", "channel",
    "scan_rows", "scan_cols", "scan_serpentine", "scan_flyback", "scan_last_flyback", "scan_lead_in", "scan_step_y",
    "scan_step_x", "scan_unit", "dwell_time", "nodata", "saturated", "pixel_mask", "gain", "timeout", "record",
    "record_map", "record_flyback", "movie_rasters", "pattern_enabled", "calibration_center_row",
    "calibration_center_col", "calibration_bf_radius", "calibration_mrad_per_px",
}  # fmt: skip
OF_VBF = {
    "vbf", "vbf_mean", "vbf_contrast", "vbf_enabled", "vbf_center_row", "vbf_center_col", "vbf_soft", "vbf_radius",
}  # fmt: skip
OF_ADF = {
    "adf", "adf_mean", "adf_contrast", "adf_enabled", "adf_center_row", "adf_center_col", "adf_soft", "adf_inner",
    "adf_outer",
}  # fmt: skip


@pytest.fixture
def live4d():
    methods = [Disk("vbf", center=(12, 16), radius=6), Annulus("adf", inner=7, outer=11)]
    return Live4D("tcp://127.0.0.1:9", name="live4d", scan=GRID, methods=methods)


def test_the_data_keys_of_an_event_are_these(live4d):
    keys = {f"live4d_{name}" for name in OWN | OF_VBF | OF_ADF}
    assert set(live4d.describe()) == set(live4d.read()) == keys
    live4d.pattern_enabled.put(True)
    assert set(live4d.describe()) == set(live4d.read()) == keys | {"live4d_pattern"}
    assert set(live4d.describe_collect()) == keys
    live = {"live4d_vbf", "live4d_adf", "live4d_live_fraction", "live4d_live_saturated"}
    assert set(live4d.preview.describe()) == set(live4d.preview.read()) == live


def test_the_settings_are_in_the_configuration_with_positions_as_pairs(live4d):
    configuration = live4d.read_configuration()
    assert set(configuration) == set(live4d.describe_configuration())
    settings = {
        name for name in OWN if not name.startswith(("frames_", "series_", "frame_rate", "recorded_"))
    }
    settings = settings - {"calibration_center_row", "calibration_center_col"} | {"calibration_center"}
    of_methods = {
        "vbf_enabled", "vbf_center", "vbf_soft", "vbf_radius", "adf_enabled", "adf_center", "adf_soft", "adf_inner",
        "adf_outer",
    }  # fmt: skip
    kinds = {"vbf_kind", "adf_kind", "pattern_kind", "vbf_unit", "adf_unit"}
    assert set(configuration) == {f"live4d_{name}" for name in settings | of_methods | kinds | {"versions"}}
    assert configuration["live4d_vbf_center"]["value"] == (12, 16)
    np.testing.assert_array_equal(configuration["live4d_adf_center"]["value"], (np.nan, np.nan))


def test_devices_of_other_methods_are_all_live4ds(live4d):
    other = Live4D("tcp://127.0.0.1:9", name="x", scan=GRID, methods=[Disk("bf", radius=3)])
    assert isinstance(other, Live4D)
    assert isinstance(live4d, Live4D)
    assert type(other) is not type(live4d)
    assert repr(type(other)) == repr(Live4D)
    assert type(other).__doc__ == Live4D.__doc__
    assert copy.copy(type(other)) is type(other)
    assert repr(other).startswith("Live4D(prefix='', name='x'")
    assert not hasattr(Live4D, "bf")


def test_a_field_called_enabled_that_is_no_switch_is_a_parameter_like_others():
    @dataclass(frozen=True)
    class Counted:
        name: str
        enabled: int = 3

        def outputs(self, series, scan):
            assert self.enabled == 3
            return {self.name: Output(SCAN, scan.shape)}

    assert list(all_outputs(Counted("a"), GRID)) == ["a"]


# Any method ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ring:
    """A part of a method; its name is nobody's."""

    name: str = "ring"
    radius: float = field(default=3.0, metadata={"units": "px", "least": 0.0})
    center: tuple[float, float] | None = field(default=None, metadata={"units": "px"})


@dataclass(frozen=True)
class Moments:
    """A method with all kinds of fields."""

    kind: ClassVar[str] = "moments"
    name: str = "com"
    within: Ring = Ring()
    rotation: float = field(default=0.0, metadata={"units": "deg"})
    cut: float | None = None
    sectors: int = field(default=4, metadata={"least": 1})
    enabled: bool = True
    mode: str = "sum"
    of: tuple[str, ...] = ("vbf", "adf")

    def __post_init__(self):
        if self.within.radius > 50 and self.sectors > 8:
            raise ValueError("too many sectors for so large a ring")

    def outputs(self, series, scan):
        if not self.enabled:
            return {}
        images = {f"{self.name}_{axis}": Output(SCAN, scan.shape, "px", hinted=axis == "y") for axis in "yx"}
        profile = Output(("sector",), (self.sectors,), "counts", preview=False)
        return {**images, f"{self.name}_profile": profile}

    def demand(self, series, scan):
        raise AssertionError("no frame comes")

    def results(self, series, scan, parts):
        raise AssertionError("no frame came")


@pytest.fixture
def device():
    methods = (Moments(), Disk("vbf", radius=6))
    device = device_class(MethodSignals, methods, GRID)(name="it", methods=methods)
    device.control = None
    device.put_settings(GRID)
    return device


def test_each_field_is_a_setting_with_its_unit_and_parts_count_as_the_methods_own(device):
    described = device.describe()
    for name, dtype, units in [
        ("radius", "number", "px"), ("center_row", "number", "px"), ("rotation", "number", "deg"),
        ("cut", "number", None), ("sectors", "integer", None), ("enabled", "boolean", None), ("mode", "string", None),
    ]:  # fmt: skip
        entry = described[f"it_com_{name}"]
        assert (entry["dtype"], entry.get("units")) == (dtype, units)
    assert device.read_configuration()["it_com_of"]["value"] == "('vbf', 'adf')"
    assert "it_com_name" not in described
    with pytest.raises(ValueError, match="expected a number of at least 0 px"):
        device.com_radius.put(-1)
    with pytest.raises(ValueError, match="expected a number of at least 1"):
        device.com_sectors.put(0)


def test_the_methods_are_as_the_settings_have_them(device):
    assert device.methods() == (Moments(), Disk("vbf", radius=6))
    device.com_radius.put(7)
    device.com_center.put((1, 2))
    device.com_cut.put(0.5)
    device.com_sectors.put(6)
    device.com_mode.put("mean")
    ring = Ring(radius=7.0, center=(1.0, 2.0))
    assert device.methods()[0] == Moments(within=ring, cut=0.5, sectors=6, mode="mean")
    device.com_cut.put(np.nan)
    device.com_center.put((np.nan, np.nan))
    assert device.methods()[0] == Moments(within=Ring(radius=7.0), sectors=6, mode="mean")


def test_parameters_that_do_not_fit_each_other_are_said_and_the_device_stays_described(device):
    device.com_radius.put(60)
    device.com_sectors.put(9)
    with pytest.raises(ValueError, match="too many sectors"):
        device.methods()
    assert device.describe()["it_com_y"]["shape"] == [3, 4]


def test_outputs_are_described_by_their_method_and_follow_settings_and_scan(device):
    described = device.describe()
    assert described["it_com_y"] | {"source": ""} == {
        "source": "", "dtype": "array", "dtype_numpy": "<f8", "shape": [3, 4], "dims": ["scan_y", "scan_x"],
        "units": "px",
    }  # fmt: skip
    assert (described["it_com_profile"]["dims"], described["it_com_profile"]["shape"]) == (["sector"], [4])
    assert described["it_com_y_mean"]["units"] == "px"
    assert "it_com_profile_mean" not in described
    device.com_sectors.put(5)
    device.scan_rows.put(7)
    assert device.known_shapes() == {
        "it_com_y": (7, 4), "it_com_x": (7, 4), "it_com_profile": (5,), "it_vbf": (7, 4),
    }  # fmt: skip
    assert list(device.preview_keys()) == ["com_y", "com_x", "vbf"]


def test_a_gain_changes_the_unit_of_counts_only(device):
    device.gain.put(np.ones((8, 8)))
    units = {name: output.units for name, output in device.outputs().items()}
    assert units == {"com_y": "px", "com_x": "px", "com_profile": "counts", "vbf": "gain-corrected counts"}


def test_the_outputs_of_a_disabled_method_are_left_out_and_its_settings_stay(device):
    device.com_enabled.put(False)
    keys = device.without_disabled(device.describe())
    assert [key for key in keys if key.startswith(("it_com_y", "it_com_x", "it_com_profile"))] == []
    assert "it_com_radius" in keys
    assert list(device.outputs()) == ["vbf"]


def test_what_a_raster_gives_is_put_with_the_statistics_of_its_images(device):
    image = np.array([[1.0, 3.0], [np.nan, 2.0]])
    device.put_outputs({"com_y": image, "com_profile": np.arange(4.0), "vbf": np.full((2, 2), np.nan)})
    np.testing.assert_array_equal(device.com_y.get(), image)
    np.testing.assert_array_equal(device.com_profile.get(), [0, 1, 2, 3])
    assert device.com_y_mean.get() == 2.0
    assert np.isnan([device.vbf_mean.get(), device.vbf_contrast.get()]).all()
    device.put_outputs({"vbf": image})
    assert device.vbf_contrast.get() == pytest.approx(np.std([1, 3, 2]) / 2)


def test_tables_show_the_statistics_of_the_first_method_that_has_some_for_them(device):
    hinted = [name for name in device.component_names if getattr(device, name).kind == Kind.hinted]
    assert hinted == ["com_y_mean"]  # and not those of vbf, which are hinted, too


def test_which_method_it_is_and_arrays_in_it_are_recorded():
    ring = Annulus("a", inner=2, outer=5)
    methods = [Disk("vbf", radius=3), CenterOfMass("com", ring), Map("map", weights=np.eye(4))]
    live4d = Live4D("tcp://127.0.0.1:9", name="live4d", scan=GRID, methods=methods)
    configuration = {name: entry["value"] for name, entry in live4d.read_configuration().items()}
    assert configuration["live4d_vbf_kind"] == "disk"
    assert configuration["live4d_com_kind"] == "center_of_mass"
    assert configuration["live4d_map_kind"].startswith(f"{Map.__module__}:Map (")
    assert configuration["live4d_map_weights"] == f"4 x 4 px, sha256 {digest(np.eye(4))}"


def test_a_parameter_that_takes_outputs_away_is_refused():
    live4d = Live4D(
        "tcp://127.0.0.1:9", name="live4d", scan=GRID, methods=[Segments("seg", outer=5, sectors=4)]
    )
    live4d.seg_sectors.put(2)
    with pytest.raises(
        ValueError, match="seg would not give seg_0_2 any more, for which live4d has a signal"
    ):
        live4d.check_settings()


def test_contrast_is_of_counts():
    methods = [CenterOfMass("com", Disk("d", radius=3))]
    live4d = Live4D("tcp://127.0.0.1:9", name="live4d", scan=GRID, methods=methods)
    of_com = {name for name in live4d.component_names if name.startswith("com_")}
    assert {name for name in of_com if name.endswith(("mean", "contrast"))} == {
        "com_sum_mean", "com_sum_contrast", "com_y_mean", "com_x_mean",
    }  # fmt: skip


@dataclass(frozen=True)
class Map(Ring):
    """A method with an array."""

    name: str = "map"
    weights: np.ndarray = None

    def demand(self, series, scan):
        raise AssertionError("no frame comes")

    def outputs(self, series, scan):
        return {self.name: Output(SCAN, scan.shape)}

    def results(self, series, scan, parts):
        raise AssertionError("no frame came")


def test_describing_many_outputs_reads_the_settings_as_often_as_describing_one(monkeypatch):
    """The RunEngine describes in its loop: once an output would be a quarter of a second for 64 segments."""
    asked = []
    really = module.with_settings
    monkeypatch.setattr(module, "with_settings", lambda *args: asked.append(1) or really(*args))
    counts = []
    for sectors in (1, 8):
        methods = [Segments("seg", outer=9, rings=sectors, sectors=sectors)]
        live4d = Live4D("tcp://127.0.0.1:9", name="live4d", scan=GRID, methods=methods)
        asked.clear()
        assert f"live4d_seg_{sectors - 1}_{sectors - 1}_mean" in live4d.describe()
        counts.append(len(asked))
    assert counts[0] == counts[1]

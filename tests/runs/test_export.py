"""Files of a run's images: other programs read the same numbers, with step, unit and what explains them."""

import colorsys
import json
from dataclasses import asdict
from types import SimpleNamespace

import bluesky.plans as bp
import h5py
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
import tifffile
import xarray as xr
from canned import COLS, ROWS, Canned
from click.testing import CliRunner
from matplotlib.figure import Figure

from live4d_ophyd import DPC, CenterOfMass, ScanGrid, Strain, export_run, image, images
from live4d_ophyd.commands.images import _save
from live4d_ophyd.commands.main import live4d
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk
from live4d_ophyd.live.panel import NOT_SEEN
from live4d_ophyd.runs.description import RunDescription
from live4d_ophyd.runs.facts import Fact
from live4d_ophyd.runs.nexus import _instrument
from live4d_ophyd.runs.picture import levels, nice_length


@pytest.fixture(scope="module")
def run(catalog):
    return catalog.db[catalog.scan]


@pytest.fixture(scope="module")
def vbf(run):
    return images(run, "vbf").values


def test_tiff_is_a_float32_stack_with_imagej_s_calibration(run, vbf, tmp_path):
    paths = export_run(run, "tiff", tmp_path)
    stem = f"{run.metadata['start']['scan_id']:05d}_{run.metadata['start']['uid'][:8]}"
    assert [path.name for path in paths] == [f"{stem}_live4d_vbf.tif", f"{stem}_live4d_adf.tif"]
    with tifffile.TiffFile(paths[0]) as file:
        said, tags = file.imagej_metadata, file.pages[0].tags
        np.testing.assert_array_equal(file.asarray(), vbf.astype(np.float32))
        assert (said["unit"], said["frames"]) == ("nm", 3)
        x, y = (tags[name].value for name in ("XResolution", "YResolution"))
        assert (x[0] / x[1], y[0] / y[1]) == (4, 2)  # positions a nm
        assert "column_defocus -50.0" in said["Labels"][0]
        info = json.loads(said["Info"])
    assert info["run"]["metadata"]["sample"]["value"] == {"name": "MoS2", "layers": 2}
    assert [event["event"] for event in info["events"]] == [1, 2, 3]


def test_one_event_of_one_detector_goes_into_the_file_that_is_named(run, vbf, tmp_path):
    (path,) = export_run(run, "tiff", tmp_path / "new" / "x.tiff", names=["vbf"], event=2)
    assert path == tmp_path / "new" / "x.tiff"
    np.testing.assert_array_equal(tifffile.imread(path), vbf[1].astype(np.float32))


def test_npy_is_float64_with_json_beside_it(run, vbf, tmp_path):
    paths = export_run(run, "npy", tmp_path, names=["live4d_vbf"])
    np.testing.assert_array_equal(np.load(paths[0]), vbf)
    said = json.loads(paths[1].read_text())
    assert paths[1].name == f"{paths[0].name}.json"
    assert (said["axes"], said["shape"]) == (["event", "scan_y", "scan_x"], [3, ROWS, COLS])
    assert said["step"] == {"scan_y": 0.5, "scan_x": 0.25, "unit": "nm"}
    assert [event["column_defocus"] for event in said["events"]] == [-50, 0, 50]
    assert said["attributes"]["detector_radius"] == 15


def test_png_shows_the_positions_and_a_scale_bar_of_the_length_it_says(run, vbf, tmp_path):
    paths = export_run(run, "png", tmp_path, names=["vbf"])
    assert [path.suffix for path in paths] == [".png"] * 3 + [".json"] * 3
    drawn = matplotlib.image.imread(paths[0])[..., :3]
    said = json.loads(paths[3].read_text())
    height, width = ROWS * 0.5, COLS * 0.25
    per_nm = 768 / height  # the longer side
    across = (drawn.shape[1] - width * per_nm) / 2
    rows = ((np.arange(ROWS) + 0.5) * 0.5 * per_nm).astype(int)
    cols = (across + (np.arange(COLS) + 0.5) * 0.25 * per_nm).astype(int)
    seen = drawn[np.ix_(rows, cols)]
    black, white = levels(vbf[0])
    grey = np.clip((vbf[0] - black) / (white - black), 0, 1)
    np.testing.assert_allclose(seen[..., 0][np.isfinite(grey)], grey[np.isfinite(grey)], atol=0.01)
    assert np.ptp(seen[2, 3]) > 0.1  # the position without a value is not grey
    assert (said["black"], said["white"]) == (black, white)
    assert (said["scale_bar"], said["unit"]) == (0.5, "nm")
    strip = drawn[int(height * per_nm) + 1 :, :, 0]
    white_parts = [part for row in strip for part in np.split(row, np.flatnonzero(row < 0.99))]
    longest = max(part.size for part in white_parts) - 1  # each part begins with the pixel before it
    assert longest == pytest.approx(0.5 * per_nm, abs=3)


@pytest.fixture(scope="module")
def angles(catalog):
    """A run with centres of mass, of two Events."""
    methods = [CenterOfMass("com", Disk("all", center=(46.5, 48.25), radius=15)), DPC("dpc")]
    scan = ScanGrid(ROWS, COLS, step=(0.5, 0.25), unit="nm")
    device = Canned(
        "tcp://127.0.0.1:9", name="stem", scan=scan, methods=methods, control=catalog.live4d.control
    )
    return catalog.db[catalog.take(bp.count([device], 2))]


def wheel(run, event):
    """The colours by the definition: hue is the angle, value the magnitude up to its 99.5th percentile of all."""
    angle, size = (images(run, f"dpc_{name}").values for name in ("angle", "magnitude"))
    full = np.nanpercentile(size, 99.5)
    there = np.isfinite(angle[event])
    found = np.empty((ROWS, COLS, 3))
    found[~there] = matplotlib.colors.to_rgb(NOT_SEEN)
    found[there] = [
        colorsys.hsv_to_rgb(a % 360 / 360, 1, min(s / full, 1))
        for a, s in zip(angle[event][there], size[event][there])
    ]
    return found


def test_a_tiff_of_angles_has_the_colour_wheel_beside_the_numbers(angles, tmp_path):
    numbers, colored = export_run(angles, "tiff", tmp_path, names=["dpc_angle"])
    assert colored.name == f"{numbers.stem}_colors.tif"
    np.testing.assert_array_equal(
        tifffile.imread(numbers), images(angles, "dpc_angle").values.astype(np.float32)
    )
    with tifffile.TiffFile(colored) as file:
        found, said, tags = file.asarray(), file.imagej_metadata, file.pages[0].tags
    assert (found.dtype, found.shape) == (np.uint8, (2, ROWS, COLS, 3))
    for event in range(2):
        np.testing.assert_allclose(found[event] / 255, wheel(angles, event), atol=0.5 / 255 + 1e-9)
    assert said["unit"] == "nm"
    x, y = (tags[name].value for name in ("XResolution", "YResolution"))
    assert (x[0] / x[1], y[0] / y[1]) == (4, 2)
    (alone,) = export_run(angles, "tiff", tmp_path / "one.tif", names=["dpc_angle"], event=1)
    assert tifffile.imread(alone).dtype == np.float32


def test_a_png_of_angles_is_a_colour_wheel(angles, tmp_path):
    path, beside = export_run(angles, "png", tmp_path, names=["dpc_angle"], event=1)
    drawn, said = matplotlib.image.imread(path)[..., :3], json.loads(beside.read_text())
    per_nm = 768 / (ROWS * 0.5)
    across = (drawn.shape[1] - COLS * 0.25 * per_nm) / 2
    rows = ((np.arange(ROWS) + 0.5) * 0.5 * per_nm).astype(int)
    cols = (across + (np.arange(COLS) + 0.5) * 0.25 * per_nm).astype(int)
    size = images(angles, "dpc_magnitude").values[0]
    angle = images(angles, "dpc_angle").values[0]
    there = np.isfinite(angle)
    hue = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in drawn[np.ix_(rows, cols)][there]])
    away = np.abs((hue - angle[there] % 360 / 360 + 0.5) % 1 - 0.5)
    assert away.max() < 0.01
    assert (said["brightness"], said["brightness_units"]) == ("stem_dpc_magnitude", "px")
    assert (said["black"], said["white"]) == (0, np.nanpercentile(size, 99.5))


class Strained(Canned):
    """Half of the values are below 0, and the largest is above it."""

    def image(self, detector):
        return super().image(detector) - 1020.0


def test_pictures_of_values_of_either_sign_have_two_colours_about_0(catalog, tmp_path):
    strain = Strain("strain", g1=(10, 0), g2=(0, 10), radius=4)
    scan = ScanGrid(ROWS, COLS, step=0.5, unit="nm")
    device = Strained(
        "tcp://127.0.0.1:9", name="cry", scan=scan, methods=[strain], control=catalog.live4d.control
    )
    run = catalog.db[catalog.take(bp.count([device], 1))]
    shown = image(run, "strain_e_rr")
    assert shown.attrs["symmetric"] == 1
    assert "symmetric" not in image(run, "strain_residual").attrs
    _, beside = export_run(run, "png", tmp_path, names=["strain_e_rr"])
    said = json.loads(beside.read_text())
    assert said["white"] == -said["black"] == pytest.approx(np.nanpercentile(np.abs(shown.values), 99))
    figure = Figure()
    drawn = shown.plot(ax=figure.subplots())
    assert drawn.get_clim() == (said["black"], said["white"])
    low, middle, high = drawn.to_rgba([said["black"], 0.0, said["white"]])[:, :3]
    assert low[2] > 2 * low[0]  # blue
    assert middle.min() > 0.9  # white
    assert high[0] > 2 * high[2]  # red


@pytest.mark.parametrize(
    ("wanted", "length"), [(1.0, 1.0), (4.99, 2.0), (5.0, 5.0), (0.03, 0.02), (990, 500)]
)
def test_scale_bars_have_round_lengths(wanted, length):
    assert nice_length(wanted) == pytest.approx(length)


def test_nexus_leads_to_the_images_with_axes_and_units(catalog, run, vbf, tmp_path):
    (path,) = export_run(run, "nexus", tmp_path)
    with h5py.File(path) as file:
        entry = file[file.attrs["default"]]
        assert entry.attrs["NX_class"] == "NXentry"
        data = entry[entry.attrs["default"]]
        assert (data.attrs["NX_class"], data.attrs["signal"]) == ("NXdata", "data")
        assert data.attrs["axes"].tolist() == ["event", "scan_y", "scan_x"]
        np.testing.assert_array_equal(data["data"], vbf)
        assert data["data"].attrs["units"] == "counts"
        np.testing.assert_array_equal(data["scan_x"], np.arange(COLS) * 0.25)
        assert data["scan_x"].attrs["units"] == "nm"
        assert data.attrs["column_defocus_indices"] == 0
        assert data["virtual_detector/detector_radius"][()] == 15
        assert entry["sample/name"].asstr()[()] == "MoS2"
        assert entry["entry_identifier_uuid"].asstr()[()] == catalog.scan
        assert entry["instrument/beam/incident_energy"][()] == 80e3
        assert entry["instrument/detector/serial_number"].asstr()[()] == "S-00-0001"
        assert json.loads(entry["start_document/data"].asstr()[()])["uid"] == catalog.scan


def test_in_nexus_each_device_has_its_own_detector_whatever_it_is_called(tmp_path):
    of_devices = {
        name: {"detector": {"model": Fact(name)}, "exposure": {"count_time": Fact(n * 1e-6, "s")}}
        for n, name in enumerate(("detector2", "live4d"), 1)
    }
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        _instrument(file, RunDescription({}, of_devices))
        for n, name in enumerate(of_devices, 1):
            detector = file["instrument"][f"detector_{name}"]
            assert detector["description"].asstr()[()] == name
            assert detector["count_time"][()] == n * 1e-6


def test_zarr_is_read_by_xarray(run, vbf, tmp_path):
    (path,) = export_run(run, "zarr", tmp_path)
    dataset = xr.open_zarr(path, consolidated=False)
    np.testing.assert_array_equal(dataset.live4d_vbf.values, vbf)
    assert dataset.live4d_adf.dims == ("event", "scan_y", "scan_x")
    assert dataset.scan_y.attrs["units"] == "nm"
    assert dataset.live4d_vbf.attrs["detector_radius"] == 15
    assert json.loads(dataset.attrs["description"])["plan"]["name"]["value"] == "scan"


def test_files_that_are_there_are_not_replaced_unless_asked(run, tmp_path):
    (path, beside) = export_run(run, "npy", tmp_path, names=["vbf"])
    path.unlink()
    before = beside.read_text()
    with pytest.raises(FileExistsError, match="is there already"):
        export_run(run, "npy", tmp_path, names=["vbf", "adf"])
    assert list(tmp_path.iterdir()) == [beside]
    assert beside.read_text() == before
    export_run(run, "npy", tmp_path, names=["vbf"], overwrite=True)
    assert path.exists()


@pytest.mark.parametrize("to", ["nexus", "zarr"])
def test_a_whole_file_is_replaced_when_asked(run, tmp_path, to):
    first = export_run(run, to, tmp_path)
    assert export_run(run, to, tmp_path, overwrite=True) == first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "tiff", "--out", "all.tif"], "is one file, and there would be 2"),
        (["--to", "tiff", "--out", "x.png"], "neither a folder nor called .tif"),
        (["--to", "npy", "--detector", "haadf"], "there are live4d_vbf, live4d_adf"),
        (["--to", "npy", "--event", "7"], "no Event 7"),
        (["--to", "jpeg"], "'jpeg' is not one of"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_reason(catalog, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(live4d, ["export", catalog.scan, *arguments])
    assert result.exit_code != 0
    assert words in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


def test_export_prints_the_paths_it_wrote(catalog, tmp_path):
    result = CliRunner().invoke(
        live4d, ["export", catalog.count, "--to", "png", "--detector", "vbf", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0
    assert sorted(result.output.split()) == sorted(str(path) for path in tmp_path.iterdir())


def test_two_streams_of_a_run_go_to_two_files(catalog, tmp_path):
    import bluesky.plan_stubs as bps
    import bluesky.preprocessors as bpp

    @bpp.stage_decorator([catalog.live4d])
    @bpp.run_decorator()
    def focus():
        yield from bps.trigger_and_read([catalog.live4d])
        yield from bps.trigger_and_read([catalog.live4d], name="focused")

    run = catalog.db[catalog.take(focus())]
    names = [path.name for path in export_run(run, "npy", tmp_path, names=["vbf"])]
    assert sum("_focused.npy" in name for name in names) == 2
    both = [np.load(path) for path in sorted(tmp_path.glob("*.npy"))]
    assert np.nanmax(both[0]) != np.nanmax(both[1])
    (path,) = export_run(run, "zarr", tmp_path / "z")
    for stream in ("primary", "focused"):
        assert xr.open_zarr(path, group=stream, consolidated=False).live4d_vbf.shape == (1, ROWS, COLS)
    (path,) = export_run(run, "nexus", tmp_path / "n")
    with h5py.File(path) as file:
        assert {"live4d_vbf", "live4d_vbf_focused"} <= set(file["entry"])


# `live4d listen` ------------------------------------------------------------------------------------


def test_listen_writes_tiff_where_the_name_says_so(tmp_path):
    image = np.array([[1.0, np.nan], [3.0, 2.0**24]])
    raster = SimpleNamespace(outputs={"disk1": image, "annulus1": image + 1})
    detectors = [Disk("disk1", radius=3), Annulus("annulus1", inner=3, outer=5)]
    said = {detector.name: {"detector": asdict(detector)} for detector in detectors}
    for suffix in (".tif", ".TIFF"):
        paths = _save(tmp_path / f"x{suffix}", said, raster)
        assert [path.name for path in paths] == [f"x-disk1{suffix}", f"x-annulus1{suffix}"]
        with tifffile.TiffFile(paths[1]) as file:
            np.testing.assert_array_equal(file.asarray(), (image + 1).astype(np.float32))
            assert json.loads(file.imagej_metadata["Info"])["detector"]["outer"] == 5
    np.testing.assert_array_equal(np.load(_save(tmp_path / "x.npy", {"disk1": {}}, raster)[0]), image)


def test_listen_refuses_other_formats_before_it_listens(tmp_path):
    arguments = ["tcp://127.0.0.1:9", "--scan", "2x2", "--disk", "4,4,2", "--out", str(tmp_path / "x.png")]
    result = CliRunner().invoke(live4d, ["listen", *arguments])
    assert result.exit_code == 2
    assert ".npy, .tif, .tiff" in " ".join(result.output.split())

"""Which programs read recorded files, and what of them. `make readers` runs it, in an environment without this package.

Every value of every file in out/readers (`recorded_files.py` made them) is compared, by each reader. Prints a table.
``readers.py READER PATH`` does it for one reader and file, in a process that does not load hdf5plugin for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections import Counter
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "out" / "readers").glob("*.h5"))
SQUARE = [path for path in FILES if path.stem.endswith("_square")]
OBLONG = [path for path in FILES if path not in SQUARE]
#: the oldest h5py that has a wheel for this Python; `make readers` installs it there
OLDEST_H5PY = Path(sys.prefix) / "h5py-oldest"
AXES, UNITS = ["scan_y", "scan_x", "q_y", "q_x"], ["nm", "nm", "px", "px"]

# The readers' own warnings are not ours.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
of_all_files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
of_square_detectors = pytest.mark.parametrize("path", SQUARE, ids=lambda path: path.stem)
of_oblong_detectors = pytest.mark.parametrize("path", OBLONG, ids=lambda path: path.stem)


def expected(path):
    """(scan_y, scan_x, q_y, q_x); zeros where there is no frame."""
    with np.load(path.with_suffix(".npz")) as known:
        return known["data"]


def centered(n):
    return -(n - 1) / 2


# How each is called. In: the path, as text, and the scan's rows and columns. Out: an array.


def h5py_frames(path, rows, cols):
    with h5py.File(path) as file:
        frames = file["entry/data/data_000001"][()]
    return frames.reshape(rows, cols, *frames.shape[1:])


def h5py_scan(path, rows, cols):
    with h5py.File(path) as file:
        return file["entry/scan/data"][()]


def h5py_used_memory(path, rows, cols):
    """Into an array that had something else in it."""
    with h5py.File(path) as file:
        scan = file["entry/scan/data"]
        array = np.full(scan.shape, 7, scan.dtype)
        scan.read_direct(array)
    return array


def _libertem(filetype, path, **how):
    import libertem.api as lt
    from libertem.udf.raw import PickUDF

    with lt.Context.make_with("inline") as context:
        dataset = context.load(filetype, path=path, **how)
        everywhere = np.ones(dataset.shape.nav, bool)
        picked = context.run_udf(dataset, PickUDF(), roi=everywhere)["intensity"].raw_data
        return picked.reshape(dataset.shape)


def libertem_frames(path, rows, cols):
    return _libertem("hdf5", path, ds_path="/entry/data/data_000001", nav_shape=(rows, cols))


def libertem_scan(path, rows, cols):
    return _libertem("hdf5", path, ds_path="/entry/scan/data")


def libertem_auto(path, rows, cols):
    return _libertem("auto", path)


def py4dstem_emd(path, rows, cols):
    import py4DSTEM

    return py4DSTEM.read(path).data


def rsciio_nexus(path, rows, cols):
    from rsciio.nexus import file_reader

    return file_reader(path, lazy=True, use_default=True)[0]["data"]


def _hyperspy_nexus(path):
    import hyperspy.api as hs

    return hs.load(path, file_format="NeXus", lazy=True, use_default=True)


def hyperspy_nexus(path, rows, cols):
    return _hyperspy_nexus(path).data


def _hyperspy_emd(path):
    import hyperspy.api as hs

    return hs.load(path, file_format="EMD", lazy=True)


def hyperspy_emd(path, rows, cols):
    return _hyperspy_emd(path).data


def quantem_nexus(path, rows, cols):
    return quantem_readers().read_4dstem(path, file_type="nexus").array


def quantem_emd(path, rows, cols):
    return quantem_readers().read_emdfile_to_4dstem(path).array


def py4dstem_arina(path, rows, cols, dtype=None):
    import py4DSTEM

    return py4DSTEM.import_file(path, filetype="arina", scan_width=rows, dtype_bin=dtype).data


def rsciio_arina(path, rows, cols, dtype=None):
    from rsciio.arina import file_reader

    return file_reader(path, navigation_shape=(rows, cols), dtype=dtype)[0]["data"]


def hyperspy_arina(path, rows, cols, dtype=None):
    import hyperspy.api as hs

    return hs.load(path, file_format="Arina", navigation_shape=(rows, cols), dtype=dtype).data


def quantem_arina(path, rows, cols, dtype=None):
    how = {"navigation_shape": (rows, cols), "dtype": dtype}
    return quantem_readers().read_4dstem(path, file_type="arina", **how).array


READERS = (
    h5py_frames, h5py_scan, h5py_used_memory, libertem_frames, libertem_scan, libertem_auto, py4dstem_emd,
    rsciio_nexus, hyperspy_nexus, hyperspy_emd, quantem_nexus, quantem_emd,
)  # fmt: skip
#: readers that do not load HDF5's filters: `import hdf5plugin` comes before them
WITHOUT_FILTERS = (
    h5py_frames, h5py_scan, h5py_used_memory, rsciio_nexus, hyperspy_nexus, hyperspy_emd, quantem_nexus, quantem_emd,
)  # fmt: skip
ARINA_READERS = (py4dstem_arina, rsciio_arina, hyperspy_arina, quantem_arina)
PACKAGES = {"py4dstem": "py4DSTEM", "rsciio": "rosettasciio"}
by_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
by_arina_reader = pytest.mark.parametrize("reader", ARINA_READERS, ids=lambda reader: reader.__name__)


def quantem_readers():
    """quantem.core.io.file_readers without torch, gigabytes that its readers have no use for.

    Its packages import everything, so those above are replaced by empty ones, and what they would import by nothing.
    """
    if "quantem.core.io.file_readers" not in sys.modules:
        (folder,) = find_spec("quantem").submodule_search_locations
        packages = {"quantem": folder, "quantem.core": f"{folder}/core"}
        for name, place in packages.items():
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [place]
        torch = MagicMock(Tensor=type("Tensor", (), {}))
        torch.cuda.device_count.return_value = 0
        absent = {"torch": torch} | {
            name: MagicMock() for name in ("zarr", "zarr.storage", "quantem.spectroscopy")
        }
        sys.modules.update(absent)
        try:
            import_module("quantem.core.io.file_readers")
        finally:
            for name in absent:
                del sys.modules[name]
    return sys.modules["quantem.core.io.file_readers"]


@pytest.fixture(scope="module")
def equal(request):
    """By reader, how many files it read without a difference; printed at the end."""
    counts = Counter()
    yield counts
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n\n| reader | version | files read | import hdf5plugin |\n|---|---|---|---|")
        for reader, count in counts.items():
            name = reader.__name__
            package = PACKAGES.get(name.partition("_")[0], name.partition("_")[0])
            before = "before" if reader in WITHOUT_FILTERS else "not needed"
            print(f"| {name} | {version(package)} | {count} of {len(FILES)} | {before} |")
        print(f"HDF5 {h5py.version.hdf5_version}, hdf5plugin {version('hdf5plugin')}, NumPy {np.__version__}")


@pytest.fixture(autouse=True)
def _filters():
    import hdf5plugin  # noqa: F401


def check(array, data, dtype):
    array = np.asarray(array)
    assert array.dtype == dtype
    assert array.shape == data.shape
    np.testing.assert_array_equal(array, data)


def test_there_are_files():
    assert FILES, "make readers makes them, by tests/by_hand/recorded_files.py"


@by_reader
@of_all_files
def test_a_reader_gives_every_value(reader, path, equal):
    data = expected(path)
    check(reader(str(path), *data.shape[:2]), data, data.dtype)
    equal[reader] += 1


@by_arina_reader
@of_square_detectors
def test_a_reader_of_dectris_files_gives_every_value_of_a_square_detector(reader, path, equal):
    """uint32 only where it is asked for: see below."""
    data = expected(path)
    dtype = np.uint32 if data.dtype == np.uint32 else None
    check(reader(str(path), *data.shape[:2], dtype), data, data.dtype)
    equal[reader] += 1


@by_arina_reader
@of_oblong_detectors
def test_a_reader_of_dectris_files_fails_with_other_detectors(reader, path):
    """Each makes an array of (columns, rows) for frames of (rows, columns)."""
    with pytest.raises(ValueError, match=r"broadcast input array from shape \(24,32\) into shape \(32,24\)"):
        reader(str(path), *expected(path).shape[:2])


@by_arina_reader
def test_a_reader_of_dectris_files_makes_uint16_of_uint32(reader):
    """Unless it is told another type; pixels above 65535 are then wrong, and nothing says so."""
    (path,) = (path for path in SQUARE if path.stem.startswith("uint32"))
    data = expected(path)
    check(reader(str(path), *data.shape[:2]), data.astype(np.uint16), np.uint16)


@pytest.mark.parametrize("reader", READERS + ARINA_READERS, ids=lambda reader: reader.__name__)
def test_some_readers_want_that_hdf5plugin_is_imported_before(reader):
    (path,) = (path for path in SQUARE if path.stem.startswith("uint16"))
    command = [sys.executable, __file__, reader.__name__, str(path)]
    read = subprocess.run(command, capture_output=True, text=True)
    if reader in WITHOUT_FILTERS:
        assert read.returncode
        assert "read data" in read.stderr  # HDF5 says which plugin it looked for, or where
    else:
        assert read.returncode == 0, read.stderr


@pytest.mark.parametrize(("nth", "channel"), [(0, "threshold_2"), (1, "difference")])
def test_further_channels_have_datasets_of_their_own(nth, channel):
    """By their names, as LiberTEM and h5py take them; in no reader's way."""
    (path,) = (path for path in SQUARE if path.stem.startswith("channels"))
    with np.load(path.with_suffix(".npz")) as known:
        data = known["aside"].reshape(-1, *known["data"].shape)[nth]
    with h5py.File(path) as file:
        check(file[f"entry/stack_{channel}/data"], data, data.dtype)
    check(_libertem("hdf5", str(path), ds_path=f"/entry/stack_{channel}/data"), data, data.dtype)


def test_flyback_has_a_dataset_of_its_own():
    (path,) = (path for path in SQUARE if path.stem.startswith("flyback"))
    with np.load(path.with_suffix(".npz")) as known, h5py.File(path) as file:
        check(file["entry/flyback/data"], known["aside"], known["aside"].dtype)
        assert file["entry/flyback/frame_number"][:4].tolist() == [5, 6, 12, 13]


@of_all_files
def test_h5py_finds_the_axes(path):
    with h5py.File(path) as file:
        scan = file[f"entry/{file['entry'].attrs['default'].decode()}"]
        axes = [scan[name.decode()] for name in scan.attrs["axes"]]
        assert [axis.name.rpartition("/")[2] for axis in axes] == AXES
        assert [axis.attrs["units"] for axis in axes] == UNITS
        assert [axis[1] - axis[0] for axis in axes] == [3, 2, 1, 1]


@of_all_files
def test_py4dstem_finds_the_pixel_size_along_scan_x(path):
    """It has one for both directions, and knows angstrom."""
    import py4DSTEM

    calibration = py4DSTEM.read(str(path)).calibration
    assert (calibration.get_R_pixel_size(), calibration.get_R_pixel_units()) == (20, "A")
    assert (calibration.get_Q_pixel_size(), calibration.get_Q_pixel_units()) == (1, "pixels")


@of_all_files
def test_rosettasciio_and_hyperspy_find_the_axes(path):
    from rsciio.nexus import file_reader

    rows, cols = expected(path).shape[2:]
    (signal,) = file_reader(str(path), lazy=True, use_default=True)
    assert [axis["name"] for axis in signal["axes"]] == AXES
    assert [axis["units"] for axis in signal["axes"]] == UNITS
    assert [axis["scale"] for axis in signal["axes"]] == [3, 2, 1, 1]
    assert [axis["offset"] for axis in signal["axes"]] == [0, 0, centered(rows), centered(cols)]
    axes = _hyperspy_nexus(str(path)).axes_manager
    assert [axis.name for axis in axes.navigation_axes] == ["scan_x", "scan_y"]
    assert [axis.scale for axis in axes.navigation_axes] == [2, 3]
    assert [axis.name for axis in axes.signal_axes] == ["q_x", "q_y"]


@of_all_files
def test_hyperspy_finds_the_axes_of_emd(path):
    """All are axes of the signal there, and scan_y is Rx."""
    axes = _hyperspy_emd(str(path)).axes_manager.signal_axes
    assert [axis.name for axis in axes] == ["Qy", "Qx", "Ry", "Rx"]
    assert [axis.scale for axis in axes] == [1, 1, 20, 30]
    assert [axis.units for axis in axes] == ["pixel", "pixel", "Å", "Å"]


@of_all_files
def test_quantem_finds_the_axes(path):
    rows, cols = expected(path).shape[2:]
    read = quantem_readers().read_4dstem(str(path), file_type="nexus")
    assert read.sampling.tolist() == [3, 2, 1, 1]
    assert read.origin.tolist() == [0, 0, centered(rows), centered(cols)]
    assert read.units == UNITS


@of_all_files
def test_quantem_finds_the_pixel_size_of_emd_along_scan_x(path):
    """Its reader of EMD makes text of the bytes that h5py gives it, quotes included."""
    read = quantem_readers().read_emdfile_to_4dstem(str(path))
    assert read.sampling.tolist() == [20, 20, 1, 1]
    assert read.units == ["b'A'", "b'A'", "b'pixels'", "b'pixels'"]


OLDEST = """
import sys, h5py, hdf5plugin, numpy as np
for path in sys.argv[1:]:
    data = np.load(path[:-3] + ".npz")["data"]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["entry/data/data_000001"][()].reshape(data.shape), data)
        np.testing.assert_array_equal(file["entry/scan/data"][()], data)
print("h5py", h5py.__version__, "with HDF5", h5py.version.hdf5_version)
"""


@pytest.mark.skipif(not OLDEST_H5PY.is_dir(), reason="make readers installs it")
def test_the_oldest_h5py_gives_every_value(capsys):
    environment = os.environ | {"PYTHONPATH": str(OLDEST_H5PY)}
    command = [sys.executable, "-c", OLDEST, *map(str, FILES)]
    read = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    with capsys.disabled():
        print("\n\nEvery value by the oldest, too:", read.stdout.strip())


if __name__ == "__main__":
    chosen, name = globals()[sys.argv[1]], sys.argv[2]
    known = expected(Path(name))
    check(chosen(name, *known.shape[:2]), known, known.dtype)

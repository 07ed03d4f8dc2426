"""Runs of recorded frames are made anew as runs that name them; what is not there is named, and nothing written."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from click.testing import CliRunner
from recorded_file import recorded_file

from live4d_ophyd import Annulus, Disk, MeanPattern, ScanGrid, describe, image, images, reprocess
from live4d_ophyd.commands.main import live4d as command
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.errors import NothingCame
from live4d_ophyd.engine.recorded_settings import noted
from live4d_ophyd.runs import reprocessing
from live4d_ophyd.sources.file import FileSource
from live4d_ophyd.testing.small_dcu import frames

GRID = ScanGrid(4, 5, step=(0.5, 0.25), unit="nm")
DISK = Disk("vbf", center=(12, 16), radius=6)
WIDE = Annulus("wide", center=(12, 16), inner=3, outer=10)
QUIETLY = {"backend": "cpu", "quiet": True}


def sums(pixels, detector, lost=()):
    image = (pixels * detector.weights((24, 32))).sum(axis=(1, 2)).astype(float)
    image[list(lost)] = np.nan
    return image.reshape(4, 5)


def recorded(path, pixels, lost=()):
    request = AcquisitionRequest(FileSource(("live",)), GRID, (DISK, MeanPattern()), saturated="count")
    notes = {
        "uid": "7c1e0000-0000-4000-8000-000000000000",
        "scan_id": 41,
        "plan_name": "count",
        "device": "eye",
    }
    return recorded_file(path, pixels, GRID, lost=lost, notes=notes | noted(request), energy=200e3)


@pytest.fixture(scope="module")
def pixels():
    return frames(40).reshape(2, 20, 24, 32)


@pytest.fixture(scope="module")
def run(catalog, pixels, tmp_path_factory):
    """Of two Events with recorded frames, with other metadata and a baseline as a live one has."""
    folder = tmp_path_factory.mktemp("recorded")
    paths = [recorded(folder / f"{n}.h5", pixels[n], lost=(7, 8)[:n]) for n in range(2)]
    entry = {"dtype": "number", "shape": [], "source": "SIM:focus", "units": "nm"}
    sources = [
        reprocessing._Source(
            "primary", str(path), lambda path=path: reprocessing.request_for(path),
            also=(("focus", entry, 10.0 * n, "focus"),),
        )
        for n, path in enumerate(paths)
    ]  # fmt: skip
    plan = reprocessing._Plan("eye", sources, {"sample": "MoS2", "original_uid": "before"})
    return reprocessing._store(
        catalog.db, plan, lambda request: reprocessing.make(request, "cpu", quiet=True), {"decoded_on": "cpu"}
    )


def test_a_file_becomes_a_run_where_a_catalog_is_given(catalog, pixels, tmp_path):
    path = recorded(tmp_path / "a.h5", pixels[0], lost=(3,))
    made = reprocess(path, catalog=catalog.db, **QUIETLY)
    start = made.metadata["start"]
    assert (start["plan_name"], start["original_uid"][:4], start["original_scan_id"]) == (
        "reprocess",
        "7c1e",
        41,
    )
    assert list(start["files"]) == [str(path)]
    assert dict(start["methods"]["vbf"]) | {"center": None} == {
        "kind": "disk", "name": "vbf", "center": None, "radius": 6.0, "soft": False, "unit": "px", "enabled": True,
    }  # fmt: skip
    np.testing.assert_array_equal(image(made, "eye_vbf"), sums(pixels[0], DISK, lost=[3]))
    pattern = made.primary.read(["eye_pattern"])["eye_pattern"].values[0]
    np.testing.assert_array_equal(pattern, np.delete(pixels[0], 3, axis=0).mean(axis=0))
    said = describe(made)
    assert said["scan"]["step"].value == [0.5, 0.25]
    assert (said["frames"]["lost"].value, said["frames"]["recorded in"].value) == (1, str(path))
    assert said["pixels"]["saturated_pixels"].value == "count"
    assert said["beam"]["energy"].value == 200e3
    assert said["virtual detectors"]["vbf"].value["radius"] == 6
    assert not {"dropped", "recorded"} & said["frames"].keys()


def test_all_events_of_a_run_are_made_anew(run, pixels):
    made = reprocess(run, [WIDE], **QUIETLY)
    expected = [sums(pixels[0], WIDE), sums(pixels[1], WIDE, lost=[7])]
    found = images(made, "wide")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found.time, images(run, "vbf").time)
    assert found.coords["focus"].values.tolist() == [0, 10]
    assert found.coords["focus"].attrs["units"] == "nm"
    start, before = made.metadata["start"], run.metadata["start"]
    assert start["original_uid"] == before["uid"]
    assert start["sample"] == "MoS2"
    assert start["scan_id"] > before["scan_id"] == start["original_scan_id"]
    assert made.metadata["stop"]["exit_status"] == "success"
    assert made.metadata["stop"]["num_events"] == {"primary": 2}


@pytest.mark.parametrize("event", [2, -1])
def test_one_event_may_be_asked_for(run, pixels, event, catalog):
    made = reprocess(run.metadata["start"]["uid"][:8], event=event, catalog=catalog.db, **QUIETLY)
    np.testing.assert_array_equal(images(made, "vbf"), [sums(pixels[1], DISK, lost=[7])])
    assert images(made, "vbf").coords["focus"].values.tolist() == [10]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"event": 3}, r"has no Event 3 of eye: Events are numbered from 1"),
        ({"stream": "other"}, "has no images of eye in the stream 'other': primary"),
        ({"device": "live4d"}, "has recorded frames of eye: say of which device, not 'live4d'"),
        ({"methods": [Disk("frames_lost", radius=2)]}, "cannot be called 'frames_lost'"),
    ],
)
def test_what_is_not_there_is_named_and_nothing_is_written(run, catalog, asked, words):
    runs = len(catalog.db)
    with pytest.raises(ValueError, match=words):
        reprocess(run, **asked, **QUIETLY)
    assert len(catalog.db) == runs


def test_a_run_without_recorded_frames_is_named(catalog):
    with pytest.raises(
        ValueError, match="has no recorded frames: frames are recorded if the setting `record`"
    ):
        reprocess(catalog.db[catalog.count], **QUIETLY)


def test_a_file_that_is_gone_is_named_with_its_event(run, catalog, tmp_path, pixels):
    path = recorded(tmp_path / "a.h5", pixels[0])
    made = reprocess(path, catalog=catalog.db, **QUIETLY)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"the frames of Event 1 of run {made.metadata['start']['uid'][:8]}.*a\.h5"
    ):
        reprocess(made, **QUIETLY)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [(NothingCame("dark"), "fail", "NothingCame: dark"), (KeyboardInterrupt(), "abort", "KeyboardInterrupt")],
)
def test_a_run_that_fails_ends_with_the_reason_and_has_what_came_before(
    run, catalog, monkeypatch, error, status, reason
):
    make, made = reprocessing.make, []

    def second_fails(*arguments, **options):
        made.append(arguments)
        if len(made) == 2:
            raise error
        return make(*arguments, **options)

    monkeypatch.setattr(reprocessing, "make", second_fails)
    with pytest.raises(type(error)):
        reprocess(run, **QUIETLY)
    stop = catalog.db[-1].metadata["stop"]
    assert (stop["exit_status"], stop["reason"], stop["num_events"]) == (status, reason, {"primary": 1})


def test_another_mask_than_the_live_one_is_warned_of(run, monkeypatch, caplog):
    request_for = reprocessing.request_for
    mask = np.zeros((24, 32), bool)
    mask[0, 0] = True
    reprocess(run, pixel_mask=mask, event=1, **QUIETLY)
    assert "other pixels" not in caplog.text, "it was asked for"
    monkeypatch.setattr(reprocessing, "request_for", lambda *a, **k: request_for(*a, **k, pixel_mask=mask))
    reprocess(run, event=1, **QUIETLY)
    assert "other pixels are masked than in the live image" in caplog.text


def test_the_command_takes_a_run_as_show_does(run, catalog, monkeypatch, tmp_path):
    monkeypatch.setattr("live4d_ophyd.storage.existing_catalog", lambda which: catalog.db)
    monkeypatch.setattr("live4d_ophyd.commands.catalog.closing", nullcontext)
    uid = run.metadata["start"]["uid"]
    result = CliRunner().invoke(
        command, ["reprocess", uid[:8], "--disk", "12,16,5", "--backend", "cpu", "--json"]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["original_uid"], said["events"], said["frames_received"], said["frames_lost"]) == (
        uid,
        2,
        39,
        1,
    )
    assert describe(catalog.db[said["uid"]])["virtual detectors"]["disk1"].value["radius"] == 5
    refused = CliRunner().invoke(command, ["reprocess", uid[:8], "--out", str(tmp_path / "a.tif")])
    assert "`live4d export` writes the images of a run" in refused.output
    assert "no run -999" in CliRunner().invoke(command, ["reprocess", "-999"]).output


def test_a_stream_without_recorded_frames_is_named(run, monkeypatch):
    monkeypatch.setattr(reprocessing, "_events_of", lambda *_: iter(()))
    with pytest.raises(ValueError, match=r"the stream 'dark' of run .* has no recorded frames"):
        reprocess(run, [WIDE], stream="dark", **QUIETLY)

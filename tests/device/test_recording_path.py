"""Where frames are recorded: fields of the run in a path, and the same place seen from here."""

import re

import pytest

from live4d_ophyd.device.recording_path import FIELDS, check_map, check_template, expand, seen_at

RUN = {"time": 1_700_000_000.0, "scan_id": 12, "plan_name": "count", "uid": "ab-12"}


def test_each_field_is_what_the_run_is():
    path = expand("/d/{device}/{scan_id}_{plan_name}_{uid}.h5", RUN, "live4d")
    assert path == "/d/live4d/12_count_ab-12.h5"
    assert expand("/d/{date}.h5", RUN, "x").startswith("/d/2023-11-1")
    assert len(expand("/d/{time}.h5", RUN, "x")) == len("/d/123456.h5")


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", ".hidden"])
def test_a_plan_s_name_does_not_lead_out_of_the_folder(name):
    path = expand("/d/{plan_name}.h5", RUN | {"plan_name": name}, "x")
    assert path.startswith("/d/")
    assert "/" not in path.removeprefix("/d/")
    assert not path.removeprefix("/d/").startswith(".")


def test_without_a_run_there_is_a_path_all_the_same():
    assert expand("/d/{scan_id}_{time}_{uid}.h5", {}, "x") == "/d/0_none_none.h5"


def test_a_number_may_be_padded():
    check_template("/d/{scan_id:05d}.h5")
    assert expand("/d/{scan_id:05d}_{plan_name:>8}.h5", RUN, "x") == "/d/00012_   count.h5"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("data/x.h5", "expected an absolute path"),
        ("/data/x", "ends with .h5"),
        ("/data/{sample}.h5", "names {sample}; known are {date}"),
        ("/data/{.h5", "cannot be read"),
        ("/data/{}.h5", "names {}"),
        ("/data/{scan_id!x}.h5", "cannot be filled in"),
        ("/data/{plan_name:04d}.h5", "cannot be filled in"),
        ("/data/{scan_id.real.x}.h5", "names {scan_id.real.x}"),
    ],
)
def test_what_is_no_path_is_refused(template, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        check_template(template)


def test_what_is_a_path_is_taken():
    check_template("")
    check_template("/data/" + "_".join(f"{{{name}}}" for name in FIELDS) + ".h5")


@pytest.mark.parametrize(
    ("path", "where", "here"),
    [
        ("/data/a/x.h5", "/data=/mnt/gpu", "/mnt/gpu/a/x.h5"),
        ("/data/a/x.h5", "", "/data/a/x.h5"),
        ("/other/x.h5", "/data=/mnt/gpu", "/other/x.h5"),
        ("/database/x.h5", "/data=/mnt/gpu", "/database/x.h5"),
    ],
)
def test_a_file_is_seen_where_its_folder_is_mounted(path, where, here):
    assert seen_at(path, where) == here


@pytest.mark.parametrize("where", ["/data", "data=/mnt", "/a=/b=/c", "="])
def test_what_is_no_map_is_refused(where):
    check_map("")
    with pytest.raises(ValueError, match="does not say where"):
        check_map(where)

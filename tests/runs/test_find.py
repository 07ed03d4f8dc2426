"""Which run a text or number means."""

import pytest

from live4d_ophyd.runs.find import NoSuchRun, find_run


def uid_of(catalog, which):
    return find_run(catalog.db, which).metadata["start"]["uid"]


@pytest.mark.parametrize("which", ["-1", -1])
def test_minus_one_is_the_newest(catalog, which):
    newest = catalog.take()
    assert uid_of(catalog, which) == newest
    assert uid_of(catalog, int(which) - 1) != newest


def test_a_uid_its_beginning_and_a_scan_id(catalog):
    scan_id = catalog.db[catalog.scan].metadata["start"]["scan_id"]
    for which in (catalog.scan, catalog.scan[:8], scan_id, str(scan_id)):
        assert uid_of(catalog, which) == catalog.scan


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("-99", "the catalog has"),
        ("9999", "no such scan id"),
        ("abc", "5 or more"),
        ("abcdefgh", "no run 'abcdefgh'"),
        ("%", "expected a uid"),
        (987654321, "no run '987654321'"),
    ],
)
def test_what_is_not_there_is_said(catalog, which, words):
    with pytest.raises(NoSuchRun, match=words):
        find_run(catalog.db, which)


def test_a_scan_id_of_two_runs_is_refused_with_both_named(catalog):
    uids = [catalog.take(scan_id=777), catalog.take(scan_id=777)]
    with pytest.raises(NoSuchRun, match="2 runs have the scan id 777") as refused:
        find_run(catalog.db, 777)
    assert all(uid[:8] in str(refused.value) for uid in uids)

"""`live4d runs`: the runs of a catalog, the newest first."""

import json

import pytest
from click.testing import CliRunner

from live4d_ophyd import open_catalog
from live4d_ophyd.commands.main import live4d


@pytest.fixture
def listed(catalog):
    def run(*arguments):
        done = CliRunner().invoke(live4d, ["runs", "--catalog", str(catalog.directory), *arguments])
        assert done.exit_code == 0, done.output
        return done.output.splitlines()

    return run


def test_the_newest_run_is_the_first_line_and_each_has_what_tells_it_from_others(catalog, listed):
    newest = catalog.take(
        sample="two\n\x1b[31mlines of more letters than a column of the list has", operator="Ada"
    )
    header, first, *_ = lines = listed("--newest", "1000")
    assert header.split() == ["scan", "uid", "began", "plan", "sample", "ended"]
    assert len({line.split()[1] for line in lines}) == len(lines) > 3
    scan_id = catalog.db[newest].metadata["start"]["scan_id"]
    assert first.split()[:2] == [str(scan_id), newest[:8]]
    assert "count" in first
    assert r"two \x1b[31mlines of more letters than …" in first
    assert first.endswith("success")
    (of_scan,) = (line for line in lines if catalog.scan[:8] in line)
    assert "name: MoS2, layers: 2" in of_scan


def test_few_are_asked_for_and_how_many_there_are_is_said(catalog, listed):
    catalog.take()
    there = len(listed("--newest", "1000")) - 1
    *lines, last = listed("--newest", "2")
    assert len(lines) == 3
    assert last == f"2 of {there} runs (--newest {there}: all)"


def test_they_come_in_pages(catalog, listed, monkeypatch):
    catalog.take()
    at_once = listed("--newest", "3")
    monkeypatch.setattr("live4d_ophyd.runs.listing.PAGE", 2)
    assert listed("--newest", "3") == at_once
    assert len({line.split()[1] for line in at_once[1:4]}) == 3


def test_as_json_a_line_is_a_run_with_its_whole_uid(catalog, listed):
    newest = catalog.take(sample="two\nlines")
    (line,) = listed("--json", "--newest", "1")
    said = json.loads(line)
    assert (said["uid"], said["sample"], said["ended"]) == (newest, "two\nlines", "success")


def test_an_empty_catalog_and_none_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr("tiled.profiles.paths", [tmp_path / "profiles"])
    open_catalog(tmp_path / "new", name="new").context.close()
    empty = CliRunner().invoke(live4d, ["runs", "--catalog", "new"])
    assert (empty.exit_code, empty.output) == (0, "The catalog has no runs yet.\n")
    none = CliRunner().invoke(live4d, ["runs", "--catalog", str(tmp_path / "nowhere")])
    assert none.exit_code == 1
    assert "the catalog cannot be opened: no catalog" in none.output

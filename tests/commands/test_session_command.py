"""`live4d session`: which startup files it reads, in which order."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from live4d_ophyd.commands.main import live4d
from live4d_ophyd.commands.session import STARTUP, startup_files

CHECKOUT = Path(__file__).parents[2] / "profile_collection" / "startup"


def test_the_session_s_files_are_those_of_the_profile_in_the_checkout():
    assert CliRunner().invoke(live4d, ["session", "--where"]).output.strip() == str(STARTUP)
    assert STARTUP.samefile(CHECKOUT)


@pytest.mark.parametrize("given", [True, False], ids=["named", "found here"])
def test_a_user_s_files_come_after_the_session_s_own_whatever_their_names(tmp_path, monkeypatch, given):
    folder = tmp_path / ("mine" if given else "startup")
    folder.mkdir()
    for name in ("20-b.py", "00-a.py", "notes.txt"):
        (folder / name).touch()
    monkeypatch.chdir(tmp_path)
    ours = ["00-base.py", "10-devices.py", "20-plans.py", "90-preview.py"]
    assert [path.name for path in startup_files(folder if given else None)] == [*ours, "00-a.py", "20-b.py"]


def test_in_the_profile_s_folder_nothing_is_read_twice(monkeypatch):
    monkeypatch.chdir(CHECKOUT.parent)
    assert len(startup_files()) == len(list(CHECKOUT.glob("*.py")))

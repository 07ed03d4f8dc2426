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
def test_a_user_s_files_are_read_with_the_session_s_own_in_the_order_of_their_names(
    tmp_path, monkeypatch, given
):
    folder = tmp_path / ("mine" if given else "startup")
    folder.mkdir()
    for name in ("mine.py", "05-scan-generator.py", "10-devices.py", "notes.txt"):
        (folder / name).touch()
    monkeypatch.chdir(tmp_path)
    files = startup_files(folder if given else None)
    assert [(path.name, path.parent == STARTUP) for path in files] == [
        ("00-base.py", True), ("05-scan-generator.py", False), ("10-devices.py", True), ("10-devices.py", False),
        ("20-plans.py", True), ("90-preview.py", True), ("mine.py", False),
    ]  # fmt: skip


def test_in_the_profile_s_folder_nothing_is_read_twice(monkeypatch):
    monkeypatch.chdir(CHECKOUT.parent)
    assert len(startup_files()) == len(list(CHECKOUT.glob("*.py")))

"""Lines that `make mutants` breaks are lines of today."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROKEN = runpy.run_path(str(ROOT / "tests" / "by_hand" / "chosen_mutants.py"))["BROKEN"]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_the_line_to_break_is_there_once_and_so_are_its_tests(broken):
    assert (ROOT / "live4d_ophyd" / broken.file).read_text().count(broken.old) == 1
    assert broken.new != broken.old
    files = [word for word in broken.tests.split() if word.startswith("tests/")]
    assert files
    assert all((ROOT / file.partition("::")[0]).exists() for file in files)

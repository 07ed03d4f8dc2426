"""Compiled functions are kept apart by what they are compiled from: an old one never runs in a new caller."""

from pathlib import Path

import live4d_ophyd
from live4d_ophyd.frames.memory import compiled_sources

PACKAGE = Path(live4d_ophyd.__file__).parent


def names(package):
    return {path.relative_to(package).as_posix() for path in compiled_sources(package)}


def test_what_is_compiled_and_what_it_takes_constants_from_counts_and_nothing_else():
    found = names(PACKAGE)
    compiled = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "@njit" in path.read_text() and path.name != "memory.py"
    }
    assert len(compiled) > 10
    assert compiled < found
    assert {"frames/batch.py", "frames/codecs.py", "frames/memory.py"} < found
    others = {path for path in found if path.startswith(("device/", "engine/", "storage/", "commands/"))}
    assert others == {"engine/book_kernels.py"}


def test_imports_are_followed_however_they_are_written(tmp_path):
    package = tmp_path / "live4d_ophyd"
    (package / "a").mkdir(parents=True)
    files = {
        "compiled.py": "from live4d_ophyd.a import constants\n@njit(**NOGIL)\ndef f(): ...\n",
        "a/__init__.py": "",
        "a/constants.py": "from live4d_ophyd.a.more import (\n    ONE,\n    TWO as OTHER,\n)\n",
        "a/more.py": "ONE = TWO = 1\n",
        "a/other.py": "from live4d_ophyd.compiled import f\n",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    assert names(package) == {"compiled.py", "a/__init__.py", "a/constants.py", "a/more.py"}

"""Compiled functions are kept under a digest of all source that they are made of."""

from __future__ import annotations

import ast
from pathlib import Path

import live4d_ophyd
from live4d_ophyd.frames.memory import COMPILED

PACKAGE = Path(live4d_ophyd.__file__).parent


def imported_folders(path: Path) -> set[str]:
    """Folders of the package that a module imports from."""
    names = [
        node.module or ""
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
    ]
    return {name.split(".")[1] for name in names if name.startswith("live4d_ophyd.")}


def test_every_compiled_function_and_its_constants_are_in_the_digest():
    compiled = [
        path for path in PACKAGE.rglob("*.py") if "import" in (text := path.read_text()) and "njit" in text
    ]
    assert len(compiled) > 10
    for path in compiled:
        folders = {path.relative_to(PACKAGE).parts[0]} | imported_folders(path)
        assert folders <= set(COMPILED), (
            f"{path}: numba would run old code after a change in {folders - set(COMPILED)}"
        )

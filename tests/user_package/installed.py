"""The user's package as an installation leaves it: its module, and beside it what pyproject.toml says, as metadata."""

import shutil
import tomllib
from pathlib import Path

HERE = Path(__file__).parent


def install(target: Path) -> Path:
    """Install into a folder, which is then one for sys.path; returns it."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    info = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    shutil.copy(HERE / "live4d_extremes.py", target)
    return target

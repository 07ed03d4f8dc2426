"""A sample of the mutants that mutmut makes of the modules in pyproject.toml, and how many of them the tests kill.

Writes mutants.json beside this file: what was run, the numbers of every module, and each survivor as the line it
changes. Survivors that mutants.json already calls equivalent, with the reason, stay listed there and are not counted.

    python tests/by_hand/mutants.py [how many] [seed]
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).with_suffix(".json")
MUTMUT = [str(Path(sys.executable).with_name("mutmut"))]
#: mutmut's exit codes of a mutant that no test failed for, and of one that no test reaches
SURVIVED = (0, 33)


def main() -> None:
    size, seed = (int(value) for value in [*sys.argv[1:], "400", "7"][:2])
    if size < 1:
        raise SystemExit(f"{size} mutants: expected at least one")
    run("live4d_ophyd.scan*positions*")  # makes all mutants, and learns which tests reach them
    made = outcomes()
    sample = random.Random(seed).sample(sorted(made), min(size, len(made)))
    run(*sample)
    write(size, seed, made, {name: outcomes()[name] for name in sample})


def run(*names: str) -> None:
    """Test these mutants, in one process: the tests of several would disturb each other on a machine of two cores."""
    # The tests must find the package that mutmut changed, not the checkout's.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*MUTMUT, "run", "--max-children", "1", *names], cwd=ROOT, env=environment, check=True)


def outcomes() -> dict[str, int | None]:
    """Exit code by mutant; None: it was not tested."""
    codes: dict[str, int | None] = {}
    for path in sorted((ROOT / "mutants").rglob("*.meta")):
        codes |= json.loads(path.read_text())["exit_code_by_key"]
    return codes


def change(name: str) -> dict[str, str]:
    """Where a mutant is, and the lines before and after; its number changes with the code."""
    shown = subprocess.run(
        [*MUTMUT, "show", name], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    lines = [line for line in shown.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    was, now = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    where = name.partition("__mutmut_")[0].removeprefix("live4d_ophyd.")
    # mutmut mangles Class.method as xǁClassǁmethod, and function as x_function.
    return {"in": where.replace(".xǁ", ".").replace("ǁ", ".").replace(".x_", "."), "was": was, "now": now}


def write(size: int, seed: int, made: dict[str, Any], tested: dict[str, Any]) -> None:
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    reasons = {(e["in"], e["was"], e["now"]): e["why"] for e in before.get("equivalent", [])}
    equivalent: list[dict[str, str]] = []
    survivors: list[dict[str, str]] = []
    drawn, tested = len(tested), {name: code for name, code in tested.items() if code is not None}
    for name in (name for name, code in tested.items() if code in SURVIVED):
        found = change(name)
        why = reasons.get((found["in"], found["was"], found["now"]))
        (survivors if why is None else equivalent).append(found if why is None else {**found, "why": why})
    modules = {}
    of_all, of_sample = Counter(map(module, made)), Counter(map(module, tested))
    lived = Counter(module(name) for name, code in tested.items() if code in SURVIVED)
    for name in sorted(of_all):
        modules[name] = {"mutants": of_all[name], "tested": of_sample[name], "survived": lived[name]}
    killed, counted = len(tested) - sum(lived.values()), len(tested) - len(equivalent)
    result = {
        "tool": f"mutmut {version('mutmut')}, Python {sys.version.split()[0]}",
        "command": f"make mutants SAMPLE={size} SEED={seed}",
        "mutants": len(made), "drawn": drawn, "tested": len(tested), "killed": killed,
        "killed_of_not_equivalent_percent": round(100 * killed / max(1, counted), 1),
        "modules": modules,
        "equivalent": sorted(equivalent, key=lambda e: (e["in"], e["was"], e["now"])),
        "survivors": sorted(survivors, key=lambda e: (e["in"], e["was"], e["now"])),
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{killed} of {counted} mutants killed that are not known to be equivalent; see {RESULT.name}")


def module(name: str) -> str:
    return name.partition("__mutmut_")[0].removeprefix("live4d_ophyd.").partition(".x")[0]


if __name__ == "__main__":
    main()

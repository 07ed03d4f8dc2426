"""`live4d session` in an empty folder, as a script calls it."""

from __future__ import annotations

import stat
import subprocess
import sys

import forked
import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
START_TIMEOUT = 200  # s


@pytest.fixture
def session(new_user, tmp_path):
    def run(*arguments, **environment):
        return forked.run(
            [sys.executable, "-m", "live4d_ophyd", "session", *arguments],
            env=new_user | environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT,
        )

    return run


def test_a_user_s_plan_runs_and_its_run_is_in_the_catalog(session, tmp_path):
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "00-mine.py").write_text("def twice():\n    yield from count([live4d], 2)\n")
    done = session("-c", 'RE(twice()); print(db[-1].primary.read(["live4d_vbf"])["live4d_vbf"].shape)')
    assert "(2, 16, 16)" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    state = tmp_path / "home" / ".local" / "state" / "live4d-ophyd"
    assert (state / "ipython" / "history.sqlite").exists()
    for folder in (state, state / "ipython", state / "backup", tmp_path / "catalog" / "pictures"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_the_exit_code_says_that_the_code_failed(session):
    # without a detector, which would take time to start
    done = session("-c", "print(RE.state, live4d); 1/0", LIVE4D_SCAN="none")
    assert "idle None" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1

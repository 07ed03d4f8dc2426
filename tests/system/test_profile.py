"""The IPython session as its user has it: started from the profile, typed into, left without leftovers."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest

pexpect = pytest.importorskip("pexpect", reason="pexpect types into the session")
pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]
START_TIMEOUT = 90  # s; on a machine without cached kernels they are compiled first
PROMPT = r"In \[\d+\]: "


@pytest.fixture
def environment(new_user):
    return new_user | {"TERM": "dumb"}


@pytest.fixture
def session(tmp_path, environment):
    profile = tmp_path / "profile"
    shutil.copytree(REPOSITORY / "profile_collection", profile, ignore=shutil.ignore_patterns("*.sqlite*"))
    child = pexpect.spawn(
        sys.executable,
        ["-m", "IPython", f"--profile-dir={profile}", "--simple-prompt", "--colors=NoColor"],
        cwd=tmp_path,
        env=environment,
        encoding="utf-8",
        dimensions=(50, 200),
        timeout=60,
    )
    child.expect(PROMPT, timeout=START_TIMEOUT)
    child.greeting = child.before
    yield child
    if child.isalive():
        child.kill(signal.SIGKILL)
        child.wait()  # close would, for a tenth of a second
    child.close()


def typed(session, line):
    """What the session answers to a line."""
    session.sendline(line)
    session.expect(PROMPT)
    answer = session.before.replace("\r\n", "\n")
    assert "Traceback" not in answer, answer
    return answer.partition("\n")[2]


def processes_of(session):
    """Pids of the children of the session's process, and of theirs."""
    children: dict[int, list[int]] = {}
    for line in subprocess.check_output(["ps", "-eo", "pid=,ppid="], text=True).splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    found, todo = [], [session.pid]
    while todo:
        found += children.get(todo.pop(), [])
        todo += children.get(found[-1], []) if found else []
    return found


def test_a_session_from_the_greeting_to_the_exit(session, tmp_path, environment):
    assert "16 x 16 positions from a simulated detector and microscope" in session.greeting
    assert str(tmp_path / "catalog") in session.greeting
    assert "Error" not in session.greeting

    answer = typed(session, "RE(bp.count([live4d]))")
    assert "live4d_vbf_contrast" in answer
    assert "_live4d.png" in typed(session, "bec.picture_path")  # which waits for it
    pictures = list((tmp_path / "catalog" / "pictures").glob("*_live4d.png"))
    assert len(pictures) == 1
    assert pictures[0].read_bytes().startswith(b"\x89PNG")
    assert "(16, 16)" in typed(session, 'db[-1].primary.read(["live4d_vbf"])["live4d_vbf"][0].shape')

    answer = typed(session, "RE(calibrate_bright_field(live4d))")
    center_row, center_col, radius = map(
        float, re.search(r"centre row ([\d.]+), col ([\d.]+) px, radius ([\d.]+) px", answer).groups()
    )
    # truth of the simulator's default detector
    assert (center_row, center_col, radius) == pytest.approx((46.8, 48.9, 15.0), abs=0.2)

    answer = typed(session, "RE(autofocus(live4d, defocus, -100, 100, num=5))")
    found = float(re.search(r"microscope_defocus = (\S+) \+- \S+ nm", answer)[1])
    assert abs(found) < 50
    assert float(typed(session, "print(defocus.get())")) == pytest.approx(found, rel=1e-3, abs=1e-3)

    # an error is one message at the prompt, no pages of traceback (typed looks for these)
    answer = typed(session, "RE(autofocus(live4d, defocus, 150, 250, num=3, refine=0))")
    assert re.search(r"FocusNotFound: the contrast is highest at 150.*Try 100 to 200", answer)

    session.sendline("%tb")
    session.expect(PROMPT)
    assert "Traceback" in session.before
    assert "in bracket" in session.before

    # a callback of the user's that raises ends the run; of their own functions the traceback is there at once
    session.sendline("RE(count([live4d]), lambda name, doc: fault(doc))")
    session.expect(PROMPT)
    assert "NameError: name 'fault' is not defined" in session.before
    assert "Traceback" not in session.before
    session.sendline("%tb")
    session.expect(PROMPT)
    assert "fault(doc)" in session.before
    session.sendline("1/0")
    session.expect(PROMPT)
    assert "Traceback" in session.before

    answer = typed(session, "%wa")
    assert re.search(rf"microscope_defocus\s+{found:.3g}", answer)
    assert "Error" not in answer
    assert "vbf_radius" in typed(session, "live4d.summary()")
    assert "autofocus(live4d, defocus" in typed(session, "tips()")
    assert "live4d" in answer

    typed(session, "RE(movie(live4d, 3))")
    assert "3" in typed(session, 'len(db[-1]["live4d_movie"].read(["live4d_vbf"])["time"])')
    assert "6" in typed(session, "len(db)")

    children = processes_of(session)
    assert len(children) >= 2  # the simulator and the engine
    session.sendline("exit()")
    session.expect(pexpect.EOF, timeout=20)
    session.wait()
    assert session.exitstatus == 0
    deadline = time.monotonic() + 20  # those beside the session notice its end
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in children):
        time.sleep(0.05)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]

    reader = (
        "from databroker import catalog\n"
        "run = catalog['live4d'][-1]\n"
        "print(run.start['plan_name'], run['live4d_movie']['live4d_vbf'].shape)\n"
    )
    command = [sys.executable, "-c", reader]
    answer = forked.run(
        command, env=environment, capture_output=True, check=True, text=True, timeout=60
    ).stdout
    assert answer.strip() == "movie (3, 16, 16)"


def test_ctrl_c_pauses_the_plan_and_nothing_else(session):
    session.sendline("RE(count([live4d], num=1000))")
    session.expect(r"\| +3 \|")
    session.sendintr()
    session.expect("deferred pause")
    session.expect(PROMPT)
    assert "RE.resume()" in session.before
    typed(session, "RE.abort()")
    typed(session, "RE(count([live4d]))")
    assert "success" in typed(session, "db[-1].stop['exit_status']")
    assert "abort" in typed(session, "db[-2].stop['exit_status']")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"LIVE4D_SCAN": "128"},
            r"There is no live4d: LIVE4D_SCAN: '128' is not ROWSxCOLS, at least one of each, for example 256x256",
        ),
        ({"LIVE4D_DCU": "http://127.0.0.1:9"}, r"live4d does not work yet: .*127\.0\.0\.1:9"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_session_without_its_detector_starts_and_says_what_is_missing(tmp_path, environment, wrong, words):
    profile = tmp_path / "profile"
    shutil.copytree(REPOSITORY / "profile_collection", profile)
    command = "print(len(db), RE.state, callable(count)); tips()"
    answer = subprocess.run(
        [sys.executable, "-m", "IPython", f"--profile-dir={profile}", "--colors=NoColor", "-c", command],
        env=environment | wrong,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT,
    )
    said = answer.stdout + answer.stderr
    assert re.search(words, said), said
    assert "0 idle True" in said
    assert "Traceback" not in said

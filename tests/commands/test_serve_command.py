"""`live4d serve` before it serves."""

import os
import subprocess
import sys

import pytest

LIVE4D = [sys.executable, "-c", "from live4d_ophyd.commands.main import main; main()"]


@pytest.mark.parametrize("content", [None, "no key"])
def test_a_key_that_is_not_there_or_none_is_named_and_the_process_ends(tmp_path, content):
    if content:
        (tmp_path / "server.key_secret").write_text(content)
    done = subprocess.run(
        [*LIVE4D, "serve", "tcp://127.0.0.1:0", "--backend", "cpu", "--curve", tmp_path],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("Error: cannot serve at tcp://127.0.0.1:0: ")
    assert "server.key_secret" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("said", "threads"), [({}, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3")])
def test_a_fit_in_the_engine_takes_one_core_unless_more_are_asked_for(said, threads):
    check = (
        "import os, sys; from live4d_ophyd.commands.main import live4d; assert 'numpy' not in sys.modules; "
        "live4d.get_command(None, 'serve'); print(os.environ['OPENBLAS_NUM_THREADS'], 'numpy' in sys.modules)"
    )
    others = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", check], env=others | said, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [threads, "True"]

"""What an engine on this machine leaves behind, and what it never deletes."""

import os
import socket
import subprocess
import sys

import pytest

from live4d_ophyd.engine.process.sockets import check_free
from live4d_ophyd.engine.process.spawn import remove_folder_of


def serve(endpoint):
    """An engine that its owner leaves at once."""
    return subprocess.run(
        [sys.executable, "-m", "live4d_ophyd", "serve", endpoint, "--owned", "--backend", "cpu"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def test_an_owned_engine_at_a_users_path_deletes_nothing_of_the_user(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.h5").write_text("years")
    (tmp_path / "engine.log").write_text("mine")
    assert serve(f"ipc://{tmp_path}/engine").returncode == 0
    assert (tmp_path / "data" / "thesis.h5").read_text() == "years"
    assert (tmp_path / "engine.log").read_text() == "mine"


def test_an_engine_never_takes_the_path_of_a_file(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    done = serve(f"ipc://{tmp_path}/thesis.tex")
    assert done.returncode == 1
    assert "is no socket: choose another path" in done.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years"


def folder(tmp_path):
    made = tmp_path / "live4d-engine-abc"
    made.mkdir()
    (made / "engine.log").write_text("")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(made / "engine"))
    return made


def test_a_folder_that_a_session_made_goes_with_its_socket_and_log(tmp_path):
    made = folder(tmp_path)
    remove_folder_of(f"ipc://{made}/engine")
    assert not made.exists()


def test_something_else_in_that_folder_stays(tmp_path):
    made = folder(tmp_path)
    (made / "notes").write_text("mine")
    remove_folder_of(f"ipc://{made}/engine")
    assert os.listdir(made) == ["notes"]


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:31100", "ipc://@abstract", "ipc:///nowhere/at/all"])
def test_an_address_without_such_a_folder_is_left_alone(endpoint):
    remove_folder_of(endpoint)
    check_free(endpoint)


def test_a_socket_is_taken_over_only_when_nobody_listens(tmp_path):
    path = tmp_path / "engine"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        check_free(f"ipc://{path}")
        other.listen()
        with pytest.raises(ValueError, match="another process listens at"):
            check_free(f"ipc://{path}")
    check_free(f"ipc://{path}")

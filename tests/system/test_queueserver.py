"""The startup files, unchanged, under bluesky-queueserver: listed, and run by its manager with a real Redis."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import yaml

pytest.importorskip("bluesky_queueserver", reason="bluesky-queueserver is not installed")
pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]
STARTUP = REPOSITORY / "profile_collection" / "startup"
PERMISSIONS = REPOSITORY / "profile_collection" / "user_group_permissions.yaml"
PLANS = {
    "autofocus", "calibrate_bright_field", "calibrate_lattice", "calibrate_rotation", "correct_astigmatism",
    "correct_defocus", "focal_series", "load_calibration", "measure_flat_field", "movie", "save_calibration",
    "single_image", "tile_scan", "track_region",
}  # fmt: skip
BIN = Path(sys.executable).parent
START_TIMEOUT = 90  # s


@pytest.fixture
def environment(new_user):
    return new_user | {"PYTHONDONTWRITEBYTECODE": "1"}


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def existing():
    """The file of the newest listing, by the queueserver's own command; see `listing`."""
    return []


@pytest.fixture
def listing(tmp_path, environment, existing):
    """The file with all plans and devices, listed once: each is a whole session."""
    if not existing:
        subprocess.run(
            [BIN / "qserver-list-plans-devices", "--startup-dir", STARTUP, "--file-dir", tmp_path],
            env=environment,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=START_TIMEOUT,
        )
        existing.append((tmp_path / "existing_plans_and_devices.yaml").read_text())
    path = tmp_path / "existing_plans_and_devices.yaml"
    path.write_text(existing[0])
    return path


def test_plans_and_devices_are_listed(listing):
    listed = yaml.safe_load(listing.read_text())
    plans, devices = listed["existing_plans"], listed["existing_devices"]
    assert PLANS | {"count", "scan", "grid_scan", "mv"} <= set(plans)
    assert {"live4d", "microscope", "defocus", "stage_x", "stage_y"} <= set(devices)
    assert devices["live4d"]["is_readable"]
    assert devices["live4d"]["is_flyable"]
    assert devices["defocus"]["is_movable"]
    for name in PLANS:
        device_parameters = [
            p for p in plans[name]["parameters"] if p["name"] in ("detector", "detectors", "defocus")
        ]
        assert device_parameters
        for parameter in device_parameters:
            assert "protocols" in str(parameter) or "__" in str(parameter), parameter


def test_the_command_on_the_page_listens_on_this_machine_only():
    page = (REPOSITORY / "docs" / "how-to" / "queueserver.md").read_text()
    command = page[page.index("start-re-manager") : page.index("```", page.index("start-re-manager"))]
    for option in ("--zmq-control-addr", "--zmq-info-addr"):
        assert f"{option} tcp://127.0.0.1:" in command  # the manager's default is all interfaces


@pytest.fixture
def manager(tmp_path, environment, listing):
    """A client of a running manager, with Redis and everything else in ``tmp_path``."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    from bluesky_queueserver.manager.comms import CommTimeoutError, ZMQCommSendThreads

    redis_port, control_port, info_port = free_ports(3)
    logs = [open(tmp_path / name, "w") for name in ("redis.log", "manager.log")]  # noqa: SIM115
    redis = subprocess.Popen(
        ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path],
        stdout=logs[0],
        stderr=logs[0],
    )
    server = subprocess.Popen(
        [
            BIN / "start-re-manager",
            *("--startup-dir", STARTUP),
            *("--existing-plans-devices", listing),
            *("--user-group-permissions", PERMISSIONS),
            *("--redis-addr", f"127.0.0.1:{redis_port}"),
            *("--zmq-control-addr", f"tcp://127.0.0.1:{control_port}"),
            *("--zmq-info-addr", f"tcp://127.0.0.1:{info_port}"),
            "--keep-re",
        ],
        env=environment,
        cwd=tmp_path,
        stdout=logs[1],
        stderr=logs[1],
    )
    client = ZMQCommSendThreads(zmq_server_address=f"tcp://127.0.0.1:{control_port}")

    def ask(method, **params):
        answer = client.send_message(method=method, params=params, timeout=5000)
        assert answer.get("success", True), answer
        return answer

    def wait_for(condition, timeout=START_TIMEOUT):
        """Status of the manager as soon as ``condition(status)`` holds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                status = ask("status")
            except CommTimeoutError:
                continue
            if condition(status):
                return status
            time.sleep(0.1)
        raise AssertionError(f"{status}\n{(tmp_path / 'manager.log').read_text()[-4000:]}")

    ask.wait_for = wait_for
    try:
        wait_for(lambda status: status["manager_state"] == "idle")
        yield ask
    finally:
        client.send_message(method="manager_stop", params={"option": "safe_off"}, raise_exceptions=False)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        client.close()
        client._ctx.term()  # close() leaves it, and with it a ResourceWarning
        redis.terminate()
        redis.wait(10)
        for log in logs:
            log.close()


def test_a_queue_runs_to_its_end(manager, environment):
    manager("environment_open")
    manager.wait_for(lambda status: status["worker_environment_exists"] and status["manager_state"] == "idle")
    user = {"user": "test", "user_group": "primary"}
    for name, args in (
        ("count", [["live4d"]]),
        ("calibrate_bright_field", ["live4d"]),
        ("list_scan", [["live4d"], "defocus", [0, 12.5, 20]]),
        ("focal_series", [["live4d"], "defocus", -20, 20, 3]),
    ):
        manager("queue_item_add", item={"item_type": "plan", "name": name, "args": args}, **user)
    manager("queue_start")
    manager.wait_for(lambda status: status["items_in_history"] == 4 and status["manager_state"] == "idle")
    history = manager("history_get")["items"]
    assert [item["result"]["exit_status"] for item in history] == ["completed"] * 4, history
    manager("environment_close")
    manager.wait_for(lambda status: not status["worker_environment_exists"])

    reader = (
        "from databroker import catalog\n"
        "db = catalog['live4d']\n"
        "print(len(db), db[1].start['plan_name'], db[-1].primary['live4d_vbf'].shape, "
        "db[-2].primary['microscope_defocus'].read().tolist())\n"
    )
    command = [sys.executable, "-c", reader]
    answer = forked.run(
        command, env=environment, capture_output=True, check=True, text=True, timeout=60
    ).stdout
    assert answer.strip() == "4 count (3, 16, 16) [0.0, 12.5, 20.0]"

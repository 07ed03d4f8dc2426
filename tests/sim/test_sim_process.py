"""The simulator as its users meet it: a process, its REST interface, its microscope, its commands."""

import contextlib
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import time

import forked
import httpx
import numpy as np
import pytest

from live4d_ophyd.commands.sim import sim
from live4d_ophyd.sim import SimulatorProcess
from live4d_ophyd.sim.process import command_line
from live4d_ophyd.sim.server import _show_progress, build_dcu


@pytest.fixture
def client(simulator, make_client):
    return make_client(simulator.stream_endpoint, simulator.rest_url)


def test_ready_line_tells_the_truth(simulator, client):
    assert (simulator.rows, simulator.cols, simulator.step_nm) == (8, 8, 0.25)
    facts = client.http.get("/microscope/truth").json()
    assert tuple(facts["bf_center"]) == simulator.bf_center
    assert facts["bf_radius"] == simulator.bf_radius == 15
    assert len(facts["dead_pixels"]) == 3
    assert facts["electrons_per_frame"] == pytest.approx(20805, abs=1)


def test_what_a_dcu_is_built_with_are_options_of_the_command():
    options = {option.name for option in sim.params}
    assert inspect.signature(build_dcu).parameters.keys() - options == {"endpoint", "faults"}


def test_one_series_over_rest(client):
    assert client.get("state", kind="status") == "idle"
    assert client.get("nimages") == 64
    answer = client.command("arm").json()
    received = client.series()
    assert received.start.series_id == answer["sequence id"]
    assert received.ids == list(range(64))
    assert client.get("dropped", "stream", "status") == 0


def test_a_request_on_a_kept_connection_does_not_wait(simulator, client):
    def seconds(get):
        begin = time.perf_counter()
        assert get("/microscope/truth").status_code == 200
        return time.perf_counter() - begin

    with httpx.Client(base_url=simulator.rest_url, limits=httpx.Limits(max_keepalive_connections=0)) as anew:
        times = [(seconds(client.http.get), seconds(anew.get)) for _ in range(20)]
    kept, new = np.median(times, axis=0)
    assert kept < max(2 * new, 0.02)  # a system that puts small packets together holds them back for 0.04 s


def test_software_trigger_over_rest(client):
    client.put("trigger_mode", "ints").raise_for_status()
    client.command("arm").raise_for_status()
    assert client.command("trigger").status_code == 200
    assert len(client.series().ids) == 64
    client.put("trigger_mode", "exts").raise_for_status()


def test_put_answers_what_changed(client):
    assert client.put("count_time", 2e-3).json() == ["count_time", "frame_time"]
    assert client.put("frame_time", 1 / 30e3).json() == ["frame_time", "count_time"]


def test_version_keys_and_other_modules(client):
    assert client.http.get("/detector/api/version").json()["value"] == "1.8.0"
    assert "count_time" in client.http.get("/detector/api/1.8.0/config").json()
    assert client.get("mode", "filewriter") == "enabled"
    assert client.get("high_voltage/state", kind="status") == "READY"
    assert client.command("hv_enabled").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "words"),
    [
        ("GET", "/detector/api/1.8.0/config/nonsense", None, 404, "no config parameter 'nonsense'"),
        ("GET", "/detector/api/1.6.0/config/nimages", None, 404, "speak API 1.8.0"),
        ("GET", "/monitor/api/1.8.0/config/mode", None, 404, "no module 'monitor'"),
        ("PUT", "/detector/api/1.8.0/config/nimages", {"value": -1}, 400, "nimages = -1"),
        ("PUT", "/detector/api/1.8.0/config/nimages", {"val": 1}, 400, 'no "value"'),
        ("PUT", "/detector/api/1.8.0/config/nimages", [1], 400, "expected a JSON object"),
        ("PUT", "/detector/api/1.8.0/command/fire", None, 404, "no command 'fire'; there are: abort, arm"),
        ("PUT", "/detector/api/1.8.0/command/trigger", None, 400, "state is idle, arm first"),
        ("PUT", "/microscope/defocus", {"value": 999}, 400, "allowed from -250.0 to 250.0"),
        ("PUT", "/microscope/tilt", {"value": 1.0}, 404, "no microscope value 'tilt'"),
        ("PUT", "/microscope/scan", {"rows": 0}, 400, "scan rows = 0: allowed from 1 to 1048576"),
        ("PUT", "/microscope/scan", {"rows": 4096, "cols": 4096}, 400, "more than 1048576 positions"),
        ("PUT", "/microscope/scan", {"width": 4}, 400, "a scan has no 'width'; it has cols, flyback,"),
        ("PUT", "/faults", {"drop": "some"}, 400, "fault drop: 'some'"),
    ],
)
def test_wrong_requests_are_refused_with_a_reason(client, method, path, body, code, words):
    response = client.http.request(method, path, json=body)
    assert (response.status_code, response.headers["content-type"][:10]) == (code, "text/plain")
    assert words in response.text


def test_faults_over_rest(client):
    client.http.put("/faults", json={"drop": "every:8"}).raise_for_status()
    assert client.http.get("/faults").json()["drop"] == "every:8"
    client.command("arm").raise_for_status()
    assert client.series().ids == [i for i in range(64) if i % 8 != 7]
    client.http.put("/faults", json={}).raise_for_status()


def test_another_raster(client):
    scan = client.http.put("/microscope/scan", json={"rows": 4, "cols": 6, "step_nm": 0.5}).json()
    assert {name: scan[name] for name in ("rows", "cols", "step_nm")} == {
        "rows": 4,
        "cols": 6,
        "step_nm": 0.5,
    }
    client.put("nimages", 30).raise_for_status()
    client.command("arm").raise_for_status()
    frames = client.series().frames()
    assert np.array_equal(frames[0], frames[24])
    client.http.put("/microscope/scan", json={"rows": 8, "cols": 8, "step_nm": 0.25}).raise_for_status()
    client.put("nimages", 64).raise_for_status()


def test_options_become_arguments():
    assert command_line(rows=4, no_end=True, block=False, bf_center=(1.5, 2), shape=(96, 64), drop=None) == [
        "--rows",
        "4",
        "--no-end",
        "--bf-center",
        "1.5,2",
        "--shape",
        "96x64",
    ]


def test_keys_to_leave_out_are_one_argument_each():
    assert command_line(without=["humidity", "mask_to_zero"], api="1.6.0") == [
        "--without",
        "humidity",
        "--without",
        "mask_to_zero",
        "--api",
        "1.6.0",
    ]


def test_process_ends_with_its_context():
    with SimulatorProcess(rows=2, cols=2) as process:
        assert process.running
        url = process.rest_url
    assert not process.running
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_process_ends_with_its_parent():
    script = (
        "import os\n"
        "from live4d_ophyd.sim import SimulatorProcess\n"
        "process = SimulatorProcess(rows=2, cols=2)\n"
        "print(process.pid, process.rest_url, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    child = forked.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=100)
    assert child.returncode == -signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(int(child.stdout.split()[0]))
        ended, _, _ = select.select([handle], [], [], 10)
        os.close(handle)
        assert ended


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bf_radius": 1}, r"bf_radius is 1.0 px"),
        ({"shape": "96"}, r"'96' is not ROWSxCOLS"),
        ({"drop": "x"}, r"fault drop"),
        ({"rate": 1e9}, r"frame_time = 1e-09"),
    ],
)
def test_what_went_wrong_is_passed_on(options, words):
    with pytest.raises(RuntimeError, match=words):
        SimulatorProcess(**options)


def test_ports_in_use_are_named(simulator):
    rest_port, stream_port = (
        int(address.rsplit(":", 1)[1]) for address in (simulator.rest_url, simulator.stream_endpoint)
    )
    with pytest.raises(RuntimeError, match=rf"cannot serve REST on 127.0.0.1:{rest_port}: Address already"):
        SimulatorProcess(rest_port=rest_port)
    with pytest.raises(
        RuntimeError, match=rf"cannot stream at tcp://127.0.0.1:{stream_port}: Address already"
    ):
        SimulatorProcess(stream_port=stream_port)


def test_interrupt_ends_the_command():
    command = [sys.executable, "-m", "live4d_ophyd", "sim", "--rows", "2", "--cols", "2"]
    with forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["rest_url"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err


def test_faults_are_set_from_outside_the_process(simulator, client):
    simulator.set_faults(drop="3,5", rest_errors=1)
    assert client.http.get("/faults").json()["rest_errors"] == 1
    simulator.set_faults()
    assert client.http.get("/faults").json()["drop"] == ""
    with pytest.raises(ValueError, match="fault drop: 'some' picks no frames"):
        simulator.set_faults(drop="some")


def test_a_restarted_simulator_is_where_and_what_it_was(make_client):
    with SimulatorProcess(rows=4, cols=4, shape=(32, 32), seed=3) as process:
        client = make_client(process.stream_endpoint, process.rest_url)
        client.http.put(
            "/microscope/scan", json={"rows": 3, "cols": 5, "serpentine": True}
        ).raise_for_status()
        client.put("nimages", 15)
        addresses, pid = (process.rest_url, process.stream_endpoint), process.pid

        def frames():
            client.command("arm").raise_for_status()
            return client.series().frames()

        before = frames()
        process.restart()
        assert (process.rest_url, process.stream_endpoint) == addresses
        assert process.pid != pid
        client.put("nimages", 15)
        after = frames()
        assert list(after) == list(range(15))
        assert all(np.array_equal(after[n], before[n]) for n in range(15))


def test_a_simulator_that_died_is_restarted_as_it_was_started():
    with SimulatorProcess(rows=2, cols=3) as process:
        os.kill(process.pid, signal.SIGKILL)
        process._process.wait(20)
        process.restart()
        assert process.running
        assert httpx.get(f"{process.rest_url}/microscope/scan", trust_env=False).json()["cols"] == 3


def test_progress_is_a_line_on_a_terminal(make_dcu, capsys):
    class Looks:
        """So many half seconds."""

        left = 3

        def wait(self, seconds):
            self.left -= 1
            return self.left < 0

    _show_progress(make_dcu(), Looks())
    assert capsys.readouterr().err == "\rsimulator: idle\n"

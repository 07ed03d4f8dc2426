"""`live4d doctor`: every check gives a line, whatever becomes of it, and only failures fail the command."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import types

import forked
import pytest
import zmq
from click.testing import CliRunner

from live4d_ophyd.commands import decode_rate
from live4d_ophyd.commands import doctor as doctor_command
from live4d_ophyd.commands.main import live4d
from live4d_ophyd.decode import BackendUnavailable, CpuBackend
from live4d_ophyd.decode.errors import GpuError, GpuLost, GpuMemoryError
from live4d_ophyd.decode.gpu import install as cuda_install
from live4d_ophyd.decode.gpu.nvcomp import NvcompError
from live4d_ophyd.sim import SimulatorProcess

MACHINE = ["Python", "processor", "libzmq", "socket buffers", "CPU backend", "GPU backend", "catalog"]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(decode_rate, "RATE_S", 0.05)


@pytest.fixture
def no_catalog(tmp_path):
    return tmp_path / "not there" / "catalog"


def run(*arguments):
    """(exit code, standard output)"""
    result = CliRunner().invoke(live4d, ["doctor", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout


def run_json(*arguments):
    """(exit code, checks by name)"""
    code, text = run(*arguments, "--json")
    checks = json.loads(text)["checks"]
    assert all(list(check) == ["name", "status", "found", "advice"] for check in checks)
    return code, {check["name"]: check for check in checks}


@pytest.fixture
def endpoint_without_anybody(monkeypatch):
    monkeypatch.setattr(doctor_command, "ANSWER_S", 0.5)
    with socket.socket() as taken:  # bound, so that nobody else takes the port; it does not listen
        taken.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"


def sees_gpu():
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def test_the_machine_s_checks_come_in_order_and_shortfalls_have_advice(no_catalog):
    code, checks = run_json("--catalog", no_catalog)
    assert code == 0
    assert list(checks) == MACHINE
    assert "sums exact" in checks["CPU backend"]["found"]
    for check in checks.values():
        assert check["status"] in ("ok", "warn", "missing")
        assert bool(check["advice"]) == (check["status"] != "ok")


@pytest.mark.skipif(sees_gpu(), reason="torch sees a GPU")
def test_no_gpu_is_missing_not_failed(no_catalog):
    code, checks = run_json("--catalog", no_catalog)
    assert code == 0
    assert checks["GPU backend"]["status"] == "missing"
    assert "backend='auto' takes the CPU" in checks["GPU backend"]["found"]
    assert checks["GPU backend"]["advice"].startswith("to decode on a GPU: ")


@pytest.mark.gpu
@pytest.mark.skipif(not sees_gpu(), reason="torch sees no GPU")
def test_a_gpu_is_described_and_measured():
    check = doctor_command.gpu_backend()
    assert check.status == "ok", check
    for word in ("nvCOMP", "GiB", "driver", "torch", "CUDA", "GB/s", "kHz", "sums exact"):
        assert word in check.found


def test_the_table_has_a_line_a_check_and_one_for_its_advice(no_catalog):
    _, text = run("--catalog", no_catalog)
    lines = text.splitlines()
    advice = [line for line in lines if line.startswith(" ")]
    assert [line[9:24].strip() for line in lines if line not in advice] == MACHINE
    assert all(line.lstrip().startswith("-> ") for line in advice)


def test_a_dead_endpoint_fails_and_is_named(endpoint_without_anybody, no_catalog):
    code, checks = run_json("--catalog", no_catalog, "--endpoint", endpoint_without_anybody)
    assert code == 1
    assert checks["stream"]["status"] == "failed"
    assert endpoint_without_anybody in checks["stream"]["found"]
    assert checks["stream"]["advice"]


@pytest.mark.parametrize(
    ("check", "address"), [(doctor_command.stream, "dcu:31001"), (doctor_command.simplon, "dcu")]
)
def test_an_address_of_the_wrong_form_fails_with_the_right_one(check, address):
    found = check(address)
    assert found.status == "failed"
    assert address in found.found
    assert "://HOST" in found.advice


def test_a_dead_control_unit_fails_and_is_named(endpoint_without_anybody):
    url = endpoint_without_anybody.replace("tcp", "http")
    check = doctor_command.simplon(url)
    assert check.status == "failed"
    assert url in check.found


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cr3t@127.0.0.1:9",
        "http://user:s3/cr3t@dcu",
        "user:s3cr3t@dcu",
        "http://us er:s3cr3t@dcu",
    ],
)
def test_the_password_of_a_control_unit_is_not_shown(url):
    check = doctor_command.simplon(url)
    assert check.status == "failed"
    assert "cr3t" not in f"{check.found} {check.advice}"


def test_a_control_unit_is_asked_in_the_version_that_is_given(no_catalog):
    with SimulatorProcess(rows=2, cols=2, api="1.6.0") as sim:
        url = sim.rest_url.replace("http://", "http://user:s3cr3t@")
        code, checks = run_json("--catalog", no_catalog, "--simplon", url, "--api", "1.6.0")
        assert code == 0
        assert checks["SIMPLON"]["found"] == f"{sim.rest_url} speaks 1.6.0, the detector's state is idle"
        assert doctor_command.simplon(sim.rest_url, "1.8.0").status == "failed"


def test_a_live_detector_is_ok(no_catalog):
    with SimulatorProcess(rows=2, cols=2) as sim:
        code, checks = run_json(
            "--catalog", no_catalog, "--endpoint", sim.stream_endpoint, "--simplon", f"{sim.rest_url}/"
        )
    assert code == 0
    assert checks["stream"]["status"] == checks["SIMPLON"]["status"] == "ok"
    assert "1.8.0" in checks["SIMPLON"]["found"]


def test_messages_taken_from_a_running_series_are_confessed():
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger = 0
        push.sndtimeo = 10_000
        port = push.bind_to_random_port("tcp://127.0.0.1")
        detector = threading.Thread(target=push.send, args=[b"of a series"])  # waits for a client
        detector.start()
        check = doctor_command.stream(f"tcp://127.0.0.1:{port}")
        detector.join()
    assert check.status == "warn"
    assert check.advice == "check the stream between series"


def test_a_check_that_raises_has_failed_and_the_others_go_on(no_catalog, monkeypatch):
    def broken():
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(doctor_command, "libzmq", broken)
    code, checks = run_json("--catalog", no_catalog)
    assert code == 1
    assert list(checks) == MACHINE
    assert checks["libzmq"] == {
        "name": "libzmq",
        "status": "failed",
        "found": "two lines",
        "advice": "unexpected (RuntimeError): please report it",
    }


def test_a_missing_package_is_missing_and_named(no_catalog, monkeypatch):
    def needs_more():
        raise ModuleNotFoundError("No module named 'tiled'")

    monkeypatch.setattr(doctor_command, "libzmq", needs_more)
    _, checks = run_json("--catalog", no_catalog)
    assert checks["libzmq"]["status"] == "missing"
    assert "tiled" in checks["libzmq"]["found"]
    assert "pip install" in checks["libzmq"]["advice"]


class Wrong:
    """A backend whose last frame of a batch is one count off, or refused."""

    name, detail, in_flight = "gpu", "a GPU", 2

    def __init__(self, status=0):
        self._status = status
        self._cpu = CpuBackend()
        self.memory = self._cpu.memory

    def decoder(self, frame, *, saturation):
        self._decoder = self._cpu.decoder(frame, saturation=saturation)
        return self

    def submit(self, batch, entries, demand):
        self._decoded = self._decoder.submit(batch, entries, demand)
        return self

    def parts(self):
        for part in self._decoded.parts():
            part.sums[-1] += 1
            part.status[-1] = self._status
            yield part

    def working(self):
        return self._decoder.working()


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "1 of [0-9]+ sums are wrong"), (-109, "1 of [0-9]+ good frames are refused: .*LZ4")],
)
def test_wrong_sums_fail_on_either_backend(monkeypatch, status, words):
    monkeypatch.setattr(doctor_command, "choose_backend", lambda backend: Wrong(status))
    monkeypatch.setattr(doctor_command, "CpuBackend", lambda: Wrong(status))
    for check in (doctor_command.gpu_backend(), doctor_command.cpu_backend()):
        assert check.status == "failed"
        assert check.advice
        assert re.search(words, check.found)


def cause(error, of):
    error.__cause__ = of
    return error


@pytest.mark.parametrize(
    ("error", "status", "advice"),
    [
        (
            BackendUnavailable("No module named 'torch'", remedy="pip install x, then: pip check"),
            "missing",
            "to decode on a GPU: pip install x, then: pip check",
        ),
        (
            cause(GpuError("no nvCOMP", remedy="pip install y"), NvcompError("no nvCOMP")),
            "missing",
            "to decode on a GPU: pip install y",
        ),
        (GpuError("decodes a known frame to 1 instead of 64"), "failed", "backend='cpu'"),
        (GpuLost("the GPU failed: illegal address"), "failed", "backend='cpu'"),
        (GpuMemoryError("the GPU's memory is full"), "warn", "nvidia-smi"),
    ],
)
def test_a_gpu_that_is_not_there_is_missing_and_a_broken_one_failed(monkeypatch, error, status, advice):
    def refuse(backend):
        raise error

    monkeypatch.setattr(doctor_command, "choose_backend", refuse)
    check = doctor_command.gpu_backend()
    assert check.status == status
    assert advice in check.advice


def torch_of(cuda):
    """A torch that sees no GPU."""
    torch = types.ModuleType("torch")
    torch.__version__ = "2.10.0"
    torch.version = types.SimpleNamespace(cuda=cuda)
    torch.cuda = types.SimpleNamespace(is_available=lambda: False)
    return torch


@pytest.mark.parametrize(
    ("torch_cuda", "driver", "found", "advice"),
    [
        (
            None,
            (13, 0),
            "torch 2.10.0 is built without CUDA; backend='auto' takes the CPU",
            "pip install 'live4d-ophyd[gpu]'",
        ),
        (None, (12, 8), "torch 2.10.0 is built without CUDA", "pip install 'live4d-ophyd[gpu12]'"),
        (
            "13.0",
            (12, 8),
            "torch 2.10.0 is built for CUDA 13.0, the driver takes CUDA 12.8 at most",
            "pip install 'live4d-ophyd[gpu12]'",
        ),
    ],
)
def test_packages_and_driver_of_different_cuda_come_with_what_mends_them(
    monkeypatch, torch_cuda, driver, found, advice
):
    monkeypatch.setitem(sys.modules, "torch", torch_of(torch_cuda))
    monkeypatch.setattr(cuda_install, "driver_cuda", lambda: driver)
    check = doctor_command.gpu_backend()
    assert check.status == "missing"
    assert check.found.startswith(found)
    assert (
        "pip uninstall -y torch nvidia-libnvcomp-cu12 nvidia-libnvcomp-cu13 nvidia-cuda-nvrtc && "
        in check.advice
    )
    assert advice in check.advice


def test_small_socket_buffers_come_with_the_line_that_raises_them(tmp_path, monkeypatch):
    (tmp_path / "rmem_max").write_text("212992\n")
    monkeypatch.setattr(doctor_command, "_RMEM_MAX", tmp_path / "rmem_max")
    check = doctor_command.socket_buffers()
    assert check.status == "warn"
    assert "0.203 MiB" in check.found
    assert "sysctl -w net.core.rmem_max=16777216" in check.advice


def test_limits_that_a_container_does_not_see_are_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_command, "_RMEM_MAX", tmp_path / "absent")
    assert doctor_command.socket_buffers().status == "warn"


def test_a_catalog_that_is_not_there_is_not_made(no_catalog):
    check = doctor_command.catalog(no_catalog)
    assert check.status == "missing"
    assert f"none yet at {no_catalog}" in check.found
    assert not no_catalog.parent.exists()


def test_a_catalog_is_opened_and_left_as_it_was(tmp_path):
    database = tmp_path / "catalog.db"
    # As open_catalog has it made.
    forked.run([sys.executable, "-m", "tiled", "catalog", "init", database], check=True, capture_output=True)
    before = database.read_bytes()
    check = doctor_command.catalog(tmp_path)
    assert check.status in ("ok", "warn"), check  # by the space that is free
    assert f"{tmp_path}: 0 runs" in check.found
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.db"]
    assert database.read_bytes() == before


def test_a_file_that_is_no_catalog_fails(tmp_path):
    (tmp_path / "catalog.db").write_bytes(b"")
    check = doctor_command.catalog(tmp_path)
    assert check.status == "failed"
    assert "cannot be opened" in check.found
    assert "\n" not in check.found


def test_torch_is_not_loaded_with_the_command():
    subprocess.run(
        [sys.executable, "-c", "import sys, live4d_ophyd.commands.doctor; assert 'torch' not in sys.modules"],
        check=True,
    )

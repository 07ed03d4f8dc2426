"""The simulator's REST takes no body that nobody means, and no latency that never ends."""

import threading

import httpx
import pytest


class Peak:
    def __init__(self, pid):
        self._pid = pid
        with open(f"/proc/{pid}/clear_refs", "w") as peak:
            peak.write("5")
        self._before = self._read("VmRSS")

    def _read(self, name):
        with open(f"/proc/{self._pid}/status") as status:
            return int(next(line for line in status if line.startswith(name)).split()[1]) << 10

    @property
    def grown(self):
        return self._read("VmHWM") - self._before


@pytest.fixture
def client(simulator, make_client):
    client = make_client(simulator.stream_endpoint, simulator.rest_url)
    yield client
    client.http.put("/faults", json={}).raise_for_status()


def pieces(count):
    for _ in range(count):
        yield b" " * (1 << 20)


@pytest.mark.parametrize(
    "path", ["/faults", "/detector/api/1.8.0/config/nimages", "/microscope/scan", "/microscope/defocus"]
)
def test_a_body_without_end_is_cut_off(simulator, client, path):
    peak = Peak(simulator.pid)
    try:
        answer = client.http.put(path, content=pieces(500), timeout=20)
    except httpx.TransportError:
        pass  # it closed the connection while more was coming
    else:
        assert answer.status_code == 413
    assert peak.grown < 300 << 20  # it was 1.4 GB, and the specimen may be computed meanwhile
    assert client.http.get("/faults").status_code == 200


@pytest.mark.parametrize("body", ["[" * 100_000, '{"value": 1' + "0" * 5000 + "}", "[1]", "", "\x00"])
def test_a_body_that_is_no_plain_json_is_refused(client, body):
    answer = client.http.put("/detector/api/1.8.0/config/nimages", content=body)
    assert answer.status_code == 400
    assert len(answer.text) < 500


@pytest.mark.parametrize("name", ["rest_latency", "arm_latency", "stall_s"])
@pytest.mark.parametrize("value", ["1e9", "Infinity", "NaN", "-1", '"1"', "true"])
def test_a_latency_has_limits(client, name, value):
    answer = client.http.put("/faults", content=f'{{"{name}": {value}}}')
    assert answer.status_code == 400
    assert name in answer.text
    client.http.get("/detector/api/1.8.0/config/nimages", timeout=5).raise_for_status()


def test_what_others_are_kept_waiting_for_ends_with_the_fault_for_new_requests(
    client, make_client, simulator
):
    client.http.put("/faults", json={"rest_latency": 3.0}).raise_for_status()
    waits = threading.Thread(target=lambda: client.http.get("/detector/api/1.8.0/config/nimages", timeout=10))
    waits.start()
    other = make_client(simulator.stream_endpoint, simulator.rest_url)
    other.http.put("/faults", json={}).raise_for_status()
    other.http.get("/detector/api/1.8.0/config/nimages", timeout=2).raise_for_status()
    waits.join()

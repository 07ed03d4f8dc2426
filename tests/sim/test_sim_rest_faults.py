"""The REST interface of a DCU in trouble, and of one that was just switched on, with older firmware."""

import threading
import time

import pytest
from sim_client import wait_for

from live4d_ophyd.sim import SimulatorProcess
from live4d_ophyd.sources.dectris.messages import read_message


@pytest.fixture
def client(simulator, make_client):
    client = make_client(simulator.stream_endpoint, simulator.rest_url)
    yield client
    client.http.put("/faults", json={}).raise_for_status()


def set_faults(client, **faults):
    client.http.put("/faults", json=faults).raise_for_status()


def left(client, fault):
    return client.http.get("/faults").json()[fault]


@pytest.mark.parametrize(
    "path",
    ["detector/api/1.8.0/config/nimages", "stream/api/1.8.0/status/dropped", "filewriter/api/1.8.0/config"],
)
def test_errors_are_as_many_as_asked_for(client, path):
    set_faults(client, rest_errors=2)
    codes = []
    for n in (2, 1, 0):
        assert left(client, "rest_errors") == n
        codes.append(client.http.get(path).status_code)
    assert codes == [500, 500, 200]


def test_garbage_is_a_web_page(client):
    set_faults(client, rest_garbage=1)
    answer = client.http.get("detector/api/version")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "<html>" in answer.text
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json()
    assert left(client, "rest_garbage") == 0
    assert client.http.get("detector/api/version").json()["value"] == "1.8.0"


@pytest.mark.parametrize("fault", ["rest_errors", "rest_garbage"])
def test_requests_that_fail_are_not_carried_out(client, fault):
    set_faults(client, **{fault: 2})
    client.put("beam_center_x", 1.0)
    client.command("arm")
    assert left(client, fault) == 0
    assert client.get("beam_center_x") != 1.0
    assert client.get("state", kind="status") == "idle"


def test_answers_are_late_but_requests_are_carried_out_at_once(client):
    set_faults(client, rest_latency=3.0)
    answers = []
    began = time.monotonic()
    thread = threading.Thread(target=lambda: answers.append(client.command("arm")))
    thread.start()
    received = client.series()
    assert received.end is not None
    assert answers == []
    thread.join()
    assert time.monotonic() - began >= 3.0
    assert answers[0].json() == {"sequence id": received.start.series_id}


def test_late_answers_are_refusals_too(client):
    set_faults(client, rest_latency=0.5)
    began = time.monotonic()
    assert client.http.get("detector/api/1.8.0/config/nonsense").status_code == 404
    assert client.http.get("detector/api/9.9.9/config/nimages").status_code == 404
    assert time.monotonic() - began >= 1.0


def test_the_microscope_and_the_faults_are_not_concerned(client):
    set_faults(client, rest_latency=20.0, rest_errors=9, rest_garbage=9)
    began = time.monotonic()
    for path in ("/microscope", "/microscope/defocus", "/microscope/scan", "/faults"):
        assert client.http.get(path).headers["content-type"] == "application/json"
    assert time.monotonic() - began < 20
    assert (left(client, "rest_errors"), left(client, "rest_garbage")) == (9, 9)


def test_images_come_after_abort_was_answered(client):
    set_faults(client, after_abort=6, stall_at=10, stall_s=1000.0)
    client.command("arm").raise_for_status()
    wait_for(lambda: client.get("state", kind="status") == "acquire")
    assert [client.message() for _ in range(11)]  # start and ten images: now it stalls
    set_faults(client, rest_latency=1.0)
    thread = threading.Thread(target=client.command, args=("abort",))
    began = time.monotonic()
    thread.start()
    first = read_message(client.message())
    assert time.monotonic() - began >= 1.0
    thread.join()
    rest = client.series(timeout=1.0, images=5)
    assert [first.image_id, *rest.ids] == [10, 11, 12, 13, 14, 15]
    assert rest.end is None


def test_a_failed_series_over_rest(client):
    set_faults(client, fail_series=True)
    client.command("arm").raise_for_status()
    wait_for(lambda: client.get("state", kind="status") == "error")
    [text] = client.get("error", kind="status")
    assert "readout board" in text
    assert left(client, "fail_series") is False
    refused = client.command("arm")
    assert (refused.status_code, refused.text) == (
        400,
        "cannot arm: the detector's state is error, initialize first",
    )
    client.command("initialize").raise_for_status()
    assert client.get("state", kind="status") == "idle"
    assert client.get("error", kind="status") == []


def test_temperature_and_humidity(client):
    for key, unit in (("temperature", "degC"), ("humidity", "%")):
        answer = client.http.get(f"detector/api/1.8.0/status/{key}").json()
        assert isinstance(answer.pop("value"), float)
        assert answer == {"value_type": "float", "access_mode": "r", "unit": unit}


def test_truth_is_that_of_the_binned_images(client):
    before = client.http.get("/microscope/truth").json()
    changed = client.put("binning_mode", "2x2").json()
    try:
        assert changed == [
            "binning_mode",
            "beam_center_x",
            "beam_center_y",
            "x_pixel_size",
            "y_pixel_size",
        ]
        after = client.http.get("/microscope/truth").json()
    finally:
        client.put("binning_mode", "off").raise_for_status()
    assert client.http.get("/microscope/truth").json() == before
    assert after["bf_radius"] == before["bf_radius"] / 2
    assert after["mrad_per_px"] == before["mrad_per_px"] * 2
    assert after["bf_center"] == [(position - 0.5) / 2 for position in before["bf_center"]]
    assert after["dead_pixels"] == sorted([row // 2, col // 2] for row, col in before["dead_pixels"])
    assert after["window_nm"] == before["window_nm"]


def test_older_firmware_just_switched_on(make_client):
    with SimulatorProcess(
        rows=2, cols=2, uninitialized=True, api="1.6.0", without=["mask_to_zero", "humidity"], rest_errors=1
    ) as process:
        client = make_client(process.stream_endpoint, process.rest_url, "1.6.0")
        assert client.http.get("detector/api/version").status_code == 500
        assert client.http.get("detector/api/version").json()["value"] == "1.6.0"
        other = client.http.get("detector/api/1.8.0/config/nimages")
        assert (other.status_code, "speak API 1.6.0" in other.text) == (404, True)
        for path in ("config/mask_to_zero", "status/humidity"):
            assert client.http.get(f"detector/api/1.6.0/{path}").status_code == 404
        assert client.put("mask_to_zero", True).status_code == 404
        assert "mask_to_zero" not in client.http.get("detector/api/1.6.0/config").json()

        assert client.get("state", kind="status") == "na"
        assert client.get("high_voltage/state", kind="status") == "OFF"
        client.command("initialize").raise_for_status()
        refused = client.command("arm")
        assert refused.status_code == 400
        assert refused.text == "cannot arm: the high voltage is OFF, give the command hv_enabled first"
        client.command("hv_enabled").raise_for_status()
        wait_for(lambda: client.get("high_voltage/state", kind="status") == "READY")
        client.command("arm").raise_for_status()
        assert client.series().ids == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api": "2.0.0"}, r"api is '2.0.0'; expected one of 1.6.0, 1.7.0, 1.8.0"),
        ({"without": ["warp_drive"]}, r"cannot leave out 'warp_drive'"),
        ({"rest_latency": -1}, r"fault rest_latency is -1.0"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(RuntimeError, match=words):
        SimulatorProcess(**options)

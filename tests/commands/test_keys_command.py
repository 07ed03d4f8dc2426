"""Keys by command, serving other machines only with them, and the doctor who asks an engine elsewhere."""

from contextlib import closing

import pytest
from click.testing import CliRunner
from fake_clock import set_clock
from served_engine import served_engine

from live4d_ophyd.commands.main import live4d
from live4d_ophyd.commands.server_check import check_server, measure
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.sockets import is_for_this_machine


def run(*arguments):
    result = CliRunner().invoke(live4d, list(map(str, arguments)))
    return result.exit_code, result.output


def test_keys_are_made_and_the_next_steps_said(tmp_path):
    code, text = run("keys", tmp_path / "k")
    assert code == 0
    assert f"--curve {tmp_path}/k/engine" in text
    assert run("keys", tmp_path / "k", "--add", "desk")[0] == 0
    assert (tmp_path / "k" / "engine" / "clients" / "desk.key").exists()


@pytest.mark.parametrize("name", ["../x", "engine", "", "a b", "session"])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path, name):
    run("keys", tmp_path / "k")
    assert run("keys", tmp_path / "k", "--add", name)[0] == 1


@pytest.mark.parametrize(
    ("endpoint", "here"),
    [
        ("tcp://127.0.0.1:31100", True), ("tcp://127.1.2.3:0", True), ("tcp://[::1]:1", True),
        ("tcp://localhost:31100", True), ("tcp://lo:31100", True), ("ipc:///run/engine", True),
        ("tcp://0.0.0.0:31100", False), ("tcp://*:31100", False), ("tcp://[::]:1", False), ("tcp://eth0:31100", False),
        ("tcp://10.0.0.5:31100", False), ("tcp://gpu-host:31100", False), ("tcp://127.0.0.1.evil.org:1", False),
    ],
)  # fmt: skip
def test_who_reaches_an_address(endpoint, here):
    assert is_for_this_machine(endpoint) is here


def test_other_machines_are_served_with_keys_or_when_told_so(tmp_path):
    code, text = run("serve", "tcp://0.0.0.0:0")
    assert code == 1
    assert "pass --curve DIR/engine; or pass --open" in text
    with served_engine("--open", "--backend", "cpu", endpoint="tcp://0.0.0.0:*") as engine:
        assert engine.endpoint.startswith("tcp://0.0.0.0:")
    run("keys", tmp_path / "k")
    curve = ("--curve", tmp_path / "k" / "engine")
    with served_engine(*curve, "--backend", "cpu", endpoint="tcp://0.0.0.0:*") as engine:
        assert engine.endpoint.startswith("tcp://0.0.0.0:")


def test_the_doctor_finds_an_engine_and_measures_its_link(tmp_path):
    run("keys", tmp_path)
    with served_engine("--curve", tmp_path / "engine", "--backend", "cpu") as engine:
        status, found, advice = check_server(engine.endpoint, tmp_path / "session")
        assert (status, advice) == ("ok", "")
        assert "decodes on the cpu" in found
        assert "MB/s: an image of" in found
        status, found, _ = check_server(engine.endpoint, None)
        assert status == "failed"
        assert "for CURVE keys" in found
        with closing(EngineClient(engine.endpoint, curve_keys=tmp_path / "session")) as session:
            session.wait_ready()
            status, found, advice = check_server(engine.endpoint, tmp_path / "session")
        assert status == "warn"
        assert "serves another session" in found


def test_an_engine_that_is_not_there_and_keys_that_are_none_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr("live4d_ophyd.commands.server_check._ANSWER_S", 0.5)
    status, found, advice = check_server("tcp://127.0.0.1:9", None)
    assert status == "failed"
    assert "no engine answered" in found
    assert "live4d serve" in advice
    status, found, _ = check_server("tcp://127.0.0.1:9", tmp_path)
    assert status == "failed"
    assert "client.key_secret is missing" in found


def test_the_rate_of_a_link_is_that_of_its_larger_pieces(monkeypatch):
    asked = []

    def probe(size):
        asked.append(size)
        now[0] += 0.02 + size / 1e7
        return 0.02 + size / 1e7

    now = [0.0]
    set_clock(monkeypatch, "live4d_ophyd.commands.server_check", lambda: now[0])
    delay, rate = measure(probe)
    assert delay == pytest.approx(0.02)
    assert rate == pytest.approx(1e7, rel=0.01)
    assert max(asked) / 1e7 < 0.9, "a piece must not last as long as a heartbeat"


def test_a_slow_link_gets_small_pieces(monkeypatch):
    now, asked = [0.0], []

    def probe(size):
        asked.append(size)
        now[0] += size / 1e5
        return size / 1e5

    set_clock(monkeypatch, "live4d_ophyd.commands.server_check", lambda: now[0])
    measure(probe)
    assert max(asked) == 16 << 10
    assert now[0] < 3


def test_a_delay_that_varies_does_not_make_a_quick_link_infinitely_quick():
    times = iter([0.008, 0.008, 0.008, 0.008, 0.008])
    _, rate = measure(lambda size: next(times, 0.008) if size == 0 else 0.0075)
    assert rate < (1 << 20) / 0.007

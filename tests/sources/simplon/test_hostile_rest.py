"""An interface that answers slowly, elsewhere, compressed or nonsense costs neither time nor memory, and every such
answer is a SimplonError."""

import gzip
import resource
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from live4d_ophyd.checks import from_json
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.parameter import Parameter
from live4d_ophyd.sources.dectris.rest import Rest, SimplonError

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@contextmanager
def served(answer, pause=0.0, piece=None):
    """A peer that sends ``answer``, ``piece`` bytes at a time with ``pause`` s between them, to all who connect."""
    over, listener = threading.Event(), socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.02)
    threads, connections = [], []

    def send(connection):
        with connection:
            connection.settimeout(5)
            try:
                connection.recv(65536)
                for begin in range(0, len(answer), piece or len(answer)):
                    connection.sendall(answer[begin : begin + (piece or len(answer))])
                    if over.wait(pause):
                        return
            except OSError:
                pass

    def accept():
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            connections.append(connection)
            threads.append(threading.Thread(target=send, args=(connection,)))
            threads[-1].start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
    finally:
        over.set()
        for one in (thread, *threads):
            one.join()
        listener.close()


DRIPS = {
    "headers": OK + b"X: " + b"x" * 10_000,
    "body of known length": OK + b"Content-Length: 10000\r\n\r\n" + b" " * 10_000,
    "body until it closes": OK + b"\r\n" + b" " * 10_000,
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 2_000,
    "provisional answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 400,
}


@pytest.mark.parametrize("answer", DRIPS.values(), ids=DRIPS)
def test_an_answer_that_comes_drop_by_drop_ends_at_the_deadline(answer):
    with served(answer, pause=0.01, piece=1) as (url, _):
        begin = time.monotonic()
        with pytest.raises(SimplonError, match=r"command/abort: no answer within 0\.5 s"):
            Rest(url, "1.8.0").command("abort", timeout=0.5)
        assert time.monotonic() - begin < 3  # unbounded, it is 20 s and more


def test_repetitions_share_the_deadline(monkeypatch):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.rest._PAUSES_S", (0.3, 0.3, 0.3, 0.3))
    with served(b"HTTP/1.1 500 busy\r\nContent-Length: 0\r\n\r\n") as (url, connections):
        with pytest.raises(SimplonError, match="500"):
            Rest(url, "1.8.0").command("abort", timeout=0.5)
        assert len(connections) == 2


def test_a_deadline_leaves_no_thread_and_no_socket(dcu):
    dcu.scannable()
    rest = Rest(dcu.url)
    rest.read("detector", "config", "nimages")
    for _ in range(50):
        rest.read("detector", "config", "nimages")
    assert not [thread for thread in threading.enumerate() if thread.name == "live4d-deadline"]


@pytest.mark.parametrize("status", [204, 205])
def test_success_without_content_is_none(dcu, status):
    dcu.answers["/detector/api/1.8.0/command/abort"] = (status, "")
    dcu.headers = {"Content-Length": "0"}
    assert Rest(dcu.url, "1.8.0").command("abort") is None


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 400, 403, 409])
@pytest.mark.parametrize("headers", [{}, {"Location": "/elsewhere"}, {"Location": "http://["}], ids=str)
def test_anything_but_2xx_fails(dcu, status, headers):
    value = '{"value": 1}' if status != 304 else ""
    for path in ("command/arm", "config/nimages"):
        dcu.answers[f"/detector/api/1.8.0/{path}"] = (status, value)
    dcu.headers = headers
    rest = Rest(dcu.url, "1.8.0")
    for request in (
        lambda: rest.command("arm"),
        lambda: rest.read("detector", "config", "nimages"),
        lambda: rest.write("detector", "nimages", 1),
    ):
        with pytest.raises(SimplonError):
            request()
    assert not dcu.asked("/elsewhere")


@pytest.fixture(scope="module")
def bomb():
    return gzip.compress(gzip.compress(b" " * (300 << 20), 1), 9)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "deflate", "br", "zstd", "\x1b[2J"])
def test_a_compressed_answer_is_refused_and_never_unpacked(encoding, bomb):
    answer = OK + f"Content-Encoding: {encoding}\r\nContent-Length: {len(bomb)}\r\n\r\n".encode() + bomb
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with served(answer) as (url, _), pytest.raises(SimplonError) as raised:
        Rest(url, "1.8.0").read("detector", "config", "nimages")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; unpacked: 300 MiB
    assert "\x1b" not in str(raised.value)


def test_nothing_compressed_is_asked_for():
    received = []
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        connection, _ = listener.accept()
        with connection:
            received.append(connection.recv(65536))
            connection.sendall(OK + b"Content-Length: 12\r\n\r\n" + b'{"value": 1}')

    thread = threading.Thread(target=answer)
    thread.start()
    Rest(f"http://127.0.0.1:{listener.getsockname()[1]}", "1.8.0").read("detector", "config", "x")
    thread.join()
    listener.close()
    assert b"accept-encoding: identity" in received[0].lower()


ODD = {
    "deep": "[" * 100_000,
    "deep and closed": '{"value": ' + "[" * 500 + "]" * 500 + "}",
    "deep maps": '{"value": ' + '{"a":' * 400 + "1" + "}" * 401,
    "a number of 400 digits": '{"value": 1' + "0" * 400 + "}",
    "a number of 10,000 digits": '{"value": 1' + "0" * 10_000 + "}",
    "a limit of 400 digits": '{"value": 1, "max": 1' + "0" * 400 + "}",
    "not UTF-8": b"\xff\xfe\x00\xd8\x00".decode("latin-1"),
    "a text": '"value"',
    "a number": "1e400",
    "null": "null",
    "nothing": "",
    "no value": "{}",
    "infinite": '{"value": Infinity, "min": -Infinity, "max": 1e400}',
    "minus infinity": '{"value": -Infinity, "max": Infinity}',
    "not a number": '{"value": NaN, "min": NaN}',
    "lists where texts belong": '{"value": {}, "unit": [], "value_type": {}, "access_mode": 3, "allowed_values": {}}',
    "unhashable choices": '{"value": [1], "allowed_values": [[], {}]}',
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_odd_json_is_a_simplon_error_or_a_value_that_works(dcu, answer):
    dcu.answers["/detector/api/version"] = (200, answer)
    for path in (
        "status/state",
        "command/arm",
        "config/frame_time",
        "config/nimages",
        "config/ntrigger",
        "config/trigger_mode",
        "config/detector_readout_time",
    ):
        dcu.answers[f"/detector/api/1.8.0/{path}"] = (200, answer)
    dcu.answers["/detector/api/1.8.0/command/trigger"] = (200, "")
    control = Simplon(dcu.url, api="1.8.0", restore_settings=False)

    def use(parameter):
        assert parameter.in_documents
        assert str(parameter)
        for value in (1, 1.5, "x", [1]):
            with suppress(ValueError):
                parameter.check(value)

    for request in (
        lambda: Rest(dcu.url).api,
        control.state,
        control.arm,
        control.trigger,
        control.dropped,
        lambda: use(control.rest.read("detector", "config", "frame_time")),
        lambda: control.put("detector", "frame_time", 1e-3),
        lambda: control._set_frame_time(1e-3),
        lambda: control.put("detector", "trigger_mode", "exts"),
    ):
        with suppress(SimplonError):  # any other error fails the test
            request()


def test_a_parameter_without_finite_limits_has_none():
    found = Parameter.from_answer("k", {"value": 1, "min": -float("inf"), "max": float("inf")})
    assert (found.minimum, found.maximum) == (None, None)


@pytest.mark.parametrize(
    "version", ["1.8" + "0" * 5000, "9" * 5000 + ".1", "1.8.0/../../x", "1.8\r\nX: y", "1.8 \x1b[2J"]
)
def test_a_version_that_is_none_is_not_put_into_requests(dcu, version):
    dcu.answers["/detector/api/version"] = (200, {"value": version})
    with pytest.raises(SimplonError, match="is it a SIMPLON interface") as raised:
        _ = Rest(dcu.url).api
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 1_000


def test_a_setting_that_is_said_to_change_everything_reads_200_keys(dcu, caplog):
    dcu.scannable()
    names = [f"key{n}" for n in range(5_000)]
    dcu.named = lambda key: names
    dcu.settings |= dict.fromkeys((f"detector/config/{name}" for name in names), 1)
    with caplog.at_level("WARNING"):
        found = Rest(dcu.url, "1.8.0").write("detector", "nimages", 7)
    assert found["nimages"].value == 7
    assert len(found) <= 201
    assert "5000 keys" in caplog.text


def test_reading_back_what_changed_has_a_deadline(dcu, monkeypatch, caplog):
    monkeypatch.setattr("live4d_ophyd.sources.dectris.rest.WRITE_TIMEOUT_S", 0.2)
    dcu.scannable()
    dcu.named = lambda key: [f"key{n}" for n in range(50)]
    asked = []

    def answer():
        asked.append(time.monotonic())
        time.sleep(0.05)
        return {"value": 1}

    for n in range(50):
        dcu.answers[f"/detector/api/1.8.0/config/key{n}"] = (200, answer)
    Rest(dcu.url, "1.8.0").write("detector", "nimages", 7)
    assert len(asked) <= 5  # the last of them when 0.2 s are over
    assert "not all read" in caplog.text


def test_names_of_keys_that_are_none_are_not_asked_for(dcu):
    dcu.scannable()
    dcu.named = lambda key: ["x y", "\x1b[2J", {"a": 1}, 7, None, "k" * 1000]
    assert list(Rest(dcu.url, "1.8.0").write("detector", "nimages", 7)) == ["nimages"]


def test_the_devices_words_reach_no_terminal_as_commands(dcu):
    dcu.answers["/detector/api/1.8.0/command/arm"] = (
        400,
        "no\x1b]0;owned\x07\r\nroot logged in" + "x" * 10_000,
    )
    with pytest.raises(SimplonError) as raised:
        Rest(dcu.url, "1.8.0").command("arm")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1_000


@pytest.mark.parametrize(
    "text", ["[" * 32 + "]" * 32, "18446744073709551615", "-9223372036854775808", "1e400"]
)
def test_json_that_somebody_may_mean_is_read(text):
    from_json(text)


@pytest.mark.parametrize(
    "text", ["[" * 33 + "]" * 33, "18446744073709551616", "-9223372036854775809", "{", b"\xff"]
)
def test_json_that_nobody_means_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011
        from_json(text)

"""Addresses: refused where they are given, never shown with a password, and redirects are named."""

import logging
import pickle

import pytest
from fake_dcu import FRAME_TIME

from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.process.protocol import Acquire, encode, from_session
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.rest import Rest, SimplonError
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.urls import shown, shown_text, split_login

SECRET = "s3cr3t"
FRAME_TIME_PATH = "/detector/api/1.8.0/config/frame_time"


def with_login(url):
    return url.replace("http://", f"http://user:{SECRET}@")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://dcu", "http://dcu"),
        ("http://user:s3cr3t@dcu:80/x", "http://dcu:80/x"),
        ("http://user:s3/cr3t@dcu", "http://dcu"),
        ("http://user:s3@cr3t?#@dcu", "http://dcu"),
        ("user:s3cr3t@dcu", "dcu"),
        ("user:s3cr3t@dcu/?next=http://x", "dcu/"),
        ("https://tiled/api/v1?api_key=s3cr3t#top", "https://tiled/api/v1"),
    ],
)
def test_what_is_shown_of_an_address_is_no_secret(url, text):
    assert shown(url) == text


def test_addresses_in_other_people_s_texts_are_shown_without_secrets():
    text = "401: no http://user:s3cr3t@tiled/api/v1?api_key=s3cr3t, see 'https://me@dcu/x?y=1' and a@b"
    assert shown_text(text) == "401: no http://tiled/api/v1 see 'https://dcu/x' and a@b"


def test_a_login_is_split_off_as_it_is_meant():
    assert split_login("http://user:p%40ss@dcu:80/x") == ("http://dcu:80/x", "user:p@ss")
    assert split_login("http://dcu") == ("http://dcu", "")


@pytest.mark.parametrize(
    "url",
    [
        "", "dcu", "http://", "http:///x", "http://:80", "http://dcu:port", "http://dcu:99999", "http://dcu:0",
        "ftp://dcu", "tcp://dcu:31001", "http://d cu", "http://dcu/a b", " http://dcu", "http://dcu\n", "http://[::1",
        "http://dcu?x=1", "http://dcu#x", "http://user:s3/cr3t@dcu", "http://user:s3?cr3t@dcu",
        "http://us er:s3cr3t@dcu",
        "user:s3cr3t@dcu", "http://user:s3cr3t@", "http://user:s3cr3t@dcu:port",
    ],
)  # fmt: skip
def test_an_impossible_address_is_refused_without_its_password(url):
    with pytest.raises(ValueError, match=r"Simplon url is .*it must look like http://dcu") as caught:
        Simplon(url)
    for part in ("s3", "cr3t", "user"):
        assert part not in str(caught.value)
    # Nor is it in the error before, which a traceback shows.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": None}, "url is a NoneType; expected a text"),
        ({"url": b"http://user:s3cr3t@dcu"}, "url is a bytes; expected a text"),
        ({"api": "x y"}, "api is 'x y'; expected a version from 1.6 on"),
        ({"api": "1.8.0/.."}, "expected a version"),
        ({"api": "1.5.0"}, "expected a version from 1.6 on"),
        ({"api": "1"}, "expected a version"),
        ({"api": 1.8}, "api is 1.8; expected a version"),
        ({"restore_settings": "no"}, "restore_settings is 'no'; expected True or False"),
        ({"login": 5}, "login is a int"),
        ({"trigger_mode": "x"}, "trigger_mode is 'x'; expected one of"),
        ({"trigger_per": None}, "trigger_per is None; expected one of"),
    ],
)
def test_impossible_values_are_refused_where_they_are_given(options, words):
    with pytest.raises(ValueError, match=words):
        Simplon(**({"url": "http://dcu"} | options))


@pytest.mark.parametrize(
    "url", ["http://dcu", "https://10.0.0.5:8080/prefix/", "http://[::1]:80", "HTTP://dcu"]
)
def test_addresses_that_can_be_are_taken(url):
    assert Simplon(url, api="1.8.0").url.lower() == url.lower()


def test_a_login_in_the_address_logs_in(dcu):
    dcu.answers[FRAME_TIME_PATH] = (200, FRAME_TIME)
    control = Simplon(with_login(dcu.url))
    assert control.get("detector", "config", "frame_time") == 1e-3
    assert dcu.login() == f"user:{SECRET}"
    assert Rest(with_login(dcu.url)).url == dcu.url


def test_a_login_with_odd_characters_and_one_given_apart(dcu):
    dcu.answers[FRAME_TIME_PATH] = (200, FRAME_TIME)
    for control in (
        Simplon(dcu.url.replace("http://", "http://user:%40%2F%3A%25@")),
        Simplon(dcu.url, login="user:@/:%"),
    ):
        dcu.logins.clear()
        control.get("detector", "config", "frame_time")
        assert dcu.login() == "user:@/:%"


def test_without_a_login_none_is_sent(dcu):
    dcu.answers[FRAME_TIME_PATH] = (200, FRAME_TIME)
    Simplon(dcu.url).get("detector", "config", "frame_time")
    assert dcu.login() == ""


def test_the_engine_logs_in_too_and_its_request_does_not_show_how(dcu):
    dcu.answers[FRAME_TIME_PATH] = (200, FRAME_TIME)
    control = Simplon(with_login(dcu.url), settings=(("threshold/1/energy", 5e4),))
    spec = AcquisitionRequest(
        DectrisSource("tcp://dcu:31001", simplon=control), ScanGrid(2, 2), (Disk("vbf", radius=1),)
    )
    arrived = from_session(encode(Acquire(1, spec))).request
    assert arrived.source.simplon == control
    for text in (repr(spec), str(arrived), repr(control), control.url):
        assert SECRET not in text
    arrived.source.simplon.get("detector", "config", "frame_time")
    assert dcu.login() == f"user:{SECRET}"


def test_no_log_or_error_of_a_request_holds_the_password(dcu, caplog):
    control = Simplon(with_login(dcu.url))
    dcu.scannable().settings["detector/status/state"] = "na"
    dcu.answers |= {
        f"/detector/api/1.8.0/command/{name}": (code, "no")
        for name, code in (("initialize", 500), ("arm", 401))
    }
    with caplog.at_level(logging.DEBUG):
        errors = []
        for act in (control.make_idle, control.arm, lambda: control.get("detector", "config", "x")):
            with pytest.raises(SimplonError) as caught:
                act()
            errors.append(caught.value)
        with pytest.raises(SimplonError) as caught:
            Simplon(f"http://user:{SECRET}@127.0.0.1:9").state()
        errors.append(caught.value)
    assert "HTTP Request" in caplog.text  # httpx shows the whole address, and so is never given a login in it
    assert SECRET not in caplog.text
    for error in errors:
        while error is not None:
            assert SECRET not in f"{error} {error!r}"
            error = error.__cause__ or error.__context__
    assert "is the login right? Simplon takes it in its url" in str(errors[1])


def test_a_pickled_control_logs_in(dcu):
    assert pickle.loads(pickle.dumps(Simplon(with_login(dcu.url)))).login == f"user:{SECRET}"


# Redirects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("ask", ["GET", "PUT", "command", "version"])
def test_a_redirect_is_named_with_its_target_and_what_to_do(dcu, status, ask):
    dcu.scannable()
    dcu.headers["Location"] = (
        f"https://user:{SECRET}@dcu.example:8443/simplon/1.6.0/x?token={SECRET}#{SECRET}"
    )
    path = {
        "GET": FRAME_TIME_PATH,
        "PUT": FRAME_TIME_PATH,
        "command": "/detector/api/1.8.0/command/abort",
    }.get(ask, "/detector/api/version")
    dcu.answers[path] = (status, "")
    rest = Rest(with_login(dcu.url))
    act = {
        "GET": lambda: rest.read("detector", "config", "frame_time"),
        "PUT": lambda: rest.write("detector", "frame_time", 1.0),
        "command": lambda: rest.command("abort"),
        "version": lambda: rest.api,
    }[ask]
    with pytest.raises(SimplonError) as caught:
        act()
    text = str(caught.value)
    assert f"{status}, redirected to https://dcu.example:8443/simplon/1.6.0/x: " in text
    assert "url of Simplon" in text
    assert "--api" in text
    assert SECRET not in text
    assert len(dcu.asked(path)) == 1


def test_a_redirect_to_another_version_names_the_whole_address(dcu):
    dcu.headers["Location"] = "/detector/api/1.6.0/config/frame_time"
    dcu.answers[FRAME_TIME_PATH] = (302, "")
    with pytest.raises(
        SimplonError, match=f"302, redirected to {dcu.url}/detector/api/1.6.0/config/frame_time"
    ):
        Rest(dcu.url).read("detector", "config", "frame_time")


@pytest.mark.parametrize("location", ["http://[::1", f"http://a:{SECRET}@b:x/"])
def test_a_redirect_to_nowhere_is_an_error(dcu, location):
    dcu.headers["Location"] = location
    dcu.answers[FRAME_TIME_PATH] = (302, "")
    with pytest.raises(SimplonError, match="frame_time: Invalid URL in location header") as caught:
        Rest(dcu.url).read("detector", "config", "frame_time")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [300, 302, 304])
def test_an_answer_that_is_no_success_is_none(dcu, status):
    dcu.answers[FRAME_TIME_PATH] = (status, "")
    with pytest.raises(SimplonError, match=f"frame_time.*: {status}"):
        Rest(dcu.url, "1.8.0").write("detector", "frame_time", 1.0)
    dcu.answers["/detector/api/1.8.0/command/arm"] = (status, "")
    with pytest.raises(SimplonError, match=f"arm: {status}"):
        Rest(dcu.url, "1.8.0").command("arm")

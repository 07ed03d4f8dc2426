"""`live4d listen` beside a control unit that it arms: its version can be given, its password is not shown."""

from contextlib import closing

import pytest
from click.testing import CliRunner
from fake_dcu import FakeDcu

from live4d_ophyd.commands.main import live4d

SCAN = ["--scan", "2x2", "--disk", "4,4,2", "--timeout", "0.3", "--backend", "cpu"]


@pytest.fixture
def dcu():
    with closing(FakeDcu()) as fake:
        yield fake.scannable()


def listen(*arguments):
    """(exit code, all it printed)"""
    result = CliRunner().invoke(live4d, ["listen", "tcp://127.0.0.1:9", *SCAN, *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_the_version_that_is_given_is_spoken(dcu):
    code, output = listen("--simplon", dcu.url, "--api", "1.7.0")
    assert code == 1
    assert "no stream answers" in output
    assert {path.split("/")[3] for _, path, _ in dcu.requests} == {"1.7.0"}


def test_a_redirect_says_that_a_version_can_be_given(dcu):
    dcu.headers["Location"] = f"{dcu.url}/detector/api/1.6.0"
    dcu.answers["/detector/api/version"] = (308, "")
    code, output = listen("--simplon", dcu.url)
    assert code == 1
    assert f"308, redirected to {dcu.url}/detector/api/1.6.0" in output
    assert "--api" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--api", "1.7.0"], "give --simplon URL with it"),
        (["--simplon", "http://dcu", "--api", "x y"], "Simplon api is 'x y'"),
        (["--simplon", "http://user:s3/cr3t@dcu"], "Simplon url is 'http://dcu'"),
        (["--simplon", "http://user:s3cr3t@127.0.0.1:9"], "GET http://127.0.0.1:9/detector/api/version"),
    ],
)
def test_what_is_wrong_is_said_without_a_password(arguments, words):
    code, output = listen(*arguments)
    assert code != 0
    assert words in output
    assert "cr3t" not in output

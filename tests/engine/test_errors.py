"""Errors of the engine keep their class, their words and their remedy on the way to the session."""

import pickle

import pytest

from live4d_ophyd.decode import BackendUnavailable, GpuLost
from live4d_ophyd.engine import errors
from live4d_ophyd.engine.errors import (
    PUBLIC,
    AcquisitionError,
    EngineFault,
    MethodFailed,
    as_fields,
    from_fields,
)
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.frames.encoded_array import StreamError
from live4d_ophyd.sources.dectris.rest import SimplonError, UnknownKey


def there_and_back(error):
    message = protocol.Failed(1, protocol.Failure.of(error))
    return protocol.from_engine(protocol.encode(message)).error


@pytest.mark.parametrize("kind", PUBLIC.values(), ids=lambda kind: kind.__name__)
def test_every_public_error_keeps_its_class_words_and_details(kind):
    details = {name: f"the {name}" for name in getattr(kind, "details", ())}
    error = kind("no frame came", **details)
    back = there_and_back(error)
    assert (type(back), str(back)) == (kind, str(error))
    assert {name: getattr(back, name) for name in details} == details
    plain = there_and_back(kind("no frame came"))
    assert (type(plain), str(plain)) == (kind, "no frame came")


def test_every_error_of_the_engine_is_public():
    own = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == errors.__name__
    }
    assert own <= set(PUBLIC.values())
    for kind in (BackendUnavailable, GpuLost, SimplonError, UnknownKey, ValueError, MemoryError):
        assert PUBLIC[kind.__name__] is kind


class _Of(SimplonError):
    """Of a class that the session does not know."""


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (_Of("no such key"), SimplonError, "no such key"),
        (StreamError("no array"), ValueError, "no array"),
        (UnicodeDecodeError("ascii", b"\xe4", 0, 1, "no letter"), ValueError, "'ascii' codec can't decode byte 0xe4"),
        (KeyError("request"), EngineFault, "KeyError: 'request'"),
        (ZeroDivisionError(), EngineFault, "ZeroDivisionError: ZeroDivisionError"),
        (AcquisitionError(), AcquisitionError, "AcquisitionError"),
        (MemoryError(), MemoryError, "MemoryError"),
    ],
)  # fmt: skip
def test_other_errors_come_as_their_next_of_kin(error, kind, words):
    back = there_and_back(error)
    assert type(back) is kind
    assert str(back).startswith(words)


def test_the_text_has_reason_and_remedy():
    error = AcquisitionError("no stream answers", remedy="is that its address?")
    assert str(error) == "no stream answers: is that its address?"
    assert (error.reason, error.remedy) == ("no stream answers", "is that its address?")
    assert str(MethodFailed("no disk", method="com", remedy="smaller radius")) == "no disk: smaller radius"


def test_an_error_survives_pickling():
    for error in (AcquisitionError("a", remedy="b"), MethodFailed("a", method="com", remedy="b")):
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_what_an_error_cannot_be_made_of_is_refused():
    with pytest.raises(ValueError, match="kind is 'KeyboardInterrupt'; expected one of AcquisitionError"):
        from_fields("KeyboardInterrupt", "a")
    with pytest.raises(ValueError, match="reason is ''"):
        from_fields("NothingCame", "")
    with pytest.raises(ValueError, match="remedy is 'b'; a ValueError has none"):
        from_fields("ValueError", "a", remedy="b")
    assert as_fields(AcquisitionError("a")) == {"kind": "AcquisitionError", "reason": "a"}


@pytest.mark.parametrize("kind", [BackendUnavailable, GpuLost, AcquisitionError])
def test_a_remedy_crosses_as_one(kind):
    back = from_fields(**as_fields(kind("no GPU", remedy="install torch")))
    assert (type(back), back.reason, back.remedy, str(back)) == (
        kind, "no GPU", "install torch", "no GPU: install torch",
    )  # fmt: skip

"""Methods cross to the engine by name and plain fields, and are refused by name where they are not known."""

import json
from dataclasses import dataclass

import pytest

from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.registry import class_of, from_dict, kind_of, to_dict
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.strain import Strain
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk


@dataclass(frozen=True)
class Unfinished:
    name: str = "x"


def test_what_is_no_method_is_refused_by_what_it_lacks():
    with pytest.raises(ValueError, match=r"Unfinished\(name='x'\) is no imaging method: it has no demand"):
        kind_of(Unfinished())


def test_a_class_of_the_session_cannot_be_imported_by_an_engine():
    @dataclass(frozen=True)
    class Local(MeanPattern):
        pass

    with pytest.raises(ValueError, match="is defined in this session only: the engine, a process of its own"):
        kind_of(Local())


@pytest.mark.parametrize("kind", ["no_such_module:Method", "json:NoSuchClass", "json:"])
def test_what_cannot_be_imported_is_named(kind):
    with pytest.raises(ValueError, match=f"the method '{kind}' cannot be imported by the engine"):
        class_of(kind, allow_modules=True)


@pytest.mark.parametrize("kind", ["os:system", "json:loads", "collections:OrderedDict"])
def test_what_is_imported_must_be_a_method(kind):
    """An engine that allows modules makes no call to what is no method."""
    with pytest.raises(ValueError, match=f"{kind} is no imaging method"):
        class_of(kind, allow_modules=True)


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "raise RuntimeError('no licence')", "1 / 0"])
def test_a_module_that_fails_when_it_is_imported_is_named_and_ends_nothing(tmp_path, monkeypatch, code):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"fails_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(ValueError, match=f"the method '{name}:M' cannot be imported by the engine: "):
        class_of(f"{name}:M", allow_modules=True)


@pytest.mark.parametrize(
    "method",
    [
        Disk("vbf", center=(1.5, 2), radius=3, soft=True),
        Annulus("adf", inner=3, outer=8),
        CenterOfMass("com", Annulus("adf", center=(4, 5), inner=3, outer=8)),
        Segments("dpc", inner=2, outer=9),
        MeanPattern("pattern", enabled=False),
        Strain("strain", g1=(12.5, 1), g2=(-1, 13), reference="region", region=((0, 0), (3, 4)), refine=True),
    ],
)
def test_a_method_comes_back_from_plain_values(method):
    """Through JSON, as a recorded file has it in its notes. Keys that are no field of the method do not count."""
    assert from_dict(json.loads(json.dumps({"class": "x", **to_dict(method)}))) == method


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "vbf"}, "it has no kind"),
        ({"kind": "os:system"}, "does not take methods by module"),
        ({"kind": "disk"}, r"the method 'disk' cannot be made of \{\}: .*name"),
    ],
)
def test_plain_values_that_are_no_method_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        from_dict(values)

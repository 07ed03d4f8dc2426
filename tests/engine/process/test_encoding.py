"""The encoding goes by type hints alone: a dataclass that it has never seen crosses, and is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cbor2
import numpy as np
import pytest

from live4d_ophyd.engine.errors import MethodFailed
from live4d_ophyd.engine.process.encoding import Encoding


class Shape(Protocol):
    name: str


@dataclass(frozen=True)
class Square:
    name: str
    side: float

    def __post_init__(self):
        if self.side <= 0:
            raise ValueError(f"side is {self.side:g}; expected more than 0")


@dataclass(frozen=True)
class Star:
    name: str
    points: int = 5


@dataclass(frozen=True)
class Broken:
    name: str

    def __post_init__(self):
        raise MethodFailed("not today", method=self.name)


@dataclass(frozen=True)
class Everything:
    whole: int
    text: str
    switch: bool
    outputs: dict[str, np.ndarray]
    shapes: tuple[Shape, ...]
    either: Square | Star | None
    pair: tuple[float, str]
    lists: list[int]
    names: Sequence[str]
    limits: Mapping[str, int | None]
    step: float | tuple[float, float] = 1.0
    energy: float = math.nan
    more: Mapping[str, Any] = field(default_factory=dict)
    made: int = field(init=False, default=3)


KINDS = {"mine:Square": Square, "star": Star, "broken": Broken}


def class_of(kind):
    if kind not in KINDS:
        raise ValueError(f"no shape {kind!r} is installed here")
    return KINDS[kind]


@pytest.fixture(scope="module")
def encoding():
    made = Encoding()
    names = {kind: name for name, kind in KINDS.items()}
    made.by_kind(Shape, lambda shape: names[type(shape)], class_of)
    return made


def value(**changes):
    given = {
        "whole": 1,
        "text": "a",
        "switch": True,
        "outputs": {"com": np.ones((2, 3, 2)), "total": np.float64(3) * np.ones(())},
        "shapes": (Square("s", 2.0), Star("t", 7)),
        "either": Star("u"),
        "pair": (0.5, "mrad"),
        "lists": [1, 2],
        "names": ["a"],
        "limits": {"low": None, "high": 3},
        **changes,
    }
    return Everything(**given)


def plain(encoding, **changes):
    """As it comes out of CBOR, which has no tuples."""
    return cbor2.loads(cbor2.dumps(encoding.unstructure(value(**changes))))


@pytest.mark.parametrize(
    "changes", [{}, {"either": None}, {"either": Square("q", 1.0)}, {"step": (1.0, 2.0)}]
)
def test_what_it_has_never_seen_crosses(encoding, changes):
    there = value(**changes)
    back = encoding.structure(plain(encoding, **changes), Everything)
    np.testing.assert_equal(vars(back), vars(there))
    assert (type(back.shapes), type(back.pair), type(back.lists)) == (tuple, tuple, list)


def test_an_open_field_says_which_class_by_its_registered_name(encoding):
    assert plain(encoding)["shapes"] == [
        {"kind": "mine:Square", "name": "s", "side": 2.0},
        {"kind": "star", "name": "t", "points": 7},
    ]


def change(path, new):
    def apply(values):
        *way, last = path
        for step in way:
            values = values[step]
        values[last] = new

    return apply


@pytest.mark.parametrize(
    ("path", "new", "words"),
    [
        (["shapes", 1, "kind"], "moon", r"shapes\[1\]: no shape 'moon' is installed here"),
        (["shapes", 1, "kind"], 5, r"shapes\[1\] is a map of length 3; expected a map that says its kind"),
        (["shapes", 1, "points"], 5.0, r"shapes\[1\].points is 5.0; expected a whole number"),
        (["shapes", 1, "surprise"], 5, r"shapes\[1\] has 'surprise', which is not known; its fields are name, points"),
        (["shapes", 0, "side"], -1.0, r"shapes\[0\]: side is -1; expected more than 0"),
        (["either", "kind"], "Moon", "either is of kind 'Moon'; expected Square, Star"),
        (["either"], "Star", "either is 'Star'; expected a map that says its kind"),
        (["outputs", "com"], [1.0], r"outputs\['com'\] is a list of length 1; expected an array"),
        (["outputs"], [], "outputs is a list of length 0; expected a map"),
        (["pair"], [1.0], "pair is a list of length 1; expected a list of 2"),
        (["pair"], [math.nan, "a"], "pair is nan; expected a number"),
        (["lists", 1], True, r"lists\[1\] is True; expected a whole number"),
        (["lists"], {"a": 1}, "lists is a map of length 1; expected a list"),
        (["names"], "abc", "names is 'abc'; expected a list"),
        (["limits", "high"], "3", r"limits\['high'\] is '3'; expected a whole number"),
        (["step"], math.nan, "step is nan; expected a number or a list"),
        (["energy"], math.inf, "energy is inf; expected a number, NaN where it is not known"),
        (["more"], {"a": {"b": object}}, r"more\['a'\] is <class 'object'>; expected a plain value"),
        (["made"], 4, "it has 'made', which is not known"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_place(encoding, path, new, words):
    values = plain(encoding)
    change(path, new)(values)
    with pytest.raises(ValueError, match=f"^{words}"):
        encoding.structure(values, Everything)


def test_nan_is_a_value_of_fields_whose_default_it_is(encoding):
    values = {**plain(encoding), "energy": math.nan}
    assert math.isnan(encoding.structure(values, Everything).energy)
    with pytest.raises(ValueError, match=r"shapes\[0\].side is nan; expected a number"):
        encoding.structure(
            {**values, "shapes": [{"kind": "mine:Square", "name": "s", "side": math.nan}]}, Everything
        )


def test_whole_numbers_are_numbers(encoding):
    back = encoding.structure({**plain(encoding), "energy": 3}, Everything)
    assert (back.energy, type(back.energy)) == (3.0, float)


def test_an_error_that_a_class_names_passes_as_it_is(encoding):
    values = {**plain(encoding), "shapes": [{"kind": "broken", "name": "mine"}]}
    with pytest.raises(MethodFailed, match="not today") as caught:
        encoding.structure(values, Everything)
    assert caught.value.method == "mine"

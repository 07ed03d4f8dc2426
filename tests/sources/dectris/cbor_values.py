"""Encoded CBOR items of every kind, also such that hold what their tag or type does not allow."""

from __future__ import annotations

import re

import cbor2
import stream_wire as wire
from hypothesis import strategies as st

#: tags that cbor2 decodes to something of its own, the stream's, and one that nobody knows
TAGS = [0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 40, 52, 54, 64, 69, 100, 256, 258, 260, 261, 1004]
TAGS += [1040, 43000, 55799, 56500, 12345]

_scalars = st.one_of(
    st.integers(-(2**70), 2**70).map(cbor2.dumps),
    st.floats().map(cbor2.dumps),
    st.text(max_size=60).map(wire.text),
    st.binary(max_size=20).map(wire.data),
    st.binary(max_size=8).map(lambda raw: wire.head(wire.TEXT, len(raw)) + raw),  # mostly no UTF-8
    st.sampled_from([b"\xf4", b"\xf5", b"\xf6", b"\xf7", b"\xe0", b"\xf8\x20", b"\xf9\x7e\x01"]),
    st.sampled_from(["2026-03-01T12:30:45Z", "2026-02-30T00:00:00Z", "2026-03-01"]).map(
        lambda text: wire.tag(0, wire.text(text))
    ),
)
#: one well-formed item
anything = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: wire.array(*items)),
        st.lists(inner, max_size=3).map(lambda items: b"\x9f" + b"".join(items) + b"\xff"),
        st.dictionaries(st.text(max_size=5), inner, max_size=4).map(wire.mapping),
        st.tuples(st.sampled_from(TAGS), inner).map(lambda pair: wire.tag(*pair)),
    ),
    max_leaves=8,
)

#: what only a Python programmer would say
PYTHON_WORDS = re.compile(
    r"\b(tuple|list|dict|str|bytes|int|float|bool|None|NoneType|True|False|mappingproxy|frozendict)\b"
    r"|<class|CBORTag|object at"
)

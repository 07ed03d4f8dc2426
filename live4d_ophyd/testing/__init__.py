"""What a user needs to test a method or a source of their own.

`MethodTests` and `SourceTests` are pytest classes to inherit from, each for one contract; `SmallDcu` sends a stream
that a test puts together, `LateBackend` decodes as late as it may. Needs pytest only where a conformance suite is used.
"""

from live4d_ophyd.testing.late_backend import LateBackend
from live4d_ophyd.testing.method_tests import MethodTests
from live4d_ophyd.testing.small_dcu import SmallDcu
from live4d_ophyd.testing.source_tests import SourceTests

__all__ = ["LateBackend", "MethodTests", "SmallDcu", "SourceTests"]

"""Messages that a preprocessor puts between those of a plan, and that a rewind must not bring again. Any thread."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from bluesky.utils import Msg, ensure_generator

Plan = Generator[Msg, Any, Any]


class LoopMsg(Msg):
    """A message that the RunEngine does not repeat when it rewinds, once it has had its effect.

    On a resume the RunEngine runs everything since the last checkpoint again, from its own list. A preview
    from that list would be read after the repeated exposure had ended, and the list would grow with every
    preview. What has to be repeated of a stretched wait are the triggers before it; the loop itself is still
    alive and goes on.
    """

    _had_effect = False
    rewound = False  # the RunEngine came by again

    @property
    def command(self) -> str:
        if self._had_effect:
            self.rewound = True
            return "null"
        return self[0]

    def exclude_from_rewind(self) -> None:
        self._had_effect = True


def each_by(follow: Callable[[Msg], Plan], plan: Plan) -> Plan:
    """The plan with ``follow(msg)`` in place of each of its messages; what that returns or raises is its answer."""
    plan = ensure_generator(plan)
    response: Any = None
    failure: BaseException | None = None
    while True:
        try:
            msg = plan.send(response) if failure is None else plan.throw(failure)
        except StopIteration as end:
            return end.value
        response = failure = None
        try:
            response = yield from follow(msg)
        except GeneratorExit:  # halt: no clean-up messages wanted
            plan.close()
            raise
        except BaseException as exception:
            failure = exception

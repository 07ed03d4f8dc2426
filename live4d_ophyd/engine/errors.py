"""What goes wrong with an acquisition."""


class AcquisitionError(RuntimeError):
    """The acquisition could not be completed; the text says what, where and what to do."""


class MethodFailed(AcquisitionError):
    """An imaging method raised; the text names it."""

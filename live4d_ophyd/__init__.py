"""Live 4D-STEM images from a DECTRIS stream, as a Bluesky device.

The public names are those of ``__init__.pyi``, each imported when it is used: the engine process and most commands need
no Bluesky and no Tiled, whose import takes seconds.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

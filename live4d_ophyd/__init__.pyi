# The public names, once: for type checkers, and at run time for lazy_loader, which imports a module when a name of it
# is asked for.
from . import plans as plans
from .decode.errors import EngineUnavailable as EngineUnavailable
from .decode.errors import GpuError as GpuError
from .decode.errors import GpuLost as GpuLost
from .decode.errors import GpuMemoryError as GpuMemoryError
from .device.live4d import Live4D as Live4D
from .device.scan_start import ScanGenerator as ScanGenerator
from .engine.errors import AcquisitionError as AcquisitionError
from .engine.errors import DetectorInUse as DetectorInUse
from .engine.errors import EngineFault as EngineFault
from .engine.errors import EngineInUse as EngineInUse
from .engine.errors import EngineLost as EngineLost
from .engine.errors import MethodFailed as MethodFailed
from .engine.errors import NoEngine as NoEngine
from .engine.errors import NoMethod as NoMethod
from .engine.errors import NoStream as NoStream
from .engine.errors import NothingCame as NothingCame
from .engine.errors import ProtocolError as ProtocolError
from .engine.errors import ScanMismatch as ScanMismatch
from .imaging.center_of_mass import CenterOfMass as CenterOfMass
from .imaging.mean_pattern import MeanPattern as MeanPattern
from .imaging.segments import Segments as Segments
from .imaging.virtual_detectors import Annulus as Annulus
from .imaging.virtual_detectors import Disk as Disk
from .live import Live4DBestEffortCallback as Live4DBestEffortCallback
from .live import ScanProgressBar as ScanProgressBar
from .live import live_preview as live_preview
from .offline import reprocess as reprocess
from .runs.delete import RunInUse as RunInUse
from .runs.description import describe as describe
from .runs.export import NothingToExport as NothingToExport
from .runs.export import export_run as export_run
from .runs.find import NoSuchRun as NoSuchRun
from .runs.images import image as image
from .runs.images import images as images
from .runs.images import plot_image as plot_image
from .scan import ScanGrid as ScanGrid
from .sources.dectris.control import Simplon as Simplon
from .sources.dectris.rest import SimplonError as SimplonError
from .sources.source import SourceError as SourceError
from .storage import ProfileConflict as ProfileConflict
from .storage import Unstorable as Unstorable
from .storage import open_catalog as open_catalog
from .storage import record as record

__version__: str

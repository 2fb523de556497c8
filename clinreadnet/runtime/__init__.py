"""The torch-free runtime: load a bundle, score slices."""

from clinreadnet.runtime.backends.loading import BACKENDS
from clinreadnet.runtime.scores import Scores
from clinreadnet.runtime.session import Session
from clinreadnet.runtime.stream import NotScored, Scored, Stream, StreamResult

__all__ = [
    "BACKENDS",
    "NotScored",
    "Scored",
    "Scores",
    "Session",
    "Stream",
    "StreamResult",
]

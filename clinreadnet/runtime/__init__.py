"""The torch-free runtime: load a bundle, score slices."""

from clinreadnet.runtime.session import Scores, Session

__all__ = ["Scores", "Session"]

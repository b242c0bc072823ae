"""Mapped frames: the HDF5 file and what is done with it before any training."""

from .frames import (
    Frames,
    FrameWriter,
    frames_header,
    iterate_frames,
    read_frames,
    write_frames,
    write_stream,
)
from .split import Split, split_frames

__all__ = [
    "Frames",
    "FrameWriter",
    "Split",
    "frames_header",
    "iterate_frames",
    "read_frames",
    "split_frames",
    "write_frames",
    "write_stream",
]

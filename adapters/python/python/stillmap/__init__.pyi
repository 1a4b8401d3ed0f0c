from os import PathLike
from types import TracebackType
from typing import Literal, NamedTuple, Self, overload

__all__ = ["Draft", "Residency", "Snapshot", "draft", "open"]

class Residency(NamedTuple):
    """Pages of a snapshot: how many are in RAM, of how many."""

    resident: int
    pages: int

class Snapshot:
    """The bytes of a file, read-only: they never change, even while other processes write to the file.

    It is a buffer: ``memoryview``, ``bytes``, ``numpy.frombuffer`` and ``pyarrow.py_buffer`` accept it, without a copy.
    """

    @property
    def backing(self) -> str:
        """What keeps the bytes: "memory", "leased", "sealed", "cloned", "disk", ..."""
    @property
    def is_consistent(self) -> bool:
        """False if the bytes are, or may be, not one moment of the file."""
    @property
    def residency(self) -> Residency: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None:
        """Unmap the bytes. BufferError while a view of them exists."""
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> memoryview: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> Literal[False]: ...

class Draft:
    """A new file as a writable buffer. Its path names the complete old file or the complete new one, at every moment."""

    def commit(self, path: str | bytes | PathLike[str] | PathLike[bytes] | None = None) -> None:
        """Make the bytes durable and visible under the path, or under another. BufferError while a view of them exists.

        After an OSError the draft is as it was, and can be committed again."""
    def discard(self) -> None:
        """Leave the path as it was."""
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> memoryview: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> memoryview:
        """The bytes. ``commit()`` follows at the end of the block, ``discard()`` if it raised."""
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> Literal[False]: ...

def open(file: str | bytes | PathLike[str] | PathLike[bytes] | int, /, *, offset: int = 0, length: int | None = None) -> Snapshot:
    """The bytes of a path, or of a descriptor from its current offset on. OSError with errno and path."""

def draft(path: str | bytes | PathLike[str] | PathLike[bytes], length: int, /) -> Draft:
    """A new file of ``length`` bytes, to be written as a buffer and committed."""

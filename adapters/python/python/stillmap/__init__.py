"""Files as buffers that do not change, without a copy."""

from ._stillmap import Draft, Residency, Snapshot, draft, open

__all__ = ["Draft", "Residency", "Snapshot", "draft", "open"]

"""Random draws that depend on text alone: the same request is answered by the same bytes in every process."""

import hashlib
from random import Random


def share(*parts: str) -> float:
    """A number in [0, 1) drawn from the parts."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def generator(*parts: str) -> Random:
    """A random generator seeded by the parts."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
    return Random(int.from_bytes(digest[:8], "big"))

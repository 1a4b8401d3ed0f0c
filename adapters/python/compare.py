"""Open and sum a file: this package, numpy.fromfile and numpy.memmap, in turns. Medians.

A turn is up to 20 calls: the first of them runs code that the others have pushed out of the processor's caches.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import stillmap


def by_stillmap(path):
    return np.frombuffer(stillmap.open(path), dtype=np.uint8).sum(dtype=np.uint64)


def by_fromfile(path):
    return np.fromfile(path, dtype=np.uint8).sum(dtype=np.uint64)


def by_memmap(path):
    return np.memmap(path, dtype=np.uint8, mode="r").sum(dtype=np.uint64)


def main():
    with tempfile.TemporaryDirectory(dir=".") as directory:
        for size, rounds, calls in ((4096, 200, 20), (1 << 20, 30, 10), (256 << 20, 12, 1)):
            path = str(Path(directory) / "data")
            Path(path).write_bytes(bytes(size - 1) + b"\1")
            times = {by_stillmap: [], by_fromfile: [], by_memmap: []}
            for _ in range(rounds):
                for function, measured in times.items():
                    for _ in range(calls):
                        start = time.perf_counter_ns()
                        assert function(path) == 1
                        measured.append(time.perf_counter_ns() - start)
            ours, fromfile, memmap = (statistics.median(measured) / 1000 for measured in times.values())
            print(
                f"{size:>9} bytes: stillmap {ours:.1f} µs, numpy.fromfile {fromfile:.1f} ({fromfile / ours:.2f} x), "
                f"numpy.memmap {memmap:.1f} ({memmap / ours:.2f} x)"
            )


if __name__ == "__main__":
    main()

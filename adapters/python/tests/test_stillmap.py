"""What a user of the package sees, against the built-in open()."""

import io
import os
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest

import stillmap

PATTERN = bytes(range(251)) * 40_000  # 10 MB: large enough to be mapped


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(PATTERN)
    return path


def test_bytes_are_those_of_the_file(path):
    for size in (0, 1, 4096, 70_000, len(PATTERN)):
        path.write_bytes(PATTERN[:size])
        with stillmap.open(path) as data:
            assert len(data) == size
            assert bytes(data) == PATTERN[:size]
            assert memoryview(data).readonly
            assert data.is_consistent
            assert data.backing in {"memory", "leased", "cloned", "disk", "sealed", "readonly"}


def test_paths_and_descriptors(path):
    expected = PATTERN[:9]
    for file in (str(path), path, os.fsencode(path)):
        assert bytes(stillmap.open(file)[:9]) == expected
    with open(path, "rb", buffering=0) as file:
        assert bytes(stillmap.open(file.fileno(), length=9)) == expected
    assert bytes(stillmap.open(path, offset=3, length=4)) == PATTERN[3:7]
    # A name that is not UTF-8, and names that no file can have.
    odd = path.parent / os.fsdecode(b"\xff")
    odd.write_bytes(b"odd")
    assert bytes(stillmap.open(odd)) == b"odd"
    for name in ("\0", "\ud800", b"\0"):
        with pytest.raises(ValueError):
            stillmap.open(name)
        with pytest.raises(ValueError):
            stillmap.draft(name, 1)


def test_a_pipe_gives_its_bytes():
    reader, writer = os.pipe()
    sender = threading.Thread(target=lambda: (os.write(writer, b"through a pipe"), os.close(writer)))
    sender.start()
    assert bytes(stillmap.open(reader)) == b"through a pipe"
    sender.join()
    os.close(reader)


def test_slices_are_views(path):
    data = stillmap.open(path)
    view = data[251 : 251 * 3]
    assert isinstance(view, memoryview) and view.obj is data
    assert view == PATTERN[251 : 251 * 3]
    assert data[-1] == PATTERN[-1]
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(TypeError):
        io.BytesIO(b"written").readinto(data)
    with pytest.raises(IndexError):
        data[len(PATTERN)]
    with pytest.raises(TypeError):
        data["x"]


def test_numpy_and_pyarrow_take_it_without_a_copy(path):
    data = stillmap.open(path)
    array = np.frombuffer(data, dtype=np.uint8)
    assert array.sum() == sum(PATTERN) and not array.flags.writeable
    buffer = pa.py_buffer(data)
    assert buffer.address == array.ctypes.data
    assert buffer.to_pybytes() == PATTERN


def test_close_waits_for_views(path):
    data = stillmap.open(path)
    view = memoryview(data)
    with pytest.raises(BufferError):
        data.close()
    view.release()
    data.close()
    assert data.closed
    with pytest.raises(ValueError):
        len(data)
    with pytest.raises(ValueError):
        memoryview(data)


def test_residency(path):
    residency = stillmap.open(path).residency
    assert 0 <= residency.resident <= residency.pages
    assert residency.pages >= len(PATTERN) // os.sysconf("SC_PAGESIZE")


def test_errors_are_os_errors_with_errno_and_path(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as caught:
        stillmap.open(missing)
    assert caught.value.filename == str(missing) and caught.value.errno == 2
    with pytest.raises(IsADirectoryError):
        stillmap.open(tmp_path)
    with pytest.raises(OSError):
        stillmap.open(1 << 20)
    with pytest.raises(ValueError):
        stillmap.open(-1)
    with pytest.raises(TypeError):
        stillmap.open(3.5)
    with pytest.raises(NotADirectoryError):
        file = tmp_path / "file"
        file.touch()
        stillmap.draft(file / "below", 10)


def test_a_draft_is_the_old_file_or_the_new_one(path):
    old = path.read_bytes()
    with stillmap.draft(path, 300_000) as view:
        assert not view.readonly and len(view) == 300_000
        np.frombuffer(view, dtype=np.uint8)[:] = 7
        assert path.read_bytes() == old
    assert path.read_bytes() == b"\7" * 300_000
    with pytest.raises(RuntimeError):
        with stillmap.draft(path, 10) as view:
            view[:] = b"0123456789"
            raise RuntimeError
    assert path.read_bytes() == b"\7" * 300_000
    # An array that is alive when the block raises does not hide the exception.
    with pytest.raises(RuntimeError):
        with stillmap.draft(path, 10) as view:
            array = np.frombuffer(view, dtype=np.uint8)
            raise RuntimeError
    assert path.read_bytes() == b"\7" * 300_000 and array.sum() == 0
    del array, view
    assert os.listdir(path.parent) == [path.name]


def test_a_draft_by_hand(path):
    draft = stillmap.draft(path, 5)
    view = draft[1:3]
    view[:] = b"ab"
    with pytest.raises(BufferError):
        draft.commit()
    view.release()
    draft.commit()
    assert path.read_bytes() == b"\0ab\0\0"
    with pytest.raises(ValueError):
        draft.commit()
    with pytest.raises(ValueError):
        memoryview(draft)


def test_a_failed_commit_loses_nothing(tmp_path):
    (tmp_path / "directory").mkdir()
    draft = stillmap.draft(tmp_path / "directory" / "file", 5)
    draft[:][:] = b"hours"
    (tmp_path / "directory" / "file").mkdir()
    with pytest.raises(OSError):
        draft.commit()
    draft.commit(tmp_path / "directory" / "other")
    assert (tmp_path / "directory" / "other").read_bytes() == b"hours"


READERS = {
    "stillmap": "import stillmap; array = numpy.frombuffer(stillmap.open(path), dtype=numpy.uint8)",
    "numpy": "array = numpy.memmap(path, dtype=numpy.uint8, mode='r')",
    "pyarrow": (
        "import pyarrow; "
        "array = numpy.frombuffer(pyarrow.memory_map(path).read_buffer(), dtype=numpy.uint8)"
    ),
}

PROGRAM = """
import sys, numpy
path = sys.argv[1]
{}
print("open", flush=True)
sys.stdin.readline()
print(array.sum(dtype=numpy.uint64))
"""


@pytest.mark.parametrize("reader", READERS)
def test_a_file_truncated_and_rewritten_under_its_reader(reader, path):
    """numpy.memmap and pyarrow.memory_map die of SIGBUS; this package gives the sum of the bytes that were opened."""
    program = PROGRAM.format(READERS[reader])
    child = subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "open\n"
    path.write_bytes(b"short")
    out, _ = child.communicate("go on\n", timeout=60)
    if reader == "stillmap":
        assert child.returncode == 0 and int(out) == sum(PATTERN)
    else:
        assert child.returncode == -7, "killed by SIGBUS, exit status 135 in a shell"


def test_a_view_while_another_thread_commits(path):
    """A view either is refused, or keeps the draft from being committed."""
    for _ in range(50):
        draft = stillmap.draft(path, 4096)
        outcomes = []

        def look():
            try:
                outcomes.append(bytes(memoryview(draft)))
            except (RuntimeError, ValueError) as error:
                outcomes.append(error)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            draft.commit()
        except BufferError:
            pass
        thread.join()
        assert len(outcomes) == 1
    assert path.stat().st_size == 4096


def test_threads_open_and_drop(path):
    def work():
        for _ in range(50):
            assert stillmap.open(path)[123] == PATTERN[123]

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

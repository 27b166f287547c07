"""What becomes of a file whose decoder crashes, takes too long or too much memory; and of the next one."""

import logging
import os
import signal
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from model.errors import CropError
from model.images import worker as worker_module
from model.images.read import decode, read_stack
from model.images.worker import Worker, read_apart


@pytest.fixture
def picture(tmp_path: Path, crops: list[np.ndarray]) -> Path:
    cv2.imwrite(str(tmp_path / "crop.png"), crops[0][..., ::-1])
    return tmp_path / "crop.png"


def slow_picture(folder: Path) -> Path:
    """A PNG that takes a moment to decode."""
    path = folder / "large.png"
    noise = np.random.default_rng(0).integers(0, 255, (4000, 4000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, compress_level=1)
    return path


def test_another_process_gives_the_same(tmp_path: Path, crops: list[np.ndarray], picture: Path) -> None:
    tifffile.imwrite(tmp_path / "lzw.tif", np.stack(crops), photometric="rgb", compression="lzw", metadata=None)
    for path in (picture, tmp_path / "lzw.tif"):
        apart, here = read_apart(path), decode(path)
        assert len(apart.crops) == len(here.crops) and apart.mpp == here.mpp
        assert all(np.array_equal(a, b) for a, b in zip(apart.crops, here.crops, strict=True))
        apart.crops[0][0, 0] = 0  # they can be written to, as if they were read here


def test_what_is_said_of_a_file_is_said_here(tmp_path: Path, crops: list[np.ndarray], caplog) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), crops[0][..., 0])
    with caplog.at_level(logging.INFO):
        read_stack(tmp_path / "grey.png")
    assert "grey.png was converted: grey to RGB" in caplog.text
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(CropError, match=r"bad\.png cannot be read as a PNG or JPEG"):
        read_stack(tmp_path / "bad.png")


def test_a_name_that_is_no_utf8_is_passed_on(picture: Path) -> None:
    named = picture.with_name(os.fsdecode(b"caf\xe9\n.png"))
    picture.rename(named)
    assert len(read_stack(named).crops) == 1


def test_a_crash_is_a_sentence_and_the_next_file_is_read(tmp_path: Path, picture: Path) -> None:
    """The child gets the signal that a crash gives, while it decodes."""
    worker = Worker()
    worker.read(picture)
    slow = slow_picture(tmp_path)
    threading.Timer(0.15, lambda: os.kill(worker.process.pid, signal.SIGSEGV)).start()
    with pytest.raises(CropError, match=r"large\.png cannot be decoded: its decoder crashed; export it again"):
        worker.read(slow)
    assert not worker.alive()
    with worker_module._idle_lock:
        worker_module._idle.append(worker)
    with pytest.raises(CropError, match="decoder crashed"):
        read_apart(picture)  # the child died while it was idle
    assert len(read_apart(picture).crops) == 1


def test_time_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "SECONDS", 0)
    monkeypatch.setattr(worker_module, "BYTES_A_SECOND", 1 << 40)
    monkeypatch.setattr(worker_module, "PATIENCE", 0)
    with pytest.raises(CropError, match=r"cannot be decoded: it takes too much time"):
        Worker().read(slow_picture(tmp_path))


def test_memory_is_limited_and_the_child_survives(tmp_path: Path, picture: Path) -> None:
    code = "import model.images.worker as w; w.MEMORY = 1 << 22; w.serve()"
    worker = Worker.__new__(Worker)
    import subprocess
    import sys

    root = str(Path(worker_module.__file__).parents[2])
    worker.process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert len(worker.read(picture).crops) == 1
    with pytest.raises(CropError, match=r"large\.png"):
        worker.read(slow_picture(tmp_path))


def test_the_child_ends_with_its_parent() -> None:
    worker = Worker()
    assert worker.process.stdin is not None and worker.process.stdout is not None
    worker.process.stdin.close()
    assert worker.process.wait(timeout=30) == 0
    worker.process.stdout.close()


def test_many_threads_at_once(picture: Path) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(read_apart(picture).crops))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [1] * 4

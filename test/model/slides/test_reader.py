"""Crops around points on slides of every kind that can be written here."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from written_slides import JPEG, LOSSLESS, PAGE, paste, write_plain, write_svs, write_tiled

from model.errors import CropError
from model.images.child import Child
from model.images.resampling import rescale
from model.slides import reader as reader_module
from model.slides.pyramid import Pyramid
from model.slides.reader import SlideReader


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Coloured noise, 700 x 900: a shift by a pixel shows."""
    return np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "svs": lambda path, image: write_svs(path, image, **LOSSLESS),
    "tiled": write_tiled,
    "tiled, lzw": lambda path, image: write_tiled(path, image, compression="lzw"),
    "strips": write_plain,
    "strips, deflate": lambda path, image: write_plain(path, image, rowsperstrip=50, **LOSSLESS),
    "strips, lzw and predictor": lambda path, image: write_plain(path, image, compression="lzw", predictor=True),
    "one strip, zstd": lambda path, image: write_plain(path, image, rowsperstrip=700, compression="zstd"),
    "big-endian": lambda path, image: (
        tifffile.imwrite(path, image, byteorder=">", resolution=(4e4, 4e4), resolutionunit="CENTIMETER", **PAGE) or path
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_pixel_is_where_it_belongs(tmp_path: Path, noise: np.ndarray, kind: str) -> None:
    with SlideReader(WRITERS[kind](tmp_path / "slide.tif", noise), None) as reader:
        assert (reader.pyramid.width, reader.pyramid.height, reader.pyramid.mpp) == (900, 700, 0.25)
        for x, y in ((64, 64), (300, 300), (511, 257), (836, 636)):
            crop = reader.read(x, y)
            assert crop.padded == 0
            np.testing.assert_array_equal(crop.pixels, noise[y - 64 : y + 64, x - 64 : x + 64])
        np.testing.assert_array_equal(reader.read(300.4, 299.6).pixels, noise[236:364, 236:364])


@pytest.mark.parametrize("kind", ["svs", "tiled", "strips", "strips, deflate"])
def test_what_lies_outside_is_black_and_flagged(tmp_path: Path, noise: np.ndarray, kind: str) -> None:
    with SlideReader(WRITERS[kind](tmp_path / "slide.tif", noise), None) as reader:
        for x, y in ((10, 300), (890, 20), (450, 695), (0, 0)):
            framed = np.zeros((828, 1028, 3), dtype=np.uint8)
            framed[64:764, 64:964] = noise
            crop = reader.read(x, y)
            np.testing.assert_array_equal(crop.pixels, framed[y : y + 128, x : x + 128])
            inside = (min(900, x + 64) - max(0, x - 64)) * (min(700, y + 64) - max(0, y - 64))
            assert crop.padded == pytest.approx(1 - inside / 128**2, abs=1e-4)
        with pytest.raises(CropError, match=r"slide\.tif has no pixels at -3, 20"):
            reader.read(-3, 20)


def test_crops_of_a_training_set_are_black_outside_their_images() -> None:
    """So the padding is theirs: where an edge of a real crop has one colour, it is black."""
    import cv2
    from helpers import shared

    uniform = []
    for path in sorted(shared("amibr").rglob("*.png"))[::7]:
        crop = cv2.imread(str(path))
        edges = [crop[0], crop[-1], crop[:, 0], crop[:, -1]]
        uniform += [edge[0].tolist() for edge in edges if np.ptp(edge, axis=0).max() == 0]
    assert len(uniform) >= 8 and all(colour == [0, 0, 0] for colour in uniform)


def test_jpeg_tiles_give_nearly_the_crops_that_were_pasted(
    tmp_path: Path, real_crops: tuple[list[np.ndarray], np.ndarray]
) -> None:
    image, centres = paste(real_crops[0][:16])
    for write in (write_svs, write_tiled, write_plain):
        coding = JPEG | ({} if write is not write_plain else {"rowsperstrip": 64})
        with SlideReader(write(tmp_path / "slide.tif", image, **coding), None) as reader:
            for crop, (x, y) in zip(real_crops[0][:16], centres, strict=True):
                difference = np.abs(reader.read(x, y).pixels[2:-2, 2:-2].astype(int) - crop[2:-2, 2:-2])
                assert difference.mean() < 4


def test_coarser_slides_are_resampled_as_folders_are(tmp_path: Path, noise: np.ndarray) -> None:
    with SlideReader(write_tiled(tmp_path / "slide.tif", noise, 0.5), None) as reader:
        crop = reader.read(300, 300)
    np.testing.assert_array_equal(crop.pixels, rescale(noise[268:332, 268:332], 0.5))


def test_of_a_finer_slide_the_level_at_a_quarter_micrometre_is_read(tmp_path: Path, noise: np.ndarray) -> None:
    path = write_svs(tmp_path / "slide.svs", noise, 0.125, (2, 4), **LOSSLESS)
    half = tifffile.imread(path, key=1)
    with SlideReader(path, None) as reader:
        assert reader.pyramid.level() == (1, 0.25)
        np.testing.assert_array_equal(reader.read(300, 300).pixels, half[86:214, 86:214])
    with SlideReader(write_svs(tmp_path / "fine.svs", noise, 0.125, (4,), **LOSSLESS), None) as reader:
        assert reader.pyramid.level() == (0, 0.125)
        np.testing.assert_array_equal(reader.read(300, 300).pixels, rescale(noise[172:428, 172:428], 0.125))


def test_a_resolution_that_is_missing_or_senseless_is_refused_unless_said(tmp_path: Path, noise: np.ndarray) -> None:
    missing = write_svs(tmp_path / "missing.svs", noise, None, **LOSSLESS)
    with pytest.raises(CropError, match=r"does not state its µm per pixel; say --mpp .*40x suggests 0\.25"):
        SlideReader(missing, None)
    for mpp in (25.0, 1.2):
        with pytest.raises(CropError, match=r"slide\.svs states .* which is not plausible; say --mpp"):
            SlideReader(write_svs(tmp_path / "slide.svs", noise, mpp, **LOSSLESS), None)
    plain = tmp_path / "screen.tif"
    tifffile.imwrite(plain, noise, resolution=(72, 72), resolutionunit="INCH", **PAGE)
    with pytest.raises(CropError, match=r"screen\.tif does not state its µm per pixel"):
        SlideReader(plain, None)
    for path in (missing, plain):
        with SlideReader(path, 0.25) as reader:
            np.testing.assert_array_equal(reader.read(300, 300).pixels, noise[236:364, 236:364])


def test_a_tile_that_was_not_scanned_is_no_black_crop(tmp_path: Path, noise: np.ndarray) -> None:
    path = write_svs(tmp_path / "slide.svs", noise, steps=(), **LOSSLESS)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("TileByteCounts", "TileOffsets"):
            values = list(tiff.pages.first.tags[tag].value)
            values[0] = 0
            tiff.pages.first.tags[tag].overwrite(values)
    with SlideReader(path, None) as reader:
        with pytest.raises(CropError, match=r"slide\.svs has no pixels at 100, 100; scan it there"):
            reader.read(100, 100)
        crop = reader.read(280, 100)
        assert 0.2 < crop.padded < 0.4 and not crop.pixels[:, :40].any()
        np.testing.assert_array_equal(crop.pixels[:, 40:], noise[36:164, 256:344])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svs", "tiled", "strips", "strips, deflate", "one strip, zstd"])
def test_a_truncated_slide_is_a_sentence_or_gives_true_pixels(tmp_path: Path, noise: np.ndarray, kind: str) -> None:
    path = WRITERS[kind](tmp_path / "slide.tif", noise)
    content = path.read_bytes()
    refused = 0
    for tenth in range(1, 10):
        path.write_bytes(content[: len(content) * tenth // 10])
        try:
            with SlideReader(path, 0.25) as reader:
                crop = reader.read(800, 600)
            np.testing.assert_array_equal(crop.pixels, noise[536:664, 736:864])
        except CropError as error:
            refused += 1
            assert "slide.tif" in str(error)
    assert refused >= 8


def test_after_a_damaged_tile_the_others_are_read(tmp_path: Path, noise: np.ndarray) -> None:
    path = write_svs(tmp_path / "slide.svs", noise, steps=(), **LOSSLESS)
    with tifffile.TiffFile(path) as tiff:
        start, length = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    with SlideReader(path, None) as reader:
        with pytest.raises(CropError, match=r"slide\.svs is damaged there"):
            reader.read(100, 100)
        np.testing.assert_array_equal(reader.read(600, 500).pixels, noise[436:564, 536:664])


def test_a_crash_costs_one_crop(tmp_path: Path, noise: np.ndarray) -> None:
    with SlideReader(write_tiled(tmp_path / "slide.tif", noise), None) as reader:
        (child,) = reader._idle
        os.kill(child.process.pid, signal.SIGSTOP)  # so that the question is asked, and not answered
        threading.Timer(0.2, lambda: os.kill(child.process.pid, signal.SIGSEGV)).start()
        threading.Timer(0.3, lambda: os.kill(child.process.pid, signal.SIGCONT)).start()
        with pytest.raises(CropError, match=r"slide\.tif cannot be decoded: its decoder crashed"):
            reader.read(300, 300)
        assert reader.read(300, 300).padded == 0


def test_a_slide_that_takes_too_long_is_given_up(
    tmp_path: Path, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SlideReader(write_tiled(tmp_path / "slide.tif", noise), None) as reader:
        monkeypatch.setattr(reader_module, "PATIENCE", 0.1)
        os.kill(reader._idle[0].process.pid, signal.SIGSTOP)
        with pytest.raises(CropError, match=r"slide\.tif cannot be decoded: it takes too much time"):
            reader.read(300, 300)


def test_what_is_no_slide_is_refused_by_name(tmp_path: Path, noise: np.ndarray) -> None:
    (tmp_path / "text.svs").write_text("no slide")
    (tmp_path / "empty.svs").write_bytes(b"")
    (tmp_path / "short.tif").write_bytes(b"II*\0")
    os.mkfifo(tmp_path / "pipe.svs")
    tifffile.imwrite(tmp_path / "grey.tif", noise[..., 0], photometric="minisblack", metadata=None)
    tifffile.imwrite(tmp_path / "deep.tif", noise.astype(np.uint16) * 257, **PAGE)
    tifffile.imwrite(tmp_path / "turned.tif", noise, extratags=[(274, 3, 1, 6, True)], **PAGE)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as tiff:
        for _ in range(2):
            tiff.write(noise, **PAGE)
    for name, what in {
        "text.svs": "is no slide that OpenSlide knows",
        "empty.svs": "is no slide that OpenSlide knows",
        "short.tif": "cannot be read as TIFF",
        "pipe.svs": "it is a pipe",
        "grey.tif": "is no RGB image",
        "deep.tif": "has 16 bits a channel",
        "turned.tif": "is to be turned",
        "pages.tif": "holds 2 images; a slide is one",
        "missing.svs": "cannot be opened: No such file",
    }.items():
        with pytest.raises(CropError, match=f"{name} {what}" if not what.startswith("it is") else what):
            SlideReader(tmp_path / name, 0.25)


def test_no_child_outlives_its_reader(tmp_path: Path, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[Child] = []

    class Noted(Child):
        def __init__(self, module: str) -> None:
            super().__init__(module)
            children.append(self)

    monkeypatch.setattr(reader_module, "Child", Noted)
    (tmp_path / "text.svs").write_text("no slide")
    with pytest.raises(CropError):
        SlideReader(tmp_path / "text.svs", None)
    with SlideReader(write_tiled(tmp_path / "slide.tif", noise), None) as reader:
        reader.read(300, 300)
        assert [child.alive() for child in children] == [False, True]
    assert [child.alive() for child in children] == [False, False]


SIDES = ["ImageWidth", "ImageLength"]
CLAIMS = [
    *((write, tag) for write in (write_tiled, write_svs) for tag in (*SIDES, "TileWidth", "TileLength")),
    *((write_plain, tag) for tag in (*SIDES, "RowsPerStrip")),
]


@pytest.mark.parametrize(("write", "tag"), CLAIMS)
def test_huge_claims_are_refused_or_harmless(tmp_path: Path, noise: np.ndarray, write: Callable, tag: str) -> None:
    path = write(tmp_path / "slide.tif", noise, **LOSSLESS)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        kind = tiff.pages.first.tags[tag].dtype
        tiff.pages.first.tags[tag].overwrite(65535 if kind == 3 else 1 << 30)
    try:
        with SlideReader(path, 0.25) as reader:
            reader.read(300, 300)
            reader.read(890, 690)
    except CropError as error:
        assert "slide.tif" in str(error)


@pytest.mark.slow
def test_many_threads_read_the_same(tmp_path: Path, noise: np.ndarray) -> None:
    with SlideReader(write_tiled(tmp_path / "slide.tif", noise), None) as reader:
        found: dict[int, np.ndarray] = {}
        threads = [
            threading.Thread(target=lambda x=x: found.update({x: reader.read(x, 300).pixels}))
            for x in range(100, 800, 70)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert len(found) == 10
    for x, pixels in found.items():
        np.testing.assert_array_equal(pixels, noise[236:364, x - 64 : x + 64])


def test_the_level_is_the_coarsest_that_is_fine_enough() -> None:
    def level(mpp: float, *steps: float, said: float | None = None) -> tuple[int, float]:
        pyramid = Pyramid("any", 1000, 1000, (1.0, *steps), (mpp, mpp))
        return pyramid.checked(Path("slide"), said).level()

    assert level(0.25, 4, 16) == (0, 0.25)
    assert level(0.2738, 4) == (0, 0.25)
    assert level(0.5, 4) == (0, 0.5)
    assert level(0.0625, 2, 4, 8) == (2, 0.25)
    assert level(0.11, 2, 4) == (1, 0.22)
    assert level(0.46, 4, said=0.23) == (0, 0.23)


@pytest.mark.slow
@pytest.mark.parametrize("coding", [{}, {"rowsperstrip": 16, "compression": "lzw"}], ids=["raw", "lzw"])
def test_a_region_as_large_as_midogs_is_not_read_as_a_whole(tmp_path: Path, coding: dict) -> None:
    """7215 x 5412 pixels are 117 MB; what a child holds is far less, and a crop takes milliseconds."""
    random = np.random.default_rng(0)
    image = np.kron(random.integers(0, 256, (553, 803, 3), dtype=np.uint8), np.ones((10, 9, 1), np.uint8))[:5412, :7215]
    with SlideReader(write_plain(tmp_path / "001.tiff", image, **coding), None) as reader:
        pid = reader._idle[0].process.pid

        def held() -> int:
            status = Path(f"/proc/{pid}/status").read_text()
            return int(status.partition("RssAnon:")[2].split()[0]) >> 10

        before = held()
        for x, y in random.integers(64, (7151, 5348), (40, 2)):
            np.testing.assert_array_equal(reader.read(x, y).pixels, image[y - 64 : y + 64, x - 64 : x + 64])
            assert held() - before < 80 or coding
        assert held() - before < 300  # decoded strips that are kept for what lies near

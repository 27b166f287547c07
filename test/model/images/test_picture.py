"""PNG and JPEG: what decoders agree on is read, turned upright, with its resolution; damage is refused."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import DATA, REPOSITORY
from PIL import Image, ImageOps, PngImagePlugin

from model.errors import CropError
from model.images.picture import read_picture
from model.images.png import SIGNATURE, write_chunk

FAILING = DATA.parent / "failing"


def refused(path: Path) -> str:
    with pytest.raises(CropError) as error:
        read_picture(path)
    sentence = str(error.value)
    assert path.name in sentence and sentence.endswith(".") and "\n" not in sentence
    return sentence


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def read(folder: Path, content: bytes, name: str = "crop.png") -> np.ndarray:
    (folder / name).write_bytes(content)
    (crop,) = read_picture(folder / name).crops
    return crop


def png(size: tuple[int, int], colour: int, depth: int, raw: bytes, *extra: bytes, interlaced: int = 0) -> bytes:
    """A PNG of filtered rows; `extra` are whole chunks before the pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    pixels = write_chunk(b"IDAT", zlib.compress(raw))
    return SIGNATURE + write_chunk(b"IHDR", header) + b"".join(extra) + pixels + write_chunk(b"IEND", b"")


@pytest.fixture
def crop(crops: list[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(crops[0][:48, :37])


MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "RGB": lambda image: image,
    "L": lambda image: image.convert("L"),
    "P": lambda image: image.quantize(200),
    "P of 4 bits": lambda image: image.quantize(16),
    "P of 1 bit": lambda image: image.quantize(2),
    "LA": lambda image: Image.merge("LA", [image.getchannel(0), image.getchannel(1)]),
    "RGBA": lambda image: Image.merge("RGBA", [*image.split(), image.getchannel(1).rotate(90)]),
}


@pytest.mark.parametrize("mode", MODES)
def test_pillow_reads_the_same_png(tmp_path: Path, crop: np.ndarray, mode: str) -> None:
    image = MODES[mode](Image.fromarray(crop))
    content = saved(image, "PNG", optimize=True)
    shown = Image.new("RGBA", image.size, "white")
    shown.alpha_composite(Image.open(io.BytesIO(content)).convert("RGBA"))
    assert np.abs(read(tmp_path, content).astype(int) - np.asarray(shown.convert("RGB"))).max() <= 1


def test_transparent_colours_are_laid_on_white_or_refused(tmp_path: Path, crop: np.ndarray) -> None:
    image = Image.fromarray(crop // 64 * 64).quantize(16)
    assert np.all(read(tmp_path, saved(image, "PNG", transparency=5))[np.asarray(image) == 5] == 255)
    colour = crop[3, 4]
    found = read(tmp_path, saved(Image.fromarray(crop), "PNG", transparency=tuple(map(int, colour))))
    assert np.array_equal(found[3, 4], [255] * 3) and np.array_equal(found[40, 30], crop[40, 30])
    (tmp_path / "grey.png").write_bytes(saved(Image.fromarray(crop[..., 0]), "PNG", transparency=80))
    assert "transparent" in refused(tmp_path / "grey.png")


@pytest.mark.parametrize(("depth", "colour"), [(8, 2), (16, 2), (8, 0), (2, 0), (4, 0), (16, 6)])
def test_interlaced_png_is_the_same(tmp_path: Path, depth: int, colour: int) -> None:
    """All bytes 0xff, with filter 0 in front of each row: rows of the wrong length would show."""
    bits = depth * {0: 1, 2: 3, 6: 4}[colour]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    for width, height in ((1, 1), (3, 2), (9, 5), (16, 16)):
        raw = b""
        for left, top, right, down in passes:
            columns, rows = len(range(left, width, right)), len(range(top, height, down))
            raw += (b"\0" + b"\xff" * -(-columns * bits // 8)) * rows * (columns > 0)
        content = png((width, height), colour, depth, raw, interlaced=1)
        assert np.array_equal(read(tmp_path, content), np.full((height, width, 3), 255))
        for wrong in (raw[:-1], raw + b"\0"):
            (tmp_path / "wrong.png").write_bytes(png((width, height), colour, depth, wrong, interlaced=1))
            assert "not as many as" in refused(tmp_path / "wrong.png")


def test_every_flipped_bit_of_a_png_is_refused(tmp_path: Path, crop: np.ndarray) -> None:
    path = tmp_path / "crop.png"
    content = bytearray(saved(Image.fromarray(crop[:6, :5]), "PNG", dpi=(101600, 101600)))
    for bit in range(len(content) * 8):
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        content[bit // 8] ^= 1 << bit % 8
        refused(path)


ROWS = b"\0" + b"\x80" * 12


@pytest.mark.parametrize(
    "content",
    [
        png((4, 4), 2, 8, ROWS * 3),
        png((4, 4), 2, 8, ROWS * 5),
        png((4, 4), 2, 8, b""),
        png((4, 4), 5, 8, ROWS * 4),
        png((4, 4), 2, 4, ROWS * 4),
        png((4, 4), 3, 8, (b"\0" * 5) * 4),
        png((4, 4), 2, 8, ROWS * 4, interlaced=2),
        png((0, 4), 2, 8, b""),
        png((4, 4), 2, 8, ROWS * 4, write_chunk(b"ABCD", b"x")),
        png((4, 4), 2, 8, ROWS * 4, write_chunk(b"PLTE", b"\0" * 3), write_chunk(b"PLTE", b"\0" * 3)),
        png((4, 4), 2, 8, ROWS * 4, write_chunk(b"IDAT", b""), write_chunk(b"tEXt", b"a\0b")),
        png((4, 4), 2, 8, ROWS * 4) + b"\0",
        png((4, 4), 2, 8, ROWS * 4) * 2,
        png((4, 4), 2, 8, ROWS * 4)[:-12],
        png((4, 4), 2, 8, (b"\x07" + b"\x80" * 12) * 4),
        SIGNATURE,
        SIGNATURE + write_chunk(b"IEND", b""),
        SIGNATURE + b"\xff\xff\xff\xff" + b"IHDR" * 10,
    ],
)
def test_png_whose_parts_do_not_fit_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "crop.png").write_bytes(content)
    refused(tmp_path / "crop.png")


def test_an_animations_default_image_is_read(tmp_path: Path, crop: np.ndarray) -> None:
    frames = [Image.fromarray(crop[::-1]), Image.fromarray(crop[:, ::-1].copy())]
    for default in (True, False):
        content = saved(
            Image.fromarray(crop), "PNG", save_all=True, append_images=frames, default_image=default, duration=100
        )
        assert b"acTL" in content and np.array_equal(read(tmp_path, content), crop)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(tmp_path: Path, crop: np.ndarray, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    content = saved(Image.fromarray(crop), kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert np.array_equal(read(tmp_path, content), expected)
    assert expected.shape[0] == (48 if orientation < 5 else 37)


def test_exif_that_cannot_be_read_turns_nothing(tmp_path: Path, crop: np.ndarray) -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0" + bytes(100)):
        content = saved(Image.fromarray(crop), "PNG", exif=exif)
        assert np.array_equal(read(tmp_path, content), crop)


@pytest.mark.parametrize(
    ("dpi", "mpp"), [(101_600, 0.25), (50_800, 0.5), (72, None), (96, None), (300, None), (1, None), (0, None)]
)
def test_resolution_of_a_png(tmp_path: Path, crop: np.ndarray, dpi: int, mpp: float | None) -> None:
    path = tmp_path / "crop.png"
    path.write_bytes(saved(Image.fromarray(crop), "PNG", dpi=(dpi, dpi)))
    assert read_picture(path).mpp == (mpp if mpp is None else pytest.approx(mpp, rel=1e-3))
    unit_unknown = png((4, 4), 2, 8, ROWS * 4, write_chunk(b"pHYs", struct.pack(">IIB", 4_000_000, 4_000_000, 0)))
    path.write_bytes(unit_unknown)
    assert read_picture(path).mpp is None


@pytest.mark.parametrize(
    ("unit", "density", "mpp"),
    [
        (2, 40_000, 0.25),
        (2, 20_000, 0.5),
        (1, 50_800, 0.5),
        (1, 72, None),
        (1, 96, None),
        (0, 40_000, None),
        (2, 0, None),
    ],
)
def test_resolution_of_a_jpeg(tmp_path: Path, crop: np.ndarray, unit: int, density: int, mpp: float | None) -> None:
    content = bytearray(saved(Image.fromarray(crop), "JPEG"))
    at = content.index(b"JFIF\0") + 7
    content[at : at + 5] = struct.pack(">BHH", unit, density % 65536, density % 65536)
    (tmp_path / "crop.jpg").write_bytes(content)
    assert read_picture(tmp_path / "crop.jpg").mpp == (mpp if mpp is None else pytest.approx(mpp))


JPEGS: dict[str, tuple[str, dict]] = {
    "baseline": ("RGB", {}),
    "4:4:4": ("RGB", {"quality": 95, "subsampling": 0}),
    "4:2:2": ("RGB", {"subsampling": 1}),
    "progressive": ("RGB", {"progressive": True}),
    "progressive grey": ("L", {"progressive": True}),
    "grey": ("L", {}),
    "restart intervals": ("RGB", {"restart_marker_blocks": 2}),
    "optimised": ("RGB", {"optimize": True}),
    "colours not transformed": ("RGB", {"keep_rgb": True}),
    "notes": ("RGB", {"comment": b"x" * 60_000, "icc_profile": bytes(200_000)}),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_pillow_reads_the_same_jpeg(tmp_path: Path, crop: np.ndarray, kind: str) -> None:
    mode, options = JPEGS[kind]
    for part in (crop, crop[:1, :1], crop[:17, :9]):
        content = saved(Image.fromarray(part).convert(mode), "JPEG", **options)
        second = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        assert np.abs(read(tmp_path, content, "crop.jpg").astype(int) - second).max() <= 3


JUDGE = """
import sys, cv2, numpy as np
for line in sys.stdin:
    image = cv2.imdecode(np.frombuffer(bytes.fromhex(line), np.uint8), -1)
    print("none" if image is None else "read", flush=True)
    print("next", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restart intervals", "grey"])
def test_jpeg_that_libjpeg_finds_corrupt_is_refused(tmp_path: Path, crop: np.ndarray, kind: str) -> None:
    """Flipped bits, lost, doubled and zeroed bytes; libjpeg tells of damage on its standard error."""
    mode, options = JPEGS[kind]
    content = saved(Image.fromarray(crop).convert(mode), "JPEG", **options)
    random = np.random.default_rng(0)
    damaged = []
    for number in range(120):
        at, many = int(random.integers(2, len(content))), int(random.integers(1, 40))
        parts = (bytes([content[at] ^ 1 << int(random.integers(8))]) + content[at + 1 :], content[at + many :],
                 content[at - many :], bytes(many) + content[at + many :])  # fmt: skip
        damaged.append(content[:at] + parts[number % 4])
    lines = "".join(f"{each.hex()}\n" for each in damaged)
    judge = subprocess.run([sys.executable, "-c", JUDGE], input=lines, capture_output=True, text=True, check=True)
    reports = judge.stderr.split("next\n")
    found = 0
    for each, answer, report in zip(damaged, judge.stdout.split(), reports, strict=False):
        (tmp_path / "crop.jpg").write_bytes(each)
        # which leaves the picture as it was, and a later scan's coefficients whole
        if answer == "none" or (report and "Inconsistent progression" not in report):
            refused(tmp_path / "crop.jpg")
            found += 1
    assert found > 20


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_with_more_or_less_than_its_frame_is_refused(tmp_path: Path, crop: np.ndarray, kind: str) -> None:
    mode, options = JPEGS[kind]
    content = saved(Image.fromarray(crop).convert(mode), "JPEG", **options)
    frame = max(content.find(b"\xff\xc0\0"), content.find(b"\xff\xc2\0"))
    shorter, longer = bytearray(content), bytearray(content)
    struct.pack_into(">H", shorter, frame + 5, 16)
    struct.pack_into(">H", longer, frame + 5, 480)
    path = tmp_path / "crop.jpg"
    for wrong in (
        shorter,
        longer,
        content + b"\0",
        content * 2,
        content[:-1],
        content[:-2],
        content[:-2] + b"x\xff\xd9",
    ):
        path.write_bytes(wrong)
        refused(path)


def test_jpeg_of_other_kinds_is_refused(tmp_path: Path, crop: np.ndarray) -> None:
    path = tmp_path / "crop.jpg"
    quarter = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411]
    path.write_bytes(cv2.imencode(".jpg", crop, quarter)[1].tobytes())
    assert "sampled" in refused(path)
    content = saved(Image.fromarray(crop), "JPEG")
    for frame, word in ((0xC3, "lossless"), (0xC9, "arithmetic"), (0xC5, "hierarchical")):
        path.write_bytes(content.replace(b"\xff\xc0\0", bytes([0xFF, frame, 0]), 1))
        assert word in refused(path)


def bomb_png(size: int, extra: int = 0) -> bytes:
    packer = zlib.compressobj(9)
    rows = b"\0" + bytes(3 * size)
    stream = b"".join(packer.compress(rows) for _ in range(size + extra)) + packer.flush()
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")
    return SIGNATURE + b"".join(write_chunk(kind, data) for kind, data in parts)


def noted_png() -> bytes:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("note", "x" * (100 << 20), zip=True)
    return saved(Image.new("RGB", (8, 8)), "PNG", pnginfo=notes)


def many_scans(crop: np.ndarray, repeat: int) -> bytes:
    content = saved(Image.fromarray(crop).resize((1024, 1024)), "JPEG", progressive=True)
    scan = content.rindex(b"\xff\xda")
    return content[:scan] + content[scan:-2] * repeat + content[-2:]


BOMBS: dict[str, tuple[Callable[[np.ndarray], bytes], bool]] = {
    "PNG of the largest size": (lambda _: bomb_png(4096), True),
    "PNG that goes on": (lambda _: bomb_png(4096, 4096), False),
    "PNG that is larger": (lambda _: bomb_png(5000), False),
    "PNG with a long note": (lambda _: noted_png(), True),
    "PNG of chunks": (lambda _: SIGNATURE + write_chunk(b"tEXt", b"") * 80_000, False),
    "JPEG of the largest size": (lambda _: saved(Image.new("RGB", (4096, 4096)), "JPEG"), True),
    "JPEG that is larger": (lambda _: saved(Image.new("RGB", (8192, 4096)), "JPEG"), False),
    "JPEG of many scans": (lambda crop: many_scans(crop, 200), False),
    "JPEG of segments": (lambda _: b"\xff\xd8" + b"\xff\xfe\0\2" * 250_000, False),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_take_neither_time_nor_memory(tmp_path: Path, crop: np.ndarray, kind: str) -> None:
    write, is_read = BOMBS[kind]
    path = tmp_path / "bomb.png"
    path.write_bytes(write(crop))
    assert path.stat().st_size < 2 << 20
    program = (
        "import sys, resource, cv2, imagecodecs, PIL.Image; from pathlib import Path\n"
        "from model.errors import CropError; from model.images.picture import read_picture\n"
        "usage = lambda: resource.getrusage(resource.RUSAGE_SELF)\n"
        "imagecodecs.JpegxlError, imagecodecs.jpegxl_encode_jpeg\n"
        "before = usage()\n"
        "try: read_picture(Path(sys.argv[1])); read = True\n"
        "except CropError: read = False\n"
        "after = usage()\n"
        "print(read, (after.ru_maxrss - before.ru_maxrss) // 1024, after.ru_utime + after.ru_stime - before.ru_utime"
        " - before.ru_stime)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, path], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    answer, megabytes, seconds = result.stdout.split()
    assert answer == str(is_read) and int(megabytes) < 1000 and float(seconds) < 5


def test_files_that_were_read_wrongly() -> None:
    if not FAILING.is_dir():
        pytest.skip("needs the failing files")
    animated, still = (
        read_picture(FAILING / "18-apng-default-image" / "in" / f"{name}.png").crops[0]
        for name in ("apng", "default-image")
    )
    assert np.array_equal(animated, still)
    masked, shown = (
        read_picture(FAILING / "17-alpha" / "in" / f"{name}.png").crops[0] for name in ("masked", "as-viewers-show-it")
    )
    assert np.array_equal(masked, shown)
    assert "coded pixels" in refused(FAILING / "22-jpeg-lost-intervals" / "in" / "lost.jpg")
    assert read_picture(FAILING / "22-jpeg-lost-intervals" / "in" / "restart.jpg").crops[0].shape == (128, 128, 3)

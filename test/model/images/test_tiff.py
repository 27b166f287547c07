"""TIFF: what a decoder does not check, what programs mean by a page, and files made to break a reader."""

import logging
import struct
import subprocess
import sys
import time
import zlib
from bisect import bisect_right
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from helpers import REPOSITORY

from model.errors import CropError
from model.images.read import read_crops, read_stack
from model.images.tiff import _highest_from_width

FAILING = REPOSITORY.parent / "shared" / "failing"


@pytest.fixture
def noisy() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)


def write(path: Path, pages: np.ndarray, **options: object) -> Path:
    with tifffile.TiffWriter(path) as out:
        for page in pages:
            out.write(page, **({"photometric": "rgb", "metadata": None} | options))
    return path


def segments(path: Path) -> list[tuple[int, int]]:
    with tifffile.TiffFile(path) as tiff:
        return [
            (offset, count)
            for page in tiff.pages
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]


def build(pixels: bytes, tags: dict[int, tuple[str, list[int] | bytes]], following: int = 0) -> bytes:
    """A TIFF of one page, tag by tag: 128 x 128 RGB without compression, but for what `tags` says."""
    kinds = {"B": (1, 1), "A": (2, 1), "H": (3, 2), "I": (4, 4), "R": (5, 8), "b": (6, 1), "h": (8, 2), "f": (11, 4)}
    usual: dict[int, tuple[str, list[int] | bytes]] = {
        256: ("I", [128]),
        257: ("I", [128]),
        258: ("H", [8, 8, 8]),
        259: ("H", [1]),
        262: ("H", [2]),
        273: ("I", [8]),
        277: ("H", [3]),
        278: ("I", [128]),
        279: ("I", [len(pixels)]),
        284: ("H", [1]),
    }
    entries = sorted((usual | tags).items())
    start = 8 + len(pixels) + len(pixels) % 2
    after = start + 2 + 12 * len(entries) + 4
    body, extra = b"", b""
    for tag, (kind, values) in entries:
        code, size = kinds[kind]
        raw = values if isinstance(values, bytes) else b"".join(value.to_bytes(size, "little") for value in values)
        place = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", after + len(extra))
        body += struct.pack("<HHI", tag, code, len(raw) // size) + place
        extra += raw if len(raw) > 4 else b""
    head = b"II*\0" + struct.pack("<I", start) + pixels.ljust(start - 8, b"\0")
    return head + struct.pack("<H", len(entries)) + body + struct.pack("<I", following) + extra


def read_flipped(path: Path, content: bytes, bit: int) -> np.ndarray | None:
    """The crops of a file with one bit flipped; None where it is refused."""
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        return np.stack(read_crops(path))
    except CropError:
        return None


@pytest.mark.parametrize("compression", ["adobe_deflate", None])
@pytest.mark.parametrize("layout", ["strips", "tiles"])
def test_one_flipped_bit_is_refused_or_harmless(
    tmp_path: Path, noisy: np.ndarray, compression: str | None, layout: str
) -> None:
    """Two hundred bits, anywhere in the file. Deflate has a checksum; without compression a bit is a pixel's."""
    options = {"tile": (64, 64)} if layout == "tiles" else {"rowsperstrip": 50}
    smooth = (noisy >> 4) + 100
    content = write(tmp_path / "good.tif", smooth, compression=compression, **options).read_bytes()
    path = tmp_path / "stack.tif"
    random = np.random.default_rng(1)
    refused = 0
    for bit in random.choice(8 * len(content), 200, replace=False):
        found = read_flipped(path, content, bit)
        if found is None:
            refused += 1
            continue
        changed = np.count_nonzero(found != smooth) if found.shape == smooth.shape else -1
        assert changed == 0 or (compression is None and changed == 1), f"bit {bit} changed {changed} values"
    assert refused > 150 or compression is None


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"compression": "adobe_deflate"}, {"tile": (32, 32)}, {"rowsperstrip": 20}])
def test_a_flipped_bit_of_what_is_no_pixel_is_refused_or_harmless(
    tmp_path: Path, noisy: np.ndarray, options: dict
) -> None:
    """Every one of them; where a page stands otherwise, or has another gap before it, nothing in the file can tell."""
    smooth = (noisy[:2, :64, :64] >> 4) + 100
    path = write(tmp_path / "stack.tif", smooth, **options)
    content = path.read_bytes()
    inside = np.zeros(len(content), bool)
    for start, count in segments(path):
        inside[start : start + count] = True
    wrong = []
    for bit in np.flatnonzero(np.repeat(~inside, 8)):
        found = read_flipped(path, content, bit)
        if found is not None and not np.array_equal(found, smooth):
            wrong.append(bit)
    assert not wrong


@pytest.mark.parametrize("compression", ["adobe_deflate", "lzw", "packbits", "zstd", None])
@pytest.mark.parametrize("change", [-3, 3, 3000])
def test_strips_of_another_length_are_refused(
    tmp_path: Path, noisy: np.ndarray, compression: str | None, change: int
) -> None:
    """The stream is intact; it only decodes to fewer or more bytes than the page has."""
    codes = {None: 1, "adobe_deflate": 8, "lzw": 5, "packbits": 32773, "zstd": 50000}
    encode = {
        None: bytes,
        "adobe_deflate": zlib.compress,
        "lzw": imagecodecs.lzw_encode,
        "packbits": imagecodecs.packbits_encode,
        "zstd": imagecodecs.zstd_encode,
    }
    plain = noisy[0].tobytes()
    path = tmp_path / "stack.tif"
    tag = {259: ("H", [codes[compression]])}
    path.write_bytes(build(encode[compression](plain), tag))
    assert np.array_equal(read_crops(path)[0], noisy[0])
    other = plain[:change] if change < 0 else plain + plain[:change]
    path.write_bytes(build(encode[compression](other), tag))
    with pytest.raises(CropError, match=r"stack\.tif cannot be read as TIFF"):
        read_crops(path)


def test_simpleitk_reads_the_same(tmp_path: Path, noisy: np.ndarray) -> None:
    for number, options in enumerate(
        ({}, {"compression": "adobe_deflate"}, {"tile": (32, 32)}, {"compression": "lzw"})
    ):
        path = write(tmp_path / f"{number}.tif", noisy, **options)
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        assert np.array_equal(np.stack(read_crops(path)), expected[..., :3])  # it adds an alpha channel to tiles


def imagej(path: Path, stack: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, stack, imagej=True, photometric="rgb" if stack.shape[-1] == 3 else None, **options)
    return path


def test_an_imagej_stack_of_one_directory_has_all_its_crops(tmp_path: Path, noisy: np.ndarray) -> None:
    path = imagej(tmp_path / "stack.tif", noisy, truncate=True)
    assert len(list(tifffile.TiffFile(path).pages)) == 1
    assert np.array_equal(np.stack(read_crops(path)), noisy)
    assert np.array_equal(np.stack(read_crops(imagej(tmp_path / "pages.tif", noisy))), noisy)


def test_a_truncated_description_of_the_shape_has_all_its_crops(tmp_path: Path, noisy: np.ndarray) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, noisy, photometric="rgb", truncate=True)
    assert len(list(tifffile.TiffFile(path).pages)) == 1
    assert np.array_equal(np.stack(read_crops(path)), noisy)


def test_images_that_are_not_all_there_are_refused(tmp_path: Path, noisy: np.ndarray) -> None:
    path = imagej(tmp_path / "stack.tif", noisy, truncate=True)
    path.write_bytes(path.read_bytes()[:-40_000])
    with pytest.raises(CropError, match="pixels of image 3 are missing"):
        read_crops(path)


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ({270: ("A", b"ImageJ=1.53t\nimages=5\nslices=5\n")}, "pixels of image 2 are missing"),
        ({270: ("A", b"ImageJ=1.53t\nimages=many\n")}, "counts 'many'"),
        ({270: ("A", b'{"shape": [7, 5, 3]}')}, "not that of its pages"),
        ({270: ("A", b'{"shape": "x"}')}, "damaged"),
        ({270: ("A", b'<OME><!DOCTYPE x [<!ENTITY a "b">]><Pixels SizeC="3"/></OME>')}, "defines entities"),
        ({33629: ("I", [1] * 12)}, "MetaMorph file, whose pages are no crops"),
        ({34412: ("B", b"x" * 500)}, "Zeiss LSM file"),
        ({32997: ("I", [65535])}, "several images deep"),
        ({317: ("H", [3])}, "a predictor that is not read"),
        ({266: ("H", [2])}, "8-bit RGB"),
        *(({259: (kind, [7])}, "tag 259 is no whole number") for kind in ("b", "h", "f")),
        ({317: ("H", b"")}, "tag 317 is no whole number"),
        ({317: ("H", [2, 1])}, "tag 317 has 2 values"),
        ({316: ("H", [2])}, "tag 316 is of a type that it does not have"),
        ({270: ("R", bytes(8))}, "tag 270 is of a type"),
        ({277: ("H", [0])}, "stack.tif"),
        ({256: ("I", [0])}, "holds no crops"),
        ({259: ("H", [34887])}, "is compressed as LERC"),
        ({262: ("H", [3]), 277: ("H", [1]), 258: ("H", [8])}, "no palette"),
        ({279: ("I", [0])}, "stack.tif"),
        ({273: ("I", [8] * 200), 279: ("I", [384] * 100)}, "stack.tif"),
        ({322: ("I", [60000]), 323: ("I", [60000]), 324: ("I", [8]), 325: ("I", [100])}, "tiles of 60000 x 60000"),
    ],
)
def test_what_tags_claim_is_checked(
    tmp_path: Path, noisy: np.ndarray, tags: dict[int, tuple[str, list[int] | bytes]], sentence: str
) -> None:
    path = tmp_path / "stack.tif"
    path.write_bytes(build(noisy[0].tobytes(), tags))
    with pytest.raises(CropError, match=sentence):
        read_crops(path)


def test_colours_on_pages_of_their_own_are_refused_by_name(tmp_path: Path, noisy: np.ndarray) -> None:
    planes = np.ascontiguousarray(np.moveaxis(noisy, -1, 1))
    tifffile.imwrite(tmp_path / "composite.tif", planes, imagej=True, metadata={"axes": "ZCYX", "mode": "composite"})
    tifffile.imwrite(tmp_path / "first.tif", planes[0], photometric="minisblack")
    tifffile.imwrite(tmp_path / "bare.tif", planes[0], photometric="minisblack", metadata=None)
    for name, words in (
        ("composite", "of ImageJ, has colours"),
        ("first", "of tifffile, has colours"),
        ("bare", "3 pages of one"),
    ):
        with pytest.raises(CropError, match=words):
            read_crops(tmp_path / f"{name}.tif")


def test_a_grey_page_among_coloured_ones_is_refused(tmp_path: Path, noisy: np.ndarray) -> None:
    """It may be a mask that is not marked as one; grey crops alone are crops."""
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as out:
        out.write(noisy[0], photometric="rgb", metadata=None)
        out.write(noisy[0, ..., 0], photometric="minisblack", metadata=None)
    with pytest.raises(CropError, match=r"page 2 of one channel, which may be a mask"):
        read_crops(path)


def test_alpha_in_the_colours_is_said(tmp_path: Path, noisy: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    clear = np.concatenate([noisy // 2, np.full_like(noisy[..., :1], 128)], axis=-1)
    tifffile.imwrite(tmp_path / "stack.tif", clear, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    with caplog.at_level(logging.INFO):
        read_crops(tmp_path / "stack.tif")
    assert caplog.text.count("stack.tif was converted: alpha laid on white.") == 1, "once for all its pages"


def test_of_a_slide_the_first_page_is_the_crop(tmp_path: Path, noisy: np.ndarray, caplog) -> None:
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as out:
        description = "Aperio Image Library v11\n128x128 [0,0 128x128] |MPP = 0.2500|AppMag = 40"
        out.write(noisy[0], photometric="rgb", description=description, metadata=None, software="")
        out.write(
            noisy[1, ::2, ::2], photometric="rgb", description="Aperio Image Library\n128x128 -> 64x64", metadata=None
        )
    with caplog.at_level(logging.INFO):
        stack = read_stack(path)
    assert len(stack.crops) == 1 and np.array_equal(stack.crops[0], noisy[0]) and stack.mpp == 0.25
    assert "1 reduced pages, masks or overviews were passed over" in caplog.text


def test_masks_are_passed_over(tmp_path: Path, noisy: np.ndarray) -> None:
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as out:
        out.write(noisy[0], photometric="rgb", metadata=None)
        out.write(noisy[0, ..., 0], photometric="minisblack", subfiletype=1, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[1].tags["NewSubfileType"].overwrite(4)
    with pytest.raises(CropError, match="page 2 is called a mask, but holds colours"):
        read_crops(path)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[1].tags["PhotometricInterpretation"].overwrite(4)
    assert len(read_crops(path)) == 1


def test_a_crop_that_is_called_a_reduced_copy_is_not_lost(tmp_path: Path, noisy: np.ndarray) -> None:
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as out:
        for page, subfiletype in zip(noisy, (0, 1, 0), strict=True):
            out.write(page, photometric="rgb", subfiletype=subfiletype, metadata=None)
    with pytest.raises(CropError, match="page 2 is called a reduced copy, but is as large"):
        read_crops(path)


def test_an_ome_description_that_disagrees_with_the_pages_is_refused(tmp_path: Path, noisy: np.ndarray) -> None:
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, noisy, photometric="rgb", ome=True, metadata={"axes": "ZYXS"})
    assert np.array_equal(np.stack(read_crops(path)), noisy)
    path.write_bytes(path.read_bytes().replace(b'SizeZ="3"', b'SizeZ="4"'))
    with pytest.raises(CropError, match="3 pages, but its OME-TIFF description tells of 4 images"):
        read_crops(path)


def test_no_other_file_is_opened(tmp_path: Path, noisy: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OME description may name other files."""
    path, other = tmp_path / "stack.ome.tif", tmp_path / "other.ome.tif"
    tifffile.imwrite(other, noisy, photometric="rgb", ome=True)
    tifffile.imwrite(path, noisy[:1], photometric="rgb", ome=True)
    content = path.read_bytes()
    start, end = content.index(b"<TiffData"), content.index(b"</Pixels>")
    named = b'<TiffData IFD="0"><UUID FileName="other.ome.tif">urn:uuid:1</UUID></TiffData>'
    text = (content[:start] + named)[content.index(b"<?xml") :] + content[end:]
    path.write_bytes(build(noisy[0].tobytes(), {270: ("A", text[: text.index(b"\0") + 1])}))
    opened: list[str] = []
    sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)
    assert len(read_crops(path)) == 1
    assert not [name for name in opened if "other.ome" in name]


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        ({"resolution": (40000, 40000), "resolutionunit": 3}, 0.25),
        ({"resolution": (20000, 20000), "resolutionunit": 3}, 0.5),
        ({"resolution": (101600, 101600), "resolutionunit": 2}, 0.25),
        ({"resolution": (72, 72), "resolutionunit": 2}, None),
        ({"resolution": (96, 96), "resolutionunit": 2}, None),
        ({"resolution": (1, 1), "resolutionunit": 1}, None),
        ({"resolution": (0, 0), "resolutionunit": 3}, None),
        ({}, None),
    ],
)
def test_the_resolution_that_tags_state(tmp_path: Path, noisy: np.ndarray, options: dict, mpp: float | None) -> None:
    found = read_stack(write(tmp_path / "stack.tif", noisy, **options)).mpp
    assert found == (None if mpp is None else pytest.approx(mpp, rel=1e-6))


def test_a_resolution_that_is_not_square_is_refused_and_one_side_stands_for_both(
    tmp_path: Path, noisy: np.ndarray
) -> None:
    path = write(tmp_path / "stack.tif", noisy, resolution=(20000, 25000), resolutionunit=3)
    with pytest.raises(CropError, match=r"stack\.tif .*0\.5 µm wide and 0\.4 µm high, which is not square"):
        read_stack(path)
    for tag in (282, 283):
        path.write_bytes(build(noisy[0].tobytes(), {tag: ("R", struct.pack("<II", 20000, 1)), 296: ("H", [3])}))
        assert read_stack(path).mpp == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("attributes", "mpp"),
    [
        ('PhysicalSizeX="0.5" PhysicalSizeY="0.5" PhysicalSizeXUnit="&#181;m" PhysicalSizeYUnit="&#xB5;m"', 0.5),
        ("PhysicalSizeX='0.5' PhysicalSizeY='0.5'", 0.5),
        ('PhysicalSizeX="5000" PhysicalSizeY="5000" PhysicalSizeXUnit="Å" PhysicalSizeYUnit="Å"', 0.5),
        ('PhysicalSizeX="0.5"', 0.5),
        ('PhysicalSizeX="\u0660.\u0665" PhysicalSizeY="0.5" PhysicalSizeYUnit="furlong"', None),
    ],
)
def test_the_resolution_of_ome_in_every_spelling(
    tmp_path: Path, noisy: np.ndarray, attributes: str, mpp: float | None
) -> None:
    text = f'<?xml version="1.0"?><OME><Image><Pixels {attributes}/></Image></OME>'
    path = tmp_path / "stack.tif"
    path.write_bytes(build(noisy[0].tobytes(), {270: ("A", text.encode() + b"\0")}))
    assert read_stack(path).mpp == (None if mpp is None else pytest.approx(mpp))


def test_the_resolution_that_descriptions_state(tmp_path: Path, noisy: np.ndarray) -> None:
    path = imagej(tmp_path / "ij.tif", noisy, resolution=(2.0, 2.0), metadata={"unit": "um"})
    assert read_stack(path).mpp == pytest.approx(0.5)
    path = tmp_path / "ome.tif"
    tifffile.imwrite(
        path, noisy, photometric="rgb", ome=True, metadata={"axes": "ZYXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    )
    assert read_stack(path).mpp == pytest.approx(0.5)


def test_pages_of_several_resolutions_are_refused(tmp_path: Path, noisy: np.ndarray) -> None:
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as out:
        for page, pixels in zip(noisy, (40000, 40000, 20000), strict=True):
            out.write(page, photometric="rgb", metadata=None, resolution=(pixels, pixels), resolutionunit=3)
    with pytest.raises(CropError, match="pages of several resolutions"):
        read_stack(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pages_are_turned_upright(tmp_path: Path, noisy: np.ndarray, orientation: int) -> None:
    """As Pillow turns them, which applies the same tag of a picture."""
    from PIL import Image, ImageOps

    path = write(tmp_path / "stack.tif", noisy[:1], extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[274] = orientation
    picture = Image.fromarray(noisy[0])
    picture.info["exif"] = exif.tobytes()
    picture.getexif()[274] = orientation
    assert np.array_equal(read_crops(path)[0], np.asarray(ImageOps.exif_transpose(picture)))


def test_directories_in_a_circle_end_at_once(tmp_path: Path, noisy: np.ndarray) -> None:
    content = build(noisy[0].tobytes(), {})
    (start,) = struct.unpack_from("<I", content, 4)
    path = tmp_path / "stack.tif"
    path.write_bytes(build(noisy[0].tobytes(), {}, following=start))
    with pytest.raises(CropError, match="go round in a circle"):
        read_crops(path)


def test_pages_that_share_their_pixels_are_refused(tmp_path: Path) -> None:
    """Many directories for one strip: few bytes, much work."""
    blank = zlib.compress(bytes(128 * 128 * 3), 9)
    page = build(blank, {259: ("H", [8])})
    (start,) = struct.unpack_from("<I", page, 4)
    directory = page[start:]
    content = bytearray(page[:start])
    for number in range(500):
        here = bytearray(directory)
        values = 2 + 12 * 10 + 4
        shift = number * len(directory)
        for entry in range(10):
            tag, _, count = struct.unpack_from("<HHI", here, 2 + 12 * entry)
            if tag == 258 and count == 3:
                struct.pack_into("<I", here, 2 + 12 * entry + 8, start + shift + values)
        struct.pack_into("<I", here, 2 + 12 * 10, start + shift + len(directory) if number < 499 else 0)
        content += here
    path = tmp_path / "stack.tif"
    path.write_bytes(content)
    with pytest.raises(CropError, match="share their pixels"):
        read_crops(path)


@pytest.mark.skipif(not (FAILING / "decoders").is_dir(), reason="needs ../shared/failing")
def test_files_made_to_break_a_reader_cost_little_time_and_memory() -> None:
    code = """
import sys, time
from bisect import bisect_right
from pathlib import Path
from model.errors import CropError
from model.images.read import read_stack
import tifffile, imagecodecs, cv2
for path in sorted(Path(sys.argv[1]).glob("decoders/*.*")):
    start = time.monotonic()
    try:
        read_stack(path)
        print("read", path.name)
    except CropError as error:
        assert path.name in str(error)
    assert time.monotonic() - start < 5, path
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024)
"""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(FAILING)], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert time.monotonic() - start < 60
    *read, peak = done.stdout.split("\n")[:-1]
    assert read == [] and int(peak) < 1000


def test_a_page_is_smaller_than_another_as_a_look_at_every_pair_says() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        sides = [tuple(map(int, pair)) for pair in random.integers(0, 6, (random.integers(1, 8), 2))]
        widths, highest = _highest_from_width(sides)
        for width in range(7):
            wider = bisect_right(widths, width)
            most = max((height for other, height in sides if other > width), default=-1)
            assert (highest[wider] if wider < len(widths) else -1) == most

"""Images of every kind but the right one: converted where the meaning is obvious, refused in a sentence otherwise."""

import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from model.errors import CropError
from model.images.read import read_crops

Write = Callable[[Path, np.ndarray], None]


def tiff(convert: Callable[[np.ndarray], np.ndarray], **options: object) -> Write:
    def write(path: Path, crop: np.ndarray) -> None:
        with tifffile.TiffWriter(
            path, bigtiff=bool(options.pop("bigtiff", False)), ome=options.pop("ome", False)
        ) as out:
            for page in (crop, crop[::-1]):
                out.write(convert(page), **({"photometric": "rgb"} | options))

    return write


def mha(convert: Callable[[np.ndarray], np.ndarray], vector: bool = True) -> Write:
    def write(path: Path, crop: np.ndarray) -> None:
        stack = np.stack([convert(crop), convert(crop[::-1])])
        sitk.WriteImage(sitk.GetImageFromArray(stack, isVector=vector), str(path))

    return write


def picture(convert: Callable[[np.ndarray], Image.Image]) -> Write:
    return lambda path, crop: convert(crop).save(path)


def alpha(page: np.ndarray) -> np.ndarray:
    return np.dstack([page, np.full(page.shape[:2], np.iinfo(page.dtype).max, page.dtype)])


def sixteen(page: np.ndarray) -> np.ndarray:
    return page.astype(np.uint16) * 257


def grey(page: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(page[..., 1])


def planes(page: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(page, -1, 0))


def palette_tiff(path: Path, crop: np.ndarray) -> None:
    pages = [Image.fromarray(page).quantize(256) for page in (crop, crop[::-1])]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def pyramid(path: Path, crop: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as out:
        for page in (crop, crop[::-1]):
            out.write(page, photometric="rgb", metadata=None)
            out.write(np.ascontiguousarray(page[::2, ::2]), photometric="rgb", subfiletype=1, metadata=None)


def sub_ifds(path: Path, crop: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as out:
        for page in (crop, crop[::-1]):
            out.write(page, photometric="rgb", subifds=1, metadata=None)
            out.write(np.ascontiguousarray(page[::2, ::2]), photometric="rgb", subfiletype=1, metadata=None)


SAME: dict[str, tuple[str, Write]] = {
    "tiled": (".tif", tiff(np.asarray, tile=(32, 32))),
    "BigTIFF": (".tif", tiff(np.asarray, bigtiff=True)),
    "OME": (".ome.tif", tiff(np.asarray, ome=True)),
    "big-endian strips": (".tif", tiff(np.asarray, rowsperstrip=7, compression="lzw")),
    "predictor": (".tif", tiff(np.asarray, compression="adobe_deflate", predictor=True)),
    "RGBA": (".tif", tiff(alpha, extrasamples=["unassalpha"])),
    "planar": (".tif", tiff(planes, planarconfig="separate")),
    "16 bits": (".tif", tiff(sixteen)),
    "16 bits planar RGBA": (
        ".tif",
        tiff(lambda p: planes(alpha(sixteen(p))), planarconfig="separate", extrasamples=[2]),
    ),
    "pyramid": (".tif", pyramid),
    "pyramid in SubIFDs": (".tif", sub_ifds),
    "MHA RGBA": (".mha", mha(alpha)),
    "MHA 16 bits": (".mha", mha(sixteen)),
    "PNG RGBA": (".png", picture(lambda c: Image.fromarray(alpha(c)))),
    "PNG 16 bits": (".png", lambda path, crop: cv2.imwrite(str(path), sixteen(crop)[..., ::-1])),
}
GREY: dict[str, tuple[str, Write]] = {
    "grey": (".tif", tiff(grey, photometric="minisblack")),
    "inverted grey": (".tif", tiff(lambda p: 255 - grey(p), photometric="miniswhite")),
    "grey 16 bits": (".tif", tiff(lambda p: sixteen(grey(p)), photometric="minisblack")),
    "grey and alpha": (".tif", tiff(lambda p: alpha(grey(p)), photometric="minisblack", extrasamples=["unassalpha"])),
    "MHA grey": (".mha", mha(grey, vector=False)),
    "PNG grey": (".png", picture(lambda c: Image.fromarray(grey(c)))),
    "PNG grey and alpha": (".png", picture(lambda c: Image.fromarray(alpha(grey(c)), "LA"))),
    "JPEG grey": (".jpg", lambda path, crop: Image.fromarray(grey(crop)).save(path, quality=100, subsampling=0)),
}


@pytest.fixture
def crop(crops: list[np.ndarray]) -> np.ndarray:
    """One crop with its darkest and brightest possible values in it, and no symmetry."""
    crop = crops[0].copy()
    crop[0, :2] = (0, 0, 0), (255, 255, 255)
    return crop


@pytest.mark.parametrize("kind", SAME)
def test_what_means_rgb_gives_the_rgb_crops(tmp_path: Path, crop: np.ndarray, kind: str) -> None:
    suffix, write = SAME[kind]
    write(tmp_path / f"image{suffix}", crop)
    read = read_crops(tmp_path / f"image{suffix}")
    expected = [crop, crop[::-1]] if suffix != ".png" else [crop]
    assert len(read) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(read, expected, strict=True))


@pytest.mark.parametrize("kind", GREY)
def test_grey_is_repeated(tmp_path: Path, crop: np.ndarray, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    suffix, write = GREY[kind]
    write(tmp_path / f"image{suffix}", crop)
    with caplog.at_level(logging.INFO):
        read = read_crops(tmp_path / f"image{suffix}")
    expected = np.repeat(grey(crop)[..., None], 3, axis=2)
    assert np.abs(read[0].astype(int) - expected).max() <= (3 if suffix == ".jpg" else 0)
    assert "was converted" in caplog.text


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_palettes_are_looked_up(tmp_path: Path, crop: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    if suffix == ".tif":
        palette_tiff(path, crop)
    else:
        Image.fromarray(crop).quantize(256).save(path)
    expected = np.asarray(Image.fromarray(crop).quantize(256).convert("RGB"))
    assert np.array_equal(read_crops(path)[0], expected)


def test_jpeg_in_tiff_with_subsampled_colour(tmp_path: Path, crop: np.ndarray) -> None:
    path = tmp_path / "image.tif"
    smooth = cv2.GaussianBlur(crop, (0, 0), 3)
    with tifffile.TiffWriter(path) as out:
        out.write(smooth, photometric="rgb", compression="jpeg", subsampling=(2, 2), metadata=None)
    assert np.abs(read_crops(path)[0].astype(int) - smooth).mean() < 3


REFUSED: dict[str, tuple[str, Write, str]] = {
    "float": (".tif", tiff(lambda p: p.astype(np.float32)), "float32"),
    "32 bits": (".tif", tiff(lambda p: p.astype(np.uint32)), "uint32"),
    "12 of 16 bits": (".tif", tiff(lambda p: p.astype(np.uint16) * 16), "its white is unknown"),
    "8 of 16 bits": (".mha", mha(lambda p: p.astype(np.uint16)), "its white is unknown"),
    "MHA float": (".mha", mha(lambda p: p.astype(np.float32)), "MET_FLOAT"),
    "CMYK": (".tif", tiff(alpha, photometric="separated"), "SEPARATED"),
    "1 bit": (".tif", tiff(lambda p: grey(p) > 127, photometric="minisblack"), "1 bits"),
    "PNG 1 bit": (".png", picture(lambda c: Image.fromarray(c).convert("1")), "mode 1"),
    "JPEG CMYK": (".jpg", picture(lambda c: Image.fromarray(c).convert("CMYK")), "mode CMYK"),
    "OME planes as pages": (
        ".ome.tif",
        tiff(planes, ome=True, photometric="minisblack", metadata={"axes": "CYX"}),
        "OME",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_obvious_meaning_is_refused_by_name(tmp_path: Path, crop: np.ndarray, kind: str) -> None:
    suffix, write, word = REFUSED[kind]
    path = tmp_path / f"image{suffix}"
    write(path, crop)
    with pytest.raises(CropError) as refused:
        read_crops(path)
    sentence = str(refused.value)
    assert path.name in sentence and word in sentence and sentence.endswith(".") and "\n" not in sentence


def bomb_png(path: Path) -> None:
    """A PNG that says it is 100,000 x 100,000; its checksums are right."""
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def bomb_mha(path: Path, size: str = "100000 100000 16", pixels: int = 1000) -> None:
    header = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = False\nDimSize = {size}\n"
        "ElementNumberOfChannels = 3\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + b"\0" * pixels)


@pytest.mark.parametrize("kind", ["tif", "png", "mha"])
def test_headers_that_claim_too_much_cost_no_memory(tmp_path: Path, crop: np.ndarray, kind: str) -> None:
    path = tmp_path / f"bomb.{kind}"
    if kind == "tif":
        tiff(np.asarray, metadata=None)(path, crop)
        with tifffile.TiffFile(path, mode="r+b") as file:
            for tag in ("ImageWidth", "ImageLength"):
                file.pages[0].tags[tag].overwrite(100_000)
    else:
        {"png": bomb_png, "mha": bomb_mha}[kind](path)
    with pytest.raises(
        CropError, match=rf"bomb\.{kind} (claims .* too many to read|does not have the number of bytes)"
    ):
        read_crops(path)


@pytest.mark.parametrize("size", ["128 128 2", "128 128 0", "128 128", "x 128 2"])
def test_mha_whose_pixels_are_not_as_many_as_its_header_says(tmp_path: Path, size: str) -> None:
    path = tmp_path / "stack.mha"
    bomb_mha(path, size, 128 * 128 * 3 * 3)
    with pytest.raises(CropError, match=r"stack\.mha"):
        read_crops(path)


def test_tiny_and_oblong_crops_are_read_as_they_are(tmp_path: Path, crop: np.ndarray) -> None:
    for number, part in enumerate((crop[:1, :1], crop[:100, :30])):
        tifffile.imwrite(tmp_path / f"{number}.tif", part, photometric="rgb", metadata=None)
        assert np.array_equal(read_crops(tmp_path / f"{number}.tif")[0], part)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path, crop: np.ndarray) -> None:
    tiff(np.asarray)(tmp_path / "stack.tif", crop)
    (tmp_path / "stack.tif").chmod(0)
    with pytest.raises(CropError, match="Permission denied"):
        read_crops(tmp_path / "stack.tif")


def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stack.tif").mkdir()
    with pytest.raises(CropError, match=r"stack\.tif cannot be opened"):
        read_crops(tmp_path / "stack.tif")


def test_a_name_that_is_no_utf8_is_read(tmp_path: Path, crop: np.ndarray) -> None:
    for suffix, write in ((".tif", tiff(np.asarray)), (".mha", mha(np.asarray)), (".png", SAME["PNG RGBA"][1])):
        plain = tmp_path / f"plain{suffix}"
        write(plain, crop)
        named = tmp_path / os.fsdecode(b"caf\xe9" + suffix.encode())
        plain.rename(named)
        assert np.array_equal(read_crops(named)[0], crop)


@pytest.mark.parametrize("suffix", [".tif", ".mha", ".png", ".jpg"])
@pytest.mark.parametrize("tenth", range(10))
def test_truncated_files_are_refused(tmp_path: Path, crop: np.ndarray, suffix: str, tenth: int) -> None:
    path = tmp_path / f"image{suffix}"
    noisy = np.random.default_rng(0).integers(0, 256, crop.shape, dtype=np.uint8)
    if suffix == ".tif":
        tiff(np.asarray, compression="adobe_deflate")(path, noisy)
    elif suffix == ".mha":
        mha(np.asarray)(path, noisy)
    else:
        cv2.imwrite(str(path), noisy)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    with pytest.raises(CropError, match=f"image{suffix}"):
        read_crops(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    pages=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    compression=st.sampled_from([None, "adobe_deflate", "lzw", "packbits", "zstd"]),
    layout=st.sampled_from(["contig", "separate", "tiled", "alpha", "sixteen", "mha"]),
)
def test_whatever_is_written_is_read_back(
    tmp_path: Path, height: int, width: int, pages: int, seed: int, compression: str | None, layout: str
) -> None:
    random = np.random.default_rng(seed)
    crops = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(pages)]
    if layout == "mha":
        path = tmp_path / "stack.mha"
        sitk.WriteImage(sitk.GetImageFromArray(np.stack(crops), isVector=True), str(path), bool(compression))
    else:
        path = tmp_path / "stack.tif"
        if layout == "sixteen":
            crops = [crop | 128 for crop in crops]  # bright enough to be no 12 bits of 16
        convert = {"separate": planes, "alpha": alpha, "sixteen": sixteen}.get(layout, np.asarray)
        options: dict = {"planarconfig": "separate"} if layout == "separate" else {}
        options |= {"tile": (16, 16)} if layout == "tiled" else {}
        options |= {"extrasamples": ["unassalpha"]} if layout == "alpha" else {}
        with tifffile.TiffWriter(path) as out:
            for crop in crops:
                out.write(convert(crop), photometric="rgb", compression=compression, metadata=None, **options)
    read = read_crops(path)
    assert len(read) == pages and all(np.array_equal(a, b) for a, b in zip(read, crops, strict=True))

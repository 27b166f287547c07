from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from model.errors import CropError
from model.images.read import read_crops


def write_tiff(path: Path, crops: list[np.ndarray], **options) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for crop in crops:
            tiff.write(crop, **({"photometric": "rgb", "metadata": None} | options))
    return path


@pytest.mark.parametrize("compression", [None, "adobe_deflate", "lzw", "packbits"])
def test_lossless_tiff_gives_the_crops_in_order(tmp_path: Path, crops: list[np.ndarray], compression: str) -> None:
    read = read_crops(write_tiff(tmp_path / "stack.tiff", crops, compression=compression))
    assert len(read) == len(crops)
    assert all(np.array_equal(a, b) for a, b in zip(read, crops, strict=True))


def test_jpeg_tiff_gives_the_crops_nearly(tmp_path: Path, crops: list[np.ndarray]) -> None:
    path = write_tiff(tmp_path / "stack.tif", crops, compression="jpeg", compressionargs={"level": 95})
    for read, crop in zip(read_crops(path), crops, strict=True):
        assert np.abs(read.astype(int) - crop).mean() < 3


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"tile": (64, 64)}, {"compression": "webp"}])
def test_tiff_beyond_the_usual_is_read_too(tmp_path: Path, crops: list[np.ndarray], options: dict) -> None:
    path = write_tiff(tmp_path / "stack.tif", crops, **options)
    assert all(np.abs(a.astype(int) - b).mean() < 8 for a, b in zip(read_crops(path), crops, strict=True))


def test_pages_of_different_sizes(tmp_path: Path, crops: list[np.ndarray]) -> None:
    mixed = [crops[0], crops[1][:100, :90], crops[2]]
    read = read_crops(write_tiff(tmp_path / "stack.tif", mixed))
    assert all(np.array_equal(a, b) for a, b in zip(read, mixed, strict=True))


@pytest.mark.parametrize("number", [1, 5])
def test_mha(tmp_path: Path, crops: list[np.ndarray], number: int) -> None:
    path = tmp_path / "stack.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.stack(crops[:number]), isVector=True), str(path), useCompression=True)
    assert np.array_equal(np.stack(read_crops(path)), np.stack(crops[:number]))


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 5)])
def test_pictures(tmp_path: Path, crops: list[np.ndarray], suffix: str, tolerance: float) -> None:
    path = tmp_path / f"crop{suffix}"
    cv2.imwrite(str(path), cv2.cvtColor(crops[0], cv2.COLOR_RGB2BGR))
    (read,) = read_crops(path)
    assert np.abs(read.astype(int) - crops[0]).mean() <= tolerance


@pytest.mark.parametrize("suffix", [".tiff", ".mha"])
@pytest.mark.parametrize("tenth", range(10))
def test_truncated_stacks_are_refused(tmp_path: Path, crops: list[np.ndarray], suffix: str, tenth: int) -> None:
    path = tmp_path / f"stack{suffix}"
    if suffix == ".tiff":
        write_tiff(path, crops, compression="adobe_deflate")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(np.stack(crops), isVector=True), str(path), useCompression=True)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    with pytest.raises(CropError, match=f"stack{suffix} .*"):
        read_crops(path)


@pytest.mark.parametrize("name", ["stack.tiff", "stack.mha", "crop.png"])
@pytest.mark.parametrize("content", [b"", b"no image at all" * 10])
def test_other_content_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CropError, match=name):
        read_crops(path)


def test_unknown_suffix_and_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CropError, match=r"crop\.bmp has no known image suffix"):
        read_crops(tmp_path / "crop.bmp")
    with pytest.raises(CropError, match="No such file"):
        read_crops(tmp_path / "crop.png")


def test_a_header_that_claims_too_much_is_refused_before_decoding(tmp_path: Path, crops: list[np.ndarray]) -> None:
    path = write_tiff(tmp_path / "stack.tif", crops[:1])
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(100_000)
        tiff.pages[0].tags["ImageLength"].overwrite(100_000)
    with pytest.raises(CropError, match="too many to read"):
        read_crops(path)

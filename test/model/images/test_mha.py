"""MHA: what SimpleITK writes is read as SimpleITK reads it; whatever else a header or a stream says is refused."""

import os
import re
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers import DATA

from model.errors import CropError
from model.images.mha import read_mha
from model.images.rgb import to_rgb

HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "0 0 0",
    "CenterOfRotation": "0 0 0",
    "AnatomicalOrientation": "RAI",
    "ElementSpacing": "0.00025 0.00025 1",
    "DimSize": "8 6 2",
    "ElementNumberOfChannels": "3",
    "ElementType": "MET_UCHAR",
    "ElementDataFile": "LOCAL",
}
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)


def write(path: Path, pixels: bytes = PIXELS.tobytes(), **keys: str | None) -> Path:
    """An MHA of `HEADER` with some keys changed, or left out where they are None; new ones come before the last."""
    header = HEADER | keys
    header["ElementDataFile"] = header.pop("ElementDataFile")
    lines = "".join(f"{key} = {value}\n" for key, value in header.items() if value is not None)
    path.write_bytes(lines.encode() + pixels)
    return path


def write_compressed(path: Path, stream: bytes, **keys: str | None) -> Path:
    return write(path, stream, **{"CompressedData": "True", "CompressedDataSize": str(len(stream))} | keys)


@contextmanager
def bit_flipped(path: Path, bit: int) -> Iterator[None]:
    """One bit of a file, the other way round meanwhile."""
    with path.open("r+b", buffering=0) as file:
        (byte,) = os.pread(file.fileno(), 1, bit // 8)
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)
        yield
        os.pwrite(file.fileno(), bytes([byte]), bit // 8)


def refused(path: Path) -> str:
    with pytest.raises(CropError) as error:
        read_mha(path)
    sentence = str(error.value)
    assert path.name in sentence and sentence.endswith(".") and "\n" not in sentence and len(sentence) < 500
    return sentence


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "shape", [(5, 7, 3), (1, 5, 7, 3), (2, 128, 90, 3), (16, 1, 1, 3), (2, 9, 4, 4), (2, 5, 7, 2), (5, 7)]
)
def test_simpleitk_reads_the_same(tmp_path: Path, shape: tuple[int, ...], dtype: type, compressed: bool) -> None:
    top = np.iinfo(dtype).max
    values = np.random.default_rng(1).integers(top // 2 + 1, top, shape, dtype=dtype, endpoint=True)
    image = sitk.GetImageFromArray(values, isVector=len(shape) > 2)
    image.SetSpacing([0.0005, 0.0005, 1][: image.GetDimension()])
    image.SetMetaData("Software", "some program 1.0")
    sitk.WriteImage(image, str(tmp_path / "stack.mha"), compressed)
    second = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "stack.mha")))
    stack = read_mha(tmp_path / "stack.mha")
    expected = to_rgb(tmp_path, second if image.GetDimension() == 3 else [second])
    assert len(stack.crops) == len(expected) and np.array_equal(np.stack(stack.crops), np.stack(expected))
    assert stack.mpp == pytest.approx(0.5)
    assert all(crop.flags.writeable and crop.dtype == np.uint8 for crop in stack.crops)


def test_what_simpleitk_makes_of_the_platforms_cases_is_read(tmp_path: Path) -> None:
    """Every case's stack, written anew by SimpleITK: what ITK adds to the header is no reason to refuse it."""
    stacks = sorted((DATA / "cases").glob("*/images/*/*.*"))
    if not stacks:
        pytest.skip("needs the cases")
    for number, stack in enumerate(stacks):
        image = sitk.ReadImage(str(stack))
        sitk.WriteImage(image, str(tmp_path / f"{number}.mha"), bool(number % 2))
        read = read_mha(tmp_path / f"{number}.mha")
        array = sitk.GetArrayFromImage(image)
        assert np.array_equal(np.stack(read.crops), array if array.ndim == 4 else array[None])
        assert read.mpp == pytest.approx(0.25)


def test_both_byte_orders(tmp_path: Path) -> None:
    values = PIXELS.astype(np.uint16) * 257
    for order, msb in (("<u2", "False"), (">u2", "True")):
        path = write(
            tmp_path / f"{msb}.mha",
            values.astype(order).tobytes(),
            ElementType="MET_USHORT",
            BinaryDataByteOrderMSB=msb,
        )
        assert np.array_equal(np.stack(read_mha(path).crops), PIXELS)
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), values)
    path = write(tmp_path / "no.mha", values.tobytes(), ElementType="MET_USHORT", BinaryDataByteOrderMSB=None)
    assert "BinaryDataByteOrderMSB" in refused(path)


@pytest.mark.parametrize(
    ("spacing", "keys", "mpp"),
    [
        ("0.00025 0.00025 1", {}, 0.25),
        ("5e-4 5E-04 1", {}, 0.5),
        ("0.00025 0.00026 1", {}, 0.255),
        ("1 1 1", {}, None),
        ("0 0 0", {}, None),
        ("-0.0005 0.0005 1", {}, 0.5),
        ("-0.0005 -0.0005 1", {}, None),
        ("0.35277777777777775 0.35277777777777775 1", {}, None),
        ("0.26458333 0.26458333 1", {}, None),
        ("0.5 0.5 1", {"DistanceUnits": "um"}, 0.5),
        ("0.00005 0.00005 1", {"DistanceUnits": "cm"}, 0.5),
        (None, {"ElementSize": "0.0005 0.0005 1"}, 0.5),
        (None, {}, None),
    ],
)
def test_spacing_is_in_millimetres_unless_said(
    tmp_path: Path, spacing: str | None, keys: dict[str, str], mpp: float | None
) -> None:
    stack = read_mha(write(tmp_path / "stack.mha", ElementSpacing=spacing, **keys))
    assert stack.mpp == (mpp if mpp is None else pytest.approx(mpp))
    assert np.array_equal(np.stack(stack.crops), PIXELS)


def test_digits_of_another_script_are_no_numbers(tmp_path: Path) -> None:
    with pytest.raises(CropError, match="DimSize is"):
        read_mha(write(tmp_path / "stack.mha", DimSize="\u0661\u0662\u0668 128 1"))


def test_pixels_that_are_not_square_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CropError, match=r"stack\.mha .*0\.5 µm wide and 0\.6 µm high, which is not square"):
        read_mha(write(tmp_path / "stack.mha", ElementSpacing="0.0005 0.0006 1"))


@pytest.mark.parametrize("key", HEADER)
@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "0",
        "65536",
        "1000000000",
        "1e9",
        "nan",
        "inf",
        "3 3",
        "MET_DOUBLE",
        "MET_CHAR",
        "LIST",
        "local",
        "lOcAl",
        "/etc/passwd",
        "secret.raw",
        "x" * 5000,
        "1 " * 1000,
        "true",
        "8 6 2 1",
        "8 6",
        "\x00",
        "é\x1b[2J",
    ],
)
def test_a_value_that_is_not_the_keys_is_refused(tmp_path: Path, key: str, value: str) -> None:
    (tmp_path / "secret.raw").write_bytes(PIXELS.tobytes())
    assert "stack.mha" in refused(write(tmp_path / "stack.mha", **{key: value}))


@pytest.mark.parametrize(
    "key", ["ObjectType", "NDims", "BinaryData", "DimSize", "ElementType", "ElementNumberOfChannels"]
)
def test_a_missing_key_is_refused(tmp_path: Path, key: str) -> None:
    refused(write(tmp_path / "stack.mha", **{key: None}))


@pytest.mark.parametrize("key", HEADER)
@pytest.mark.parametrize(
    "spell", [str.lower, str.upper, lambda key: " " + key, lambda key: key[:-1], lambda key: key + "s"]
)
def test_a_misspelt_key_is_refused(tmp_path: Path, key: str, spell) -> None:
    path = write(tmp_path / "stack.mha")
    content = path.read_bytes()
    path.write_bytes(content.replace(f"{key} = ".encode(), f"{spell(key)} = ".encode(), 1))
    refused(path)
    (tmp_path / "both.mha").write_bytes(f"{spell(key)} = {HEADER[key]}\n".encode() + content)
    refused(tmp_path / "both.mha")


@pytest.mark.parametrize("key", HEADER)
def test_a_key_twice_is_refused(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "stack.mha")
    path.write_bytes(f"{key} = {HEADER[key]}\n".encode() + path.read_bytes())
    refused(path)


@pytest.mark.parametrize(
    "line",
    [
        b"no separator\n",
        b"\n",
        b"Comment = x\rElementDataFile = secret.raw\n",
        b"Comment = \xff\xfe\n",
        b" = 1\n",
        b"Comment = " + b"A" * 1_000_000 + b"\n",
        b"Comment = ElementSpacing = 1 1 1\n",
        b"HeaderSize = 1000000000\n",
        b"HeaderSize = -1\n",
        b"CompressedDataSize = -1\n",
        b"ElementDataFile : secret.raw\n",
        b"Note = 1\n" * 2,
        b"".join(b"%c%c = 1\n" % (65 + i // 26, 65 + i % 26) for i in range(101)),
    ],
)
def test_a_line_that_does_not_belong_is_refused(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "stack.mha")
    path.write_bytes(line + path.read_bytes())
    refused(path)


def test_notes_of_programs_and_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "stack.mha", ITK_InputFilterName="MetaImageIO", Modality="MET_MOD_OTHER", HeaderSize="0")
    header, pixels = path.read_bytes().split(b"LOCAL\n", 1)
    path.write_bytes((header + b"LOCAL\n").replace(b"\n", b"\r\n") + pixels)
    assert np.array_equal(np.stack(read_mha(path).crops), PIXELS)


@pytest.mark.parametrize("change", [-100, -1, 1, 100])
def test_another_number_of_pixels_is_refused(tmp_path: Path, change: int) -> None:
    content = PIXELS.tobytes()
    pixels = content[:change] if change < 0 else content + bytes(change)
    assert "number of bytes" in refused(write(tmp_path / "plain.mha", pixels))
    assert "not as many as" in refused(write_compressed(tmp_path / "compressed.mha", zlib.compress(pixels)))


STREAM = zlib.compress(PIXELS.tobytes())
STREAMS = {
    "cut short": STREAM[:-1],
    "cut in half": STREAM[: len(STREAM) // 2],
    "nothing": b"",
    "followed by a byte": STREAM + b"\0",
    "twice": STREAM * 2,
    "no checksum": zlib.compress(PIXELS.tobytes(), wbits=-15),
    "zeros": bytes(len(STREAM)),
    "zeros within": STREAM[:100] + bytes(50) + STREAM[150:],
    "another checksum": STREAM[:-1] + bytes([STREAM[-1] ^ 1]),
    "no compression at all": PIXELS.tobytes(),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_is_not_whole_is_refused(tmp_path: Path, kind: str) -> None:
    refused(write_compressed(tmp_path / "stack.mha", STREAMS[kind]))


@pytest.mark.parametrize("size", [None, "0", "-1", str(len(STREAM) - 1), str(len(STREAM) + 1), "9" * 30])
def test_another_size_of_the_stream_is_refused(tmp_path: Path, size: str | None) -> None:
    refused(write_compressed(tmp_path / "stack.mha", STREAM, CompressedDataSize=size))


def test_every_flipped_bit_of_a_compressed_stack_is_refused_or_harmless(tmp_path: Path) -> None:
    """In the stream: refused, but for the bits that fill its last byte; in the header: no other pixels."""
    path = write_compressed(tmp_path / "stack.mha", zlib.compress(bytes(PIXELS[:, :3, :3].tobytes())), DimSize="3 3 2")
    expected = np.stack(read_mha(path).crops)
    content = path.read_bytes()
    start = content.index(b"LOCAL\n") + 6
    accepted = []
    for bit in range(len(content) * 8):
        with bit_flipped(path, bit):
            try:
                read = read_mha(path)
            except CropError:
                continue
        assert np.array_equal(np.stack(read.crops), expected)
        accepted.append(bit // 8)
    assert sum(at >= start for at in accepted) <= 7


def test_a_flipped_bit_of_a_plain_stack_is_refused_or_one_bit_of_a_pixel(tmp_path: Path) -> None:
    path = write(tmp_path / "stack.mha")
    content = path.read_bytes()
    start = content.index(b"LOCAL\n") + 6
    for bit in [*range(start * 8), *range(start * 8, len(content) * 8, 97)]:
        with bit_flipped(path, bit):
            try:
                read = np.stack(read_mha(path).crops)
            except CropError:
                assert bit < start * 8
                continue
        assert int(np.unpackbits(read ^ PIXELS).sum()) == (bit >= start * 8)


@pytest.mark.parametrize(("slices", "ambiguous"), [(1, False), (2, False), (3, True), (4, True), (5, False), (6, True)])
def test_grey_slices_that_may_be_colours_are_refused(tmp_path: Path, slices: int, ambiguous: bool) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (slices, 16, 16), dtype=np.uint8)
    path = write(tmp_path / "stack.mha", grey.tobytes(), DimSize=f"16 16 {slices}", ElementNumberOfChannels=None)
    if ambiguous:
        assert "colours" in refused(path)
    else:
        assert np.array_equal(np.stack(read_mha(path).crops), np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize(
    "size", ["100000 100000 16", "4096 4097 1", "128 128 100000", "1 1 100001", "4096 4096 9", "0 8 2"]
)
def test_a_header_that_claims_too_much_costs_nothing(tmp_path: Path, size: str) -> None:
    path = write_compressed(tmp_path / "stack.mha", STREAM, DimSize=size)
    tracemalloc.start()
    try:
        assert re.search("too many to read|holds no crops", refused(path))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "kind", "channels"), [("4096 4096 8", "UCHAR", 3), ("4096 4096 3", "USHORT", 4)])
def test_bombs_stay_below_a_gigabyte(tmp_path: Path, size: str, kind: str, channels: int) -> None:
    """The largest stacks that are read, from files of 0.4 MB; a stream that goes on after them ends with them."""
    count = int(np.prod([int(side) for side in size.split()])) * channels * (2 if kind == "USHORT" else 1)
    for extra in (0, 1 << 28) if kind == "UCHAR" else (0,):
        packer = zlib.compressobj(1)
        stream = b"".join(packer.compress(b"\xff" * (1 << 24)) for _ in range((count + extra) >> 24)) + packer.flush()
        path = write_compressed(
            tmp_path / "stack.mha",
            stream,
            DimSize=size,
            ElementType=f"MET_{kind}",
            ElementNumberOfChannels=str(channels),
        )
        tracemalloc.start()
        start = time.process_time()
        try:
            if extra:
                refused(path)
            else:
                assert read_mha(path).crops[-1].min() == 255
            assert time.process_time() - start < 5
            assert tracemalloc.get_traced_memory()[1] < 1 << 30
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("path", sorted((DATA.parent / "failing").glob("decoders/*.mha")), ids=lambda path: path.name)
def test_hostile_files_are_refused_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def note(name: object, *rest: object, open_file=os.open) -> int:
        opened.append(str(name))
        return open_file(name, *rest)

    monkeypatch.chdir(path.parent)  # where the files are that they name
    monkeypatch.setattr(os, "open", note)
    start = time.monotonic()
    refused(path)
    assert time.monotonic() - start < 1 and opened == [str(path)]


@pytest.mark.parametrize(
    "path", sorted((DATA.parent / "failing").glob("01-mha*/*/images/*/stack.mha")), ids=lambda path: path.parts[-4]
)
def test_damaged_compressed_stacks_are_refused(path: Path) -> None:
    if path.parts[-4] == "good":
        assert [crop.shape for crop in read_mha(path).crops] == [(128, 128, 3)] * 2
    else:
        refused(path)


def test_channels_first_and_half_the_resolution() -> None:
    failing = DATA.parent / "failing"
    if not failing.is_dir():
        pytest.skip("needs the failing files")
    (first,) = failing.glob("04-*/mha-channels-first/images/*/stack.mha")
    assert "RGB vectors" in refused(first)
    (half,) = failing.glob("06-*/mha-0.5um/images/*/stack.mha")
    assert read_mha(half).mpp == pytest.approx(0.5)

"""Feeds files that were damaged on purpose to the readers, as a user would: through `model.images.read.read_stack`.

    python test/tools/fuzz_readers.py --seconds 60 [--seed 0] [--keep runs/fuzz]
    python test/tools/fuzz_readers.py --flips 200

Good files of every format are taken apart and put together wrongly: tags of a TIFF with other types, counts and values,
directories that point elsewhere, header lines of an MHA twice, missing or with other numbers, chunks and segments of a
PNG or JPEG left out, doubled or of another length, with their checksums made right again; then bits are flipped and
ends cut off. Every file must give crops or a CropError with its name, within 5 s and 1 GB. Whatever else happens is
counted as broken, and the file kept; then the exit status is 1.

`--flips N` instead flips N single bits in each of the platform's formats, of a TIFF also every bit that is no pixel's,
and counts how many are refused, how many harmless (no pixel changed; without compression at most one value), and how
many give other crops in silence.
"""

import argparse
import logging
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk
import tifffile

sys.path.insert(0, str(Path(__file__).parents[2]))

from model.errors import CropError
from model.images.read import read_stack

SECONDS, MEBIBYTES = 5, 1024
NUMBERS = (0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 256, 4096, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
WORDS = ("-1", "0", "1", "3", "4", "65536", "1e9", "nan", "", "LOCAL", "LIST", "/etc/passwd", "True", "MET_DOUBLE")


def crops() -> np.ndarray:
    """Three crops of smooth colour, (3, 64, 64, 3)."""
    coarse = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    return np.stack([cv2.resize(crop, (64, 64)) for crop in coarse])


def good_files(folder: Path) -> list[Path]:
    """A file of every kind that is read."""
    stack = crops()
    kinds: dict[str, dict] = {
        "plain": {},
        "deflate": {"compression": "adobe_deflate"},
        "lzw": {"compression": "lzw"},
        "zstd": {"compression": "zstd"},
        "packbits": {"compression": "packbits"},
        "webp": {"compression": "webp"},
        "jpeg": {"compression": "jpeg"},
        "jpeg2000": {"compression": "jpeg2000"},
        "tiles": {"tile": (32, 32)},
        "predictor": {"compression": "adobe_deflate", "predictor": True},
        "big": {"bigtiff": True},
        "ome": {"ome": True},
        "imagej": {"imagej": True},
        "strips": {"rowsperstrip": 9, "compression": "lzw"},
    }
    for name, options in kinds.items():
        writer = {key: options.pop(key) for key in ("bigtiff", "ome", "imagej") if key in options}
        with tifffile.TiffWriter(folder / f"{name}.tif", **writer) as out:
            if writer.get("imagej"):
                out.write(stack, photometric="rgb", metadata={"axes": "ZYXS"}, **options)
            else:
                for crop in stack:
                    out.write(crop, photometric="rgb", **options)
    planes = np.ascontiguousarray(np.moveaxis(stack[0], -1, 0))
    tifffile.imwrite(folder / "planar.tif", planes, photometric="rgb", planarconfig="separate", metadata=None)
    image = sitk.GetImageFromArray(stack, isVector=True)
    for name, compressed in (("plain", False), ("deflate", True)):
        sitk.WriteImage(image, str(folder / f"{name}.mha"), compressed)
    for name in ("picture.png", "picture.jpg"):
        cv2.imwrite(str(folder / name), stack[0])
    cv2.imwrite(str(folder / "progressive.jpg"), stack[0], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    cv2.imwrite(str(folder / "restart.jpg"), stack[0], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])
    return sorted(folder.iterdir())


def other_number(dice: random.Random, size: int) -> bytes:
    """Little-endian bytes of a number that readers may stumble over."""
    return (dice.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")


def mutate_tiff(content: bytearray, dice: random.Random) -> None:
    """Changes a tag, the chain of directories or the number of tags; classic TIFF and BigTIFF, little-endian."""
    big = content[2] == 43
    (at,) = struct.unpack_from("<Q" if big else "<I", content, 8 if big else 4)
    offsets: list[int] = []
    while at and at + 8 < len(content) and at not in offsets and len(offsets) < 50:
        offsets.append(at)
        (tags,) = struct.unpack_from("<Q" if big else "<H", content, at)
        at += (8 + 20 * tags) if big else (2 + 12 * tags)
        if at + 8 > len(content):
            break
        (at,) = struct.unpack_from("<Q" if big else "<I", content, at)
    if not offsets:
        return
    at = dice.choice(offsets)
    head, entry = (8, 20) if big else (2, 12)
    (tags,) = struct.unpack_from("<Q" if big else "<H", content, at)
    match dice.randrange(6):
        case 0:  # the next directory
            place = at + head + entry * tags
            value = dice.choice([0, *offsets, len(content), dice.randrange(len(content))])
            content[place : place + 4] = value.to_bytes(4, "little")
        case 1:  # the number of tags
            content[at : at + 2] = other_number(dice, 2)
        case 2:  # two tags change places
            one, two = (at + head + entry * dice.randrange(max(1, tags)) for _ in range(2))
            content[one : one + 2], content[two : two + 2] = content[two : two + 2], content[one : one + 2]
        case _:  # type, number or value of a tag
            place = at + head + entry * dice.randrange(max(1, tags))
            start, size = dice.choice([(2, 2), (4, 4), (12 if big else 8, 4), (12 if big else 8, 4)])
            content[place + start : place + start + size] = other_number(dice, size)


def mutate_mha(content: bytearray, dice: random.Random) -> None:
    """Changes, doubles, drops or misspells a line of the header."""
    end = content.index(b"LOCAL\n") + len(b"LOCAL\n") if b"LOCAL\n" in content else len(content)
    lines = bytes(content[:end]).decode("latin-1").splitlines()
    number = dice.randrange(len(lines))
    key, _, value = lines[number].partition(" = ")
    match dice.randrange(5):
        case 0:
            lines.insert(dice.randrange(len(lines)), lines[number])
        case 1:
            del lines[number]
        case 2:
            lines[number] = f"{dice.choice([key.lower(), key.upper(), key + ' '])} = {value}"
        case 3:
            lines.insert(
                number, f"{dice.choice(['HeaderSize', 'CompressedDataSize', 'Comment', 'ElementDataFile'])} = 5"
            )
        case _:
            words = value.split() or [""]
            words[dice.randrange(len(words))] = dice.choice(WORDS)
            lines[number] = f"{key} = {' '.join(words)}"
    content[:end] = ("\n".join(lines) + "\n").encode("latin-1")


def mutate_parts(parts: list[bytes], dice: random.Random, change: Callable[[bytes], bytes]) -> list[bytes]:
    """Drops, doubles, moves or changes one part of a file."""
    number = dice.randrange(len(parts))
    part = parts[number]
    match dice.randrange(4):
        case 0:
            return parts[:number] + parts[number + 1 :]
        case 1:
            return [*parts[:number], part, *parts[number:]]
        case 2:
            rest = parts[:number] + parts[number + 1 :]
            rest.insert(dice.randrange(len(rest) + 1), part)
            return rest
        case _:
            return [*parts[:number], change(part), *parts[number + 1 :]]


def changed_bytes(part: bytes, dice: random.Random) -> bytes:
    """Some bytes with a number or noise in them."""
    changed = bytearray(part)
    if changed:
        size = dice.choice([1, 2, 4])
        at = dice.randrange(len(changed))
        changed[at : at + size] = other_number(dice, size)
    return bytes(changed)


def mutate_png(content: bytearray, dice: random.Random) -> None:
    """Takes the chunks apart; a changed one gets the checksum that is right for it."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append(bytes(content[at : at + 12 + length]))
        at += 12 + length

    def change(chunk: bytes) -> bytes:
        body = chunk[4:8] + changed_bytes(chunk[8:-4], dice)
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    content[8:] = b"".join(mutate_parts(chunks, dice, change))


def mutate_jpeg(content: bytearray, dice: random.Random) -> None:
    """Takes the segments apart, the coded pixels being one."""
    segments, at = [], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", content, at + 2)
        segments.append(bytes(content[at : at + 2 + length]))
        at += 2 + length
    segments.append(bytes(content[at:]))
    content[2:] = b"".join(mutate_parts(segments, dice, lambda segment: segment[:4] + changed_bytes(segment[4:], dice)))


MUTATIONS = {".tif": mutate_tiff, ".mha": mutate_mha, ".png": mutate_png, ".jpg": mutate_jpeg}


def damaged(content: bytes, suffix: str, dice: random.Random) -> bytes:
    """A file with its structure changed once or more, then perhaps some bits, then perhaps its end."""
    changed = bytearray(content)
    for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
        try:
            MUTATIONS[suffix](changed, dice)
        except (struct.error, ValueError, IndexError):
            break  # it is no longer what could be taken apart
    for _ in range(dice.choice([0, 0, 1, 2, 20])):
        if changed:
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    if dice.random() < 0.1:
        del changed[dice.randrange(len(changed) + 1) :]
    return bytes(changed)


def outcomes(folder: Path, seed: int, seconds: float) -> Iterator[str]:
    """Reads damaged files until the time is over; the one being read is `folder/now.*`."""
    dice = random.Random(seed)
    (folder / "good").mkdir(exist_ok=True)
    files = [(file.suffix, file.read_bytes()) for file in good_files(folder / "good")]
    end = time.monotonic() + seconds
    before = peak()
    while time.monotonic() < end:
        suffix, content = dice.choice(files)
        path = folder / f"now{suffix}"
        path.write_bytes(damaged(content, suffix, dice))
        start = time.monotonic()
        try:
            read_stack(path)
            outcome = "read"
        except CropError as error:
            outcome = "refused" if path.name in str(error) else f"broken: a sentence without the name: {error}"
        except Exception as error:
            outcome = f"broken: {type(error).__name__}: {error}"
        if time.monotonic() - start > SECONDS:
            outcome = "broken: slow"
        if peak() - before > MEBIBYTES:
            yield "broken: memory"
            return
        if outcome.startswith("broken"):
            path.rename(folder / f"broken-{time.monotonic_ns()}{suffix}")  # until the other process has copied it
        yield outcome
        path.unlink(missing_ok=True)


def peak() -> int:
    """Most memory that this process had, MiB."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024


def fuzz(seconds: float, seed: int, keep: Path) -> int:
    """Runs `outcomes` in a process of its own, again after each crash; prints the counts, returns the exit status."""
    counts: Counter[str] = Counter()
    start = time.monotonic()
    while (left := seconds - (time.monotonic() - start)) > 0:
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, __file__, "--child", name, "--seed", str(seed), "--seconds", str(left)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                last = ""
                for line in child.stdout:
                    last = line.strip()
                    counts[last.partition(":")[0]] += 1
                    if last.startswith("broken"):
                        print(f"{last}; kept in {kept(Path(name), keep, len(counts))}")
            if child.returncode:
                counts["broken"] += 1
                print(f"broken: the process ended with {child.returncode}; kept in {kept(Path(name), keep, seed)}")
        seed += 1
    total = sum(counts.values())
    print(f"{total} files in {time.monotonic() - start:.0f} s: {dict(counts)}")
    return 1 if counts["broken"] or not total else 0


def kept(folder: Path, keep: Path, number: int) -> str:
    """Moves what was found broken, or was being read when the process ended, to where it stays; returns where."""
    keep.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("broken-*")) or folder.glob("now.*"):
        target = keep / f"{time.monotonic_ns()}-{number}{path.suffix}"
        shutil.move(path, target)
        return str(target)
    return "nothing"


def bits_beside_pixels(path: Path) -> Iterator[int]:
    """Of a TIFF the bits of its directories and their values; of another file none."""
    if path.suffix != ".tif":
        return
    with tifffile.TiffFile(path) as tiff:
        pages = [*tiff.pages]
        spans = [span for page in pages for span in zip(page.dataoffsets, page.databytecounts, strict=True)]
    for byte in range(path.stat().st_size):
        if not any(start <= byte < start + count for start, count in spans):
            yield from range(8 * byte, 8 * byte + 8)


def count_flips(number: int, seed: int) -> int:
    """Flips single bits in the platform's formats; prints a line for each, returns the exit status."""
    stack = crops()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = {path.name: path for path in good_files(folder)}
        for kind in ("deflate.tif", "plain.tif", "deflate.mha", "plain.mha"):
            content = good[kind].read_bytes()
            counts: Counter[str] = Counter()
            anywhere = random.Random(seed).sample(range(8 * len(content)), min(number, 8 * len(content)))
            for bit in sorted({*anywhere, *bits_beside_pixels(good[kind])}):
                changed = bytearray(content)
                changed[bit // 8] ^= 1 << bit % 8
                path = folder / f"flipped{good[kind].suffix}"
                path.write_bytes(changed)
                try:
                    found = np.stack(read_stack(path).crops)
                except CropError:
                    counts["refused"] += 1
                    continue
                differing = np.count_nonzero(found != stack) if found.shape == stack.shape else found.size
                harmless = differing == 0 or (differing == 1 and kind.startswith("plain"))
                counts["harmless" if harmless else "wrong"] += 1
            wrong += counts["wrong"]
            print(f"{kind}: {counts['refused']} refused, {counts['harmless']} harmless, {counts['wrong']} wrong")
    return 1 if wrong else 0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: 0)")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="for files that broke something")
    parser.add_argument("--flips", type=int, help="flip so many single bits in each of the platform's formats instead")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # of the many files, the counts are what counts
    if arguments.child:
        for outcome in outcomes(arguments.child, arguments.seed, arguments.seconds):
            print(outcome.replace("\n", " "), flush=True)
        return 0
    if arguments.flips:
        return count_flips(arguments.flips, arguments.seed)
    return fuzz(arguments.seconds, arguments.seed, arguments.keep)


if __name__ == "__main__":
    sys.exit(main())

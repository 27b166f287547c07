"""Feeds damaged images to the readers: each must end in crops or in one sentence, never in anything else.

    make fuzz
    python test/tools/fuzz_readers.py --seconds 60 --seed 0

Every input is a valid file of some kind with random damage: bytes changed, cut out, put in, repeated, or header fields
overwritten by extreme numbers. Memory is limited to 4 GiB. Prints how many inputs of each kind were tried and what
became of them; an input that broke the rule is kept and named.
"""

import argparse
import faulthandler
import os
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk
import tifffile

sys.path.insert(0, str(Path(__file__).parents[2]))

from model.errors import CropError
from model.images.read import read_crops

EXTREMES = (0, 1, 2, 3, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
MEMORY = 4 << 30


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Valid files of each suffix."""
    random = np.random.default_rng(0)
    crops = [random.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(3)]
    kinds: dict[str, list[bytes]] = {".tif": [], ".mha": [], ".png": [], ".jpg": []}
    for options in (
        {},
        {"compression": "adobe_deflate"},
        {"compression": "lzw"},
        {"compression": "jpeg"},
        {"tile": (16, 16)},
        {"compression": "packbits"},
        {"rowsperstrip": 5},
    ):
        for bigtiff in (False, True):
            with tifffile.TiffWriter(folder / "seed.tif", bigtiff=bigtiff) as tiff:
                for crop in crops:
                    tiff.write(crop, photometric="rgb", metadata=None, **options)
            kinds[".tif"].append((folder / "seed.tif").read_bytes())
    for compressed in (False, True):
        image = sitk.GetImageFromArray(np.stack(crops), isVector=True)
        sitk.WriteImage(image, str(folder / "seed.mha"), compressed)
        kinds[".mha"].append((folder / "seed.mha").read_bytes())
    for suffix in (".png", ".jpg"):
        kinds[suffix].append(cv2.imencode(suffix, crops[0])[1].tobytes())
    return kinds


def damage(content: bytes, random: np.random.Generator) -> bytes:
    """A file with one to eight random changes."""
    data = bytearray(content)
    for _ in range(random.integers(1, 9)):
        place = int(random.integers(len(data))) if len(data) else 0
        if random.random() < 0.5:
            place = min(place, int(random.integers(1, 400)))  # headers are more fragile than pixels
        match random.integers(5):
            case 0:
                data[place : place + 1] = bytes([random.integers(256)])
            case 1:
                width = random.choice([">I", "<I", ">H", "<H"])
                number = int(random.choice(EXTREMES)) & (0xFFFFFFFF if "I" in width else 0xFFFF)
                data[place : place + struct.calcsize(width)] = struct.pack(width, number)
            case 2:
                del data[place : place + int(random.integers(1, 64))]
            case 3:
                data[place:place] = random.bytes(int(random.integers(1, 64)))
            case _:
                data[place:place] = data[place : place + int(random.integers(1, 256))]
    return bytes(data)


def main() -> None:
    """Command line; ends with 1 when an input broke the rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: 0)")
    arguments = parser.parse_args()
    faulthandler.enable(os.fdopen(os.dup(2), "w"))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the decoders' own complaints
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    random = np.random.default_rng(arguments.seed)
    outcomes: Counter[str] = Counter()
    kept = Path(tempfile.mkdtemp(prefix="fuzz-"))
    kinds = [(suffix, content) for suffix, contents in seeds(kept).items() for content in contents]
    start = time.monotonic()
    broken = 0
    while time.monotonic() - start < arguments.seconds:
        suffix, content = kinds[random.integers(len(kinds))]
        path = kept / f"input{suffix}"
        path.write_bytes(damage(content, random))
        try:
            crops = read_crops(path)
            right = crops and all(c.dtype == np.uint8 and c.ndim == 3 and c.shape[2] == 3 for c in crops)
            outcome = "read" if right else "wrong crops"
        except CropError as error:
            outcome = "refused" if str(path) in str(error) and str(error).endswith(".") else "odd sentence"
        except BaseException as error:
            outcome = f"{type(error).__name__}"
        outcomes[f"{suffix} {outcome}"] += 1
        if outcome not in ("read", "refused"):
            broken += 1
            path.rename(kept / f"broken-{broken}{suffix}")
    for name, count in sorted(outcomes.items()):
        print(f"{name:24}{count:8}")
    print(
        f"{outcomes.total()} inputs in {time.monotonic() - start:.0f} s, seed {arguments.seed}, {broken} broke the rule"
    )
    if broken:
        print(f"They are in {kept}.")
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Reads slides that are damaged at random: each must give crops or one sentence, and no child process may die.

    python test/tools/fuzz_slides.py [--seconds 60] [--seed 0]

Bytes are changed mostly near the beginning and the end, where the directories lie. A slide whose child dies, or that
ends in anything else, is kept, and its path is printed.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from written_slides import JPEG, LOSSLESS, write_plain, write_svs, write_tiled

from model.errors import CropError
from model.images.child import Child

NEAR_THE_END = 3000
QUESTIONS = ({}, *({"x": float(x), "y": float(y), "side": 128} for x, y in ((300, 300), (880, 660))))
LONGEST = 60
"""Seconds that an answer may take."""


def write_seeds(folder: Path) -> list[Path]:
    """Slides that are whole."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    return [
        write_svs(folder / "jpeg.svs", noise),
        write_svs(folder / "deflate.svs", noise, **LOSSLESS),
        write_tiled(folder / "tiled.tif", noise, **JPEG),
        write_plain(folder / "deflate.tif", noise, rowsperstrip=50, **LOSSLESS),
        write_plain(folder / "lzw.tif", noise, compression="lzw", predictor=True),
        write_plain(folder / "raw.tif", noise),
    ]


def damage(content: bytes, random: np.random.Generator) -> bytes:
    """Changes one to five bytes, and cuts one in ten short."""
    changed, size = bytearray(content), len(content)
    for _ in range(int(random.integers(1, 6))):
        near = int(random.integers(min(NEAR_THE_END, size)))
        place = (near, size - 1 - near, int(random.integers(size)))[int(random.integers(3))]
        changed[place] = int(random.integers(256))
    return bytes(changed[: int(random.integers(size))] if random.random() < 0.1 else changed)


def main() -> int:
    """Command line; the exit status tells whether something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    counts: Counter[str] = Counter()
    kept = Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory() as name:
        seeds = write_seeds(Path(name))
        contents = [seed.read_bytes() for seed in seeds]
        child = Child("model.slides.reader")
        end = time.monotonic() + arguments.seconds
        while time.monotonic() < end:
            which = int(random.integers(len(seeds)))
            path = Path(name) / f"{counts['slides']}{seeds[which].suffix}"  # a new name: a slide is kept open
            path.write_bytes(damage(contents[which], random))
            for question in QUESTIONS:
                try:
                    child.ask({"path": str(path), "mpp": 0.25} | question, LONGEST)
                    counts["read"] += 1
                except CropError:
                    counts["refused"] += 1
                except Exception as error:
                    counts["found"] += 1
                    copy = shutil.copy(path, kept / f"slide-{arguments.seed}-{path.name}")
                    print(f"{copy}: {type(error).__name__}: {error}")
                    child.close()
                    child = Child("model.slides.reader")
            counts["slides"] += 1
            path.unlink()
        child.close()
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return int(counts["found"] > 0)


if __name__ == "__main__":
    sys.exit(main())

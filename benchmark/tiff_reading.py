"""What does it cost to check a TIFF? A case of deflated crops, read here and by SimpleITK, which checks little.

    python -m benchmark.tiff_reading [FILE]

FILE is a stack; without it one of 16 drawn crops is taken. Prints the median milliseconds of both, and their ratio.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK
import tifffile

from benchmark.measuring import draw_crops, median_ratio
from model.images.tiff import read_tiff

ROUNDS = 31


def milliseconds(read: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    read()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a stack")
    file = parser.parse_args().file
    with tempfile.TemporaryDirectory() as folder:
        if file is None:
            file = Path(folder) / "case.tif"
            tifffile.imwrite(file, np.stack(draw_crops(16)), photometric="rgb", compression="adobe_deflate")
        ways = (lambda: read_tiff(file), lambda: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))))
        here, simpleitk = np.array([[milliseconds(way) for way in ways] for _ in range(ROUNDS)]).T
    print(f"{np.median(here):.1f} ms, SimpleITK {np.median(simpleitk):.1f} ms: {median_ratio(here, simpleitk)} times")


if __name__ == "__main__":
    main()

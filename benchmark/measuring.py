"""What the benchmarks share: the case they run and the medians they report."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import tifffile

from model.crops import read_crops
from model.grand_challenge import INPUT_FOLDER, find_stack

REPOSITORY = Path(__file__).parent.parent
CROPS = 16


def write_case(folder: Path) -> None:
    """A case of `CROPS` crops: those of the synthetic example, repeated."""
    example = REPOSITORY / "test" / "input"
    crops = read_crops(find_stack(example))
    (folder / INPUT_FOLDER).mkdir(parents=True)
    (folder / "inputs.json").write_bytes((example / "inputs.json").read_bytes())
    with tifffile.TiffWriter(folder / INPUT_FOLDER / "stack.tiff") as tiff:
        for i in range(CROPS):
            tiff.write(crops[i % len(crops)], photometric="rgb", compression="adobe_deflate", metadata=None)


def median_and_range(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Median, minimum and maximum of seconds."""
    return {
        "seconds": round(statistics.median(values), 2),
        "seconds_range": [round(min(values), 2), round(max(values), 2)],
    }

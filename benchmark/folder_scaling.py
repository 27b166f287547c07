"""Does the time of folder mode grow with the number of crops, and its memory not?

    python -m benchmark.folder_scaling --most 100000 [--crops DIR]

Runs `process.py folder` on 100, 1,000, ... crops, one PNG each (a few crops, linked again and again), one view, with a
tiny random network, so that what is measured is listing, reading and writing. The whole process counts; the time of
none but start-up, measured with a single crop, is subtracted for the time a crop.
"""

import argparse
import os
import tempfile
from pathlib import Path

import cv2

from benchmark.measuring import Network, draw_crops, run_process, save, use_cores, write_random_weights

LINKS = 30_000
"""To one file; file systems allow about twice as many."""


def write_images(folder: Path, count: int, sources: list[Path]) -> None:
    """A tree of `count` PNG files, a thousand in each folder, that are links to a few."""
    for number in range(count):
        path = folder / f"{number // 1000:03}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(sources[number % len(sources)], path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=100_000, help="crops of the largest run (default: 100000)")
    parser.add_argument("--cores", type=int, default=2, help="processors to use (default: 2)")
    parser.add_argument("--crops", type=Path, help="folder of PNG crops to take (default: drawn ones)")
    arguments = parser.parse_args()
    use_cores(arguments.cores)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_random_weights(root / "weights", Network("test_efficientnet"), 32, "float32")
        originals = sorted(arguments.crops.glob("*.png"))[::7][:64] if arguments.crops else []
        (root / "sources").mkdir()
        for i in range(64):
            content = cv2.imencode(".png", draw_crops(64)[i])[1].tobytes()
            if i < len(originals):
                content = originals[i].read_bytes()
            (root / "sources" / f"{i}.png").write_bytes(content)
        sources = sorted((root / "sources").iterdir())
        counts = [1] + [10**power for power in range(2, 7) if 10**power <= min(arguments.most, LINKS * len(sources))]
        runs = []
        for count in counts:
            write_images(root / f"in{count}", count, sources)
            seconds, memory = run_process(
                [
                    "process.py",
                    "folder",
                    str(root / f"in{count}"),
                    str(root / f"out{count}"),
                    "--device",
                    "cpu",
                    "--views",
                    "none",
                    "--weights",
                    str(root / "weights"),
                ]
            )
            runs.append({"crops": count, "seconds": round(seconds, 2), "peak_mib": round(memory)})
    start_up = runs[0]["seconds"]
    for run in runs[1:]:
        run["milliseconds_a_crop"] = round(1000 * (run["seconds"] - start_up) / run["crops"], 3)
    save("folder_scaling", {"real_crops": bool(originals), "views": "none", "runs": runs})


if __name__ == "__main__":
    main()

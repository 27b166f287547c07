"""What does reading a slide add to the network's time, and does memory grow with the number of detections?

    python -m benchmark.slide [--detections 2000] [--side 40000] [--crops DIR]

Writes a slide of JPEG tiles as Aperio's are, with drawn crops (or those in DIR) all over it, and detections at random
places. Then, in rounds, each with a part of the detections: the network alone on crops that lie in memory, and slide
mode from the slide's file to its tables. Reading alone is timed for itself. Memory is that of `process.py slide` with
one view and a tiny network, with all detections and with a tenth of them. The slide takes some 500 MB of disk.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile
import torch

from benchmark.measuring import (
    Network,
    draw_crops,
    median,
    median_ratio,
    run_process,
    save,
    timed,
    use_cores,
    write_random_weights,
)
from model.images.read import read_crops
from model.modes.slide import classify_slide
from model.modes.slide_options import SlideTask
from model.network.weights_folder import BAKED
from model.predictor import Predictor
from model.slides.reader import SlideReader

TILE = 256
SPACING = 40
"""Least distance of detections, in pixels: twice that of duplicates."""


def write_slide(path: Path, side: int, crops: Sequence[np.ndarray]) -> None:
    """An Aperio slide of `side` pixels, every tile of which holds four crops."""
    random = np.random.default_rng(0)
    count = -(-side // TILE)
    about = f"Aperio Image Library v12.0.15\r\n{side}x{side} [0,0 {side}x{side}] (256x256) JPEG/RGB Q=80"

    def tiles() -> Iterator[np.ndarray]:
        for _ in range(count * count):
            four = [crops[number] for number in random.integers(len(crops), size=4)]
            yield np.vstack([np.hstack(four[:2]), np.hstack(four[2:])])

    tifffile.imwrite(
        path,
        tiles(),
        shape=(side, side, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        compression="jpeg",
        compressionargs={"level": 80},
        photometric="rgb",
        description=f"{about}|AppMag = 40|MPP = 0.2500",
        metadata=None,
        software="",
        bigtiff=True,
    )


def draw_places(count: int, side: int) -> list[tuple[int, int]]:
    """Places on a slide, no two of which are near each other."""
    random = np.random.default_rng(1)
    across = (side - 2 * TILE) // SPACING
    squares = random.choice(across * across, size=count, replace=False)
    return [(TILE + int(n) % across * SPACING, TILE + int(n) // across * SPACING) for n in squares]


def write_places(path: Path, places: Sequence[tuple[int, int]]) -> Path:
    """A table of detections."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("x", "y"), *places])
    return path


def measure_rounds(slide: Path, parts: Sequence[Sequence[tuple[int, int]]], folder: Path) -> dict[str, object]:
    """The network alone, and slide mode, on the same figures, one part of them after the other."""
    predictor = Predictor(BAKED, "cpu")
    predictor.warm_up()
    alone: list[float] = []
    whole: list[float] = []
    reading: list[float] = []
    children = 0
    for number, part in enumerate(parts):
        with SlideReader(slide, None) as reader:
            start = time.perf_counter()
            crops = [reader.read(x, y).pixels for x, y in part]
            reading.append(time.perf_counter() - start)
            status = Path(f"/proc/{reader._idle[0].process.pid}/status").read_text(encoding="utf-8")
            children = max(children, int(status.partition("VmHWM:")[2].split()[0]) // 1024)
        fields = predictor.config.preprocessing.cut_out(crops)
        task = SlideTask(slide, write_places(folder / f"{number}.csv", part), folder / f"out{number}")
        order = [
            (alone, lambda fields=fields: predictor.predict_with_spread(fields)),
            (whole, lambda task=task: classify_slide(predictor, task)),
        ]
        for times, action in order if number % 2 else order[::-1]:
            times.append(timed(action))
    ratios = [w / a for w, a in zip(whole, alone, strict=True)]
    a_crop = [1000 * seconds / len(part) for seconds, part in zip(reading, parts, strict=True)]
    return {
        "network_seconds": round(sum(alone), 1),
        "slide_mode_seconds": round(sum(whole), 1),
        "slide_mode_to_network": median_ratio(whole, alone),
        "slide_mode_to_network_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "reading_milliseconds_a_crop": median(a_crop, 2),
        "reading_percent_of_network": median([100 * r / a for r, a in zip(reading, alone, strict=True)], 2),
        "reading_process_peak_mib": children,
    }


def measure_memory(slide: Path, places: Sequence[tuple[int, int]], folder: Path) -> list[dict[str, object]]:
    """Of the process that holds the network, with a tenth of the detections and with all."""
    write_random_weights(folder / "weights", Network("test_efficientnet"), 32, "float32")
    runs: list[dict[str, object]] = []
    for count in (len(places) // 10, len(places)):
        table = write_places(folder / f"memory{count}.csv", places[:count])
        command = ["process.py", "slide", str(slide), str(table), str(folder / f"memory{count}")]
        options = ["--device", "cpu", "--views", "none", "--weights", str(folder / "weights")]
        seconds, memory = run_process([*command, *options])
        done = json.loads((folder / f"memory{count}" / "summary.json").read_text(encoding="utf-8"))
        figures = done["statistics"]["figures"]
        runs.append({"detections": figures, "seconds": round(seconds, 1), "peak_mib": round(memory)})
    return runs


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detections", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--side", type=int, default=40_000, help="of the slide, in pixels (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="parts of the detections (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="processors to use (default: %(default)s)")
    parser.add_argument("--crops", type=Path, help="folder of PNG crops to take (default: drawn ones)")
    arguments = parser.parse_args()
    use_cores(arguments.cores)
    crops = draw_crops(64)
    if arguments.crops:
        files = sorted(arguments.crops.glob("*.png"))[:64]
        crops = [read_crops(path)[0] for path in files]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = folder / "slide.svs"
        seconds = timed(lambda: write_slide(slide, arguments.side, crops))
        print(f"{slide.stat().st_size >> 20} MiB in {seconds:.0f} s")
        places = draw_places(arguments.detections, arguments.side)
        parts = [places[number :: arguments.rounds] for number in range(arguments.rounds)]
        figures = measure_rounds(slide, parts, folder)
        memory = measure_memory(slide, draw_places(10 * arguments.detections, arguments.side), folder)
    about = {"detections": arguments.detections, "side": arguments.side, "real_crops": bool(arguments.crops)}
    save("slide", about | {"threads": torch.get_num_threads()} | figures | {"memory": memory})


if __name__ == "__main__":
    main()

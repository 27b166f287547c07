"""What does Ray cost a cohort on one machine, and does its time grow with the number of crops alone?

    python -m benchmark.cohort [--crops DIR] [--rounds 2] [--most 100000]

First `process.py folder` and `python -m cohort.predict` on the same crops with the default weights and one view, in
turn: the ratio of a round's two times, start-up included. With eight views the network takes eight times as long, and
the ratio is nearer to one. Then the cohort alone on more crops with a tiny random network, so that what is measured
is what Ray, reading and writing take.
"""

import argparse
import tempfile
from pathlib import Path

import cv2

from benchmark.folder_scaling import LINKS, write_images
from benchmark.measuring import (
    Network,
    draw_crops,
    median_ratio,
    run_process,
    save,
    use_cores,
    write_random_weights,
)
from model.network.weights_folder import BAKED

SOURCES = 64


def write_sources(folder: Path, crops: Path | None) -> list[Path]:
    """A few PNG crops to link to: given ones, or drawn ones."""
    folder.mkdir()
    originals = sorted(crops.glob("*.png"))[::7][:SOURCES] if crops else []
    for number, drawn in enumerate(draw_crops(SOURCES)):
        content = (
            originals[number].read_bytes() if number < len(originals) else cv2.imencode(".png", drawn)[1].tobytes()
        )
        (folder / f"{number}.png").write_bytes(content)
    return sorted(folder.iterdir())


def seconds_of(command: list[str], source: Path, target: Path, weights: Path) -> float:
    """Seconds from start to end of a process that classifies crops with one view on the CPU."""
    return run_process([*command, str(source), str(target), "--weights", str(weights), "--views", "none"])[0]


def compare(source: Path, root: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of folder mode and of a cohort on one machine, in turn, which begins first changing."""
    ways = {"folder": ["process.py", "folder"], "cohort": ["-m", "cohort.predict", "--gpus", "0"]}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in sorted(ways, reverse=number % 2 == 0):
            found[name].append(seconds_of(ways[name], source, root / f"{name}{number}", BAKED))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="crops of the comparison (default: 10000)")
    parser.add_argument("--rounds", type=int, default=2, help="of the comparison (default: 2)")
    parser.add_argument("--most", type=int, default=100_000, help="crops of the largest run (default: 100000)")
    parser.add_argument("--cores", type=int, default=2, help="processors to use (default: 2)")
    parser.add_argument("--crops", type=Path, help="folder of PNG crops to take (default: drawn ones)")
    arguments = parser.parse_args()
    use_cores(arguments.cores)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sources = write_sources(root / "sources", arguments.crops)
        write_images(root / "in", arguments.count, sources)
        seconds = compare(root / "in", root, arguments.rounds)
        figures = {
            "real_crops": arguments.crops is not None,
            "crops": arguments.count,
            "views": "none",
            "seconds": {name: [round(value, 1) for value in values] for name, values in seconds.items()},
            "cohort_to_folder": median_ratio(seconds["cohort"], seconds["folder"]),
        }
        save("cohort", figures)
        write_random_weights(root / "weights", Network("test_efficientnet"), 32, "float32")
        runs: list[dict[str, float]] = []
        for count in [1] + [10**power for power in range(3, 7) if 10**power <= min(arguments.most, LINKS * SOURCES)]:
            write_images(root / f"in{count}", count, sources)
            command = ["-m", "cohort.predict", "--gpus", "0"]
            took = seconds_of(command, root / f"in{count}", root / f"out{count}", root / "weights")
            runs.append({"crops": count, "seconds": round(took, 2)})
            if count > 1:
                runs[-1]["milliseconds_a_crop"] = round(1000 * (took - runs[0]["seconds"]) / count, 3)
            save("cohort", figures | {"tiny_network": runs})  # the largest takes a while


if __name__ == "__main__":
    main()

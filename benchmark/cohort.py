"""What does Ray cost a cohort on one machine, and does its time grow with the number of crops alone?

    python -m benchmark.cohort [--crops DIR] [--rounds 2] [--views d4] [--small] [--most 100000]

First `process.py folder` and `python -m cohort.predict` on the same crops with the default weights, in turn: the ratio
of a round's two times, start-up included. One view is an eighth of the network's work. Then the cohort alone on more
crops with a tiny random network and one view, so that what is measured is what Ray, reading and writing take.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2

from benchmark.folder_scaling import LINKS, write_images
from benchmark.measuring import (
    Network,
    draw_crops,
    median_ratio,
    run_process,
    save,
    saved,
    use_cores,
    write_random_weights,
)
from model.constants import DEFAULT_VIEWS, VIEW_SETS
from model.network.weights_folder import BAKED

SOURCES = 64
SMALL, SMALL_INPUT = Network("tf_efficientnet_lite0"), 128
COUNTS = (1, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


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


def seconds_of(command: list[str], source: Path, target: Path, weights: Path, views: str) -> float:
    """Seconds from start to end of a process that classifies crops on the CPU."""
    return run_process([*command, str(source), str(target), "--weights", str(weights), "--views", views])[0]


def compare(source: Path, root: Path, weights: Path, views: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of folder mode and of a cohort on one machine, in turn, which begins first changing."""
    ways = {"folder": ["process.py", "folder", "--device", "cpu"], "cohort": ["-m", "cohort.predict", "--gpus", "0"]}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in sorted(ways, reverse=number % 2 == 0):
            found[name].append(seconds_of(ways[name], source, root / f"{name}{number}", weights, views))
    return found


def growth(root: Path, sources: list[Path], most: int) -> Iterator[list[dict[str, float]]]:
    """Seconds of a cohort of more and more crops with a tiny network; all so far, after each run."""
    write_random_weights(root / "weights", Network("test_efficientnet"), 32, "float32")
    runs: list[dict[str, float]] = []
    for count in [count for count in COUNTS if count <= min(most, LINKS * SOURCES)]:
        write_images(root / f"in{count}", count, sources)
        command = ["-m", "cohort.predict", "--gpus", "0"]
        took = seconds_of(command, root / f"in{count}", root / f"out{count}", root / "weights", "none")
        runs.append({"crops": count, "seconds": round(took, 2)})
        if count > 1:
            runs[-1]["milliseconds_a_crop"] = round(1000 * (took - runs[0]["seconds"]) / count, 3)
        yield runs


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="crops of the comparison (default: 10000)")
    parser.add_argument("--rounds", type=int, default=2, help="of the comparison (default: 2; 0: leave it out)")
    parser.add_argument(
        "--views", choices=VIEW_SETS, default=DEFAULT_VIEWS, help="of the comparison (default: %(default)s)"
    )
    parser.add_argument("--small", action="store_true", help="compare with a smaller network, a third of the work")
    parser.add_argument("--most", type=int, default=100_000, help="crops of the largest run (default: 100000; 0: none)")
    parser.add_argument("--cores", type=int, default=2, help="processors to use (default: 2)")
    parser.add_argument("--crops", type=Path, help="folder of PNG crops to take (default: drawn ones)")
    arguments = parser.parse_args()
    use_cores(arguments.cores)
    figures = {"comparisons": {}} | saved("cohort")  # what is left out now stays as it was measured
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sources = write_sources(root / "sources", arguments.crops)
        if arguments.rounds:
            write_images(root / "in", arguments.count, sources)
            weights = BAKED
            if arguments.small:
                weights = root / "small"
                write_random_weights(weights, SMALL, SMALL_INPUT, "float32")
            seconds = compare(root / "in", root, weights, arguments.views, arguments.rounds)
            network = "random EfficientNet-Lite0, 128 pixels" if arguments.small else "the default weights"
            figures["comparisons"][f"{network}, views {arguments.views}"] = {
                "crops": arguments.count,
                "real_crops": arguments.crops is not None,
                "seconds": {way: [round(value, 1) for value in values] for way, values in seconds.items()},
                "cohort_to_folder": median_ratio(seconds["cohort"], seconds["folder"]),
            }
            save("cohort", figures)
        for runs in growth(root, sources, arguments.most):
            save("cohort", figures | {"tiny_network": runs})  # the largest takes a while


if __name__ == "__main__":
    main()

"""Does augmentation hold up training? Its share of a step of the compact recipe, on the CPU.

    python -m benchmark.augmentation_cost --runs 20

What workers do to a crop (acquisition: resolution, blur, noise, JPEG) is measured in one thread, as one worker does it;
what is done to a whole batch (stain, colour, geometry) and the network's forward and backward pass on all cores. On a
GPU, where the step is shorter, `benchmark.gpu` measures the time that steps wait for batches.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import default_collate

from benchmark.measuring import draw_crops, median, save, timed, use_cores
from training.config import load_config
from training.data.augmentation import augment
from training.data.crops import TrainingCrops
from training.network.classifier import build_network, preprocessing_of

RECIPE = Path(__file__).parent.parent / "training" / "configs" / "compact.yaml"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="counted batches, after three that are not (default: 20)")
    parser.add_argument("--cores", type=int, default=2, help="processors to use (default: 2)")
    arguments = parser.parse_args()
    use_cores(arguments.cores)
    cv2.setNumThreads(0)
    config = load_config(RECIPE, ["data.root=."])
    size = config.optimisation.batch_size
    crops = draw_crops(size)
    dataset = TrainingCrops(crops, [[0.0]] * size, [1.0] * size, config.augmentation, seed=0)
    network = build_network(config).train()
    lay_out: Any = network.to  # whose types do not know of memory formats alone
    lay_out(memory_format=torch.channels_last)
    preprocessing = preprocessing_of(config)
    seconds: dict[str, list[float]] = {"crops_in_one_worker": [], "batch": [], "network": []}

    def step(images: Tensor) -> None:
        network(images).sum().backward()

    for run in range(arguments.runs + 3):
        start = time.perf_counter()
        batch = default_collate([dataset[(run, place, place)] for place in range(size)])
        seconds["crops_in_one_worker"].append(time.perf_counter() - start)
        start = time.perf_counter()
        images = augment(batch["crop"], batch["numbers"], preprocessing)
        seconds["batch"].append(time.perf_counter() - start)
        seconds["network"].append(timed(partial(step, images)))
    figures = {name: median([1000 * value for value in values[3:]], 1) for name, values in seconds.items()}
    save(
        "augmentation_cost",
        {
            "recipe": f"{config.name} {config.version}",
            "batch_size": size,
            "runs": arguments.runs,
            "milliseconds": figures,
            "worker_over_step": round(figures["crops_in_one_worker"] / (figures["batch"] + figures["network"]), 3),
            "batch_over_step": round(figures["batch"] / (figures["batch"] + figures["network"]), 3),
        },
    )


if __name__ == "__main__":
    main()

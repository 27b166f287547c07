"""How far do half-precision probabilities stray from float32 ones, and how many classes change?

    python -m benchmark.half_precision DIR --every 12

DIR holds crops and `manifest.csv`, as for training. Runs on the GPU when there is one, on the CPU otherwise, where it
emulates what a GPU's half precision would round; prints JSON.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from model.network.weights_folder import choose_weights
from model.predictor import Predictor
from training.data.crops import load_crops
from training.data.manifest import read_manifest


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DIR", help="folder with manifest.csv and the crops")
    parser.add_argument("--every", type=int, default=12, help="take every so many crops (default: 12)")
    parser.add_argument("--weights", type=Path, help="weights folder (default: the baked one)")
    arguments = parser.parse_args()
    crops = load_crops(read_manifest(arguments.data)[:: arguments.every]).crops
    folder = choose_weights(arguments.weights)
    expected = Predictor(folder, "cpu")(crops)
    figures: dict = {"crops": len(crops)}
    for dtype in (torch.float16, torch.bfloat16):
        predictor = Predictor(folder, dtype=dtype)
        half = predictor(crops)
        if predictor.dtype != dtype:
            sys.exit(
                f"{dtype} overflowed, and the crops were predicted in {predictor.dtype}: there is nothing to compare."
            )
        figures[str(dtype).removeprefix("torch.")] = {
            "device": str(predictor.device),
            "largest_change": round(float(np.abs(half - expected).max()), 4),
            "mean_change": round(float(np.abs(half - expected).mean()), 4),
            "classes_changed": int(((half >= 0.5) != (expected >= 0.5)).sum()),
        }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

"""How long does a user wait for a fresh process, and how much memory does it take?

    python -m benchmark.cold_start --runs 5 --cores 2

Two questions, each against `benchmark.reference` in turn, on the CPU, with files that the system has in memory already:

* from process start to a DINOv3 ViT-H+/16 (840 million random weights) that is ready for its first forward pass. Ours
  is as it is stored, in bfloat16, its checksum verified, every weight read once, so that lazily mapped pages count.
* from process start to its end with the result of a 16-crop case written, with the default weights.

Needs 6 GB of disk for the random weights and 9 GB of memory for the reference.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from benchmark.measuring import (
    HPLUS,
    median,
    median_and_range,
    median_ratio,
    run_process,
    save,
    use_cores,
    write_case,
    write_random_weights,
)
from model.constants import DEFAULT_VIEWS
from model.network.weights import load_one
from model.network.weights_config import Network, read_config
from model.network.weights_folder import BAKED

READY = """
import sys
from pathlib import Path
from model.speed.imports import lean_start
from model.network.weights_folder import begin_reading
begin_reading(Path(sys.argv[1]))
with lean_start():
    import torch
    from model.network.weights import load
    from model.network.weights_config import read_config
    network, config = load(Path(sys.argv[1]))
    if sys.argv[2] == "cuda":
        from model.network.running import place
        network = place(network, config.preprocessing, torch.device("cuda"), torch.bfloat16)
with torch.inference_mode():
    for tensor in network.state_dict().values():
        tensor.sum()
if sys.argv[2] == "cuda":
    torch.cuda.synchronize()
print("ready", flush=True)
import os
os._exit(0)
"""


def write_reference_weights(folder: Path, path: Path) -> None:
    """The weights of a folder as most entries ship them: a float32 state dictionary of timm's own network."""
    network, _ = load_one(folder)
    head = "classifier" if hasattr(network.backbone, "classifier") else "head"
    tensors = network.backbone.state_dict() | {f"{head}.{name}": t for name, t in network.head.state_dict().items()}
    torch.save({name: tensor.float() for name, tensor in tensors.items()}, path)


def ready_commands(folder: Path, pth: Path, network: Network, device: str = "cpu") -> dict[str, list[str]]:
    """Command lines of the processes that print `ready` once their network is."""
    return {
        "reference": [*_reference(pth, network), "--device", device, "--stop-when-loaded"],
        "ours": ["-c", READY, str(folder), device],
    }


def _reference(pth: Path, network: Network) -> list[str]:
    arguments = ["--pooling", network.pooling, "--arguments", json.dumps(network.backbone_args)]
    return ["-m", "benchmark.reference", str(pth), network.backbone, *arguments]


def compare(commands: dict[str, list[str]], runs: int, ready: str | None = None) -> dict:
    """Times and peak memory of ours and the reference, run in turn, the first round left out; and their ratios."""
    rounds = [{name: run_process(command, ready) for name, command in commands.items()} for _ in range(runs + 1)][1:]
    figures: dict = {"runs": runs}
    measured = {name: list(zip(*(each[name] for each in rounds), strict=True)) for name in commands}
    for name, (seconds, memory) in measured.items():
        figures[name] = median_and_range(seconds) | {"peak_mib": round(median(memory))}
    figures["times_faster"] = median_ratio(measured["reference"][0], measured["ours"][0])
    figures["times_less_memory"] = median_ratio(measured["reference"][1], measured["ours"][1])
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="counted runs, after one that is not (default: 5)")
    parser.add_argument("--hplus-runs", type=int, default=3, help="of the large network; 0 leaves it out (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="processors to use (default: 2)")
    arguments = parser.parse_args()
    use_cores(arguments.cores)
    figures: dict = {"files": "in the system's memory"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.hplus_runs:
            write_random_weights(folder / "hplus", HPLUS, 224)
            write_reference_weights(folder / "hplus", folder / "hplus.pth")
            commands = ready_commands(folder / "hplus", folder / "hplus.pth", HPLUS)
            figures["hplus_ready"] = compare(commands, arguments.hplus_runs, "ready")
        write_case(folder / "input")
        write_reference_weights(BAKED, folder / "default.pth")
        config = read_config(BAKED)
        folders = ["--input", str(folder / "input"), "--output", str(folder / "output")]
        commands = {
            "reference": [
                *_reference(folder / "default.pth", config.network),
                "--fields-of-view",
                *map(str, config.preprocessing.sides),
                "--input-size",
                str(config.preprocessing.input_size),
                "--views",
                DEFAULT_VIEWS,
                *folders,
            ],
            "ours": ["process.py", "--device", "cpu", "--weights", str(BAKED), *folders],
        }
        figures["default_case"] = {"views": DEFAULT_VIEWS} | compare(commands, arguments.runs)
    save("cold_start", figures)


if __name__ == "__main__":
    main()

"""What the benchmarks share: the machine's description, cases and networks to run, medians, processes, results."""

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.errors import first_line
from model.modes.grand_challenge import INPUT_FOLDER
from model.network import weights
from model.network.calibration import Calibration
from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.weights_config import Network, WeightsConfig
from model.network.weights_folder import TENSOR_FILE

REPOSITORY = Path(__file__).parent.parent
EXAMPLE = REPOSITORY / "test" / "input"
RESULTS = Path(__file__).parent / "results"
CROPS = 16
"""In a case: the most that the platform sends."""

HPLUS = Network("vit_huge_plus_patch16_dinov3", "token", {"qkv_fused": False})
"""The network of the winner of MIDOG 2025, which a case's start-up is hardest for: 840 million parameters."""


def machine() -> dict[str, str | int | None]:
    """What figures depend on: processor, cores that may be used, GPU, versions."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def save(name: str, figures: dict, folder: Path = RESULTS) -> None:
    """Writes `<name>.json` into a folder, that of the results by default, with the machine, and prints it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine()} | figures, indent=2)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def saved(name: str, folder: Path = RESULTS) -> dict:
    """What `save` wrote, if it was of this machine; else empty."""
    file = folder / f"{name}.json"
    figures = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return figures if figures.pop("machine", None) == machine() else {}


def attempt(part: Callable[[], dict]) -> dict:
    """A part's figures; or why there are none, so that the other parts are still measured."""
    try:
        return part()
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {first_line(error)}"}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def use_cores(count: int) -> None:
    """Restricts this process, and those it starts, to some processors."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:count]))
    torch.set_num_threads(count)


def draw_crops(count: int) -> list[np.ndarray]:
    """Crops of smooth random colour, (128, 128, 3) uint8, always the same."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)).mul_(255)
    smooth = torch.nn.functional.interpolate(coarse, (128, 128), mode="bilinear")
    return list(smooth.permute(0, 2, 3, 1).numpy().astype(np.uint8))


def write_case(folder: Path) -> None:
    """A case of `CROPS` crops: those of the synthetic example, repeated."""
    import tifffile

    from model.images.read import read_crops
    from model.modes.grand_challenge import find_stack

    crops = read_crops(find_stack(EXAMPLE))
    (folder / INPUT_FOLDER).mkdir(parents=True)
    (folder / "inputs.json").write_bytes((EXAMPLE / "inputs.json").read_bytes())
    with tifffile.TiffWriter(folder / INPUT_FOLDER / "stack.tiff") as tiff:
        for i in range(CROPS):
            tiff.write(crops[i % len(crops)], photometric="rgb", compression="adobe_deflate", metadata=None)


def write_random_weights(folder: Path, network: Network, input_size: int, dtype: str = "bfloat16") -> None:
    """A weights folder with small random numbers: as fast, and as large, as one with trained ones."""
    with torch.device("meta"):
        shapes = MitosisClassifier(network.backbone, network.pooling, network.backbone_args).state_dict()
    random = torch.Generator().manual_seed(0)
    tensors = {name: _random_like(tensor, random) for name, tensor in shapes.items()}
    classifier = weights.build(network, tensors, folder / TENSOR_FILE)
    preprocessing = Preprocessing(78, input_size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    config = WeightsConfig("random", "0", network, preprocessing, Calibration(), dtype, "")
    weights.save(folder, classifier, replace(config, training={"random": True}))


def _random_like(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    values = torch.empty(tensor.shape).normal_(0, 0.02, generator=random)
    return values.abs_().add_(1) if tensor.ndim == 1 else values  # a variance must be positive, a scale not vanish


def gflops(network: nn.Module, preprocessing: Preprocessing) -> float:
    """1e9 floating-point operations of one view in matrix products and convolutions, an addition being one.

    Args:
        network: not a folded one, whose convolutions PyTorch does not count.
        preprocessing: what its input is.
    """
    weight = next(network.parameters())
    shape = (1, preprocessing.channels, preprocessing.input_size, preprocessing.input_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(shape, device=weight.device, dtype=weight.dtype))
    return counter.get_total_flops() / 1e9


def product_flops(matrix: torch.Tensor) -> int:
    """Operations of a square matrix's product with itself; the rate of a large one is a device's practical ceiling."""
    return 2 * len(matrix) ** 3


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleave(actions: dict[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Runs measurements in turn, so that what slows the machine slows all; a first round is not counted.

    Returns:
        What each returned, `runs` times.
    """
    rounds = [{name: action() for name, action in actions.items()} for _ in range(runs + 1)][1:]
    return {name: [each[name] for each in rounds] for name in actions}


def run_process(command: Sequence[str], ready: str | None = None) -> tuple[float, float]:
    """Runs a process of this repository.

    Args:
        command: its command line, without the interpreter.
        ready: a line of its output that ends the measurement of time; its end when None.

    Returns:
        Seconds from its start, and the peak of its resident memory in MiB.
    """
    seconds: float | None = None
    # A pipe that nobody reads meanwhile would stop a process that warns much.
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        peaks = [0]
        watcher = threading.Thread(target=_watch_memory, args=(process, peaks), daemon=True)
        watcher.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == ready:
                seconds = time.perf_counter() - start
        status = process.wait()
        seconds = seconds or (None if ready else time.perf_counter() - start)
        watcher.join()
        if status != 0 or seconds is None:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} failed: {errors.read()}")
    return seconds, peaks[-1] / 1024


def _watch_memory(process: subprocess.Popen, peaks: list[int]) -> None:
    """Notes the peak of a process's resident memory in KiB until it ends.

    What the system reports afterwards is at least the peak of the process that started it, which may be larger.
    """
    while process.returncode is None:
        peaks += [int(line.split()[1]) for line in _lines(f"/proc/{process.pid}/status") if line.startswith("VmHWM")]
        time.sleep(0.01)


def median(values: Sequence[float], digits: int = 3) -> float:
    """The median, rounded."""
    return round(statistics.median(values), digits)


def median_and_range(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Median, minimum and maximum of seconds."""
    return {"seconds": median(values), "seconds_range": [round(min(values), 3), round(max(values), 3)]}


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of what was measured in the same round."""
    return median([a / b for a, b in zip(numerators, denominators, strict=True)], 2)

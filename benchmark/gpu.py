"""How fast is it on a GPU, and what does it take of its memory?

    python -m benchmark.gpu [--crops DIR] [--results DIR] [--parts PART ...] [--compile] [--tests]
    python -m benchmark.gpu --try        only tries the script out: a tiny network, on the CPU, nothing is written

Everything that needs a GPU, in one go of some minutes, each part saved as it is done, and none lost by another's
failure: the card's ceiling (a large bfloat16 matrix product); DINOv3 ViT-H+/16 with random weights (start-up, a case of
16 crops with four views, views a second, memory) and the default network, against `benchmark.reference` on the same
card in float32 without TensorFloat-32; what half precision changes, of the crops of DIR where they are given; a
training step (`benchmark.gpu_training`); and, with --tests, the tests. It needs PyTorch, timm and torchvision; the
training step Accelerate, peft and OpenCV too. The random weights take 6 GB of disk.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmark.cold_start import compare, ready_commands, write_reference_weights
from benchmark.gpu_training import training_steps
from benchmark.measuring import (
    CROPS,
    HPLUS,
    REPOSITORY,
    RESULTS,
    attempt,
    draw_crops,
    gflops,
    product_flops,
    save,
    saved,
    timed,
    write_random_weights,
)
from benchmark.reference import ReferenceLoop, load_network
from model.constants import DEFAULT_VIEWS
from model.network import weights
from model.network.running import move
from model.network.weights_config import Network, read_config
from model.network.weights_folder import BAKED
from model.predictor import Predictor

TINY = Network("vit_small_patch16_dinov3", "token", {"qkv_fused": False, "depth": 2})

PARTS = ("ceiling", "hplus", "default", "training", "cold_start_hplus_ready")
"""What can be measured apart; `rates` need the ceiling to say their share of it."""


class Bench:
    """Where to measure, and how much.

    Attributes:
        device: `cuda`, or `cpu` to try the script out.
        network: the large one.
        side: of its input, pixels.
        matrix: side of the matrices whose product is the ceiling.
        batch_sizes: to compare.
        crops: for throughput.
        runs: of everything that is short.
        real: whether the crops are of tissue.
        compiles: whether to try `torch.compile`, which takes a minute or more a network.
    """

    def __init__(self, trial: bool, crops: list[np.ndarray] | None, compiles: bool = False) -> None:
        self.device = "cpu" if trial else "cuda"
        self.network, self.side = (TINY, 64) if trial else (HPLUS, 224)
        self.matrix = 64 if trial else 8192
        self.batch_sizes = (2, 4) if trial else (64, 128, 256)
        self.real = crops is not None
        self.crops = crops or draw_crops(2 if trial else 512)
        self.runs = 2 if trial else 20
        self.compiles = compiles

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, action: Callable[[], object], runs: int | None = None) -> float:
        """Median time of an action, after two that are not counted."""

        return statistics.median([self.once(action) for _ in range((runs or self.runs) + 2)][2:])

    def once(self, action: Callable[[], object]) -> float:
        """Seconds of an action, until the device has done it."""

        def whole() -> None:
            action()
            self.wait()

        return timed(whole)

    def forget_memory(self) -> None:
        """Starts a new count of the peak."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_mib(self) -> dict[str, int]:
        """Of the tensors, and of what PyTorch keeps for them; the driver's own 0.5 GB are in neither."""
        if self.device != "cuda":
            return {}
        peaks = {"tensors": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        return {name: round(value / 2**20) for name, value in peaks.items()}


def ceiling(bench: Bench) -> dict:
    """The rate of a large matrix product of random numbers, which no network of matrix products exceeds in practice."""
    figures: dict[str, float] = {"matrix": bench.matrix}
    for dtype in (torch.bfloat16, torch.float16):
        matrix = torch.randn(bench.matrix, bench.matrix, device=bench.device, dtype=dtype)
        seconds = bench.seconds(partial(torch.matmul, matrix, matrix))
        figures[f"{name_of(dtype)}_tflops"] = float(f"{product_flops(matrix) / seconds / 1e12:.4g}")
    return figures


def name_of(dtype: torch.dtype) -> str:
    """Such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def batch(predictor: Predictor) -> torch.Tensor:
    """Random images for one forward pass, on the device, in the network's precision."""
    preprocessing = predictor.config.preprocessing
    shape = (predictor.batch_size, preprocessing.channels, preprocessing.input_size, preprocessing.input_size)
    return torch.randn(shape, device=predictor.device, dtype=predictor.dtype)


def rates(bench: Bench, predictor: Predictor, roof: float | None) -> dict:
    """Views a second of whole predictions and of the network alone, by batch size, and the share of the ceiling."""

    def share(rate: float) -> float | None:
        return roof and round(rate * work / roof / 10, 1)

    work = gflops(predictor.network, predictor.config.preprocessing)
    figures: dict = {"gflop_a_view": round(work, 1), "by_batch_size": {}}
    usual, views = predictor.batch_size, len(bench.crops) * predictor.view_count
    for size in bench.batch_sizes:
        predictor.batch_size = size
        images = batch(predictor)
        with torch.inference_mode():
            alone = size / bench.seconds(partial(predictor.network, images))
        whole = views / bench.seconds(partial(predictor, bench.crops), 3)
        figures["by_batch_size"][str(size)] = {
            "views_a_second": round(whole),
            "percent_of_ceiling": share(whole),
            "network_alone_views_a_second": round(alone),
            "network_alone_percent_of_ceiling": share(alone),
        }
    predictor.batch_size = usual
    return figures | {"batch_size": usual}


def plain_rate(bench: Bench, predictor: Predictor, folder: Path) -> dict:
    """The network as timm runs it, in the same precision: without what `model.speed` does."""
    size, images = predictor.batch_size, batch(predictor)
    network = move(weights.load(folder)[0], predictor.device, predictor.dtype)
    with torch.inference_mode():
        return {"batch_size": size, "views_a_second": round(size / bench.seconds(lambda: network(images)))}


def compiled_rate(bench: Bench, predictor: Predictor) -> dict:
    """What `torch.compile` would bring, and how long its first run takes."""
    size, images = predictor.batch_size, batch(predictor)
    network = torch.compile(predictor.network)
    with torch.inference_mode():
        first = bench.once(partial(network, images))
        seconds = bench.seconds(partial(network, images))
    return {"batch_size": size, "first_run_seconds": round(first, 1), "views_a_second": round(size / seconds)}


def graphed_rate(bench: Bench, predictor: Predictor) -> dict:
    """What a CUDA graph would bring: the network's kernels recorded once for a fixed batch, started with one call."""
    size, images = predictor.batch_size, batch(predictor)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.inference_mode():
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what chooses algorithms and fills caches must not be recorded
            for _ in range(3):
                expected = predictor.network(images)
        torch.cuda.current_stream().wait_stream(stream)
        recorded: list[torch.Tensor] = []

        def record() -> None:
            with torch.cuda.graph(graph):
                recorded.append(predictor.network(images))

        seconds_to_record = bench.once(record)
        seconds = bench.seconds(graph.replay)
    return {
        "batch_size": size,
        "seconds_to_record": round(seconds_to_record, 2),
        "views_a_second": round(size / seconds),
        "largest_difference_of_logits": float(f"{(recorded[0] - expected).abs().max().item():.1e}"),
    }


def against_float32(bench: Bench, folder: Path, crops: list[np.ndarray], view_set: str) -> dict:
    """How far half precision on the device moves P(atypical) from float32 there."""
    expected = Predictor(folder, bench.device, view_set, dtype=torch.float32)(crops)
    figures: dict = {"crops": len(crops), "real_crops": bench.real}
    for dtype in (torch.bfloat16, torch.float16):
        predictor = Predictor(folder, bench.device, view_set, dtype=dtype)
        found = predictor(crops)
        figures[name_of(dtype)] = {
            "computed_in": name_of(predictor.dtype),  # float32 where it overflowed
            "largest_change": float(f"{np.abs(found - expected).max():.1e}"),
            "classes_changed": int(np.sum((found >= 0.5) != (expected >= 0.5))),
        }
    return figures


def reference_rate(bench: Bench, folder: Path, pth: Path, view_set: str) -> dict:
    """The reference loop on the device, in float32."""
    config = read_config(folder)
    network, preprocessing = config.network, config.preprocessing
    bench.forget_memory()
    module = load_network(pth, network.backbone, network.pooling, network.backbone_args).to(bench.device)
    loop = ReferenceLoop(
        module,
        bench.device,
        preprocessing.sides,
        preprocessing.input_size,
        preprocessing.mean,
        preprocessing.std,
        view_set,
    )
    seconds = bench.seconds(partial(loop, bench.crops[:CROPS]), min(bench.runs, 5))
    return {"case_seconds": round(seconds, 3), "peak_mib": bench.peak_mib()}


@dataclass(frozen=True)
class Subject:
    """A network to measure.

    Attributes:
        folder: its weights folder.
        pth: the same for the reference.
        view_set: of a case.
    """

    folder: Path
    pth: Path
    view_set: str


def network_figures(bench: Bench, subject: Subject, roofs: dict) -> dict:
    """A case, throughput and memory of a network, and the reference's.

    Args:
        bench: where, and how much.
        subject: the network.
        roofs: of `ceiling`; empty, or why there are none, where that was not measured.
    """
    folder, view_set = subject.folder, subject.view_set
    bench.forget_memory()
    holder: list[Predictor] = []

    def build() -> None:
        holder.append(Predictor(folder, bench.device, view_set))

    load = bench.once(build)
    predictor = holder.pop()
    case = bench.crops[:CROPS]
    figures: dict = {"views": view_set, "dtype": name_of(predictor.dtype), "load_seconds": round(load, 2)}
    figures["case_seconds"] = round(bench.seconds(partial(predictor, case)), 4)
    figures["case_peak_mib"] = bench.peak_mib()
    roof = roofs.get(f"{figures['dtype']}_tflops")  # of its precision; None where that was not measured
    rated = attempt(partial(rates, bench, predictor, roof))
    figures |= {"rates": rated} if "failed" in rated else rated
    figures["as_timm_runs_it"] = attempt(partial(plain_rate, bench, predictor, folder))
    if bench.compiles:
        figures["compiled"] = attempt(partial(compiled_rate, bench, predictor))
    if bench.device == "cuda":
        figures["graphed"] = attempt(partial(graphed_rate, bench, predictor))
    del predictor
    figures["half_precision"] = attempt(partial(against_float32, bench, folder, bench.crops[:512], view_set))
    reference = figures["reference"] = attempt(partial(reference_rate, bench, folder, subject.pth, view_set))
    if "case_seconds" in reference:
        figures["times_faster_than_reference"] = round(reference["case_seconds"] / figures["case_seconds"], 1)
    return figures


def tests() -> dict:
    """What pytest says at the end, of all tests that this machine has the packages for."""
    command = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return {
        "status": done.returncode,
        "summary": lines[-1] if lines else "",
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--try", dest="trial", action="store_true", help="a tiny network on the CPU; writes nothing")
    parser.add_argument("--crops", type=Path, help="folder of PNG crops, 128 x 128 (default: drawn ones)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for gpu.json (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--compile", action="store_true", help="also try torch.compile, a minute or more a network")
    parser.add_argument("--tests", action="store_true", help="also run the tests")
    parser.add_argument("--training-steps", type=int, default=40, help="counted steps (default: 40)")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 here is float32
    figures: dict = {} if arguments.trial else saved("gpu", arguments.results)

    def part(name: str, measure: Callable[[], dict]) -> None:
        if name not in (*arguments.parts, "tests"):
            return
        figures[name] = attempt(measure)
        if arguments.trial:
            print(name, figures[name], flush=True)
        else:
            save("gpu", figures, arguments.results)

    bench = Bench(arguments.trial, read_pngs(arguments.crops) if arguments.crops else None, arguments.compile)
    part("ceiling", lambda: ceiling(bench))
    roofs = figures.get("ceiling", {})
    with tempfile.TemporaryDirectory() as name:
        folder, pth, default = Path(name) / "large", Path(name) / "large.pth", Path(name) / "default.pth"

        def write_hplus() -> None:
            if not pth.exists():
                write_random_weights(folder, bench.network, bench.side)
                write_reference_weights(folder, pth)

        def hplus() -> dict:
            write_hplus()
            return network_figures(bench, Subject(folder, pth, "rot4"), roofs)

        def default_weights() -> dict:
            write_reference_weights(BAKED, default)
            return network_figures(bench, Subject(BAKED, default, DEFAULT_VIEWS), roofs)

        def ready() -> dict:
            write_hplus()
            commands = ready_commands(folder, pth, bench.network, bench.device)
            return compare(commands, 1 if arguments.trial else 3, "ready")

        part("hplus", hplus)
        part("default", default_weights)
        part("training", lambda: training_steps(arguments.trial, arguments.training_steps))
        part("cold_start_hplus_ready", ready)
    if arguments.tests:
        part("tests", tests)
    failed = [name for name in arguments.parts if "failed" in figures[name]]
    sys.exit(f"These parts failed: {', '.join(failed)}." if failed else 0)


def read_pngs(folder: Path) -> list[np.ndarray]:
    """Up to 512 of a folder's crops, evenly spread over their names."""
    files = sorted(folder.glob("*.png"))
    chosen = np.linspace(0, len(files) - 1, min(len(files), 512)).astype(int)
    return [np.asarray(Image.open(files[number]).convert("RGB")) for number in chosen]


if __name__ == "__main__":
    main()

"""How many crops a second does the default network classify on two CPU cores, once it is loaded?

    python -m benchmark.cpu_throughput --runs 7 --cores 2 [--crops DIR]

Eight views (d4) of each crop, against the loop of `benchmark.reference`, and against ONNX Runtime and OpenVINO, which
run the same network behind the same preprocessing and views; they are yardsticks, and left out where they are not
installed (`pip install onnx onnxruntime openvino`). All in turn, in float32, yardsticks with their fastest batch size.
Their largest difference in P(atypical) and the number of classes that differ from ours tell that all do the same work;
the reference's, that PIL resizes a little differently. A large matrix product takes its turn, too: its best rate of
operations is the mark that the others' are compared with.
"""

import argparse
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.cold_start import write_reference_weights
from benchmark.measuring import (
    draw_crops,
    gflops,
    interleave,
    median,
    median_ratio,
    product_flops,
    save,
    timed,
    use_cores,
)
from benchmark.reference import ReferenceLoop, load_network
from model.constants import DEFAULT_VIEWS
from model.images.read import read_crops
from model.network import views
from model.network.calibration import calibrate
from model.network.classifier import MitosisClassifier
from model.network.weights import load_one
from model.network.weights_folder import BAKED
from model.predictor import Predictor, ViewAverage

BATCH_SIZES = (8, 16, 32)
MATRIX, PRODUCTS = 2048, 10
"""Side of the matrix whose product with itself is the ceiling, and products a turn."""

CPU = torch.device("cpu")

Run = Callable[[Tensor], Tensor]
"""Logits (N,) of images (N, 3 K, S, S)."""


def export(network: MitosisClassifier, channels: int, side: int, path: Path) -> None:
    """Writes a network as ONNX, for any number of images."""
    torch.onnx.export(
        network,
        (torch.zeros(1, channels, side, side),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "count"}, "logits": {0: "count"}},
    )


def onnx_runtime(path: Path, cores: int, _: int) -> Run:
    """The network in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])


def openvino(path: Path, cores: int, batch_size: int) -> Run:
    """The network in OpenVINO as it is fastest: one stream per core, with up to four requests each a batch."""
    import openvino

    requests = math.gcd(batch_size, 4 * cores)
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([batch_size // requests, *(side.get_length() for side in model.input(0).partial_shape[1:])])
    options = {"INFERENCE_NUM_THREADS": cores, "NUM_STREAMS": cores, "INFERENCE_PRECISION_HINT": "f32"}
    queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", options))

    def run(images: Tensor) -> Tensor:
        logits = np.empty((requests, batch_size // requests), dtype=np.float32)
        queue.set_callback(lambda request, i: np.copyto(logits[i], request.get_output_tensor().data))
        for i, part in enumerate(images.contiguous().numpy().reshape(requests, -1, *images.shape[1:])):
            queue.start_async({0: part}, i)
        queue.wait_all()
        return torch.from_numpy(logits.ravel())

    return run


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="counted runs, after one that is not (default: 7)")
    parser.add_argument("--cores", type=int, default=2, help="processors to use (default: 2)")
    parser.add_argument("--count", type=int, default=32, help="crops a run, a multiple of 4 (default: 32)")
    parser.add_argument("--crops", type=Path, help="folder of crops to take (default: drawn ones)")
    arguments = parser.parse_args()
    use_cores(arguments.cores)
    if arguments.crops:
        files = sorted(arguments.crops.glob("*.png"))
        crops = [read_crops(file)[0] for file in files[:: max(1, len(files) // arguments.count)][: arguments.count]]
    else:
        crops = draw_crops(arguments.count)

    predictor = Predictor(BAKED, "cpu", DEFAULT_VIEWS)
    plain, config = load_one(BAKED)
    plain.float()
    preprocessing = config.preprocessing
    fields = preprocessing.cut_out(crops)

    def behind_our_preprocessing(network: Run, batch_size: int) -> np.ndarray:
        logits = ViewAverage(network, preprocessing, DEFAULT_VIEWS, batch_size, CPU).logits(fields)
        return calibrate(logits, config.calibration)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_reference_weights(BAKED, folder / "default.pth")
        about = config.network
        network = load_network(folder / "default.pth", about.backbone, about.pooling, about.backbone_args)
        loop = ReferenceLoop(
            network,
            "cpu",
            preprocessing.sides,
            preprocessing.input_size,
            preprocessing.mean,
            preprocessing.std,
            DEFAULT_VIEWS,
        )
        contenders: dict[str, Callable[[], np.ndarray]] = {
            "ours": lambda: predictor(crops),
            "reference": lambda: calibrate(loop(crops), config.calibration),
        }
        for kind in (onnx_runtime, openvino):
            try:
                export(plain, preprocessing.channels, preprocessing.input_size, folder / "default.onnx")
                ready = {size: kind(folder / "default.onnx", arguments.cores, size) for size in BATCH_SIZES}
            except ImportError as error:
                print(f"{kind.__name__} is left out: {error}")
                continue
            runs = {size: partial(behind_our_preprocessing, run, size) for size, run in ready.items()}
            seconds = interleave({str(size): partial(timed, run) for size, run in runs.items()}, 2)
            best = min(runs, key=lambda size: min(seconds[str(size)]))
            contenders[kind.__name__] = runs[best]

        expected = predictor(crops)
        found = {name: run() for name, run in contenders.items()}
        matrix = torch.randn(MATRIX, MATRIX)

        def product() -> float:
            return min(timed(lambda: matrix @ matrix) for _ in range(PRODUCTS))

        turns = {"product": product} | {name: partial(timed, run) for name, run in contenders.items()}
        seconds = interleave(turns, arguments.runs)
    work = gflops(plain, preprocessing) * views.count(DEFAULT_VIEWS)
    roof = product_flops(matrix) / min(seconds.pop("product")) / 1e9
    figures: dict = {
        "runs": arguments.runs,
        "crops": len(crops),
        "real_crops": bool(arguments.crops),
        "views": DEFAULT_VIEWS,
        "gflop_a_crop": round(work, 2),
        "matrix_product_gflops": round(roof, 1),
    }
    for name, values in seconds.items():
        shares = [100 * work * len(crops) / value / roof for value in values]
        figures[name] = {
            "crops_a_second": median([len(crops) / value for value in values], 1),
            "crops_a_second_range": [round(len(crops) / value, 1) for value in (max(values), min(values))],
            "percent_of_ceiling": median(shares, 1),
            "ours_times_faster": median_ratio(values, seconds["ours"]),
            "largest_difference": float(f"{np.abs(found[name] - expected).max():.1e}"),
            "classes_that_differ": int(np.sum((found[name] >= 0.5) != (expected >= 0.5))),
        }
    save("cpu_throughput", figures)


if __name__ == "__main__":
    main()

"""What a GPU would have to do, counted without one, and the shortest time that cards could do it in.

    python -m benchmark.roofline            prints the table
    python -m benchmark.roofline --write    writes it into docs/speed.md

The program's own code runs on tensors without numbers (`training.network.counting`), so this takes seconds, and neither
a GPU nor weights. Nothing here is measured: `benchmark.gpu` measures.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmark.measuring import CROPS, HPLUS, REPOSITORY
from model.constants import DEFAULT_VIEWS
from model.network import preprocessing as preprocessing_module
from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.running import ViewAverage, move
from model.network.weights import load_one
from model.network.weights_folder import BAKED
from model.predictor import GPU_VIEWS
from model.speed.blocks import replace_blocks
from model.speed.folding import fold
from training.config import load_config
from training.network.cost import count_step
from training.network.counting import Counts, Kernel, counting
from training.train import CONFIGS

DOCUMENT = REPOSITORY / "docs" / "speed.md"
BEGIN, END = "<!-- roofline:begin -->\n", "<!-- roofline:end -->\n"

CPU = torch.device("cpu")
"""Where tensors without numbers say they are: there, any precision is known."""

LARGE = Preprocessing(78, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of DINOv3 ViT-H+/16."""


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet.

    Attributes:
        half: dense operations a second in bfloat16, or in float16 where it has no bfloat16.
        single: in float32, without TensorFloat-32.
        bandwidth: bytes a second of its memory.
    """

    half: float
    single: float
    bandwidth: float


CARDS = {
    "H100 SXM": Card(989e12, 67e12, 3.35e12),
    "A100 40 GB": Card(312e12, 19.5e12, 1.555e12),
    "L4": Card(121e12, 30.3e12, 0.3e12),
    "T4": Card(65e12, 8.1e12, 0.32e12),
}
"""NVIDIA's data sheets."""

START = 4e-6
"""Seconds that the processor needs to start an operation, at least."""


def shortest(kernels: Iterable[Kernel], card: Card) -> float:
    """Seconds, when each operation takes what its products, its bytes or its start take, whichever is the longest."""
    return sum(
        max(kernel.flops / (card.single if kernel.single else card.half), kernel.moved / card.bandwidth, START)
        for kernel in kernels
    )


def large_case(view_set: str, lean: bool) -> Counts:
    """A case of 16 crops with DINOv3 ViT-H+/16, in half precision; with leaner blocks or as timm runs it."""
    with torch.device("meta"):
        network = MitosisClassifier(HPLUS.backbone, HPLUS.pooling, HPLUS.backbone_args).eval().requires_grad_(False)
    return _case(network, LARGE, view_set, _leaner if lean else lambda _: None)


def _leaner(network: MitosisClassifier) -> None:
    backbone: Any = network.backbone
    size = backbone.patch_embed.dynamic_feat_size((LARGE.input_size, LARGE.input_size))
    replace_blocks(backbone, backbone.rope.get_embed(shape=size), backbone.num_prefix_tokens)


def default_case(folded: bool) -> Counts:
    """A case of 16 crops with the default weights and views, in half precision; its batch norms folded or not."""
    network, config = load_one(BAKED)
    if folded:
        network = fold(network, config.preprocessing.channels, config.preprocessing.input_size, norms_alone=True)
    return _case(network, config.preprocessing, DEFAULT_VIEWS, lambda _: None)


def _case(
    network: MitosisClassifier,
    preprocessing: Preprocessing,
    view_set: str,
    prepare: Callable[[MitosisClassifier], None],
) -> Counts:
    """A case, from its fields of view on the GPU to its logits, with a network that is prepared without numbers."""
    move(network, torch.device("meta"), torch.bfloat16)
    preprocessing_module._channels.cache_clear()  # which would keep tensors without numbers, or give others
    try:
        with counting() as counts, torch.no_grad():
            network.to_empty(device="cpu")
            prepare(network)
            counts.begin()
            side = preprocessing.largest_side
            fields = torch.empty(CROPS, side, side, 3, dtype=torch.uint8)
            average = ViewAverage(network, preprocessing, view_set, GPU_VIEWS, CPU, torch.bfloat16)
            average.view_logits(fields)
    finally:
        preprocessing_module._channels.cache_clear()
    return counts


def reference_case() -> Counts:
    """The network's part of `benchmark.reference`: float32, crop by crop, the four views of one together."""
    with torch.device("meta"):
        network = MitosisClassifier(HPLUS.backbone, HPLUS.pooling, HPLUS.backbone_args).eval()
    with counting() as counts, torch.no_grad():
        network.to_empty(device="cpu")
        counts.begin()
        for _ in range(CROPS):
            network(torch.empty(4, 3, LARGE.input_size, LARGE.input_size))
    return counts


def step(checkpointing: bool, plain: bool = False) -> Counts:
    """A training step of the recipe `dinov3_hplus`; or of a plain loop in float32."""
    config = load_config(CONFIGS / "dinov3_hplus.yaml", ["data.root=."])
    precision = "no" if plain else "bf16"
    optimisation = replace(config.optimisation, precision=precision, gradient_checkpointing=checkpointing)
    return count_step(replace(config, optimisation=optimisation))


WORK: dict[str, Callable[[], Counts]] = {
    "H+, a case of 16 crops, four views": lambda: large_case("rot4", lean=True),
    "the same, as timm runs it": lambda: large_case("rot4", lean=False),
    "the same, as the reference does it (float32)": reference_case,
    "H+, a case of 16 crops, eight views": lambda: large_case("d4", lean=True),
    "default weights, a case of 16 crops": lambda: default_case(folded=True),
    "the same, batch norms not folded": lambda: default_case(folded=False),
    "H+, a training step of 16 crops, activations kept": lambda: step(checkpointing=False),
    "the same, with gradient checkpointing": lambda: step(checkpointing=True),
    "the same, a plain loop in float32": lambda: step(checkpointing=False, plain=True),
}


def row(name: str, counts: Counts) -> str:
    """A line of the table: what is done, and for each card the shortest time and the share of its peak rate."""
    flops = sum(kernel.flops for kernel in counts.kernels)
    moved = sum(kernel.moved for kernel in counts.kernels)
    cells = [f"{len(counts.kernels):,}", f"{flops / 1e12:.3g}", f"{moved / 1e9:.3g}", f"{counts.peak / 2**20:,.0f}"]
    for card in CARDS.values():
        seconds = shortest(counts.kernels, card)
        cells.append(f"{1e3 * seconds:.3g} ms, {100 * flops / seconds / card.half:.0f} %")
    return f"| {' | '.join([name, *cells])} |"


def section() -> str:
    """The document's section, Markdown."""
    heads = ["", "operations", "TFLOP", "GB moved", "MiB", *CARDS]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [row(name, count()) for name, count in WORK.items()]
    return "\n".join(lines) + "\n"


def written() -> str:
    """The section as it stands in the document."""
    return DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/speed.md")
    arguments = parser.parse_args()
    table = section()
    print(table, end="")
    if arguments.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        DOCUMENT.write_text(before + BEGIN + table + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()

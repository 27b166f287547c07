"""What is counted, against sums by hand and what the document says."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark import roofline
from benchmark.measuring import CROPS, HPLUS
from benchmark.roofline import CARDS, START, WORK, row, section, shortest, written
from model.network.classifier import MitosisClassifier
from training.network.counting import Counts, Kernel, counting


def test_operations_bytes_and_memory_of_a_layer() -> None:
    with torch.device("meta"):
        layer = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32)).bfloat16()
    with counting() as counts, torch.no_grad():
        layer.to_empty(device="cpu")
        weights = counts.alive
        counts.begin()
        layer(torch.empty(10, 64, dtype=torch.bfloat16))
    assert weights == 2 * (64 * 256 + 256 + 256 * 32 + 32)
    first = Kernel("addmm", 2 * 10 * 64 * 256, 2 * (64 * 256 + 256 + 10 * 64 + 10 * 256), False)
    relu = Kernel("relu", 0, 2 * 2 * 10 * 256, False)
    second = Kernel("addmm", 2 * 10 * 256 * 32, 2 * (32 * 256 + 32 + 10 * 256 + 10 * 32), False)
    assert counts.kernels == [first, relu, second]
    assert counts.peak == weights + 2 * (10 * 64 + 10 * 256 + 10 * 256), "before the second layer"


def test_memory_is_given_back() -> None:
    with counting() as counts:
        kept = torch.empty(1000)
        view = kept[:10]
        del kept
        assert counts.alive == 4000, "a view keeps it"
        del view
        assert counts.alive == 0 and counts.peak == 4000


def test_the_longest_of_three_counts() -> None:
    card = CARDS["T4"]
    products = Kernel("mm", 10**12, 1, False)
    assert shortest([products], card) == pytest.approx(1 / 65)
    assert shortest([Kernel("mm", 10**12, 1, True)], card) == pytest.approx(1 / 8.1)
    assert shortest([Kernel("add", 0, 32 * 10**8, False)], card) == pytest.approx(0.01)
    assert shortest([Kernel("add", 0, 8, False)] * 10, card) == pytest.approx(10 * START)


@pytest.fixture(scope="module")
def case() -> Counts:
    return roofline.large_case("rot4", lean=True)


def test_a_case_of_the_large_network(case: Counts) -> None:
    """The products are those that PyTorch counts of one image; 16 crops with four views stay below 3 GB."""
    with torch.device("meta"):
        network = MitosisClassifier(HPLUS.backbone, HPLUS.pooling, HPLUS.backbone_args).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.backbone(torch.empty(1, 3, 224, 224))
    flops = sum(kernel.flops for kernel in case.kernels)
    assert flops == pytest.approx(4 * CROPS * counter.get_total_flops(), rel=0.001)
    assert case.peak + 500e6 < 3e9


def test_the_document_has_what_is_counted(case: Counts) -> None:
    assert len(written().splitlines()) == 2 + len(WORK)
    assert row(next(iter(WORK)), case) in written().splitlines()


@pytest.mark.slow
def test_the_document_has_the_whole_table() -> None:
    assert written() == section()

import pytest
import torch

from training.fitting.state import parameter_groups, warmup_cosine


def test_only_matrices_and_kernels_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 1))
    network[2].weight.requires_grad_(False)
    decaying, free = parameter_groups(network, 0.1)
    assert decaying["weight_decay"] == 0.1 and [p.shape for p in decaying["params"]] == [(4, 3, 3, 3)]
    assert free["weight_decay"] == 0.0 and len(free["params"]) == 4


def test_learning_rate_rises_then_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_cosine(optimizer, steps=100, warmup=0.1)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001 and schedule.get_last_lr()[0] == 0

"""How a cohort's machines are shared out."""

import os
from pathlib import Path

import numpy as np
import pytest
from cohorts import require_ray
from helpers import DEFAULT_WEIGHTS

require_ray()

import ray

from cohort import machines as module
from cohort.machines import Machines, _cores, _share_out_cores

GIB = 1 << 30


@pytest.mark.parametrize(
    ("cores", "memory", "stored", "predictors", "threads"),
    [
        (2, 16 * GIB, 20_000_000, 2, 1),
        (16, 64 * GIB, 20_000_000, 16, 1),
        (16, 8 * GIB, 20_000_000, 5, 3),
        (16, 64 * GIB, 1_700_000_000, 8, 2),
        (16, 12 * GIB, 1_700_000_000, 2, 8),
        (4, GIB, 1_700_000_000, 1, 4),
    ],
)
def test_each_processor_has_a_predictor_as_far_as_the_memory_goes(
    cores: int, memory: int, stored: int, predictors: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_total", lambda resource: float(memory) if resource == "memory" else 0.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(module, "CPU_QUOTA", Path("/none"))
    found = _share_out_cores(Machines(1, 0, 2, 1.0, cores), stored)
    assert found == Machines(predictors, 0, 2, 1.0, threads)


@pytest.mark.parametrize(("said", "cores"), [("150000 100000\n", 2), ("max 100000\n", 64), ("1000 100000\n", 1)])
def test_a_container_s_share_of_the_processors_counts(
    said: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(said)
    monkeypatch.setattr(module, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert _cores() == cores


def test_this_machine_has_no_more_threads_than_processors(machines: Machines) -> None:
    assert 1 <= machines.predictors * machines.threads <= len(os.sched_getaffinity(0))
    assert machines.gpus == 0


def test_what_a_thread_frees_stays_with_the_process(machines: Machines) -> None:
    """Fresh pages a crop, in a thread as Ray calls what computes: with a place of its own it takes 11,000."""
    weights, crop = DEFAULT_WEIGHTS, np.zeros((128, 128, 3), dtype=np.uint8)

    @ray.remote(num_cpus=0.1)
    def fresh_pages() -> float:
        import resource
        from concurrent.futures import ThreadPoolExecutor

        from model.predictor import Predictor

        def predict() -> float:
            predictor = Predictor(weights, "cpu")
            predictor([crop] * 24)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            predictor([crop] * 24)
            return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 24

        return ThreadPoolExecutor(1).submit(predict).result()

    assert ray.get(fresh_pages.remote()) < 1000

"""How a cohort's machines are shared out."""

import os

import pytest
from cohorts import require_ray

require_ray()

import ray

from cohort import machines as module
from cohort.machines import Machines, _share_out_cores

GIB = 1 << 30


@pytest.mark.parametrize(
    ("cores", "memory", "stored", "predictors", "threads"),
    [
        (2, 16 * GIB, 20_000_000, 2, 1),
        (16, 64 * GIB, 20_000_000, 16, 1),
        (16, 8 * GIB, 20_000_000, 7, 2),
        (16, 64 * GIB, 1_700_000_000, 15, 1),
        (16, 12 * GIB, 1_700_000_000, 2, 8),
        (4, GIB, 1_700_000_000, 1, 4),
    ],
)
def test_each_processor_has_a_predictor_as_far_as_the_memory_goes(
    cores: int, memory: int, stored: int, predictors: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_total", lambda resource: float(memory) if resource == "memory" else 0.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    found = _share_out_cores(Machines(1, 0, 2, 1.0, cores), stored)
    assert found == Machines(predictors, 0, 2, 1.0, threads)


def test_this_machine_has_no_more_threads_than_processors(machines: Machines) -> None:
    assert 1 <= machines.predictors * machines.threads <= len(os.sched_getaffinity(0))
    assert machines.gpus == 0


def test_what_a_thread_frees_stays_with_the_process(machines: Machines) -> None:
    """Fresh pages of a hundred layers of 8 MiB, 2,048 pages each, in a thread as Ray calls what computes."""

    @ray.remote(num_cpus=0.1)
    def fresh_pages() -> int:
        import resource
        from threading import Thread

        import torch

        from model.speed.memory import keep_freed_memory

        keep_freed_memory()

        def layers() -> None:
            for _ in range(100):
                torch.ones(8 << 20, dtype=torch.uint8)

        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        thread = Thread(target=layers)
        thread.start()
        thread.join()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert ray.get(fresh_pages.remote()) < 20_000

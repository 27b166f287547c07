"""Where a network runs: which GPU, in which precision, and what a GPU's errors mean."""

import logging
import warnings

import torch

from model.errors import PredictionError

logger = logging.getLogger(__name__)

OLDEST = (7, 0)
"""Compute capability (Volta) that PyTorch's wheels for CUDA 12.8 begin with; they hold no kernels for Pascal's 6.x."""

_MEMORY_IS_FULL = (
    "out of memory",  # also "CUDA error: out of memory", which is no OutOfMemoryError
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # its handle needs memory, too
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "ALLOCATION_FAILED",  # as in CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "Unable to find a valid cuDNN algorithm",  # none of them gets the memory that it works in
)


def memory_is_full(error: BaseException) -> bool:
    """Whether an error says, in one of the ways that CUDA's libraries have for it, that the GPU's memory is full."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _MEMORY_IS_FULL)


def choose_device(name: str) -> torch.device:
    """The device named `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is the first GPU when there is one that works.

    Raises:
        PredictionError: a GPU was asked for and there is none that works.
    """
    if name == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda" if name == "auto" else name)
    works, problem = try_gpu(device)
    if works:
        return device
    if name != "auto":
        raise PredictionError(
            f"A GPU was asked for, but {f'it does not work ({problem})' if problem else 'PyTorch sees none'}; check "
            "the driver, or run with --device cpu."
        )
    if problem:
        logger.warning("The GPU does not work (%s); running on the CPU.", problem)
    return torch.device("cpu")


def further_gpus(first: torch.device) -> list[torch.device]:
    """The GPUs that PyTorch sees and that work, but for the first one; none where that is the CPU, or has a number."""
    if str(first) != "cuda":
        return []
    further = []
    for number in range(1, torch.cuda.device_count()):
        works, problem = try_gpu(torch.device("cuda", number))
        if works:
            further.append(torch.device("cuda", number))
        else:
            logger.warning("GPU %d does not work (%s); it is left out.", number, problem)
    return further


def try_gpu(device: torch.device) -> tuple[bool, str]:
    """Whether a GPU computes; and, where there is one that does not, why: a phrase without a full stop, else empty."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    # A driver that is missing is no news on a machine without a GPU; one that is there and unfit is.
    problem = next((str(entry.message) for entry in caught if "driver" in str(entry.message)), "")
    if available:
        try:
            capability = torch.cuda.get_device_capability(device)
            if capability >= OLDEST:
                compute_on(device)
                return True, ""
            had, needed = (".".join(map(str, numbers)) for numbers in (capability, OLDEST))
            problem = f"its compute capability is {had}, and PyTorch has kernels from {needed} on"
        except (RuntimeError, AssertionError) as error:  # the second for a number that no GPU has
            problem = str(error)
    return False, problem.strip().partition("\n")[0].rstrip(".")


def compute_on(device: torch.device) -> None:
    """Adds one and one.

    Raises:
        RuntimeError: the device cannot.
    """
    torch.ones(1, device=device).add_(1).cpu()


def choose_dtype(device: torch.device) -> torch.dtype:
    """Precision to run in: bfloat16 from compute capability 8.0, float16 on older GPUs, float32 on the CPU."""
    if device.type != "cuda":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16

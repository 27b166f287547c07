import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.device import choose_dtype
from model.errors import CropError, PredictionError
from model.network.calibration import sigmoid
from model.network.weights import load, save
from model.predictor import GOOD_CALLS, Predictor, choose_device


def test_probabilities_are_the_calibrated_mean_over_views(small_weights: Path, crops: list[np.ndarray]) -> None:
    """Against the definition, written out: one crop and one view at a time."""
    predictor = Predictor(small_weights, "cpu")
    preprocessing, calibration = predictor.config.preprocessing, predictor.config.calibration
    expected = []
    for crop in crops:
        logits = []
        for mirrored in (crop, crop[:, ::-1]):
            for turns in range(4):
                view = np.ascontiguousarray(np.rot90(mirrored, turns))
                with torch.inference_mode():
                    logits.append(predictor.network(preprocessing.network_input(preprocessing.cut_out([view]))).item())
        expected.append(1 / (1 + np.exp(-(calibration.scale * np.mean(logits) + calibration.bias))))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(predictor(crops), expected, atol=1e-4)


@pytest.mark.parametrize("view_set", ["none", "rot4", "d4"])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 20, 1000])
def test_batches_change_nothing(small_weights: Path, crops: list[np.ndarray], view_set: str, batch_size: int) -> None:
    expected = Predictor(small_weights, "cpu", view_set)(crops)
    np.testing.assert_allclose(Predictor(small_weights, "cpu", view_set, batch_size)(crops), expected, atol=1e-4)


def test_confidences_follow_their_crops_and_ignore_their_neighbours(
    small_weights: Path, crops: list[np.ndarray]
) -> None:
    predictor = Predictor(small_weights, "cpu")
    together = predictor(crops)
    order = [3, 0, 4, 2, 1]
    np.testing.assert_allclose(predictor([crops[i] for i in order]), together[order], atol=1e-4)
    np.testing.assert_allclose([predictor([crop])[0] for crop in crops], together, atol=1e-4)


def test_a_turned_or_mirrored_crop_has_the_same_probability(small_weights: Path, crops: list[np.ndarray]) -> None:
    predictor = Predictor(small_weights, "cpu")
    turned = [np.rot90(crop, 1).copy() for crop in crops]
    np.testing.assert_allclose(predictor(turned), predictor(crops), atol=1e-4)


def test_no_crops_give_no_probabilities(small_weights: Path) -> None:
    assert Predictor(small_weights, "cpu")([]).shape == (0,)


def test_few_crops_go_through_the_network_in_smaller_batches(
    small_weights: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case takes less memory; many crops take less time."""
    predictor = Predictor(small_weights, "cpu")
    sizes: list[int] = []
    forward = predictor.network.forward
    monkeypatch.setattr(predictor.network, "forward", lambda images: sizes.append(len(images)) or forward(images))
    many = [crops[number % len(crops)] for number in range(17)]
    predictor(many[:16])
    predictor(many)
    assert sizes[0] == predictor.batch_size // 2 and sizes[-2] == predictor.batch_size


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory", 2),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
]
"""What PyTorch and CUDA's libraries say when the GPU's memory is full."""


@pytest.mark.parametrize("error", FULL, ids=str)
def test_when_memory_is_full_the_batch_is_halved(
    error: RuntimeError, small_weights: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(small_weights, "cpu", batch_size=16)
    expected = predictor(crops)
    sizes, handling = [], []
    forward = predictor.network.forward

    def limited(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 2:
            raise error
        return forward(images)

    monkeypatch.setattr(predictor.network, "forward", limited)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: handling.append(sys.exception()))
    np.testing.assert_allclose(predictor(crops), expected, atol=1e-4)
    assert sizes[:4] == [16, 8, 4, 2] and predictor.batch_size == 2
    assert handling == [None] * 3, "memory is given back when no error holds the tensors of the failed pass"


def test_other_errors_of_a_gpu_do_not_halve_the_batch(
    small_weights: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(small_weights, "cpu", batch_size=16)

    def broken(images: torch.Tensor) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

    monkeypatch.setattr(predictor.network, "forward", broken)
    with pytest.raises(PredictionError, match=r"does not run .*illegal memory access"):
        predictor(crops)
    assert predictor.batch_size == 16


def test_batches_grow_again_when_memory_has_sufficed_for_a_while(
    small_weights: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a server is not slow for ever because another process filled the GPU's memory once."""
    predictor = Predictor(small_weights, "cpu", "none", batch_size=4)
    forward, full = predictor.network.forward, [True]

    def limited(images: torch.Tensor) -> torch.Tensor:
        if full and len(images) > 1:
            raise torch.OutOfMemoryError("injected")
        return forward(images)

    monkeypatch.setattr(predictor.network, "forward", limited)
    sizes = []
    for _ in range(GOOD_CALLS + 1):
        predictor(crops)
        full.clear()
        sizes.append(predictor.batch_size)
    assert sizes == [1] * (GOOD_CALLS - 1) + [4] * 2


@pytest.mark.parametrize("error", FULL, ids=str)
def test_memory_that_does_not_hold_the_network_is_said(
    error: RuntimeError, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("model.predictor.place", full)
    with pytest.raises(PredictionError, match="memory does not hold the network"):
        Predictor(small_weights, "cpu")


def test_when_even_one_view_does_not_fit_it_is_an_error(
    small_weights: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(small_weights, "cpu")

    def never(images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(predictor.network, "forward", never)
    with pytest.raises(PredictionError, match="does not even hold one view"):
        predictor(crops)


def test_logits_that_are_not_finite_are_refused(
    small_weights: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(small_weights, "cpu", "none")
    monkeypatch.setattr(predictor.network, "forward", lambda images: images.sum((1, 2, 3)) * float("nan"))
    with pytest.raises(PredictionError, match="crop 1 is not a finite number"):
        predictor(crops)


def test_half_precision_that_overflows_is_repeated_in_float32(
    small_weights: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for good: where one crop overflowed, others will."""
    expected = Predictor(small_weights, "cpu", "none")(crops)
    predictor = Predictor(small_weights, "cpu", "none", dtype=torch.float16)
    half, runs = predictor.network, []

    def overflow(_: object, inputs: object, features: torch.Tensor) -> torch.Tensor:
        runs.append(features.dtype)
        return features * 1e6 * 1e6

    half.backbone.register_forward_hook(overflow)
    np.testing.assert_allclose(predictor(crops), expected, atol=1e-4)
    assert predictor.dtype == torch.float32 and predictor.network is not half
    assert runs == [torch.float16]
    predictor(crops)
    assert runs == [torch.float16] and caplog.text.count("is not a finite number in torch.float16; going on in") == 1


def test_weights_replaced_meanwhile_are_not_gone_on_with(
    small_weights: Path, crops: list[np.ndarray], tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(small_weights, folder)
    predictor = Predictor(folder, "cpu", "none", dtype=torch.float16)
    predictor.network.register_forward_hook(lambda _, inputs, logits: logits * float("inf"))
    network, config = load(folder)
    save(folder, network, replace(config, version="another"))
    with pytest.raises(PredictionError, match="holds other weights than at the start"):
        predictor(crops)


def test_wrong_arguments_are_refused(small_weights: Path, crops: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="Unknown views"):
        Predictor(small_weights, "cpu", "d5")
    with pytest.raises(ValueError, match="batch size"):
        Predictor(small_weights, "cpu", batch_size=0)
    with pytest.raises(CropError, match="Crop 1"):
        Predictor(small_weights, "cpu")([crops[0][:50, :50]])


def test_asking_for_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PredictionError, match="PyTorch sees none"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16)]
)
def test_precision_follows_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_dtype(torch.device("cuda")) == dtype


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_scales_are_averaged_like_views(small_weights: Path, crops: list[np.ndarray], tmp_path: Path) -> None:
    """The mean logit over three fields of view, each as a network of that field alone gives it."""
    network, config = load(small_weights)

    def predictor(field_of_view: int, *scales: float) -> Predictor:
        preprocessing = replace(config.preprocessing, field_of_view=field_of_view, scales=scales)
        folder = tmp_path / f"{field_of_view} {scales}"
        save(folder, network, replace(config, preprocessing=preprocessing))
        return Predictor(folder, "cpu")

    logits = [-np.log(1 / predictor(side, 1.0)(crops) - 1) for side in (64, 78, 96)]
    together = predictor(78, 1.0, 0.82, 1.23)
    np.testing.assert_allclose(-np.log(1 / together(crops) - 1), np.mean(logits, axis=0), atol=1e-5)
    assert np.abs(logits[0] - logits[2]).max() > 0.01

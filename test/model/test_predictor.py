from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import predictor as predictor_module
from model.errors import CropError, PredictionError
from model.network.calibration import sigmoid
from model.network.weights import load, save
from model.predictor import Predictor, choose_device


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


def test_when_memory_is_full_the_batch_is_halved(
    small_weights: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(small_weights, "cpu", batch_size=16)
    expected = predictor(crops)
    sizes = []
    forward = predictor.network.forward

    def limited(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("injected")
        return forward(images)

    monkeypatch.setattr(predictor.network, "forward", limited)
    np.testing.assert_allclose(predictor(crops), expected, atol=1e-4)
    assert sizes[:4] == [16, 8, 4, 2] and predictor.batch_size == 2


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
    ("capability", "dtype"),
    [((6, 1), torch.float32), ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_precision_follows_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert predictor_module.choose_dtype(torch.device("cuda")) == dtype


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

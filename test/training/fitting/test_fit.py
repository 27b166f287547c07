"""One fit: its randomness, an interruption, its second task."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import config_for

from model.errors import CaseError
from model.modes.writing import lock
from training.config import Config, ConfigError
from training.data.crops import LabelledCrops
from training.data.sample import Sample
from training.fitting import fit as fit_module
from training.fitting.cross_validation import fit_seed
from training.fitting.epoch import DivergedError, _share_made_up_for
from training.fitting.fit import fit_network, logit_spread, read_fitted
from training.fitting.losses import targets_and_weights
from training.fitting.run import Run
from training.fitting.state import Fit
from training.network.classifier import TrainableClassifier, build_network

pytestmark = pytest.mark.usefixtures("one_thread")


def fitted_tensors(config: Config, folder: Path, crops: list[np.ndarray]) -> dict[str, torch.Tensor]:
    labels = [0, 1, 0, 0, 1] * 8
    phases = [("a",), ("b",), ("a", "b"), (), ("b",)] * 8
    samples = [
        Sample(Path(f"{i}.png"), label, "scanner", f"slide {i}", phases=phases[i]) for i, label in enumerate(labels)
    ]
    labelled = LabelledCrops(samples, crops * 8)
    run = Run(config, Accelerator(), labelled, folder)
    return fit_network(run, labelled, "fit", seed=1, validation=labelled.subset(range(5))).state_dict()


def interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a fit do so many epochs, and one more in vain."""
    train_epoch, numbers = fit_module.train_epoch, iter(range(10))

    def train_or_stop(*arguments, **keywords) -> float:
        loss = train_epoch(*arguments, **keywords)
        if next(numbers) == epochs:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(fit_module, "train_epoch", train_or_stop)


def test_the_same_seed_gives_the_same_weights(data: Path, tmp_path: Path, crops: list[np.ndarray]) -> None:
    config = config_for(data, tmp_path, "network.dropout=0.3")
    first, second = (fitted_tensors(config, tmp_path / name, crops) for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_fit_goes_on_bit_for_bit(
    workers: int, data: Path, tmp_path: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, too, which an uninterrupted fit starts once."""
    config = config_for(data, tmp_path, "network.dropout=0.3", "loss.phases=0.3", f"data.workers={workers}")
    expected = fitted_tensors(config, tmp_path / "whole", crops)
    interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fitted_tensors(config, tmp_path / "broken", crops)
    torch.rand(7)
    monkeypatch.undo()
    resumed = fitted_tensors(config, tmp_path / "broken", crops)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_phases_are_a_second_task_in_training_alone(
    data: Path, tmp_path: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [("a", "a"), ("a", "b"), ()]
    samples = [Sample(Path(f"{i}.png"), i % 2, "", "", phases=named[i]) for i in range(3)]
    config = config_for(data, tmp_path, "loss.phases=0.5")
    assert targets_and_weights(config, samples, ["a", "b"])[0].tolist() == [[0, 1, 0], [1, 0.5, 0.5], [0, 0, 0]]
    network = build_network(config, phases=2)
    assert network.train()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2,)
    phases = [replace(sample, phases=("ab"[i % 2],)) for i, sample in enumerate(samples * 20)]
    labelled = LabelledCrops(phases, crops * 12)
    averaged = {}
    monkeypatch.setattr(Fit, "save", lambda fit, *_: averaged.update(fit.average.tensors))
    fitted = fit_network(Run(config, Accelerator(), labelled, tmp_path), labelled, "fit", seed=0)
    assert fitted.state_dict().keys() == build_network(config).state_dict().keys()
    assert averaged["phase_head.weight"].shape == (2, fitted.head.in_features)


@pytest.mark.parametrize(("consistency", "shown"), [(0, 8), (0.5, 16)])
def test_with_consistency_the_network_sees_every_crop_twice(
    consistency: float,
    shown: int,
    data: Path,
    tmp_path: Path,
    crops: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes, forward = set(), TrainableClassifier.forward

    def counted(network: TrainableClassifier, images: torch.Tensor) -> torch.Tensor:
        if network.training:
            sizes.add(len(images))
        return forward(network, images)

    monkeypatch.setattr(TrainableClassifier, "forward", counted)
    config = config_for(data, tmp_path, f"loss.consistency={consistency}", "optimisation.epochs=1")
    assert all(torch.isfinite(tensor).all() for tensor in fitted_tensors(config, tmp_path, crops).values())
    assert sizes == {shown}


def test_a_finished_fit_is_read_again_and_its_checkpoint_is_gone(
    data: Path, tmp_path: Path, crops: list[np.ndarray]
) -> None:
    config = config_for(data, tmp_path)
    first = fitted_tensors(config, tmp_path, crops)
    assert not (tmp_path / "fit" / "checkpoint.pt").exists()
    again = fitted_tensors(config, tmp_path, crops)
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    run = Run(config, Accelerator(), LabelledCrops([], []), tmp_path)
    spread = logit_spread(run, "fit")
    assert 0 < spread < 100
    fitted = tmp_path / "fit" / "fitted.safetensors"
    fitted.write_bytes(fitted.read_bytes()[:-10])
    for read in (read_fitted, logit_spread):
        with pytest.raises(ConfigError, match=r"fitted\.safetensors cannot be used .*; remove .*fit, and it is made"):
            read(run, "fit")


def test_what_an_interruption_has_damaged_is_a_sentence(
    data: Path, tmp_path: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(data, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(1, patch)
        fitted_tensors(config, tmp_path, crops)
    checkpoint = tmp_path / "fit" / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    other = torch.save({"epochs_done": 1}, tmp_path / "other.pt") or (tmp_path / "other.pt").read_bytes()
    load = torch.optim.AdamW.load_state_dict

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):  # nothing to remove a checkpoint for
        patch.setattr(torch.optim.AdamW, "load_state_dict", full)
        fitted_tensors(config, tmp_path, crops)
    assert torch.optim.AdamW.load_state_dict is load
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2], other):
        checkpoint.write_bytes(content)
        with pytest.raises(ConfigError, match=r"checkpoint\.pt cannot be used \(.+\); remove .*fit, and it is made"):
            fitted_tensors(config, tmp_path, crops)
    checkpoint.write_bytes(whole)
    fitted_tensors(config, tmp_path, crops)


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half(
    data: Path, tmp_path: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:778] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt cannot be written .*; make room, and the same command"):
        fitted_tensors(config_for(data, tmp_path), tmp_path, crops)
    assert not list((tmp_path / "fit").glob("*.partial")) and not (tmp_path / "fit" / "checkpoint.pt").exists()


def test_two_processes_do_not_make_one_fit(data: Path, tmp_path: Path, crops: list[np.ndarray]) -> None:
    held = lock(tmp_path / "fit")
    with pytest.raises(CaseError, match=r"Another process writes to .*fit; wait for it"):
        fitted_tensors(config_for(data, tmp_path), tmp_path, crops)
    os.close(held)
    fitted_tensors(config_for(data, tmp_path), tmp_path, crops)
    os.close(lock(tmp_path / "fit"))  # it is free again


def test_a_loss_that_is_not_finite_stops_training(data: Path, tmp_path: Path, crops: list[np.ndarray]) -> None:
    expected = r"The loss became (nan|inf); look at the crops of this batch \((\d+\.png, ){7}\d+\.png\) or lower"
    config = config_for(data, tmp_path)
    config.optimisation.learning_rate = 1e30
    with pytest.raises(DivergedError, match=expected):
        fitted_tensors(config, tmp_path, crops)


def test_a_short_last_group_of_batches_counts_as_much_as_the_others() -> None:
    """Of seven batches by threes the last makes a step of its own; Accelerate divides each loss by three."""
    shares = [_share_made_up_for(number, 7, 3) / 3 for number in range(7)]
    assert shares == pytest.approx([1 / 3] * 6 + [1.0])
    assert [_share_made_up_for(number, 5, 1) for number in range(5)] == [1] * 5


def test_tensorboard_keeps_every_epoch_of_a_fit_that_was_resumed(
    data: Path, tmp_path: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    purged: list[int] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            purged.append(purge_step)

        def add_scalar(self, *_: object) -> None: ...

        def add_hparams(self, hyperparameters: dict, figures: dict, run_name: str) -> None:
            assert hyperparameters["optimisation.epochs"] == 2 and run_name == "."
            assert {"last/loss/train", "last/loss/validation", "last/balanced_accuracy/validation"} <= figures.keys()

        def close(self) -> None: ...

    monkeypatch.setattr(fit_module, "SummaryWriter", Writer)
    config = config_for(data, tmp_path, "optimisation.epochs=2")
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            fitted_tensors(config, tmp_path, crops)
    fitted_tensors(config, tmp_path, crops)
    assert purged == [1, 2], "what is written at the step of the first epoch stays"


def test_fits_of_neighbouring_seeds_have_seeds_of_their_own() -> None:
    names = [*(f"slides_{fold}" for fold in range(5)), "sources_0", "sources_1", "final"]
    seeds = [fit_seed(seed, name) for seed in range(20) for name in names]
    assert len({*seeds}) == len(seeds)

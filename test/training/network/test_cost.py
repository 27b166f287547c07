import logging
from pathlib import Path

import pytest
import torch
from helpers import config_for

from training.config import Config, load_config
from training.network.cost import USABLE, choose_checkpointing, count_step, describe, training_memory
from training.train import CONFIGS

MIB = 2**20


def winner(*overrides: str) -> Config:
    return load_config(CONFIGS / "dinov3_hplus.yaml", ["data.root=.", *overrides])


@pytest.mark.slow
def test_the_recipe_of_the_winner_in_figures() -> None:
    """Against the figures published for ViT-H+/16 (arXiv 2508.21041): 655,360 at rank 4, about 1.3 M for the winner."""
    figures = describe(winner())
    assert figures["total_parameters"] == 840_510_721
    assert figures["lora_parameters"] == 1_310_720
    assert figures["trainable_parameters"] == 1_310_720 + 1281
    assert figures["targets"] == {"q_proj": 32, "v_proj": 32}
    assert figures["tokens"] == 14 * 14 + 5 and figures["input_size"] == 224
    assert 335 < figures["gflops"] < 355
    memory = figures["training_memory_mib"]
    assert 1603 < memory["computed_again"] < 4051 < memory["kept"] < 10_694
    assert describe(winner("adapter.rank=4", "optimisation.batch_size=1"))["lora_parameters"] == 655_360


def test_adapters_on_pointwise_convolutions_can_be_counted_too() -> None:
    """A kernel and its adapter are added up in float32, without autocast, which tensors without numbers do not have."""
    keys = ["adapter.rank=4", "adapter.dropout=0", "adapter.targets=[pointwise]", "adapter.others=true"]
    adapted = describe(load_config(CONFIGS / "compact.yaml", ["data.root=.", *keys]))
    plain = describe(load_config(CONFIGS / "compact.yaml", ["data.root=."]))
    assert adapted["targets"].keys() == {"conv_pw", "conv_pwl"} and adapted["lora_parameters"] > 0
    assert adapted["total_parameters"] == plain["total_parameters"] == plain["trainable_parameters"]
    assert adapted["trainable_parameters"] < plain["trainable_parameters"]


@pytest.mark.parametrize(("checkpointing", "mib"), [("true", 4051), ("false", 10_694)])
def test_the_memory_is_that_of_a_count_by_hand(checkpointing: str, mib: int) -> None:
    """Of the tensors that autograd and the optimiser keep on a GPU, with the frozen weights in float32."""
    config = winner(f"optimisation.gradient_checkpointing={checkpointing}")
    assert count_step(config, frozen_in_half=False).peak / MIB == pytest.approx(mib, rel=0.15)


def test_a_crop_that_is_shown_twice_counts_twice(data: Path, tmp_path: Path) -> None:
    twice = config_for(data, tmp_path, "loss.consistency=0.5", "optimisation.batch_size=8")
    assert training_memory(twice) == training_memory(config_for(data, tmp_path, "optimisation.batch_size=16"))


def test_memory_follows_the_batch_and_the_processes(data: Path, tmp_path: Path) -> None:
    one, two, four = (training_memory(config_for(data, tmp_path, f"optimisation.batch_size={n}")) for n in (8, 16, 32))
    assert four - two == pytest.approx(2 * (two - one), rel=0.05) and one > 0
    assert training_memory(config_for(data, tmp_path, "optimisation.batch_size=32"), processes=4) == one


@pytest.mark.parametrize(("share", "again"), [(0.99 * USABLE, False), (1.01 * USABLE, True)])
def test_activations_are_kept_where_the_gpus_memory_holds_them(
    share: float,
    again: bool,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    config = config_for(data, tmp_path, "optimisation.gradient_checkpointing=auto")
    total = round(training_memory(config) / share)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, total))
    chosen = choose_checkpointing(config, torch.device("cuda"))
    assert chosen.optimisation.gradient_checkpointing is again
    assert f"of the GPU's {total // MIB}: activations are {'computed again' if again else 'kept'}" in caplog.text
    assert choose_checkpointing(config, torch.device("cpu")).optimisation.gradient_checkpointing is True
    for said in ("true", "false"):
        config = config_for(data, tmp_path, f"optimisation.gradient_checkpointing={said}")
        assert choose_checkpointing(config, torch.device("cuda")) is config

from training.config import load_config
from training.network.cost import describe
from training.train import CONFIGS


def test_the_recipe_of_the_winner_in_figures() -> None:
    """Against the figures published for ViT-H+/16 (arXiv 2508.21041): 655,360 at rank 4, about 1.3 M for the winner."""
    path = CONFIGS / "dinov3_hplus.yaml"
    figures = describe(load_config(path, ["data.root=."]))
    assert figures["total_parameters"] == 840_510_721
    assert figures["lora_parameters"] == 1_310_720
    assert figures["trainable_parameters"] == 1_310_720 + 1281
    assert figures["targets"] == {"q_proj": 32, "v_proj": 32}
    assert figures["tokens"] == 14 * 14 + 5 and figures["input_size"] == 224
    assert 335 < figures["gflops"] < 355
    assert figures["training_memory_gib"] < 16
    assert describe(load_config(path, ["data.root=.", "adapter.rank=4"]))["lora_parameters"] == 655_360
    whole = describe(load_config(path, ["data.root=.", "optimisation.gradient_checkpointing=false"]))
    assert whole["training_memory_gib"] > 2 * figures["training_memory_gib"]

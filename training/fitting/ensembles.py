"""The networks of several fits made one: their weights averaged (a soup), or their logits (members).

A soup (Wortsman et al. 2022, arXiv 2203.05482, section 2) costs no more than one network. It needs fits that ended near
one another, as those do that began with the same pretrained weights. Members cost as many forward passes as there are,
and assume nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from model.network.classifier import MitosisClassifier
from model.network.ensemble import Classifier
from model.network.weights import assemble
from training.config import Config
from training.data.augmentation import augment
from training.data.crops import BalancedSampler, LabelledCrops, TrainingCrops, stack
from training.fitting.fit import first_network, fitted_tensors
from training.fitting.losses import targets_and_weights
from training.fitting.run import Run
from training.network.classifier import changing, copy_changing, network_of, preprocessing_of

Tensors = dict[str, Tensor]


def soup(run: Run, names: Sequence[str], crops: LabelledCrops) -> tuple[MitosisClassifier, Config]:
    """The average of the weights of finished fits.

    The average of K products of rank R is one of rank K R: adapters of the soup are those of the fits side by side, so
    that it is exact. Running statistics of batch norms are computed anew, as an average of weights has others than the
    average of theirs (Izmailov et al. 2018, arXiv 1803.05407, section 3.2).

    Args:
        run: recipe, accelerator and folder.
        names: of the fits.
        crops: what they were fitted to, for the batch norms.

    Returns:
        The network in evaluation mode, adapters apart, and the recipe that builds its like: its adapters' rank.

    Raises:
        UserError: what a fit has left is damaged, or the first weights cannot be had.
    """
    config, count = run.config, len(names)
    network = first_network(config, 0)
    expected = changing(network)
    states = [fitted_tensors(run, name, expected) for name in names]
    if config.adapter.rank > 0:
        alpha = config.adapter.alpha * (math.sqrt(count) if config.adapter.rslora else count)
        config = replace(config, adapter=replace(config.adapter, rank=config.adapter.rank * count, alpha=alpha))
        network = first_network(config, 0)
    copy_changing({name: _average(name, [state[name] for state in states]) for name in expected}, network)
    network.to(run.accelerator.device)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        update_bn(_training_images(run, crops), network)
    return network.eval(), config


def members(run: Run, names: Sequence[str]) -> tuple[Classifier, Tensors]:
    """An ensemble of finished fits.

    Returns:
        The ensemble in evaluation mode, and its tensors as `model.network.ensemble` names them.

    Raises:
        UserError: what a fit has left is damaged, or the first weights cannot be had.
    """
    network = first_network(run.config, 0)
    expected, state = changing(network), network.state_dict()
    tensors = {_plain(name): tensor for name, tensor in state.items() if name not in expected}
    scales = {
        f"{name}.lora_B.default.weight": module.scaling["default"]
        for name, module in network.named_modules()
        if isinstance(module, LoraLayer)
    }
    for number, name in enumerate(names):
        for key, tensor in fitted_tensors(run, name, expected).items():
            if key not in state:  # a buffer that its module computes
                continue
            own = f"members.{number}.{_plain(key)}"
            if ".lora_A." in key:
                tensors[own.replace(".lora_A.default.weight", ".weight.down")] = tensor.flatten(1)
            elif ".lora_B." in key:
                up = tensor.flatten(1) * scales[key]
                tensors[own.replace(".lora_B.default.weight", ".weight.up")] = up
            else:
                tensors[own] = tensor
    ensemble = assemble(network_of(run.config, len(names)), tensors, run.folder)
    return ensemble.to(run.accelerator.device).eval(), tensors


def _plain(name: str) -> str:
    """A tensor's name in the network without adapters."""
    return name.replace("backbone.base_model.model.", "backbone.").replace(".base_layer.", ".")


def _average(name: str, tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    if ".lora_A." in name:
        return torch.cat(list(tensors))
    if ".lora_B." in name:
        return torch.cat(list(tensors), dim=1) / len(tensors)
    return torch.stack(list(tensors)).mean(dim=0)


def _training_images(run: Run, crops: LabelledCrops) -> Iterator[Tensor]:
    """An epoch's images as training alters them, in its batches; every process gets all of them."""
    config, device = run.config, run.accelerator.device
    sampler = BalancedSampler(crops.labels, config.optimisation.balance, config.seed)
    dataset = TrainingCrops(crops.crops, *targets_and_weights(config, crops.samples), config.augmentation, config.seed)
    for batch in DataLoader(dataset, config.optimisation.batch_size, sampler=sampler, collate_fn=stack):
        numbers = {name: values.to(device) for name, values in batch["numbers"].items()}
        yield augment(batch["crop"].to(device), numbers, preprocessing_of(config))

"""Several networks of one architecture whose logits are averaged, and how their tensors share a file.

What is the same in all members is there once, by its name in the architecture. What member k has of its own is

    members.k.NAME          the tensor itself, or
    members.k.NAME.down     (R, I) and
    members.k.NAME.up       (O, R), where it is the shared (O, I) matrix and a product of rank R: NAME + up down

The last are low-rank adapters (`training.network.adapters`), a hundredth of the matrix. In memory, members share what
they share in the file.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.network.classifier import MitosisClassifier

_OWN = re.compile(r"members\.(\d+)\.(.+)")


class MitosisEnsemble(nn.Module):
    """The mean logit of several networks.

    Args:
        members: at least one, of one architecture.
    """

    def __init__(self, members: list[MitosisClassifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """(N,) logits of (N, 3 K, S, S) images, as `MitosisClassifier.forward`."""
        return torch.stack([member(images) for member in self.members]).mean(dim=0)


Classifier = MitosisClassifier | MitosisEnsemble
"""What a weights folder may hold."""


def members_of(network: Classifier) -> list[MitosisClassifier]:
    """The networks of an ensemble; a network alone is the only member of itself."""
    members: Any = network.members if isinstance(network, MitosisEnsemble) else [network]
    return list(members)


def member_tensors(tensors: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """The state dictionary of every member; what members share is the same object in all of them.

    Args:
        tensors: of a file.
        count: of the members.

    Raises:
        ValueError: a tensor is of no member, or a product does not fit its matrix.
    """
    shared = {name: tensor for name, tensor in tensors.items() if not _OWN.fullmatch(name)}
    own: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, tensor in tensors.items():
        if found := _OWN.fullmatch(name):
            if str(int(found[1])) != found[1] or int(found[1]) >= count:
                raise ValueError(f"tensor {name} is of no member: there are {count}")
            own[int(found[1])][found[2]] = tensor
    return [shared | _whole(shared, part) for part in own]


def _whole(shared: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A member's own tensors, products of low rank added to the shared matrices."""
    whole = {}
    for name, tensor in own.items():
        matrix, _, part = name.rpartition(".")
        if part not in ("up", "down") or matrix not in shared:
            whole[name] = tensor
        elif matrix in whole:
            continue
        else:
            whole[matrix] = _with_product(matrix, shared[matrix], own.get(f"{matrix}.up"), own.get(f"{matrix}.down"))
    return whole


def _with_product(name: str, base: Tensor, up: Tensor | None, down: Tensor | None) -> Tensor:
    """base + up down, in the precision of `base`; raises ValueError where the product does not fit."""
    if up is None or down is None or up.ndim != 2 or down.ndim != 2 or base.ndim < 2:
        raise ValueError(f"what is added to tensor {name} is no product of two matrices")
    if (len(up), down.shape[1], up.shape[1]) != (len(base), base[0].numel(), len(down)):
        raise ValueError(f"the product that is added to tensor {name} does not fit it")
    product = up.float() @ down.float()
    return (base.float() + product.view(base.shape)).to(base.dtype)


def share(members: list[MitosisClassifier], shared: set[str]) -> None:
    """Makes parameters of all members one object, in place, so that they stay one when they are moved or converted.

    Args:
        members: built from `member_tensors`.
        shared: names of the parameters that all members have alike.
    """
    first = dict(members[0].named_parameters())
    for member in members[1:]:
        for name in shared & first.keys():
            module, _, leaf = name.rpartition(".")
            setattr(member.get_submodule(module), leaf, first[name])

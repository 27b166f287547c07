"""The views of a crop that test-time augmentation averages: the symmetries of the square.

A mitotic figure has no up and no handedness, so its eight reflections and quarter turns (the dihedral group D4) are
equally valid pictures of the same cell; averaging their logits removes the part of the prediction that depends on how
the slide happened to lie.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from model.constants import VIEW_SETS


def _symmetry(quarter_turns: int, mirrored: bool) -> Callable[[Tensor], Tensor]:
    def view(images: Tensor) -> Tensor:
        turned = torch.rot90(images, quarter_turns, dims=(-2, -1))
        return turned.flip(-1) if mirrored else turned

    return view


_TRANSFORMS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "none": (_symmetry(0, False),),
    "rot4": tuple(_symmetry(turns, False) for turns in range(4)),
    "d4": tuple(_symmetry(turns, mirrored) for mirrored in (False, True) for turns in range(4)),
}


def count(name: str) -> int:
    """Number of views of one crop: 1 for `none`, 4 for `rot4`, 8 for `d4`.

    Raises:
        ValueError: `name` is none of these.
    """
    return len(_transforms(name))


def expand(images: Tensor, name: str) -> Tensor:
    """All views of square images.

    Args:
        images: (N, C, S, S).
        name: `none`, `rot4` (quarter turns) or `d4` (quarter turns and their mirror images).

    Returns:
        (N * V, C, S, S); the views of one image lie next to each other, the unchanged one first.

    Raises:
        ValueError: `name` is unknown.
    """
    return torch.stack([transform(images) for transform in _transforms(name)], dim=1).flatten(0, 1)


def one(images: Tensor, name: str, number: int) -> Tensor:
    """The view of each image that `expand` would give at a place from 0, the unchanged one: (N, C, S, S)."""
    return _transforms(name)[number](images)


def apart(logits: Tensor, name: str) -> Tensor:
    """The logits of `expand`, a row an image: (N * V,) to (N, V)."""
    return logits.view(-1, count(name))


def _transforms(name: str) -> tuple[Callable[[Tensor], Tensor], ...]:
    if name not in _TRANSFORMS:
        raise ValueError(f"Unknown views '{name}': choose one of {', '.join(VIEW_SETS)}.")
    return _TRANSFORMS[name]

"""The same numbers, up to rounding, with fewer passes over memory, for DINOv3's transformer blocks on a GPU.

A GPU multiplies matrices faster than it reads them: between the products, every operation on all tokens counts by the
bytes that it moves. timm rotates queries and keys in float32, in seven operations each, and scales and adds each branch
in two; here that is three operations for both, in the network's precision, and one. The table of the rotation, for
which timm copies coordinates from the CPU with every batch, is computed once.
"""

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.device import memory_is_full
from model.errors import first_line
from model.speed import PLAIN
from model.speed.imports import timm

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""By how much a block's output may differ in float32, as a fraction of its norm; more, and no block is replaced."""


@torch.no_grad()
def streamline(backbone: Any, side: int) -> None:
    """Replaces, in place, the blocks of a DINOv3 backbone; does nothing with any other.

    Args:
        backbone: for inference only, on its device and in its precision; afterwards for images of this size alone.
        side: of the images, in pixels.

    Raises:
        torch.OutOfMemoryError: the device's memory does not hold a block more, in float32.
    """
    if PLAIN:
        return
    prefix, reason = 0, "a block would say something else"
    try:
        if not _is_dinov3(backbone):
            return
        embedding = backbone.rope.get_embed(shape=backbone.patch_embed.dynamic_feat_size((side, side)))
        prefix = backbone.num_prefix_tokens
        same = _same(copy.deepcopy(backbone.blocks[0]).float(), embedding, prefix)
    except Exception as error:  # whatever another version of timm has instead
        if memory_is_full(error):
            raise
        logger.debug("Replacing a block failed.", exc_info=error)
        same, reason = False, first_line(error)
    if not same:
        logger.warning("DINOv3's blocks cannot be replaced by leaner ones (%s); they run as they are, slower.", reason)
        return
    replace_blocks(backbone, embedding, prefix)


def replace_blocks(backbone: Any, embedding: Tensor, prefix: int) -> None:
    """`streamline` without its checks.

    Args:
        backbone: a DINOv3.
        embedding: (P, 2 D), of its rotary embedding for P patches.
        prefix: tokens before the patches.
    """
    backbone.rope = _Rotation(embedding, prefix, backbone.blocks[0].norm1.weight.dtype)
    for number, block in enumerate(backbone.blocks):
        backbone.blocks[number] = _Block(block)


def _same(block: Any, embedding: Tensor, prefix: int) -> bool:
    """Whether a float32 block and its replacement say the same of random tokens, before and after the branches' scale,
    which hides much in a fresh network."""
    lean, rotation = _Block(block), _Rotation(embedding, prefix, torch.float32).get_embed()
    shape = 1, prefix + len(embedding), block.norm1.weight.numel()
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(embedding.device)
    normed = block.norm1(tokens)
    return all(
        torch.dist(found, expected) <= TOLERANCE * torch.linalg.vector_norm(expected)
        for found, expected in (
            (lean.attend(normed, rotation), block.attn(normed, rope=embedding)),
            (lean(tokens, rotation), block(tokens, rope=embedding)),
        )
    )


def _is_dinov3(backbone: Any) -> bool:
    """Whether it is made of nothing but what `_Block` and `_Rotation` know."""
    eva = timm.models.eva
    return (
        type(backbone) is eva.Eva
        and type(backbone.rope) is timm.layers.RotaryEmbeddingDinoV3
        and backbone.dynamic_img_size
        and not getattr(backbone, "rope_mixed", False)
        and all(
            type(block) is eva.EvaBlock
            and type(block.attn) is eva.EvaAttention
            and block.attn.rotate_half
            and block.attn.gate is None
            and isinstance(block.attn.q_norm, nn.Identity)
            and isinstance(block.attn.k_norm, nn.Identity)
            for block in backbone.blocks
        )
    )


class _Rotation(nn.Module):
    """The rotary position embedding of one size of images (Su et al. 2021, arXiv 2104.09864, eq. 34).

    Args:
        embedding: (P, 2 D) sines and cosines of P patches, as timm computes them.
        prefix: tokens before the patches, which are not rotated.
        dtype: of the network.
    """

    table: Tensor

    def __init__(self, embedding: Tensor, prefix: int, dtype: torch.dtype) -> None:
        super().__init__()
        sines, cosines = F.pad(embedding, (0, 0, prefix, 0)).chunk(2, dim=-1)
        cosines[:prefix] = 1
        half = sines.shape[-1] // 2
        sines = torch.cat([-sines[:, :half], sines[:, half:]], dim=-1)
        self.register_buffer("table", torch.stack([cosines, sines])[:, :, None, None].to(dtype), persistent=False)

    def get_embed(self, shape: tuple[int, int] | None = None) -> Tensor:
        """(2, prefix + P, 1, 1, D): cosines, and sines with the signs of the rotation."""
        return self.table


def _rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Rotates (N, T, 2, H, D) queries and keys; the partner of a channel is D / 2 away."""
    cosines, sines = rotation
    rotated = heads * cosines
    for part, partner, sine in zip(rotated.chunk(2, -1), reversed(heads.chunk(2, -1)), sines.chunk(2, -1), strict=True):
        part.addcmul_(partner, sine)
    return rotated


class _Block(nn.Module):
    """A block of DINOv3 in evaluation mode, with the weights of timm's.

    Args:
        block: is left as it is.
    """

    norm1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    inner_norm: nn.Module
    projection: nn.Module
    gamma_1: Tensor | None
    gamma_2: Tensor | None

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention = block.attn
        self.heads = attention.num_heads
        self.weight, self.bias = _joined(attention)
        self.inner_norm, self.projection = attention.norm, attention.proj
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.mlp = _SwiGLU(block.mlp) if _SwiGLU.takes(block.mlp) else block.mlp
        self.gamma_1, self.gamma_2 = block.gamma_1, block.gamma_2

    def forward(self, tokens: Tensor, rope: Tensor, **_: object) -> Tensor:
        """(N, T, C) tokens to the same shape; `rope` is of `_Rotation.get_embed`."""
        tokens = _add(tokens, self.attend(self.norm1(tokens), rope), self.gamma_1)
        return _add(tokens, self.mlp(self.norm2(tokens)), self.gamma_2)

    def attend(self, tokens: Tensor, rope: Tensor) -> Tensor:
        """The branch of attention of normalised tokens, before its scale: (N, T, C) to the same shape."""
        heads = F.linear(tokens, self.weight, self.bias).unflatten(-1, (3, self.heads, -1))
        queries, keys = _rotate(heads[:, :, :2], rope).transpose(1, 3).unbind(2)
        attended = F.scaled_dot_product_attention(queries, keys, heads[:, :, 2].transpose(1, 2))
        return self.projection(self.inner_norm(attended.transpose(1, 2).flatten(2)))


class _SwiGLU(nn.Module):
    """timm's SwiGLU in evaluation mode, which needs half of the memory: four tensors as wide as its middle become two.

    Args:
        mlp: is left as it is.
    """

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.fc1_g, self.fc1_x, self.fc2 = mlp.fc1_g, mlp.fc1_x, mlp.fc2

    @staticmethod
    def takes(mlp: Any) -> bool:
        """Whether an MLP is one of this kind."""
        return type(mlp) is timm.layers.SwiGLU and isinstance(mlp.act, nn.SiLU) and isinstance(mlp.norm, nn.Identity)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, C) tokens to the same shape."""
        gate = F.silu(self.fc1_g(tokens), inplace=True)
        return self.fc2(gate.mul_(self.fc1_x(tokens)))


def _joined(attention: Any) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weight and bias of one projection to queries, keys and values."""
    if attention.qkv is not None:
        weight, biases = attention.qkv.weight, (attention.q_bias, attention.k_bias, attention.v_bias)
    else:
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        weight = torch.cat([projection.weight for projection in projections])
        biases = tuple(projection.bias for projection in projections)
    if all(bias is None for bias in biases):
        return _parameter(weight), None
    none = weight.new_zeros(len(weight) // 3)
    return _parameter(weight), _parameter(torch.cat([none if bias is None else bias for bias in biases]))


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach(), requires_grad=False)


def _add(tokens: Tensor, branch: Tensor, gamma: Tensor | None) -> Tensor:
    return tokens + branch if gamma is None else torch.addcmul(tokens, branch, gamma)

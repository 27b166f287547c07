"""Recognises a backbone's weights by their tensors' names and renames them to timm's.

Of a DINOv3 ViT there are three: timm's own, Hugging Face's (`facebook/dinov3-*`, transformers' `DINOv3ViTModel`) and
Meta's original. All are brought to one layout, timm's with query, key and value projections apart, and from there to
the network's. What differs silently:

* Query and value projections may have a bias, the key never has. Meta stores a bias for all three with a mask over the
  key's; the distilled models' are zero, and timm has variants with (`_qkvb`) and without them.
* timm computes the rotary embedding's periods itself; the files' copies are dropped.
* The mask token, and the 7B model's norm for local crops, are for pretraining only.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from model.errors import UserError
from model.network.weights import misfit


class PretrainedError(UserError):
    """Pretrained weights cannot be had or do not fit."""


_PRETRAINING_ONLY = re.compile(
    r"(mask_token|\.bias_mask|\.periods|inv_freq)$|^local_cls_norm\.|^rope_embed|^rope\.|^rope_embeddings\."
)
_HUGGING_FACE = (
    (r"^model\.(?=layer\.)", ""),
    (r"^layer\.", "blocks."),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.", ""),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.layer_scale(\d)\.lambda1$", r".gamma_\1"),
)
_META = (
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls(\d)\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)


def recognise(tensors: Mapping[str, Tensor]) -> str:
    """`hugging face`, `meta` or `timm` (which is also what anything else is taken for)."""
    if any(name.endswith("embeddings.patch_embeddings.weight") for name in tensors):
        return "hugging face"
    if "storage_tokens" in tensors:
        return "meta"
    return "timm"


def to_timm(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of a file of weights under the names of a network.

    Args:
        tensors: as read, of any of the three formats.
        expected: the network's own state dictionary.
        source: where the tensors are from, for the messages.

    Returns:
        Tensors with exactly the names and shapes of `expected`.

    Raises:
        PretrainedError: the first tensor that is missing, left over or of another shape, with both shapes; or biases
            that are not zero and that the network has no place for.
    """
    renamed = _apart({_rename(name, recognise(tensors)): t for name, t in tensors.items() if _is_used(name)})
    wanted = set(expected)
    unfused = {name for name in wanted if name.endswith("attn.q_proj.weight")}
    fitted = _fit_biases(renamed, wanted, bool(unfused), source)
    if not unfused:
        fitted = _fused(fitted)
    fitted = {
        name: tensor
        for name, tensor in fitted.items()
        if name in wanted or not name.startswith(("head.", "fc.", "classifier."))
    }
    if difference := misfit(fitted, expected):
        raise PretrainedError(
            f"{source} does not fit the backbone: {difference}; name the backbone that the file is of."
        )
    return {name: fitted[name] for name in expected}


def _is_used(name: str) -> bool:
    return not _PRETRAINING_ONLY.search(name)


def _rename(name: str, kind: str) -> str:
    rules = {"hugging face": _HUGGING_FACE, "meta": _META, "timm": ()}[kind]
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    if kind == "hugging face":
        # Gated: down(act(gate(x)) * up(x)); plain: down(act(up(x))). Which it is shows in the names that follow.
        name = name.replace(".mlp.gate_proj.", ".mlp.fc1_g.").replace(".mlp.down_proj.", ".mlp.fc2.")
    return name


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Splits fused projections, and tells a gated MLP's `up` from a plain one's."""
    gated = {name.partition(".mlp.")[0] for name in tensors if ".mlp.fc1_g." in name}
    apart = {}
    for name, tensor in tensors.items():
        block, up, rest = name.partition(".mlp.up_proj.")
        if up:
            apart[f"{block}.mlp.{'fc1_x' if block in gated else 'fc1'}.{rest}"] = tensor
        elif match := re.fullmatch(r"(.*\.attn)\.qkv\.(weight|bias)", name):
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                if part != "k" or match[2] == "weight":  # the key's bias is masked out wherever it is stored
                    apart[f"{match[1]}.{part}_proj.{match[2]}"] = chunk
        elif match := re.fullmatch(r"(.*\.attn)\.([qv])_bias", name):
            apart[f"{match[1]}.{match[2]}_proj.bias"] = tensor
        else:
            apart[name] = tensor
    return apart


def _fit_biases(tensors: dict[str, Tensor], wanted: set[str], unfused: bool, source: str) -> dict[str, Tensor]:
    """Adds zero biases where only the network has them; leaves out zero biases where only the file has them."""
    fitted = dict(tensors)
    for name in tensors:
        match = re.fullmatch(r"(.*\.attn)\.([qkv])_proj\.weight", name)
        if not match:
            continue
        bias = f"{match[1]}.{match[2]}_proj.bias"
        has_place = (bias if unfused else f"{match[1]}.{match[2]}_bias") in wanted
        if bias in fitted and not has_place:
            if fitted[bias].any():
                raise PretrainedError(
                    f"{source} has a bias {bias} that is not zero, but the backbone has none; use the timm variant "
                    "whose name ends in _qkvb."
                )
            del fitted[bias]
        elif has_place and bias not in fitted:
            fitted[bias] = torch.zeros(len(tensors[name]), dtype=tensors[name].dtype)
    return fitted


def _fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joins the three projections of every block, as timm has them by default."""
    fused = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.*\.attn)\.([qkv])_proj\.(weight|bias)", name):
            if match[3] == "bias":
                fused[f"{match[1]}.{match[2]}_bias"] = tensor
            elif match[2] == "q":
                parts = [tensors[f"{match[1]}.{part}_proj.weight"] for part in "qkv"]
                fused[f"{match[1]}.qkv.weight"] = torch.cat(parts)
        else:
            fused[name] = tensor
    return fused

"""The focal loss, what it is computed against, and the weights of its samples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from training.config import Config, LossConfig
from training.data.sample import Sample

SMALLEST_DISTANCE = 1e-6
"""Of a probability from its target, under an exponent below 1: at 0 the slope of the power is infinite."""


def focal_loss(logits: Tensor, labels: Tensor, gamma: float, smoothing: float = 0.0) -> Tensor:
    """Binary focal loss of each sample.

    FL = -(1 - p)^gamma ln p, where p is the probability given to the sample's class (Lin et al. 2017,
    arXiv 1708.02002, section 3.2, without its alpha: sampling balances the classes). With soft targets t it is
    |t - P|^gamma times the cross-entropy (the quality focal loss of Li et al. 2020, arXiv 2006.04388, section 3.1),
    which is the same for t of 0 and 1.

    Args:
        logits: (N,) of the positive class.
        labels: (N,) in [0, 1].
        gamma: focusing exponent, at least 0; 0 gives cross-entropy.
        smoothing: share of each target moved to 1/2.

    Returns:
        (N,), not negative.
    """
    targets = labels * (1 - smoothing) + smoothing / 2
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    distance = (targets - logits.sigmoid()).abs()
    if gamma < 1:
        distance = distance.clamp_min(SMALLEST_DISTANCE)
    return distance**gamma * cross_entropy


def classification_loss(logits: Tensor, targets: Tensor, config: LossConfig) -> Tensor:
    """The loss of each crop: focal loss of the class, and cross-entropy of the phase of mitosis as a second task.

    Args:
        logits: (N, 1 + P), of the positive class and of P phases; P may be 0.
        targets: (N, 1 + P) in [0, 1]; those of the phases sum to one, to less where some are not known.
        config: what counts how much.

    Returns:
        (N,), not negative.
    """
    class_loss = focal_loss(logits[:, 0], targets[:, 0], config.gamma, config.label_smoothing)
    phase_loss = -(targets[:, 1:] * logits[:, 1:].log_softmax(dim=1)).sum(dim=1)
    return class_loss + config.phases * phase_loss


def consistency_loss(logits: Tensor, turned_logits: Tensor) -> Tensor:
    """How far a network's answer depends on how the slide happened to lie.

    The squared difference of the logits of two views is twice the variance that averaging them removes, so a network
    that learns to make it small needs fewer views.

    Args:
        logits: (N, 1 + P), the positive class first.
        turned_logits: the same of another view of each crop, in the same order.

    Returns:
        (N,), not negative.
    """
    return (logits[:, 0] - turned_logits[:, 0]) ** 2


def targets_and_weights(
    config: Config, samples: Sequence[Sample], phases: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """What the network is to say of each sample, and the sample's weight in the loss.

    Returns:
        (N, 1 + P): how atypical it is, and the share of the experts for each of P phases, 0 to 1; (N,).
    """
    labels = [sample.label for sample in samples]
    atypical = [sample.soft_label for sample in samples] if config.data.soft_labels else labels
    shares = [[sample.phases.count(name) / max(1, len(sample.phases)) for name in phases] for sample in samples]
    targets = np.column_stack([atypical, np.reshape(shares, (len(samples), len(phases)))])
    if not config.loss.domain_weighted:
        return targets, np.ones(len(samples))
    domains = [sample.domain for sample in samples]
    return targets, domain_weights(labels, domains, config.optimisation.balance, config.loss.domain_smoothing)


def domain_weights(labels: ArrayLike, domains: Sequence[str], balance: float, smoothing: float) -> np.ndarray:
    """Weights of samples against the frequency of their domain and class: the domain-weighted focal loss.

    The loss is mean_i w_i FL_i. With f(d, c) the share of domain d and class c among the crops drawn, K the number of
    pairs that occur, and s the smoothing,

        w(d, c) = a / (f(d, c) + s / K),

    a being such that the mean of w over the crops drawn is one. Weighting each sample against the frequency of its
    domain and class is the winner's of MIDOG 2025 track 2 (arXiv 2508.21041); the additive smoothing, here, keeps a
    pair of few crops from having a weight that its noise does not deserve.

    Args:
        labels: (N,) 0 or 1.
        domains: (N,) names.
        balance: share of the class-balancing in the sampling (see `training.data.crops.BalancedSampler`): the sampler
            changes the frequencies, so that a class it draws more often is not weighted a second time.
        smoothing: pseudo-frequency added to each pair, in units of the mean frequency 1 / K; 0 adds none.

    Returns:
        (N,) float64, positive.
    """
    labels = np.asarray(labels)
    natural = labels.mean()
    atypical = natural * (1 - balance) + 0.5 * balance
    times_drawn = np.where(labels == 1, atypical / max(natural, 1e-12), (1 - atypical) / max(1 - natural, 1e-12))
    drawn = times_drawn / len(labels)
    pairs = [f"{label} {domain}" for label, domain in zip(labels, domains, strict=True)]
    _, pair = np.unique(pairs, return_inverse=True)
    frequency = np.bincount(pair, drawn)
    weights = 1 / (frequency + smoothing / len(frequency))
    return (weights / (frequency @ weights))[pair]

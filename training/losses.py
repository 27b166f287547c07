"""The focal loss."""

from torch import Tensor
from torch.nn import functional as F


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
    return (targets - logits.sigmoid()).abs() ** gamma * cross_entropy

"""What the model card says of its data; `test/training/test_train.py` has the card as a whole."""

from pathlib import Path

from training.data.sample import Sample
from training.evaluation.model_card import votes_sentence


def samples(disputed: int, agreed: int) -> list[Sample]:
    shares = [2 / 3] * disputed + [1.0] * agreed
    return [Sample(Path(f"{i}.png"), i % 2, "d", "s", agreement=share) for i, share in enumerate(shares)]


def test_crops_without_votes_do_not_make_experts_agree() -> None:
    assert "who disagree on 40% of the crops at least" in votes_sentence(samples(40, 60))
    sentence = votes_sentence(samples(49, 951))  # of 900 of which the votes are not known
    assert "on 4% of the crops at least" in sentence and "not known count as agreed on" in " ".join(sentence.split())
    assert "is not known" in votes_sentence(samples(0, 3))

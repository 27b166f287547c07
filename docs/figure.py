"""Draws the README's picture: two crops of the example case, the views that the network gets of them, and its answers.

    make figure        # or: .venv/bin/python -m docs.figure

The crops are synthetic (`test/tools/draw_example_case.py`); the numbers are those of the default weights for them.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from model.constants import CLASSES, MICROMETRES_PER_PIXEL, THRESHOLD
from model.images.read import read_crops
from model.network import views, weights
from model.predictor import Predictor

REPOSITORY = Path(__file__).parent.parent
STACK = REPOSITORY / "test/input/images/stacked-histopathology-roi-cropouts/synthetic-not-tissue.tiff"
WEIGHTS = REPOSITORY / "model/weights/default"
PICTURE = REPOSITORY / "docs/figure.png"

SHOWN = (4, 5)
"""Which crops of the stack, counted from 1: one of each class."""

VIEW_SET = "d4"
FIELD_COLOURS = ("#2b6cb0", "#c05621")
"""Of the small and the large field of view."""

CLASS_COLOURS = ("#4a5568", "#9b2c6f")
"""By label."""


@dataclass(frozen=True)
class Answer:
    """What the network sees of a crop and says about it.

    Attributes:
        crop: (H, W, 3) uint8 RGB.
        sides: K sides of the fields of view, in pixels of the crop.
        images: (K, V, S, S, 3) float in [0, 1], its V views of each field of view, as the network gets them.
        logits: (K, V), before calibration.
        confidence: P(atypical), as the container writes it.
    """

    crop: np.ndarray
    sides: list[int]
    images: np.ndarray
    logits: np.ndarray
    confidence: float


@torch.inference_mode()
def answers(crops: list[np.ndarray]) -> list[Answer]:
    """The default weights' answers on the CPU, and the logit of each single view of each crop, (H, W, 3) uint8 RGB."""
    confidences = Predictor(WEIGHTS, device="cpu", view_set=VIEW_SET)(crops)
    network, config = weights.load(WEIGHTS)
    preprocessing = config.preprocessing
    found = []
    for crop, confidence in zip(crops, confidences, strict=True):
        inputs = views.expand(preprocessing.network_input(preprocessing.cut_out([crop])), VIEW_SET)
        logits = network.head(network.features(inputs)).squeeze(2).T  # views, fields of view -> fields of view, views
        apart = inputs.unflatten(1, (-1, 3)).transpose(0, 1).permute(0, 1, 3, 4, 2)
        images = apart * torch.tensor(preprocessing.std) + torch.tensor(preprocessing.mean)
        found.append(Answer(crop, preprocessing.sides, images.numpy(), logits.numpy(), float(confidence)))
    return found


def source() -> str:
    """What the picture was drawn from, for the picture's metadata: the weights' checksum and calibration."""
    config = weights.read_config(WEIGHTS)
    return f"{config.name} {config.version} {config.sha256} {config.calibration}"


def show_crop(axes: Axes, answer: Answer, number: int) -> None:
    """The crop as it comes, with its fields of view and a scale bar."""
    height, width = answer.crop.shape[:2]
    axes.imshow(answer.crop)
    for side, colour in zip(answer.sides, FIELD_COLOURS, strict=True):
        corner = ((width - side) / 2 - 0.5, (height - side) / 2 - 0.5)
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=1.6))
    bar = 10 / MICROMETRES_PER_PIXEL
    axes.plot([5, 5 + bar], [height - 6] * 2, color="black", linewidth=2.5, solid_capstyle="butt")
    axes.text(8 + bar, height - 6, "10 µm", ha="left", va="center", fontsize=8)
    axes.set_title(f"crop {number}", fontsize=10)
    axes.axis("off")


def show_answer(axes: Axes, answer: Answer) -> None:
    """P(atypical) on a scale from 0 to 1, and the class."""
    label = int(answer.confidence >= THRESHOLD)
    axes.barh(0, answer.confidence, color=CLASS_COLOURS[label], height=0.5)
    axes.axvline(THRESHOLD, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(-0.5, 0.5), yticks=[], xticks=[0, 0.5, 1])
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("P(atypical)", fontsize=9)
    axes.set_title(f"{CLASSES[label]}, {answer.confidence:.3f}", fontsize=12, color=CLASS_COLOURS[label], weight="bold")


def draw(shown: list[Answer], numbers: tuple[int, ...]) -> Figure:
    """The picture: a row of panels for each crop."""
    figure = Figure(figsize=(11, 5.2), dpi=100)
    figure.text(
        0.5,
        0.012,
        "Synthetic: drawn, not tissue. The numbers are what the default weights say of these two drawings.",
        ha="center",
        fontsize=10,
        weight="bold",
    )
    rows = figure.add_gridspec(
        len(shown),
        3,
        width_ratios=(2.1, 8.2, 1.9),
        left=0.01,
        right=0.985,
        top=0.87,
        bottom=0.09,
        hspace=0.3,
        wspace=0.05,
    )
    headings = {
        0.09: "a crop goes in",
        0.505: "the network looks at eight views of two fields of view, and gives each a logit",
        0.91: "their mean, calibrated,\ncomes out",
    }
    for x, text in headings.items():
        figure.text(x, 0.975, text, ha="center", va="top", fontsize=11)
    for row, (answer, number) in enumerate(zip(shown, numbers, strict=True)):
        show_crop(figure.add_subplot(rows[row, 0]), answer, number)
        fields, count = answer.logits.shape
        grid = rows[row, 1].subgridspec(fields, count, hspace=0.32, wspace=0.06)
        for field in range(fields):
            for view in range(count):
                axes = figure.add_subplot(grid[field, view])
                axes.imshow(np.clip(answer.images[field, view], 0, 1))
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    spine.set(edgecolor=FIELD_COLOURS[field], linewidth=1.6)
                axes.set_title(f"{answer.logits[field, view]:+.1f}", fontsize=9, pad=3)
                if view == 0:
                    side = answer.sides[field]
                    axes.set_ylabel(f"{side * MICROMETRES_PER_PIXEL:g} µm", fontsize=9, color=FIELD_COLOURS[field])
        show_answer(figure.add_subplot(rows[row, 2].subgridspec(3, 1, height_ratios=(1, 1, 1))[1]), answer)
    return figure


def main() -> None:
    """Writes the picture."""
    crops = read_crops(STACK)
    figure = draw(answers([crops[number - 1] for number in SHOWN]), SHOWN)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    information = PngInfo()
    information.add_text("Source", source())
    # A palette: a third of the size.
    small = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(PICTURE, optimize=True, pnginfo=information)
    print(f"Wrote {PICTURE}")


if __name__ == "__main__":
    main()

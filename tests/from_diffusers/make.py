"""Writes the folders beside it: small UNet2DModels with weights, and what diffusers makes of them.

    pip install torch==2.13.0 diffusers==0.42.1
    python tests/from_diffusers/make.py              # all of them, or the ones that are named

Each folder holds config.json and the weights as diffusers saves them, and golden.npz: x
(B, H, W, C), timestep (B,), label (B,) where there are classes, and y, what UNet2DModel makes of
them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent
SMALL = dict(
    sample_size=16,
    in_channels=2,
    out_channels=2,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=None,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
NETWORKS = {
    # as google/ddpm-cifar10-32 is configured, but smaller
    "ddpm": dict(
        downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, dropout=0.1
    ),
    "defaults": dict(attention_head_dim=8, layers_per_block=2),
    "classes": dict(num_class_embeds=5, mid_block_scale_factor=1.41421356, add_attention=False),
    "scale_shift": dict(
        resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=4,
        time_embedding_dim=24,
    ),
    "fourier": dict(
        time_embedding_type="fourier", resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4
    ),
    # rectangles, widths, halves that differ in attention and levels that differ in resampling;
    # heads of 5 channels, of which 12 channels have room for 2
    "mixed": dict(
        sample_size=(16, 24),
        block_out_channels=(8, 12, 20),
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D"),
        upsample_type="conv",
        attention_head_dim=5,
        attn_norm_num_groups=2,
        act_fn="mish",
        center_input_sample=True,
    ),
    "no_middle": dict(
        mid_block_type=None,
        block_out_channels=(12, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        act_fn="gelu",
    ),
}


def make(name: str, changes: dict) -> None:
    torch.manual_seed(0)
    model = UNet2DModel(**SMALL | changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too: none may hide
            parameter.add_(0.1 * torch.randn_like(parameter))
    generator = np.random.default_rng(0)
    size = model.config.sample_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    x = generator.standard_normal((3, height, width, 2), np.float32)
    timestep = np.array([0.5, 20.0, 999.0], np.float32)
    label = np.array([0, 2, 4]) if model.config.num_class_embeds else None
    with torch.no_grad():
        y = model(
            torch.from_numpy(x.transpose(0, 3, 1, 2).copy()),
            torch.from_numpy(timestep),
            class_labels=None if label is None else torch.from_numpy(label),
        ).sample
    arrays = {"x": x, "timestep": timestep, "y": y.numpy().transpose(0, 2, 3, 1)}
    model.save_pretrained(FOLDER / name)
    np.savez(FOLDER / name / "golden.npz", **arrays, **({} if label is None else {"label": label}))


def make_old(name: str, new: str) -> None:
    """The same network under the attention's names of 2022, in two shards, as a pipeline's."""
    weights = load_file(FOLDER / new / "diffusion_pytorch_model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in weights.items():
        for now, then in old.items():
            key = key.replace(f".{now}.", f".{then}.")
        renamed[key] = value
    unet = FOLDER / name / "unet"
    unet.mkdir(parents=True, exist_ok=True)
    keys = sorted(renamed)
    shards = {
        f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": keys[i::2] for i in range(2)
    }
    for shard, part in shards.items():
        save_file({key: renamed[key] for key in part}, unet / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {k: s for s, part in shards.items() for k in part}}
    path = unet / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    config = json.loads((FOLDER / new / "config.json").read_text())
    (unet / "config.json").write_text(json.dumps(config, indent=2))
    scheduler = FOLDER / name / "scheduler"
    scheduler.mkdir(exist_ok=True)
    values = {
        "_class_name": "DDPMScheduler",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "variance_type": "fixed_large",
        "clip_sample": True,
    }
    (scheduler / "scheduler_config.json").write_text(json.dumps(values, indent=2))
    pipeline = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (FOLDER / name / "model_index.json").write_text(json.dumps(pipeline, indent=2))


if __name__ == "__main__":
    for name in sys.argv[1:] or NETWORKS:
        make(name, NETWORKS[name])
    if not sys.argv[1:]:
        make_old("pipeline", "ddpm")

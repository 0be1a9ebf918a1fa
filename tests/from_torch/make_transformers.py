"""Writes transformers.npz beside it: features of transformers' DINOv2 and CLIP with drawn weights.

pip install torch==2.13.0 transformers==5.24.0 safetensors pillow
python tests/from_torch/make_transformers.py

The weights are saved under the published names and loaded by `from_pretrained`, which therefore
checks those names too. Images are resized by Pillow here.
"""

import tempfile
from pathlib import Path

import numpy as np
import seeded
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model


def load(model, config, weights):
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_file(weights, Path(folder) / "model.safetensors", {"format": "pt"})
        loaded, report = model.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return loaded.eval()


def scaled(pixels, size, mean, std):
    resized = [Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC) for p in pixels]
    x = torch.tensor(np.stack([np.asarray(image) for image in resized])) / 255
    return ((x - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def dinov2(pixels, width, num_blocks, is_giant=False, offset=0.0, change=dict, keys=False):
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=num_blocks,
        num_attention_heads=width // 64,
        image_size=518,
        patch_size=14,
        use_swiglu_ffn=is_giant,
    )
    weights = change(seeded.drawn(seeded.dinov2(width, num_blocks, is_giant=is_giant)))
    model = load(Dinov2Model, config, weights)
    of_keys = []
    last_key = model.encoder.layer[-1].attention.k_proj
    last_key.register_forward_hook(lambda _, __, output: of_keys.append(output))
    if offset:
        model.embeddings.interpolate_pos_encoding = lambda *_: hub_positions(
            model.embeddings.position_embeddings, offset
        )
    x = scaled(pixels, 224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    features = model(x).pooler_output.numpy()
    return of_keys[0][:, ::16].numpy() if keys else features


def hub_positions(positions, offset):
    """As facebookresearch/dinov2 interpolates them, in dinov2/models/vision_transformer.py."""
    grid = positions[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    scale = (16 + offset) / 37
    grid = torch.nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    assert grid.shape[2:] == (16, 16)
    return torch.cat([positions[:, :1], grid.flatten(2).permute(0, 2, 1)], 1)


def clip_image(pixels, width, num_blocks, *, patch, image_size, projection, change=dict):
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=num_blocks,
        num_attention_heads=width // 64,
        image_size=image_size,
        patch_size=patch,
        projection_dim=projection,
        hidden_act="quick_gelu",
    )
    sizes = {"patch": patch, "image_size": image_size, "projection": projection}
    weights = change(seeded.drawn(seeded.clip_image(width, num_blocks, **sizes)))
    model = load(CLIPVisionModelWithProjection, config, weights)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    embedding = model(scaled(pixels, image_size, mean, std)).image_embeds.numpy()
    return embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)


@torch.inference_mode()
def main() -> None:
    small, tall = seeded.images(2, 32, 32), seeded.images(2, 50, 41, seed=1)
    large = seeded.images(1, 64, 64, seed=2)
    middle = tall[:, 4:45]  # CMMD's crop
    tiny = {"patch": 8, "image_size": 56, "projection": 48}
    large_sizes = {"patch": 14, "image_size": 336, "projection": 768}
    np.savez(
        seeded.FOLDER / "transformers.npz",
        small=small,
        tall=tall,
        large=large,
        dinov2_small=dinov2(small, 128, 2),
        dinov2_tall=dinov2(tall, 128, 2),
        dinov2_hub=dinov2(tall, 128, 2, offset=0.1),
        dinov2_faint=dinov2(small, 128, 2, change=seeded.faint),
        dinov2_keys=dinov2(tall, 128, 2, keys=True),
        dinov2_giant=dinov2(small, 128, 2, is_giant=True),
        dinov2_vits=dinov2(small[:1], 384, 12),
        dinov2_vitl=dinov2(large, 1024, 24),
        clip_small=clip_image(small, 128, 2, **tiny),
        clip_tall=clip_image(middle, 128, 2, **tiny),
        clip_faint=clip_image(small, 128, 2, **tiny, change=seeded.faint),
        clip_vitl=clip_image(large, 1024, 24, **large_sizes),
    )


if __name__ == "__main__":
    main()

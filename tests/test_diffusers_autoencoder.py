"""AutoencoderKL in and out of diffusers, which itself wrote autoencoder and autoencoder_plain."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
from conftest import compiled
from runs import mistake

import sample
import unet_flax
from unet_flax.diffusers.autoencoder import DEFAULTS, FREE, RULES, fitting_rules, from_diffusers

FOLDERS = Path(__file__).parent / "from_diffusers"
NAMES = ["autoencoder", "autoencoder_plain"]
STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def loaded():
    """The autoencoders of the two folders, by name."""
    return {name: unet_flax.load_diffusers(FOLDERS / name) for name in NAMES}


@pytest.fixture(scope="module")
def expected(loaded):
    """The parameters of the first, which `copy` is a copy of."""
    return unet_flax.functional(loaded["autoencoder"])[1]


def params_of(folder):
    return unet_flax.functional(unet_flax.load_diffusers(folder))[1]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(FOLDERS / "autoencoder", tmp_path / "vae")
    return tmp_path / "vae"


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewrite(folder, rename=lambda name: name, cast=lambda name, array: array, to=WEIGHTS):
    weights = safetensors.flax.load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weights = {rename(name): cast(name, array) for name, array in weights.items()}
    safetensors.flax.save_file(weights, folder / to)


@pytest.mark.parametrize("name", NAMES)
def test_an_autoencoder_of_diffusers_computes_the_same_here(name, loaded):
    autoencoder = loaded[name]
    with np.load(FOLDERS / name / "golden.npz") as golden:
        image, latent = jnp.asarray(golden["image"]), jnp.asarray(golden["latent"])
        mean, log_variance = compiled(autoencoder.encoder)(image)
        np.testing.assert_allclose(mean, golden["mean"], atol=1e-4)
        np.testing.assert_allclose(log_variance, golden["log_variance"], atol=1e-4)
        decoded = compiled(autoencoder.decoder)(latent)
        np.testing.assert_allclose(decoded, golden["decoded"], atol=1e-4)
        assert min(np.abs(golden[key]).max() for key in ("mean", "decoded")) > 1


def test_the_references_cover_what_they_should():
    with np.load(FOLDERS / "autoencoder" / "golden.npz") as golden:
        assert golden["latent"].shape[1:3] == (3, 5)  # odd sizes
    with np.load(FOLDERS / "autoencoder_plain" / "golden.npz") as golden:
        assert golden["log_variance"].min() == -30 and golden["log_variance"].max() == 20


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_written_as_it_was(name, loaded, tmp_path):
    autoencoder = loaded[name]
    unet_flax.save_diffusers(autoencoder, tmp_path)
    before = safetensors.flax.load_file(FOLDERS / name / WEIGHTS)
    after = safetensors.flax.load_file(tmp_path / WEIGHTS)
    assert before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(before[key], after[key])
    values = [json.loads((f / "config.json").read_text()) for f in (FOLDERS / name, tmp_path)]
    assert values[0] | {"_diffusers_version": None, "sample_size": 512} == values[1] | {
        "_diffusers_version": None
    }
    again = unet_flax.load_diffusers(tmp_path)
    assert again.config == autoencoder.config
    assert_equal(*(unet_flax.functional(module)[1] for module in (again, autoencoder)))


def test_the_scale_and_the_shift_are_read(loaded):
    configs = [loaded[name].config for name in NAMES]
    assert [(c.scaling_factor, c.shift_factor) for c in configs] == [(0.18215, 0), (1.5305, 0.0609)]


@pytest.mark.parametrize("pixel", [(), (1, 1)], ids=["matrices", "1x1 convolutions"])
def test_old_names_of_attention_are_the_same_autoencoder(copy, expected, pixel):
    def old(name):
        for new, then in OLD.items():
            name = name.replace(f".{new}.", f".{then}.")
        return name

    def shaped(name, array):
        is_matrix = old(name) != name and array.ndim == 2
        return array.reshape(array.shape + pixel) if is_matrix else array

    rewrite(copy, old, shaped)
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in safetensors.flax.load_file(
        copy / WEIGHTS
    )
    assert_equal(params_of(copy), expected)


def test_half_precision_in_shards_is_read(copy, expected):
    weights = safetensors.flax.load_file(copy / WEIGHTS)
    (copy / WEIGHTS).unlink()
    names, shards = sorted(weights), {}
    for i in range(2):
        shard = f"{STEM}.fp16-0000{i + 1}-of-00002.safetensors"
        shards |= dict.fromkeys(names[i::2], shard)
        half = {name: weights[name].astype(jnp.float16) for name in names[i::2]}
        safetensors.flax.save_file(half, copy / shard)
    index = copy / f"{STEM}.safetensors.index.fp16.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    got = params_of(copy)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype("float32")}
    # float16 keeps 11 bits of values below 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), got, expected)


def test_missing_and_unexpected_weights_are_named(copy):
    rewrite(copy, lambda name: "loss.logvar" if name == "quant_conv.bias" else name)
    with pytest.raises(ValueError, match=r"1 missing \(quant_conv.bias\), 1 .* \(loss.logvar\)"):
        unet_flax.load_diffusers(copy)


def test_a_weight_by_both_of_its_names_is_refused(copy):
    weights = safetensors.flax.load_file(copy / WEIGHTS)
    at = "decoder.mid_block.attentions.0"
    weights[f"{at}.query.bias"] = weights[f"{at}.to_q.bias"]
    safetensors.flax.save_file(weights, copy / WEIGHTS)
    with pytest.raises(ValueError, match=rf"{at}.query.bias and {at}.to_q.bias are the old"):
        unet_flax.load_diffusers(copy)


def test_a_weight_of_another_shape_is_named(copy):
    rewrite(copy, cast=lambda name, a: a[..., 0] if name == "quant_conv.weight" else a)
    with pytest.raises(ValueError, match=r"1 \(quant_conv.weight \(8, 8, 1\), not \(8, 8, 1, 1\)"):
        unet_flax.load_diffusers(copy)


VALUES = {
    **DEFAULTS,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
NO_DIFFUSERS = dict(
    in_channels=[0, 3.0, None, 4],
    out_channels=[1, None],
    down_block_types=[None, "DownEncoderBlock2D", ["DownEncoderBlock2D"], ["AttnDownBlock2D"] * 2],
    up_block_types=[None, ["UpDecoderBlock2D"] * 3, ["AttnUpDecoderBlock2D"] * 2],
    block_out_channels=[None, 32, [], [32.0, 64.0], [32, 0]],
    layers_per_block=[0, 2.0, None, [2, 2]],
    act_fn=["relu", None, ["silu"]],
    latent_channels=[0, None, "4"],
    norm_num_groups=[0, 24, None],
    scaling_factor=[0, -1, None, "1"],
    shift_factor=["0", [0.1]],
    latents_mean=[[0.0] * 4],
    latents_std=[[1.0] * 4],
    use_quant_conv=[None, 1],
    use_post_quant_conv=[None, 1],
    mid_block_add_attention=[None, 1],
    decays=[0.9],
    double_z=[False],
)


def test_every_field_of_diffusers_has_its_rule():
    assert RULES.keys() | fitting_rules(VALUES).keys() == DEFAULTS.keys() - FREE
    assert DEFAULTS.keys() - FREE == NO_DIFFUSERS.keys() - {"decays", "double_z"}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in NO_DIFFUSERS for value in NO_DIFFUSERS[field]]
)
def test_what_cannot_be_expressed_is_named_as_in_diffusers(field, value):
    from_diffusers(VALUES, "float32")  # all the rest can
    named = "out_channels" if (field, value) == ("in_channels", 4) else field
    named = "(down|up)_block_types" if field == "block_out_channels" and value == [32] else named
    with pytest.raises(ValueError, match=rf"^{named}=") as error:
        from_diffusers(VALUES | {field: value}, "float32")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_size", 1024),
        ("force_upcast", False),
        ("act_fn", "swish"),
        ("shift_factor", 0.0),
        ("_name_or_path", "folder"),
        ("decay", 0.999),
        ("spatial_norm", None),
    ],
)
def test_fields_that_change_nothing_are_accepted(field, value):
    changed = from_diffusers(VALUES | {field: value}, "float32")
    assert changed == from_diffusers(VALUES, "float32")


def test_presets_are_what_their_config_files_say():
    # the fields of vae/config.json in stabilityai's folders of XL and 3
    levels = dict(
        block_out_channels=[128, 256, 512, 512],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
    )
    xl = from_diffusers(dict(levels, scaling_factor=0.13025, sample_size=1024), "float32")
    assert xl == unet_flax.presets.sdxl_autoencoder()
    three = dict(
        latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
        use_post_quant_conv=False, latents_mean=None, latents_std=None,
    )  # fmt: skip
    assert from_diffusers(levels | three, "float32") == unet_flax.presets.sd3_autoencoder()
    assert from_diffusers(levels, "float32") == unet_flax.presets.sd_autoencoder()


def test_an_image_size_is_refused(copy):
    with pytest.raises(ValueError, match=r"^image_size=64 is given for an autoencoder"):
        unet_flax.load_diffusers(copy, image_size=64)


def test_an_autoencoder_is_not_sampled(capsys):
    assert "Autoencoder draws no images" in mistake(sample.main, [FOLDERS / "autoencoder"], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_random_autoencoders_agree_with_diffusers_live(seed, tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    rng = np.random.default_rng(seed)
    levels = int(rng.integers(1, 4))
    torch.manual_seed(seed)
    theirs = diffusers.AutoencoderKL(
        block_out_channels=[int(width) for width in rng.choice([4, 8, 12], levels)],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=int(rng.integers(1, 3)),
        latent_channels=int(rng.integers(1, 5)),
        norm_num_groups=4,
        use_quant_conv=bool(rng.integers(2)),
        use_post_quant_conv=bool(rng.integers(2)),
        mid_block_add_attention=bool(rng.integers(4)),
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = unet_flax.load_diffusers(tmp_path / "theirs")
    unet_flax.save_diffusers(ours, tmp_path / "ours")
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path / "ours")
    height, width = (2 ** (levels - 1) * int(size) for size in rng.integers(1, 8, 2))
    image = rng.standard_normal((2, height, width, 3), np.float32)
    mean, log_variance = compiled(ours.encoder)(jnp.asarray(image))
    decoded = compiled(ours.decoder)(mean)
    for model in (theirs, again):
        with torch.no_grad():
            posterior = model.encode(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
            posterior = posterior.latent_dist
            image_hat = model.decode(posterior.mean).sample
        pairs = (mean, posterior.mean), (log_variance, posterior.logvar), (decoded, image_hat)
        for got, expected in pairs:
            np.testing.assert_allclose(got, expected.numpy().transpose(0, 2, 3, 1), atol=1e-4)
        divergence = unet_flax.kl_divergence(mean, log_variance)
        np.testing.assert_allclose(divergence, posterior.kl().numpy(), rtol=1e-4)

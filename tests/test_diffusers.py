"""Weights in and out of diffusers, which itself wrote the folders in from_diffusers."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import safetensors.flax
from conftest import TINY, compiled, drawn
from flax import nnx
from test_torch_file import write_torch_file

import diffusion as dm
import sample
import unet_flax
from commands import pipeline
from unet_flax import (
    ClassicUNet,
    EDM2Config,
    EDM2UNet,
    Fourier,
    Middle,
    OneHot,
    Pool,
    Residual,
    Resize,
    Sinusoidal,
    Strided,
    UNet,
    UNetConfig,
)
from unet_flax.diffusers.unet_config import from_diffusers, to_diffusers
from unet_flax.diffusers.unet_fields import DEFAULTS

FOLDERS = Path(__file__).parent / "from_diffusers"
NAMES = ["ddpm", "defaults", "classes", "scale_shift", "fourier", "mixed", "no_middle"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def outputs(unet, golden):
    """What our network gives on a golden's inputs, in diffusers' terms."""
    cond = {"label": jnp.asarray(golden["label"])} if "label" in golden else {}
    timestep = jnp.asarray(golden["timestep"])
    if isinstance(unet.config.noise_features, Fourier):
        y = compiled(unet)(jnp.asarray(golden["x"]), jnp.log(timestep), **cond)
        return y / timestep[:, None, None, None]
    return compiled(unet)(jnp.asarray(golden["x"]), timestep, **cond)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_diffusers_gives_the_same_output_here(name):
    with np.load(FOLDERS / name / "golden.npz") as golden:
        y = outputs(unet_flax.load_diffusers(FOLDERS / name), golden)
        assert np.abs(golden["y"]).max() > 0.1
        np.testing.assert_allclose(y, golden["y"], atol=1e-4)


def test_a_pipeline_with_old_names_and_shards_is_the_same_network():
    pipeline = unet_flax.load_diffusers(FOLDERS / "pipeline")
    plain = unet_flax.load_diffusers(FOLDERS / "ddpm")
    assert pipeline.config == plain.config
    pairs = (jax.tree.leaves(unet_flax.functional(unet)[1]) for unet in (pipeline, plain))
    for a, b in zip(*pairs, strict=True):
        np.testing.assert_array_equal(a, b)


OFTEN = ("ddpm", "classes", "mixed")


@pytest.mark.parametrize(
    "name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_what_is_read_is_written_as_it_was(name, tmp_path):
    unet_flax.save_diffusers(unet_flax.load_diffusers(FOLDERS / name), tmp_path)
    before = safetensors.flax.load_file(FOLDERS / name / WEIGHTS)
    after = safetensors.flax.load_file(tmp_path / WEIGHTS)
    assert before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(before[key], after[key])
    again = unet_flax.load_diffusers(tmp_path).config
    assert again == unet_flax.load_diffusers(FOLDERS / name).config


def test_the_null_class_becomes_the_last_class(unet, tmp_path):
    unet_flax.save_diffusers(unet, tmp_path)
    loaded = unet_flax.load_diffusers(tmp_path)
    assert loaded.config.num_classes == TINY.num_classes + 1
    x, c_noise = jnp.ones((1, 8, 8, 2)), jnp.ones(1)
    np.testing.assert_array_equal(
        compiled(loaded)(x, c_noise, label=jnp.array([TINY.num_classes])),
        compiled(unet)(x, c_noise, label=jnp.array([-1])),
    )


VALUES = {**DEFAULTS, "sample_size": 64, "block_out_channels": [32, 32, 64, 64]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cross_attention_dim", 768),
        ("mid_block_type", "UNetMidBlock2DCrossAttn"),
        ("act_fn", "tanh"),
        ("resnet_time_scale_shift", "spatial"),
        ("time_embedding_type", "learned"),
        ("class_embed_type", "timestep"),
        ("class_embed_type", "identity"),
        ("downsample_padding", 2),
        ("attn_norm_num_groups", 48),
        ("sample_size", None),
        ("sample_size", [64, 36]),
        ("norm_num_groups", 24),
        ("down_block_types", ["SkipDownBlock2D"] * 4),
        ("up_block_types", ["SkipUpBlock2D"] * 4),
        ("up_block_types", ["UpBlock2D"] * 3),
        ("downsample_type", "pool"),
        ("attention_head_dim", 65),
    ],
)
def test_what_cannot_be_expressed_is_named(field, value):
    from_diffusers(VALUES, None, "float32")  # all the rest can
    with pytest.raises(ValueError, match=rf"^{field}="):
        from_diffusers({**VALUES, field: value}, None, "float32")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("skip_scale", 0.5),
        ("qk_norm", True),
        ("decoder_attention", "last"),
        ("input_pyramid", (1.0, 1.0)),
        ("augment_channels", 9),
        ("condition_channels", 3),
        ("context_channels", 8),
        ("self_conditioning", True),
        ("dims", 1),
        ("num_res_blocks", (1, 2)),
        ("resampling", Pool()),
        ("resampling", Resize()),
        ("resampling", Residual(projects_skip=True)),
        ("noise_features", Sinusoidal(max_period=100.0)),
        ("noise_features", Fourier()),
        ("middle", Middle(attention_norm=False)),
        ("label", OneHot()),
        ("channel_mult", (2, 2)),
    ],
)
def test_what_diffusers_cannot_be_is_named(field, value):
    to_diffusers(TINY)
    with pytest.raises(ValueError, match=rf"^{field}="):
        to_diffusers(dataclasses.replace(TINY, **{field: value}))


def test_heads_whose_width_differs_by_level_are_named():
    everywhere = dataclasses.replace(TINY, attention_resolutions=(8, 4))
    assert to_diffusers(dataclasses.replace(everywhere, head_dim=4))["attention_head_dim"] == 4
    with pytest.raises(ValueError, match="^num_heads=2"):
        to_diffusers(dataclasses.replace(everywhere, num_heads=2))


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(FOLDERS / "ddpm", tmp_path / "copy")
    return tmp_path / "copy"


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("kind", ["UNet1DModel", "UNet2DConditionModel", ["UNet2DModel"], None, 3])
def test_another_class_is_refused_by_its_name(copy, kind):
    change(copy, _class_name=kind)
    with pytest.raises(
        ValueError, match=r"^_class_name=.* cannot be loaded; UNet2DModel or AutoencoderKL can\.$"
    ):
        unet_flax.load_diffusers(copy)


def test_fields_that_averaging_adds_are_ignored(copy):
    plain = unet_flax.load_diffusers(copy).config
    average = dict(decay=0.9999, min_decay=0.0, optimization_step=500, update_after_step=0)
    change(copy, **average, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    assert unet_flax.load_diffusers(copy).config == plain


def test_fields_that_are_not_known_are_refused(copy):
    change(copy, decays=0.9999)
    with pytest.raises(ValueError, match=r"^decays=0.9999 cannot be expressed here"):
        unet_flax.load_diffusers(copy)


@pytest.mark.parametrize("text", ["[]", "3", '"text"', "null"])
def test_a_config_that_is_no_object_is_named(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is damaged: it holds no JSON object"):
        unet_flax.load_diffusers(copy)


def test_a_half_precision_variant_is_read_where_it_is_the_only_one(copy):
    plain = unet_flax.functional(unet_flax.load_diffusers(copy))[1]
    weights = safetensors.flax.load_file(copy / WEIGHTS)
    half = {name: array.astype(jnp.float16) for name, array in weights.items()}
    (copy / WEIGHTS).unlink()
    variant = copy / "diffusion_pytorch_model.fp16.safetensors"
    safetensors.flax.save_file(half, variant)
    params = unet_flax.functional(unet_flax.load_diffusers(copy))[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), params, plain)
    shutil.copy(variant, copy / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(ValueError, match=r"several variants .*fp16.*non_ema"):
        unet_flax.load_diffusers(copy)


def test_a_half_precision_variant_may_be_in_shards(tmp_path):
    shutil.copytree(FOLDERS / "pipeline" / "unet", tmp_path / "unet")
    index = tmp_path / "unet" / f"{WEIGHTS}.index.json"
    names = json.loads(index.read_text())["weight_map"]
    renamed = {key: name.replace("model-", "model.fp16-") for key, name in names.items()}
    for name in set(names.values()):
        (tmp_path / "unet" / name).rename(tmp_path / "unet" / name.replace("model-", "model.fp16-"))
    index.unlink()
    other = tmp_path / "unet" / f"{WEIGHTS}.index.fp16.json"
    other.write_text(json.dumps({"weight_map": renamed}))
    got = unet_flax.functional(unet_flax.load_diffusers(tmp_path))[1]
    expected = unet_flax.functional(unet_flax.load_diffusers(FOLDERS / "pipeline"))[1]
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    other.write_text(json.dumps({"weight_map": dict.fromkeys(renamed, "../x.safetensors")}))
    with pytest.raises(ValueError, match=r"'../x.safetensors' is no file of its folder"):
        unet_flax.load_diffusers(tmp_path)


def test_weights_of_torch_save_are_read_where_there_are_no_others(copy):
    expected = unet_flax.functional(unet_flax.load_diffusers(copy))[1]
    weights = safetensors.flax.load_file(copy / WEIGHTS)
    (copy / WEIGHTS).unlink()
    write_torch_file(copy / "diffusion_pytorch_model.bin", weights)
    got = unet_flax.functional(unet_flax.load_diffusers(copy))[1]
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_old_names_of_blocks_are_the_same_network():
    old = {
        name: [f"UNetRes{kind}" for kind in VALUES[name]]
        for name in ("down_block_types", "up_block_types")
    }
    assert from_diffusers(VALUES | old, None, "float32") == from_diffusers(VALUES, None, "float32")


def test_skip_blocks_are_the_cause_that_is_named():
    ncsnpp = dict(down_block_types=["SkipDownBlock2D"] * 4, norm_num_groups=None)
    with pytest.raises(ValueError, match=r"^down_block_types="):
        from_diffusers(VALUES | ncsnpp, None, "float32")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resampling", (Strided(), Strided(symmetric=True))),
        ("resampling", (Strided(), Residual())),
        ("decoder_resampling", (Pool(), Residual())),
    ],
)
def test_resampling_that_differs_where_diffusers_has_one_is_named(field, value):
    levels = dict(channel_mult=(1, 1, 1), attention_resolutions=(8, 4, 2))
    with pytest.raises(ValueError, match=rf"^{field}="):
        to_diffusers(dataclasses.replace(TINY, **levels, **{field: value}))


def test_missing_and_unexpected_weights_are_named(copy):
    weights = safetensors.flax.load_file(copy / WEIGHTS)
    weights["ema.decay"] = weights.pop("conv_in.bias")
    safetensors.flax.save_file(weights, copy / WEIGHTS)
    with pytest.raises(ValueError, match=r"1 missing \(conv_in.bias\), 1 unexpected \(ema.decay\)"):
        unet_flax.load_diffusers(copy)


def test_at_most_ten_names_are_listed(copy):
    safetensors.flax.save_file({"stray": jnp.zeros(1)}, copy / WEIGHTS)
    with pytest.raises(ValueError, match=r"missing \((\S+, ){10}\.\.\.\)"):
        unet_flax.load_diffusers(copy)


def test_weights_saved_over_shards_are_those_that_are_read(tmp_path):
    shutil.copytree(FOLDERS / "pipeline", tmp_path / "copy")
    unet = unet_flax.load_diffusers(tmp_path / "copy")
    unet.conv_in.bias[...] = unet.conv_in.bias[...] + 1
    unet_flax.save_diffusers(unet, tmp_path / "copy" / "unet")
    again = unet_flax.load_diffusers(tmp_path / "copy")
    np.testing.assert_array_equal(again.conv_in.bias[...], unet.conv_in.bias[...])


@pytest.mark.parametrize("network", [EDM2UNet, ClassicUNet])
def test_another_network_is_not_saved_as_diffusers(network, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    config = dict(config=EDM2Config(8, attention_resolutions=())) if network is EDM2UNet else {}
    unet = nnx.eval_shape(lambda: network(**config, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=rf"^network={network.__name__} cannot be expressed"):
        unet_flax.save_diffusers(unet, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_weight_of_another_rank_is_named(copy):
    weights = safetensors.flax.load_file(copy / WEIGHTS)
    weights["conv_in.weight"] = weights["conv_in.weight"][..., 0]
    safetensors.flax.save_file(weights, copy / WEIGHTS)
    with pytest.raises(ValueError, match=r"1 \(conv_in.weight \("):
        unet_flax.load_diffusers(copy)


def test_a_weight_of_another_shape_is_named(copy):
    weights = safetensors.flax.load_file(copy / WEIGHTS)
    weights["conv_in.bias"] = jnp.zeros(9)
    safetensors.flax.save_file(weights, copy / WEIGHTS)
    with pytest.raises(ValueError, match=r"1 \(conv_in.bias \(9,\), not \(8,\)\)"):
        unet_flax.load_diffusers(copy)


def test_half_precision_weights_become_float32(copy):
    weights = safetensors.flax.load_file(copy / WEIGHTS)
    half = {name: array.astype(jnp.bfloat16) for name, array in weights.items()}
    safetensors.flax.save_file(half, copy / WEIGHTS)
    _, params = unet_flax.functional(unet_flax.load_diffusers(copy))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_damaged_files_are_named(copy):
    (copy / WEIGHTS).write_bytes(b"garbage!garbage!")
    with pytest.raises(ValueError, match="safetensors is damaged"):
        unet_flax.load_diffusers(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        unet_flax.load_diffusers(copy)


def test_a_folder_without_weights_or_config_is_named(copy, tmp_path):
    (copy / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="holds no diffusion_pytorch_model.safetensors"):
        unet_flax.load_diffusers(copy)
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        unet_flax.load_diffusers(tmp_path / "nowhere")


def test_another_image_size_can_be_named(copy):
    values = json.loads((copy / "config.json").read_text()) | {"sample_size": None}
    (copy / "config.json").write_text(json.dumps(values))
    assert unet_flax.load_diffusers(copy, image_size=32).config.image_size == 32


def random_values(seed):
    """A configuration that UNet2DModel and UNet both can be."""
    rng = np.random.default_rng(seed)

    def choose(*options):
        return options[rng.integers(len(options))]

    levels = choose(2, 3)
    down = [
        choose("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D") for _ in range(levels)
    ]
    up = [choose("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D") for _ in range(levels)]
    return dict(
        sample_size=choose(8, 16, (8, 16), (16, 8)),
        in_channels=choose(1, 3),
        out_channels=choose(1, 2),
        time_embedding_type=choose("positional", "positional", "fourier"),
        time_embedding_dim=choose(None, 20),
        freq_shift=choose(0, 1),
        flip_sin_to_cos=choose(True, False),
        down_block_types=down,
        up_block_types=up,
        block_out_channels=[choose(8, 12, 16, 20) for _ in range(levels)],
        center_input_sample=choose(True, False),
        mid_block_type=choose("UNetMidBlock2D", "UNetMidBlock2D", None),
        layers_per_block=choose(1, 2),
        mid_block_scale_factor=choose(1, 2),
        downsample_padding=choose(0, 1),
        downsample_type=choose("conv", "resnet"),
        upsample_type=choose("conv", "resnet"),
        act_fn=choose("silu", "swish", "mish", "gelu", "relu"),
        attention_head_dim=choose(None, 3, 4, 8),
        norm_num_groups=choose(2, 4),
        attn_norm_num_groups=choose(None, 2, 4),
        norm_eps=choose(1e-6, 1e-5),
        resnet_time_scale_shift=choose("default", "scale_shift"),
        add_attention=choose(True, False),
        num_class_embeds=choose(None, 3),
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_agree_with_diffusers_live(seed, tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    values = random_values(seed)
    torch.manual_seed(seed)
    theirs = diffusers.UNet2DModel(**values).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = unet_flax.load_diffusers(tmp_path / "theirs")
    unet_flax.save_diffusers(ours, tmp_path / "ours")
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours")

    rng = np.random.default_rng(seed)
    golden = {
        "x": rng.standard_normal((2, *ours.config.image_shape), np.float32),
        "timestep": np.array([3.0, 500.0], np.float32),
    }
    label = None
    if values["num_class_embeds"]:
        golden["label"] = np.array([0, 2])
        label = torch.from_numpy(golden["label"])
    x = torch.from_numpy(golden["x"].transpose(0, 3, 1, 2).copy())
    for model in (theirs, again):
        with torch.no_grad():
            y = model(x, torch.from_numpy(golden["timestep"]), class_labels=label).sample
        np.testing.assert_allclose(
            outputs(ours, golden), y.numpy().transpose(0, 2, 3, 1), atol=1e-4
        )


def test_a_network_of_ours_survives_diffusers_format(tmp_path):
    config = UNetConfig(
        image_size=8, in_channels=1, channels=8, channel_mult=(1, 2), num_res_blocks=1,
        attention_resolutions=(4,), num_groups=4, head_dim=4, scale_shift=True,
        resampling=Residual(), noise_features=Fourier(cos_first=False, channels=16),
    )  # fmt: skip
    unet = drawn(UNet(config, rngs=nnx.Rngs(0)))
    unet_flax.save_diffusers(unet, tmp_path)
    x, c_noise = jnp.ones((1, 8, 8, 1)), jnp.full(1, 0.3)
    np.testing.assert_allclose(
        compiled(unet_flax.load_diffusers(tmp_path))(x, c_noise),
        compiled(unet)(x, c_noise),
        atol=1e-6,
    )


def test_a_pipeline_is_sampled_in_place_of_a_run(tmp_path):
    options = ["--num-images", "3", "--num-steps", "4", "--sampler", "ddim", "--out"]
    sample.main([str(FOLDERS / "pipeline"), *options, str(tmp_path / "a")])
    sample.main([str(FOLDERS / "ddpm"), *options, str(tmp_path / "b")])
    with np.load(tmp_path / "a" / "samples.npz") as a, np.load(tmp_path / "b" / "samples.npz") as b:
        assert a["arr_0"].shape == (3, 16, 16, 2)
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["samples.npz"]  # no RGB
        np.testing.assert_array_equal(a["arr_0"], b["arr_0"])


def test_a_pipelines_prediction_type_is_its_preconditioning(tmp_path):
    shutil.copytree(FOLDERS / "pipeline", tmp_path / "copy")
    path = tmp_path / "copy" / "scheduler" / "scheduler_config.json"
    values = json.loads(path.read_text())
    for name, kind in (("v_prediction", dm.V), ("sample", dm.X0), ("epsilon", dm.Eps)):
        path.write_text(json.dumps(values | {"prediction_type": name}))
        assert isinstance(pipeline.read(tmp_path / "copy", None).preconditioning, kind)
    path.write_text(json.dumps(values | {"prediction_type": "flow"}))
    with pytest.raises(ValueError, match="prediction_type='flow' must be 'epsilon'"):
        pipeline.read(tmp_path / "copy", None)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("ddpm", ["--step", "5"], "one set of weights"),
        ("ddpm", ["--label", "1"], "without classes"),
        ("ddpm", ["--guidance", "2"], "guidance=2.0 needs"),
        ("pipeline", ["--gif"], "--gif: images of shape (16, 16, 2) are neither grey"),
        ("classes", ["--label", "none"], "no null class"),
        ("classes", ["--label", "5"], "class from 0 to 4"),
        ("fourier", [], "time_embedding_type='fourier'"),
    ],
)
def test_a_mistake_in_sampling_a_folder_of_diffusers_is_one_line(name, options, says, capsys):
    with pytest.raises(SystemExit) as exit:
        sample.main([str(FOLDERS / name), *options])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and says in error

"""A wrong value is refused by one line: the field, the value, what is allowed."""

import dataclasses
import json
import math
import re

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from conftest import TINY
from flax import nnx

from unet_flax import (
    ClassicUNet,
    Classifier,
    ConvBlock,
    EDM2Config,
    EDM2UNet,
    Encoder,
    Fourier,
    Middle,
    Residual,
    Resize,
    Sinusoidal,
    Strided,
    Table,
    TextEncoderConfig,
    UNet,
    UNetConfig,
    UpBlock,
    sinusoidal,
)
from unet_flax.embeddings import check_label
from unet_flax.inputs import check_call

NAN, INF = math.nan, math.inf
WHOLE = ("a whole number, 1 or more", [0, -1, 1.5, 2.0, True, "2", None, NAN])
WHOLE_OR_NONE = ("a whole number, 1 or more; or None", [0, 1.5, 2.0, True, "2", (2,)])
WHOLE_TUPLE = "a tuple of 2, each a whole number, 1 or more"
SIZE = (
    f"{WHOLE[0]}; or {WHOLE_TUPLE}; or None",
    [0, -1, 1.5, 2.0, True, "2", NAN, (), (8,), (8, 8, 8), (8, 0), (8.0, 8), ("8", 8)],
)
MULTIPLES = (
    "a tuple of 1 or more, each a finite number, above 0",
    [2, (), (1, 0), (1.0, NAN), (True,), "12", None, ("1",), (-1, 1), (INF,)],
)
KINDS = "a Strided, Pool, Resize or Residual"
WHOLES = (
    "a tuple of 1 or more, each a whole number, 1 or more",
    [2, (), (1, 0), (1.0, 2.0), (True,), "12", None, ("1",)],
)
SIZES = ("a tuple, each a whole number, 1 or more", [4, (0,), (4.0,), (True,), "4", None])
ABOVE_0 = ("a finite number, above 0", [0.0, -1.0, NAN, INF, True, None, "1"])
RATE = ("a finite number, 0 or more, below 1", [1.0, -0.1, NAN, True, None, "0"])
SHARE = ("a finite number, 0 or more, at most 1", [1.1, -0.1, NAN, True, None, "0"])
FLAG = ("True or False", [2, 1, 0, None, "x", 1.0])
TYPE = ("'float32' or 'bfloat16'", ["float16", None, 32, jnp.float32])
TAPS = (
    "an even number of finite taps, two or more, whose sum is not 0",
    [3.0, (1.0,), (1.0, 2.0, 1.0), (1.0, -1.0), (1.0, NAN), (1.0, "1"), (INF, 1.0), None, "11"],
)

FIELDS = {
    UNetConfig: dict(
        image_size=SIZE,
        in_channels=WHOLE_OR_NONE,
        channels=WHOLE,
        channel_mult=MULTIPLES,
        num_res_blocks=(f"{WHOLE[0]}; or {WHOLES[0]}", [0, 1.5, True, None, (), (1, 0), "2"]),
        attention_resolutions=SIZES,
        decoder_attention_resolutions=(f"{SIZES[0]}; or None", [4, (0,), (4.0,), (True,), "4"]),
        num_classes=WHOLE_OR_NONE,
        dropout=RATE,
        out_channels=WHOLE_OR_NONE,
        num_heads=WHOLE,
        head_dim=WHOLE_OR_NONE,
        num_groups=WHOLE,
        norm_eps=ABOVE_0,
        dtype=TYPE,
        param_dtype=TYPE,
        activation=("'silu', 'mish', 'gelu' or 'relu'", ["tanh", None, 1]),
        scale_shift=FLAG,
        skip_scale=ABOVE_0,
        qk_norm=FLAG,
        decoder_attention=("'all' or 'last'", ["first", None, True]),
        middle=("a Middle", [None, True, Middle]),
        resampling=(
            f"{KINDS}; or a tuple, each {KINDS}",
            [None, "pool", Strided, (None,), ("pool",)],
        ),
        decoder_resampling=(f"a tuple, each {KINDS}", [None, Strided(), (None,), (Strided,)]),
        input_pyramid=(f"{TAPS[0]}; or ()", TAPS[1]),
        emb_channels=WHOLE_OR_NONE,
        noise_features=("a Sinusoidal or Fourier", [None, "fourier", Fourier]),
        label=("a Table or OneHot", [None, "table", Table]),
        augment_channels=WHOLE_OR_NONE,
        condition_channels=("a whole number, 0 or more", [-1, 1.5, True, None, "1"]),
        context_channels=WHOLE_OR_NONE,
        text=("a TextEncoderConfig; or None", [8, True, "64", TextEncoderConfig]),
        self_conditioning=FLAG,
        center_input=FLAG,
        dims=("a whole number from 1 to 3", [0, 4, 2.0, True, None, "2"]),
        remat=FLAG,
    ),
    EDM2Config: dict(
        image_size=SIZE,
        in_channels=WHOLE_OR_NONE,
        channels=WHOLE,
        channel_mult=MULTIPLES,
        num_res_blocks=WHOLE,
        attention_resolutions=SIZES,
        head_dim=WHOLE,
        num_classes=WHOLE_OR_NONE,
        dropout=RATE,
        label_balance=SHARE,
        concat_balance=SHARE,
        res_balance=SHARE,
        attention_balance=SHARE,
        largest=ABOVE_0,
        dtype=TYPE,
        remat=FLAG,
    ),
    Middle: dict(
        exists=FLAG,
        attention_groups=WHOLE_OR_NONE,
        attention=FLAG,
        attention_norm=FLAG,
        skip_scale=("a finite number, above 0; or None", [0.0, -1.0, NAN, INF, True, "1"]),
    ),
    Sinusoidal: dict(
        cos_first=FLAG,
        shift=("a finite number", [NAN, INF, -INF, True, None, "1"]),
        max_period=("a finite number, above 1", [1.0, 0.5, NAN, INF, None, True]),
        channels=("a whole number, 2 or more; or None", [0, 1, -4, 8.0, True, "8"]),
    ),
    Fourier: dict(
        scale=ABOVE_0,
        cos_first=FLAG,
        channels=("an even number, 2 or more; or None", [0, 1, -4, 3, 8.0, True, "8"]),
    ),
    Table: dict(has_null=FLAG),
    TextEncoderConfig: dict(
        vocab_size=("a whole number, 2 or more; or None", [1, 0, 2.0, True, "9"]),
        num_tokens=WHOLE_OR_NONE,
        channels=WHOLE,
        num_layers=("a whole number, 0 or more", [-1, 1.0, True, None, "2"]),
        num_heads=WHOLE,
        mlp_ratio=WHOLE,
    ),
    Strided: dict(symmetric=FLAG),
    Resize: dict(
        method=(
            "'bilinear', 'nearest', 'cubic', 'lanczos3' or 'lanczos5'",
            ["linear", None, 2, True],
        )
    ),
    Residual: dict(taps=TAPS, projects_skip=FLAG),
}
EDM2 = EDM2Config(8, channels=8, channel_mult=(1, 2), attention_resolutions=(4,), head_dim=4)
GOOD = {UNetConfig: TINY, EDM2Config: EDM2}


@pytest.fixture(autouse=True)
def no_type_checker(monkeypatch):
    """As users run the library: the tests' own check of types would come first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


WRONG = [
    pytest.param(kind, field, value, allowed, id=f"{kind.__name__}-{field}-{value}")
    for kind, fields in FIELDS.items()
    for field, (allowed, values) in fields.items()
    for value in values
]


@pytest.mark.parametrize("kind", FIELDS)
def test_every_field_has_its_rule(kind):
    assert FIELDS[kind].keys() == {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize(("kind", "field", "value", "allowed"), WRONG)
def test_a_wrong_value_is_one_line_with_field_value_and_what_is_allowed(
    kind, field, value, allowed
):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(GOOD[kind] if kind in GOOD else kind(), **{field: value})
    assert str(error.value) == f"{field}={value!r} must be {allowed}."


def test_numbers_of_numpy_and_lists_become_pythons_own():
    changes = dict(
        image_size=np.int64(8),
        channels=np.int32(8),
        channel_mult=[np.int64(1), 2],
        condition_channels=np.int64(3),
        dropout=np.float32(0.5),
        skip_scale=1,
        dims=np.int8(2),
        remat=np.True_,
        input_pyramid=[1, np.float64(1.0)],
        resampling=Residual(taps=[1, 3, 3, 1]),
    )
    got = dataclasses.replace(TINY, **changes)
    expected = dataclasses.replace(
        TINY,
        condition_channels=3,
        skip_scale=1.0,
        remat=True,
        input_pyramid=(1.0, 1.0),
        resampling=Residual(taps=(1.0, 3.0, 3.0, 1.0)),
    )
    assert got == expected and hash(got) == hash(expected)
    assert json.dumps(dataclasses.asdict(got)) == json.dumps(dataclasses.asdict(expected))


def test_a_long_value_stays_one_line():
    with pytest.raises(ValueError, match=r"^channel_mult=array.*\.\.\. must be a tuple") as error:
        dataclasses.replace(TINY, channel_mult=np.zeros((9, 9)))
    assert "\n" not in str(error.value)


# half = channels // 2 frequencies fall by the power i / (half - shift): diffusers would divide by
# zero where half = shift, and have its frequencies rise where shift is larger
@pytest.mark.parametrize(
    ("channels", "shift"), [(2, 1.0), (3, 1.0), (4, 1.5), (4, 2.0), (8, 4.0), (2, 0.5)]
)
def test_a_shift_that_leaves_the_sinusoids_no_range_is_refused(channels, shift):
    most = channels // 2 - 1
    says = rf"^shift={shift} must be a finite number, at most {most}, for channels // 2"
    with pytest.raises(ValueError, match=says):
        sinusoidal(jnp.ones(1), channels, shift=shift)
    with pytest.raises(ValueError, match=says):  # at construction, wherever the width is from
        UNetConfig(
            8,
            channels=channels,
            channel_mult=(1,),
            attention_resolutions=(),
            num_groups=1,
            noise_features=Sinusoidal(shift=shift),
        )
    with pytest.raises(ValueError, match=says):
        Sinusoidal(channels=channels, shift=shift)


def test_the_largest_shift_that_is_taken_spans_one_period():
    # half - shift = 1: frequencies 1 and 1 / max_period, then falling on
    angles = np.array([1.0, 1e-2, 1e-4, 1e-6])
    expected = np.concatenate([np.sin(angles), np.cos(angles)])
    got = sinusoidal(jnp.ones(1), 8, shift=3.0, max_period=100.0)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


GIVEN = ("label", "augment_label", "context", "context_mask", "condition", "x_0_hat")


@pytest.mark.parametrize("name", ["x", "c_noise", *GIVEN])
@pytest.mark.parametrize("value", [0.5, [0, 1]])
def test_what_is_no_array_is_refused_at_the_call(name, value):
    arrays = {"x": jnp.zeros((2, 8, 8, 2)), "c_noise": jnp.zeros(2), **dict.fromkeys(GIVEN)}
    arrays[name] = value
    with pytest.raises(ValueError) as error:
        check_call(TINY, arrays.pop("x"), arrays.pop("c_noise"), arrays)
    allowed = "an array of JAX or numpy" + ("; or None" if name in GIVEN else "")
    assert str(error.value) == f"{name}={value!r} must be {allowed}."


@pytest.mark.parametrize("told", [dict(c_noise=0.5), dict(label=[0, 1]), dict(x=None)])
@pytest.mark.parametrize("kind", [UNet, EDM2UNet])
def test_networks_refuse_what_is_no_array(kind, told):
    config = TINY if kind is UNet else dataclasses.replace(EDM2, in_channels=2, num_classes=3)
    network = nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0)))
    (name,) = told
    with pytest.raises(ValueError, match=rf"^{name}=.* must be an array of JAX or numpy"):
        network(**{"x": jnp.zeros((2, 8, 8, 2)), "c_noise": jnp.zeros(2)} | told)


def test_arrays_of_numpy_are_taken():
    arrays = dict.fromkeys(GIVEN) | {"label": np.array([0, 1])}
    check_call(TINY, np.zeros((2, 8, 8, 2)), np.zeros(2), arrays)
    check_label(np.array([0, 1]), 3, has_null=True)


CLASSIC = [
    (Encoder, {}, ["in_channels", "channels", "depth"]),
    (ClassicUNet, {}, ["in_channels", "channels", "depth", "out_channels"]),
    (Classifier, {"num_classes": 2}, ["num_classes", "in_channels", "channels", "depth"]),
    (ConvBlock, dict(in_channels=1, out_channels=1), ["in_channels", "out_channels"]),
    (UpBlock, dict(in_channels=1, out_channels=1), ["in_channels", "out_channels"]),
]


@pytest.mark.parametrize(
    ("kind", "good", "field"),
    [(kind, good, field) for kind, good, fields in CLASSIC for field in fields],
)
@pytest.mark.parametrize("value", [0, 1.5, True, None])
def test_the_classic_blocks_want_whole_numbers(kind, good, field, value):
    with pytest.raises(ValueError) as error:
        kind(**good | {field: value}, rngs=nnx.Rngs(0))
    assert str(error.value) == f"{field}={value!r} must be a whole number, 1 or more."


def test_an_up_block_takes_a_skip_if_it_has_one_and_none_if_not():
    x, skip = jnp.zeros((1, 4, 4, 4)), jnp.zeros((1, 8, 8, 2))
    for has_skip, given in ((True, None), (False, skip), (True, skip[:, ::2]), (True, x)):
        up = UpBlock(4, 2, has_skip=has_skip, rngs=nnx.Rngs(0))
        wanted = re.escape(str(skip.shape if has_skip else None))
        with pytest.raises(ValueError, match=rf"skip of shape .* takes one of shape {wanted}\.$"):
            up(x, given)


@pytest.mark.parametrize("size", [(0, 0), (0, 16), (16, 0)])
def test_the_classic_encoder_refuses_an_empty_image(size):
    encoder = nnx.eval_shape(lambda: Encoder(depth=2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=rf"^images of {size[0]}x{size[1]}x3 do not fit"):
        encoder(jnp.zeros((1, *size, 3)))

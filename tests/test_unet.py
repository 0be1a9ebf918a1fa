"""Laws of the network."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, compiled
from flax import linen, nnx

import unet_flax
from unet_flax import Fourier, Middle, Pool, Sinusoidal, Table, UNet, UNetConfig
from unet_flax.embeddings import check_label
from unet_flax.inputs import check_call

GIVEN = ("label", "augment_label", "context", "context_mask", "condition", "x_0_hat")


@pytest.fixture(scope="module")
def inputs():
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 2))
    return x, jnp.array([0.0, 3.0, 500.0, 999.0]), jnp.array([0, 1, 2, -1])


def test_output_is_zero_at_initialisation(fresh_unet, inputs):
    x, c_noise, label = inputs
    assert not compiled(fresh_unet)(x, c_noise, label=label).any()


def test_functional_equals_the_module(unet, network_and_params, inputs):
    network, params = network_and_params
    x, c_noise, label = inputs
    np.testing.assert_allclose(
        network(params, x, c_noise, label=label),
        nnx.jit(lambda unet: unet(x, c_noise, label=label))(unet),
        rtol=1e-4,
        atol=1e-5,
    )


def test_params_are_a_plain_nested_dict_of_arrays(network_and_params):
    def check(node):
        assert isinstance(node, dict | jax.Array)
        if isinstance(node, dict):
            for child in node.values():
                check(child)

    check(network_and_params[1])


def test_permuting_the_batch_permutes_the_output(network_and_params, inputs):
    network, params = network_and_params
    x, c_noise, label = inputs
    order = jnp.array([2, 0, 3, 1])
    y = network(params, x, c_noise, label=label)
    permuted = network(params, x[order], c_noise[order], label=label[order])
    np.testing.assert_allclose(permuted, y[order], rtol=1e-5, atol=1e-5)


@pytest.mark.slow  # test_family.py has it for larger networks
def test_every_parameter_gets_a_gradient(network_and_params, inputs):
    network, params = network_and_params
    x, c_noise, _ = inputs
    label = jnp.array([0, 1, 2, -1])  # every row of the label table, the null class too
    grads = jax.grad(lambda p: jnp.square(network(p, x, c_noise, label=label)).sum())(params)
    untouched = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
        if not jnp.abs(grad).max() > 0
    ]
    # a key's bias adds the same number to all logits of a query, so softmax cannot see it
    assert all("'key'" in path and "'bias'" in path for path in untouched), untouched


def test_noise_level_and_label_change_the_output(network_and_params, inputs):
    network, params = network_and_params
    x, c_noise, label = inputs
    y = network(params, x, c_noise, label=label)
    assert jnp.abs(network(params, x, c_noise + 1, label=label) - y).max() > 1e-2
    assert jnp.abs(network(params, x, c_noise, label=(label + 1) % 3) - y).max() > 1e-2


def test_no_label_is_the_null_class(network_and_params, inputs):
    network, params = network_and_params
    x, c_noise, label = inputs
    null = network(params, x, c_noise, label=jnp.full_like(label, -1))
    np.testing.assert_array_equal(network(params, x, c_noise), null)


@pytest.mark.parametrize("label", [-2, 3, 100])
def test_a_label_out_of_range_gives_nan_and_no_other_class(network_and_params, inputs, label):
    network, params = network_and_params
    x, c_noise, _ = inputs
    assert jnp.isnan(network(params, x, c_noise, label=jnp.full(4, label))).all()


def test_dropout_is_on_only_with_a_key(network_and_params, inputs):
    network, params = network_and_params
    x, c_noise, label = inputs
    without = network(params, x, c_noise, label=label)
    first, again, other = (
        network(params, x, c_noise, label=label, dropout_key=jax.random.key(seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - without).max() > 1e-2
    assert jnp.abs(first - other).max() > 1e-2


def test_bfloat16_agrees_with_float32(unet, network_and_params, inputs):
    _, params = network_and_params
    half_config = dataclasses.replace(TINY, dtype="bfloat16")
    half, _ = unet_flax.functional(nnx.eval_shape(lambda: UNet(half_config, rngs=nnx.Rngs(0))))
    x, c_noise, label = inputs
    expected = compiled(unet)(x, c_noise, label=label)
    got = jax.jit(half)(params, x, c_noise, label=label)
    assert got.dtype == jnp.float32
    # bfloat16 keeps 8 bits: each layer rounds by up to 2**-9, which add up over some 20 layers
    assert jnp.linalg.norm(got - expected) / jnp.linalg.norm(expected) < 2e-2


def test_compiles_once_for_a_shape(network_and_params, inputs):
    network, params = network_and_params
    x, c_noise, label = inputs
    network(params, x, c_noise, label=label)
    before = network._cache_size()
    network(jax.tree.map(jnp.zeros_like, params), x + 1, c_noise + 1, label=label * 0)
    assert network._cache_size() == before


@pytest.mark.slow  # test_family.py has it for a larger network
def test_it_can_be_exported_for_any_batch_size(network_and_params):
    network, params = network_and_params
    B = jax.export.symbolic_shape("B")[0]
    shape = jax.ShapeDtypeStruct
    exported = jax.export.export(network)(
        jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), params),
        shape((B, 8, 8, 2), jnp.float32),
        shape((B,), jnp.float32),
        label=shape((B,), jnp.int32),
    )
    read = jax.export.deserialize(exported.serialize())
    for size in (1, 3):
        x = jax.random.normal(jax.random.key(size), (size, 8, 8, 2))
        c_noise, label = jnp.ones(size), jnp.arange(size)
        np.testing.assert_allclose(
            read.call(params, x, c_noise, label=label),
            network(params, x, c_noise, label=label),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("graph_mode", [True, False])
def test_both_graph_modes_of_flax_give_the_same(network_and_params, inputs, graph_mode):
    _, params = network_and_params
    x, c_noise, label = inputs
    expected = network_and_params[0](params, x, c_noise, label=label)
    with nnx.set_graph_mode(graph_mode):
        network, shapes = unet_flax.functional(nnx.eval_shape(lambda: UNet(TINY, rngs=nnx.Rngs(0))))
        assert jax.tree.structure(shapes) == jax.tree.structure(params)
        got = jax.jit(network)(params, x, c_noise, label=label)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("label", [-2, 3])
def test_a_label_out_of_range_is_refused_where_it_can_be_seen(unet, label):
    with pytest.raises(ValueError, match=rf"label {label} is outside -1 .. 2"):
        unet(jnp.zeros((1, 8, 8, 2)), jnp.zeros(1), label=jnp.array([label]))


def abstract(**changes):
    config = dataclasses.replace(TINY, **changes)
    return nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("config", "told", "says"),
    [
        ({}, {"context": (1, 2, 3)}, "context is given to a network that does not take it"),
        ({}, {"condition": (1, 8, 8, 1)}, "set condition_channels"),
        ({}, {"x_0_hat": (1, 8, 8, 2)}, "set self_conditioning"),
        ({}, {"augment_label": (1, 9)}, "set augment_channels"),
        ({"context_channels": 4}, {}, "context is missing"),
        ({"context_channels": 4}, {"context": (1, 2, 3)}, r"takes \(1, 2, 4\)"),
        ({"condition_channels": 1}, {}, "condition is missing"),
        ({"condition_channels": 1}, {"condition": (1, 8, 8, 2)}, r"takes \(1, 8, 8, 1\)"),
        ({"augment_channels": 9}, {"augment_label": (1, 8)}, r"takes \(1, 9\)"),
        ({"label": Table(has_null=False)}, {}, "no null class"),
        ({}, {"context_mask": (1, 2)}, "set context_channels"),
        ({"context_channels": 4}, {"context": (1, 2, 4), "context_mask": (1, 3)}, "context_mask"),
        ({"context_channels": 4}, {"context": (1, 2, 4), "context_mask": (1, 2)}, "no token"),
        ({"context_channels": 4}, {"context": (2, 2, 4)}, r"takes \(1, 2, 4\)"),
        ({"context_channels": 4}, {"context": (1,)}, r"context of shape \(1,\) does not fit"),
        ({}, {"label": (2,)}, r"takes \(1,\)"),
        ({"dims": 1}, {}, r"takes \(8, 2\)"),
    ],
)
def test_what_does_not_fit_the_configuration_is_refused(config, told, says):
    kinds = {"context_mask": bool, "label": int}
    arrays = {name: jnp.zeros(shape, kinds.get(name, float)) for name, shape in told.items()}
    config = dataclasses.replace(TINY, **config)
    x = jnp.zeros((1, 8, 8, 2))  # not by the network: the tests' own check of shapes comes first
    with pytest.raises(ValueError, match=says):
        check_call(config, x, jnp.zeros(1), dict.fromkeys(GIVEN) | arrays)


def test_works_inside_a_linen_module(unet, network_and_params, inputs):
    _, params = network_and_params
    x, c_noise, label = inputs

    class Predictor(linen.Module):
        @linen.compact
        def __call__(self, x, c_noise, label):
            return nnx.bridge.to_linen(UNet, TINY, name="unet")(x, c_noise, label=label)

    variables = jax.eval_shape(Predictor().init, jax.random.key(0), x, c_noise, label)
    names = jax.tree_util.tree_structure(variables["params"]["unet"])
    flat = jax.tree.leaves(params)
    assert [leaf.shape for leaf in jax.tree.leaves(variables)] == [leaf.shape for leaf in flat]
    moved = {"params": {"unet": jax.tree.unflatten(names, flat)}, **_others(variables)}
    got = jax.jit(Predictor().apply)(moved, x, c_noise, label)
    expected = compiled(unet)(x, c_noise, label=label)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def _others(variables):
    return {name: value for name, value in variables.items() if name != "params"}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("image_size", 30, "not divisible by 4"),
        ("attention_resolutions", (5,), "levels of this network have"),
        ("num_groups", 7, "does not divide the width"),
        ("num_heads", 3, "attention heads"),
        ("num_res_blocks", (2, 2), "one for each of the 3 levels"),
        ("head_dim", 17, "cannot be cut"),  # 16 channels have no room for it
        ("channel_mult", (1, 1.3, 2), "gives a level 10.4 channels for channels=8"),
        ("channel_mult", (1, 0.01, 2), "must be a whole number, 1 or more"),
        ("resampling", (Pool(),), "1 kinds; 3 levels need 2"),
        ("decoder_resampling", (Pool(),) * 3, "3 kinds; 3 levels need 2"),
        ("image_size", (32, 30), "not divisible by 4"),
        ("decoder_attention_resolutions", (64,), "names sizes that no level has"),
        ("middle", Middle(attention_groups=3), "attention_groups=3 of the middle"),
    ],
)
def test_values_that_contradict_each_other_are_refused(field, value, says):
    good = UNetConfig(
        image_size=32, channels=8, channel_mult=(1, 2, 2), attention_resolutions=(16,), num_groups=4
    )
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(good, **{field: value})


def test_images_that_do_not_fit_are_refused(unet):
    with pytest.raises(ValueError, match=r"takes \(8, 8, 2\)"):
        unet(jnp.zeros((1, 16, 16, 2)), jnp.zeros(1))


def test_a_label_for_an_unconditional_network_is_refused():
    config = dataclasses.replace(TINY, num_classes=None)
    unet = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="label is given"):
        unet(jnp.zeros((1, 8, 8, 2)), jnp.zeros(1), label=jnp.zeros(1, jnp.int32))


def test_a_context_that_nothing_attends_to_is_refused():
    with pytest.raises(ValueError, match="nothing attends"):
        dataclasses.replace(
            TINY, context_channels=4, attention_resolutions=(), middle=Middle(attention=False)
        )


def test_heads_need_only_fit_where_there_is_attention():
    config = dataclasses.replace(TINY, channel_mult=(1, 3), attention_resolutions=(4,), head_dim=12)
    assert config.heads(24) == 2


def test_the_noise_levels_are_one_an_image(unet):
    for c_noise in (jnp.zeros(1), jnp.zeros(3)):
        with pytest.raises(ValueError, match=r"c_noise of shape \(\d,\) is not one level"):
            check_call(unet.config, jnp.zeros((2, 8, 8, 2)), c_noise, dict.fromkeys(GIVEN))


def test_labels_are_whole_numbers():
    with pytest.raises(ValueError, match="float32 is no class"):
        check_label(jnp.zeros(2), 3, has_null=True)


UNTYPED = """
from unet_flax import UNetConfig
assert hash(UNetConfig(8, channel_mult=[1, 2], attention_resolutions=[4])) == hash(
    UNetConfig(8, channel_mult=(1, 2), attention_resolutions=(4,))
)
for wrong in (dict(channels=32.0), dict(resampling="pool"), dict(noise_features="fourier")):
    try:
        UNetConfig(8, channel_mult=(1, 2), attention_resolutions=(4,), **wrong)
    except ValueError as error:
        print(error)
"""


def test_values_of_another_kind_are_refused_where_no_type_checker_is():
    command = [sys.executable, "-W", "error", "-c", UNTYPED]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert out == [
        "channels=32.0 must be a whole number, 1 or more.",
        "resampling='pool' must be a Strided, Pool, Resize or Residual; "
        "or a tuple, each a Strided, Pool, Resize or Residual.",
        "noise_features='fourier' must be a Sinusoidal or Fourier.",
    ]


def test_a_module_with_running_statistics_has_no_pure_function():
    with pytest.raises(ValueError, match="running statistics"):
        unet_flax.functional(nnx.eval_shape(lambda: nnx.BatchNorm(3, rngs=nnx.Rngs(0))))


@pytest.mark.parametrize("channels", [0, 1, -4])
@pytest.mark.parametrize("kind", [Sinusoidal, Fourier])
def test_noise_features_need_a_sine_and_a_cosine(kind, channels):
    with pytest.raises(ValueError, match="2 or more"):
        kind(channels=channels)

"""Laws of what all networks share: configurations, making, pure functions, labels, meshes."""

import dataclasses
from multiprocessing.reduction import ForkingPickler

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from conftest import TINY, drawn
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import diffusion as dm
import unet_flax
from unet_flax import (
    EDM2Config,
    EDM2UNet,
    LabelEmbedding,
    OneHot,
    Pool,
    Residual,
    Strided,
    Table,
    UNet,
    UNetConfig,
)
from unet_flax.embeddings import OneHotLabel
from unet_flax.resample import Double

EDM2 = EDM2Config(8, channels=8, channel_mult=(1, 2), attention_resolutions=(4,), head_dim=4)
OPEN = [
    dataclasses.replace(TINY, image_size=None, in_channels=None, num_classes=None),
    dataclasses.replace(EDM2, image_size=None, in_channels=None),
]
FACTS = dict(image_size=(8, 16), in_channels=3, num_classes=5)
PROPERTIES = (
    "image_shape output_channels num_classes has_null dtype remat inputs optional_inputs project"
)


def abstract(config):
    return nnx.eval_shape(lambda: unet_flax.make(config, nnx.Rngs(0)))


@pytest.mark.parametrize(("config", "kind"), [(TINY, UNet), (EDM2, EDM2UNet)])
def test_every_configuration_makes_its_network_and_answers_the_same(config, kind):
    assert type(abstract(config)) is kind
    for name in PROPERTIES.split():
        getattr(config, name)


def test_the_inputs_are_those_that_the_configuration_names():
    config = dataclasses.replace(
        TINY, image_size=(8, 16), augment_channels=9, context_channels=64, condition_channels=1,
        self_conditioning=True, out_channels=5,
    )  # fmt: skip
    assert config.inputs == {
        "label": (),
        "augment_label": (9,),
        "context": (None, 64),
        "context_mask": (None,),
        "condition": (8, 16, 1),
        "x_0_hat": (8, 16, 2),
    }
    assert config.optional_inputs == {"label", "augment_label", "context_mask", "x_0_hat"}
    assert config.image_shape == (8, 16, 2) and config.output_channels == 5
    no_null = dataclasses.replace(config, label=Table(has_null=False))
    assert "label" not in no_null.optional_inputs and not no_null.has_null
    assert EDM2.inputs == {} and dataclasses.replace(EDM2, num_classes=2).inputs == {"label": ()}


def test_only_edm2_projects_its_parameters():
    assert TINY.project is None and EDM2.project is unet_flax.unit_kernels


@pytest.mark.parametrize("config", OPEN)
def test_an_open_configuration_makes_no_network_until_it_is_fitted(config):
    with pytest.raises(ValueError, match=r"^image_size=None is not known yet.*fitted\.$"):
        unet_flax.make(config, nnx.Rngs(0))
    with pytest.raises(ValueError, match="^in_channels=None is not known yet"):
        unet_flax.make(dataclasses.replace(config, image_size=8), nnx.Rngs(0))
    fitted = unet_flax.fitted(config, **FACTS)
    assert fitted.image_shape == (8, 16, 3) and fitted.num_classes == 5
    assert unet_flax.fitted(fitted, **FACTS) == fitted
    abstract(fitted)


def test_equal_sides_are_one_number():
    assert UNetConfig((32, 32)) == UNetConfig(32)
    assert unet_flax.fitted(TINY, image_size=(8, 8), in_channels=2, num_classes=3) == TINY


@pytest.mark.parametrize(
    ("config", "facts", "says"),
    [
        (TINY, dict(image_size=16), r"^image_size=8 does not fit the data, which has 16; use None"),
        (TINY, dict(image_size=(8, 16)), r"^image_size=8 .* \(8, 16\); use None"),
        (TINY, dict(in_channels=3), "^in_channels=2 .* has 3; use None"),
        (TINY, dict(num_classes=None), "^num_classes=3 .* has None; use None"),
        (dataclasses.replace(TINY, augment_channels=9), {}, "^augment_channels=9 .* has None"),
        (dataclasses.replace(TINY, condition_channels=2), {}, "^condition_channels=2 .* use 0 "),
        (EDM2, dict(in_channels=3, context_channels=4), "^context_channels=4 .* EDM2Config has no"),
    ],
)
def test_data_that_does_not_fit_is_named(config, facts, says):
    with pytest.raises(ValueError, match=says) as error:
        unet_flax.fitted(config, **dict(image_size=8, in_channels=2, num_classes=3) | facts)
    assert "\n" not in str(error.value)


def test_open_inputs_are_filled():
    given = dict(augment_channels=9, context_channels=4, condition_channels=1)
    fitted = unet_flax.fitted(OPEN[0], **FACTS, **given)
    assert fitted.inputs["condition"] == (8, 16, 1) and fitted.inputs["context"] == (None, 4)


def test_networks_of_one_configuration_are_equal_and_compile_once():
    config = dataclasses.replace(TINY, channel_mult=(1,), attention_resolutions=())
    networks = [unet_flax.functional(drawn(abstract(config), seed))[0] for seed in (0, 1)]
    assert networks[0] == networks[1] and hash(networks[0]) == hash(networks[1])
    other, _ = unet_flax.functional(abstract(dataclasses.replace(config, dropout=0.1)))
    assert other != networks[0]
    traced = []

    def count(network, x):
        traced.append(network)
        return x

    counted = jax.jit(count, static_argnums=0)
    for network in networks:
        counted(network, jnp.ones(1))
    assert len(traced) == 1


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(TINY, resampling=Pool(), label=OneHot(), activation="gelu"),
        dataclasses.replace(TINY, resampling=Residual(), scale_shift=True, qk_norm=True),
        EDM2,
    ],
)
def test_a_network_can_be_sent_to_another_process(config):
    network, _ = unet_flax.functional(abstract(config))
    read = ForkingPickler.loads(ForkingPickler.dumps(network))
    assert read == network and hash(read) == hash(network)


@pytest.mark.parametrize("config", [TINY, EDM2])
def test_a_module_is_made_of_its_parameters(config):
    params = unet_flax.functional(drawn(abstract(config)))[1]
    network, again = unet_flax.functional(unet_flax.module(config, params))
    assert network == unet_flax.functional(abstract(config))[0]
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_parameters_of_another_network_are_named():
    params = unet_flax.functional(abstract(TINY))[1]
    with pytest.raises(ValueError, match=r"conv_in.kernel: \(3, 3, 2, 8\), not \(3, 3, 4, 8\)"):
        unet_flax.module(dataclasses.replace(TINY, in_channels=4), params)


KINDS = [np.uint8, np.int8, np.int16, np.uint16, np.uint32, np.int64]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("embedding", [LabelEmbedding, OneHotLabel])
def test_labels_of_any_integer_type_are_the_same_classes(embedding, kind, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # arrays of numpy, too
    embed = embedding(256, 4, rngs=nnx.Rngs(0))
    label = np.array([0, 3, 127, 100])
    expected = embed(jnp.asarray(label, jnp.int32))
    assert jnp.isfinite(expected).all()
    compiled = jax.jit(lambda label: embed(label))
    for call in (embed, compiled):
        np.testing.assert_array_equal(call(label.astype(kind)), expected)
    largest = np.full(4, min(np.iinfo(kind).max, 2**40)).astype(kind)
    assert jnp.isnan(embed(largest)).all() == (largest[0] > 255)
    if kind in (np.int8, np.int16):
        null = compiled(np.full(4, -1, kind))
        np.testing.assert_array_equal(null, embed(jnp.full(4, -1)))


@pytest.mark.parametrize("kind", [jnp.uint8, jnp.int8, jnp.uint32])
def test_edm2_takes_labels_of_any_integer_type(kind):
    network = drawn(abstract(dataclasses.replace(EDM2, num_classes=200)))
    label = jnp.array([0, 3, 127])
    embed = jax.jit(lambda label: network._label(label))
    np.testing.assert_array_equal(embed(label.astype(kind)), embed(label))
    assert jnp.isfinite(embed(label)).all()


@pytest.fixture
def explicit_mesh():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        yield NamedSharding(mesh, PartitionSpec("data"))


def test_labels_and_images_may_be_sharded_over_explicit_axes(explicit_mesh):
    label = jax.device_put(jnp.array([0, 1, 2, -1]), explicit_mesh)
    embed = LabelEmbedding(3, 8, rngs=nnx.Rngs(0))
    embedding = jax.jit(lambda label: embed(label))(label)
    assert jax.typeof(embedding).sharding.spec == PartitionSpec("data", None)
    np.testing.assert_array_equal(np.asarray(embedding), embed.table[...])
    image = jax.device_put(jnp.arange(16.0).reshape(4, 2, 2, 1), explicit_mesh)
    doubled = jax.jit(Double())(image)
    assert jax.typeof(doubled).sharding.spec == PartitionSpec("data", None, None, None)
    np.testing.assert_array_equal(np.asarray(doubled)[:, ::2, 1::2], image)


def test_a_training_step_and_its_augmentation_may_have_explicit_axes(explicit_mesh):
    image = jnp.linspace(-1, 1, 4 * 64 * 2).reshape(4, 8, 8, 2)
    label = jnp.array([0, 1, 2, -1])

    def network(params, x, c_noise, *, label, dropout_key=None):
        return params * x + label[:, None, None, None]

    params, optimizer, ema = jnp.ones(()), optax.sgd(1e-2), dm.EMA()
    step = jax.jit(dm.make_train_step(network, dm.EDM(), dm.LogNormal(), optimizer, ema))
    state = dm.TrainState.create(params, optimizer, ema)
    losses = []
    for place in (explicit_mesh, NamedSharding(explicit_mesh.mesh, PartitionSpec())):
        batch = jax.device_put({"image": image, "label": label}, place)
        batch = jax.jit(dm.NonLeaky(1.0))(jax.random.key(1), batch)
        del batch["augment_label"]  # which the network does not take
        losses.append(step(state, batch, jax.random.key(0))[1]["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_network_of_rectangles_transposes_with_its_kernels():
    wide = dataclasses.replace(
        TINY, image_size=(8, 16), dropout=0.0, channel_mult=(1, 1.5), num_classes=None,
        resampling=Residual(), decoder_resampling=(Strided(),),
        decoder_attention_resolutions=(8,),
    )  # fmt: skip
    tall = dataclasses.replace(
        wide, image_size=(16, 8), attention_resolutions=(8,), decoder_attention_resolutions=(16,)
    )
    network, params = unet_flax.functional(drawn(abstract(wide)))
    transposed, _ = unet_flax.functional(abstract(tall))

    def swapped(leaf):
        return leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf

    x, c_noise = jax.random.normal(jax.random.key(0), (2, 8, 16, 2)), jnp.array([0.0, 3.0])
    y = jax.jit(network)(params, x, c_noise)
    assert y.shape == (2, 8, 16, 2) and jnp.abs(y).max() > 0.1
    got = jax.jit(transposed)(jax.tree.map(swapped, params), x.swapaxes(1, 2), c_noise)
    np.testing.assert_allclose(got.swapaxes(1, 2), y, rtol=1e-4, atol=1e-4)

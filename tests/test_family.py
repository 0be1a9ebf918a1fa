"""Laws that every member of the family keeps, whatever its options."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, drawn
from flax import nnx

import unet_flax
from unet_flax import (
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
    Table,
    TextEncoderConfig,
)

TAPS = (1.0, 3.0, 3.0, 1.0)
PLAIN = dataclasses.replace(TINY, dropout=0.0)
ONE_LEVEL = dataclasses.replace(PLAIN, channel_mult=(1,), attention_resolutions=(8,))
MEMBERS = {
    "adm": dict(
        scale_shift=True,
        resampling=Residual(),
        noise_features=Sinusoidal(cos_first=True, shift=0.0),
        label=Table(has_null=False),
        head_dim=4,
        emb_channels=12,
    ),
    "ncsnpp": dict(
        resampling=Residual(TAPS, projects_skip=True),
        input_pyramid=TAPS,
        skip_scale=0.5**0.5,
        noise_features=Fourier(channels=8),
        label=OneHot(),
        augment_channels=3,
        decoder_attention="last",
    ),
    "text, in one dimension": dict(
        dims=1,
        channels=16,
        context_channels=6,
        resampling=Pool(),
        num_res_blocks=(2, 1),
        qk_norm=True,
        num_heads=2,
        num_classes=None,
    ),
    "image to image, in three": dict(
        dims=3,
        image_size=4,
        attention_resolutions=(),
        condition_channels=1,
        self_conditioning=True,
        out_channels=3,
        num_classes=None,
        resampling=Resize(),
        middle=Middle(attention=False),
    ),
}
MEMBERS["halves and levels that differ, in one dimension"] = dict(
    dims=1,
    channel_mult=(1, 1.5, 2),
    attention_resolutions=(2,),
    decoder_attention_resolutions=(8, 4),
    resampling=(Strided(), Residual()),
    decoder_resampling=(Residual(), Pool()),
    head_dim=5,
    activation="mish",
    center_input=True,
    middle=Middle(exists=False),
    num_classes=None,
)
MEMBERS["everything"] = dict(
    MEMBERS["ncsnpp"],
    scale_shift=True,
    text=TextEncoderConfig(vocab_size=5, num_tokens=3, channels=4, num_layers=1, num_heads=2),
    qk_norm=True,
    num_heads=2,
    condition_channels=1,
    self_conditioning=True,
    middle=Middle(skip_scale=1.0),
    emb_channels=12,
    out_channels=3,
    dropout=0.1,
    remat=True,
)
CONFIGS = {name: dataclasses.replace(PLAIN, **changes) for name, changes in MEMBERS.items()}
CONFIGS["edm2"] = EDM2Config(
    8,
    in_channels=2,
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    head_dim=4,
    num_classes=3,
)


def abstract(config):
    return nnx.eval_shape(lambda: unet_flax.make(config, nnx.Rngs(0)))


def inputs(config, B=4):
    keys = iter(jax.random.split(jax.random.key(1), 8))

    def normal(*shape):
        return jax.random.normal(next(keys), (B, *(5 if size is None else size for size in shape)))

    cond = {name: normal(*shape) for name, shape in config.inputs.items() if name != "context_mask"}
    if "text" in cond:
        cond["text"] = jnp.array([[1, 2, 0], [4, 3, 4], [2, 0, 0], [0, 0, 0]])
    if config.num_classes:
        cond["label"] = jnp.array([0, 1, 2, -1 if config.has_null else 0])
    return (normal(*config.image_shape), jnp.array([-1.0, 0.1, 0.5, 2.0])), cond


class Member:
    """A network with its compiled function and gradient, shared by the laws."""

    def __init__(self, config):
        self.config = config
        network, self.params = unet_flax.functional(drawn(abstract(config)))
        self.args, self.cond = inputs(config)
        self.network = jax.jit(network)

        def value(params, args, cond):
            y = network(params, *args, **cond)
            return jnp.square(y).sum(), y

        self.value_and_grad = jax.jit(jax.value_and_grad(value, has_aux=True))

    def output(self, params, args, cond):
        return self.value_and_grad(params, args, cond)[0][1]


OFTEN = ("everything", "edm2")  # everything has what ncsnpp has


@cache
def member_of(name):
    return Member(CONFIGS[name])


@pytest.fixture(
    scope="module",
    params=[n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS],
)
def member(request):
    return member_of(request.param)


def test_every_parameter_gets_a_gradient_and_no_constant_does(member):
    _, grads = member.value_and_grad(member.params, member.args, member.cond)
    for path, grad in jax.tree.leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        if "frequencies" in name or "phases" in name:
            assert not grad.any(), name
        # a key's bias adds the same number to all logits of a query, so softmax cannot see it,
        # unless queries and keys are normalised afterwards
        elif not ("'key'" in name and "'bias'" in name):
            assert jnp.abs(grad).max() > 0, name


def test_permuting_the_batch_permutes_the_output(member):
    order = jnp.array([2, 0, 3, 1])
    y = member.output(member.params, member.args, member.cond)
    args, cond = jax.tree.map(lambda v: v[order], (member.args, member.cond))
    permuted = member.output(member.params, args, cond)
    np.testing.assert_allclose(permuted, y[order], rtol=1e-4, atol=1e-4 * np.abs(y).max())


def test_every_input_changes_the_output(member):
    y = member.output(member.params, member.args, member.cond)
    for name, value in member.cond.items():
        count = {"label": 3, "text": 5}.get(name)  # classes, and words
        other = value + 1 if count is None else (value + 1) % count
        changed = member.output(member.params, member.args, member.cond | {name: other})
        assert jnp.abs(changed - y).max() > 1e-3 * jnp.abs(y).max(), name


def test_bfloat16_agrees_with_float32(member):
    half_config = dataclasses.replace(member.config, dtype="bfloat16")
    half, _ = unet_flax.functional(abstract(half_config))
    y = member.output(member.params, member.args, member.cond)
    got = jax.jit(half)(member.params, *member.args, **member.cond)
    assert got.dtype == jnp.float32
    # bfloat16 keeps 8 bits: each layer rounds by up to 2**-9, which add up over some 20 layers
    assert jnp.linalg.norm(got - y) / jnp.linalg.norm(y) < 2e-2


@pytest.mark.parametrize("name", ["edm2", pytest.param("everything", marks=pytest.mark.slow)])
def test_it_can_be_exported_for_any_batch_size(name):
    rich = member_of(name)
    B = jax.export.symbolic_shape("B")[0]

    def abstract_batch(leaf):
        return jax.ShapeDtypeStruct((B, *leaf.shape[1:]), leaf.dtype)

    args, cond = jax.tree.map(abstract_batch, (rich.args, rich.cond))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), rich.params)
    exported = jax.export.export(rich.network)(params, *args, **cond)
    read = jax.export.deserialize(exported.serialize())
    y = rich.output(rich.params, rich.args, rich.cond)
    for part in (slice(1), slice(1, 4)):
        args, cond = jax.tree.map(lambda leaf, part=part: leaf[part], (rich.args, rich.cond))
        got = read.call(rich.params, *args, **cond)
        np.testing.assert_allclose(got, y[part], rtol=1e-4, atol=1e-4 * np.abs(y).max())


@pytest.mark.parametrize("name", ["everything", pytest.param("edm2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("graph_mode", [pytest.param(True, marks=pytest.mark.slow), False])
def test_both_graph_modes_of_flax_give_the_same(name, graph_mode):
    rich = member_of(name)
    expected = rich.value_and_grad(rich.params, rich.args, rich.cond)
    with nnx.set_graph_mode(graph_mode):
        network, shapes = unet_flax.functional(abstract(rich.config))
        assert jax.tree.structure(shapes) == jax.tree.structure(rich.params)

        def value(params):
            y = network(params, *rich.args, **rich.cond)
            return jnp.square(y).sum(), y

        got = jax.jit(jax.value_and_grad(value, has_aux=True))(rich.params)
    scale = np.abs(expected[0][1]).max()
    np.testing.assert_allclose(got[0][1], expected[0][1], rtol=1e-4, atol=1e-4 * scale)
    for a, b in zip(*map(jax.tree.leaves, (got[1], expected[1])), strict=True):
        # where a gradient is zero but for rounding, the largest of all sets the scale
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize(
    "config",
    [ONE_LEVEL, *(pytest.param(CONFIGS[n], marks=pytest.mark.slow) for n in ("ncsnpp", "edm2"))],
)
def test_blocks_computed_again_give_the_same_gradient(config):
    plain, again = (Member(dataclasses.replace(config, remat=remat)) for remat in (False, True))
    args = (plain.params, plain.args, plain.cond)
    expected, got = plain.value_and_grad(*args), again.value_and_grad(*args)
    assert "optimization_barrier" in again.value_and_grad.lower(*args).as_text()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        # where a gradient is zero but for rounding, the largest of all sets the scale
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(expected[0][1]).max())


def test_edm2_starts_at_zero():
    config = dataclasses.replace(CONFIGS["edm2"], channel_mult=(1,), attention_resolutions=())
    assert EDM2UNet(config, rngs=nnx.Rngs(0)).out_gain == 0  # the factor of the whole output


def test_unit_kernels_have_unit_size_whatever_they_had():
    _, params = unet_flax.functional(drawn(abstract(CONFIGS["edm2"])))
    kernels = 0
    for path, leaf in jax.tree.leaves_with_path(unet_flax.unit_kernels(params)):
        if "kernel" in jax.tree_util.keystr(path):
            size = jnp.sqrt(jnp.square(leaf).mean(range(leaf.ndim - 1)))
            # the guard against zero vectors takes 1e-4 from vectors of size about 0.1 and more
            np.testing.assert_allclose(size, 1.0, atol=1e-2)
            kernels += 1
    assert kernels > 20


def test_edm2_keeps_unit_variance():
    config = dataclasses.replace(CONFIGS["edm2"], in_channels=8, channels=64, head_dim=16)
    network, params = unet_flax.functional(drawn(abstract(config)))
    params["out_gain"] = jnp.ones(())
    y = jax.jit(network)(params, jax.random.normal(jax.random.key(0), (8, 8, 8, 8)), jnp.ones(8))
    # silu's constant and the sums' independence hold for wide layers of normal features
    np.testing.assert_allclose(y.std(), 1.0, atol=0.3)


@pytest.mark.parametrize("label", [-2, 3])
def test_edm2_refuses_a_label_that_is_no_class(label):
    config = CONFIGS["edm2"]
    x = jnp.zeros((1, config.image_size, config.image_size, config.in_channels))
    with pytest.raises(ValueError, match=rf"label {label} is outside -1 .. 2"):
        drawn(abstract(config))(x, jnp.zeros(1), label=jnp.array([label]))


def test_unit_kernels_want_kernels():
    with pytest.raises(ValueError, match="no kernel"):
        unet_flax.unit_kernels({"bias": jnp.ones(3)})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", 0),
        ("head_dim", 0),
        ("num_res_blocks", 0),
        ("res_balance", 2.0),
        ("concat_balance", -1.0),
        ("largest", -1.0),
        ("dtype", "float16"),
    ],
)
def test_a_wrong_edm2_configuration_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(CONFIGS["edm2"], **{field: value})

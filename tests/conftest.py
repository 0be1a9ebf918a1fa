"""Strict: warnings are errors (pyproject.toml), shapes are checked, no silent broadcasting."""

from pathlib import Path

import jax
import jaxtyping

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
# many tests compile the same functions; what was compiled once is read back
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jaxtyping.install_import_hook(["unet_flax", "diffusion"], "beartype.beartype")

import pytest  # noqa: E402
from flax import nnx  # noqa: E402

import unet_flax  # noqa: E402
from unet_flax import UNet, UNetConfig  # noqa: E402

TINY = UNetConfig(
    image_size=8,
    in_channels=2,
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_classes=3,
    num_groups=4,
    dropout=0.5,
)


def scrambled(unet: UNet, seed: int = 0) -> UNet:
    """Every weight drawn anew: at initialisation the zero layers hide what lies before them."""
    graph, params = nnx.split(unet)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [
        leaf + 0.2 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return nnx.merge(graph, jax.tree.unflatten(tree, drawn))


@pytest.fixture(scope="session")
def fresh_unet() -> UNet:
    return UNet(TINY, rngs=nnx.Rngs(0))


@pytest.fixture(scope="session")
def unet(fresh_unet) -> UNet:
    return scrambled(fresh_unet)


@pytest.fixture(scope="session")
def network_and_params(unet):
    network, params = unet_flax.functional(unet)
    return jax.jit(network), params

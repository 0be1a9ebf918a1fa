"""Strict: warnings are errors (pyproject.toml), shapes are checked, no silent broadcasting."""

import math
import os
from functools import partial
from pathlib import Path

# these networks are small: most of the time goes into compiling them, half of it into optimising
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# many tests compile the same functions; what was compiled once is read back
COMPILED = Path(__file__).parent.parent / ".cache" / "jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import jax  # noqa: E402
import jaxtyping  # noqa: E402

# saves a third of the time of compiling; later versions of XLA have no such option
if jax.__version__.startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
jaxtyping.install_import_hook(["unet_flax", "diffusion"], "beartype.beartype")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from flax import nnx  # noqa: E402

import unet_flax  # noqa: E402
from diffusion.run import compilation_cache  # noqa: E402
from unet_flax import UNet, UNetConfig  # noqa: E402

unet_flax.tune_cpu()  # as the commands do, which some tests run in processes of their own

if COMPILED.is_dir():
    compilation_cache.remove_damaged(COMPILED)  # where an earlier session was interrupted

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


def drawn(module: nnx.Module, seed: int = 0) -> nnx.Module:
    """The module with every weight drawn anew, of the size that training gives it.

    At initialisation the zero layers hide what lies before them. The module may be abstract
    (nnx.eval_shape), which spares compiling its initialisation.
    """
    rng = np.random.default_rng(seed)
    graph, params = nnx.split(module)

    def draw(path, leaf):
        fan_in = math.prod(leaf.shape[:-1])
        is_kernel = len(leaf.shape) > 1
        noise = rng.standard_normal(leaf.shape) * (fan_in**-0.5 if is_kernel else 0.2)
        return jnp.asarray(noise + ("scale" in jax.tree_util.keystr(path)), leaf.dtype)

    return nnx.merge(graph, jax.tree.map_with_path(draw, nnx.to_pure_dict(params)))


def compiled(module: nnx.Module):
    """The module as one compiled function; equal configurations share it.

    Called as it is, a module compiles each of its operations, which takes ten times as long.
    """
    network, params = unet_flax.functional(module)
    return partial(jax.jit(network), params)


@pytest.fixture(scope="session")
def fresh_unet() -> UNet:
    return nnx.jit(lambda: UNet(TINY, rngs=nnx.Rngs(0)))()


@pytest.fixture(scope="session")
def unet(fresh_unet) -> UNet:
    return drawn(fresh_unet)


@pytest.fixture(scope="session")
def network_and_params(unet):
    network, params = unet_flax.functional(unet)
    return jax.jit(network), params


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """The folder of a small run that nothing has interrupted."""
    from runs import train_small  # imports the commands, which few tests need

    run_dir = tmp_path_factory.mktemp("runs") / "small"
    train_small(run_dir)
    return run_dir

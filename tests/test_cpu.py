"""Laws of what XLA is told on a CPU."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_flax import cpu, tune_cpu

# named, as the tests themselves are run with what tune_cpu() sets
YNN, WIDTH = cpu.OPTIONS
KINDS = ("DOT", "REDUCE", "INDIVIDUAL_DOT", "INDIVIDUAL_CONVOLUTION")
AS_IT_COMES = {YNN: ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in KINDS), WIDTH: 256}
FAST = {YNN: cpu.OPTIONS[YNN], WIDTH: 512}


def convolution(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_faster_gives_the_same_numbers_forward_and_backward(stride):
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 32))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 32, 24)) / 17  # unit variance
    matrix = jax.random.normal(jax.random.key(2), (24, 40)) / 5

    def loss(x, kernel, matrix):
        y = convolution(x, kernel, stride) @ matrix
        return jnp.sin(y - y.mean((1, 2), keepdims=True)).sum(), y

    both = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    plain, fast = (
        jax.jit(both, compiler_options=options)(x, kernel, matrix)
        for options in (AS_IT_COMES, FAST)
    )
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # sums of 1,000 in another order


TUNED = """
import jax, jax.numpy as jnp
import unet_flax
unet_flax.tune_cpu()
conv = lambda x, k: jax.lax.conv_general_dilated(
    x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
lowered = jax.jit(lambda x, k: conv(x, k) @ k[0, 0]).lower(
    jnp.ones((4, 16, 16, 32)), jnp.ones((3, 3, 32, 32)))
print("ynn" in lowered.compile().as_text())
"""


def test_once_told_xla_gives_no_convolution_and_no_product_to_ynnpack():
    out = subprocess.run([sys.executable, "-c", TUNED], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "False"


def test_what_the_user_has_told_xla_stands(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    tune_cpu()
    tune_cpu()  # once is enough
    flags = cpu.os.environ["XLA_FLAGS"].split()
    assert flags[0] == "--xla_cpu_multi_thread_eigen=true" and len(flags) == 1 + len(cpu.OPTIONS)
    own = "--xla_cpu_experimental_ynn_fusion_type=+LIBRARY_FUSION_TYPE_REDUCE"
    monkeypatch.setenv("XLA_FLAGS", own)
    tune_cpu()
    assert cpu.os.environ["XLA_FLAGS"].split() == [own, "--xla_cpu_prefer_vector_width=512"]

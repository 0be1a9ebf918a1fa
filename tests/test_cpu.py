"""Laws of what XLA is told on a CPU."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_flax import cpu, tune_cpu


@pytest.mark.parametrize("stride", [1, 2])
def test_the_faster_convolution_gives_the_same_numbers_forward_and_backward(stride):
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 32))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 32, 24)) / 17  # unit variance

    def loss(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sin(y).sum(), y

    both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    plain = jax.jit(both)(x, kernel)
    # what stays to YNNPACK, since a compiled function takes no list of what does not
    others = {cpu.OPTION: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
    fast = jax.jit(both, compiler_options=others)(x, kernel)
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # sums of 1,000 in another order


TUNED = """
import jax, jax.numpy as jnp
import unet_flax
unet_flax.tune_cpu()
conv = lambda x, k: jax.lax.conv_general_dilated(
    x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
lowered = jax.jit(conv).lower(jnp.ones((4, 16, 16, 32)), jnp.ones((3, 3, 32, 32)))
print("ynn" in lowered.compile().as_text())
"""


def test_once_told_xla_gives_no_convolution_to_ynnpack():
    out = subprocess.run([sys.executable, "-c", TUNED], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "False"


def test_what_the_user_has_told_xla_stands(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    tune_cpu()
    tune_cpu()  # once is enough
    assert cpu.os.environ["XLA_FLAGS"].count("ynn_fusion_type=-") == 1
    assert cpu.os.environ["XLA_FLAGS"].startswith("--xla_cpu_multi_thread_eigen=true ")
    own = "--xla_cpu_experimental_ynn_fusion_type=+LIBRARY_FUSION_TYPE_REDUCE"
    monkeypatch.setenv("XLA_FLAGS", own)
    tune_cpu()
    assert own == cpu.os.environ["XLA_FLAGS"]

"""A training step against diffusers' in PyTorch: `python -m benchmarks.train_step`.

Both draw a noise level and noise for each image, predict the noise, take an Adam step and update a
moving average of the weights; dropout is on. On a GPU add
`--dtype bfloat16 --sides eager compiled`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch

import diffusion as dm
from benchmarks import command, networks
from benchmarks.networks import Case

LEARNING_RATE, DECAY = 2e-4, 0.9999


def our_side(case: Case, dtype: str) -> Callable[[], Any]:
    network, params = networks.ours(case.config, dtype)
    chain, optimizer, ema = dm.VPLinear(), optax.adam(LEARNING_RATE), dm.EMA(DECAY)
    train_step = dm.make_train_step(network, dm.Eps(chain), chain, optimizer, ema)
    state = dm.TrainState.create(params, optimizer, ema)
    batch, key = {"image": jnp.asarray(networks.images(case))}, jax.random.key(0)

    def step() -> None:
        nonlocal state
        state, metrics = train_step(state, batch, key)
        jax.block_until_ready((state, metrics))

    return step


def their_side(case: Case, dtype: str, options: command.TorchOptions) -> Callable[[], Any]:
    network = networks.theirs(case, channels_last=options.channels_last).train()
    model, weights = options.prepare(network), list(network.parameters())
    optimizer = torch.optim.Adam(weights, LEARNING_RATE)
    average = [weight.detach().clone() for weight in weights]
    x_0 = options.images(case)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).to(x_0.device)

    def step() -> None:
        timestep = torch.randint(0, 1000, (case.batch,), device=x_0.device)
        eps = torch.randn_like(x_0)
        signal = alpha_bar[timestep][:, None, None, None]
        x_t = signal.sqrt() * x_0 + (1 - signal).sqrt() * eps
        with options.autocast(dtype):
            predicted = model(x_t, timestep).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), eps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - DECAY)
        command.wait_for_torch()

    return step


if __name__ == "__main__":
    command.run(__doc__, our_side, their_side)

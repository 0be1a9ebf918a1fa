"""Timesteps drawn in proportion to the size of their loss, which training remembers.

A distribution with memory has `init() -> memory`, `draw(memory, key, shape) -> Drawn` and
`update(memory, drawn, losses) -> memory`; the memory is a part of the training state. Every other
distribution takes that form by `remembering`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from diffusion.noise import timesteps
from diffusion.noise.schedules import Schedule
from diffusion.ranges import demand


class Drawn(NamedTuple):
    """Noise levels and what belongs to them, one value for each image.

    Attributes:
      sigma: the noise level.
      weight: of the loss, so that its mean is that of the distribution without memory.
      timestep: the index that the distribution remembers the loss by, or 0.
    """

    sigma: Float[Array, "B"]
    weight: Float[Array, "B"]
    timestep: Int[Array, "B"]


@runtime_checkable
class Remembering(Protocol):
    """A distribution of sigma that learns from the losses of training."""

    def init(self) -> dict[str, Array]: ...

    def draw(self, memory: dict[str, Array], key: Array, shape: tuple[int, ...]) -> Drawn: ...

    def update(
        self, memory: dict[str, Array], drawn: Drawn, losses: Float[Array, "B"]
    ) -> dict[str, Array]: ...


@dataclass(frozen=True)
class Forgetful:
    """A distribution without memory in the form of one that has it.

    Attributes:
      noise: `noise(key, shape) -> sigma`.
    """

    noise: Any

    def init(self) -> dict[str, Array]:
        return {}

    def draw(self, memory: dict[str, Array], key: Array, shape: tuple[int, ...]) -> Drawn:
        sigma = self.noise(key, shape)
        return Drawn(sigma, jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.int32))

    def update(self, memory: dict[str, Array], drawn: Drawn, losses: Array) -> dict[str, Array]:
        return memory


def remembering(noise: Any) -> Remembering:
    """The distribution in the form of one with memory, whether it has any or not."""
    return noise if hasattr(noise, "update") else Forgetful(noise)


@dataclass(frozen=True)
class ImportanceSampled:
    """Timesteps with p_t proportional to sqrt(E[L_t^2]), which lowers the variance of sum_t L_t.

    E is the mean over the last losses of each timestep; until every timestep has as many as are
    remembered, the draws are uniform. Each loss is weighted by 1 / (T p_t), so that its mean is
    that of uniform draws.

    Attributes:
      schedule: the chain; None takes the recipe's schedule, and is DDPM's chain elsewhere.
      num_timesteps: T, at evenly spaced times of the schedule, >= 2; None is the chain's number.
      history: number of losses remembered for each timestep, >= 1.
      uniform_share: share of the draws that stay uniform, in [0, 1].
    Raises:
      ValueError: a value outside its range; a number of timesteps that is not the chain's, or that
        is missing where the schedule is no chain.
    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, section 3.3 and equation 18; uniform_share as
      in their code.
    """

    schedule: Schedule | None = None
    num_timesteps: int | None = None
    history: int = 10
    uniform_share: float = 0.001

    def __post_init__(self):
        timesteps.check_length(self.schedule, self.num_timesteps)
        demand("[1, inf)", history=self.history)
        demand("[0, 1]", uniform_share=self.uniform_share)

    @property
    def table(self) -> Float[Array, "T"]:
        """sigma of each timestep, ascending."""
        return jnp.asarray(timesteps.table(self.schedule, self.num_timesteps), jnp.float32)

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Draws without memory: uniform ones."""
        return self.draw(self.init(), key, shape).sigma

    def init(self) -> dict[str, Array]:
        """The memory before training: the losses of each timestep, and how many there were."""
        length = len(self.table)
        return {
            "losses": jnp.zeros((length, self.history), jnp.float32),
            "counts": jnp.zeros(length, jnp.int32),
        }

    def probabilities(self, memory: dict[str, Array]) -> Float[Array, "T"]:
        """p_t of each timestep."""
        size = jnp.sqrt(jnp.square(memory["losses"]).mean(1))
        uniform = jnp.full_like(size, 1 / len(size))
        is_known = (memory["counts"].min() >= self.history) & (size.sum() > 0)
        share = jnp.where(is_known, size / jnp.where(is_known, size.sum(), 1.0), uniform)
        return (1 - self.uniform_share) * share + self.uniform_share * uniform

    def draw(self, memory: dict[str, Array], key: Key[Array, ""], shape: tuple[int, ...]) -> Drawn:
        """Noise levels, each with the weight of its loss."""
        p = self.probabilities(memory)
        timestep = jax.random.categorical(key, jnp.log(p), shape=shape)
        return Drawn(self.table[timestep], 1 / (len(p) * p[timestep]), timestep)

    def update(
        self, memory: dict[str, Array], drawn: Drawn, losses: Float[Array, "B"]
    ) -> dict[str, Array]:
        """Remembers the losses of a batch; of each timestep the last ones stay."""
        timestep = drawn.timestep
        is_same = timestep[:, None] == timestep[None, :]
        earlier = jnp.tril(is_same, -1).sum(1)  # of the same timestep, in this batch
        is_among_last = is_same.sum(1) - earlier <= self.history
        place = (memory["counts"][timestep] + earlier) % self.history
        row = jnp.where(is_among_last, timestep, len(memory["counts"]))  # beyond the end: dropped
        return {
            "losses": memory["losses"].at[row, place].set(losses, mode="drop"),
            "counts": memory["counts"].at[timestep].add(1),
        }

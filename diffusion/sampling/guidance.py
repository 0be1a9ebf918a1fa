"""Guidance and clipping: functions from denoise to denoise, after which any sampler serves.

Each returns a pytree, so that new scales, weights and labels compile nothing. What a network has
learned of the variance passes through: guidance takes the good denoiser's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.adjusted import Adjusted, with_unclipped, with_variance
from diffusion.denoiser import Denoise, Denoiser, Sigma, per_image
from diffusion.ranges import demand, demand_ascent


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Guided:
    """See `classifier_free` and `autoguidance`."""

    pair: "SeparateCalls | BatchedCall"
    scale: Any
    rescale: Any

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B ..."]:
        return self._guide(*self.pair(x_t, sigma))

    def with_variance(self, x_t: Array, sigma: Sigma) -> tuple[Array, Array]:
        pair, interpolation = self.pair.with_variance(x_t, sigma)
        return self._guide(*pair), interpolation

    def _guide(self, good: Array, bad: Array) -> Array:
        guided = bad + self.scale * (good - bad)
        axes = tuple(range(1, good.ndim))
        ratio = good.std(axes) / (guided.std(axes) + 1e-8)  # a constant image has std 0
        return guided * per_image(1 + self.rescale * (ratio - 1), guided)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SeparateCalls:
    """The estimates of several denoisers, by one call of each."""

    denoisers: tuple[Denoise, ...]

    def __call__(self, x_t: Array, sigma: Sigma) -> tuple[Array, ...]:
        return tuple(denoise(x_t, sigma) for denoise in self.denoisers)

    def with_variance(self, x_t: Array, sigma: Sigma) -> tuple[tuple[Array, ...], Array]:
        """(the estimates, the interpolation of the first)."""
        first, *others = self.denoisers
        D, interpolation = with_variance(first, x_t, sigma)
        return (D, *(denoise(x_t, sigma) for denoise in others)), interpolation


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BatchedCall:
    """The same estimates of one network under K conditions, by one call on a batch of K B."""

    first: Denoiser
    other_conds: tuple[dict[str, Any], ...]

    def __call__(self, x_t: Array, sigma: Sigma) -> tuple[Array, ...]:
        return tuple(jnp.split(self._all(*self._repeated(x_t, sigma)), self._count))

    def with_variance(self, x_t: Array, sigma: Sigma) -> tuple[tuple[Array, ...], Array]:
        """(the estimates, the interpolation of the first)."""
        D, interpolation = self._all.with_variance(*self._repeated(x_t, sigma))
        return tuple(jnp.split(D, self._count)), interpolation[: len(x_t)]

    @property
    def _count(self) -> int:
        return 1 + len(self.other_conds)

    @property
    def _all(self) -> Denoiser:
        cond = {
            name: jnp.concatenate([value, *(other[name] for other in self.other_conds)])
            for name, value in self.first.cond.items()
        }
        return replace(self.first, cond=cond)

    def _repeated(self, x_t: Array, sigma: Sigma) -> tuple[Array, Array]:
        sigma = jnp.broadcast_to(sigma, x_t.shape[:1])
        return jnp.concatenate([x_t] * self._count), jnp.concatenate([sigma] * self._count)


def estimates_of(*denoisers: Denoise) -> SeparateCalls | BatchedCall:
    """A function that gives the estimates of all these, in one call if they share a network."""
    first = denoisers[0]
    if isinstance(first, Denoiser) and all(
        isinstance(other, Denoiser)
        and first.params is other.params
        and first.network is other.network
        and first.preconditioning == other.preconditioning
        and first.cond.keys() == other.cond.keys()
        for other in denoisers
    ):
        conds = [one.cond for one in denoisers if isinstance(one, Denoiser)]
        return BatchedCall(first, tuple(conds[1:]))
    return SeparateCalls(denoisers)


def classifier_free(
    cond: Denoise, uncond: Denoise, scale: float, *, rescale: float = 0.0
) -> Denoise:
    """Strengthens the condition: D = D_uncond + scale * (D_cond - D_uncond).

    If both denoisers have the same network and weights, they are evaluated in one batched call.

    Args:
      cond: the denoiser with the condition.
      uncond: the denoiser with the null class, which a network learns if training drops labels.
      scale: 1 is no guidance, 0 ignores the condition.
      rescale: in [0, 1]; 1 scales each estimate to the standard deviation of D_cond, against
        overexposed images, 0 leaves it as it is, values between interpolate.
    Source: Ho & Salimans 2022, arXiv:2207.12598, equation 6 (their w is scale - 1); rescale Lin et
      al. 2023, arXiv:2305.08891, section 3.4.
    """
    demand("(-inf, inf)", scale=scale)
    demand("[0, 1]", rescale=rescale)
    return Guided(estimates_of(cond, uncond), scale, rescale)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GuidedTwice:
    """See `image_and_text_guided`."""

    calls: SeparateCalls | BatchedCall
    scale: Any
    image_scale: Any

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B ..."]:
        return self._guide(*self.calls(x_t, sigma))

    def with_variance(self, x_t: Array, sigma: Sigma) -> tuple[Array, Array]:
        estimates, interpolation = self.calls.with_variance(x_t, sigma)
        return self._guide(*estimates), interpolation

    def _guide(self, both: Array, image: Array, neither: Array) -> Array:
        return neither + self.image_scale * (image - neither) + self.scale * (both - image)


def image_and_text_guided(
    both: Denoise, image: Denoise, neither: Denoise, *, scale: float, image_scale: float
) -> Denoise:
    """Guidance to a text and to a conditioning image, each at its own scale.

    D = D_neither + image_scale * (D_image - D_neither) + scale * (D_both - D_image)

    Denoisers of the same network and weights are evaluated in one batched call.

    Args:
      both: the denoiser with image and text.
      image: with the image, and the null text.
      neither: with the null image and the null text.
      scale: of the text; 1 is no guidance.
      image_scale: of the image; 1 is no guidance.
    Source: Brooks et al. 2022, arXiv:2211.09800 (InstructPix2Pix), equation 3.
    """
    demand("(-inf, inf)", scale=scale, image_scale=image_scale)
    return GuidedTwice(estimates_of(both, image, neither), scale, image_scale)


def autoguidance(good: Denoise, bad: Denoise, scale: float) -> Denoise:
    """Extrapolates away from a weaker network: D = D_bad + scale * (D_good - D_bad).

    Args:
      good: the denoiser to sample from.
      bad: a smaller or less trained one, under the same condition.
      scale: 1 is no guidance.
    Source: Karras et al. 2024, arXiv:2406.02507, equation 1.
    """
    demand("(-inf, inf)", scale=scale)
    return Guided(estimates_of(good, bad), scale, 0.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Interval:
    """See `in_interval`."""

    guided: Denoise
    plain: Denoise
    sigma_min: Any
    sigma_max: Any

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma | float) -> Float[Array, "B ..."]:
        return self._choose(x_t, jnp.asarray(sigma), lambda denoise, *at: denoise(*at))

    def with_variance(self, x_t: Array, sigma: Sigma | float) -> tuple[Array, Array]:
        return self._choose(x_t, jnp.asarray(sigma), with_variance)

    def with_unclipped(self, x_t: Array, sigma: Sigma | float) -> tuple[Array, Array]:
        return self._choose(x_t, jnp.asarray(sigma), with_unclipped)

    def _choose(self, x_t: Array, sigma: Array, call: Callable) -> Any:
        inside = (self.sigma_min < sigma) & (sigma <= self.sigma_max)
        guided, plain = (partial(call, d, x_t, sigma) for d in (self.guided, self.plain))
        if inside.ndim == 0:
            return jax.lax.cond(inside, guided, plain)
        inside = per_image(inside, x_t)
        return jax.tree.map(lambda a, b: jnp.where(inside, a, b), guided(), plain())


def in_interval(
    guided: Denoise, plain: Denoise, sigma_min: float = 0.0, sigma_max: float = float("inf")
) -> Denoise:
    """Guides where sigma is in (sigma_min, sigma_max] only.

    If sigma is a scalar, as in samplers, only one of the two denoisers is called.

    Args:
      guided: the denoiser inside the interval.
      plain: the denoiser outside it.
      sigma_min, sigma_max: >= 0; sigma_max may be infinite.
    Source: Kynkaanniemi et al. 2024, arXiv:2404.07724.
    """
    demand("[0, inf)", sigma_min=sigma_min)
    demand("(0, inf]", sigma_max=sigma_max)
    demand_ascent(sigma_min=sigma_min, sigma_max=sigma_max)
    return Interval(guided, plain, sigma_min, sigma_max)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clip(Adjusted):
    """See `clip`."""

    denoise: Denoise
    bound: Any
    clips = True

    def adjust(self, x_0_hat, x_t, sigma):
        return jnp.clip(x_0_hat, -self.bound, self.bound)


def clip(denoise: Denoise, bound: float = 1.0) -> Denoise:
    """Keeps every estimate x_0_hat in [-bound, bound], as DDPM does ("static thresholding").

    Samplers take the noise estimate from the clipped one, but for `Euler(keeps_eps=True)`. Clip
    after guidance: `classifier_free` of clipped denoisers is taken for one that does not clip.

    Args:
      bound: > 0.
    Source: Ho et al. 2020, arXiv:2006.11239 (in their code; the paper's Algorithm 2 omits it).
    """
    demand("(0, inf)", bound=bound)
    return Clip(denoise, bound)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClipDynamically(Adjusted):
    """See `clip_dynamically`."""

    denoise: Denoise
    share: Any
    max_bound: Any
    clips = True

    def adjust(self, x_0_hat, x_t, sigma):
        flat = jnp.abs(x_0_hat).reshape(x_0_hat.shape[0], -1)
        quantile = jnp.quantile(flat, self.share, axis=1)
        bound = per_image(jnp.clip(quantile, 1.0, self.max_bound), x_0_hat)
        return jnp.clip(x_0_hat, -bound, bound) / bound


def clip_dynamically(
    denoise: Denoise, share: float = 0.995, max_bound: float = float("inf")
) -> Denoise:
    """Divides each estimate by the quantile of its absolute values, and clips it to [-1, 1].

    The estimate is never scaled up: if the quantile is below 1, it is only clipped.

    Args:
      share: of the values that are not clipped; in (0, 1].
      max_bound: the quantile counts as no more than this, >= 1; diffusers' sample_max_value.
    Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3 ("dynamic thresholding").
    """
    demand("(0, 1]", share=share)
    demand("[1, inf]", max_bound=max_bound)
    return ClipDynamically(denoise, share, max_bound)

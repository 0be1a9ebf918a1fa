"""Functions from denoise to denoise, and what passes through them besides the estimate.

A sampler may ask a denoiser for more than x_0_hat: the variance that its network learned, or what
the estimate was before it was clipped. Whatever stands between network and sampler passes both on.
"""

from jaxtyping import Array, Float

from diffusion.denoiser import Denoise, Sigma

Pair = tuple[Float[Array, "B ..."], Float[Array, "B ..."]]


def with_variance(denoise: Denoise, x_t: Float[Array, "B ..."], sigma: Sigma) -> Pair:
    """(x_0_hat, interpolation of the step's log-variance) of a denoiser that learned both.

    Raises:
      ValueError: the denoiser is a function that gives x_0_hat alone.
    """
    method = getattr(denoise, "with_variance", None)
    if method is None:
        raise ValueError(
            "the denoiser has no method with_variance, so it has no learned variance; give "
            "Ancestral an interpolation, such as 0.0 or 1.0."
        )
    return method(x_t, sigma)


def with_unclipped(denoise: Denoise, x_t: Float[Array, "B ..."], sigma: Sigma) -> Pair:
    """x_0_hat, and what it was before clipping; the same for a denoiser that does not clip."""
    method = getattr(denoise, "with_unclipped", None)
    if method is not None:
        return method(x_t, sigma)
    x_0_hat = denoise(x_t, sigma)
    return x_0_hat, x_0_hat


class Adjusted:
    """The base of functions from denoise to denoise that change x_0_hat and nothing else.

    A member is a dataclass with the field `denoise`, and states `adjust`.

    Attributes:
      clips: whether `adjust` is a clipping, whose effect `with_unclipped` leaves out.
    """

    denoise: Denoise
    clips = False

    def adjust(
        self, x_0_hat: Float[Array, "B ..."], x_t: Float[Array, "B ..."], sigma: Sigma
    ) -> Float[Array, "B ..."]:
        """The estimate to use in place of x_0_hat."""
        raise NotImplementedError

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B ..."]:
        return self.adjust(self.denoise(x_t, sigma), x_t, sigma)

    def with_variance(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Pair:
        """The same, and the interpolation of `denoise`, see `with_variance`."""
        x_0_hat, interpolation = with_variance(self.denoise, x_t, sigma)
        return self.adjust(x_0_hat, x_t, sigma), interpolation

    def with_unclipped(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Pair:
        """The same, and what it is without any clipping, see `with_unclipped`."""
        x_0_hat, unclipped = with_unclipped(self.denoise, x_t, sigma)
        if not self.clips:
            unclipped = self.adjust(unclipped, x_t, sigma)
        return self.adjust(x_0_hat, x_t, sigma), unclipped

"""Euler's method in sigma: DDIM, and with noise DDIM's eta, ancestral sampling, and churn."""

from dataclasses import dataclass, field

from diffusion.adjusted import with_unclipped
from diffusion.ranges import demand
from diffusion.sampling.churn import add_churn, check_churn
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.step_context import interpolate, split_noise


@dataclass(frozen=True)
class Euler(BaseSampler):
    """First-order sampler of the probability-flow ODE. On a VP grid it is DDIM.

    x_next = D + sqrt(sigma_next^2 - s^2) (x - D) / sigma + s z,  D = D(x; sigma)
    s = eta sigma_next sqrt(1 - (sigma_next / sigma)^2)

    The step to sigma = 0 returns D itself, so no noise is left.

    Attributes:
      eta: share of the noise that each step replaces by new noise, in [0, 1]; 0 is deterministic,
        1 is DDPM with its small variance, and k-diffusion's "Euler ancestral".
      churn: S_churn, noise added before each step, as in `Heun`, >= 0.
      churn_min, churn_max: S_tmin and S_tmax, the sigmas between which it is added.
      churn_noise: S_noise, standard deviation of that noise.
      keeps_eps: whether the noise estimate of a clipped denoiser stays that before clipping, as in
        diffusers' DDIM; otherwise it is (x - D) / sigma of the clipped D, as with diffusers'
        use_clipped_model_output=True. Samples differ by 0.004 at eta = 0 and by 0.3 at eta = 1.
    Source: Karras et al. 2022, arXiv:2206.00364, equation 4; Song, Meng & Ermon 2020,
      arXiv:2010.02502, equations 12 and 16; churn as k-diffusion's "Euler". nfe = num_steps.
    """

    eta: float = 0.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = 1e9
    churn_noise: float = 1.0
    keeps_eps: bool = field(default=False, metadata={"static": True})
    order = 1

    def __post_init__(self):
        demand("[0, 1]", eta=self.eta)
        check_churn(self)

    @property
    def is_deterministic(self) -> bool:
        return self.eta == 0 and self.churn == 0

    @property
    def num_noises(self) -> int:
        return 2 if self.eta > 0 and self.churn > 0 else 1

    def step(self, denoise, x, memory, at):
        x, sigma = add_churn(self, x, at, part=1)  # part 0 is drawn after the step
        q, p = at.sigma_next / sigma, (sigma - at.sigma_next) / sigma
        new, old = split_noise(self.eta, q, p)
        D, unclipped = with_unclipped(denoise, x, sigma)
        x = interpolate(x, D, q * old, p + q * new**2 / (1 + old))
        if self.keeps_eps:
            x = x + q * old * (D - unclipped)
        return at.add_noise(x, at.sigma_next * new), memory

"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

import datetime

from diffusion.optional import from_extra
from diffusion.run import hosts

with from_extra("train"):
    from tqdm import tqdm


class Progress:
    """Shows images seen, speed, loss and time left, on the main host.

    The speed is that of `Meter`, which excludes compiling and sampling.

    Args:
      num_steps: steps of the whole run.
      first: number of steps taken before.
      batch_size: images in a step.
    """

    def __init__(self, num_steps: int, first: int, batch_size: int):
        self._num_steps, self._batch_size = num_steps, batch_size
        self._bar = tqdm(
            total=num_steps * batch_size,
            initial=first * batch_size,
            unit="img",
            unit_scale=True,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} img{postfix}",
            disable=None if hosts.is_main() else True,  # None shows the bar only on a terminal
        )

    def advance(self, steps: int) -> None:
        self._bar.update(steps * self._batch_size)

    def report(self, step: int, values: dict[str, float]) -> None:
        """Shows loss, speed and time left, in the bar or as a line."""
        loss = f"{values['loss']:.4f}" if "loss" in values else "not finite"
        rate = values.get("images_per_second")
        speed = "" if rate is None else f"{rate:.0f} img/s"
        if self._bar.disable:
            hosts.print_on_main(f"step {step}/{self._num_steps}  loss {loss}  {speed}")
            return
        left = ""
        if rate:
            seconds = round((self._num_steps - step) * self._batch_size / rate)
            left = f", {datetime.timedelta(seconds=seconds)} left"
        self._bar.set_postfix_str(f"loss {loss}, {speed}{left}")

    def close(self) -> None:
        self._bar.close()

"""How a run shows that it goes on: a bar on a terminal, plain lines elsewhere."""

from tqdm import tqdm

from diffusion.run import hosts


class Progress:
    """Images seen, speed and loss, on the main host.

    Args:
      num_steps: of the whole run.
      first: steps that are done already.
      batch_size: images in a step.
    """

    def __init__(self, num_steps: int, first: int, batch_size: int):
        self._num_steps, self._batch_size = num_steps, batch_size
        self._bar = tqdm(
            total=num_steps * batch_size,
            initial=first * batch_size,
            unit="img",
            unit_scale=True,
            disable=None if hosts.is_main() else True,  # None: shown on a terminal only
        )

    def advance(self, steps: int) -> None:
        self._bar.update(steps * self._batch_size)

    def restart_clock(self) -> None:
        """Leaves what went before out of the speed."""
        self._bar.unpause()

    def report(self, step: int, values: dict[str, float]) -> None:
        """The loss, in the bar or in a line."""
        loss = f"{values['loss']:.4f}" if "loss" in values else "not finite"
        self._bar.set_postfix(loss=loss)
        if self._bar.disable:
            rate = values.get("images_per_second")
            speed = "" if rate is None else f"{rate:.0f} img/s"
            hosts.say(f"step {step}/{self._num_steps}  loss {loss}  {speed}")

    def close(self) -> None:
        self._bar.close()

"""Checkpoints and the run's configuration on disk.

A run's folder holds `config.json` and `checkpoints/STEP/`, written by Orbax. Writing a checkpoint
is atomic: a run that is killed while it saves loses only that checkpoint. Each checkpoint includes
checksums of its arrays, so that a damaged checkpoint is detected when it is read.
"""

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from diffusion.optional import from_extra
from diffusion.run import fingerprint, packing
from diffusion.training.update import TrainState

with from_extra("train"):
    import orbax.checkpoint as ocp

AVERAGE = "ema"  # stored apart from the rest: sampling reads only the averaged weights
TRAINING = "training"
FINGERPRINT = "fingerprint"


class SaveError(Exception):
    """A file of the run could not be written; the message names the last complete checkpoint."""


@contextlib.contextmanager
def as_save_error(run_dir: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turns these errors into a SaveError, whose message names the last complete checkpoint."""
    try:
        yield
    except errors as error:
        raise SaveError(
            f"{run_dir} could not be written ({_reason(run_dir, error)}); "
            f"{describe_last(run_dir)}. Free some disk space or restore the folder, then run the "
            "same command again."
        ) from error


def _reason(run_dir: Path, error: BaseException) -> str:
    if not run_dir.is_dir():
        return "the folder is gone"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO):
        if os.strerror(number) in text:  # Orbax's array store has it inside a longer message
            return os.strerror(number)
    return text[:200] or type(error).__name__


class Checkpoints:
    """Writes the checkpoints of a run.

    Saving is asynchronous: training continues while the files are written.

    Args:
      run_dir: the run's folder.
      keep: how many of the latest checkpoints are kept; None keeps all.
      keep_every_steps: checkpoints at multiples of this step are kept as well; None for no others.
      best_step: a function that returns the step of the best checkpoint, which is kept as well, or
        None.
    """

    def __init__(
        self,
        run_dir: Path,
        keep: int | None = None,
        keep_every_steps: int | None = None,
        best_step: Callable[[], int | None] = lambda: None,
    ):
        self.folder = Path(run_dir).absolute() / "checkpoints"
        self._has_failed = False
        policies = ocp.checkpoint_managers
        policy: Any = None if keep is None else policies.LatestN(keep)
        if policy is not None and keep_every_steps is not None:
            every = policies.EveryNSteps(keep_every_steps)
            policy = policies.AnyPreservationPolicy([policy, every])
        if policy is not None:
            policy = policies.AnyPreservationPolicy([policy, _Best(best_step)])
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy, create=True, cleanup_tmp_directories=True
            ),
        )
        self._identity = _identity(self.folder)

    def save(self, state: TrainState) -> None:
        """Starts saving the state under its step.

        Raises:
          SaveError: this save cannot start, or the previous one has failed.
        """
        items: dict[str, Any] = {}
        fingerprints = {}
        for name, item in _items(state).items():
            items[name], fingerprints[name] = _for_disk(item)
        with self._save_errors():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    **{name: ocp.args.StandardSave(item) for name, item in items.items()},
                    **{FINGERPRINT: ocp.args.JsonSave(fingerprints)},
                ),
                force=True,
            )

    def wait(self) -> None:
        """Waits until all checkpoints are on disk; raises a SaveError if one could not be saved."""
        with self._save_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does, then closes the Orbax manager."""
        if not self._has_failed:
            with self._save_errors():
                self._manager.wait_until_finished()
                self._manager.close()

    @contextlib.contextmanager
    def _save_errors(self) -> Iterator[None]:
        try:
            with as_save_error(self.folder.parent, Exception):  # Orbax raises many types
                if _identity(self.folder) != self._identity:  # another run may have replaced it
                    raise FileNotFoundError(errno.ENOENT, "the folder is gone")
                yield
        except SaveError:
            self._has_failed = True
            raise


@dataclasses.dataclass
class _Best(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the checkpoint that is the best at the time of a save."""

    best_step: Callable[[], int | None]

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        best_step = self.best_step()
        return [found.step == best_step for found in checkpoints]


def _identity(folder: Path) -> tuple[int, int] | None:
    """Device and inode of a folder; they change if the folder is deleted and created again."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = folder.stat()
        return found.st_dev, found.st_ino
    return None


def steps(run_dir: Path) -> list[int]:
    """The steps of a run's complete checkpoints, ascending."""
    folder = Path(run_dir) / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())


def describe_last(run_dir: Path) -> str:
    """The path of the latest complete checkpoint, as part of a message."""
    saved = steps(run_dir)
    return (
        f"last checkpoint: {run_dir / 'checkpoints' / str(saved[-1])}"
        if saved
        else "no checkpoint yet"
    )


def restore(run_dir: Path, target: TrainState, step: int | None = None) -> TrainState:
    """Reads a training state.

    Args:
      run_dir: the run's folder.
      target: the state as jax.ShapeDtypeStructs, with the shardings of the result.
      step: the checkpoint's step; None for the latest.
    Raises:
      FileNotFoundError: there is no checkpoint, or none at that step.
      ValueError: the checkpoint is damaged (the message names the previous one), or was made with
        another network or optimiser.
    """
    read = _read(run_dir, _items(target), step)
    return dataclasses.replace(target, ema=read[AVERAGE], **read[TRAINING])


def restore_average(run_dir: Path, target: Any, step: int | None = None) -> tuple[Any, int]:
    """Reads only the averaged weights; returns them with the checkpoint's step. See `restore`."""
    step = _existing(run_dir, step)
    return _read(run_dir, {AVERAGE: target}, step)[AVERAGE], step


def _items(state: TrainState) -> dict[str, Any]:
    training = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    if not training["memory"]:
        del training["memory"]  # a checkpoint of a run without is as those before there was one
    return {AVERAGE: training.pop("ema"), TRAINING: training}


def _for_disk(item: Any) -> tuple[Any, dict[str, Any]]:
    """The arrays to write for an item, and its fingerprint.

    If this host holds all of the item, its arrays are packed into stacks. If they are sharded over
    hosts, they are written as they are, and each host writes its own shards.
    """
    layout = {"layout": fingerprint.layout(item)}
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(item)):
        stacks = packing.pack(item)
        return stacks, layout | {"packed": True, "bytes": fingerprint.of_host(stacks)}
    return item, layout | {"packed": False, "bytes": fingerprint.of_devices(item)}


def _existing(run_dir: Path, step: int | None) -> int:
    found = steps(run_dir)
    if not found:
        raise FileNotFoundError(
            f"{run_dir} holds no checkpoint; train with `python train.py RECIPE --run-dir "
            f"{run_dir}`."
        )
    if step is not None and step not in found:
        raise FileNotFoundError(f"{run_dir} has no checkpoint of step {step}; it has {found}.")
    return found[-1] if step is None else step


def _read(run_dir: Path, targets: dict[str, Any], step: int | None) -> dict[str, Any]:
    step = _existing(run_dir, step)
    folder = Path(run_dir).absolute() / "checkpoints"
    read = None
    try:
        with ocp.CheckpointManager(folder) as manager:
            only_fingerprints = ocp.args.Composite(**{FINGERPRINT: ocp.args.JsonRestore()})
            saved = manager.restore(step, args=only_fingerprints)[FINGERPRINT]
            if all(saved[name]["layout"] == fingerprint.layout(targets[name]) for name in targets):
                read = {
                    name: _from_disk(manager, step, name, target, saved[name])
                    for name, target in targets.items()
                }
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise  # too many open files, no permission, no disk: the checkpoint is not damaged
        raise ValueError(_damaged(run_dir, step, error)) from error
    except Exception as error:  # Orbax raises many types for damaged files
        raise ValueError(_damaged(run_dir, step, error)) from error
    if read is None:
        raise ValueError(
            f"checkpoint {folder / str(step)} was made with another network or optimiser than "
            f"{Path(run_dir) / 'config.json'} describes; was that file edited?"
        )
    return read


def _from_disk(
    manager: ocp.CheckpointManager, step: int, name: str, target: Any, saved: dict[str, Any]
) -> Any:
    on_disk = packing.empty_stacks(target) if saved["packed"] else target
    args = ocp.args.Composite(**{name: ocp.args.StandardRestore(on_disk)})
    read = manager.restore(step, args=args)[name]
    found = fingerprint.of_host(read) if saved["packed"] else fingerprint.of_devices(read)
    if found != saved["bytes"]:
        raise ValueError(f"the checksum of {name} differs from the saved one")
    return packing.unpack(read, target) if saved["packed"] else read


def _damaged(run_dir: Path, step: int, error: Exception) -> str:
    before = [other for other in steps(run_dir) if other < step]
    reason = " ".join(str(error).split()).partition(". ")[0][:120]
    advice = (
        f"the one before it is step {before[-1]}: add --step {before[-1]} to sample from it, or "
        "remove the damaged folder to resume training from it."
        if before
        else "there is none before it; remove the run's folder and train again."
    )
    return f"checkpoint {Path(run_dir) / 'checkpoints' / str(step)} is damaged ({reason}); {advice}"


def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    """Writes config.json atomically."""
    run_dir.mkdir(parents=True, exist_ok=True)
    partial_file = run_dir / ".config.json"
    partial_file.write_text(json.dumps(config, indent=2) + "\n")
    partial_file.replace(run_dir / "config.json")


def read_config(run_dir: Path) -> dict[str, Any]:
    """Reads config.json.

    Raises:
      FileNotFoundError: the folder holds no config.json.
      ValueError: the file holds no JSON object.
    """
    path = Path(run_dir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{run_dir} is not a run's folder, because it holds no config.json; "
            "`python train.py RECIPE` makes one."
        )
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object.")
    return config

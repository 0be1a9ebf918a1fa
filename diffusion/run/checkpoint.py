"""Checkpoints and the run's configuration on disk.

A run's folder holds `config.json` and `checkpoints/STEP/`, written by Orbax. A step's folder
appears whole or not at all, so a run that is killed while it saves loses that save alone. With
each checkpoint goes a fingerprint of its arrays, so a damaged one is noticed and not trained on.
"""

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from diffusion.run import fingerprint, packing
from diffusion.training.step import TrainState

AVERAGE = "ema"  # stored apart from the rest, as sampling needs nothing else
TRAINING = "training"
FINGERPRINT = "fingerprint"


class SaveError(Exception):
    """What belongs to a run could not be written; says why, and which checkpoint is whole."""


@contextlib.contextmanager
def as_save_error(run_dir: Path, *errors: type[Exception]) -> Iterator[None]:
    """Raises these errors as a SaveError, which names the last whole checkpoint."""
    try:
        yield
    except errors as error:
        raise SaveError(
            f"{run_dir} could not be written ({_reason(run_dir, error)}); {last(run_dir)}. Make "
            "room, or bring the folder back, and give the same command."
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
        if os.strerror(number) in text:  # in the midst of what the array store says
            return os.strerror(number)
    return text[:200] or type(error).__name__


class Checkpoints:
    """The checkpoints of a run.

    Saves are asynchronous: training goes on while the files are written.

    Args:
      run_dir: the run's folder.
      keep: how many of the latest checkpoints stay, or None for all.
      keep_every_steps: of which steps' checkpoints stay besides, or None.
    """

    def __init__(self, run_dir: Path, keep: int | None = None, keep_every_steps: int | None = None):
        self.folder = Path(run_dir).absolute() / "checkpoints"
        self._has_failed = False
        policies = ocp.checkpoint_managers
        policy: Any = None if keep is None else policies.LatestN(keep)
        if policy is not None and keep_every_steps is not None:
            every = policies.EveryNSteps(keep_every_steps)
            policy = policies.AnyPreservationPolicy([policy, every])
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
          SaveError: this save cannot begin, or the one before it has failed meanwhile.
        """
        items: dict[str, Any] = {}
        marks = {}
        for name, item in _items(state).items():
            items[name], marks[name] = _for_disk(item)
        with self._save_errors():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    **{name: ocp.args.StandardSave(item) for name, item in items.items()},
                    **{FINGERPRINT: ocp.args.JsonSave(marks)},
                ),
                force=True,
            )

    def wait(self) -> None:
        """Returns when all saves are on disk, or raises a SaveError."""
        with self._save_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the saves and lets go of the folder; raises a SaveError if one fails."""
        if not self._has_failed:
            with self._save_errors():
                self._manager.wait_until_finished()
                self._manager.close()

    @contextlib.contextmanager
    def _save_errors(self) -> Iterator[None]:
        try:
            with as_save_error(self.folder.parent, Exception):  # whatever the writer meets
                if _identity(self.folder) != self._identity:  # do not write into another's place
                    raise FileNotFoundError(errno.ENOENT, "the folder is gone")
                yield
        except SaveError:
            self._has_failed = True
            raise


def _identity(folder: Path) -> tuple[int, int] | None:
    """Tells a folder from one that was made anew in its place."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = folder.stat()
        return found.st_dev, found.st_ino
    return None


def steps(run_dir: Path) -> list[int]:
    """The steps of a run's whole checkpoints, ascending."""
    folder = Path(run_dir) / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())


def last(run_dir: Path) -> str:
    """Where the latest whole checkpoint lies, for people."""
    whole = steps(run_dir)
    return (
        f"last checkpoint: {run_dir / 'checkpoints' / str(whole[-1])}"
        if whole
        else "no checkpoint yet"
    )


def restore(run_dir: Path, target: TrainState, step: int | None = None) -> TrainState:
    """Reads a training state.

    Args:
      run_dir: the run's folder.
      target: the state as jax.ShapeDtypeStructs, with the shardings that it shall have.
      step: which checkpoint; None for the latest.
    Raises:
      FileNotFoundError: no checkpoint, or none of that step.
      ValueError: the checkpoint is damaged (names the one before it), or of another network.
    """
    read = _read(run_dir, _items(target), step)
    return TrainState(ema=read[AVERAGE], **read[TRAINING])


def restore_average(run_dir: Path, target: Any, step: int | None = None) -> tuple[Any, int]:
    """Reads the averaged weights alone, and says of which step; see `restore`."""
    step = _existing(run_dir, step)
    return _read(run_dir, {AVERAGE: target}, step)[AVERAGE], step


def _items(state: TrainState) -> dict[str, Any]:
    training = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {AVERAGE: training.pop("ema"), TRAINING: training}


def _for_disk(item: Any) -> tuple[Any, dict[str, Any]]:
    """What is written of an item, and what is noted beside it.

    Stacks where this host holds all of it; the arrays themselves where they are cut among hosts,
    each of which writes its own parts.
    """
    mark = {"layout": fingerprint.layout(item)}
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(item)):
        stacks = packing.pack(item)
        return stacks, mark | {"packed": True, "bytes": fingerprint.of_host(stacks)}
    return item, mark | {"packed": False, "bytes": fingerprint.of_devices(item)}


def _existing(run_dir: Path, step: int | None) -> int:
    found = steps(run_dir)
    if not found:
        raise FileNotFoundError(
            f"{run_dir} holds no checkpoint; train one with `python train.py RECIPE --run-dir "
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
            only_marks = ocp.args.Composite(**{FINGERPRINT: ocp.args.JsonRestore()})
            marks = manager.restore(step, args=only_marks)[FINGERPRINT]
            if all(marks[name]["layout"] == fingerprint.layout(targets[name]) for name in targets):
                read = {
                    name: _from_disk(manager, step, name, target, marks[name])
                    for name, target in targets.items()
                }
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise  # too many open files, no permission, a disk that is away: nothing is damaged
        raise ValueError(_damaged(run_dir, step, error)) from error
    except Exception as error:  # damage shows as whatever the reader stumbles over
        raise ValueError(_damaged(run_dir, step, error)) from error
    if read is None:
        raise ValueError(
            f"checkpoint {folder / str(step)} is of another network or optimiser than config.json "
            "beside it describes; was that file edited?"
        )
    return read


def _from_disk(
    manager: ocp.CheckpointManager, step: int, name: str, target: Any, mark: dict[str, Any]
) -> Any:
    on_disk = packing.empty_stacks(target) if mark["packed"] else target
    args = ocp.args.Composite(**{name: ocp.args.StandardRestore(on_disk)})
    read = manager.restore(step, args=args)[name]
    found = fingerprint.of_host(read) if mark["packed"] else fingerprint.of_devices(read)
    if found != mark["bytes"]:
        raise ValueError(f"{name} is not what was saved")
    return packing.unpack(read, target) if mark["packed"] else read


def _damaged(run_dir: Path, step: int, error: Exception) -> str:
    before = [other for other in steps(run_dir) if other < step]
    reason = " ".join(str(error).split()).partition(". ")[0][:120]
    advice = (
        f"the one before it is step {before[-1]}: add --step {before[-1]} to sample from it, or "
        "remove the damaged folder to train on from it."
        if before
        else "there is none before it; remove the run's folder to train anew."
    )
    return f"checkpoint {Path(run_dir) / 'checkpoints' / str(step)} is damaged ({reason}); {advice}"


def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    """Writes config.json, whole or not at all."""
    run_dir.mkdir(parents=True, exist_ok=True)
    partial_file = run_dir / ".config.json"
    partial_file.write_text(json.dumps(config, indent=2) + "\n")
    partial_file.replace(run_dir / "config.json")


def read_config(run_dir: Path) -> dict[str, Any]:
    """Reads config.json.

    Raises:
      FileNotFoundError: the folder is no run's.
      ValueError: the file is no JSON.
    """
    path = Path(run_dir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{run_dir} is not a run's folder: it holds no config.json; train one with "
            "`python train.py RECIPE`."
        )
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # neither JSON nor text
        raise ValueError(f"{path} is damaged: {error}.") from error

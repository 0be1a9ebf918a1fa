"""From a recipe, or a folder, to what it names: network, state, training step, denoiser."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import diffusion as dm
import unet_flax
from configs import schema
from configs.schema import Recipe, Run, Sampling
from diffusion import checkpoint, hosts, sharding
from diffusion.data import ImageArrays
from diffusion.denoiser import Denoise, Network, Preconditioning
from diffusion.ema import reconstruct
from diffusion.feed import Feed, Resident, Streamed
from diffusion.journal import Journal
from diffusion.tracker import Tracker
from diffusion.training import TrainStep


def abstract_network(recipe: Recipe) -> tuple[Network, Any]:
    """The network, and its parameters as shapes; allocates nothing."""
    return unet_flax.functional(
        nnx.eval_shape(lambda: unet_flax.UNet(recipe.model, rngs=nnx.Rngs(0)))
    )


def check_fit(recipe: Recipe, dataset: ImageArrays) -> None:
    """Raises a ValueError where network, data and sampling do not fit each other."""
    recipe.sampling.grid(recipe.sampling.num_steps)  # refuses now, not after the training
    size, channels = recipe.model.image_size, recipe.model.in_channels
    if dataset.pixels.shape[1:] != (size, size, channels):
        raise ValueError(
            f"the images are {dataset.pixels.shape[1:]} (height, width, channels), but the model "
            f"takes ({size}, {size}, {channels}); set --model.image-size and --model.in-channels."
        )
    if recipe.model.out_channels not in (None, channels):
        raise ValueError(
            f"model.out_channels={recipe.model.out_channels}, but the images have {channels} "
            "channels; use none."
        )
    model = recipe.model
    for name in ("context_channels", "condition_channels", "self_conditioning"):
        if getattr(model, name):
            raise ValueError(
                f"model.{name}={getattr(model, name)} is for projects of your own: train.py gives "
                "the network nothing of that kind."
            )
    told = isinstance(recipe.augment, dm.NonLeaky)
    if model.augment_channels != (9 if told else None):
        raise ValueError(
            f"model.augment_channels={model.augment_channels} does not fit the augmentation "
            f"{type(recipe.augment).__name__}, which tells the network {9 if told else 'nothing'}."
        )
    if model.dims != 2:
        raise ValueError(f"model.dims={model.dims}, but images have 2.")
    if recipe.label_dropout and model.num_classes and not model.label.has_null:
        raise ValueError(
            f"label_dropout={recipe.label_dropout} needs model.label.has_null=true, "
            "or use a label_dropout of 0."
        )
    num_classes = None if dataset.labels is None else len(dataset.label_names)
    if recipe.model.num_classes != num_classes:
        raise ValueError(
            f"model.num_classes={recipe.model.num_classes}, but the data has {num_classes} classes."
        )


def claim(run_dir: Path, recipe: Recipe) -> None:
    """Writes the run's config.json, or raises a ValueError if another run lives there."""
    hosts.check_same(max(checkpoint.steps(run_dir), default=0), "checkpoints")
    if reached := checkpoint.steps(run_dir):
        if not (run_dir / "config.json").exists():
            raise ValueError(
                f"{run_dir} holds checkpoints, but config.json is missing beside them; bring it "
                "back, or choose another --run-dir."
            )
        stored = schema.from_json(checkpoint.read_config(run_dir))
        if different := schema.differences(stored, recipe):
            raise ValueError(
                f"{run_dir} belongs to a run with other settings ({'; '.join(different)}); "
                "choose another --run-dir, or give the same values."
            )
        if recipe.run.num_steps < reached[-1]:
            raise ValueError(
                f"{run_dir} is at step {reached[-1]} already, beyond run.num_steps="
                f"{recipe.run.num_steps}; choose another --run-dir, or more steps."
            )
    if hosts.is_main():
        checkpoint.write_config(run_dir, schema.to_json(recipe))


def start(recipe: Recipe, run_dir: Path, mesh: jax.sharding.Mesh) -> tuple[Network, dm.TrainState]:
    """The network, and the state of the run's latest checkpoint or a new one."""
    network, shapes = abstract_network(recipe)
    target = sharding.placed(mesh, jax.eval_shape(partial(new_state, recipe), shapes))
    if checkpoint.steps(run_dir):
        return network, checkpoint.restore(run_dir, target)

    @partial(jax.jit, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))
    def create(key: jax.Array) -> dm.TrainState:  # each device makes what it will hold
        unet = unet_flax.UNet(recipe.model, rngs=nnx.Rngs(key))
        return new_state(recipe, unet_flax.functional(unet)[1])

    return network, create(jax.random.fold_in(jax.random.key(recipe.run.seed), 0))


def new_state(recipe: Recipe, params: Any) -> dm.TrainState:
    """The state before the first step."""
    return dm.TrainState.create(params, recipe.optimizer.make(), recipe.ema, recipe.balance)


def train_step(recipe: Recipe, network: Network) -> tuple[TrainStep, jax.Array]:
    """The training step, and the key to call it with."""
    step = dm.make_train_step(
        network,
        recipe.preconditioning,
        recipe.noise,
        recipe.optimizer.make(),
        recipe.ema,
        weighting=recipe.weighting,
        balance=recipe.balance,
        coupling=recipe.coupling,
        label_dropout=recipe.label_dropout,
        augment=recipe.augment,
        accumulate=recipe.run.accumulate,
    )
    return step, jax.random.fold_in(jax.random.key(recipe.run.seed), 1)


def checkpoints(recipe: Recipe, run_dir: Path) -> checkpoint.Checkpoints:
    """The run's checkpoints, kept as the recipe says."""
    run = recipe.run
    return checkpoint.Checkpoints(run_dir, run.keep_checkpoints, run.keep_every_steps)


def journal(recipe: Recipe, run_dir: Path, step: int) -> Journal:
    """The run's records, from a step on."""
    name, config = recipe.run.tracker, schema.to_json(recipe)
    return Journal(run_dir, step, partial(Tracker, name, run_dir, config) if name else None)


def next_stop(run: Run, step: int, *, is_new: bool) -> int:
    """The next step at which something is written, or a signal looked for."""
    if is_new:
        return step + 1  # compiles, and the clock begins after it
    every = (run.log_every_steps, run.save_every_steps, run.sample_every_steps)
    return min(run.num_steps, step + steps_per_dispatch(run), *((step // n + 1) * n for n in every))


def steps_per_dispatch(run: Run) -> int:
    """As the recipe says, or what suits the device."""
    return run.steps_per_dispatch or (1 if jax.default_backend() == "cpu" else 10)


def feed(
    recipe: Recipe,
    dataset: ImageArrays,
    mesh: jax.sharding.Mesh,
    step: TrainStep,
    key: Any,
    first: int,
) -> Feed:
    """How the batches after step `first` reach the devices."""
    steps = steps_per_dispatch(recipe.run)
    if steps == 1:
        return Streamed(step, dataset, mesh, key=key, seed=recipe.run.seed, first=first)
    return Resident(step, dataset, mesh, key=key, seed=recipe.run.seed, steps=steps)


@dataclass(frozen=True)
class Trained:
    """What sampling must know: a network, its weights, and how they want to be used.

    Attributes:
      model: what the network takes.
      preconditioning: the one that it was trained with.
      sampling: how to draw from it where nothing else is said.
      network: `network(params, x, c_noise, **cond)`.
      params: its weights, usually averaged ones, on the mesh.
      mesh: the devices that share out the images.
      knows_null: whether it was trained on the null class, which guidance needs.
      name: what they are, for people.
    Raises:
      ValueError: guidance without a null class.
    """

    model: unet_flax.UNetConfig
    preconditioning: Preconditioning
    sampling: Sampling
    network: Network
    params: Any
    mesh: jax.sharding.Mesh
    knows_null: bool
    name: str

    def __post_init__(self):
        if self.sampling.guidance != 1 and not self.knows_null:
            raise ValueError(
                f"guidance={self.sampling.guidance} needs a network that was trained with classes "
                "and with label_dropout above 0; use 1."
            )


def trained(folder: Path, step: int | None = None, ema: str | None = None) -> Trained:
    """Reads a run's averaged weights, of its latest checkpoint or of a step; or diffusers' folder.

    Args:
      step: of the checkpoint; None for the latest.
      ema: name of the average, or any sigma_rel where power-function averages are kept; None for
        the first.
    Raises:
      FileNotFoundError: it is neither, or has no such checkpoint.
      ValueError: what is there is damaged, or cannot be expressed here; no such average.
    """
    if (folder / "model_index.json").is_file() or "_class_name" in checkpoint.read_config(folder):
        if step is not None:
            raise ValueError(f"--step {step}: {folder} is of diffusers and has no steps.")
        if ema is not None:
            raise ValueError(f"--ema {ema}: {folder} is of diffusers and has no averages.")
        return _of_diffusers(folder)
    mesh = dm.Mesh().make()
    recipe = schema.from_json(checkpoint.read_config(folder))
    network, shapes = abstract_network(recipe)
    target = sharding.placed(mesh, jax.eval_shape(recipe.ema.init, shapes))
    if ema is not None and ema not in recipe.ema.names:
        average, step = _reconstructed(recipe, folder, target, step, ema)
    else:
        average, step = checkpoint.restore_average(folder, target, step)
        average = recipe.ema.choose(average, ema or recipe.ema.names[0])
    return of_recipe(recipe, network, average, mesh, f"step {step}")


def _reconstructed(
    recipe: Recipe, folder: Path, target: Any, step: int | None, ema: str
) -> tuple[Any, int]:
    """A power-function average that was not kept, from those of all checkpoints up to the step."""
    names, kept = recipe.ema.names, recipe.ema
    try:
        sigma_rel = float(ema)
    except ValueError:
        raise ValueError(f"--ema {ema}: this run keeps {', '.join(names)}.") from None
    if not isinstance(kept, dm.PowerFunction):
        raise ValueError(
            f"--ema {ema}: this run keeps {', '.join(names)}; others can be made of power-function "
            "averages alone."
        )
    last = step if step is not None else max(checkpoint.steps(folder), default=None)
    steps = [at for at in checkpoint.steps(folder) if last is not None and at <= last]
    if last not in steps:
        checkpoint.restore_average(folder, target, step)  # says what is missing
    assert last is not None
    snapshots = [(at, width) for at in steps for width in kept.sigma_rels]
    factors = iter(reconstruct(snapshots, last, sigma_rel).tolist())
    total: Any = None
    for at in steps:
        averages, _ = checkpoint.restore_average(folder, target, at)
        for name in names:
            factor = next(factors)
            part = jax.tree.map(lambda leaf, f=factor: f * leaf, averages[name])
            total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total, last


def of_recipe(
    recipe: Recipe, network: Network, params: Any, mesh: jax.sharding.Mesh, name: str
) -> Trained:
    """A recipe's network with these weights."""
    return Trained(
        model=recipe.model,
        preconditioning=recipe.preconditioning,
        sampling=recipe.sampling,
        network=network,
        params=params,
        mesh=mesh,
        knows_null=recipe.model.num_classes is not None and recipe.label_dropout > 0,
        name=name,
    )


SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "trained_betas": None,
}
"""What diffusers' DDPMScheduler takes where scheduler_config.json is silent."""

PREDICTIONS = {"epsilon": dm.Eps, "v_prediction": dm.V, "sample": dm.X0}


def _of_diffusers(folder: Path) -> Trained:
    path = folder / "scheduler" / "scheduler_config.json"
    values = SCHEDULER | (json.loads(path.read_text()) if path.is_file() else {})
    for name, allowed in {
        "beta_schedule": ("linear",),
        "prediction_type": tuple(PREDICTIONS),
        "variance_type": ("fixed_small", "fixed_large"),
        "trained_betas": (None,),
    }.items():
        if values[name] not in allowed:
            raise ValueError(
                f"{path}: {name}={values[name]!r} cannot be sampled from here; "
                f"{' or '.join(map(repr, allowed))} can."
            )
    unet = unet_flax.load_diffusers(folder)
    if isinstance(unet.config.noise_features, unet_flax.Fourier):
        raise ValueError(
            f"{folder}: time_embedding_type='fourier' (a VE network) cannot be sampled from here; "
            "'positional' can. unet_flax.load_diffusers reads it."
        )
    chain = dm.VPLinear(values["num_train_timesteps"], values["beta_start"], values["beta_end"])
    sampling = Sampling(
        sampler=dm.Ancestral(interpolation=float(values["variance_type"] == "fixed_large")),
        grid=dm.VPTimesteps(chain),
        num_steps=chain.num_timesteps,
        clip_x_0=values["clip_sample"],
    )
    network, params = unet_flax.functional(unet)
    mesh = dm.Mesh().make()
    return Trained(
        model=unet.config,
        preconditioning=PREDICTIONS[values["prediction_type"]](chain),
        sampling=sampling,
        network=network,
        params=sharding.on_every_device(mesh, params),
        mesh=mesh,
        knows_null=False,
        name="diffusers' weights",
    )


def denoiser(trained: Trained, label: jax.Array) -> Denoise:
    """The denoiser with its guidance and clipping.

    Args:
      label: class of each image, -1 for none; ignored by a network without classes.
    """
    cond = {} if trained.model.num_classes is None else {"label": label}
    make = partial(dm.denoiser, trained.network, trained.params, trained.preconditioning)
    denoise = make(**cond)
    if trained.sampling.guidance != 1:
        null = {name: jnp.full_like(value, -1) for name, value in cond.items()}
        denoise = dm.classifier_free(denoise, make(**null), trained.sampling.guidance)
    return dm.clip(denoise) if trained.sampling.clip_x_0 else denoise

"""Writes scheduler_loops.npz beside it: where the loops of diffusers' schedulers end.

    pip install torch==2.13.0 diffusers==0.42.1
    python tests/from_diffusers/make_scheduler_loops.py

Each case of scheduler_cases.py is a class, its fields and a number of steps. The network knows the
exact denoiser of +-0.5 with standard deviation 0.2, and is called as a pipeline calls it: with the
scaled input and the timestep. The noise of step k is numpy's, from the seed k. For each case: x,
the result, and the first and the last timestep that the network was given.
"""

import sys
from pathlib import Path
from unittest import mock

import diffusers
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from scheduler_cases import CASES, SHAPE, chain_of, network_output  # noqa: E402


def run(name: str, fields: dict, num_steps: int) -> dict[str, np.ndarray]:
    scheduler = getattr(diffusers, name)(**fields)
    scheduler.set_timesteps(num_steps)
    if hasattr(scheduler, "set_begin_index"):  # or it begins at the second of two equal timesteps
        scheduler.set_begin_index(0)
    drawn = 0

    def noise(shape, **_) -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        values = np.random.default_rng(drawn - 1).standard_normal(SHAPE)
        return torch.tensor(values.reshape(shape), dtype=torch.float32)

    unit = np.random.default_rng(12345).standard_normal(SHAPE)
    shape = (SHAPE[0], SHAPE[-1], 1, 1)
    x = torch.tensor(unit.reshape(shape), dtype=torch.float32) * float(
        getattr(scheduler, "init_noise_sigma", 1.0)
    )
    module = sys.modules[type(scheduler).__module__]
    given = []
    with mock.patch.object(module, "randn_tensor", noise, create=True):
        for t in scheduler.timesteps:
            scaled = x
            if hasattr(scheduler, "scale_model_input"):
                scaled = scheduler.scale_model_input(x, t)
            given.append(float(t))
            values = scaled.numpy().astype(np.float64).reshape(SHAPE)
            out = network_output(name, fields, chain_of(name, fields), values, float(t))
            out = torch.tensor(out.reshape(shape), dtype=torch.float32)
            x = scheduler.step(out, t, x).prev_sample.float()
    return {"x": x.numpy().reshape(SHAPE), "timesteps": np.array([given[0], given[-1]])}


def main() -> None:
    arrays = {}
    for case, (name, fields, num_steps) in CASES.items():
        found = run(name, fields, num_steps)
        assert np.isfinite(found["x"]).all(), case
        arrays |= {f"{case}.{key}": value for key, value in found.items()}
    np.savez_compressed(Path(__file__).parent / "scheduler_loops.npz", **arrays)
    print(len(CASES), "cases")


if __name__ == "__main__":
    main()

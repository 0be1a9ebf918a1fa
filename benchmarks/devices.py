"""What both sides run on: `python -m benchmarks.devices` ends with one line unless it is a GPU."""

import sys

import jax
import torch


def torch_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shared() -> str:
    """The kind of device that JAX and PyTorch are both on; ends the program where they differ."""
    ours = jax.default_backend()
    theirs = "gpu" if torch_device().type == "cuda" else "cpu"
    if ours != theirs:
        sys.exit(
            f"JAX runs on a {ours}, PyTorch on a {theirs}: no comparison. Install both for one kind"
            " of device, or hide the GPU by CUDA_VISIBLE_DEVICES=-1."
        )
    return ours


if __name__ == "__main__":
    if shared() != "gpu":
        sys.exit("JAX and PyTorch see no GPU here; `make bench` measures the CPU.")

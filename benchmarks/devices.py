"""Checks that JAX and PyTorch use the same device; `python -m benchmarks.devices` demands a GPU."""

import sys

import jax
import torch


def torch_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shared() -> str:
    """The platform that JAX and PyTorch both use; exits with a message if they differ."""
    ours = jax.default_backend()
    theirs = "gpu" if torch_device().type == "cuda" else "cpu"
    if ours != theirs:
        sys.exit(
            f"JAX runs on the {ours}, but PyTorch on the {theirs}. Install both for the same "
            "device, or hide the GPU with CUDA_VISIBLE_DEVICES=-1."
        )
    return ours


if __name__ == "__main__":
    if shared() != "gpu":
        sys.exit("JAX and PyTorch find no GPU; use `make bench` to measure the CPU.")

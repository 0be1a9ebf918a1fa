"""XLA options for CPUs: products and convolutions use all cores, and loops wide vectors.

XLA in jaxlib 0.10 to 0.12 gives convolutions, matrix products and reductions to YNNPACK. That runs
convolutions of fewer than about 128 channels, and the gradient of a kernel over wide images, on one
core, where Eigen, which XLA used before, runs them on all: 2 to 4 times as fast on two cores.
Matrix products are slightly faster by Eigen too; reductions are YNNPACK's. Vectors of 512 bits,
where a CPU has them, speed up all other operations. The numbers are the same but for rounding.
docs/results.md has the figures.

No option changes this: XLA asks malloc for a call's whole workspace and frees it at the call's end,
and glibc gives such a block back to the system, which clears every page of the next one. A malloc
that keeps it, preloaded, takes 6 to 23 % off a training step (README, Speed).
"""

import os

import jax

OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_cpu_prefer_vector_width": "512",
}


def tune_cpu() -> None:
    """Sets `OPTIONS` for the whole process; to be called before anything is computed.

    Adds to XLA_FLAGS, which touches no GPU or TPU, and keeps the options that are set there. Does
    nothing with another version of jaxlib, which might not know an option.
    """
    version = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if not (0, 10) <= version <= (0, 12):
        return
    flags = os.environ.get("XLA_FLAGS", "")
    new = [f"--{name}={value}" for name, value in OPTIONS.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *new]).strip()

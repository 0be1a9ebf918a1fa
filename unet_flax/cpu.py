"""What XLA is told on a CPU, so that every convolution uses all cores.

XLA in jaxlib 0.10 to 0.12 gives convolutions to YNNPACK. That runs those of fewer than about 128
channels, and the gradient of a kernel over wide images, on one core, where Eigen, which XLA used
before, runs them on all: 2 to 4 times as fast on two cores. The numbers are the same but for
rounding. docs/results.md has the figures.
"""

import os

import jax

OPTION = "xla_cpu_experimental_ynn_fusion_type"
VALUE = "-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"


def tune_cpu() -> None:
    """Sets the option for the whole process; to be called before anything is computed.

    Adds to XLA_FLAGS, which touches no GPU or TPU. Where the user has chosen otherwise there, or
    jaxlib is of another version, which might not know the option, nothing is changed.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    version = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if (0, 10) <= version <= (0, 12) and OPTION not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{OPTION}={VALUE}".strip()

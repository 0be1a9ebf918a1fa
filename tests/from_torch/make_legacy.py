"""Writes legacy.pth beside it: tensors of many kinds, as torch.save wrote them before PyTorch 1.6.

pip install torch==2.13.0
python tests/from_torch/make_legacy.py
"""

import collections
from pathlib import Path

import torch


def main() -> None:
    whole = torch.arange(24.0).reshape(2, 3, 4)
    state = collections.OrderedDict(
        whole=whole,
        transposed=whole.transpose(0, 2),
        part=whole[1, 1:],
        half=whole.half(),
        bfloat16=whole.bfloat16(),
        numbers=torch.arange(4),
        scalar=torch.tensor(3.0),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(whole),
    )
    state._metadata = {"": {"version": 1}}
    torch.save(state, Path(__file__).parent / "legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()

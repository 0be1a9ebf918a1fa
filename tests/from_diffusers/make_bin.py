"""Writes torch_save.bin and torch_save_1_5.bin beside it: tensors of many kinds, by torch.save.

The second has the layout of PyTorch before 1.6, which published weights of that time have.

pip install torch==2.13.0
python tests/from_diffusers/make_bin.py
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
    folder = Path(__file__).parent
    torch.save(state, folder / "torch_save.bin")
    torch.save(state, folder / "torch_save_1_5.bin", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()

"""The record of a run's data: data.json, with the number of its images and their checksum, and
tokenizer.json, by which its texts were read.

Batch k is a function of (seed, k) only as long as the data is the same. So a run resumes on the
data that it began with, wherever that lies, and not on a folder that has gained a picture.
"""

import json
import zlib
from pathlib import Path

from diffusion.data.dataset import Dataset
from diffusion.run import hosts

TOKENIZER = "tokenizer.json"


def claim(run_dir: Path, dataset: Dataset, *, resumes: bool) -> None:
    """Writes data.json, or compares it with the data if the run resumes; all hosts must call it.

    A resumed run without data.json takes the data as it is. Data with texts has tokenizer.json
    written, too, and again if it was lost.

    Raises:
      ValueError: the data is not what the run began with, or differs between the hosts.
    """
    crc, file = dataset.checksum(), run_dir / "data.json"
    hosts.check_same(crc, "data", "give each of them a copy of the same data")
    found: dict[str, int | str] = {"num_images": len(dataset), "checksum": f"{crc:08x}"}
    texts = getattr(dataset, "texts", None)  # few datasets have texts
    if resumes and file.exists():
        stored = _read(file)
        if {name: stored[name] for name in found} != found:  # words' numbers are in the checksum
            raise ValueError(
                f"{run_dir} was trained on other data ({_described(stored)}) than this "
                f"({_described(found)}), and its batches would not be those of its seed; restore "
                f"the data, choose another --run-dir, or remove {file} to go on all the same."
            )
        if texts is None or (run_dir / TOKENIZER).exists():
            return
    if hosts.is_main():
        run_dir.mkdir(parents=True, exist_ok=True)
        if texts is not None:
            content = texts.reader.to_json()
            _write(run_dir / TOKENIZER, content)
            found["tokenizer"] = _checksum(content)
        _write(file, json.dumps(found) + "\n")


def tokenizer(run_dir: Path) -> str:
    """The content of the run's tokenizer.json.

    Raises:
      OSError: it is missing.
      ValueError: it is not the one that the run was trained with.
    """
    file = run_dir / TOKENIZER
    text = file.read_text()
    if _read(run_dir / "data.json").get("tokenizer") != _checksum(text):
        raise ValueError(
            f"{file} is not the tokenizer that this run was trained with, so words would have "
            "other numbers; restore that file."
        )
    return text


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}")
    partial.write_text(text)
    partial.replace(file)


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _read(file: Path) -> dict[str, int | str]:
    try:
        stored = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise ValueError(f"{file} is damaged: {error}; remove it.") from error
    if not isinstance(stored, dict) or stored.keys() - {"tokenizer"} != {"num_images", "checksum"}:
        raise ValueError(f"{file} is damaged; remove it.")
    return stored


def _described(data: dict[str, int | str]) -> str:
    return f"{data['num_images']} images, checksum {data['checksum']}"

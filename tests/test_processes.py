"""Laws of the processes that prepare data: who stops them, and what they import."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion.data import preparation
from diffusion.data.fit import Fit

BATCHES = """
import os, sys
import numpy as np
from diffusion.data import workers

def who(step):
    return [{"pid": np.array(os.getpid())}]

if __name__ == "__main__":
    batches = workers.each_step(who, 0, 2)
    print(*{int(next(batches)[0]["pid"]) for _ in range(4)}, flush=True)
    sys.stdin.readline()
    for _ in range(20):
        next(batches)
    print("alive", flush=True)
    sys.stdin.readline()
"""


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_processes_outlive_ctrl_c_and_no_kill(tmp_path):
    (tmp_path / "script.py").write_text(BATCHES)
    pipe = subprocess.PIPE
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdin=pipe, stdout=pipe, stderr=pipe, text=True,
    )  # fmt: skip
    assert run.stdin and run.stdout and run.stderr
    pids = [int(word) for word in run.stdout.readline().split()]
    assert len(pids) == 2 and run.pid not in pids
    for pid in pids:
        os.kill(pid, signal.SIGINT)  # as Ctrl-C in a terminal does, which reaches all processes
    run.stdin.write("\n")
    run.stdin.flush()
    assert run.stdout.readline() == "alive\n"
    run.kill()
    run.communicate(timeout=20)  # the pipes are closed when the last process has ended
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclasses.dataclass(frozen=True)
class Counted:
    """A source that leaves a file for each picture that was read."""

    folder: Path
    names = tuple(map(str, range(40)))
    fingerprint = ""

    def labels(self, field):
        raise NotImplementedError

    def read(self, index):
        (self.folder / str(index)).touch()
        return np.zeros((4, 4), np.uint8)


@pytest.mark.slow
def test_processes_read_only_a_little_ahead_of_what_is_written(tmp_path):
    spans = [range(i, i + 1) for i in range(40)]
    blocks = preparation._read_spans(Counted(tmp_path), Fit(4, 4, 1), spans, 1)  # pyright: ignore
    for _ in range(5):
        next(blocks)
    time.sleep(1)  # for many more, if nothing held them back
    assert len(list(tmp_path.iterdir())) <= 5 + preparation.AHEAD
    assert len(list(blocks)) == 35


PICTURES = """
import sys
from diffusion.data import Pictures, preparation

preparation.IN_PROCESS = preparation.PART = 1
fields = dict(path=sys.argv[1], image_size=4, cache_dir=sys.argv[2], num_workers=1)
print(len(Pictures(**fields).load()))
"""


@pytest.mark.slow
def test_a_script_without_a_guard_reads_its_pictures_in_processes(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(3):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a" / f"{i}.png")
    (tmp_path / "script.py").write_text(PICTURES)
    command = [sys.executable, tmp_path / "script.py", tmp_path / "a", tmp_path / "cache"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("3\n", "", 0)

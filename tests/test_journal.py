"""Laws of what a run logs."""

import json

import jax.numpy as jnp
import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from diffusion.run.journal import Files, Journal
from diffusion.run.profile import Profile
from diffusion.run.tensorboard import TensorBoard


def lines_of(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def write(run_dir, after, steps):
    journal = Journal(run_dir, [Files(run_dir, after), TensorBoard(run_dir, after)])
    for step in steps:
        journal.metrics(step, {"loss": float(step)})
    journal.close()


def test_resuming_removes_lines_after_the_checkpoint_and_incomplete_lines(tmp_path):
    write(tmp_path, 0, [10, 20, 30])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    write(tmp_path, 20, [30, 40])
    assert [line["step"] for line in lines_of(tmp_path)] == [10, 20, 30, 40]


def test_resuming_removes_lines_that_are_not_text(tmp_path):
    write(tmp_path, 0, [1, 2])
    with open(tmp_path / "metrics.jsonl", "ab") as lines:
        lines.write(b"\xff\xfe{\n")
    write(tmp_path, 2, [3])
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]


def test_resuming_removes_grids_after_the_checkpoint_and_unfinished_ones(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("10.png", ".10.png", "20.png", "30.png", "my own.png"):
        (tmp_path / "samples" / name).touch()
    Files(tmp_path, 20).close()
    kept = {path.name for path in (tmp_path / "samples").iterdir()}
    assert kept == {"10.png", "20.png", "my own.png"}


def events(path):
    """The events of a TensorBoard file: length, its checksum, event, its checksum."""
    data = path.read_bytes()
    while data:
        size = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path):
    write(tmp_path, 0, [10, 20])
    write(tmp_path, 10, [20, 30])
    write(tmp_path, 30, [])  # logs nothing, and so creates no file
    first, second = sorted(tmp_path.glob("events.out.tfevents.*"))
    logged = [
        [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        for event in events(first)
    ]
    assert sum(logged, []) == [(10, "loss", 10.0), (20, "loss", 20.0)]
    starts = [event.step for event in events(second) if event.HasField("session_log")]
    assert starts == [11]  # TensorBoard hides earlier values of this step and later ones


def test_a_trace_holds_the_chosen_steps_alone(tmp_path):
    profile = Profile(tmp_path, (3, 3))
    written = []
    for step in range(5):
        profile.before(step, step + 1, jnp.zeros(1))
        written.append(any(tmp_path.rglob("*.xplane.pb")))
    assert written == [False, False, False, True, True]  # when the third has ended


def test_a_grid_of_samples_is_a_complete_file_and_an_image_in_tensorboard(tmp_path):
    pixels = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
    journal = Journal(tmp_path, [Files(tmp_path, 0), TensorBoard(tmp_path, 0)])
    journal.samples(7, pixels)
    journal.close()
    with Image.open(tmp_path / "samples" / "7.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[::128, ::128], pixels)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["7.png"]
    [path] = tmp_path.glob("events.out.tfevents.*")
    [value] = [value for event in events(path) for value in event.summary.value]
    assert value.tag == "samples" and value.image.width == 5

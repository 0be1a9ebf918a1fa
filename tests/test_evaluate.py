"""Laws of the command that measures: what it compares, what it keeps, what it refuses."""

import json
import os
import re
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from runs import mistake

import diffusion as dm
import evaluate
from commands import (
    compared_images,
    evaluation,
    feature_files,
    feature_networks,
    image_sets,
    pipeline,
)
from commands.evaluate_request import EvaluateRequest
from commands.feature_networks import FeatureNetwork, Kind
from diffusion import metrics
from diffusion.data import Digits
from diffusion.keys import IMPL
from diffusion.metrics import own_classifier as own
from diffusion.sharding import Mesh

WIDTH = 5


@pytest.fixture
def network():
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((64, WIDTH)).astype(np.float32)}
    return FeatureNetwork("tiny", "tiny 1", lambda p, x: (_features(p, x), None), params)


def _features(params, pixels):
    return (jnp.asarray(pixels, jnp.float32).mean(-1).reshape(len(pixels), -1) / 255) @ params["w"]


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), np.uint8)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of the tiny network's weights, which the command knows."""
    rng = np.random.default_rng(0)
    kind = Kind("tiny", "w", "tiny 1", lambda params: None, lambda p, x: (_features(p, x), None))
    monkeypatch.setattr(feature_networks, "KINDS", (*feature_networks.KINDS, kind))
    path = tmp_path / "tiny.safetensors"
    array = rng.standard_normal((64, WIDTH)).astype(np.float32)
    safetensors.numpy.save_file({"w": array}, str(path))
    return path


def run(tmp_path, *argv):
    out = tmp_path / "result.json"
    evaluate.main([*map(str, argv), "--cache-dir", str(tmp_path / "cache"), "--json", str(out)])
    return json.loads(out.read_text())


def saved(path, pixels):
    np.savez(path, arr_0=pixels)
    return path


def test_the_command_prints_what_the_measures_give_for_the_same_features(tmp_path, weights, capsys):
    x, y = noise(40), noise(60, seed=1) // 2
    result = run(
        tmp_path,
        saved(tmp_path / "x.npz", x),
        "--reference",
        saved(tmp_path / "y.npz", y),
        "--features",
        weights,
        "--metrics",
        "fd",
        "kid",
        "pr",
        "dc",
        "--batch-size",
        16,
    )
    params = feature_networks.read(str(weights)).params
    shuffled = (image_sets.of_files(str(tmp_path / name)) for name in ("x.npz", "y.npz"))
    fx, fy = (np.asarray(_features(params, a.read(0, a.count))) for a in shuffled)
    statistics = [metrics.FeatureStatistics.of(f) for f in (fx, fy)]
    expected = {
        "FD-tiny": metrics.frechet_distance(*statistics),
        "KID-tiny": metrics.kernel_inception_distance(fx, fy, subset_size=40).mean,
        "precision": metrics.precision_recall(fx, fy).precision,
        "coverage": metrics.density_coverage(fx, fy).coverage,
    }
    for name, value in expected.items():
        assert result["values"][name] == [pytest.approx(value, rel=1e-4)], name
    assert (
        "30 of one half" in result["floor_of"] and result["floor"]["FD-tiny"] < expected["FD-tiny"]
    )
    assert "40 of" in result["protocol"]["images"] and "60 of" in result["protocol"]["reference"]
    said = capsys.readouterr().out
    assert result["protocol"]["pr"] == "k = 3" and "subsets of" in result["protocol"]["kid"]
    assert "FD-tiny" in said and "tiny 1, sha256" in said


def test_images_are_as_near_to_themselves_as_can_be(tmp_path, weights):
    x = saved(tmp_path / "x.npz", noise(40))
    result = run(tmp_path, x, "--reference", x, "--features", weights)
    assert result["values"]["FD-tiny"][0] == pytest.approx(0, abs=1e-6)
    assert result["values"]["precision"] == result["values"]["recall"] == [1.0]


@pytest.mark.parametrize(("shape", "warns"), [((8, 8), False), ((4, 16), True)])
def test_images_of_another_size_than_the_references_are_named(tmp_path, weights, shape, warns):
    x = saved(tmp_path / "x.npz", noise(40).reshape(40, *shape, 1))
    y = saved(tmp_path / "y.npz", noise(40, seed=1))
    result = run(tmp_path, x, "--reference", y, "--features", weights, "--metrics", "fd")
    assert ("the reference has (8, 8, 3)" in result["protocol"]["pixels"]) is warns


def test_statistics_of_a_file_give_the_distance_of_the_images(tmp_path, weights):
    x, y = saved(tmp_path / "x.npz", noise(40)), saved(tmp_path / "y.npz", noise(60, seed=1))
    evaluate.main(
        [
            str(y),
            "--features",
            str(weights),
            "--statistics",
            str(tmp_path / "s.npz"),
            "--cache-dir",
            str(tmp_path / "cache"),
        ]
    )
    of_file = run(tmp_path, x, "--reference", tmp_path / "s.npz", "--features", weights)
    of_images = run(tmp_path, x, "--reference", y, "--features", weights, "--metrics", "fd")
    assert of_file["values"] == of_images["values"] and of_file["floor"] == {}
    with np.load(tmp_path / "s.npz") as arrays:  # EDM's layout
        assert arrays["mu"].shape == (WIDTH,) and arrays["sigma"].shape == (WIDTH, WIDTH)


def test_a_dataset_by_name_is_measured_in_the_number_that_is_asked(tmp_path, weights, capsys):
    options = ["--features", str(weights), "--cache-dir", str(tmp_path / "cache")]
    evaluate.main(
        ["digits", *options, "--num-images", "30", "--statistics", str(tmp_path / "s.npz")]
    )
    assert "statistics of 30 images of digits" in capsys.readouterr().out
    found = run(
        tmp_path, "digits", "--num-images", 30, "--reference", tmp_path / "s.npz", *options[:2]
    )
    assert found["values"]["FD-tiny"] == [pytest.approx(0, abs=1e-6)]


@pytest.mark.parametrize("argv", ["digits --reference X", "X --reference digits"])
def test_a_name_of_a_dataset_and_of_a_folder_is_refused(tmp_path, monkeypatch, argv, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    x = str(saved(tmp_path / "x.npz", noise(6)))
    said = mistake(evaluate.main, [x if word == "X" else word for word in argv.split()], capsys)
    assert "digits is a dataset, and a file or folder here" in said
    assert f"full path {tmp_path / 'digits'}" in said


def test_a_folder_a_zip_and_an_array_of_the_same_pictures_have_the_same_features(tmp_path, network):
    pixels = noise(5)
    (tmp_path / "a").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image[..., 0]).save(tmp_path / "a" / f"{i}.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(5):
            archive.write(tmp_path / "a" / f"{i}.png", f"{i}.png")
    saved(tmp_path / "a.npz", pixels)
    whole = [image_sets.of_files(str(tmp_path / name)) for name in ("a", "a.zip", "a.npz")]
    for images in whole:
        assert images.shape == (8, 8, 3) and images.count == 5
        np.testing.assert_array_equal(images.read(1, 4), whole[0].read(0, 5)[1:4])
    np.testing.assert_array_equal(
        np.unique(whole[0].read(0, 5), axis=0), np.unique(np.repeat(pixels, 3, -1), axis=0)
    )


def test_the_first_images_of_files_are_of_all_folders(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.new("L", (4, 4), 255 * (name == "dogs")).save(tmp_path / name / f"{i}.png")
    images = image_sets.of_files(str(tmp_path), channels=1)
    for chosen in (images.first(20), images.first(10)):
        assert 0.2 < (chosen.read(0, 20) == 255).mean() < 0.8


def images_of(pixels, read=None):
    return image_sets.ImageSet(
        "x", "x", len(pixels), pixels.shape[1:], read or (lambda first, last: pixels[first:last])
    )


@pytest.mark.parametrize("batch_size", [4, 8])
@pytest.mark.parametrize("devices", [1, 4])
def test_features_do_not_depend_on_batches_and_devices(tmp_path, network, batch_size, devices):
    pixels, mesh = noise(11), Mesh(devices).make()
    found = feature_files.read(
        network, images_of(pixels), tmp_path, mesh=mesh, batch_size=batch_size
    )
    np.testing.assert_allclose(
        found.features, _features(network.params, pixels), rtol=1e-5, atol=1e-5
    )
    assert found.logits is None


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_features_are_computed_once_whatever_kills_a_call(tmp_path, network, killed_after):
    pixels, mesh = noise(20), Mesh(1).make()
    asked = []

    def read(first, last):
        if len(asked) == killed_after:
            raise KeyboardInterrupt
        asked.append((first, last))
        return pixels[first:last]

    with pytest.raises(KeyboardInterrupt):
        feature_files.read(network, images_of(pixels, read), tmp_path, mesh=mesh, batch_size=4)
    for file in tmp_path.rglob("features.bin"):
        file.write_bytes(file.read_bytes() + b"half")  # of a row that was being written
    killed_after = 99
    found = feature_files.read(network, images_of(pixels, read), tmp_path, mesh=mesh, batch_size=4)
    assert [first for first, _ in asked] == [0, 4, 8, 12, 16]
    np.testing.assert_allclose(
        found.features, _features(network.params, pixels), rtol=1e-5, atol=1e-5
    )
    fewer = feature_files.read(
        network, images_of(pixels, read).first(6), tmp_path, mesh=mesh, batch_size=4
    )
    np.testing.assert_array_equal(fewer.features, found.features[:6])


def test_two_calls_at_once_compute_features_once(tmp_path, network):
    pixels, mesh, asked = noise(20), Mesh(1).make(), []

    def read(first, last):
        time.sleep(0.05)
        asked.append(first)
        return pixels[first:last]

    def features(_):
        return feature_files.read(
            network, images_of(pixels, read), tmp_path, mesh=mesh, batch_size=4
        ).features

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(features, range(2)))
    assert asked == [0, 4, 8, 12, 16]
    for one in found:
        np.testing.assert_allclose(one, _features(network.params, pixels), rtol=1e-5, atol=1e-5)


def test_features_that_are_whole_are_read_without_writing(tmp_path, network):
    images, mesh = images_of(noise(8)), Mesh(1).make()
    one = feature_files.read(network, images, tmp_path, mesh=mesh, batch_size=4)
    (file,) = tmp_path.rglob("features.bin")
    os.utime(file, (1, 1))
    two = feature_files.read(network, images, tmp_path, mesh=mesh, batch_size=4)
    assert file.stat().st_mtime == 1
    np.testing.assert_array_equal(one.features, two.features)


def test_a_datasets_images_are_all_of_it_once_with_their_classes():
    images = image_sets.of_dataset("digits", Digits(batch_size=100))
    whole, digits = images.read(0, 1797), Digits().load()
    order = np.lexsort(whole.reshape(1797, -1).T)
    right = np.lexsort(digits.pixels.reshape(1797, -1).T)
    np.testing.assert_array_equal(whole[order], digits.pixels[right])
    np.testing.assert_array_equal(images.labels[order], digits.labels[right])
    np.testing.assert_array_equal(images.read(95, 310), whole[95:310])


def test_a_run_is_measured_by_a_classifier_of_its_own_data(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(own, "NUM_STEPS", 5)
    monkeypatch.setattr(own, "WIDTHS", (4, 8))
    options = ("--num-images", 12, "--batch-size", 8, "--metrics", "fd", "agreement")
    one = run(tmp_path, run_dir, *options)
    two = run(tmp_path, run_dir, *options, "--seeds", 2)
    assert two["values"]["FD-self"][0] == one["values"]["FD-self"][0]
    assert two["values"]["FD-self"][0] != two["values"]["FD-self"][1]
    assert 0 <= one["values"]["class agreement"][0] <= 1
    assert "class agreement" not in one["floor"]  # the classifier has seen all real images
    assert one["floor_of"].startswith("12 of one half")  # as many real images as drawn ones
    assert "average " in one["protocol"]["images"] and "Digits(" in one["protocol"]["data"]
    assert one["floor"]["FD-self"] < one["values"]["FD-self"][0]  # the run is hardly trained
    assert "2 steps, 3 network calls an image" in one["protocol"]["grid"]
    said = capsys.readouterr().out
    assert said.count("Training a classifier") == 1 and "lowest" in said


@pytest.mark.slow
def test_bits_per_dimension_are_those_of_the_likelihood(run_dir, tmp_path):
    result = run(
        tmp_path,
        run_dir,
        "--metrics",
        "bpd",
        "--num-images",
        6,
        "--batch-size",
        4,
        "--num-steps",
        9,
    )
    trained, images = pipeline.read(run_dir), image_sets.of_dataset("digits", Digits(batch_size=8))
    key = jax.random.key(0, impl=IMPL)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(6))
    bits = dm.bits_per_dim(
        trained.denoiser(jnp.asarray(images.labels[:6])),
        jnp.asarray(images.read(0, 6)),
        keys,
        num_probes=1,
    )
    assert result["values"]["bits/dim"] == [pytest.approx(float(bits.mean()), rel=1e-3)]
    assert "of 6 images" in result["protocol"]["bits/dim"]
    assert f"{run_dir} (step " in result["protocol"]["bits/dim"]


def test_the_classifier_learns_and_is_a_function_of_its_data(monkeypatch):
    monkeypatch.setattr(own, "NUM_STEPS", 60)
    monkeypatch.setattr(own, "WIDTHS", (8, 16))
    monkeypatch.setattr(own, "LEARNING_RATE", 0.01)
    pixels = noise(200) // 4
    labels = np.arange(200, dtype=np.int32) % 3
    for i, label in enumerate(labels):
        pixels[i, 2 * label : 2 * label + 2] += 150  # a bright bar
    params = own.train_own_classifier(pixels[:150], labels[:150], 3)
    _, logits = own.own_classifier(params, pixels[150:])
    assert (logits.argmax(1) == labels[150:]).mean() > 0.95
    again = own.train_own_classifier(pixels[:150], labels[:150], 3)
    jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.parametrize(
    "argv, says",
    [
        ("X", "X is no run, so its training data is not known; give --reference"),
        ("NOTHING --reference digits", "does not exist"),
        ("X --reference digits --metrics fid", "defined by the features of Inception"),
        ("X --reference digits --metrics fit", "fit: choose from fid, fd"),
        ("X --reference X", "--features self needs a reference with classes"),
        ("X --reference X --features X", "cannot be read|no file of torch.save|none of"),
        ("X --reference digits --seeds 2", "--seeds 2: .* is no run"),
        ("X --reference digits --num-images 99", "has 6 images"),
        ("X --reference digits --num-images 1", "--num-images 1 has no covariance"),
        (
            "X --reference X --features W --json no/r.json",
            "--json no/r.json: there is no folder no",
        ),
        ("X --features W --statistics no/s.npz", "--statistics no/s.npz: there is no folder no"),
        ("X --reference digits --metrics agreement", "agreement needs images with classes"),
        ("X --reference digits --features W --num-images 3", "pr takes 4 images .*x.npz has 3"),
        ("X --reference X --features W", "pr compares real .* 4 others .* leaves 3; give a larger"),
        ("X --statistics s.npz", "--statistics needs --features FILE"),
        ("X --statistics s.npz --metrics fid", "excludes"),
        ("X --reference P --features W --metrics kid", "needs the reference's images"),
        ("X --reference S --features W", "has features of other, but"),
        ("X --reference digits --features W --metrics is", "Inception"),
        ("MIXED --reference X --features W --metrics fd", "is 4 x 4, but .* 8 x 8"),
    ],
)
def test_a_mistake_is_one_line_before_any_image_is_described(tmp_path, weights, argv, says, capsys):
    saved(tmp_path / "x.npz", noise(6))
    (tmp_path / "mixed").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "mixed" / "0.png")
    Image.new("L", (4, 4)).save(tmp_path / "mixed" / "1.png")
    statistics = metrics.FeatureStatistics.of(np.eye(WIDTH), "other")
    statistics.save(tmp_path / "stats.npz")
    metrics.FeatureStatistics.of(np.eye(WIDTH)).save(tmp_path / "plain.npz")
    places = {"X": "x.npz", "W": "tiny.safetensors", "S": "stats.npz", "P": "plain.npz"}
    places["MIXED"] = "mixed"
    words = [str(tmp_path / places[word]) if word in places else word for word in argv.split()]
    said = mistake(evaluate.main, [*words, "--cache-dir", str(tmp_path / "cache")], capsys)
    assert re.search(says.replace("X is", "x.npz is"), said), said
    assert "MIXED" in argv or not (tmp_path / "cache").exists()


def test_the_datas_own_classifier_is_refused_for_images_of_other_channels():
    digits = compared_images.of_dataset("digits", Digits())
    colour = images_of(np.repeat(noise(6), 3, -1))
    request = EvaluateRequest(Path("x"), metrics=("fd",))
    with pytest.raises(ValueError, match="digits with 1 channels, and x has 3"):
        evaluation.network_of(request, digits, colour)

"""Laws of the data: its order, and CIFAR-10's real archive format."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cifar

import train
from diffusion.data import (
    Cifar10,
    Cifar100,
    Digits,
    FashionMnist,
    ImageArrays,
    ImageNet64,
    Pictures,
    checksum,
)
from diffusion.data.sources import open_source
from diffusion.pixels import to_pixels

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


@pytest.fixture(scope="module")
def arrays():
    pixels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    return ImageArrays(pixels, np.arange(10, dtype=np.int32), tuple("abcdefghij"), batch_size=4)


def test_a_batch_is_a_function_of_seed_and_step(arrays):
    again = ImageArrays(arrays.pixels, arrays.labels, arrays.label_names, batch_size=4)
    for step in (7, 0, 3):
        assert np.array_equal(arrays.batch(1, step)["label"], again.batch(1, step)["label"])
    assert not np.array_equal(arrays.batch(1, 3)["label"], arrays.batch(2, 3)["label"])


def test_the_checksum_is_of_every_byte_and_of_the_order(arrays):
    again = ImageArrays(arrays.pixels.copy(), arrays.labels, arrays.label_names, batch_size=2)
    assert again.checksum() == arrays.checksum()
    kinds = np.zeros((10, 2), np.float32)
    swapped = arrays.pixels[[0, 1, 2, 3, 4, 5, 6, 7, 9, 8]]
    others = [
        ImageArrays(swapped, arrays.labels, (), 4),
        ImageArrays(arrays.pixels[:9], arrays.labels[:9], (), 4),
        ImageArrays(arrays.pixels, arrays.labels[::-1], (), 4),
        ImageArrays(arrays.pixels, None, (), 4),
        ImageArrays(arrays.pixels, arrays.labels, (), 4, conditions={"kind": kinds}),
        ImageArrays(arrays.pixels, arrays.labels, (), 4, conditions={"sort": kinds}),
    ]
    assert len({data.checksum() for data in (arrays, *others)}) == 7


def test_the_checksum_is_the_same_in_parts(arrays, monkeypatch):
    whole = checksum.of_array(arrays.pixels)
    parts = checksum.of_array(arrays.pixels[4:], checksum.of_array(arrays.pixels[:4]))
    monkeypatch.setattr(checksum, "CHUNK_BYTES", 3)
    assert whole == parts == checksum.of_array(arrays.pixels)
    assert whole == checksum.of_array(np.asfortranarray(arrays.pixels))


def test_every_epoch_shows_each_image_once_in_a_new_order(arrays):
    seen = np.concatenate([arrays.indices(0, step) for step in range(5)])  # two epochs of ten
    first, second = seen[:10], seen[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert not np.array_equal(first, second)


def test_the_orders_of_seeds_and_epochs_are_all_different(arrays):
    whole = ImageArrays(arrays.pixels, None, (), batch_size=10)  # a step is an epoch
    orders = {tuple(whole.indices(seed, step)) for seed in range(4) for step in range(4)}
    assert len(orders) == 16


def test_a_batch_may_be_larger_than_the_data(arrays):
    large = ImageArrays(arrays.pixels, None, (), batch_size=25)
    assert np.bincount(large.indices(0, 0)).tolist().count(2) >= 5
    assert set(large.batch(0, 0)) == {"image"}


def test_labels_stay_with_their_images(arrays):
    batch = arrays.batch(0, 2)
    np.testing.assert_array_equal(to_pixels(batch["image"]).ravel(), batch["label"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_labels_of_any_integer_type_are_given_as_int32(arrays, dtype):
    stored = ImageArrays(arrays.pixels, arrays.labels.astype(dtype), (), batch_size=4)
    resident = stored.resident()
    for label in (stored.batch(0, 0)["label"], resident.arrays["label"], stored.spec["label"]):
        assert label.dtype == np.int32
    assert resident.num_bytes == 10 * 1 + 10 * 4  # a pixel and a label each


@pytest.mark.parametrize(("label", "fits"), [(-1, False), (0, True), (2, True), (3, False)])
def test_labels_are_indices_of_their_names(label, fits):
    pixels, labels = np.zeros((2, 1, 1, 1), np.uint8), np.array([label, 1])
    if fits:
        ImageArrays(pixels, labels, ("a", "b", "c"), batch_size=1)
    else:
        with pytest.raises(ValueError, match="do not fit 3 classes"):
            ImageArrays(pixels, labels, ("a", "b", "c"), batch_size=1)


@pytest.mark.parametrize("rows", [9, 11])
def test_every_array_has_a_row_for_each_image(arrays, rows):
    with pytest.raises(ValueError, match=f"caption has {rows} rows for 10 images"):
        ImageArrays(arrays.pixels, None, (), 4, conditions={"caption": np.zeros((rows, 2))})


def test_digits_are_the_1797_real_ones_with_their_whole_range():
    digits = Digits().load()
    assert digits.pixels.shape == (1797, 8, 8, 1)
    assert (digits.pixels.min(), digits.pixels.max()) == (0, 255)
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="batch_size=0"):
        Digits(batch_size=0).load()


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 32, 32, 3), np.uint8), rng.integers(0, 10, 20).astype(np.int32)


def write_archive(folder, pixels, labels):
    """CIFAR-10's binary format: a label byte, then 3072 bytes of channels, rows, columns."""
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    records = [
        bytes([label]) + image.transpose(2, 0, 1).tobytes()
        for image, label in zip(pixels, labels, strict=True)
    ]
    files = {f"data_batch_{i + 1}.bin": records[4 * i : 4 * i + 4] for i in range(5)}
    files["test_batch.bin"] = records[:3]
    members = {name: b"".join(parts) for name, parts in files.items()}
    members["batches.meta.txt"] = ("\n".join(names) + "\n").encode()
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def archive(tmp_path, truth, monkeypatch):
    """A small archive in the real format; the builder is patched to expect its checksum."""
    path = write_archive(tmp_path, *truth)
    content = path.read_bytes()
    info = tfds.download.checksums.UrlInfo(
        size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=path.name
    )
    monkeypatch.setattr(cifar.Cifar10, "url_infos", {URL: info})
    return path


def test_cifar100_has_its_fine_or_its_coarse_classes(tmp_path, truth, monkeypatch):
    pixels, fine = truth
    coarse = fine // 5
    records = [
        bytes([two, one]) + image.transpose(2, 0, 1).tobytes()  # the superclass comes first
        for image, one, two in zip(pixels, fine, coarse, strict=True)
    ]
    members = {
        "train.bin": b"".join(records),
        "test.bin": records[0],
        "fine_label_names.txt": "\n".join(f"fine{i}" for i in range(100)).encode() + b"\n",
        "coarse_label_names.txt": "\n".join(f"coarse{i}" for i in range(20)).encode() + b"\n",
    }
    path = tmp_path / "cifar-100-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    info = tfds.download.checksums.UrlInfo(path.stat().st_size, checksum, path.name)
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    monkeypatch.setattr(cifar.Cifar100, "url_infos", {url: info})
    for is_coarse, labels in ((False, fine), (True, coarse)):
        data = Cifar100(
            path=str(tmp_path / "tfds"), manual_dir=str(tmp_path), labelled=True, coarse=is_coarse
        )
        loaded = data.load()
        np.testing.assert_array_equal(loaded.pixels, pixels)
        np.testing.assert_array_equal(loaded.labels, labels)
        assert len(loaded.label_names) == data.num_classes == (20 if is_coarse else 100)


def test_a_dataset_that_tfds_has_prepared_is_a_source_of_pictures(
    archive, tmp_path, truth, monkeypatch
):
    Cifar10(path=str(tmp_path / "tfds"), manual_dir=str(archive.parent)).load()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    fields = dict(image_size=32, cache_dir=str(tmp_path / "cache"), num_workers=0)
    data = Pictures("tfds:cifar10", labels="label", **fields)
    assert data.class_names[:2] == ("airplane", "automobile")
    loaded = data.load()
    ours = sorted(zip(loaded.labels.tolist(), loaded.pixels.tolist(), strict=True))
    assert ours == sorted(zip(truth[1].tolist(), truth[0].tolist(), strict=True))  # TFDS shuffles
    assert len(Pictures("tfds:cifar10:test", **fields).load()) == 3
    for name, says in {
        "cifar10:valid": "no split valid; choose from",
        "mnist": "tfds:mnist is not prepared in",
        "cifar11": "knows no cifar11",
    }.items():
        with pytest.raises((ValueError, OSError), match=says):
            open_source(f"tfds:{name}")


def test_cifar10_is_read_in_the_order_of_the_archive(archive, tmp_path, truth):
    source = Cifar10(path=str(tmp_path / "tfds"), manual_dir=str(archive.parent), labelled=True)
    for _ in range(2):  # prepared, then from the cache
        loaded = source.load()
        np.testing.assert_array_equal(loaded.pixels, truth[0])
        np.testing.assert_array_equal(loaded.labels, truth[1])
        assert loaded.label_names[:2] == ("airplane", "automobile")
    assert list((tmp_path / "tfds").rglob("train_pixels.npz"))


def test_what_is_prepared_is_read_by_tensorflow_datasets_itself(archive, tmp_path, truth):
    Cifar10(path=str(tmp_path / "tfds"), manual_dir=str(archive.parent)).load()
    stock = tfds.data_source("cifar10", data_dir=tmp_path / "tfds", split="train", download=False)
    by_id = {example["id"].decode(): example["image"] for example in stock}
    np.testing.assert_array_equal(np.stack([by_id[f"train_{i:05d}"] for i in range(20)]), truth[0])


def test_tensorflow_is_not_needed(archive, tmp_path):
    import sys

    Cifar10(path=str(tmp_path / "tfds"), manual_dir=str(archive.parent)).load()
    assert "tensorflow" not in sys.modules


def test_a_damaged_archive_is_refused_by_its_checksum(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="damaged.*sha256"):
        Cifar10(path=str(tmp_path / "tfds"), manual_dir=str(archive.parent)).load()


def test_a_folder_without_the_archive_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no cifar-10-binary.tar.gz"):
        Cifar10(path=str(tmp_path / "tfds"), manual_dir=str(tmp_path)).load()


def test_without_a_network_the_error_names_address_checksum_and_folder(tmp_path, monkeypatch):
    # a proxy that does not answer simulates a missing network
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError) as caught:
        Cifar10(path=str(tmp_path / "tfds")).load()
    for told in (URL, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"):
        assert told in str(caught.value)
    assert "--data.manual-dir DIR" in str(caught.value)


@pytest.fixture
def refusing_proxy(monkeypatch):
    """A proxy that answers, but rejects every request."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self):
            self.send_error(403)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_proxy_that_refuses_is_no_network(tmp_path, refusing_proxy):
    with pytest.raises(ConnectionError, match="--data.manual-dir DIR"):
        Cifar10(path=str(tmp_path / "tfds")).load()


def test_a_damaged_cache_is_written_again(archive, tmp_path, truth, capsys):
    source = Cifar10(path=str(tmp_path / "tfds"), manual_dir=str(archive.parent), labelled=True)
    source.load()
    (cache,) = (tmp_path / "tfds").rglob("train_pixels.npz")
    cache.write_bytes(cache.read_bytes()[:1000])
    np.testing.assert_array_equal(source.load().pixels, truth[0])
    assert "writing it again" in capsys.readouterr().err
    capsys.readouterr()
    source.load()
    assert capsys.readouterr().err == ""


def test_the_ddpm_recipe_trains_on_the_real_format(archive, tmp_path, capsys):
    train.main(
        f"""cifar10_ddpm --run-dir {tmp_path}/run --run.num-steps 2 --run.num-samples 2
        --data.path {tmp_path}/tfds --data.manual-dir {archive.parent} --data.batch-size 4
        --model.channels 8 --model.num-groups 4 --model.channel-mult 1
        --model.attention-resolutions , --model.middle.exists false
        --model.num-res-blocks 1 --sampling.num-steps 2 --mesh.data 1""".split()
    )
    assert (tmp_path / "run" / "samples" / "2.png").exists()
    assert "samples/2.png" in capsys.readouterr().out


def write_imagenet64(folder, pixels, labels):
    """ImageNet64's format: ten files of rows of channels, rows, columns, and classes from 1 on."""
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    for i, (data, classes) in enumerate(zip(np.split(rows, 10), np.split(labels, 10), strict=True)):
        np.savez(folder / f"train_data_batch_{i + 1}.npz", data=data, labels=classes)


def test_imagenet64_is_read_in_the_order_of_its_files_with_classes_from_0_on(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    labels = np.linspace(1, 1000, 20).astype(np.int64)
    source = ImageNet64(path=str(tmp_path), batch_size=2)
    write_imagenet64(tmp_path, pixels, labels)
    loaded = source.load()
    np.testing.assert_array_equal(loaded.pixels, pixels)
    np.testing.assert_array_equal(loaded.labels, labels - 1)
    assert loaded.labels.min() == 0 and loaded.labels.max() == 999 == source.num_classes - 1
    for wrong in (0, 1001):
        write_imagenet64(tmp_path, pixels, np.array([*labels[:-1], wrong]))
        with pytest.raises(ValueError, match="batch_10.npz is damaged: a label lies outside"):
            source.load()
    (tmp_path / "train_data_batch_10.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="batch_10.npz is damaged"):
        source.load()
    (tmp_path / "train_data_batch_10.npz").unlink()
    with pytest.raises(FileNotFoundError, match="holds no train_data_batch_10.npz"):
        source.load()


def write_idx(path, array, magic=None):
    header = magic or bytes([0, 0, 8, array.ndim])
    sizes = np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + sizes + array.tobytes()))


@pytest.fixture
def fashion(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 28, 28), np.uint8), np.arange(6, dtype=np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    return tmp_path, images, labels


def test_fashion_mnist_is_read_from_its_idx_files(fashion):
    folder, images, labels = fashion
    dataset = FashionMnist(batch_size=2, path=str(folder)).load()
    np.testing.assert_array_equal(dataset.pixels[..., 0], images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert len(dataset.label_names) == 10


def test_damaged_or_missing_idx_files_are_named(fashion, tmp_path):
    folder, images, labels = fashion
    path = folder / "train-images-idx3-ubyte.gz"
    source = FashionMnist(path=str(folder))
    for damage in (
        lambda: path.write_bytes(path.read_bytes()[:-20]),
        lambda: path.write_bytes(b"no gzip"),
        lambda: write_idx(path, images, magic=bytes([0, 0, 9, 3])),
    ):
        damage()
        with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz is damaged"):
            source.load()
    for wrong_images, wrong_labels in ((images[:5], labels), (images, labels + 5)):
        write_idx(path, wrong_images)
        write_idx(folder / "train-labels-idx1-ubyte.gz", wrong_labels)
        with pytest.raises(ValueError, match="do not belong"):
            source.load()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        source.load()


@pytest.mark.skipif(not Path(FashionMnist().path).is_dir(), reason="no dataset-fashion-mnist here")
def test_debians_fashion_mnist_has_60000_images():
    dataset = FashionMnist().load()
    assert dataset.pixels.shape == (60_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(dataset.labels), np.full(10, 6000))

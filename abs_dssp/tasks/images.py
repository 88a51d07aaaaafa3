"""Image data sets as arrays: scikit-learn's digits, and whatever TFDS has prepared."""

import contextlib
import functools
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from abs_dssp import checks, extras, files


class DataError(ValueError):
    """A data set that cannot be had."""


class Images(NamedTuple):
    """Pixels and class numbers of two splits.

    Attributes:
      train: (n, h, w, c) uint8 pixels.
      train_labels: (n,) int32, each in 0..num_classes - 1.
      test: (m, h, w, c) uint8 pixels.
      test_labels: (m,) int32.
      num_classes: number of classes.
    """

    train: UInt8[np.ndarray, "n h w c"]
    train_labels: Int[np.ndarray, " n"]
    test: UInt8[np.ndarray, "m h w c"]
    test_labels: Int[np.ndarray, " m"]
    num_classes: int


def digits() -> Images:
    """1,797 images of 8x8 pixels in 10 classes; ships with scikit-learn.

    Every fifth image, after a fixed shuffle, is for testing: 1,437 and 360. They are
    the test set of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits",
    UCI, 1998 (https://doi.org/10.24432/C50P49).

    Raises:
      MissingExtraError: if scikit-learn is not installed.

    Example:
      >>> from abs_dssp.tasks import images
      >>> images.digits().train.shape
      (1437, 8, 8, 1)
    """
    with extras.needed("the data set digits"):
        from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    # scikit-learn's pixels are 0..16, and 15 * 16 = 240 stays within 0..255.
    pixels = (data.images[order] * 15).astype(np.uint8)[..., None]
    labels = data.target[order].astype(np.int32)
    test = np.arange(len(order)) % 5 == 0
    return Images(pixels[~test], labels[~test], pixels[test], labels[test], 10)


@functools.lru_cache(maxsize=4)
def tfds(
    name: str,
    data_dir: str | None = None,
    download: bool = False,
    cache_dir: str | None = None,
) -> Images:
    """An image set with splits `train` and `test`, decoded once.

    Args:
      name: as TFDS knows it, e.g. `"cifar10"` or `"fashion_mnist:3.*.*"`.
      data_dir: folder of prepared data; TFDS's own default if None.
      download: let TFDS fetch and prepare what is missing.
      cache_dir: where decoded arrays are kept; the user's cache folder if None.

    Raises:
      DataError: if the folder or the data set is missing, an image decoder is, or the
        examples are not labelled images of one size.
    """
    if data_dir is not None and not Path(data_dir).is_dir():
        raise DataError(
            f"data_dir {data_dir} does not exist; name the folder that holds {name}."
        )
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(f"{name} needs tensorflow-datasets: {error}.") from error
    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir)
    except Exception as error:
        raise DataError(
            f"{name} is no data set that TFDS can open in "
            f"{data_dir or 'its default folder'}: {_first_line(error)}"
        ) from error
    if not Path(builder.data_dir).is_dir() and not download:
        raise DataError(
            f"{name} is not prepared in {data_dir or builder.data_dir}; "
            "give --data_dir, or --download to fetch it."
        )
    cached = _cache_file(cache_dir, str(builder.data_dir))
    images = _read_cache(cached)
    if images is not None:
        return images
    try:
        if download:
            builder.download_and_prepare(file_format="array_record")
        splits = [_decode(builder, split) for split in ("train", "test")]
        classes = builder.info.features["label"].num_classes
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"{name}: no image decoder is installed ({_first_line(error)}); "
            f"{extras.sentence('PIL', 'the usual one')}"
        ) from error
    except Exception as error:
        raise DataError(f"{name} cannot be read: {_first_line(error)}") from error
    (train, train_labels), (test, test_labels) = splits
    images = Images(train, train_labels, test, test_labels, classes)
    _write_cache(cached, images)
    return images


def shrink(images: Images, factor: int) -> Images:
    """Images of 1 / `factor` the height and width, by averaging square blocks.

    Args:
      images: those to shrink; (n, h, w, c) pixels.
      factor: side of a block, in pixels.

    Returns:
      The images with (n, h / factor, w / factor, c) uint8 pixels, rounded.

    Raises:
      ValueError: unless `factor` is at least 1 and divides height and width.

    Example:
      >>> from abs_dssp.tasks import images
      >>> images.shrink(images.digits(), 2).test.shape
      (360, 4, 4, 1)
    """
    if factor == 1:
        return images
    height, width = images.train.shape[1:3]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(
            f"shrink must divide the images' {height}x{width} pixels, got {factor}."
        )

    def smaller(pixels):
        n, h, w, c = pixels.shape
        blocks = pixels.reshape(n, h // factor, factor, w // factor, factor, c)
        return np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)

    return images._replace(train=smaller(images.train), test=smaller(images.test))


def validation(images: Images, count: int | None) -> Images:
    """`count` training samples, taken out of training, in place of the test split.

    For choosing a step size without a look at the test set.

    Args:
      images: both splits.
      count: samples to hold out; None changes nothing.

    Returns:
      The images with the held-out samples as test split.

    Raises:
      ValueError: unless `count` is at least 1 and leaves something to train on.

    Example:
      >>> from abs_dssp.tasks import images
      >>> held = images.validation(images.digits(), 437)
      >>> len(held.train), len(held.test)
      (1000, 437)
    """
    if count is None:
        return images
    total = len(images.train_labels)
    if not 1 <= count < total:
        raise ValueError(
            f"validation must be between 1 and {total - 1} samples, got {count}."
        )
    order = np.random.default_rng(3).permutation(total)
    held, rest = order[:count], order[count:]
    return images._replace(
        train=images.train[rest],
        train_labels=images.train_labels[rest],
        test=images.train[held],
        test_labels=images.train_labels[held],
    )


def subset(images: Images, limit_train: int | None, limit_test: int | None) -> Images:
    """The first samples of each split after a fixed shuffle.

    Args:
      images: both splits.
      limit_train: training samples to keep; None keeps all.
      limit_test: test samples to keep; None keeps all.

    Raises:
      ValueError: if a limit is below 1.

    Example:
      >>> from abs_dssp.tasks import images
      >>> len(images.subset(images.digits(), 100, None).train_labels)
      100
    """
    for name, limit in (("limit_train", limit_train), ("limit_test", limit_test)):
        if limit is not None:
            checks.whole("images", name, limit, least=1)

    def first(pixels, labels, limit):
        if limit is None or limit >= len(labels):
            return pixels, labels
        keep = np.random.default_rng(1).permutation(len(labels))[:limit]
        return pixels[keep], labels[keep]

    train, train_labels = first(images.train, images.train_labels, limit_train)
    test, test_labels = first(images.test, images.test_labels, limit_test)
    return Images(train, train_labels, test, test_labels, images.num_classes)


def _decode(builder, split: str):
    source = builder.as_data_source(split=split)
    if "image" not in source[0] or "label" not in source[0]:
        raise DataError(
            f"{builder.name}: split {split} has no image and label; "
            f"it has {', '.join(source[0])}."
        )
    shape = np.shape(source[0]["image"])
    pixels = np.empty((len(source), *shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), 1024):
        rows = list(range(start, min(start + 1024, len(source))))
        for row, example in zip(rows, source.__getitems__(rows), strict=True):
            if np.shape(example["image"]) != shape:
                raise DataError(f"{builder.name}: images differ in size.")
            pixels[row], labels[row] = example["image"], example["label"]
    return pixels, labels


def _cache_file(cache_dir: str | None, source: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache_dir) if cache_dir else Path(base) / "abs_dssp"
    source = str(Path(source).resolve())
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    return folder / f"{Path(source).parent.name}-{digest}.npz"


def _read_cache(path: Path) -> Images | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in Images._fields[:4]}
            return Images(**columns, num_classes=int(file["classes"]))
    except Exception:  # whatever is wrong with a cache, the source is still there
        return None


def _write_cache(path: Path, images: Images) -> None:
    columns = images._asdict()
    classes = columns.pop("num_classes")
    # A cache that cannot be written is only slower.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as partial, open(partial, "wb") as file:
            np.savez(file, classes=classes, **columns)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

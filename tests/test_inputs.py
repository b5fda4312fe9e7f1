"""Data as people have it: each form works, or one sentence says how.

`SENTENCES` reads as what a user is told.
"""

import builtins
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from nsgf_nb.core import atomic_path, make_generator
from nsgf_nb.data import get_sampler
from nsgf_nb.flow import NSGF
from nsgf_nb.learning.nets import MLP
from nsgf_nb.plusplus import NSGFPlusPlus
from nsgf_nb.straight import StraightFlow

X = torch.randn(12, 2, generator=make_generator(0, "x"))
LABEL = torch.arange(12) % 3
FAST = dict(iterations=3, batch_size=8)
SMALL = dict(num_steps=2, pool_size=96, group=32, **FAST)


def draw(data):
    "All twelve rows in the order of their first coordinate, and their labels"
    out = get_sampler(data)(12, make_generator(0, "draw"))
    x, label = out if isinstance(out, tuple) else (out, None)
    order = x[:, 0].argsort()
    return x[order], None if label is None else label[order]


def same_points(data, labels=True):
    x, label = draw(data)
    order = X[:, 0].argsort()
    assert x.dtype == torch.float32
    assert torch.equal(x, X[order])
    if labels:
        assert torch.equal(label, LABEL[order])
    else:
        assert label is None


class Table:
    "What pandas, polars and their like have in common"

    def __init__(self, **columns):
        self.data = columns

    @property
    def columns(self):
        return list(self.data)

    @property
    def ndim(self):
        return 2

    def to_numpy(self):
        return np.stack([np.asarray(c) for c in self.data.values()], 1)


class Column(Table):
    ndim = 1

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return np.asarray(self.values)


class Items(Dataset):
    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return tuple(c[i] for c in self.columns)


class DictItems(Items):
    def __getitem__(self, i):
        return dict(x=X[i], label=LABEL[i])


class ListItems(Items):
    def __getitem__(self, i):
        return X[i].tolist()


# Arrays and tables


def strided(x):
    wide = np.zeros((24, 6), x.dtype)
    wide[::2, ::3] = x
    return wide[::2, ::3]


@pytest.mark.parametrize(
    "form",
    [
        np.asfortranarray,
        strided,
        lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
        lambda x: x.astype(">f4"),
        lambda x: x.astype(">f8"),
        lambda x: x.astype(np.longdouble),
        lambda x: x.astype(object),
        lambda x: np.ma.masked_invalid(x),
    ],
)
def test_a_numpy_array_of_any_order_strides_and_precision(form):
    same_points(form(X.numpy()), labels=False)


def test_an_array_that_may_not_be_written():
    x = X.numpy().copy()
    x.flags.writeable = False
    same_points(x, labels=False)


@pytest.mark.parametrize(
    "form",
    [torch.Tensor.tolist, lambda x: tuple(map(tuple, x.tolist())), list, lambda x: list(x.numpy())],
)
def test_a_list_of_rows(form):
    same_points(form(X), labels=False)


def test_a_table_of_columns():
    a, b = X.T.numpy()
    same_points(Table(a=a, b=b), labels=False)
    same_points((Table(a=a, b=b), Column(LABEL.numpy())))
    # whole numbers are numbers in a table
    assert get_sampler(Table(a=[1, 2, 3], b=[4, 5, 6]))(3).dtype == torch.float32


@pytest.mark.parametrize(
    "form",
    [
        TensorDataset(X),
        DataLoader(TensorDataset(X), 5),
        Items(X),
        DataLoader(Items(X), 5),
        Items(X.numpy()[:, ::-1][:, ::-1]),
        ListItems(),
        [X[:5], X[5:]],
        iter(X),
    ],
)
def test_loaders_and_datasets_of_one_tensor(form):
    same_points(form, labels=False)


@pytest.mark.parametrize(
    "form",
    [
        dict(x=X, label=LABEL),
        UserDict(x=X, label=LABEL),
        DictItems(),
        DataLoader(DictItems(), 5),
        [dict(x=X, label=LABEL)],
        lambda n: dict(x=X[:n], label=LABEL[:n]),
        [X, LABEL],
        list(zip(X, LABEL)),
        Items(X, LABEL),
        Items(X.numpy()[::-1], LABEL.numpy()[::-1]),
    ],
)
def test_dictionaries_and_pairs(form):
    same_points(form)


def test_numpy_as_source():
    flow = StraightFlow(**FAST).fit(X.numpy(), source=X.numpy() + 1, seed=0, progress=False)
    assert flow.sample(5, seed=0).shape == (5, 2)
    target = X.repeat(8, 1) + torch.randn(96, 2)
    assert NSGF(**SMALL).fit(target, source=target.numpy() + 1, seed=0, progress=False).sample(
        5
    ).shape == (5, 2)


# Labels


@pytest.mark.parametrize(
    "form",
    [
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        lambda k: k.numpy().astype(">i2"),
        lambda k: k.numpy().astype(np.uint64),
        lambda k: k.to(torch.uint8),
        lambda k: k[:, None],
        lambda k: tuple(k.tolist()),
        lambda k: Column(k.numpy()),
    ],
)
def test_labels_in_any_integer_form(form):
    same_points((X, form(LABEL)))


@pytest.fixture(scope="module")
def classes():
    network = MLP((2,), hidden=8, num_classes=3)
    return StraightFlow(network=network, **FAST).fit((X, LABEL), "normal", seed=0, progress=False)


@pytest.mark.parametrize(
    "form",
    [
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        lambda k: k.to(torch.uint8),
        lambda k: k.int()[:, None],
    ],
)
def test_labels_of_samples_in_any_integer_form(classes, form):
    assert torch.equal(
        classes.sample(12, label=form(LABEL), seed=0), classes.sample(12, label=LABEL, seed=0)
    )
    assert torch.equal(
        classes.log_prob(X, label=form(LABEL), num_steps=2),
        classes.log_prob(X, label=LABEL, num_steps=2),
    )
    assert torch.equal(classes.velocity(X, 0.5, form(LABEL)), classes.velocity(X, 0.5, LABEL))


def test_one_class_for_all_samples(classes):
    two = torch.full((4,), 2)
    assert torch.equal(classes.sample(4, label=2, seed=0), classes.sample(4, label=two, seed=0))
    both = NSGFPlusPlus(dict(SMALL), dict(network=MLP((2,), hidden=8, num_classes=3), **FAST))
    both.fit((X.repeat(8, 1), LABEL.repeat(8)), seed=0, progress=False)
    assert torch.equal(both.sample(4, label=2, seed=0), both.sample(4, label=two, seed=0))


# Images


RAMP = np.arange(256, dtype=np.uint8)[None].repeat(4, 0)


def folder(path, **images):
    path.mkdir(exist_ok=True)
    for name, im in images.items():
        im.save(path / f"{name}.png")
    return path


def only(path):
    "The pixels of the only image in a folder, as bytes"
    return ((get_sampler(path)(1)[0] + 1) * 127.5).round().byte()


def test_grey_of_16_bits_keeps_its_256_levels(tmp_path):
    for k, im in enumerate(
        (Image.fromarray(RAMP.astype(np.uint16) * 257), Image.fromarray(RAMP.astype(">u2") * 257))
    ):
        assert torch.equal(only(folder(tmp_path / str(k), ramp=im))[0], torch.tensor(RAMP))


@pytest.mark.parametrize("pixels", [RAMP.astype(np.int32) * 257, RAMP.astype(np.float32) / 255])
def test_integer_and_floating_point_images_keep_their_range(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "ramp.tiff")
    assert torch.equal(only(tmp_path)[0], torch.tensor(RAMP))


def test_transparent_pixels_are_white(tmp_path):
    red = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert (only(folder(tmp_path / "RGBA", im=red)) == 255).all()
    assert (only(folder(tmp_path / "LA", im=Image.new("LA", (2, 2), (0, 0)))) == 255).all()
    palette = Image.new("P", (2, 2))
    palette.putpalette([255, 0, 0])
    palette.save(folder(tmp_path / "P") / "im.png", transparency=0)
    assert (only(tmp_path / "P") == 255).all()
    Image.new("L", (2, 2), 7).save(folder(tmp_path / "L") / "im.png", transparency=7)
    assert (only(tmp_path / "L") == 255).all()
    half = only(folder(tmp_path / "half", im=Image.new("RGBA", (2, 2), (255, 0, 0, 128))))
    assert half[:, 0, 0].tolist() == [255, 127, 127]


def test_16_bits_with_a_transparent_level(tmp_path):
    deep = Image.fromarray(np.array([[0, 1000, 65535]], np.uint16))
    deep.save(tmp_path / "im.png", transparency=1000)
    assert only(tmp_path)[0].tolist() == [
        [0, 255 if "transparency" in Image.open(tmp_path / "im.png").info else 4, 255]
    ]


def test_a_photograph_is_turned_as_its_exif_tag_says(tmp_path):
    upright = Image.fromarray(RAMP)
    for k, back in {3: Image.ROTATE_180, 6: Image.ROTATE_90, 8: Image.ROTATE_270}.items():
        exif = Image.Exif()
        exif[0x0112] = k
        upright.transpose(back).save(folder(tmp_path / str(k)) / "im.png", exif=exif)
        assert torch.equal(only(tmp_path / str(k))[0], torch.tensor(RAMP))


def test_a_palette_is_colour(tmp_path):
    im = Image.new("P", (2, 2), 1)
    im.putpalette([0, 0, 0, 10, 20, 30])
    assert only(folder(tmp_path / "P", im=im))[:, 0, 0].tolist() == [10, 20, 30]


def test_grey_and_colour_together_are_colour(tmp_path):
    folder(tmp_path / "a", a=Image.new("L", (2, 2), 7), b=Image.new("RGB", (2, 2), (1, 2, 3)))
    s = get_sampler(tmp_path / "a")
    assert s.shape == (3, 2, 2)
    pixels = ((s(2)[:, :, 0, 0] + 1) * 127.5).round().int()
    assert sorted(pixels.tolist()) == [[1, 2, 3], [7, 7, 7]]


def test_hidden_files_and_folders_are_no_images(tmp_path):
    for name in ("cats", "dogs", ".ipynb_checkpoints", "__MACOSX"):
        folder(tmp_path / name, im=Image.new("L", (2, 2)))
    folder(tmp_path / "cats" / ".thumbnails", im=Image.new("L", (9, 9)))
    (tmp_path / "dogs" / "._im.png").write_bytes(b"no image")
    (tmp_path / "._0.png").write_bytes(b"no image")
    s = get_sampler(tmp_path)
    assert s.num_points == 2 and s(2)[1].sort().values.tolist() == [0, 1]


def test_an_empty_folder_is_no_class(tmp_path):
    for name in ("birds", "cats", "dogs"):
        folder(tmp_path / name)
    for name in ("cats", "dogs"):
        folder(tmp_path / name, im=Image.new("L", (2, 2)))
    assert get_sampler(tmp_path)(2)[1].sort().values.tolist() == [0, 1]


def test_linked_folders_are_followed_once(tmp_path):
    root = folder(tmp_path / "root")
    folder(root / "cats", a=Image.new("L", (2, 2)))
    folder(tmp_path / "elsewhere", b=Image.new("L", (2, 2)), c=Image.new("L", (2, 2)))
    (root / "cats" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "dogs").symlink_to(tmp_path / "elsewhere")
    (root / "cats" / "back").symlink_to(root)
    (root / "dogs" / "round").symlink_to(tmp_path / "elsewhere")
    s = get_sampler(root)
    assert s.num_points == 5 and s(5)[1].sort().values.tolist() == [0, 0, 0, 1, 1]


def test_a_huge_image_is_one_sentence(tmp_path, monkeypatch):
    folder(tmp_path, im=Image.new("L", (30, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(
        ValueError,
        match="im.png: expected at most 0 million pixels, or PIL.Image.MAX_IMAGE_PIXELS raised",
    ):
        get_sampler(tmp_path)


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    folder(tmp_path, im=Image.new("L", (2, 2)))

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as m:
        m.setattr(builtins, "open", refuse)
        with pytest.raises(PermissionError, match="im.png: no permission to read it"):
            get_sampler(tmp_path)
    with monkeypatch.context() as m:
        m.setattr(Path, "iterdir", refuse)
        with pytest.raises(PermissionError, match=f"{tmp_path}: no permission to read it"):
            get_sampler(tmp_path)


def test_a_folder_without_permission_is_named_as_the_user_knows_it(tmp_path):
    def refused(tmp):
        raise PermissionError(13, "Permission denied", str(tmp))

    with pytest.raises(PermissionError) as e, atomic_path(tmp_path / "picture.png") as tmp:
        refused(tmp)
    assert str(e.value) == f"[Errno 13] Permission denied: '{tmp_path}/picture.png'"


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:60],
        lambda b: b[:40] + bytes(200),
        lambda b: b[:-30],
        lambda b: b"",
        lambda b: bytes(99),
    ],
)
def test_a_damaged_image_is_named(tmp_path, damage):
    folder(tmp_path, im=Image.fromarray(RAMP))
    file = tmp_path / "im.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="im.png: not a readable image"):
        get_sampler(tmp_path)


# What is told


def fit_small_set(**kw):
    StraightFlow(iterations=3, **kw).fit(X, seed=0, progress=False)


def flat_and_classes(path):
    folder(path, im=Image.new("L", (2, 2)))
    folder(path / "cats", im=Image.new("L", (2, 2)))
    return path


def floats_to_255(path):
    Image.fromarray(RAMP.astype(np.float32)).save(path / "im.tiff")
    return path


SENTENCES = [
    (
        lambda p: get_sampler(Items(X, X[:, 0] + 0.25)),
        ValueError,
        "Items: expected 1 integer labels, got torch.float32 of shape (1,)",
    ),
    (
        lambda p: get_sampler(Items(X, [0.25] * 12)),
        ValueError,
        "Items: expected 1 integer labels, got torch.float64 of shape (1,)",
    ),
    (
        lambda p: get_sampler(Items(X, ["cat"] * 12)),
        TypeError,
        "Items: expected 1 integer labels, got <U3: number the classes from 0",
    ),
    (
        lambda p: get_sampler((X, LABEL + 0.5)),
        ValueError,
        "data: expected 12 integer labels, got torch.float32 of shape (12,)",
    ),
    (
        lambda p: get_sampler((X, nn.functional.one_hot(LABEL))),
        ValueError,
        "one-hot rows become classes with .argmax(1)",
    ),
    (
        lambda p: get_sampler((X, nn.functional.one_hot(LABEL).float())),
        ValueError,
        "one-hot rows become classes with .argmax(1)",
    ),
    (
        lambda p: get_sampler((X, [None] * 12)),
        TypeError,
        "data: expected 12 integer labels, got object: number the classes from 0",
    ),
    (
        lambda p: get_sampler([(X[:5], LABEL[:5]), (X[5:],)]),
        ValueError,
        "list: expected labels everywhere or nowhere, 1 of 2 parts have none",
    ),
    (
        lambda p: get_sampler((X, LABEL, LABEL)),
        TypeError,
        "data: expected x or (x, label), got 3 parts: choose two of them",
    ),
    (
        lambda p: get_sampler(Items(X, LABEL, LABEL)),
        TypeError,
        "Items: expected x or (x, label), got 3 parts: choose two of them",
    ),
    (
        lambda p: get_sampler(DataLoader(Items(X, LABEL, LABEL), 4)),
        TypeError,
        "DataLoader: expected x or (x, label), got 3 parts",
    ),
    (
        lambda p: get_sampler(dict(image=X, target=LABEL)),
        TypeError,
        "data: expected the keys 'x' and perhaps 'label', got 'image', 'target'",
    ),
    (
        lambda p: get_sampler([dict(image=X)]),
        TypeError,
        "list: expected the keys 'x' and perhaps 'label', got 'image'",
    ),
    (
        lambda p: get_sampler(X.numpy().astype(int)),
        TypeError,
        "data: expected floating point, got torch.int64: convert with .astype('float32')",
    ),
    (
        lambda p: get_sampler(X.numpy().astype(complex)),
        TypeError,
        "data: expected numbers, got complex128",
    ),
    (
        lambda p: get_sampler(Table(a=["u", "v"], b=["w", "x"])),
        TypeError,
        "data: expected numbers, got <U1: choose the columns that are numbers",
    ),
    (
        lambda p: get_sampler(np.ma.masked_less(X.numpy(), 0)),
        ValueError,
        "values are masked, expected them filled or their rows left out",
    ),
    (
        lambda p: get_sampler([[1.0, 2.0], [3.0]]),
        ValueError,
        "list: expected rows of numbers, all of the same length",
    ),
    (
        lambda p: get_sampler([[1.0, "a"], [3.0, "b"]]),
        TypeError,
        "list: expected batches of points, got float",
    ),
    (
        lambda p: get_sampler([1.0, 2.0, 3.0]),
        ValueError,
        "list: expected points of shape (n, *shape), got shape (3,): "
        "a line of numbers needs [:, None]",
    ),
    (
        lambda p: get_sampler([X, X[:, :1]]),
        ValueError,
        "list: expected points of one shape, got (1,) and (2,)",
    ),
    (
        lambda p: get_sampler(X.double() * 1e300),
        ValueError,
        "do not fit into float32, expected them in another unit",
    ),
    (lambda p: get_sampler("points/x.npy"), FileNotFoundError, "points/x.npy: no such file"),
    (
        lambda p: fit_small_set(),
        ValueError,
        "batch_size: expected at most 12, the number of points there are, got 256",
    ),
    (
        lambda p: fit_small_set(coupling="ot"),
        ValueError,
        "batch_size: expected at most 12, the number of points there are, got 256",
    ),
    (
        lambda p: get_sampler(flat_and_classes(p)),
        ValueError,
        "expected images in the folder or in folders of classes, "
        "got 'im.png' beside the folder 'cats'",
    ),
    (
        lambda p: get_sampler(floats_to_255(p)),
        ValueError,
        "im.tiff: expected grey levels from 0 to 1 in an image of mode F, got 0 … 255",
    ),
    (
        lambda p: get_sampler(folder(p, im=Image.new("L", (2, 2))) / "im.png"),
        NotADirectoryError,
        "im.png: expected a folder of images, got a file",
    ),
]


@pytest.mark.parametrize("call, kind, sentence", SENTENCES, ids=[s for *_, s in SENTENCES])
def test_one_sentence(tmp_path, call, kind, sentence):
    with pytest.raises(kind) as e:
        call(tmp_path)
    assert sentence in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "label", [[0.5] * 12, torch.ones(12), "cat", ["cat"] * 12, [0, 1], nn.functional.one_hot(LABEL)]
)
def test_wrong_labels_of_samples(classes, label):
    with pytest.raises((TypeError, ValueError), match="label: expected 12 integer labels, got"):
        classes.sample(12, label=label)

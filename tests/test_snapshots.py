"Tables with a time column: what is no lesson in nbs/1_data/12_snapshots"

import subprocess
import sys

import numpy as np
import pytest
import torch

import nsgf_nb
from nsgf_nb.core import make_generator
from nsgf_nb.sets.snapshots import snapshots

TABLE = dict(day=[4, 2, 2, 4], a=[5e4, 1e4, 3e4, 7e4], b=[2.0, 1.0, 3.0, 0.0])


def rows(sampler):
    return sorted(map(tuple, sampler(sampler.num_points).tolist()))


def written(path, text, name="cells.csv"):
    file = path / name
    file.write_text(text, encoding="utf-8")
    return file


def test_times_rise_whatever_the_order_of_the_rows():
    cells = snapshots(TABLE)
    assert list(cells) == [2, 4] and len(cells) == 2 and cells.columns == ("a", "b")
    assert rows(cells[2]) == [(1e4, 1.0), (3e4, 3.0)] and rows(cells[4]) == [(5e4, 2.0), (7e4, 0.0)]
    with pytest.raises(KeyError):
        cells[3]


@pytest.mark.parametrize("text", ["day,a,b\n4,5e4,2\n2,1e4,1\n2,3e4,3\n4,7e4,0\n", None])
def test_a_file(tmp_path, text):
    "Byte-order mark, quotes, an index, blank lines, tabs"
    name = "cells.csv"
    if text is None:
        lines = ["\t".join(map(str, row)) for row in zip(*([k, *v] for k, v in TABLE.items()))]
        text, name = "\ufeff" + "\n".join(lines) + "\n\n", "cells.tsv"
    cells = snapshots(str(written(tmp_path, text, name)))
    assert rows(cells[4]) == [(5e4, 2.0), (7e4, 0.0)] and cells.name == name


def test_pandas_is_neither_needed_nor_imported(tmp_path):
    file = written(tmp_path, "day,x\n0,1\n1,2\n")
    code = f"""
import sys
from nsgf_nb import snapshots
snapshots({str(file)!r})
print(*[m for m in ("pandas", "anndata") if m in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and not run.stdout.strip(), run.stderr


def test_the_package_lends_it():
    assert nsgf_nb.snapshots is snapshots


def test_a_data_frame_if_there_is_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(TABLE | dict(kind=list("abab")))
    assert rows(snapshots(frame, columns=["a", "b"])[2]) == [(1e4, 1.0), (3e4, 3.0)]
    with pytest.raises(TypeError, match="DataFrame: expected numbers, got 'a' in the column kind"):
        snapshots(frame)


def test_cells_if_there_is_anndata(tmp_path):
    anndata = pytest.importorskip("anndata")
    pandas = pytest.importorskip("pandas")
    obs = pandas.DataFrame(dict(day=TABLE["day"]), index=list("wxyz"))
    cells = anndata.AnnData(X=np.array([TABLE["a"], TABLE["b"]]).T, obs=obs)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for data in (cells, tmp_path / "cells.h5ad"):
        assert rows(snapshots(data)[2]) == [(1e4, 1.0), (3e4, 3.0)]


def test_a_column_without_spread_and_one_far_from_0():
    far = dict(day=[0, 0, 1, 1], same=[7.0] * 4, far=[1e6 + k for k in range(4)])
    cells = snapshots(far)
    assert cells.scale[0] == 1 and abs(cells.scale[1].item() - 1.25**0.5) < 1e-9
    z = torch.cat([cells.standard[t](2) for t in cells])
    assert z.isfinite().all() and (z[:, 1].square().mean() - 1).abs() < 1e-5
    for t in cells:
        g = [make_generator(0, "rows") for _ in range(2)]
        assert torch.equal(cells.undo(cells.standard[t](2, g[0])), cells[t](2, g[1]))


def test_each_time_counts_the_same():
    many = dict(day=[0] * 99 + [1], x=[0.0] * 99 + [2.0])
    cells = snapshots(many)
    one = torch.ones(2, dtype=torch.float64)
    assert torch.allclose(torch.cat([cells.mean, cells.scale]), one, rtol=1e-12)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("day,x\n0,1\n1,\n", "cells.csv: 1 of 4 values are missing or infinite (x: 1)"),
        ("day,x\nNA,1\n1,2\n", "cells.csv: 1 of 4 values are missing or infinite (day: 1)"),
        ("day,x\n0,inf\n1,2\n", "cells.csv: 1 of 4 values are missing or infinite (x: 1)"),
        ("day,x,k\n0,1,B\n1,2,T\n", "cells.csv: expected numbers, got 'B' in the column k:"),
        ("day,x,k,l\n0,1,B,\n1,2,T,u\n", "got 'B' in the columns k, l: choose"),
        ("day,x,x\n0,1,2\n", "cells.csv: expected names that differ, got 'x' twice"),
        ("day,x\n", "cells.csv: expected columns of one length, at least 1, got 0"),
        ("", "unknown time column 'day': known: none"),
        ("0,1\n2,3\n", "unknown time column 'day'"),
    ],
)
def test_one_sentence(tmp_path, text, sentence):
    with pytest.raises((TypeError, ValueError)) as e:
        snapshots(written(tmp_path, text))
    assert sentence in str(e.value) and "\n" not in str(e.value)


def test_what_is_no_text(tmp_path):
    file = tmp_path / "cells.csv"
    file.write_bytes(b"day,x\n0,\xff\xfe\n")
    with pytest.raises(ValueError, match="cells.csv: damaged"):
        snapshots(file)
    with pytest.raises(FileNotFoundError, match="no such file"):
        snapshots(tmp_path / "cells.h5ad")


def test_masked_and_object_columns():
    masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
    with pytest.raises(ValueError, match="1 of 4 values are missing or infinite .x: 1"):
        snapshots(dict(day=[0, 1], x=masked))
    objects = np.array([1, "2"], dtype=object)
    assert snapshots(dict(day=[0, 1], x=objects))[1](1).item() == 2
    with pytest.raises(ValueError, match="x: 1"):
        snapshots(dict(day=[0, 1], x=np.array([1, None], dtype=object)))


def test_files_of_numpy(tmp_path):
    "An array for each column, or one array whose columns have names; no objects"
    np.savez(tmp_path / "cells.npz", day=TABLE["day"], x=np.stack([TABLE["a"], TABLE["b"]], 1))
    cells = snapshots(tmp_path / "cells.npz")
    assert rows(cells[4]) == [(5e4, 2.0), (7e4, 0.0)] and cells.columns == ("x1", "x2")
    named = np.array(list(zip(*TABLE.values())), [("day", "i4"), ("a", "f8"), ("b", "f4")])
    np.save(tmp_path / "cells.npy", named)
    cells = snapshots(tmp_path / "cells.npy")
    assert rows(cells[2]) == [(1e4, 1.0), (3e4, 3.0)] and cells.name == "cells.npy"
    np.save(tmp_path / "plain.npy", np.eye(2))
    with pytest.raises(ValueError, match="plain.npy: expected an array whose columns have names"):
        snapshots(tmp_path / "plain.npy")
    np.savez(tmp_path / "objects.npz", day=np.array([{}, {}]))
    with pytest.raises(ValueError, match="objects.npz: damaged: Object arrays cannot be loaded"):
        snapshots(tmp_path / "objects.npz")
    with pytest.raises(FileNotFoundError, match="none.npz: no such file"):
        snapshots(tmp_path / "none.npz")

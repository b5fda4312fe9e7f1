"""sdist and wheel in dist/; then the wheel alone, in a clean environment, used from another folder.

The environment has no extras. Usage, in the root of the project: python tools/dist.py
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ANYWHERE = shutil.ignore_patterns(".*", "node_modules", "*.egg-info", "__pycache__")
AT_THE_TOP = {"build", "dist", "demo", "runs", "data", "_site", "_proc", "_docs"}
USE = """
import importlib, pkgutil, sys, nsgf_nb
from importlib.metadata import version
assert "site-packages" in nsgf_nb.__file__, nsgf_nb.__file__
assert version("nsgf_nb") == nsgf_nb.__version__, nsgf_nb.__version__
found = pkgutil.walk_packages(nsgf_nb.__path__, "nsgf_nb.")
modules = [m.name for m in found if not m.ispkg and m.name != "nsgf_nb._modidx"]
without = []
for m in modules:
    try:
        importlib.import_module(m)
    except ModuleNotFoundError as e:  # the compiled solver is an extra
        if e.name != "numba":
            raise
        without.append(m)
print(f"nsgf_nb {nsgf_nb.__version__}: {len(modules) - len(without)} modules imported")
print("without numba:", *without)

from nsgf_nb.data import get_sampler
from nsgf_nb.flow import NSGF
flow = NSGF(num_steps=2, pool_size=1024, group=128, iterations=20)
flow.fit(get_sampler("8gaussians"), seed=0, progress=False)
x = flow.sample(64, seed=1)
flow.save("flow.safetensors")
assert x.shape == (64, 2) and x.isfinite().all()
assert (NSGF.load("flow.safetensors").sample(64, seed=1) == x).all()
print("fitted, sampled, saved and loaded")
"""


def run(*cmd, **kw):
    print("$", *(c if "\n" not in str(c) else "..." for c in cmd), flush=True)
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run(cmd, check=True, env=env, **kw)


def copy_sources(to):
    "The project without what was built in it: old folders would get into a wheel"

    def left_out(folder, names):
        top = AT_THE_TOP if Path(folder) == ROOT else set()  # nsgf_nb/runs is a room
        return ANYWHERE(folder, names) | top

    shutil.copytree(ROOT, to, ignore=left_out)


def main():
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as tmp:
        source, venv, elsewhere = Path(tmp) / "source", Path(tmp) / "venv", Path(tmp) / "elsewhere"
        copy_sources(source)
        # the wheel is made from the sdist
        run(sys.executable, "-m", "build", "--outdir", dist, source)
        elsewhere.mkdir()
        run(sys.executable, "-m", "venv", venv)
        run(venv / "bin/python", "-m", "pip", "install", "--quiet", next(dist.glob("*.whl")))
        run(venv / "bin/python", "-m", "pip", "check")
        run(venv / "bin/python", "-c", USE, cwd=elsewhere)
        run(venv / "bin/nsgf", "--help", cwd=elsewhere, stdout=subprocess.DEVNULL)
    print("ok:", *sorted(p.name for p in dist.iterdir()))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(f"failed with exit status {e.returncode}")

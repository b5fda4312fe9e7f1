"What every result says about how it was made, and how it is written."
import json, os, platform, subprocess
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def revision():
    "The commit; a plus where nsgf_nb had changes that were not committed"
    run = lambda *a: subprocess.run(a, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return run("git", "rev-parse", "--short", "HEAD") + ("+" if run("git", "status", "--porcelain", "nsgf_nb") else "")


def facts(*packages, device=None):
    "Machine, versions (of torch and of the packages that are installed), date and revision"
    import torch
    have = {}
    for p in packages:
        try: have[p] = version(p)
        except PackageNotFoundError: pass
    cuda = device is not None and torch.device(device).type == "cuda"
    return dict(machine=torch.cuda.get_device_name(device) if cuda else f"{platform.machine()}, {os.cpu_count()} cores", system=platform.system(),
                python=platform.python_version(), torch=torch.__version__, date=str(date.today()), revision=revision()) | ({"versions": have} if packages else {})


def write(path, result):
    "JSON under a temporary name, then renamed"
    tmp = Path(path).with_suffix(".tmp"); tmp.write_text(json.dumps(result, indent=1)); os.replace(tmp, path)

"What the scripts on images share: results, calls, images of MNIST, fits that go on"

import json
import os
import time

import torch
from record import ROOT, locked, write

RESULTS = ROOT / "bench" / "results"


def read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def note(file, value, *keys):
    "Put a value into a JSON file that other processes write into as well"
    with locked(file) as inner:
        for k in keys[:-1]:
            inner = inner.setdefault(k, {})
        inner[keys[-1]] = value


def cpu(f):
    "What f returns, and the CPU seconds that it took"
    start = time.process_time()
    return f(), time.process_time() - start


def calls(flow, nfe, solver):
    "Arguments of sample for at most so many calls of the networks: a midpoint step takes two"
    first = flow.sinkhorn.num_steps if hasattr(flow, "sinkhorn") else 0
    return dict(num_steps=(nfe - first) // (1 if solver == "euler" else 2), solver=solver)


def variance(x):
    "Of all coordinates together"
    return x.flatten(1).var(0).sum().item()


def byte(x):
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def mnist(train=True, name="mnist"):
    from nsgf_nb.data import get_sampler

    return get_sampler(name, root=os.environ.get("NSGF_DATA", "data"), train=train, download=False)


def make(arguments):
    from nsgf_nb.plusplus import NSGFPlusPlus
    from nsgf_nb.straight import StraightFlow

    return (NSGFPlusPlus if "sinkhorn" in arguments else StraightFlow)(**arguments, device="cpu")


def place(folder, method, what):
    return folder / f"{method.replace('+', 'p')}-{what}"


def fitted(at, flow, seed, target, source=None):
    "The fit of a flow in a folder, begun, gone on with or only read, and its CPU seconds"
    from nsgf_nb.learning.model import Flow

    at.mkdir(parents=True, exist_ok=True)
    done, clock = at / "model.safetensors", at / "seconds.json"
    if not done.exists():
        before, start = read(clock).get("seconds", 0.0), time.process_time()

        def tick(row=None):
            "At each row of the history, so that a fit that is stopped keeps its seconds"
            write(clock, dict(seconds=before + time.process_time() - start))

        how = dict(seed=seed, workdir=at, resume=True, callbacks=[tick], progress=False)
        flow.fit(target, source, **how)
        tick()
        flow.save(done)
    return Flow.load(done, device="cpu"), read(clock)["seconds"]

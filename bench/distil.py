"""NSGF++ on MNIST in one call: the long fit of bench/mnist.py, seed 0, distilled into one step.

    python bench/distil.py [--folder runs/mnist] [--seed 0]

The pairs are 32 768 starts and where that fit takes them with its eleven calls; a U-Net of the
same size learns the way from one to the other, as many steps as a final run of bench/mnist.py has.
2000 samples are judged beside 2000 test images, and beside what the fit itself scores with two
calls and with eleven. Half an hour on one core; an unfinished fit is resumed. The result is kept,
under "distilled" in bench/results/mnist.json. The images are read from $NSGF_DATA (else ./data).
"""

import argparse
import warnings
from pathlib import Path

import torch
from images import RESULTS, byte, fitted, mnist, note, read, variance
from mnist import known_fit
from record import modules, revision

STEPS, BATCH = 2500, 64


def one_step(teacher, seed):
    "What is to be fitted; its weights follow from the seed"
    from nsgf_nb.learning.networks import preset_unet
    from nsgf_nb.matching.interpolants import OneStep

    torch.manual_seed(seed)
    return OneStep(
        teacher,
        network=preset_unet("mnist"),
        iterations=STEPS,
        batch_size=BATCH,
        lr=4e-3,
        ema=0.998,
        device="cpu",
    )


def judged(flow, real, seed, **how):
    "Scores of samples, and the total of their variance over that of the test images"
    from nsgf_nb.fid import image_scores

    x = flow.sample(len(real), seed=seed, batch_size=250, **how)
    found = dict(variance=variance(x) / variance(real), calls=float(flow.nfe))
    return image_scores(x, real) | found


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--folder", type=Path, default=Path("runs/mnist"))
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    if str(a.seed) in read(RESULTS / "mnist.json").get("distilled", {}):
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    from nsgf_nb.core import make_generator
    from nsgf_nb.files import save_tensors

    real = mnist(train=False)(10_000, make_generator(0, "test"))[0][:2000]
    teacher = known_fit(a.folder, "NSGF++", "long-0")
    at = a.folder / f"distilled-{a.seed}"
    step, seconds = fitted(at, one_step(teacher, a.seed), a.seed, mnist())
    found = dict(
        distilled=judged(step, real, a.seed),
        two_calls=judged(teacher, real, a.seed, num_steps=1),
        teacher=judged(teacher, real, a.seed),
    )
    row = dict(scores=found, seconds=seconds, loss=step.history[-1], revision=revision())
    row["modules"] = modules("plusplus", "fid", "matching.interpolants")
    note(RESULTS / "mnist.json", row, "distilled", str(a.seed))
    save_tensors(
        RESULTS / "mnist-distilled.safetensors",
        dict(distilled=byte(step.sample(100, seed=a.seed))),
        dict(kind="samples"),
    )
    for name, scores in found.items():
        print(f"{name}: FID-LeNet {scores['FID-LeNet']:.1f}, variance {scores['variance']:.2f}")


if __name__ == "__main__":
    main()

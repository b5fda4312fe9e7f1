"A method of one's own: a generator of one step, trained by the energy distance"

from dataclasses import dataclass

import torch

from nsgf_nb import Flow, Task
from nsgf_nb.core import make_generator
from nsgf_nb.data import points_and_labels
from nsgf_nb.motion.functionals import energy_velocity
from nsgf_nb.processes import batch_part


@dataclass(eq=False, repr=False)
class EnergyGenerator(Flow):
    reuse: int = 4  # steps that the same goals serve
    network: torch.nn.Module | str | None = None
    iterations: int = 300
    batch_size: int = 128
    ema: float = 0.9
    device: str = "cpu"

    def task(self, ends, run):
        z, goal = torch.zeros(2, self.batch_size, *ends.target.shape)  # what a checkpoint keeps

        def rows(step, part, net):
            if step % self.reuse == 0:
                g = make_generator(run.seed, "cloud", step)
                start, y = (points_and_labels(s, self.batch_size, g)[0] for s in ends[:2])
                z.copy_((start - ends.mean) / ends.sigma)
                with torch.no_grad():
                    push = net(z, torch.zeros(len(z)))
                    goal.copy_(push + energy_velocity(z + push, (y - ends.mean) / ends.sigma))
            here = batch_part(self.batch_size, part)
            return z[here].clone(), torch.zeros(self.batch_size)[here], goal[here].clone(), None

        return Task(rows, memory=dict(z=z, goal=goal))

    def grid(self, num_steps, solver):
        return [0.0, 1.0]

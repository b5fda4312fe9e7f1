"Read from the disk once, before notebooks are forked: the package and its compiled solver"

import torch

import nsgf_nb

for name in nsgf_nb.__all__:
    getattr(nsgf_nb, name)
for dtype in (torch.float32, torch.float64):
    x = torch.linspace(0, 1, 16, dtype=dtype).view(8, 2)
    nsgf_nb.SinkhornVelocity(0.5)(x, x + 1)

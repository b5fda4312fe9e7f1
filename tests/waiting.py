"What tests that start other processes have in common"

import os

import torch

# Seconds after which another process hangs. It guards against waiting for ever and measures
# nothing: the longest wait took a minute on two cores that six processes shared.
HANGS = 1200
# Bits depend on the number of threads, so other processes use as many as this one
ENV = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}

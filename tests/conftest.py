"What all tests rely on"

import os
import signal

import torch

# Triton reads it when it is imported, which torch's compiler does, too: programs run on a CPU
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure(config):
    """Ctrl-C interrupts, here and in the processes that tests start.

    A script's background job inherits that it is ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)

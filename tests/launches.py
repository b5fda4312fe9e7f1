"What a GPU would be asked for: operations that start a kernel, and reads, counted on a CPU"

from dataclasses import dataclass, field

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

# operations that only describe memory, besides those that torch calls views
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "_unsafe_view", "lift_fresh"}
READS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}  # by a mask: how many are in it?


def masked(arguments):
    indices = arguments[1] if len(arguments) > 1 else ()
    return any(getattr(i, "dtype", None) is not None and not i.dtype.is_signed for i in indices)


class Lists(TorchFunctionMode):
    "Calls `seen` for each tensor that becomes a list: on a CPU that is no operation."

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function is torch.Tensor.tolist:
            self.seen()
        return function(*arguments, **(options or {}))


@dataclass
class Launches(TorchDispatchMode):
    "Counts while it is entered."

    operations: int = 0  # of torch that start a kernel
    programs: int = 0  # of Triton
    reads: int = 0  # the host waits for a number
    names: dict = field(default_factory=dict)  # operation → how often

    def __post_init__(self):
        super().__init__()
        self.lists = Lists(self.read)

    def read(self):
        self.reads += 1

    def __enter__(self):
        self.lists.__enter__()
        return super().__enter__()

    def __exit__(self, *problem):
        super().__exit__(*problem)
        self.lists.__exit__(*problem)

    def __torch_dispatch__(self, op, types, arguments=(), options=None):
        name = op.overloadpacket.__name__
        self.reads += name in READS or (name in INDEXED and masked(arguments))
        if name not in FREE and not op.is_view:
            self.operations += 1
            self.names[name] = self.names.get(name, 0) + 1
        return op(*arguments, **(options or {}))

    def counting(self, launch):
        "A launch of a program that is counted; what the interpreter does inside is not."

        def counted(*arguments, **options):
            self.programs += 1
            with _disable_current_modes():
                return launch(*arguments, **options)

        return counted

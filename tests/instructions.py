"""Compiles the Triton programs for GPUs that are not here, and counts what their inner loops do.

    python tests/instructions.py 80 90      one JSON line: version, and a row for each program

A row: capability, name, instructions of the innermost long loop for each pair, bytes that are
spilled to the stack, registers. It needs the tools that Triton's wheel carries, and no GPU.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

os.environ.pop("TRITON_INTERPRET", None)

import triton  # noqa: E402, the interpreter is chosen when programs are defined
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from nsgf_nb.solver import iterations, programs, whole  # noqa: E402
from nsgf_nb.solver.triton import TritonKernel  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


def blocks(program, d, capability):
    "What a program in d dimensions is compiled for"
    there = SimpleNamespace(constants=dict(D=d), hopper=capability >= 90)
    block = TritonKernel._block(there, program)
    how = dict(num_warps=block.num_warps, num_stages=block.num_stages)
    return dict(BN=block.rows, BM=block.columns), how


PLANE = dict(D=2, STEP=0, MASKED=False, PRECISION="tf32x3")
WIDE = dict(D=64, STEP=64, MASKED=False, PRECISION="tf32x3")
SUMS = dict(least=2.9e-20, SOME=False)
CASES = {
    "soft rows, plane": ("soft_rows", PLANE),
    "rows, plane": ("row_sums", PLANE | SUMS | dict(NV=1)),
    "rows of some, plane": ("row_sums", PLANE | SUMS | dict(NV=1, SOME=True)),
    "map fused, plane": ("row_sums", PLANE | SUMS | dict(NV=3)),
    "rows, 8 coordinates": ("row_sums", PLANE | SUMS | dict(NV=1, D=8)),
    "soft rows, 64 coordinates": ("soft_rows", WIDE),
    "rows, 64 coordinates": ("row_sums", WIDE | SUMS | dict(NV=1)),
    "rows, 784 coordinates": ("row_sums", WIDE | SUMS | dict(NV=1, D=784)),
    "map, 64 coordinates": ("row_products", WIDE | dict(BV=64)),
    "map, 784 coordinates": ("row_products", WIDE | dict(D=784, BV=64)),
}
WHOLE = dict(
    form=whole.Form(D=2, M=512, BN=8, masked=False, warm=False, least=2.9e-20, unit=1.2e-7)
)
PROOF = dict(form=WHOLE["form"]._replace(BN=512))
STEP = dict(WIDTH=1024)
SOLVES = {
    "ascent, 512 points": ("ascend", WHOLE),
    "half steps, 512 points": ("settle", WHOLE),
    "bounds, 512 points": ("prove", PROOF),
    "iteration": ("cg_step", STEP),
}


def compiled(name, constants, capability, number="fp32"):
    "A program with aligned pointers and sizes that 16 divides, as most are"
    home = whole if "form" in constants else iterations if "WIDTH" in constants else programs
    program, how = getattr(home, name), dict(num_warps=4)
    if home is programs:
        sizes, how = blocks(name, constants["D"], capability)
        constants = constants | sizes
    signature, aligned = {}, {}
    for place, argument in enumerate(program.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        one = "fp32" if argument == "tol" else "i32"
        kind = "i32" if argument in ("GOING", "STATE") else number
        size = argument == "M" or not argument.isupper()
        signature[argument] = one if size else f"*{kind}"
        if argument in ("n", "m") or argument.isupper():
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=program, signature=signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=how | dict(enable_fp_fusion=True))


def read(tool, option, cubin):
    "What a tool says about machine code"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.cubin"
        file.write_bytes(cubin)
        return subprocess.run([TOOLS / tool, option, file], capture_output=True, text=True).stdout


def loops(code):
    "The instructions of each loop: from a label to a jump back to it"
    instructions, labels, found = [], {}, []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif said := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(said[1])
            jump = re.search(r"\bBRA\b.*?(\.L_x_\d+)", said[1])
            if jump and jump[1] in labels:
                found.append(instructions[labels[jump[1]] :])
    return found


def row(what, capability, number="fp32"):
    "One program on one kind of GPU; each pair has one exponential"
    name, constants = (CASES | SOLVES)[what]
    kernel = compiled(name, constants, capability, number)
    usage = read("cuobjdump", "--dump-resource-usage", kernel.asm["cubin"])
    said = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    longest = max(loops(read("nvdisasm", "-c", kernel.asm["cubin"])), key=len, default=[])
    passes = what in CASES  # a solve has several loops
    pairs = sum("MUFU.EX2" in instruction for instruction in longest) if passes else 0
    return dict(
        capability=capability,
        what=what,
        number=number,
        per_pair=len(longest) / pairs if pairs and number == "fp32" else None,
        registers=int(said[1]),
        spilled=int(said[2]) + int(said[3]),
        shared=kernel.metadata.shared,
    )


if __name__ == "__main__":
    rows = [row(what, int(c)) for c in sys.argv[1:] for what in CASES]
    rows += [row(what, int(sys.argv[-1])) for what in SOLVES]
    rows += [row("rows, plane", int(c), "fp64") for c in sys.argv[1:]]
    print(json.dumps(dict(version=triton.__version__, rows=rows)))

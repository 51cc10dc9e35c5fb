"""The loss's Triton kernels without a GPU: what they compute, in an interpreter, and what is built for an H100."""

import os
import re
import subprocess
import sys
from itertools import product

import pytest
from support.places import REPOSITORY, TESTS

triton = pytest.importorskip("triton")
ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4}
THREADS = 128  # of a program


def test_the_kernels_compute_what_the_pieces_do():
    """Value and gradient, see support.triton_loss; the interpreter is asked for before Triton is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{TESTS}"}
    command = [sys.executable, "-W", "ignore", "-m", "support.triton_loss"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def built(monkeypatch, tmp_path):
    """built(kernel, types, **constants): its PTX for an H100 where all pointers and the size are multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def build(kernel, types: dict[str, str], **constants: int) -> str:
        names = kernel.arg_names
        signature = {name: "constexpr" if name in constants else types[name] for name in names}
        aligned = {
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if name == "size" or types.get(name, "").startswith("*")
        }
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
        binary = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert binary.asm["cubin"] and binary.metadata.num_warps * 32 == THREADS
        return binary.asm["ptx"]

    return build


def moved(ptx: str, what: str) -> tuple[int, int]:
    """How many times a thread loads ("ld") or stores ("st") 128 bits at once, and how many times fewer."""
    found = re.findall(rf"\b{what}\.global\S*", ptx)
    wide = [each for each in found if re.search(r"\.v4\.[bfu]32|\.v2\.[bfu]64", each)]
    return len(wide), len(found) - len(wide)


@pytest.mark.parametrize("precision, channels", [*product(ITEMSIZE, (16, 128, 2048, 57))])
def test_the_loss_is_built_with_wide_loads_and_no_atomics(built, precision, channels):
    from overhaul.distill.triton_l2 import BLOCK, difference_kernel

    one = f"*{precision}"
    types = {"student": one, "teacher": one, "margin": "*fp32", "kept": one, "partial": "*fp32"}
    ptx = built(difference_kernel, types | {"size": "i64", "images": "fp32"}, CHANNELS=channels, BLOCK=BLOCK)
    elements = BLOCK // THREADS
    wide = elements * ITEMSIZE[precision] // 16
    margins = (elements // 4, 0) if channels % 4 == 0 else (0, elements)
    assert moved(ptx, "ld") == (2 * wide + margins[0], margins[1])
    assert moved(ptx, "st") == (wide, 1)
    assert not re.search(r"\b(atom|red)\.", ptx)
    assert precision == "fp32" or re.search(rf"cvt\.rn\.{precision.replace('fp', 'f')}\S*\.f32", ptx)  # to the nearest


@pytest.mark.parametrize("precision", ITEMSIZE)
def test_the_gradient_is_built_with_wide_loads(built, precision):
    from overhaul.distill.triton_l2 import BLOCK, gradient_kernel

    one = f"*{precision}"
    types = {"kept": one, "gradient": "*fp32", "result": one, "size": "i64", "share": "fp32"}
    ptx = built(gradient_kernel, types, BLOCK=BLOCK)
    wide = BLOCK // THREADS * ITEMSIZE[precision] // 16
    assert moved(ptx, "ld") == (wide, 1) and moved(ptx, "st") == (wide, 0)

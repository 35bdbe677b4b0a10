#!/usr/bin/env python3
"""Makes the PTX files, attention_{f32,f16,bf16}.ptx here and gpt2.ptx of fused-model, or checks that they are what their
sources make.

    make_ptx.py            compile, write the PTX files, assemble
    make_ptx.py --check    compile, compare every byte, assemble; exit 1 if something differs or does not assemble

The compiler is NVRTC of CUDA 12.0, so that every driver from 12.0 on accepts the PTX; the assembler is that of CUDA 12.9,
which knows all architectures from sm_70 to sm_121. Both come from PyPI into a temporary folder (63 MB) that is removed at
the end; --toolkit DIR keeps them in DIR and uses what is there already. No GPU and no CUDA installation is needed.
"""

import argparse
import ctypes
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
WHEELS = ["nvidia-cuda-nvrtc-cu12==12.0.140", "nvidia-cuda-nvcc-cu12==12.9.86"]
GPT2 = HERE.parents[1] / "fused-model/src/cuda"
# The PTX file, its source, and what is defined for it.
FILES = [(HERE / f"attention_{element}.ptx", HERE / "attention.cu", [f"-DELEMENT={element}"]) for element in ["f32", "f16", "bf16"]]
FILES += [(GPT2 / "gpt2.ptx", GPT2 / "gpt2.cu", [])]
ARCHITECTURES = [70, 75, 80, 86, 87, 89, 90, 100, 101, 103, 120, 121]


def fetch(toolkit: pathlib.Path) -> None:
    """Unpacks the wheels into `toolkit`, unless they are there."""
    if (toolkit / "nvidia").is_dir():
        return
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, *WHEELS]
        subprocess.run(command, check=True)
        for wheel in pathlib.Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(toolkit)


class Compiler:
    """NVRTC, as far as it is needed here."""

    def __init__(self, toolkit: pathlib.Path) -> None:
        library = toolkit / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
        # It opens its second library by name.
        ctypes.CDLL(str(library.with_name("libnvrtc-builtins.so.12.0")), mode=ctypes.RTLD_GLOBAL)
        self.nvrtc = ctypes.CDLL(str(library))

    def text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self.nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.nvrtc, f"nvrtcGet{what}")(program, buffer)
        return buffer.value

    def ptx(self, source: pathlib.Path, defines: list[str]) -> bytes:
        program = ctypes.c_void_p()
        text, name = source.read_bytes(), source.name.encode()
        if self.nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None) != 0:
            sys.exit("NVRTC did not start")
        options = [b"--gpu-architecture=compute_70", b"--std=c++14", *(define.encode() for define in defines)]
        failed = self.nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)) != 0
        log = self.text(program, "ProgramLog").decode().strip()
        if log:
            print(log, file=sys.stderr)
        if failed:
            sys.exit(f"{source.name} does not compile {' '.join(defines)}")
        return self.text(program, "PTX")


def assemble(toolkit: pathlib.Path, ptx: pathlib.Path, architecture: int) -> bool:
    """Prints registers and spills of each kernel."""
    ptxas = toolkit / "nvidia/cuda_nvcc/bin/ptxas"
    ptxas.chmod(0o755)
    command = [ptxas, "--verbose", f"--gpu-name=sm_{architecture}", "--output-file=/dev/null", ptx]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        print(f"{ptx.name} sm_{architecture}: {run.stderr.strip()}")
        return False
    kernel = r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    found = sorted(re.findall(kernel, run.stderr, re.DOTALL))
    spilled = sum(int(stores) + int(loads) for _, stores, loads, _ in found)
    registers = ", ".join(f"{name} {count}" for name, _, _, count in found)
    print(f"{ptx.name} sm_{architecture}: {spilled} bytes spilled; registers: {registers}")
    return True


def make(toolkit: pathlib.Path, check: bool) -> bool:
    fetch(toolkit)
    compiler = Compiler(toolkit)
    good = True
    for path, source, defines in FILES:
        ptx = compiler.ptx(source, defines)
        if check:
            same = path.exists() and path.read_bytes() == ptx
            print(f"{path.name}: {'is what' if same else 'IS NOT what'} {source.name} makes")
            good &= same
        else:
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(ptx)
            temporary.rename(path)
            print(f"{path.name}: {len(ptx)} bytes")
        for architecture in ARCHITECTURES:
            good &= assemble(toolkit, path, architecture)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--toolkit", type=pathlib.Path, help="where to keep the unpacked wheels")
    arguments = parser.parse_args()
    if arguments.toolkit:
        good = make(arguments.toolkit, arguments.check)
    else:
        with tempfile.TemporaryDirectory() as folder:
            good = make(pathlib.Path(folder), arguments.check)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

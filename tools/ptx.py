#!/usr/bin/env python3
"""ptx.py - makes each NAME.ptx of the tree from its NAME.cu; needs nvcc and ptxas on PATH, and nothing else needs them.

The texts are marked as PTX 6.4 for sm_70, so that drivers from CUDA 10.1 on and devices from Volta on take them; ptxas, at the
oldest device it still knows, says whether the instructions allow that.
--check: compare instead of writing; exit status 77 when this toolkit is another release than the one a text is from."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ('mrm/gpu/kernel/xxh3.cu', 'tools/run/kernels.cu')


def release(source):
    told = subprocess.run(['nvcc', '--version'], check=True, stdout=subprocess.PIPE, text=True).stdout
    return f'// from {source.name}, by nvcc ' + re.search(r'release ([\d.]+)', told)[1] + '\n'


def make(source):
    with tempfile.TemporaryDirectory() as tmp:
        ptx = pathlib.Path(tmp, 'made.ptx')
        # Names that a compiler makes up (of lambdas) must not depend on where the tree is.
        subprocess.run(['nvcc', '-ptx', '-O3', '-arch=compute_75', '-I.', '-o', ptx, source.relative_to(ROOT)], cwd=ROOT,
                       check=True)
        text = re.sub(r'//.*\n', '\n', ptx.read_text('ascii'))
        text = re.sub(r'\n\s*\n+', '\n', text).strip() + '\n'
        text = re.sub(r'^\.version .*$', '.version 6.4', text, flags=re.M)
        ptx.write_text(re.sub(r'^\.target .*$', '.target sm_75', text, flags=re.M), 'ascii')
        subprocess.run(['ptxas', '-arch=sm_75', '-o', os.devnull, ptx], check=True)
        return release(source) + re.sub(r'^\.target .*$', '.target sm_70', text, flags=re.M)


def check(source, path):
    text = path.read_text('ascii')
    if not text.startswith(release(source)):
        print(f'{path.name} is from another release of nvcc: not compared')
        return 77
    return 0 if text == make(source) else print(f'{path.name} is not what {source.name} gives: run tools/ptx.py') or 1


def main():
    told = []
    for source in (ROOT / name for name in SOURCES):
        path = source.with_suffix('.ptx')
        if '--check' in sys.argv:
            told.append(check(source, path))
        else:
            path.write_text(make(source), 'ascii')
    return 1 if 1 in told else max(told, default=0)


if __name__ == '__main__':
    sys.exit(main())

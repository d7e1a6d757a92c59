#!/usr/bin/env python3
"""update.py - makes xxh3.ptx from xxh3.cu; needs nvcc and ptxas on PATH, and nothing else needs them.

The text is marked as PTX 6.4 for sm_70, so that drivers from CUDA 10.1 on and devices from Volta on take it; ptxas, at the
oldest device it still knows, says whether the instructions allow that.
--check: compare instead of writing; exit status 77 when this toolkit is another release than the one the text is from."""
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def release():
    told = subprocess.run(['nvcc', '--version'], check=True, stdout=subprocess.PIPE, text=True).stdout
    return '// from xxh3.cu, by nvcc ' + re.search(r'release ([\d.]+)', told)[1] + '\n'


def make():
    with tempfile.TemporaryDirectory() as tmp:
        ptx = os.path.join(tmp, 'xxh3.ptx')
        subprocess.run(['nvcc', '-ptx', '-O3', '-arch=compute_75', '-o', ptx, 'xxh3.cu'], cwd=HERE, check=True)
        with open(ptx, encoding='ascii') as f:
            text = f.read()
        text = re.sub(r'//.*\n', '\n', text)
        text = re.sub(r'\n\s*\n+', '\n', text).strip() + '\n'
        text = re.sub(r'^\.version .*$', '.version 6.4', text, flags=re.M)
        for target in ('sm_75', 'sm_70'):
            text = re.sub(r'^\.target .*$', '.target ' + target, text, flags=re.M)
            if target == 'sm_75':
                with open(ptx, 'w', encoding='ascii') as f:
                    f.write(text)
                subprocess.run(['ptxas', '-arch=sm_75', '-o', os.devnull, ptx], check=True)
        return release() + text


def main():
    path = os.path.join(HERE, 'xxh3.ptx')
    if '--check' not in sys.argv:
        with open(path, 'w', encoding='ascii') as f:
            f.write(make())
        return 0
    with open(path, encoding='ascii') as f:
        text = f.read()
    if not text.startswith(release()):
        print('the text is from another release of nvcc: nothing compared')
        return 77
    return 0 if text == make() else print('xxh3.ptx is not what xxh3.cu gives: run update.py') or 1


if __name__ == '__main__':
    sys.exit(main())

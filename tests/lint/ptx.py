#!/usr/bin/python3
"""ptx.py BUILD - the committed PTX is what its source gives (not compared where there is no CUDA toolkit), and the build knows that
it is made of it."""
import shutil
import subprocess
import sys

import lint

known = lint.run('ninja', '-C', sys.argv[1], '-t', 'inputs', 'all').stdout
faults = [f'{lint.name(path)}: a change of it makes nothing anew' for path in lint.files('.ptx') if lint.name(path) not in known]
if faults:
    lint.end(faults)
if not shutil.which('nvcc') or not shutil.which('ptxas'):
    lint.skip('no nvcc on PATH: nothing compared')
sys.exit(subprocess.run([sys.executable, lint.ROOT / 'tools/ptx.py', '--check'], check=False).returncode)

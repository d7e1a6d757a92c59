#!/usr/bin/python3
"""ptx.py - the committed PTX is what its source gives; skipped where there is no CUDA toolkit."""
import shutil
import subprocess
import sys

import lint

if not shutil.which('nvcc') or not shutil.which('ptxas'):
    lint.skip('no nvcc on PATH: nothing compared')
sys.exit(subprocess.run([sys.executable, lint.ROOT / 'tools/ptx.py', '--check'], check=False).returncode)

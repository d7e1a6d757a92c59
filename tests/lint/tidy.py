#!/usr/bin/python3
"""tidy.py BUILD - clang-tidy with the checks of .clang-tidy over the sources that BUILD compiles."""
import concurrent.futures
import json
import pathlib
import re
import sys

import lint

build = pathlib.Path(sys.argv[1])
units = json.loads((build / 'compile_commands.json').read_text())
sources = sorted({(build / u['file']).resolve() for u in units if u['file'].endswith('.c')})


def check(path):
    got = lint.run('clang-tidy', '--quiet', '-p', build, '--extra-arg=-Wno-unknown-warning-option', path)
    return [line for line in got.stdout.splitlines() if re.search(r': (warning|error): ', line)]


with concurrent.futures.ThreadPoolExecutor(2) as pool:
    lint.end(sorted({line for found in pool.map(check, sources) for line in found}))

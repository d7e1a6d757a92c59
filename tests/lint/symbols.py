#!/usr/bin/python3
"""symbols.py BUILD - libtrims exports exactly what trims.h declares, needs libc alone, stays under 100 kB stripped; the
simulated driver exports exactly the driver's table and what simcuda.h declares."""
import pathlib
import re
import sys
import tempfile

import lint

built = sorted(pathlib.Path(sys.argv[1]).glob('client/libtrims.so*'))
libraries = [p for p in built if not p.is_symlink() and re.search(r'\.so(\.\d+)*$', p.name)]
if not libraries:
    lint.skip('there is no libtrims yet')
library, faults = libraries[0], []
header = re.sub(r'/\*.*?\*/|//[^\n]*', '', (lint.ROOT / 'client/trims.h').read_text(), flags=re.S)
callbacks = set(re.findall(r'\(\*\s*(trims_\w+)\s*\)', header))
declared = set(re.findall(r'\b(trims_\w+)\s*\([^;{]*\)[^;{]*;', header)) - callbacks
table = [line.split() for line in lint.run('nm', '-D', '--defined-only', library).stdout.splitlines()]
exported = {row[-1].split('@')[0] for row in table if row[1] != 'A'}
faults += [f'exported but not declared in trims.h: {n}' for n in sorted(exported - declared)]
faults += [f'declared in trims.h but not exported: {n}' for n in sorted(declared - exported)]
needed = re.findall(r'\(NEEDED\).*\[(.*)\]', lint.run('readelf', '-d', library).stdout)
# A sanitizer brings its runtime; the promise is about the library people install.
faults += [f'needs {n}' for n in needed if not re.match(r'(libc|ld-linux[\w-]*|lib(a|ub|t)san)\.so', n)]
if not any('san' in n for n in needed):
    with tempfile.NamedTemporaryFile() as stripped:
        lint.run('strip', '-o', stripped.name, library)
        size = pathlib.Path(stripped.name).stat().st_size
    print(f'{library.name}: {size} bytes stripped, {len(exported)} symbols')
    if size >= 100000:
        faults.append(f'{size} bytes stripped')
simulated = pathlib.Path(sys.argv[1]) / 'tools/simcuda/libsimcuda.so'
if simulated.exists():
    table = (lint.ROOT / 'shared/cuda.def').read_text()
    wanted = set(re.findall(r'^CU\(\w+, \w+, (\w+),', table, re.M))
    header = re.sub(r'/\*.*?\*/', '', (lint.ROOT / 'tools/simcuda/simcuda.h').read_text(), flags=re.S)
    wanted |= set(re.findall(r'\b(simcuda_\w+)\s*[(;]', header))
    rows = [line.split() for line in lint.run('nm', '-D', '--defined-only', simulated).stdout.splitlines()]
    exported = {row[-1].split('@')[0] for row in rows}
    faults += [f'the simulated driver exports {n}' for n in sorted(exported - wanted)]
    faults += [f'the simulated driver lacks {n}' for n in sorted(wanted - exported)]
    print(f'{simulated.name}: {len(exported)} symbols')
lint.end(faults)

#!/usr/bin/python3
"""headers.py - each header compiles alone and has a guard; client/trims.h also as strict C11 and as C++."""
import concurrent.futures
import re

import lint

FLAGS = ('-fsyntax-only', '-Wall', '-Wextra', '-Werror', '-Wno-unused-parameter', '-Wno-unused-function', '-I.')
C = ('gcc', '-xc', '-std=gnu11', '-D_GNU_SOURCE', '-DTRIMS_VERSION="x"')


def compile_alone(command, path):
    # Through an including file: a header given directly draws a warning about #pragma once and the like.
    got = lint.subprocess.run([*command, *FLAGS, '-'], cwd=lint.ROOT, input=f'#include "{lint.name(path)}"\n',
                              capture_output=True, text=True, check=False)
    return [f'{lint.name(path)} ({command[0]} {command[2]}):\n{got.stderr}'] if got.returncode else []


faults, work = [], []
for header in lint.files('.h'):
    guard = re.search(r'^#ifndef (\w+)\n#define \1$', header.read_text(), re.M)
    if not guard:
        faults.append(f'{lint.name(header)}: no include guard')
    work.append((C, header))
public = lint.ROOT / 'client/trims.h'
if public.exists():
    work += [(('gcc', '-xc', '-std=c11', '-pedantic'), public), (('g++', '-xc++', '-std=c++11', '-pedantic'), public),
             (('g++', '-xc++', '-std=c++20', '-pedantic'), public)]
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for found in pool.map(lambda w: compile_alone(*w), work):
        faults += found
lint.end(faults)

#!/usr/bin/python3
"""sizes.py - functions stay short (median at most 20 lines, nine of ten at most 55, none over 120), files as well
(under 1000)."""
import json
import statistics

import lint

faults = []
sources = lint.files('.c', '.h')
for path in sources + lint.files('.py', '.sh'):
    lines = len(path.read_bytes().splitlines())
    if lines > 1000:
        faults.append(f'{lint.name(path)}: {lines} lines')
tags = lint.run('ctags', '--output-format=json', '--fields=+ne', '--kinds-C=f', '--language-force=C', '-f', '-',
                *sources)
functions = []
for line in tags.stdout.splitlines():
    tag = json.loads(line)
    if 'end' in tag and tag['kind'] == 'function':
        functions.append((tag['end'] - tag['line'] + 1, f"{lint.name(lint.pathlib.Path(tag['path']))}: {tag['name']}"))
if not functions:
    faults.append(f'ctags found no function: {tags.stderr}')
functions.sort(reverse=True)
faults += [f'{where} has {length} lines' for length, where in functions if length > 120]
lengths = [length for length, _ in functions]
if lengths:
    median, ninety = statistics.median(lengths), sorted(lengths)[int(len(lengths) * 0.9)]
    print(f'{len(lengths)} functions: median {median} lines, 90th percentile {ninety}, longest {lengths[0]}')
    if median > 20:
        faults.append('median over 20 lines')
    if ninety > 55:
        faults.append('90th percentile over 55 lines: ' + ', '.join(f'{w} {n}' for n, w in functions[:10]))
lint.end(faults)

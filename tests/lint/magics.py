#!/usr/bin/python3
"""magics.py - no two kinds of object share a magic number."""
import re

import lint

seen, faults = {}, []
for path in lint.files('.c', '.h', top=('shared', 'cache', 'client', 'mrm', 'tools')):
    for m in re.finditer(r'^#define\s+(\w*MAGIC\w*)\s+\(?(0x[0-9a-fA-F]+|"[^"]*")', path.read_text(), re.M):
        value = int(m[2], 16) if m[2][0] == '0' else m[2]
        where = f'{lint.name(path)}: {m[1]}'
        if value in seen:
            faults.append(f'{where} is the same as {seen[value]}')
        seen[value] = where
lint.end(faults)

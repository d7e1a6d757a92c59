#!/usr/bin/env python3
"""embed.py FILE NAME: C source of `const char NAME[]` with the text of FILE."""
import sys

path, name = sys.argv[1:]
print('#include "mrm/gpu/kernel/ptx.h"\n\nconst char %s[] =' % name)
with open(path, encoding='ascii') as f:
    for line in f:
        print('\t"%s\\n"' % line.rstrip('\n').replace('\\', '\\\\').replace('"', '\\"').replace('\t', '\\t'))
print('\t;')

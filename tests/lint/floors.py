#!/usr/bin/python3
"""floors.py - a file includes its own floor and lower ones, never up, never sideways; includes are root-relative; the
brain includes no system header that could do anything."""
import re

import lint

MAY = {'shared': {'shared'}, 'cache': {'cache', 'shared'}, 'client': {'client', 'shared'},
       'mrm': {'mrm', 'cache', 'shared'}, 'tools': {'tools', 'client', 'shared'}, 'tests': set(lint.FLOORS)}
# The simulators and the brain's benchmark drive the brain itself; the contention benchmark's submitter, its link scheduler;
# trims-ctl plan and its benchmark, the planner, which needs no daemon.
BRAIN_TOOLS = re.compile(r'tools/(sim|bench/(brain|jit|plan)|ctl/(cmd_plan|plan_render))')
BRAIN_SYSTEM = {'stdint.h', 'stddef.h', 'stdbool.h', 'stdatomic.h', 'limits.h', 'string.h', 'stdlib.h', 'inttypes.h',
                'stdarg.h', 'stdio.h', 'errno.h'}
# The simulated driver does in C what the daemon's kernel does, and takes its shapes from where they are agreed.
KERNEL = ('tools/simcuda/kernel.c', 'mrm/gpu/kernel/ptx.h')
PUBLIC = {'trims.h': 'client'}  # the one header that is also included by its installed name

faults = []
for path in lint.files('.c', '.h', '.def'):
    me = lint.name(path)
    floor = me.split('/')[0]
    allowed = MAY[floor] | ({'cache'} if BRAIN_TOOLS.match(me) else set())
    for number, line in enumerate(path.read_text().splitlines(), 1):
        m = re.match(r'\s*#\s*include\s+(["<])([^">]+)', line)
        if not m:
            continue
        if m[1] == '<':
            if floor == 'cache' and m[2] not in BRAIN_SYSTEM:
                faults.append(f'{me}:{number}: the brain includes <{m[2]}>')
            continue
        target = PUBLIC.get(m[2]) or m[2].split('/')[0]
        if m[2] not in PUBLIC and not (lint.ROOT / m[2]).is_file():
            faults.append(f'{me}:{number}: "{m[2]}" is not a path from the root')
        elif target not in allowed and (me, m[2]) != KERNEL:
            faults.append(f'{me}:{number}: {floor} includes {m[2]}')
lint.end(faults)

#!/usr/bin/python3
"""docs.py BUILD - what the tables say is what --help and the manual pages say: mrm's options, trims-ctl's commands and
options, every error, and the folders in README.md."""
import pathlib
import re
import sys

import lint

build = pathlib.Path(sys.argv[1])


def rows(path, pattern):
    path = lint.ROOT / path
    return re.findall(pattern, path.read_text().split('*/', 1)[1], re.M) if path.exists() else []


def page(name):
    found = [p for p in lint.files('.1', '.3', '.5', '.7', '.8') if p.name.rsplit('.', 1)[0] == name]
    return found[0].read_text() if found else None


def missing(program, words, prefix, manual):
    """Words that the program's --help or manual page lacks."""
    text = page(manual)
    binary = build / program
    if not binary.exists():
        return []
    got = lint.run(binary, '--help').stdout
    found = [f'{program} --help lacks {prefix}{w}' for w in words
             if not re.search(rf'(?<![\w-]){prefix}{w}(?![\w-])', got)]
    if text is None:
        return found + [f'{program} has no manual page']
    # In mdoc a long option is "Fl -name", a command "Cm name" or "Ic name".
    plain = text.replace('\\-', '-')
    macro = {'--': r'Fl\s+-', '': r'(?:Cm|Ic|Ss|It|Sy)\s+'}[prefix]
    return found + [f'{manual}(1) lacks {prefix}{w}' for w in words if not re.search(rf'{macro}{w}(?![\w-])', plain)]


faults = missing('mrm/mrm', rows('mrm/options.def', r'^OPT\(\w+,\s*"([\w-]+)"'), '--', 'mrm')
faults += missing('tools/trims-ctl', rows('tools/ctl/commands.def', r'^COMMAND\((\w+),'), '', 'trims-ctl')
faults += missing('tools/trims-ctl', rows('tools/ctl/options.def', r'^OPTION\((\w+),'), '--', 'trims-ctl')
faults += missing('tools/trims-run', rows('tools/run/commands.def', r'^COMMAND\((\w+),'), '', 'trims-run')
faults += missing('tools/trims-run', rows('tools/run/options.def', r'^OPTION\((\w+),'), '--', 'trims-run')
readme = (lint.ROOT / 'README.md').read_text() if (lint.ROOT / 'README.md').exists() else None
for folder in lint.FLOORS if readme else ():
    if f'{folder}/' not in readme:
        faults.append(f'README.md does not mention {folder}/')
    if not (lint.ROOT / folder / 'README.md').exists():
        faults.append(f'{folder} has no README.md')
lint.end(faults)

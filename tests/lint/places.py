#!/usr/bin/python3
"""places.py - the tree names no directory of a developer's machine, and no host beyond the ones documentation needs."""
import re

import lint

# Directories that exist on one machine only; spelled so that this file does not find itself.
DIRECTORY = re.compile(r'(?<![\w.$}])/(' + '|'.join(('wor' + 'k', 'roo' + 't', 'hom' + r'e/\w', 'Use' + 'rs')) + r')/')
HOST = re.compile(r'\b(?:https?|s3|ftp)://([A-Za-z0-9.-]+\.[A-Za-z]{2,})\b')
ALLOWED = re.compile(r'(^|\.)(example\.(com|org|net)|invalid|test|example|localhost|huggingface\.co|amazonaws\.com|'
                     r'w3\.org|kernel\.org|freedesktop\.org|debian\.org|prometheus\.io)$')
REGISTRY = re.compile('(' + '|'.join(('pyp' + r'i\.org', r'pythonhoste' + r'd\.org', r'deb\.debia' + r'n\.org',
                                      r'snapshot\.debia' + r'n\.org', r'registry\.' + r'[a-z]+',
                                      'artifactor' + 'y')) + ')')
faults = []
for path, text in lint.texts():
    for number, line in enumerate(text.splitlines(), 1):
        hosts = [h for h in HOST.findall(line) if not ALLOWED.search(h)]
        if DIRECTORY.search(line) or REGISTRY.search(line) or hosts:
            faults.append(f'{lint.name(path)}:{number}: {line.strip()}')
lint.end(faults)

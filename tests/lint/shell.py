#!/usr/bin/python3
"""shell.py - shellcheck over every script with a shell's first line, wherever it lies."""
import re

import lint

scripts = [p for p, text in lint.texts() if re.match(r'#!\s*/(usr/)?bin/(env )?(ba|da)?sh\b', text)]
got = lint.run('shellcheck', '--external-sources', '--source-path', lint.ROOT, '--severity=style', *scripts)
lint.end((got.stdout + got.stderr).splitlines() if got.returncode else [])

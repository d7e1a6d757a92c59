#!/usr/bin/python3
"""cppcheck.py - cppcheck over all of the C; what it gets wrong is said here, with the reason."""
import lint

# Lists and fields made by X-macros look unknown to it; what a function fills through a pointer, uninitialised (the
# sanitizers know better).
QUIET = ('unknownMacro', 'missingInclude', 'missingIncludeSystem', 'preprocessorErrorDirective', 'syntaxError',
         'internalAstError', 'uninitvar', 'uninitStructMember', 'nullPointerRedundantCheck', 'unknownEvaluationOrder')
got = lint.run('cppcheck', '--quiet', '--std=c11', '--enable=warning,portability', '--inline-suppr',
               '--error-exitcode=1', '-j2', '-I.', '-D_GNU_SOURCE', '-DTRIMS_VERSION="x"',
               '--template={file}:{line}: {id}: {message}',
               *[f'--suppress={q}' for q in QUIET], *[f for f in lint.FLOORS if (lint.ROOT / f).is_dir()])
lint.end((got.stderr or got.stdout).splitlines() if got.returncode else [])

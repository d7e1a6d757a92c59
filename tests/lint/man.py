#!/usr/bin/python3
"""man.py - the manual pages are clean mdoc: mandoc's own check has nothing to say at warning level."""
import lint

pages = lint.files('.1', '.3', '.5', '.7', '.8')
if not pages:
    lint.skip('there is no manual page yet')
got = lint.run('mandoc', '-T', 'lint', '-W', 'warning', *pages)
lint.end((got.stdout + got.stderr).splitlines())

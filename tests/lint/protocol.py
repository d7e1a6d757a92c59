#!/usr/bin/python3
"""protocol.py BUILD [--write] - the tables in shared/PROTOCOL.md are those of messages.def, errors.def and reports.def;
--write puts them there."""
import pathlib
import sys

import lint

BEGIN, END = '<!-- begin tables -->\n', '<!-- end tables -->\n'
generator = pathlib.Path(sys.argv[1]) / 'tests/lint/gen_protocol'
page = lint.ROOT / 'shared/PROTOCOL.md'
if not generator.exists():
    lint.skip('gen_protocol is not built')
before, _, rest = page.read_text().partition(BEGIN)
_, _, after = rest.partition(END)
fresh = before + BEGIN + lint.run(generator).stdout + END + after
if '--write' in sys.argv:
    page.write_text(fresh)
lint.end([] if fresh == page.read_text() else ['shared/PROTOCOL.md is stale: run tests/lint/protocol.py build --write'])

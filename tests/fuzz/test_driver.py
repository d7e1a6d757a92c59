#!/usr/bin/python3
"""The driver of the fuzz targets: an input that ends the program is kept, and can be had from the log alone.  Reports TAP."""
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'sys'))
from trimstest import main, test  # noqa: E402  pylint: disable=wrong-import-position

TARGET = os.environ['FUZZ_TARGET']
SAID = re.compile(r'Bail out! (crashes|hangs); input: (\S+), (\d+) (bytes:|bytes that begin with) ([0-9a-f]*)')


def fuzz(t, inputs, **environment):
    corpus = t.dir / 'corpus'
    corpus.mkdir()
    for name, data in inputs.items():
        (corpus / name).write_bytes(data)
    return subprocess.run([TARGET, corpus], cwd=t.dir, env={**os.environ, 'FUZZ_RUNS': '0', **environment}, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)


def check(t, got, how, data):
    assert got.returncode < 0, got
    said = [SAID.fullmatch(line) for line in got.stdout.decode().splitlines() if line.startswith('Bail out!')]
    assert len(said) == 1 and said[0], got.stdout
    t.equal(said[0][1], how)
    t.equal((t.dir / said[0][2]).read_bytes(), data, 'the file')
    t.equal(int(said[0][3]), len(data))
    t.equal(bytes.fromhex(said[0][5]), data[:600], 'the log')
    t.equal(said[0][4], 'bytes:' if len(data) <= 600 else 'bytes that begin with')


@test
def an_input_that_ends_the_program_is_in_the_log(t):
    data = b'A' + t.random.randbytes(599)
    check(t, fuzz(t, {'0good': b'x', '1bad': data}), 'crashes', data)


@test
def a_long_input_is_cut_there_but_not_in_its_file(t):
    data = b'H' + t.random.randbytes(30000)
    check(t, fuzz(t, {'0good': b'', '1bad': data}), 'hangs', data)


@test
def a_mutation_is_named_by_what_makes_it_again(t):
    got = fuzz(t, {'seed': b'BBBB'}, FUZZ_RUNS='1000000', FUZZ_SECONDS='600', TRIMS_SEED='7')
    (said,) = re.findall(r'input: (crash-7-(\d+)),', got.stdout.decode())
    data = (t.dir / said[0]).read_bytes()
    check(t, got, 'hangs' if data[0] == ord('H') else 'crashes', data)
    (t.dir / 'corpus/seed').unlink()
    (t.dir / 'corpus').rmdir()
    check(t, fuzz(t, {'seed': b'BBBB'}, TRIMS_SEED='7', FUZZ_ONLY=said[1]), 'hangs' if data[0] == ord('H') else 'crashes', data)


main()

"""lint - what the checks of this folder share: the tree's files, and how a check ends."""
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLOORS = ('shared', 'cache', 'client', 'mrm', 'tools', 'tests')


def files(*suffixes, top=FLOORS):
    """Paths below the floors with one of these suffixes, sorted; build output is not among them."""
    found = []
    for floor in top:
        for folder, _, names in os.walk(ROOT / floor):
            found += [pathlib.Path(folder) / n for n in names if n.endswith(suffixes) and '__pycache__' not in folder]
    return sorted(found)


def texts():
    """(path, text) of every text file of the tree, top level included."""
    top = [p for p in ROOT.iterdir() if p.is_file() and p.name != '.git'] + list((ROOT / '.ci').glob('*'))
    for path in sorted(top) + files(''):
        data = path.read_bytes()
        if b'\0' not in data:
            yield path, data.decode(errors='replace')


def name(path):
    return str(path.relative_to(ROOT))


def run(*command):
    return subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True, check=False)


def end(faults):
    """Prints the faults, one per line, and ends the program accordingly."""
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


def skip(why):
    print(why)
    sys.exit(77)

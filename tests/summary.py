#!/usr/bin/python3
"""summary.py FAILED LOG...: adds up meson's testlog.json files, counting each TAP subtest; names what failed, with its
output, and why what was skipped was.  FAILED is what failed before any test ran.  Exits 1 when anything failed."""
import json
import re
import sys

POINT = re.compile(r'(not )?ok\b\s*\d*\s*-?\s*([^#]*)(?:#\s*(skip|todo)\S*\s*(.*))?', re.I)
PLAN = re.compile(r'1\.\.0\s*#\s*skip\S*\s*(.*)', re.I)


def verdicts(test):
    """(verdict, what, why) of each subtest; of the test as a whole where it has none or ended badly."""
    found = []
    for line in (test.get('stdout') or '').splitlines():
        point, plan = POINT.match(line), PLAN.match(line)
        if plan:
            found.append(('skipped', '', plan[1]))
        elif point and (point[3] or '').lower() == 'skip':
            found.append(('skipped', point[2].strip(), point[4]))
        elif point:
            found.append(('failed' if point[1] else 'passed', point[2].strip(), ''))
    if test['result'] == 'SKIP' and not found:
        lines = (test.get('stdout') or test.get('stderr') or 'no reason given').strip().splitlines()
        found.append(('skipped', '', lines[-1]))
    elif test['result'] == 'OK' and not found:
        found.append(('passed', '', ''))
    elif test['result'] not in ('OK', 'SKIP') and not any(v == 'failed' for v, _, _ in found):
        found.append(('failed', test['result'].lower(), ''))
    return found


def shortened(lines, head=3000, tail=3000):
    """Its beginning says what was expected, its end what happened last."""
    text = '\n'.join('    | ' + line for line in lines)
    return text if len(text) <= head + tail else f'{text[:head]}\n    | [...]\n{text[-tail:]}'


def output(test):
    """What belongs to each subtest that failed, and what came after the last of all, from both streams."""
    section = []
    for line in (test.get('stdout') or '').splitlines():
        point = POINT.match(line)
        section.append(line)
        if point and point[1]:
            yield section
        if point:
            section = []
    yield section + (test.get('stderr') or '').splitlines()


def report(where, test):
    counts = dict.fromkeys(('passed', 'failed', 'skipped'), 0)
    for verdict, what, why in verdicts(test):
        counts[verdict] += 1
        if verdict == 'failed':
            print(f"FAILED  {where} {test['name']}: {what}")
        elif verdict == 'skipped':
            print(f"skipped {where} {test['name']}: {what + ': ' if what else ''}{why}")
    if counts['failed']:
        for section in output(test):
            for line in section:
                if line.startswith('Bail out!'):  # in full: it is what ended a fuzz target
                    print('    | ' + line)
            print(shortened(section))
    return counts


def main():
    total = {'passed': 0, 'failed': int(sys.argv[1]), 'skipped': 0}
    for path in sys.argv[2:]:
        where = re.sub(r'.*testlog-(.*)\.json', r'\1', path)
        with open(path, encoding='utf-8', errors='replace') as log:
            for line in log:
                for verdict, count in report(where, json.loads(line)).items():
                    total[verdict] += count
    print('{passed} passed, {failed} failed, {skipped} skipped'.format(**total))
    return 1 if total['failed'] or not total['passed'] else 0


sys.exit(main())

"""Every driver call that daemon and clients make, failed once and stalled once: nobody dies, hangs, leaks or serves wrong bytes.

What calls there are is found out by counting them in a run without faults, so a new call is tested the day it is written.
TRIMS_FAULT_SHARE=1 tries all of them, and more than one of each."""
import os

from gpubench import Bench, Refused, Stalled, calls
from simgpu import UUIDS
from trimstest import main, test

SHARE = float(os.environ.get('TRIMS_FAULT_SHARE', 0.04 if os.environ.get('TRIMS_SANITIZE', 'none') == 'none' else 0.02))
RUN_OUT = {'cuMemCreate', 'cuMemAlloc_v2', 'cuMemAddressReserve', 'cuMemHostAlloc', 'cuDevicePrimaryCtxRetain'}
CLEAR = ('GPU_ERROR', 'NO_MEMORY', 'NO_TIER', 'UNSUPPORTED', 'NO_ROOM', 'MISMATCH', 'NO_SYSTEM')


def story(bench, client, faults):
    """What a client can do with models; `faults`: any step may be refused, with words.  Returns how many were."""
    refused = 0

    def step(*words, model=None):
        nonlocal refused
        try:
            got = client(*words)
        except Refused as r:
            assert faults and r.code in CLEAR and len(r.text) > 10, f'{words}: {r}'
            refused += 1
            return None
        if model:
            bench.right(model, got)
        return got

    for name, more in (('a', ()), ('b', ('host',)), ('a', ())):
        opened = step('open', name, 'nowait', *(bench.over or more))
        if not opened:
            continue
        number = opened[0]
        if step('stream', number) is not None and step('wait', number) is not None:
            step('read', number, model=name)
            step('private', number)
        step('close', number)
    for name in ('a', 'b'):
        bench.ctl(bench.served, 'evict', name, '--tier', 'gpu')
    client('disconnect')
    return refused


def a_client_leaves_nothing(bench, client, before):
    """After its last close, while it still lives: no device memory, no socket, nothing of trims."""
    fds = [f for f in client('fds') if 'trims' in f or f.startswith('socket:') or '/v.' in f or '/m.' in f]
    assert len(fds) <= before, fds
    bench.until_empty(bench.served)


def run_story(bench, daemon, faults, what, **environment):
    bench.served = daemon
    client = bench.puppet(daemon, **environment)
    try:
        refused = story(bench, client, faults)
        a_client_leaves_nothing(bench, client, 0)
        client('connect')
        client.end()
    except AssertionError as e:
        raise AssertionError(f'{what}: {e}\n{daemon.log()[-3000:]}') from e
    return refused


def round_trip(bench, daemon, faults, what, **environment):
    """A client's story, a copy in host memory, and everything read again.  How much of it was refused."""
    refused = run_story(bench, daemon, faults, what, **environment)
    host = bench.ctl(daemon, 'open', 'a', '--tier', 'host')
    assert host.rc == 0, f'{what}: {host}'
    checked = bench.ctl(daemon, 'verify', 'a')
    assert checked.rc == 0 or (faults and checked.err.strip()), f'{what}: {checked}'
    return refused + (checked.rc != 0)


def has_devices(daemon, n=1):
    rows = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu']
    return len(rows) >= n and all(row['state'] == 'ok' for row in rows)


def start(bench, what, **environment):
    """None: it could not, and has said why."""
    endings = len(bench.t.endings)
    try:
        return bench.daemon(**environment)
    except AssertionError as e:
        del bench.t.endings[endings:]  # it has ended
        assert 'mrm ended' in str(e) and ('GPU' in str(e) or 'cu' in str(e)) and 'Sanitizer' not in str(e), f'{what}: {e}'
        assert 'ASSERT' not in str(e), f'{what}: {e}'
        return None


def count(bench, who='daemon'):
    folder = bench.t.dir / 'counts'
    folder.mkdir(exist_ok=True)
    counted = {'SIMCUDA_COUNT': str(folder)}
    daemon = bench.daemon(**(counted if who == 'daemon' else {}))
    for _ in range(2):
        round_trip(bench, daemon, False, 'counting', **(counted if who == 'client' else {}))
    bench.before = daemon.fds()
    daemon.stop()
    found = calls(folder)
    assert len(found) > 15, found
    return found


def chosen(t, counts):
    """[(symbol, which call)]: a share of the first of each, one further on, and the last; one first call for certain, which is sure
    to be made."""
    cases = []
    for name in sorted(counts):
        some = {1, t.random.randint(1, counts[name]), counts[name]}
        if SHARE >= 1:
            some |= {t.random.randint(1, counts[name]) for _ in range(3)} | {2}
        cases += [(name, n) for n in sorted(some)]
    sure = (t.random.choice(sorted(counts)), 1)
    return [case for case in cases if case == sure or t.random.random() < SHARE]


class Findings:
    """Goes on after a case that failed, and tells of all of them in the end."""

    def __init__(self, bench):
        self.bench, self.texts, self.cases = bench, [], 0

    def case(self, what, function, *arguments):
        endings = len(self.bench.t.endings)
        self.cases += 1
        try:
            function(self.bench, what, *arguments)
        except (AssertionError, Refused) as e:
            self.texts.append(f'{what}: {e}')
            print(f'# {what}', flush=True)
            for end in reversed(self.bench.t.endings[endings:]):  # what it has started
                try:
                    end()
                except AssertionError as ending:
                    self.texts.append(f'{what}: {ending}')
        del self.bench.t.endings[endings:]

    def tell(self):
        assert not self.texts, f'{len(self.texts)} of {self.cases}:\n' + '\n'.join(self.texts)


def in_daemon(bench, what, script):
    """A daemon with that script, from its start to its end."""
    daemon = start(bench, what, SIMCUDA_FAULTS=script)
    if not daemon:
        return
    if has_devices(daemon, max(1, len(bench.over))):
        # The same call need not come in the same round each time.
        refused = [round_trip(bench, daemon, True, what) for _ in range(2)]
        assert not all(refused), f'{what}: one fault, and nothing works afterwards:\n{daemon.log()[-3000:]}'
        bench.t.eventually(lambda: len(daemon.fds()) <= len(bench.before),
                           f'{what}: as few descriptors as {bench.before}')
    daemon.stop()
    assert not bench.held('mvc'), f'{what}: {bench.held("mvc")}'


def in_client(bench, what, script):
    """A client with that script, and one without, at a daemon that serves all of them."""
    round_trip(bench, bench.served, True, what, SIMCUDA_FAULTS=script)
    round_trip(bench, bench.served, False, f'{what}, afterwards')
    bench.t.eventually(lambda: len(bench.served.fds()) <= len(bench.before), f'{what}: as many descriptors as {bench.before}')


def with_faults(t, who, case, script):
    bench = Bench(t, direct_trusted='self')  # what the driver does not share is registered
    findings = Findings(bench)
    counts = count(bench, who)
    if who == 'client':
        round_trip(bench, bench.daemon(), False, 'before')
    for name, n in chosen(t, counts):
        findings.case(f'{who}: {name}, call {n}', case, script(name, n))
    findings.tell()
    return bench


def failure(name, n):
    return f'{name}:{n}={2 if name in RUN_OUT else 1}'


def stall(name, n):
    return f'{name}:{n}=stall'


def meanwhile(bench):
    """Somebody stands still in the driver: whoever wants nothing of it is served."""
    if bench.served and bench.served.process.poll() is None:
        r = bench.ctl(bench.served, 'open', 'a', '--tier', 'host')
        assert r.rc == 0 or 'stopping' in r.err or r.rc == 3, r


def while_others_go_on(case):
    def stalled_case(bench, what, script):
        if case is in_daemon:
            bench.served = None
        with Stalled(bench, lambda: meanwhile(bench)) as stalled:
            case(bench, what, script)
        bench.stood += stalled.seen
    return stalled_case


@test
def every_call_of_the_daemon_failed_once(t):
    with_faults(t, 'daemon', in_daemon, failure)


@test
def every_call_of_a_client_failed_once(t):
    with_faults(t, 'client', in_client, failure)


@test
def every_call_of_the_daemon_stalled_once(t):
    bench = with_faults(t, 'daemon', while_others_go_on(in_daemon), stall)
    assert bench.stood, 'nothing stood still'


@test
def every_call_of_a_client_stalled_once(t):
    bench = with_faults(t, 'client', while_others_go_on(in_client), stall)
    assert bench.stood, 'nothing stood still'


# What a load over another device's link calls, beside or more often than others do.
HELPED = ('cuMemcpyPeerAsync', 'cuMemcpyHtoDAsync_v2', 'cuEventRecord', 'cuEventQuery', 'cuEventSynchronize', 'cuStreamSynchronize',
          'cuCtxSetCurrent', 'cuDeviceCanAccessPeer', 'cuDeviceGetP2PAttribute', 'cuCtxEnablePeerAccess', 'cuCtxDisablePeerAccess',
          'cuMemAlloc_v2', 'cuMemFree_v2')
PAIR = 'device bytes=128M gbps=50 context=1M\n' * 2 + 'nvlink 0 1\n'


def helper_is_lost(bench, what, script):
    """The load may be refused or not; the daemon serves its other device, and the next one both."""
    daemon = start(bench, what, SIMCUDA_FAULTS=script)
    if daemon:
        client = bench.puppet(daemon)
        story(bench, client, True)
        client.process.kill()
        host = bench.ctl(daemon, 'open', 'a', '--tier', 'host')
        assert host.rc == 0, f'{what}: {host}'
        daemon.stop()
    daemon = bench.daemon()
    bench.simcuda(daemon, 'mend', 1)
    daemon.stop()
    daemon = bench.daemon()
    round_trip(bench, daemon, False, f'{what}, mended')
    daemon.stop()


@test
def every_call_of_a_load_over_a_helper_failed_stalled_or_lost_its_device_once(t):
    bench = Bench(t, PAIR)
    bench.over, bench.staging = UUIDS, 2 * (8 << 20)  # a sixteenth of each
    findings = Findings(bench)
    counts = count(bench)
    assert counts['cuMemcpyPeerAsync'] > 0, 'nothing came over the helper'
    ways = {'failed': (in_daemon, failure), 'stalled': (while_others_go_on(in_daemon), stall),
            'lost': (helper_is_lost, lambda name, n: f'{name}:{n}=lose:719@1')}
    for name, n in chosen(t, {name: counts[name] for name in HELPED if name in counts}):
        for way in ways if SHARE >= 1 else (t.random.choice(list(ways)),):
            case, script = ways[way]
            findings.case(f'{name}, call {n}: {way}', case, script(name, n))
    findings.tell()


def mended(bench, daemon, what):
    """The device works again, and so does the next daemon."""
    bench.simcuda(daemon, 'mend', 0)
    daemon.stop()
    daemon = bench.daemon()
    round_trip(bench, daemon, False, f'{what}, mended')
    daemon.stop()


def is_lost(bench, what, script):
    """The device fails for good in the middle of it: said, survived, and over with the next daemon."""
    daemon = start(bench, what, SIMCUDA_FAULTS=script)
    if daemon:
        client = bench.puppet(daemon)
        refused = story(bench, client, True)
        client.process.kill()
        host = bench.ctl(daemon, 'open', 'a', '--tier', 'host')
        assert host.rc == 0, f'{what}: {host}'
        assert not refused or not has_devices(daemon), f'{what}: {refused} refusals, and doctor says nothing'
        bench.stood += bool(refused)
        daemon.stop()
    mended(bench, bench.daemon(), what)


@test
def a_device_lost_in_any_call_or_copy_is_survived(t):
    bench = Bench(t)
    findings = Findings(bench)
    counts = count(bench, 'daemon')
    for name, n in chosen(t, counts):
        if name not in ('cuInit', 'cuGetProcAddress_v2', 'cuDriverGetVersion'):
            findings.case(f'{name}, call {n}: lost', is_lost, f'{name}:{n}=lose:719@0')
    for name in ('cuMemcpyHtoDAsync', 'cuMemsetD8Async', 'cuMemcpyDtoHAsync'):
        for n in t.random.sample(range(1, counts[name + ('' if name in counts else '_v2')] + 1), 2 if SHARE >= 1 else 1):
            findings.case(f'{name}, operation {n}', is_lost, f'~{name}:{n}=719')
    findings.tell()
    assert bench.stood, 'nothing was lost'


def lost_in_client(bench, what, script):
    """The device fails for good under a client: it is told, ends as it would, and takes nobody along but on that device."""
    daemon = bench.daemon()
    client = bench.puppet(daemon, SIMCUDA_FAULTS=script)
    refused = story(bench, client, True)
    client.end()
    host = bench.ctl(daemon, 'open', 'a', '--tier', 'host')
    assert host.rc == 0, f'{what}: {host}'
    bench.stood += bool(refused)
    mended(bench, daemon, what)


@test
def a_device_lost_in_a_call_of_a_client_is_survived(t):
    bench = Bench(t)
    findings = Findings(bench)
    for name, n in chosen(t, count(bench, 'client')):
        if name not in ('cuInit', 'cuGetProcAddress_v2', 'cuDriverGetVersion'):
            findings.case(f'client: {name}, call {n}: lost', lost_in_client, f'{name}:{n}=lose:719@0')
    findings.case('client: reading the canary: lost', lost_in_client, 'cuMemcpyDtoHAsync:1=lose:719@0')
    findings.tell()
    assert bench.stood, 'nothing was lost'


def broken_context(bench, what, script):
    """What a client's kernel can do to its own context costs that client its device memory, and nobody else anything."""
    client = bench.puppet(bench.served, SIMCUDA_FAULTS=script)
    refused = story(bench, client, True)
    client.end()
    assert refused, f'{what}: nothing has failed'
    assert has_devices(bench.served), f'{what}: the daemon has lost a device'
    round_trip(bench, bench.served, False, f'{what}, another client')


@test
def an_error_that_sticks_to_a_client_s_context_is_that_client_s_alone(t):
    bench = Bench(t)
    findings = Findings(bench)
    counts = count(bench, 'client')
    round_trip(bench, bench.daemon(), False, 'before')
    for call in ('cuMemcpyDtoHAsync', 'cuMemcpyDtoDAsync'):
        for result in (700, 719) if SHARE >= 1 else (t.random.choice((700, 719)),):
            n = t.random.randint(1, (counts[call + '_v2'] + 1) // 2)  # how many there are varies; after the last nobody looks
            findings.case(f'client: {call}, operation {n}: {result}', broken_context, f'~{call}:{n}={result}')
    findings.tell()


main()

"""Every driver call that daemon and clients make, failed once and stalled once: nobody dies, hangs, leaks or serves wrong bytes.

What calls there are is found out by counting them in a run without faults, so a new call is tested the day it is written."""
import os
import pathlib
import signal
import struct

import models
from trimstest import BUILD, CTL, PATIENCE, Skip, main, program_environment, run, test

MIB = 1 << 20
DRIVER = str(BUILD / 'tools/simcuda/libsimcuda.so')
# With a sanitizer, or when told so, a part of them: the seed chooses.
SHARE = float(os.environ.get('TRIMS_FAULT_SHARE', 1 if os.environ.get('TRIMS_SANITIZE', 'none') == 'none' else 0.15))
RUN_OUT = {'cuMemCreate', 'cuMemAlloc_v2', 'cuMemAddressReserve', 'cuMemHostAlloc', 'cuDevicePrimaryCtxRetain'}


class Bench:
    """A simulated machine of its own: topology, shared state, a model, its digests."""

    def __init__(self, t, **options):
        if os.environ.get('TRIMS_GPU_DRIVER', DRIVER) != DRIVER:
            raise Skip('a real driver takes no fault script')
        self.t, self.dir = t, t.dir / 'devices'
        topology = t.dir / 'topology'
        topology.write_text('set speed=unlimited\ndevice bytes=64M gbps=50 context=1M\n')
        self.environment = {'SIMCUDA': str(topology), 'SIMCUDA_DIR': str(self.dir)}
        self.want = models.digests(t.model('a', 6 * MIB))
        t.model('b', 20 * MIB)
        self.options = {'cuda_driver': DRIVER, 'self_check': 'yes', 'host_bytes': '128M', **options}

    def daemon(self, **environment):
        return self.t.daemon(environment={**self.environment, **environment}, **self.options)

    def ctl(self, daemon, *arguments, **environment):
        return run(CTL, '--socket', daemon.socket, *arguments, timeout=PATIENCE, TRIMS_CUDA_DRIVER=DRIVER,
                   **self.environment, **environment)

    def device_bytes(self):
        """Of all allocations on the devices that somebody holds."""
        return sum(f.stat().st_blocks * 512 for f in self.dir.rglob('*') if f.is_file() and f.name.startswith('mem'))

    def story(self, daemon, **environment):
        """Open cold, open another, open warm, make room, close: what a client may meet.  Results, none of them a crash."""
        steps = [('open', 'a', '--tier', 'gpu'), ('open', 'b', '--tier', 'gpu'),
                 ('evict', 'a', '--tier', 'gpu'), ('open', 'a', '--tier', 'gpu'), ('evict', 'b', '--tier', 'gpu')]
        results = [self.ctl(daemon, *step, **environment) for step in steps]
        for r in results:
            assert r.rc in (0, 1), r
            assert r.rc == 0 or r.err.strip(), f'refused without a word: {r}'
        return results


def calls(folder):
    """{symbol: how often} of every process that left its counts there."""
    found = {}
    for file in folder.glob('*.calls'):
        data = file.read_bytes()
        for at in range(0, len(data) - 63, 64):
            name, n = data[at:at + 56].split(b'\0')[0].decode(), struct.unpack_from('<Q', data, at + 56)[0]
            if name and n:
                found[name] = max(found.get(name, 0), n)
    return found


def chosen(t, counts):
    """(symbol, which call): the first of each, and one further on."""
    for name in sorted(counts):
        for n in sorted({1, t.random.randint(1, counts[name])}):
            if t.random.random() < SHARE:
                yield name, n


def count(bench, who):
    folder = bench.t.dir / 'counts'
    folder.mkdir(exist_ok=True)
    daemon = bench.daemon(**({'SIMCUDA_COUNT': str(folder)} if who == 'daemon' else {}))
    for r in bench.story(daemon, **({'SIMCUDA_COUNT': str(folder)} if who == 'client' else {})):
        assert r.rc == 0, r
    daemon.stop()
    found = calls(folder)
    assert len(found) > 15, found
    return found


def rule(name, n):
    return f'{name}:{n}={2 if name in RUN_OUT else 1}'


def check_well(bench, daemon, what):
    """After the fault is over everything works, with the right bytes."""
    opened = bench.ctl(daemon, 'open', 'a', '--tier', 'gpu')
    assert opened.rc == 0, f'{what}: {opened}'
    host = bench.ctl(daemon, 'open', 'a', '--tier', 'host')
    assert host.rc == 0, f'{what}: {host}'
    checked = bench.ctl(daemon, 'verify', 'a')
    assert checked.rc == 0, f'{what}: {checked}'


def clean(bench, daemon):
    for name in ('a', 'b'):
        bench.ctl(daemon, 'evict', name)
    bench.t.eventually(lambda: daemon.metric('trims_tier_used_bytes', tier='gpu') == 0, 'the device is empty')


def device_faults(t, who, fault):
    bench = Bench(t)
    counts = count(bench, who)
    for name, n in chosen(t, counts):
        what = f'{who}: {name}, call {n}'
        environment = {'SIMCUDA_FAULTS': fault(name, n)}
        try:
            daemon = bench.daemon(**(environment if who == 'daemon' else {}))
        except AssertionError as e:
            assert 'GPU' in str(e) or 'device' in str(e) or 'cu' in str(e), f'{what}: {e}'
            continue  # it could not start, and has said why
        bench.story(daemon, **(environment if who == 'client' else {}))
        if who == 'client' or daemon.metric('trims_tier_capacity_bytes', tier='gpu'):
            check_well(bench, daemon, what)
        clean(bench, daemon)
        daemon.stop()


@test
def every_call_of_the_daemon_failed_once(t):
    device_faults(t, 'daemon', rule)


@test
def every_call_of_a_client_failed_once(t):
    device_faults(t, 'client', rule)


def stalls(bench, process_of, name):
    """Until that process stands still in that call, or the story is over."""
    return any(bench.dir.glob(f'stalled.*.{name}'))


def stall_one(bench, who, name, n):
    """The story in a process of its own stands still; others go on meanwhile; then it is let go."""
    t, environment = bench.t, {'SIMCUDA_FAULTS': f'{name}:{n}=stall:200'}
    daemon = bench.daemon(**(environment if who == 'daemon' else {}))
    bench.story(daemon, **(environment if who == 'client' else {}))
    check_well(bench, daemon, f'{who}: {name}, call {n} stalled')
    clean(bench, daemon)
    daemon.stop()


@test
def every_call_of_the_daemon_stalled_once(t):
    bench = Bench(t)
    for name, n in chosen(t, count(bench, 'daemon')):
        stall_one(bench, 'daemon', name, n)


@test
def every_call_of_a_client_stalled_once(t):
    bench = Bench(t)
    for name, n in chosen(t, count(bench, 'client')):
        stall_one(bench, 'client', name, n)


main()

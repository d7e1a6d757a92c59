"""Copies on devices that outlive the daemon: taken back whatever driver call fails on the way, checked, claimed; or not, and then
in words."""
import contextlib
import os
import threading

from gpubench import Bench, Refused, Stalled, calls
from keeper import Manager, leave_no_helper, until_kept
from trimstest import main, test

SHARE = float(os.environ.get('TRIMS_FAULT_SHARE', 0.07 if os.environ.get('TRIMS_SANITIZE', 'none') == 'none' else 0.03))
SURE = ('cuMemImportFromShareableHandle', 1)
MODELS = ('a', 'b')


def kept_bench(t, **options):
    bench = Bench(t, keep_fds='helper', **options)
    daemon = bench.daemon()
    leave_no_helper(t, daemon)
    return bench, daemon


def use_all(bench, puppet):
    """Opens each model and reads it; {model: its number with the puppet}."""
    numbers = {}
    for name in MODELS:
        numbers[name] = puppet('open', name)[0]
        bench.right(name, puppet('read', numbers[name]))
    return numbers


def patiently(puppet, *words):
    """A request that a fault may spoil once: again."""
    try:
        return puppet(*words)
    except Refused as r:
        assert len(r.text) > 10, r
        return puppet(*words)


def come_back(bench, daemon, **environment):
    """A daemon with that environment; when it refuses to start or leaves the device out, and has said so, one without."""
    plain = daemon.environment
    daemon.environment = {**plain, **environment}
    try:
        daemon.start()
        rows = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu']
        if rows[0]['state'] == 'ok':
            return
        assert len(rows[0]['detail']) > 20, rows
        daemon.kill()
    except AssertionError as e:
        assert 'cannot start' in str(e) and 'Sanitizer' not in str(e), e
    finally:
        daemon.environment = plain
    daemon.start()


def restart_with(bench, daemon, script, stalls=False):
    """Killed with everything in use, and back with a fault in one call; one that stands still until it is seen: True if it was."""
    puppet = bench.puppet(daemon)
    numbers = use_all(bench, puppet)
    until_kept(bench.t, daemon, 2 * len(MODELS))  # on host and device
    daemon.kill()
    served = threading.Event()

    def host_memory_is_served():
        if served.is_set():
            r = bench.ctl(daemon, 'open', MODELS[0], '--tier', 'host')
            assert r.rc == 0, r
    with Stalled(bench, host_memory_is_served) if stalls else contextlib.nullcontext() as stalled:
        come_back(bench, daemon, SIMCUDA_FAULTS=script)
        served.set()
        go_on(bench, daemon, puppet, numbers)
    daemon.kill()
    daemon.start()
    return stalls and stalled.seen


def go_on(bench, daemon, puppet, numbers):
    """What was in use still is, and can be had again."""
    patiently(puppet, 'reconnect')
    for name in MODELS:
        bench.right(name, puppet('read', numbers[name]))
        puppet('close', numbers[name])
        number = patiently(puppet, 'open', name)[0]
        try:
            words = puppet('read', number)
        except Refused:  # checking it met the fault: it was dropped
            puppet('close', number)
            number = patiently(puppet, 'open', name)[0]
            words = puppet('read', number)
        bench.right(name, words)
        puppet('close', number)
    puppet.end()
    bench.t.eventually(lambda: daemon.metric('trims_leases') == 0, 'leases are given back')


def each_call_of_taking_back(t, case):
    """case(bench, daemon, a call's name, its number), for some of those that a daemon makes which takes everything back."""
    bench, daemon = kept_bench(t)
    folder = t.dir / 'counts'
    folder.mkdir()
    puppet = bench.puppet(daemon)
    use_all(bench, puppet)
    until_kept(t, daemon, 2 * len(MODELS))
    daemon.kill()
    come_back(bench, daemon, SIMCUDA_COUNT=str(folder))
    t.equal(daemon.metric('trims_kept_copies_total', what='taken-back'), 2 * len(MODELS))
    puppet('reconnect')
    use_all(bench, puppet)
    t.equal(daemon.metric('trims_loads_total', result='done'), 0, 'nothing was loaded')
    puppet.end()
    counts = calls(folder)
    assert 'cuMemImportFromShareableHandle' in counts and 'cuLaunchKernel' in counts, counts
    for name in sorted(counts):
        for n in sorted({1, counts[name], t.random.randint(1, counts[name])}):
            if (name, n) != SURE and t.random.random() >= SHARE:
                continue
            try:
                case(bench, daemon, name, n)
            except (AssertionError, Refused) as e:
                raise AssertionError(f'{name}, call {n}: {e}\n{daemon.log()[-4000:]}') from e
    for name in MODELS:
        bench.ctl(daemon, 'evict', name)
    bench.until_empty(daemon)


@test
def a_call_that_fails_while_memory_is_taken_back_costs_a_load_at_most(t):
    each_call_of_taking_back(t, lambda bench, daemon, name, n: restart_with(bench, daemon, f'{name}:{n}=1'))


@test
def a_call_that_stands_still_while_memory_is_taken_back_holds_up_only_who_wants_it(t):
    stood = []
    each_call_of_taking_back(t, lambda bench, daemon, name, n:
                             stood.append(restart_with(bench, daemon, f'{name}:{n}=stall', stalls=True)))
    assert any(stood), 'nothing stood still'


@test
def a_service_manager_s_store_gives_all_back(t):
    manager = Manager(t)
    bench = Bench(t, keep_fds='systemd', wrapper=manager.wrapper)
    daemon = bench.daemon()
    puppet = bench.puppet(daemon)
    numbers = use_all(bench, puppet)
    t.eventually(lambda: sum(name.endswith('.m') for name, _ in manager.kept) == 2 * len(MODELS), 'all are kept')  # the last of each
    for _ in range(2):  # the second one finds them there as the first one did
        daemon.kill()
        daemon.start()
        t.equal(daemon.metric('trims_kept_copies_total', what='taken-back'), 2 * len(MODELS))
        puppet('reconnect')
        for name in MODELS:
            bench.right(name, puppet('read', numbers[name]))
        other = bench.puppet(daemon)
        use_all(bench, other)
        other.end()
        t.equal(daemon.metric('trims_loads_total', result='done'), 0, 'nothing was loaded')
    puppet.end()
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'leases are given back')
    for name in MODELS:
        bench.ctl(daemon, 'evict', name)
    t.eventually(lambda: not manager.kept, 'what is evicted is not kept')
    bench.until_empty(daemon)


@test
def device_memory_that_was_changed_meanwhile_is_not_served(t):
    """By somebody who maps for writing what was meant for reading: the driver cannot forbid it, so it is looked at."""
    bench, daemon = kept_bench(t)
    uuid = next(w for w in daemon.log().split() if w.startswith('GPU-')).rstrip(':')
    cheat = daemon.client().attach(uuid)
    lease = cheat.open('b', 'gpu')
    until_kept(t, daemon, 2)
    daemon.kill()
    lease.scribble(offset=5 << 20)
    daemon.start()
    t.eventually(lambda: daemon.metric('trims_verify_failures_total', tier='gpu') == 1, 'the damage is found')
    puppet = bench.puppet(daemon)
    number = patiently(puppet, 'open', 'b')[0]
    bench.right('b', puppet('read', number))
    t.equal(bench.ctl(daemon, 'verify', 'b').rc, 0)


@test
def a_device_that_is_gone_takes_only_its_own_copies_along(t):
    bench, daemon = kept_bench(t)
    use_all(bench, bench.puppet(daemon))
    until_kept(t, daemon, 2 * len(MODELS))
    daemon.kill()
    topology = t.dir / 'topology'
    topology.write_text(topology.read_text().replace('device ', 'device uuid=GPU-99999999-0000-0000-0000-000000000009 '))
    daemon.start()
    t.equal(daemon.metric('trims_kept_copies_total', what='taken-back'), len(MODELS), 'those on the host')
    t.equal(daemon.metric('trims_kept_copies_total', what='dropped'), len(MODELS))
    assert 'there is no device' in daemon.log()
    puppet = bench.puppet(daemon)
    use_all(bench, puppet)  # on the device that is there now, from the host
    t.equal(daemon.metric('trims_tier_used_bytes', tier='gpu') > 0, True)


@test
def a_device_that_is_lost_while_nobody_serves_leaves_the_host(t):
    bench, daemon = kept_bench(t)
    use_all(bench, bench.puppet(daemon))
    until_kept(t, daemon, 2 * len(MODELS))
    bench.simcuda(daemon, 'lose', 0, 719)
    daemon.kill()
    daemon.start()
    t.equal(daemon.metric('trims_kept_copies_total', what='taken-back'), len(MODELS), 'those on the host')
    for name in MODELS:
        t.equal(bench.ctl(daemon, 'open', name, '--tier', 'host').rc, 0)
        got = bench.ctl(daemon, 'open', name, '--tier', 'gpu')
        assert got.rc == 1 and got.err.strip(), got
    bench.simcuda(daemon, 'mend', 0)
    daemon.kill()
    daemon.start()
    use_all(bench, bench.puppet(daemon))


@test
def memory_shared_by_ipc_handles_ends_with_the_daemon_and_is_not_kept(t):
    bench, daemon = kept_bench(t, gpu_export='cuda-ipc')
    puppet = bench.puppet(daemon)
    numbers = use_all(bench, puppet)
    until_kept(t, daemon, len(MODELS))  # on the host
    assert any(row['name'] == 'not-kept' for row in daemon.json('doctor')['checks'])
    daemon.kill()
    for name in MODELS:
        try:
            puppet('read', numbers[name])
            raise AssertionError('memory of a dead daemon is read')
        except Refused as r:
            t.equal(r.code, 'DISCONNECTED')
    daemon.start()
    puppet('reconnect')
    for name in MODELS:
        t.equal(puppet('info', numbers[name])[0], '0', 'leased')
        puppet('close', numbers[name])
    use_all(bench, puppet)
    t.equal(daemon.metric('trims_kept_copies_total', what='taken-back'), len(MODELS), 'those on the host')


main()

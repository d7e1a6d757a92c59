"""Parallel transmission on simulated devices: part of a model comes over other devices' links and their memory; what becomes of it
when such a helper is busy, slow, out of reach, or lost."""
import json

import models
import wire
from simgpu import UUIDS, attached, gpu_daemon
from trimstest import main, test

MIB = 1 << 20
SIZE = 40 * MIB  # of a model: ten chunks
FAST = 'set speed=unlimited\n'
PAIR = FAST + 'device bytes=256M\n' * 2 + 'nvlink 0 1\n'


def slow(*gbps, size='256M'):
    """Devices whose links take time, each with an NVLink to the first.  The own link takes what others have not begun: where it is
    the slow one, they get to their part."""
    return ('set speed=1\n' + ''.join(f'device bytes={size} gbps={rate}\n' for rate in gbps) +
            ''.join(f'nvlink 0 {i} gbps=40\n' for i in range(1, len(gbps))))


AT_START = 24  # copies between two such devices, by which it is measured


def machine(t, topology=PAIR, **options):
    return gpu_daemon(t, topology=topology, **options)


def halves(*helpers, n=8, more=()):
    """Of a model of models.py (an empty tensor, then eight): the first half comes over the own link, the rest over the helpers'."""
    entries = [(i, 0, 0 if i <= n // 2 or not helpers else 1 + (i - n // 2 - 1) * len(helpers) // (n - n // 2))
               for i in range(1, n + 1)]
    return wire.plan(*entries, *more, helpers=helpers)


def same(t, lease, tensors):
    t.equal(models.digests(lease.tensors()), models.digests(tensors))


def helped(daemon):
    return daemon.metric('trims_helper_bytes_total')


def chunks(daemon, what):
    return daemon.metric('trims_helper_chunks_total', what=what)


def fell_back(daemon):
    """{reason: how often} of what parallel transmission knows."""
    found = {reason: daemon.metric('trims_fallback_total', reason=f'pt-{reason}')
             for reason in ('no-peer', 'no-staging', 'no-such-device', 'helper-lost')}
    return {reason: n for reason, n in found.items() if n}


def links(daemon):
    """The report, over a connection that stays: it is asked for again and again."""
    daemon.asker = daemon.asker or daemon.client()
    return json.loads(daemon.asker.report('links')[0])


def device_uuids(daemon):
    return [row['device'] for row in links(daemon)['links'] if row['direction'] == 'h2d']


def link_bytes(daemon):
    """What each device's link has brought."""
    return [sum(c['bytes'] for c in row['classes']) for row in links(daemon)['links'] if row['direction'] == 'h2d']


@test
def half_of_a_model_comes_over_a_helper(t):
    tensors = t.model('a', SIZE)
    daemon = machine(t, slow(0.1, 4))
    client = attached(daemon)
    client.open('a', 'host')
    lease = client.open('a', 'gpu', plan=halves(UUIDS[1]))
    same(t, lease, tensors)
    t.equal(fell_back(daemon), {})
    assert 0 < lease.helper_bytes() == helped(daemon) <= 24 * MIB, (lease.helper_bytes(), helped(daemon))

@test
def several_helpers_have_a_part_each(t):
    tensors = t.model('a', SIZE)
    daemon = machine(t, slow(0.05, 1, 1, 1))
    uuids = device_uuids(daemon)
    client = attached(daemon, *uuids)
    client.open('a', 'host')  # or the own link, waiting for bytes like all others, takes back what helpers have not begun
    lease = client.open('a', 'gpu', device=uuids[0], plan=halves(*uuids[1:]))
    same(t, lease, tensors)
    t.equal(fell_back(daemon), {})
    moved = link_bytes(daemon)
    t.equal(sum(moved), sum(r[5] for r in lease.records))
    t.equal(sum(moved[1:]), lease.helper_bytes())
    assert all(moved), moved


@test
def two_devices_help_each_other(t):
    """As far as the demands of their own let them."""
    tensors = {name: t.model(name, 32 * MIB) for name in 'ab'}
    daemon = machine(t, slow(0.4, 0.4))
    for _ in range(2):
        clients = [attached(daemon, *UUIDS) for _ in range(2)]
        leases = [client.open(name, 'gpu', wait=False, device=UUIDS[i], plan=halves(UUIDS[1 - i]))
                  for i, (client, name) in enumerate(zip(clients, 'ab'))]
        for lease, name in zip(leases, 'ab'):
            same(t, lease.wait(), tensors[name])
            lease.close()
            daemon.ctl('evict', name)
    t.equal(fell_back(daemon), {})


@test
def plans_at_random_bring_the_same_bytes(t):
    """Of each tensor where it is and how it comes; the same helper twice, the device itself for one, one that does not exist."""
    tensors = t.model('a', 24 * MIB)
    daemon = machine(t, FAST + 'device bytes=256M\n' * 3 + 'nvlink 0 1\nnvlink 2 0\nnvlink 1 2\n', pt_staging='8M')
    uuids = device_uuids(daemon)
    client = attached(daemon, *uuids)
    for _ in range(8):
        helpers = [t.random.choice([*uuids, 'GPU-nowhere']) for _ in range(t.random.randint(0, 8))]
        order = t.random.sample(range(9), 9)
        entries = [(i, 1) if t.random.random() < 0.2 else (i, 0, t.random.randint(0, len(helpers))) for i in order]
        lease = client.open('a', 'gpu', device=t.random.choice(uuids), plan=wire.plan(*entries, helpers=helpers))
        found = lease.tensors(partial=True)
        t.equal(models.digests(found), models.digests({name: tensors[name] for name in found}), f'{entries} {helpers}')
        host = {list(tensors)[e[0]] for e in entries if e[1:2] == (1,)}
        assert set(tensors) - set(found) <= host, (entries, helpers)
        lease.close()
        t.equal(daemon.ctl('evict', 'a', '--tier', 'gpu').rc, 0)
        t.eventually(lambda: daemon.metric('trims_tier_used_bytes', tier='gpu') == 0, 'it is gone')
    assert set(fell_back(daemon)) <= {'no-such-device'}, fell_back(daemon)


@test
def a_busy_helper_does_not_hold_the_load_up(t):
    """Its link is a fraction of the own one: the own link takes back what is not begun, from the end."""
    tensors = t.model('a', SIZE)
    daemon = machine(t, slow(50, 0.02))
    client = attached(daemon)
    client.open('a', 'host')  # or the helper keeps up with a source that is as slow
    lease = client.open('a', 'gpu', plan=halves(UUIDS[1]))
    same(t, lease, tensors)
    assert chunks(daemon, 'taken-back') > 0
    t.equal(fell_back(daemon), {})
    (load,) = [row for row in daemon.json('trace', 'a')['loads'] if row['to'] == 'gpu']
    t.equal((load['helper_bytes'], load['taken_back']), (lease.helper_bytes(), chunks(daemon, 'taken-back')))


@test
def a_load_does_not_wait_for_a_helper_s_demands(t):
    """All of it is to come over a helper that has a demand of its own to bring, of which it would get a twentieth."""
    tensors = t.model('a', 12 * MIB)
    t.model('b', SIZE)
    daemon = machine(t, slow(5, 0.02))
    for own in 0, 4:
        other = attached(daemon, UUIDS[1]).open('b', 'gpu', wait=False, device=UUIDS[1])
        t.eventually(lambda lease=other: lease.progress()[3], 'the demand is under way')
        lease = attached(daemon).open('a', 'gpu', plan=wire.plan(*((i, 0, int(i > own)) for i in range(1, 9)), helpers=[UUIDS[1]]))
        t.equal(other.progress()[1], wire.LOADING)
        same(t, lease, tensors)
        for name, held in (('a', lease), ('b', other)):
            held.close()
            t.equal(daemon.ctl('evict', name, '--tier', 'gpu').rc, 0)
    t.equal(fell_back(daemon), {})


def stalls(t, daemon, symbol):
    t.eventually(lambda: list((t.dir / 'devices').glob(f'stalled.*.{symbol}')), f'{symbol} stands still')


def release(t):
    (t.dir / 'devices' / 'release').touch()


@test
def a_slot_is_used_again_only_after_the_copy_from_it(t):
    """The copy from the first of two slots stands still on the device; whatever came into it meanwhile would arrive in its place."""
    tensors = t.model('a', SIZE)
    daemon = machine(t, slow(0.1, 4, size='128M'), faults=f'~cuMemcpyPeerAsync:{AT_START + 1}=stall')
    t.at_end(lambda: release(t))
    client = attached(daemon)
    lease = client.open('a', 'gpu', wait=False, plan=halves(UUIDS[1]))
    stalls(t, daemon, 'cuMemcpyPeerAsync')
    (staging,) = [row for row in links(daemon)['staging'] if row['device'] == UUIDS[1]]
    t.eventually(lambda: link_bytes(daemon)[0] >= SIZE - 3 * 4 * MIB, 'all else came over the own link')
    t.equal((staging['slots'], lease.progress()[1]), (2, wire.LOADING))
    assert link_bytes(daemon)[1] <= 2 * 4 * MIB, 'more than slots'
    release(t)
    same(t, lease.wait(), tensors)
    assert lease.helper_bytes() > 0


@test
def a_cancelled_load_ends_after_its_last_copy(t):
    """Its memory is nobody else's before."""
    tensors, other = t.model('a', 64 * MIB), t.model('b', 64 * MIB)
    daemon = machine(t, slow(0.1, 4, size='128M'), faults=f'~cuMemcpyPeerAsync:{AT_START + 1}=stall')
    t.at_end(lambda: release(t))
    client = attached(daemon)
    lease = client.open('a', 'gpu', wait=False, plan=halves(UUIDS[1]))
    stalls(t, daemon, 'cuMemcpyPeerAsync')
    lease.close()
    daemon.ctl('evict', 'a', '--tier', 'gpu')
    request = client.send('open', model='b', tier=3)
    assert daemon.metric('trims_tier_used_bytes', tier='gpu') > 0, 'it is still there'
    release(t)
    second = wire.Lease(client, client.answer(request)).wait()
    t.equal(models.digests(second.tensors()), models.digests(other))
    second.close()
    same(t, client.open('a', 'gpu', plan=halves(UUIDS[1])), tensors)


@test
def a_daemon_killed_between_two_devices_leaves_nothing(t):
    """It dies as the second copy from staging runs; the next one starts on the same devices."""
    tensors = t.model('a', SIZE)
    daemon = machine(t, slow(0.1, 4, size='128M'), faults=f'~cuMemcpyPeerAsync:{AT_START + 2}=kill')
    lease = attached(daemon).open('a', 'gpu', wait=False, plan=halves(UUIDS[1]))
    daemon.process.wait(60)
    lease.unmap()  # what this process has of it would outlive the daemon
    daemon.environment.pop('SIMCUDA_FAULTS')
    daemon.asker = None
    daemon.start()
    for _ in range(2):  # there would be no room for what had been left
        lease = attached(daemon).open('a', 'gpu', plan=halves(UUIDS[1]))
        same(t, lease, tensors)
        lease.close()
        t.equal(daemon.ctl('evict', 'a', '--tier', 'gpu').rc, 0)
    t.equal(fell_back(daemon), {})


def rows_for(daemon, helper):
    return [row for row in links(daemon)['transfers'] if row['device'] == helper]


@test
def on_a_helper_s_link_its_own_demands_go_first(t):
    t.model('a', SIZE)
    tensors = t.model('b', 4 * MIB)
    daemon = machine(t, slow(0.01, 0.01))  # so that it is on its way for seconds
    client, other = attached(daemon), attached(daemon, UUIDS[1])
    for name in 'ab':
        client.open(name, 'host')
    lease = client.open('a', 'gpu', wait=False, plan=halves(UUIDS[1]))
    t.eventually(lambda: any(row['in_flight'] for row in rows_for(daemon, UUIDS[1])), 'it is on its way')
    (row,) = rows_for(daemon, UUIDS[1])
    t.equal((row['model'], row['class'], row['helps']), ('a', 'prefetch', UUIDS[0]))
    assert '(helps)' in daemon.ctl('links').out
    loaded = other.open('b', 'gpu', device=UUIDS[1])
    (row,) = rows_for(daemon, UUIDS[1])
    same(t, loaded, tensors)
    assert row['waited_ns']['demand'] > 0, row
    lease.close()


@test
def who_cannot_help_is_named(t):
    tensors = t.model('a', 32 * MIB)
    alone = FAST + 'device bytes=256M\n' * 2
    for topology, staging, helper, reason in ((alone, '64M', UUIDS[1], 'no-peer'), (PAIR, '0', UUIDS[1], 'no-staging'),
                                              (PAIR, '64M', UUIDS[1][:-1] + '9', 'no-such-device')):
        daemon = machine(t, topology, pt_staging=staging)
        lease = attached(daemon).open('a', 'gpu', plan=halves(helper))
        same(t, lease, tensors)
        t.equal((fell_back(daemon), lease.helper_bytes()), ({reason: 1}, 0))
        rows = [row for row in daemon.json('doctor')['checks'] if row['name'] == f'pt-{reason}']
        assert len(rows) == 1 and 'own link' in rows[0]['detail'], rows
        daemon.stop()


@test
def a_helper_that_fails_in_the_middle_costs_no_load(t):
    tensors = t.model('a', SIZE)
    for fault in (f'cuMemcpyPeerAsync:{AT_START + 2}=1', f'cuMemcpyPeerAsync:{AT_START + 1}+=1', f'cuMemcpyPeerAsync:{AT_START + 3}=lose:719@1'):
        daemon = machine(t, slow(0.1, 4), faults=fault)
        client = attached(daemon)
        client.open('a', 'host')  # or the own link, waiting for bytes like the other one, takes back what comes to the fault
        lease = client.open('a', 'gpu', plan=halves(UUIDS[1]))
        same(t, lease, tensors)
        t.equal(fell_back(daemon), {'helper-lost': 1}, fault)
        assert chunks(daemon, 'failed') > 0, fault
        t.equal([row['state'] for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu'],
                ['ok', 'degraded' if 'lose' in fault else 'ok'], fault)
        daemon.stop()


@test
def a_target_that_is_lost_ends_the_load_with_words(t):
    t.model('a', SIZE)
    for fault in (f'~cuMemcpyPeerAsync:{AT_START + 2}=719', f'cuMemcpyPeerAsync:{AT_START + 2}=lose:719@0'):
        daemon = machine(t, slow(0.1, 4), faults=fault)
        client = attached(daemon)
        client.open('a', 'host')
        try:
            client.open('a', 'gpu', plan=halves(UUIDS[1]))
            raise AssertionError('it was loaded')
        except wire.Fault as e:
            assert e.code in ('NO_TIER', 'GPU_ERROR') and UUIDS[0] in str(e), e
        t.equal(attached(daemon, UUIDS[1]).open('a', 'gpu', device=UUIDS[1]).opened['device'], UUIDS[1])
        daemon.stop()


main()

"""Bounds, victims, leases, pins: nobody loses memory that is in use, and nothing grows beyond its bound."""
import os
import threading

import models
import wire
from trimstest import Skip, main, test

MIB = 1 << 20


def refused(t, code, function):
    try:
        function()
    except wire.Fault as fault:
        t.equal(fault.code, code, fault.text)
        assert len(fault.text) > 10, fault.text
        return fault.text
    raise AssertionError(f'was not refused with {code}')


def used(daemon):
    return daemon.metric('trims_tier_used_bytes', tier='host')


@test
def with_every_model_leased_an_open_is_refused_until_a_lease_goes(t):
    for name in 'abc':
        t.model(name, 6 * MIB)
    daemon = t.daemon(host_bytes='16M')
    client = daemon.client()
    leases = [client.open('a'), client.open('b')]
    refused(t, 'NO_ROOM', lambda: client.open('c'))
    leases[0].close()
    client.open('c')
    assert used(daemon) <= 16 * MIB
    refused(t, 'NO_ROOM', lambda: client.open('a'))


@test
def a_model_larger_than_the_tier_is_refused_at_once(t):
    t.model('a', 20 * MIB)
    t.model('b', MIB)
    client = t.daemon(host_bytes='16M').client()
    text = refused(t, 'TOO_LARGE', lambda: client.open('a'))
    assert 'a' in text
    client.open('b')


@test
def where_the_machine_has_less_than_promised_idle_copies_make_way(t):
    if os.getuid() != 0:
        raise Skip('needs root, for a small /dev/shm of its own')
    made = {name: t.model(name, 10 * MIB) for name in 'abc'}
    small = ['unshare', '--mount', 'sh', '-c', 'mount -t tmpfs -o size=28M tmpfs /dev/shm && exec "$@"', 'sh']
    daemon = t.daemon(wrapper=small, host_memory='shm', policy='lru')
    client = daemon.client()
    client.open('a').close()
    b = client.open('b')
    c = client.open('c')  # there is no room for three; the tier's bound would have let them in
    t.equal(models.digests(c.tensors()), models.digests(made['c']))
    there = [m['names'][0] for m in daemon.json('ls')['models'] if m['tiers'].get('host', {}).get('state') == 'ready']
    t.equal(sorted(there), ['b', 'c'])
    text = refused(t, 'NO_MEMORY', lambda: client.open('a'))
    assert '/dev/shm' in text, text
    b.close()
    t.equal(models.digests(client.open('a').tensors()), models.digests(made['a']))


@test
def a_rotation_of_models_keeps_the_bound(t):
    made = {f'm{i}': t.model(f'm{i}', 3 * MIB) for i in range(8)}
    for policy in ('cost', 'lru', 'fifo', 'lcu'):
        daemon = t.daemon(host_bytes='10M', policy=policy)
        client = daemon.client()
        for _ in range(3):
            for name in t.random.sample(sorted(made), len(made)):
                lease = client.open(name)
                t.equal(models.digests(lease.tensors()), models.digests(made[name]), f'{policy} {name}')
                lease.close()
                assert used(daemon) <= 10 * MIB, used(daemon)
        assert daemon.metric('trims_evictions_total', tier='host', reason='room') >= 8
        daemon.stop()


@test
def the_policy_never_refuses_instead(t):
    for name in 'abc':
        t.model(name, 6 * MIB)
    client = t.daemon(host_bytes='16M', policy='never').client()
    client.open('a').close()
    client.open('b').close()
    refused(t, 'NO_ROOM', lambda: client.open('c'))


@test
def lru_drops_the_one_used_longest_ago(t):
    for name in 'abc':
        t.model(name, 6 * MIB)
    client = t.daemon(host_bytes='16M', policy='lru').client()
    for name in 'aba':
        client.open(name).close()
    client.open('c').close()
    t.equal(client.open('a').opened['hit'], 1, 'a was used after b')


@test
def pins_hold_against_pressure_and_evict_lets_go(t):
    for name in 'abc':
        t.model(name, 6 * MIB)
    daemon = t.daemon(host_bytes='16M')
    client = daemon.client()
    t.equal(daemon.ctl('pin', 'a').rc, 0)
    t.equal(client.open('a').opened['tier'], wire.TIERS['host'])
    client.close()
    client = daemon.client()
    for name in 'bcbc':
        client.open(name).close()
    t.equal(client.open('a').opened['hit'], 1)
    t.equal(daemon.ctl('unpin', 'a').rc, 0)


@test
def evicting_a_model_in_use_waits_for_the_lease_and_counts_its_bytes(t):
    tensors = t.model('a', 6 * MIB)
    daemon = t.daemon()
    client = daemon.client()
    lease = client.open('a')
    t.equal(daemon.ctl('evict', 'a').rc, 0)
    assert used(daemon) >= 6 * MIB, 'bytes of a draining copy count'
    t.equal(models.digests(lease.tensors()), models.digests(tensors))
    refused(t, 'BUSY', lambda: daemon.client().open('a'))
    lease.close()
    t.eventually(lambda: daemon.metric('trims_tier_draining_bytes', tier='host') == 0, 'it is gone')
    again = daemon.client().open('a')
    assert again.opened['copy'] != lease.opened['copy'], 'another copy'


@test
def opens_and_evictions_at_the_same_time_never_go_wrong(t):
    made = {name: t.model(name, 3 * MIB) for name in 'abcd'}
    wanted = {name: models.digests(tensors) for name, tensors in made.items()}
    daemon = t.daemon(host_bytes='10M')
    trouble, over = [], threading.Event()

    def reader(seed):
        rng = t.random.__class__(seed)
        client = daemon.client()
        try:
            for _ in range(25):
                name = rng.choice('abcd')
                try:
                    lease = client.open(name)
                    if models.digests(lease.tensors()) != wanted[name]:
                        trouble.append(f'{name} has wrong bytes')
                    lease.close()
                except wire.Fault as fault:
                    if fault.code not in ('NO_ROOM', 'BUSY'):
                        trouble.append(str(fault))
        except Exception as e:  # pylint: disable=broad-except
            trouble.append(repr(e))

    def evicter():
        client = daemon.client()
        while not over.is_set():
            for name in 'abcd':
                try:
                    client.call('evict', model=name, tier=wire.TIERS['host'])
                except wire.Fault as fault:
                    if fault.code not in ('BUSY', 'NOT_FOUND'):
                        trouble.append(str(fault))
                except wire.Gone:
                    return
    readers = [threading.Thread(target=reader, args=(t.random.random(),)) for _ in range(4)]
    evicting = threading.Thread(target=evicter)
    for thread in [*readers, evicting]:
        thread.start()
    for thread in readers:
        thread.join()
    over.set()
    evicting.join()
    t.equal(trouble, [])
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'leases are back')


@test
def unused_copies_go_after_their_time_to_live(t):
    t.model('a', MIB)
    daemon = t.daemon(ttl='50ms')
    daemon.client().open('a').close()
    t.eventually(lambda: daemon.metric('trims_evictions_total', reason='ttl') == 1, 'the copy is dropped')


main()

"""Random machines, plans and accidents for what comes over other devices' links: clients that load, leave, evict and read, calls
that fail, stand still or end a device.  Whatever is called ready is right, and in the end no slot, copy or lease is left.
TRIMS_STORM is how many seconds one storm lasts, TRIMS_STORMS how many there are."""
import contextlib
import os
import random
import shutil
import threading
import time

import models
import wire
from simgpu import gpu_daemon
from trimstest import PATIENCE, main, test

MIB = 1 << 20
SECONDS = float(os.environ.get('TRIMS_STORM', 0.8))
STORMS = int(os.environ.get('TRIMS_STORMS', 1))
SIZES = {'a': 30 * MIB, 'b': 18 * MIB, 'c': 9 * MIB}
# What a client may hear when devices fail and others evict what it waits for.
EXPECTED = {'NO_TIER', 'GPU_ERROR', 'NO_ROOM', 'CANCELLED', 'NO_LEASE', 'BUSY', 'NO_MEMORY', 'NOT_FOUND', 'UNSUPPORTED'}
CALLS = ['cuMemcpyPeerAsync'] * 4 + ['cuMemcpyHtoDAsync_v2', 'cuEventRecord', 'cuEventQuery', 'cuEventSynchronize',
                                     'cuStreamSynchronize', 'cuCtxSetCurrent']


def machine(rng):
    """(topology, how many devices): links so slow that helpers get to what is theirs, and some NVLinks."""
    n = rng.randint(2, 4)
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    linked = rng.sample(pairs, rng.randint(1, len(pairs)))
    rows = [f'device bytes=160M gbps={rng.choice((0.05, 0.2, 1, 5))} engines={rng.randint(1, 3)}' for _ in range(n)]
    return '\n'.join(['set speed=1', *rows, *(f'nvlink {a} {b} gbps={rng.choice((1, 20))}' for a, b in linked), '']), n


def script(rng, n, grace):
    """A few accidents behind the calls of the start, the first `grace` of each kind."""
    def rule():
        call = rng.choice(CALLS)
        at = grace.get(call, 0) + 1 + int(rng.expovariate(1 / (8 if call == 'cuMemcpyPeerAsync' else 60)))
        what = rng.choice([1, 1, 999, f'stall:{rng.randint(1, 40)}', f'stall:{rng.randint(1, 40)}', f'lose:719@{rng.randrange(n)}'])
        if call.startswith('cuMemcpy') and not str(what).startswith('lose') and rng.random() < 0.4:
            return f'~{call}:{at}={719 if what in (1, 999) else what}'
        return f'{call}:{at}={what}'
    return ','.join(rule() for _ in range(rng.choice((0, 0, 1, 1, 2, 4))))


# How many calls of each a daemon makes before the first load, about.
AT_START = {'cuMemcpyHtoDAsync_v2': 200, 'cuEventRecord': 300, 'cuEventSynchronize': 300, 'cuStreamSynchronize': 200,
            'cuEventQuery': 100, 'cuCtxSetCurrent': 200}


class Storm:
    def __init__(self, daemon, made, uuids):
        self.daemon, self.made, self.uuids = daemon, made, uuids
        self.over, self.trouble, self.served = threading.Event(), [], 0

    def plan(self, rng, name):
        helpers = [rng.choice(self.uuids) if rng.random() < 0.95 else 'GPU-nowhere' for _ in range(rng.randint(0, 8))]
        order = rng.sample(range(len(self.made[name])), rng.randint(1, len(self.made[name])))
        entries = [(i, 1) if rng.random() < 0.1 else (i, 0, rng.randint(0, len(helpers))) for i in order]
        return wire.plan(*entries, helpers=helpers, keep=rng.choice((0, 0, 4 * MIB)))

    def look(self, name, lease):
        found = models.digests(lease.tensors(partial=True))
        wrong = [tensor for tensor in found if found[tensor] != self.made[name][tensor]]
        assert not wrong, f'wrong bytes of {name}: {wrong}'
        self.served += 1

    def step(self, rng, client):
        name, device = rng.choice(list(self.made)), rng.choice(self.uuids)
        what = rng.choice(['load', 'load', 'load', 'leave', 'leave', 'cancel', 'prefetch', 'evict', 'evict', 'links', 'drop'])
        how = {'tier': wire.TIERS['gpu'], 'device': device, 'class': rng.randrange(2)}
        if what in ('load', 'leave'):
            lease = client.open_answer(client.send_planned('open', self.plan(rng, name), model=name, **how), wait=what == 'load')
            if what == 'load':
                self.look(name, lease)
            else:
                self.over.wait(rng.random() * 0.05)
            client.leases.remove(lease)
            lease.close()
        elif what == 'cancel':
            client.send('cancel', target=client.send_planned('open', self.plan(rng, name), model=name, **how))
        elif what == 'drop':
            client.send_planned('open', self.plan(rng, name), model=name, **how)
            raise wire.Gone
        elif what == 'links':
            client.report('links')
        elif what == 'prefetch':
            del how['class']
            client.answer(client.send_planned('prefetch', self.plan(rng, name), model=name, **how))
        else:
            client.call('evict', model=name, tier=wire.TIERS['gpu'])

    def client(self, seed):
        rng = random.Random(seed)
        while not self.over.is_set():
            client = wire.Client(self.daemon.socket, PATIENCE)
            try:
                client.attach(*self.uuids)
                for _ in range(rng.randrange(1, 12)):
                    try:
                        self.step(rng, client)
                    except wire.Fault as e:
                        if e.code not in EXPECTED:
                            raise
            except wire.Gone:
                pass
            except Exception as e:  # pylint: disable=broad-except
                if getattr(e, 'code', '') not in EXPECTED:
                    self.trouble.append(repr(e))
                    self.over.set()
            finally:
                client.close()

    def blow(self, rng):
        threads = [threading.Thread(target=self.client, args=(rng.random(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and not self.over.wait(0.05):
            pass
        self.over.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert not self.trouble, self.trouble
        assert not any(thread.is_alive() for thread in threads), 'a client hangs'


def calm(t, daemon, storm, accidents):
    """Nothing is under way or held; staging is empty; who is left still serves, over helpers too; numbers add up."""
    def at_rest():
        links = daemon.json('links')
        return (daemon.metric('trims_leases') == 0 and daemon.metric('trims_transfers_active') == 0 and not links['transfers'] and
                not any(row['in_use'] for row in links['staging']))
    t.eventually(at_rest, f'rest: {daemon.json("links")["transfers"]} {daemon.json("links")["staging"]}')
    links = daemon.json('links')
    assert daemon.metric('trims_helper_bytes_total') <= sum(row['taken_bytes'] for row in links['staging'])
    for name in storm.made:
        assert daemon.ctl('evict', name, '--tier', 'gpu').rc in (0, 1)
    t.eventually(lambda: daemon.metric('trims_tier_used_bytes', tier='gpu') == 0, 'device memory is given back')
    for _ in range(accidents):  # some may still be to come
        with contextlib.suppress(wire.Fault):
            serves(daemon, storm)
            return
    serves(daemon, storm)


def serves(daemon, storm):
    working = [row['detail'] for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu' and row['state'] == 'ok']
    for uuid in (u for u in storm.uuids if any(u in detail for detail in working)):
        client = daemon.client().attach(uuid)
        everything = wire.plan(*((i, 0, 1 + i % len(storm.uuids)) for i in range(9)), helpers=storm.uuids)
        storm.look('c', client.open('c', 'gpu', device=uuid, plan=everything))
        client.close()


def one_storm(t, made, seed):
    rng = random.Random(seed)
    topology, n = machine(rng)
    faults = script(rng, n, {**AT_START, 'cuMemcpyPeerAsync': 24 * topology.count('nvlink')})
    try:
        daemon = gpu_daemon(t, topology=topology, faults=faults, self_check='yes', pt_staging=rng.choice(('4M', '8M', '64M')),
                            host_bytes='128M', **rng.choice(({}, {'gpu_bytes': '96M'})))
        storm = Storm(daemon, made, [row['device'] for row in daemon.json('links')['links'] if row['direction'] == 'h2d'])
        storm.blow(rng)
        calm(t, daemon, storm, faults.count('='))
        if os.environ.get('TRIMS_STORM_TALK'):
            told = [int(daemon.metric('trims_helper_chunks_total', what=what)) for what in ('relayed', 'taken-back', 'failed')]
            print(f'# {seed}: {storm.served} right; relayed, taken back, failed: {told}; {faults}', flush=True)
        daemon.stop()
        shutil.rmtree(t.dir / 'devices')  # a lost one stays lost there
    except BaseException as e:
        raise AssertionError(f'seed {seed!r}, faults {faults!r}\n{topology}') from e
    assert storm.served or '719' in faults, 'nothing was served'


@test
def storms_over_helpers(t):
    made = {name: models.digests(t.model(name, size)) for name, size in SIZES.items()}
    for seed in os.environ.get('TRIMS_STORM_SEED', '').split() or [f'{t.random.random()}' for _ in range(STORMS)]:
        one_storm(t, made, seed)


main()

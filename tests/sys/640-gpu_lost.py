"""Memory that is on its way, and what a device leaves behind that is lost: nothing is counted twice, given to somebody else, or kept
in silence."""
import contextlib
import os

from gpubench import Bench, calls
from trimstest import main, test

TWO_DEVICES = 'device bytes=64M gbps=50 context=1M\n' * 2


@test
def memory_on_its_way_is_not_taken_for_more_room(t):
    """What an allocation will take counts as held before the driver has it: counted as free, too, it would be there twice."""
    bench = Bench(t)
    folder = t.dir / 'counts'
    folder.mkdir()
    daemon = bench.daemon(SIMCUDA_COUNT=str(folder), SIMCUDA_FAULTS='cuMemCreate:3=stall')  # behind those of start and canary

    t.at_end((bench.dir / 'release').touch)
    client = bench.puppet(daemon)
    client.send('open', 'b')
    t.eventually(lambda: list(bench.dir.glob('stalled.*.cuMemCreate')), 'memory is on its way')
    before = daemon.metric('trims_tier_capacity_bytes', tier='gpu')
    looks = calls(folder)['cuMemGetInfo_v2']
    t.eventually(lambda: calls(folder)['cuMemGetInfo_v2'] >= looks + 2, 'what is free is asked again')
    t.equal(daemon.metric('trims_tier_capacity_bytes', tier='gpu'), before)
    (bench.dir / 'release').touch()
    bench.right('b', client('read', client.answer()[0]))


def mapped_and_closed(daemon):
    """Addresses and inodes of models' host memory that the daemon has mapped and closed the descriptor of."""
    proc, held = f'/proc/{daemon.process.pid}', set()
    for fd in os.listdir(f'{proc}/fd'):
        with contextlib.suppress(FileNotFoundError):
            held.add(str(os.stat(f'{proc}/fd/{fd}').st_ino))
    with open(f'{proc}/maps', encoding='utf-8') as file:
        rows = [line.split() for line in file if '/memfd:mrm:b ' in line]
    return [(row[0], row[4]) for row in rows if row[4] not in held]


def fell_back(daemon, reason):
    return daemon.metric('trims_fallback_total', reason=reason)


@test
def host_memory_that_a_lost_device_had_registered_is_registered_by_another(t):
    bench = Bench(t, topology=TWO_DEVICES)
    folder = t.dir / 'counts'
    folder.mkdir()
    daemon = bench.daemon(SIMCUDA_COUNT=str(folder))
    first, second = bench.uuids(daemon)
    client = bench.puppet(daemon)
    bench.right('b', client('read', client('open', 'b', 'wait', first)[0]))
    t.equal(calls(folder)['cuMemHostRegister_v2'], 1)
    bench.simcuda(daemon, 'lose', 0, 719)
    t.eventually(lambda: fell_back(daemon, 'gpu-lost') == 1, 'the loss is noticed')
    other = bench.puppet(daemon)  # the first one has it in its hands
    bench.right('b', other('read', other('open', 'b', 'wait', second)[0]))
    counts = calls(folder)
    t.equal([counts.get(name) for name in ('cuMemHostRegister_v2', 'cuMemHostUnregister')], [2, 1])
    for c in (client, other):
        c.process.kill()
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'leases are given back')
    bench.ctl(daemon, 'evict', 'b')
    t.eventually(lambda: daemon.metric('trims_tier_used_bytes', tier='host') == 0, 'host memory is given back')
    t.equal(calls(folder)['cuMemHostUnregister'], 2)
    t.equal([fell_back(daemon, reason) for reason in ('host-not-registered', 'host-stays-registered')], [0, 0])


@test
def a_device_lost_while_it_registers_for_another_costs_that_one_nothing(t):
    bench = Bench(t, topology=TWO_DEVICES)
    daemon = bench.daemon(SIMCUDA_FAULTS='cuMemHostRegister_v2:1=stall')
    first, second = bench.uuids(daemon)
    clients = [bench.puppet(daemon) for _ in range(2)]
    clients[0]('open', 'b', 'nowait', first)
    t.eventually(lambda: list(bench.dir.glob(f'stalled.{daemon.process.pid}.*')), 'a registration stands still')
    (number, _) = clients[1]('open', 'b', 'nowait', second)
    bench.simcuda(daemon, 'lose', 0, 719)
    (bench.dir / 'release').touch()
    clients[1]('wait', number)
    bench.right('b', clients[1]('read', number))
    t.equal([fell_back(daemon, reason) for reason in ('gpu-lost', 'host-not-registered')], [1, 0])
    for c in clients:
        c.process.kill()


@test
def host_memory_that_nobody_can_unregister_is_never_anothers(t):
    """The driver would copy the old pages for whatever has their addresses."""
    bench = Bench(t)
    daemon = bench.daemon()
    client = bench.puppet(daemon)
    bench.right('b', client('read', client('open', 'b')[0]))
    client.end()
    bench.simcuda(daemon, 'lose', 0, 719)
    t.eventually(lambda: fell_back(daemon, 'gpu-lost') == 1, 'the loss is noticed')
    t.equal(mapped_and_closed(daemon), [])
    bench.ctl(daemon, 'evict', 'b')
    t.eventually(lambda: fell_back(daemon, 'host-stays-registered') == 1, 'it is said')
    (row,) = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'host-stays-registered']
    assert 'MB of host memory' in row['detail'], row
    (mapped,) = mapped_and_closed(daemon)
    t.equal(bench.ctl(daemon, 'open', 'b', '--tier', 'host').rc, 0)
    t.equal(mapped_and_closed(daemon), [mapped])
    t.equal(bench.ctl(daemon, 'verify', 'b').rc, 0)


@test
def memory_that_the_driver_does_not_take_back_ends_nothing(t):
    """Nor does it count as a copy's, or as free."""
    for export, script in (('vmm-fd', 'cuMemUnmap:2+=1'), ('cuda-ipc', 'cuMemFree:4+=1')):  # behind those of start
        bench = Bench(t, gpu_export=export)
        daemon = bench.daemon(SIMCUDA_FAULTS=script)
        client = bench.puppet(daemon)
        bench.right('b', client('read', client('open', 'b')[0]))
        client.end()
        t.equal(fell_back(daemon, 'gpu-memory-stays'), 0)
        bench.ctl(daemon, 'evict', 'b', '--tier', 'gpu')
        t.eventually(lambda d=daemon: fell_back(d, 'gpu-memory-stays') == 1, 'it is said')
        (row,) = [row for row in daemon.json('doctor')['checks'] if row['name'] == 'gpu-memory-stays']
        assert 'MB that were freed' in row['detail'], row
        t.eventually(lambda d=daemon: d.metric('trims_tier_used_bytes', tier='gpu') == 0, 'it is no copy\'s')
        t.equal(fell_back(daemon, 'gpu-lost'), 0)
        client = bench.puppet(daemon)
        bench.right('b', client('read', client('open', 'b')[0]))
        client.end()
        daemon.stop()


@test
def a_device_that_is_lost_without_a_word_is_noticed_when_memory_goes_back(t):
    bench = Bench(t)
    daemon = bench.daemon(SIMCUDA_FAULTS='cuMemUnmap:2+=700')
    client = bench.puppet(daemon)
    client('open', 'b')
    client.end()
    bench.ctl(daemon, 'evict', 'b', '--tier', 'gpu')
    t.eventually(lambda: fell_back(daemon, 'gpu-lost') == 1, 'the loss is noticed')
    t.equal(fell_back(daemon, 'gpu-memory-stays'), 0)
    daemon.stop()


main()

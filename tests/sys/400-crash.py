"""Clients and daemons that die at a bad moment."""
import os
import signal

import models
import remote
import wire
from trimstest import CTL, PATIENCE, faulty, main, test

MIB = 1 << 20


def same(t, lease, tensors):
    t.equal(models.digests(lease.tensors()), models.digests(tensors))


@test
def a_client_may_vanish_after_any_message(t):
    t.model('a', 2 * MIB)
    daemon = t.daemon()
    warm = daemon.client()
    warm.open('a')
    warm.close()
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'warm')
    before = len(daemon.fds())
    steps = [('hello', {'version_min': wire.VERSION, 'version_max': wire.VERSION, 'program': 'x'}), ('open', {'model': 'a'}),
             ('open', {'model': 'a', 'tier': 1}), ('open', {'model': 'none'}), ('query', {'report': 1}),
             ('file', {'lease': 1, 'path': 'config.json'}), ('cancel', {'target': 2}),
             ('prefetch', {'model': 'a'}), ('pin', {'model': 'a'}), ('unpin', {'model': 'a'}),
             ('verify', {'model': 'a'}), ('evict', {'model': 'a'}), ('open', {'model': 'a'})]
    for last in range(len(steps) + 1):
        for answers in (False, True):
            client = daemon.client(hello=False)
            for name, fields in steps[:last]:
                client.send(name, **fields)
            if answers and last:
                for fd in client.receive()[3]:
                    os.close(fd)
            client.close()
    t.eventually(lambda: daemon.metric('trims_leases') == 0 and daemon.metric('trims_clients') <= 1, 'nothing is left')
    t.eventually(lambda: len(daemon.fds()) <= before + 2, 'no descriptor is left')
    daemon.client().open('a')


@test
def a_killed_client_process_costs_nothing(t):
    t.model('a', 6 * MIB)
    t.model('b', 12 * MIB)
    daemon = t.daemon(host_bytes='16M')
    holder = t.spawn(CTL, '--socket', daemon.socket, 'open', 'a', '--hold')
    t.eventually(lambda: daemon.metric('trims_leases') == 1 and daemon.metric('trims_loads_total', result='done') == 1,
                 'the lease is held')
    holder.send_signal(signal.SIGKILL)
    holder.wait(PATIENCE)
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'the lease is back')
    daemon.client().open('b')


@test
def a_client_killed_while_its_model_loads_cancels_the_load(t):
    t.model('a', 24 * MIB)
    server = remote.Server(t, t.models_dir)
    server.fault = remote.stall(beyond=1)
    daemon = t.daemon(sources=[server.url], stall_timeout='1h')
    holder = t.spawn(CTL, '--socket', daemon.socket, 'open', 'a', '--hold')
    assert server.reached.wait(PATIENCE)
    holder.send_signal(signal.SIGKILL)
    t.eventually(lambda: daemon.metric('trims_loads_total', result='cancelled') >= 1, 'the load is cancelled')


@test
def a_daemon_killed_at_every_step_of_an_ingest_serves_right_bytes_afterwards(t):
    tensors = t.model('a', 10 * MIB, files={'tokenizer.json': b'{}'})
    server = remote.Server(t, t.models_dir)
    count = t.dir / 'count'
    cache = t.memory_dir()
    daemon = t.daemon(sources=[server.url], cache_dir=cache, environment=faulty(cache, 'count', count=count))
    daemon.client().open('a')
    t.eventually(lambda: daemon.metric('trims_transfers_active') == 0, 'it is on disk')
    daemon.stop()
    steps = int(count.read_text())
    assert steps >= 10, steps
    died = 0
    for step in range(1, steps + 1):
        for path in sorted(cache.rglob('*'), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        daemon.environment = faulty(cache, 'kill', at=step)
        try:
            daemon.start()
            client = daemon.client()
            same(t, client.open('a'), tensors)
            t.eventually(lambda: daemon.process.poll() is not None or daemon.metric('trims_transfers_active') == 0,
                         'it is on disk, or dead')
            daemon.signal(signal.SIGTERM)
        except (wire.Gone, wire.Fault, AssertionError, ConnectionRefusedError) as e:
            if daemon.process.wait(PATIENCE) != -signal.SIGKILL:
                raise
            assert not isinstance(e, wire.Fault) or e.code == 'DISCONNECTED', e
        died += daemon.process.wait(PATIENCE) == -signal.SIGKILL
        daemon.environment = {}
        daemon.start()
        lease = daemon.client().open('a')
        same(t, lease, tensors)
        daemon.stop()
    assert died >= steps * 2 // 3, f'{died} of {steps} steps were reached'


@test
def a_download_goes_on_where_a_killed_daemon_stopped(t):
    tensors = t.model('a', 144 * MIB, count=16)  # progress is made durable every 64 MiB
    server = remote.Server(t, t.models_dir)
    size = (t.models_dir / 'a/model.safetensors').stat().st_size

    def stop_at_three_quarters(request):
        part = request.range(size)
        return bool(request.is_weights and part and part[0] > size * 7 // 8 and hold(request))
    hold = remote.stall(after=0)
    server.fault = stop_at_three_quarters
    daemon = t.daemon(sources=[server.url], stall_timeout='1h', connections=2, compress='never')
    lease = daemon.client().open('a', wait=False)
    t.eventually(lambda: lease.progress()[3] > size * 3 // 4, 'most of it has landed')
    t.eventually(lambda: daemon.metric('trims_write_bytes_total', tier='disk') > size * 3 // 4, 'and is on disk')
    daemon.kill()
    server.fault = None
    server.released.set()
    server.log.clear()
    daemon.start()
    same(t, daemon.client().open('a'), tensors)
    asked = sum(last - first + 1 for first, last in filter(None, server.asked('model.safetensors')))
    assert asked < size * 2 // 3, f'{asked} of {size} bytes were fetched again'
    assert daemon.metric('trims_resumes_total', after='restart') >= 1


@test
def a_download_goes_on_where_SIGTERM_stopped_it(t):
    tensors = t.model('a', 32 * MIB)
    server = remote.Server(t, t.models_dir)
    size = (t.models_dir / 'a/model.safetensors').stat().st_size
    server.fault = remote.stall(after=0, beyond=size // 2)
    daemon = t.daemon(sources=[server.url], stall_timeout='1h', drain_timeout='1m')
    lease = daemon.client().open('a', wait=False)
    t.eventually(lambda: lease.progress()[3] > size // 3, 'a third of it has landed')
    t.eventually(lambda: daemon.metric('trims_write_bytes_total', tier='disk') > size // 4, 'and is on disk')
    daemon.stop()
    server.fault = None
    server.released.set()
    server.log.clear()
    daemon.start()
    same(t, daemon.client().open('a'), tensors)
    asked = sum(last - first + 1 for first, last in filter(None, server.asked('model.safetensors')))
    assert asked < size * 0.8, f'{asked} of {size} bytes were fetched again'


@test
def SIGTERM_in_the_middle_of_a_load_ends_cleanly(t):
    tensors = t.model('a', 24 * MIB)
    server = remote.Server(t, t.models_dir)
    server.fault = remote.stall(after=MIB, beyond=1)
    daemon = t.daemon(sources=[server.url], stall_timeout='1h', drain_timeout='1m')
    client = daemon.client()
    lease = client.open('a', wait=False)
    assert server.reached.wait(PATIENCE)
    daemon.stop()
    assert client.gone()
    t.equal(lease.progress()[1], wire.POISONED, 'nobody waits for what will never come')
    server.fault = None
    server.released.set()
    daemon.start()
    same(t, daemon.client().open('a'), tensors)


main()

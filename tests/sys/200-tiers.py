"""Remote, disk, host: what comes up, what stays, what is found again, what is noticed when it is damaged."""
import os
import pathlib
import threading

import models
import remote
import wire
from trimstest import PATIENCE, main, test


def same(t, lease, tensors):
    t.equal(models.digests(lease.tensors()), models.digests(tensors))


def settled(t, daemon):
    """Waits until nothing is on its way any more, the write to disk included."""
    t.eventually(lambda: daemon.metric('trims_transfers_active') == 0, 'transfers end')


@test
def a_remote_model_ends_up_on_disk_and_in_memory(t):
    made = {name: t.model(name, 9 << 20, **keywords) for name, keywords in
            {'a': {}, 'b': {'shards': 3}, 'c.safetensors': {}, 'd.gguf': {}}.items()}
    daemon = t.daemon(sources=[remote.Nginx(t, t.models_dir).url])
    client = daemon.client()
    for name, tensors in made.items():
        same(t, client.open(name), tensors)
    settled(t, daemon)
    t.equal(daemon.metric('trims_tier_copies', tier='host'), 4)
    t.equal(daemon.metric('trims_tier_copies', tier='disk'), 4)


@test
def a_local_directory_is_read_in_place(t):
    tensors = t.model('a', 9 << 20)
    daemon = t.daemon()
    same(t, daemon.client().open('a'), tensors)
    settled(t, daemon)
    stored = sum(f.stat().st_size for f in daemon.cache_dir.rglob('*') if f.is_file())
    assert stored < 1 << 20, f'{stored} bytes in the cache directory'


@test
def two_hundred_clients_that_ask_at_once_cause_one_load(t):
    tensors = t.model('a', 24 << 20)
    server = remote.Server(t, t.models_dir)
    daemon = t.daemon(sources=[server.url], host_bytes='64M')
    clients = [daemon.client() for _ in range(200)]
    requests = [client.open_send('a') for client in clients]
    leases = [client.open_answer(request, wait=False) for client, request in zip(clients, requests)]
    for lease in leases:
        lease.wait()
    t.equal(len({lease.opened['copy'] for lease in leases}), 1, 'copies')
    same(t, leases[0], tensors)
    same(t, leases[-1], tensors)
    asked = [part for part in server.asked('model.safetensors') if part]
    size = (t.models_dir / 'a/model.safetensors').stat().st_size
    covered = sum(last - first + 1 for first, last in asked)
    assert covered < size * 1.1 + (1 << 20), f'{covered} bytes were asked of a file of {size}'
    t.equal(daemon.metric('trims_requests_total', result='miss'), 1)


@test
def a_restart_finds_the_disk_tier_without_the_network(t):
    made = {name: t.model(name, 9 << 20) for name in ('a', 'b')}
    server = remote.Server(t, t.models_dir)
    daemon = t.daemon(sources=[server.url], revalidate='1h')
    for name in made:
        daemon.client().open(name)
    settled(t, daemon)
    for way in (daemon.stop, daemon.kill):
        way()
        server.fault = remote.status(503)
        server.log.clear()
        daemon.start()
        t.equal(daemon.metric('trims_disk_adopted_total', state='complete'), 2)
        for name, tensors in made.items():
            same(t, daemon.client().open(name), tensors)
        asked = [last - first for first, last in filter(None, server.asked('model.safetensors'))]
        assert sum(asked) < 1000, f'bytes of weights are asked again, not only whether they changed: {asked}'


@test
def lz4_is_used_where_it_saves_and_never_where_forbidden(t):
    stored = {}
    for how in ('auto', 'always', 'never'):
        for name, compressible in (('soft', True), ('hard', False)):
            if not (t.models_dir / name).exists():
                t.model(name, 8 << 20, compressible=compressible)
            cache = t.dir / f'cache-{how}-{name}'
            daemon = t.daemon(sources=[remote.Server(t, t.models_dir).url], cache_dir=cache, compress=how)
            daemon.client().open(name)
            settled(t, daemon)
            daemon.stop()
            stored[how, name] = sum(f.stat().st_blocks * 512 for f in cache.rglob('*') if f.is_file())
            daemon.start()  # and what was stored is what comes back
            same(t, daemon.client().open(name), models.read_safetensors(t.models_dir / name / 'model.safetensors'))
            daemon.stop()
    assert stored['auto', 'soft'] < (4 << 20) < stored['never', 'soft'], stored
    assert stored['auto', 'hard'] > (7 << 20) and stored['never', 'hard'] > (7 << 20), stored


def side_file(client, lease, name):
    got = client.call('file', lease=lease.opened['lease'], path=name)
    (fd,) = got['fd_list']
    data = os.pread(fd, got['bytes'] + 1, 0)
    os.close(fd)
    return data


# What a damaged file of the disk tier is counted as; the others hold nothing that is served.
DAMAGE = {'.data': ('trims_verify_failures_total', {'tier': 'disk'}),
          '.sides': ('trims_verify_failures_total', {'tier': 'disk'}),
          '.manifest': ('trims_disk_events_total', {'event': 'image-set-aside'}),
          'catalog': ('trims_disk_events_total', {'event': 'names-rebuilt'}), 'lock': None, 'identity': None}


def files_by_kind(cache_dir):
    """One file of each suffix, the largest."""
    kinds = {}
    for path in sorted(p for p in cache_dir.rglob('*') if p.is_file() and p.stat().st_size):
        best = kinds.setdefault(path.suffix or path.name, path)
        if path.stat().st_size > best.stat().st_size:
            kinds[path.suffix or path.name] = path
    return kinds


@test
def a_byte_flipped_in_any_file_of_the_disk_tier_is_never_served(t):
    tokenizer = t.random.randbytes(70000)
    tensors = t.model('a', 9 << 20, files={'tokenizer.json': tokenizer})
    config = (t.models_dir / 'a/config.json').read_bytes()
    server = remote.Server(t, t.models_dir)
    daemon = t.daemon(sources=[server.url], compress='never')
    daemon.client().open('a')
    settled(t, daemon)
    daemon.stop()
    kinds = files_by_kind(daemon.cache_dir)
    t.equal(sorted(kinds), sorted(DAMAGE), 'files of the disk tier')
    for kind, path in kinds.items():
        for part in (0, 0.5, 1):
            data = bytearray(path.read_bytes())  # damaged before, it was put right
            where = int(part * (len(data) - 1))
            what = f'after a flip in {path.name} at {where} of {len(data)}'
            data[where] ^= 1 << t.random.randrange(8)
            path.write_bytes(data)
            daemon.start()
            client = daemon.client()
            lease = client.open('a')
            t.equal(models.digests(lease.tensors()), models.digests(tensors), what)
            t.equal(side_file(client, lease, 'tokenizer.json'), tokenizer, what)
            t.equal(side_file(client, lease, 'config.json'), config, what)
            settled(t, daemon)
            is_padding = kind == '.data' and part == 1  # up to a page behind the last chunk
            if DAMAGE[kind] and not is_padding:
                name, labels = DAMAGE[kind]
                assert daemon.metric(name, **labels) >= 1, f'{what}: {name} {labels} did not count it'
            daemon.stop()


@test
def a_damaged_chunk_is_fetched_again_and_counted(t):
    tensors = t.model('a', 20 << 20)
    server = remote.Server(t, t.models_dir)
    daemon = t.daemon(sources=[server.url], compress='never')
    daemon.client().open('a')
    settled(t, daemon)
    daemon.stop()
    path = max((p for p in daemon.cache_dir.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    with open(path, 'r+b') as f:
        f.seek(path.stat().st_size // 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 4]))
    server.log.clear()
    daemon.start()
    same(t, daemon.client().open('a'), tensors)
    assert daemon.metric('trims_verify_failures_total', tier='disk') >= 1
    assert daemon.metric('trims_chunk_refetches_total') >= 1
    asked = sum(last - first + 1 for first, last in filter(None, server.asked('model.safetensors')))
    assert 0 < asked < 10 << 20, f'{asked} bytes were fetched for one chunk'


@test
def a_file_that_was_only_touched_is_read_once_more(t):
    tensors = t.model('a', 2 << 20)
    daemon = t.daemon(revalidate=0)
    old = daemon.client().open('a')
    file = t.models_dir / 'a/model.safetensors'
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
    other = daemon.client()

    def fresh():
        lease = other.open('a')
        found = lease.opened['copy'] != old.opened['copy']
        if not found:
            lease.close()
        return found and lease
    t.eventually(fresh, 'the new time is noticed')
    for _ in range(5):
        same(t, other.open('a'), tensors)
    t.equal(daemon.metric('trims_requests_total', result='miss', tier='host'), 2, 'loads')
    same(t, old, tensors)
    t.equal(daemon.metric('trims_tier_copies', tier='host'), 2, 'copies while somebody holds the old one')
    old.close()
    t.eventually(lambda: daemon.metric('trims_tier_copies', tier='host') == 1, 'the old copy is freed')


@test
def a_changed_file_is_another_model(t):
    old = t.model('a', 2 << 20)
    server = remote.Server(t, t.models_dir)
    daemon = t.daemon(sources=[server.url], revalidate=0)
    client = daemon.client()
    held = client.open('a')
    new = t.model('a', 2 << 20)

    def fresh():
        lease = client.open('a')
        found = models.digests(lease.tensors())
        lease.close()
        assert found in (models.digests(old), models.digests(new)), 'a mixture of two versions'
        return found == models.digests(new)
    t.eventually(fresh, 'the new version is served')
    same(t, held, old)


@test
def equal_bytes_under_two_names_are_one_model(t):
    t.model('a', 6 << 20)
    (t.models_dir / 'b').symlink_to(pathlib.Path('a'))
    daemon = t.daemon(sources=[remote.Nginx(t, t.models_dir).url])
    client = daemon.client()
    first, second = client.open('a'), client.open('b')
    settled(t, daemon)
    t.equal((first.opened['digest_hi'] or 1) and first.tensors(), second.tensors())
    first.close()
    second.close()
    t.eventually(lambda: daemon.metric('trims_tier_copies', tier='host') == 1, 'one copy in memory')


@test
def the_first_source_that_has_the_model_wins(t):
    (t.dir / 'second').mkdir()
    first = t.model('a', 1 << 20)
    models.make(t.dir / 'second/a', t.random, 1 << 20)
    other = models.make(t.dir / 'second/b', t.random, 1 << 20)
    client = t.daemon(sources=[f'dir:{t.models_dir}', remote.Nginx(t, t.dir / 'second').url]).client()
    same(t, client.open('a'), first)
    same(t, client.open('b'), other)


@test
def posix_shared_memory_serves_where_memfd_is_refused(t):
    tensors = t.model('a', 5 << 20)
    daemon = t.daemon(host_memory='shm')
    same(t, daemon.client().open('a'), tensors)
    assert daemon.metric('trims_fallback_total', reason='no-memfd') >= 1
    assert 'no-memfd' in daemon.ctl('doctor').out


@test
def pread_threads_serve_where_io_uring_is_refused(t):
    tensors = t.model('a', 9 << 20)
    daemon = t.daemon(io='pread')
    same(t, daemon.client().open('a'), tensors)


@test
def a_waiter_that_gives_up_leaves_what_has_landed(t):
    t.model('a', 24 << 20)
    server = remote.Server(t, t.models_dir)
    server.fault = remote.stall(after=1 << 20, beyond=1)
    daemon = t.daemon(sources=[server.url], stall_timeout='1h')
    client = daemon.client()
    lease = client.open('a', wait=False)
    assert server.reached.wait(PATIENCE)
    lease.close()
    t.eventually(lambda: daemon.metric('trims_loads_total', result='cancelled') >= 1, 'the load is cancelled')
    server.fault = None
    server.released.set()
    client.open('a')


@test
def clients_read_while_bytes_still_arrive(t):
    tensors = t.model('a', 24 << 20, count=24)
    server = remote.Server(t, t.models_dir)
    size = (t.models_dir / 'a/model.safetensors').stat().st_size
    gate = threading.Event()

    def hold_the_end(request):
        part = request.range(size)
        if request.is_weights and part and part[1] >= size - (4 << 20) and part[1] - part[0] > 1000:
            gate.wait(PATIENCE)
        return False
    server.fault = hold_the_end
    daemon = t.daemon(sources=[server.url], stall_timeout='1h')
    lease = daemon.client().open('a', wait=False)
    t.eventually(lambda: lease.progress()[3] >= 4 << 20, 'the first chunk is there')
    t.equal(lease.progress()[1], wire.LOADING)
    gate.set()
    same(t, lease.wait(), tensors)


main()

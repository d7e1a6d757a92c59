"""What the daemon keeps of a model while its copies come, go, turn out to be the same, or are looked at meanwhile."""
import os
import socket
import sys

import models
import remote
import wire
from trimstest import PATIENCE, SOURCE, main, run, test

sys.path.insert(0, str(SOURCE / 'tests/source'))
import servers  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20


def same(t, lease, tensors):
    t.equal(models.digests(lease.tensors()), models.digests(tensors))


def settled(t, daemon):
    t.eventually(lambda: daemon.metric('trims_transfers_active') == 0, 'transfers end')


def pulled(t, **options):
    """(daemon, tensors) with model a on disk and on host."""
    tensors = t.model('a', 9 * MIB, files={'tokenizer.json': b'{"a": 1}'})
    daemon = t.daemon(sources=[remote.Server(t, t.models_dir).url], **options)
    same(t, daemon.client().open('a'), tensors)
    settled(t, daemon)
    return daemon, tensors


@test
def a_model_can_be_looked_at_while_its_disk_copy_goes(t):
    daemon, tensors = pulled(t)
    client = daemon.client()
    holder = daemon.client().open('a')
    for _ in range(10):
        client.send('evict', model='a', tier=1)
        asked = [client.send('query', report=r, model='a', cursor=0) for r in (1, 2, 3, 4)]
        asked += [client.send('file', lease=1, path='config.json'), client.open_send('a'), client.open_send('a', 'disk')]
        for request in asked:
            try:
                client.answer(request)
            except Exception as e:  # pylint: disable=broad-except
                assert 'Gone' not in repr(e), e
        settled(t, daemon)
    same(t, holder, tensors)


@test
def a_host_copy_can_be_verified_after_its_disk_copy_has_gone(t):
    daemon, tensors = pulled(t)
    t.equal(daemon.ctl('evict', 'a', '--tier', 'disk').rc, 0)
    got = daemon.json('verify', 'a')
    t.equal([(c['tier'], c['result']) for c in got['copies'] if c['result'] != 'absent'], [('host', 'ok')])
    same(t, daemon.client().open('a'), tensors)


@test
def files_that_travel_with_a_model_are_there_while_its_disk_copy_goes(t):
    daemon, _ = pulled(t)
    lease = daemon.client().open('a')
    client, admin = lease.client, daemon.client()
    for _ in range(5):
        for _ in range(20):
            client.send('file', lease=lease.opened['lease'], path='tokenizer.json')
        admin.send('evict', model='a', tier=1)
        for _ in range(20):
            client.send('file', lease=lease.opened['lease'], path='tokenizer.json')
        for _ in range(40):
            name, _, fields, fds = client.receive()
            t.equal((name, os.pread(fds[0], 100, 0)), ('filed', b'{"a": 1}'), fields)
            os.close(fds[0])
        daemon.client().open('a', 'disk').close()


@test
def two_names_of_one_content_stay_one_model_however_often_they_are_looked_up(t):
    tensors = t.model('a', 5 * MIB)
    (t.models_dir / 'b').mkdir()
    for file in (t.models_dir / 'a').iterdir():
        (t.models_dir / 'b' / file.name).write_bytes(file.read_bytes())
    daemon = t.daemon(sources=[remote.Server(t, t.models_dir).url], revalidate=0)
    for _ in range(4):
        for name in 'ab':
            client = daemon.client()
            same(t, client.open(name), tensors)
            settled(t, daemon)
            client.close()
    t.equal(len(daemon.json('ls')['models']), 1)


@test
def a_start_that_fails_forgets_no_names(t):
    daemon, tensors = pulled(t, revalidate='1h')
    daemon.stop()
    good = list(daemon.command)
    with socket.create_server(('127.0.0.1', 0)) as taken:
        got = run(*good, '--metrics', f'127.0.0.1:{taken.getsockname()[1]}')
    assert got.rc not in (0, -11), got
    daemon.command = [w for w in good if not w.startswith('http')]
    del daemon.command[daemon.command.index('--source')]
    daemon.start()
    same(t, daemon.client().open('a'), tensors)


@test
def what_is_no_socket_is_not_replaced(t):
    path = t.dir / 'precious'
    path.write_text('data')
    command = t.daemon_command(t.dir / 'cache')
    (t.dir / 'cache').mkdir()
    command[2] = path
    got = run(*command)
    t.equal(got.rc, 1, got)
    t.equal(path.read_text(), 'data')


def refused(t, daemon, name):
    """Opening it ends with MISMATCH; nothing of it is held afterwards."""
    client = daemon.client()
    try:
        client.open(name)
        raise AssertionError('served')
    except wire.Fault as e:
        t.equal(e.code, 'MISMATCH')
    client.close()
    settled(t, daemon)


def hub_with(t, **keywords):
    """(hub, daemon, tensors) with org/a, whose weights the hub states a SHA-256 of; GGUF, so bytes stand between tensors."""
    (t.models_dir / 'org/a').mkdir(parents=True)
    tensors = {f'blk.{i}.weight': ('Q4_0', (63, 32 * 101), t.random.randbytes(63 * 101 * 18)) for i in range(230)}
    (t.models_dir / 'org/a/a.gguf').write_bytes(models.gguf(tensors))
    hub = servers.Hub(t, t.models_dir)
    hub.size = (t.models_dir / 'org/a/a.gguf').stat().st_size
    daemon = t.daemon(sources=['hf://'], environment={'HF_ENDPOINT': hub.url, 'HF_TOKEN': hub.token}, stall_timeout='1h',
                      connections=2, **keywords)
    return hub, daemon, tensors


def beyond(first, act):
    """`act` on the weights' ranges that begin there or later."""
    def fault(request):
        part = request.range(1 << 60)
        if not part or part[0] < first or '.gguf' not in request.path:
            return False
        act(request)
        return True
    return fault


@test
def a_load_that_was_broken_off_goes_on_and_its_whole_files_are_checked(t):
    hub, daemon, tensors = hub_with(t)
    assert hub.size > 5 << 22, hub.size
    hub.cdn.faults = [beyond(hub.size // 2, servers.stall(0))]
    client = daemon.client()
    client.open('org/a/a.gguf', wait=False)
    t.eventually(lambda: daemon.metric('trims_read_bytes_total', tier='remote') > hub.size // 3, 'a third has landed')
    client.close()
    settled(t, daemon)
    hub.cdn.faults = []
    hub.cdn.released.set()
    hub.cdn.forget()
    same(t, daemon.client().open('org/a/a.gguf'), tensors)
    assert len(hub.cdn.asked()) < hub.size >> 22, 'what had landed was fetched again'


@test
def a_source_that_sent_wrong_bytes_once_is_believed_again(t):
    def wrong(request):
        body = request.begin_file()
        request.wfile.write(bytes(len(body)))
    hub, daemon, tensors = hub_with(t)
    hub.cdn.faults = [beyond(hub.size // 2, wrong)]
    refused(t, daemon, 'org/a/a.gguf')
    hub.cdn.faults = []
    same(t, daemon.client().open('org/a/a.gguf'), tensors)


@test
def bytes_that_are_not_what_the_model_was_are_refused_when_all_copies_had_gone(t):
    def wrong(request):
        if not request.range(1 << 60) or request.range(1 << 60)[0] < MIB or '.safetensors' not in request.path:
            return False
        request.wfile.write(bytes(len(request.begin_file())))
        return True
    tensors = t.model('a', 9 * MIB)
    server = remote.Server(t, t.models_dir)
    daemon = t.daemon(sources=[server.url], revalidate='1h')
    with_lease = daemon.client()
    same(t, with_lease.open('a'), tensors)
    settled(t, daemon)
    with_lease.close()
    for tier in ('host', 'disk'):
        t.equal(daemon.ctl('evict', 'a', '--tier', tier).rc, 0)
    t.eventually(lambda: daemon.metric('trims_tier_copies') == 0, 'all copies are gone')
    server.fault = wrong
    refused(t, daemon, 'a')
    server.fault = None
    same(t, daemon.client().open('a'), tensors)


@test
def sources_that_hang_delay_no_load_that_needs_none(t):
    tensors = t.model('a', 5 * MIB)
    server = remote.Server(t, t.models_dir)

    def hang(request):
        if '/hang' not in request.path:
            return False
        server.reached.set()
        server.released.wait()
        return False
    server.fault = hang
    daemon = t.daemon(sources=[server.url], revalidate='1h', stall_timeout='1h')
    client = daemon.client()
    client.open('a')
    settled(t, daemon)
    client.close()
    t.equal(daemon.ctl('evict', 'a', '--tier', 'host').rc, 0)
    stuck = daemon.client()
    for i in range(20):
        stuck.open_send(f'hang{i}')
    assert server.reached.wait(PATIENCE)
    same(t, daemon.client().open('a'), tensors)
    server.released.set()


@test
def a_server_without_ranges_can_fill_the_disk_tier(t):
    tensors = t.model('a', 13 * MIB, shards=3)
    server = remote.Server(t, t.models_dir)
    server.fault = remote.no_ranges
    daemon = t.daemon(sources=[server.url])
    daemon.client().open('a', 'disk')
    settled(t, daemon)
    server.fault = remote.status(503)
    same(t, daemon.client().open('a'), tensors)


@test
def a_local_model_that_is_replaced_leaves_nothing_behind(t):
    daemon = t.daemon(revalidate=0)
    for _ in range(4):
        tensors = t.model('a', 3 * MIB)
        client = daemon.client()
        t.eventually(lambda: models.digests(client.open('a').tensors()) == models.digests(tensors), 'the new one is served')
        client.close()
        settled(t, daemon)
    t.eventually(lambda: len(list(daemon.cache_dir.glob('images/*.manifest'))) == 1, 'one set of checksums is left')
    t.equal(os.readlink(f'/proc/{daemon.process.pid}/fd/0'), '/dev/null', 'no stranger is closed')


main()

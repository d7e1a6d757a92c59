"""What the daemon keeps of a model while its copies come, go, turn out to be the same, or are looked at meanwhile."""
import os
import socket

import models
import remote
from trimstest import main, run, test

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


main()

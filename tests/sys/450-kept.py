"""Models in memory that outlive the daemon: kill -9, start again, serve without loading."""
import array
import ctypes
import fcntl
import os
import signal
import socket
import struct

import models
import remote
import wire
from keeper import helpers, kept, until_kept
from trimstest import BUILD, Skip, main, test

MIB = 1 << 20
F_SEAL_FUTURE_WRITE = 0x10
PUT = 1  # mrm/keep/helper.h


def ends(pid):
    """Whether the process of that number ends; polled by asking the kernel, nothing else tells about a stranger."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as f:
            return f.read().rsplit(')', 1)[1].split()[0] == 'Z'
    except OSError:
        return True


def tell_helper(daemon, op, name, fd):
    """As the daemon would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(str(daemon.cache_dir / 'keep.sock'))
        s.sendmsg([struct.pack('<IiQ64s', op, 0, 0, name.encode())],
                  [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])
        s.recv(100)


def taken_back(daemon):
    return daemon.metric('trims_kept_copies_total', what='taken-back')


@test
def a_killed_daemon_s_models_are_where_they_were(t):
    tensors = t.model('a', 20 * MIB, files={'config.json': b'{}'})
    daemon = kept(t)
    first = daemon.client().open('a')
    t.equal(models.digests(first.tensors()), models.digests(tensors))
    until_kept(t, daemon, 1)
    daemon.kill()
    t.equal(models.digests(first.tensors()), models.digests(tensors), 'held while no daemon is there')
    daemon.start()
    t.equal(taken_back(daemon), 1)
    again = daemon.client().open('a')
    again.wait()
    t.equal(models.digests(again.tensors()), models.digests(tensors))
    t.equal(daemon.metric('trims_loads_total', result='done'), 0, 'nothing was loaded')
    (fd,) = again.client.call('file', lease=again.opened['lease'], path='config.json')['fd_list']
    t.equal(os.pread(fd, 100, 0), b'{}')
    os.close(fd)


@test
def clients_that_were_there_claim_their_leases(t):
    t.model('a', 8 * MIB)
    daemon = kept(t, host_bytes='16M')
    lease = daemon.client().open('a')
    until_kept(t, daemon, 1)
    daemon.kill()
    daemon.start()
    client = daemon.client()
    claimed = client.call('claim', model='a', copy=lease.opened['copy'], tier=2)
    t.equal((claimed['copy'], claimed['fd_list']), (lease.opened['copy'], []))
    t.equal(daemon.metric('trims_leases'), 1)
    t.model('b', 12 * MIB)
    t.equal(daemon.ctl('open', 'b').rc, 1, 'a claimed copy is no victim')
    try:
        client.call('claim', model='a', copy=lease.opened['copy'] + 1000, tier=2)
        raise AssertionError('a copy that never was is claimed')
    except wire.Fault as fault:
        t.equal(fault.code, 'NO_LEASE')
    client.close()
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'the lease goes with its connection')
    t.equal(daemon.ctl('open', 'b').rc, 0)


@test
def a_library_client_reconnects_and_has_its_lease_again(t):
    if os.environ.get('TRIMS_SANITIZE', 'none') != 'none':
        raise Skip('a library with a sanitizer is not for a program without')
    tensors = t.model('a', 8 * MIB)
    daemon = kept(t)
    trims = ctypes.CDLL(str(BUILD / 'client/libtrims.so'))
    conn, model = ctypes.c_void_p(), ctypes.c_void_p()
    t.equal(trims.trims_connect(daemon.socket.encode(), None, ctypes.byref(conn)), 0)
    t.equal(trims.trims_open(conn, b'a', None, ctypes.byref(model)), 0)
    until_kept(t, daemon, 1)
    daemon.kill()
    daemon.start()
    t.equal(daemon.metric('trims_leases'), 0)
    t.equal(trims.trims_reconnect(conn), 0)
    t.equal(daemon.metric('trims_leases'), 1)
    trims.trims_close(ctypes.byref(model))
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'the lease that was claimed is given back')
    trims.trims_disconnect(ctypes.byref(conn))
    t.equal(models.digests(daemon.client().open('a').tensors()), models.digests(tensors))


@test
def evicted_copies_are_let_go(t):
    t.model('a', 8 * MIB)
    daemon = kept(t)
    lease = daemon.client().open('a')
    lease.wait()
    until_kept(t, daemon, 1)
    lease.client.close()
    t.equal(daemon.ctl('evict', 'a').rc, 0)
    until_kept(t, daemon, 0)
    daemon.kill()
    daemon.start()
    t.equal(taken_back(daemon), 0)


@test
def a_copy_may_be_evicted_while_it_is_checked(t):
    tensors = t.model('a', 160 * MIB)
    daemon = kept(t)
    client = daemon.client()
    client.open('a').wait()
    until_kept(t, daemon, 1)
    for _ in range(5):
        daemon.kill()
        daemon.start()
        assert daemon.ctl('evict', 'a', '--tier', 'host').rc in (0, 1)
        again = daemon.client().open('a')
        again.wait()
        t.equal(models.digests(again.tensors()), models.digests(tensors))
        again.unmap()
        until_kept(t, daemon, 1)


@test
def a_copy_that_was_damaged_meanwhile_is_not_served(t):
    """The seals stop everybody, so the damage is other memory under the same name."""
    tensors = t.model('a', 8 * MIB)
    daemon = kept(t)
    lease = daemon.client().open('a')
    size = os.fstat(lease.fds[2]).st_size
    until_kept(t, daemon, 1)
    daemon.kill()
    fd = os.memfd_create('forged', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, size)
    os.pwrite(fd, bytes(lease.extents[0][:size - 1]), 0)  # all but the last byte, if that is not zero
    os.pwrite(fd, b'!', size // 2)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | F_SEAL_FUTURE_WRITE)
    tell_helper(daemon, PUT, f"c{lease.opened['copy']:x}.e0", fd)
    os.close(fd)
    daemon.start()
    t.equal(taken_back(daemon), 1)
    t.eventually(lambda: daemon.metric('trims_verify_failures_total', tier='host') == 1, 'the damage is found')
    t.eventually(lambda: daemon.ctl('open', 'a').rc == 0, 'it is loaded again')
    again = daemon.client().open('a')
    t.equal(models.digests(again.tensors()), models.digests(tensors))


@test
def a_copy_taken_back_is_checked_though_its_image_on_disk_lost_its_data(t):
    tensors = t.model('a', 20 * MIB)
    daemon = kept(t, sources=[remote.Server(t, t.models_dir).url])
    daemon.client().open('a').wait()
    until_kept(t, daemon, 1)
    t.eventually(lambda: daemon.metric('trims_transfers_active') == 0, 'it is on disk')
    daemon.kill()
    daemon.start()
    t.equal(taken_back(daemon), 1)
    (data,) = daemon.cache_dir.rglob('*.data')
    data.unlink()
    t.eventually(lambda: 'a: checked' in daemon.log(), 'it is checked')
    t.equal({row['tier']: row['result'] for row in daemon.ctl('verify', 'a', '--json').json['copies']},
            {'disk': 'corrupt', 'host': 'ok'})
    t.equal(models.digests(daemon.client().open('a').tensors()), models.digests(tensors))


@test
def memory_without_its_seals_is_not_taken_back(t):
    t.model('a', 8 * MIB)
    daemon = kept(t)
    lease = daemon.client().open('a')
    until_kept(t, daemon, 1)
    daemon.kill()
    fd = os.memfd_create('open', os.MFD_CLOEXEC)
    os.truncate(fd, os.fstat(lease.fds[2]).st_size)
    tell_helper(daemon, PUT, f"c{lease.opened['copy']:x}.e0", fd)
    os.close(fd)
    daemon.start()
    t.equal(taken_back(daemon), 0)
    t.equal(daemon.metric('trims_kept_copies_total', what='dropped'), 1)
    daemon.client().open('a').wait()


@test
def a_helper_that_was_killed_leaves_nothing_and_nothing_false(t):
    t.model('a', 8 * MIB)
    daemon = kept(t)
    daemon.client().open('a').wait()
    until_kept(t, daemon, 1)
    daemon.kill()
    (pid,) = helpers(daemon)
    os.kill(pid, signal.SIGKILL)
    t.eventually(lambda: ends(pid), 'the helper is gone')
    daemon.start()
    t.equal(taken_back(daemon), 0)
    daemon.client().open('a').wait()
    until_kept(t, daemon, 1)


@test
def a_daemon_that_ends_as_asked_takes_its_helper_along(t):
    t.model('a', 8 * MIB)
    daemon = kept(t)
    daemon.client().open('a').wait()
    until_kept(t, daemon, 1)
    (pid,) = helpers(daemon)
    daemon.stop()
    t.eventually(lambda: ends(pid), 'the helper has ended')
    assert not (daemon.cache_dir / 'keep.sock').exists()


@test
def a_helper_gives_up_after_its_hold_time(t):
    t.model('a', 8 * MIB)
    daemon = kept(t, keep_hold='50ms')
    daemon.client().open('a').wait()
    until_kept(t, daemon, 1)
    (pid,) = helpers(daemon)
    daemon.kill()
    t.eventually(lambda: ends(pid), 'the helper has ended')
    daemon.start()
    t.equal(taken_back(daemon), 0)


main()

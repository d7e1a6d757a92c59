"""What a client may say and take is bounded; who breaks the protocol loses the connection and nobody else notices."""
import os
import re
import shutil
import signal
import struct
import time

import remote
import trimstest
import wire
from trimstest import PATIENCE, main, test

MIB = 1 << 20


def code_of(function):
    """The error's name, 'GONE' when the connection ended, or '' when nothing went wrong."""
    try:
        function()
    except wire.Fault as fault:
        return fault.code
    except wire.Gone:
        return 'GONE'
    return ''


def unharmed(t, daemon):
    client = daemon.client()
    client.open('a')
    client.close()
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'leases are back')


def ends(t, daemon, what, client):
    assert client.gone(), what
    assert daemon.process.poll() is None, f'{what} ended the daemon'


@test
def datagrams_that_are_no_messages_end_the_connection(t):
    t.model('a')
    daemon = t.daemon()
    hello = wire.encode('hello', 1, {'version_min': wire.VERSION, 'version_max': wire.VERSION, 'program': 'x'})
    open_a = wire.encode('open', 2, {'model': 'a'})
    bad = {'one byte': b'x', 'half a header': open_a[:7], 'cut': open_a[:-1], 'too long': open_a + b'x',
           'unknown type': wire.HEADER.pack(1, 999, 0, 5), 'wrong version': b'\x63\0' + open_a[2:],
           'wrong length': open_a[:4] + struct.pack('<I', 1 << 30) + open_a[8:],
           'a reply': wire.encode('done', 3, {}),
           'a long string': open_a[:16] + struct.pack('<I', 0xffffffff) + open_a[20:],
           'NUL in a name': wire.encode('open', 2, {'model': b'a\0b'}),
           'no UTF-8': wire.encode('open', 2, {'model': b'\xff'}),
           'a name over its bound': wire.encode('open', 2, {'model': 'x' * 256}), '60000 bytes': b'y' * 60000}
    for what, data in bad.items():
        for first in ([], [hello]):
            client = daemon.client(hello=False)
            try:
                for message in [*first, data]:
                    client.send_raw(message)
            except wire.Gone:
                pass
            ends(t, daemon, what, client)
    assert daemon.metric('trims_protocol_errors_total') >= len(bad)
    unharmed(t, daemon)


@test
def random_datagrams_never_hurt_the_daemon(t):
    t.model('a')
    daemon = t.daemon()
    good = [wire.encode(name, 7, {f: t.random.randrange(5) if kind != 'STR' else 'a' for kind, f in rows})
            for name, (_, rows) in wire.MESSAGES.items()]
    for _ in range(300):
        client = daemon.client(hello=t.random.random() < 0.7)
        try:
            for _ in range(t.random.randrange(1, 6)):
                data = bytearray(t.random.choice(good))
                for _ in range(t.random.randrange(3)):
                    data[t.random.randrange(len(data))] = t.random.randrange(256)
                client.send_raw(bytes(data[:t.random.randrange(1, len(data) + 1)] if t.random.random() < 0.2 else data))
        except wire.Gone:
            pass
        client.close()
    t.eventually(lambda: daemon.metric('trims_clients') <= 1, 'connections are gone')
    unharmed(t, daemon)


@test
def messages_in_the_wrong_order_end_the_connection(t):
    t.model('a')
    daemon = t.daemon()
    early = daemon.client(hello=False)
    early.send('open', model='a')
    ends(t, daemon, 'open before hello', early)
    twice = daemon.client()
    twice.send('hello', version_min=1, version_max=1, program='again')
    ends(t, daemon, 'a second hello', twice)
    future = daemon.client(hello=False)
    t.equal(code_of(lambda: future.call('hello', version_min=77, version_max=99, program='x')), 'VERSION')
    assert future.gone()
    unharmed(t, daemon)


@test
def a_daemon_without_a_gpu_refuses_all_that_needs_one(t):
    t.model('a')
    daemon = t.daemon()
    client = daemon.client()
    uuid = 'GPU-00000000-0000-0000-0000-000000000000'
    for what, fields, code in (('attach', {'devices': uuid, 'exports': 3}, 'NO_TIER'),
                               ('verdict', {'good': 1}, 'BAD_REQUEST'),
                               ('claim', {'model': 'a', 'copy': 1, 'tier': 3, 'device': uuid}, 'NO_TIER'),
                               ('open', {'model': 'a', 'tier': 3}, 'NO_TIER'),
                               ('open', {'model': 'a', 'tier': 3, 'device': uuid}, 'NO_TIER'),
                               ('prefetch', {'model': 'a', 'tier': 3, 'device': uuid}, 'NO_TIER'),
                               ('evict', {'model': 'a', 'tier': 3, 'device': uuid}, 'NO_TIER'),
                               ('query', {'report': wire.REPORTS['links']}, 'UNSUPPORTED')):
        t.equal(code_of(lambda what=what, fields=fields: client.call(what, **fields)), code, (what, fields))
    unharmed(t, daemon)


@test
def descriptors_nobody_asked_for_end_the_connection_and_are_closed(t):
    t.model('a')
    daemon = t.daemon()
    unharmed(t, daemon)
    before = len(daemon.fds())
    with open('/dev/null', 'rb') as null:
        for count in (1, 3, 250):
            client = daemon.client()
            try:
                client.send('open', fds=[null.fileno()] * count, model='a')
            except wire.Gone:
                pass
            ends(t, daemon, f'{count} descriptors', client)
    t.eventually(lambda: len(daemon.fds()) <= before, 'the descriptors are closed')
    unharmed(t, daemon)


@test
def replayed_and_invented_numbers_are_refused(t):
    t.model('a')
    daemon = t.daemon()
    client, other = daemon.client(), daemon.client()
    mine = client.open('a')
    number = mine.opened['lease']
    for what, lease in (('invented', number + 1000), ("another's", number), ('zero', 0)):
        got = code_of(lambda lease=lease: other.call('file', lease=lease, path='config.json'))
        assert got == 'NO_LEASE', f'{what}: {got}'
    mine.close()
    client.send('close', lease=number)  # a second time: counted or ignored, never another's lease
    assert code_of(lambda: client.call('query', report=1, model='', cursor=0)) in ('', 'GONE', 'PROTOCOL')
    unharmed(t, daemon)


@test
def a_connection_may_hold_so_many_leases_and_no_more(t):
    t.model('a')
    daemon = t.daemon(max_leases_per_conn=5)
    client = daemon.client()
    leases = [client.open('a') for _ in range(5)]
    t.equal(code_of(lambda: client.open('a')), 'LIMIT')
    leases[0].close()
    client.open('a')
    daemon.client().open('a')


@test
def a_connection_may_have_so_many_requests_pending_and_no_more(t):
    t.model('a', 9 * MIB)
    server = remote.Server(t, t.models_dir)
    server.fault = lambda request: server.released.wait() and False
    daemon = t.daemon(sources=[server.url], max_pending_per_conn=4, stall_timeout='1h')
    client = daemon.client()
    requests = [client.open_send('a') for _ in range(4)]
    assert code_of(lambda: client.answer(client.open_send('a'))) in ('LIMIT', 'GONE')
    server.released.set()
    assert requests


def all_at_once(daemon, client, messages):
    """Has the daemon find these messages together, before any of its workers could do anything about one."""
    daemon.signal(signal.SIGSTOP)
    try:
        for name, request, fields in messages:
            client.send_raw(wire.encode(name, request, fields))
    finally:
        daemon.signal(signal.SIGCONT)


@test
def the_late_answer_to_a_request_that_was_cancelled_is_nobody_elses(t):
    t.model('a', files={'one.json': b'1', 'two.json': b'22'})
    daemon = t.daemon()
    client = daemon.client()
    lease = client.open('a').opened['lease']
    two = ('file', 7, {'lease': lease, 'path': 'two.json'})
    for first in (('file', 7, {'lease': lease, 'path': 'one.json'}), ('verify', 7, {'model': 'a'})):
        all_at_once(daemon, client, [first, ('cancel', 8, {'target': 7}), two])
        t.equal(code_of(lambda: client.answer(7)), 'CANCELLED')
        name, request, fields, fds = client.receive()
        t.equal((name, request, fields['bytes']), ('filed', 7, 2))
        t.equal(os.pread(fds[0], 9, 0), b'22')
        os.close(fds[0])


@test
def cancelled_requests_count_until_their_work_has_ended(t):
    t.model('a')
    daemon = t.daemon(max_pending_per_conn=4)
    client = daemon.client()
    ask = {'lease': client.open('a').opened['lease'], 'path': 'config.json'}
    all_at_once(daemon, client, [row for i in range(6) for row in (
        ('file', 100 + i, ask), ('cancel', 200 + i, {'target': 100 + i}))])
    t.equal([code_of(lambda i=i: client.answer(100 + i)) for i in range(6)], ['CANCELLED'] * 4 + ['LIMIT'] * 2)
    t.eventually(lambda: code_of(lambda: client.call('file', **ask)) == '', 'there is room again')


@test
def connections_are_bounded_in_all(t):
    t.model('a')
    daemon = t.daemon(max_conns=4)
    clients = [daemon.client() for _ in range(4)]
    t.equal(code_of(daemon.client) or 'served', 'TOO_MANY_CONNS')
    clients[0].close()
    t.eventually(lambda: code_of(daemon.client) == '', 'there is room again')


@test
def connections_leave_descriptors_for_the_models(t):
    t.model('a')
    daemon = t.daemon(wrapper=['prlimit', '--nofile=96:96'])
    first, others = daemon.client(), []
    while len(others) < 96:
        try:
            others.append(daemon.client())
        except wire.Fault as fault:
            t.equal(fault.code, 'TOO_MANY_CONNS')
            break
    assert 10 < len(others) < 90, len(others)
    first.open('a').wait()
    assert 'Too many open files' not in daemon.log()
    for client in others:
        client.close()
    t.eventually(lambda: not code_of(daemon.client), 'there is room again')


@test
def a_client_that_is_dropped_again_and_again_does_not_fill_the_log(t):
    t.model('a')
    daemon, began = t.daemon(), time.monotonic()
    for _ in range(300):
        client = daemon.client(hello=False)
        client.send_raw(b'x')
        ends(t, daemon, 'one byte', client)
        client.close()
    t.equal(daemon.metric('trims_connections_dropped_total', reason='protocol'), 300)
    lines = re.findall(r'dropped: a malformed message', daemon.log())
    most = 20 * (2 + (time.monotonic() - began) // 10)  # twenty in ten seconds
    assert 20 <= len(lines) <= most, (len(lines), most)
    assert len(lines) == 300 or 'more are left out' in daemon.log(), daemon.log()
    unharmed(t, daemon)


@test
def a_client_that_never_reads_is_dropped_and_delays_nobody(t):
    t.model('a')
    daemon = t.daemon()
    unharmed(t, daemon)
    before = daemon.metric('trims_clients')
    deaf, other = daemon.client(), daemon.client()
    try:
        while deaf.request < 20000:
            deaf.send('query', report=1, model='', cursor=0)
            if deaf.request % 50 == 0:
                other.open('a').close()
        raise AssertionError(f'{deaf.request} answers are unread')
    except wire.Gone:
        pass
    other.open('a').close()
    t.eventually(lambda: daemon.metric('trims_connections_dropped_total', reason='slow-reader') == 1, 'it is dropped')
    deaf.close()
    t.eventually(lambda: daemon.metric('trims_clients') <= before + 1, 'it is gone')
    unharmed(t, daemon)


NOBODY = 65534


def daemon_of_a_user(t, nofile, **options):
    """A daemon that the kernel's bound on descriptors in flight holds for, which it does not for root's.  That bound is
    its limit on open files, and counts what the user's processes sent and nobody has read."""
    wrapper, program = ['prlimit', f'--nofile={nofile}:{nofile}'], trimstest.MRM
    if os.getuid() == 0:
        program = t.dir / 'mrm'
        shutil.copy(trimstest.MRM, program)  # the build folder may be closed to others
        wrapper += ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups']
        (t.dir / 'cache').mkdir()
        for path in (t.dir, t.dir / 'cache'):
            os.chown(path, NOBODY, NOBODY)
    before = os.umask(0)  # so that it reaches the notify socket
    try:
        return t.daemon(wrapper=wrapper, program=program, socket_mode='0666', **options)
    finally:
        os.umask(before)


def never_reads(client, count):
    """Sends so many OPENs at most; returns how many went out before the daemon had enough."""
    client.socket.setblocking(False)
    for sent in range(count):
        try:
            client.open_send('a')
        except (BlockingIOError, wire.Gone):
            return sent
    return count


@test
def unread_descriptors_of_one_client_never_hit_another(t):
    t.model('a')
    daemon = daemon_of_a_user(t, 1024, max_leases_per_conn=100000)
    unharmed(t, daemon)
    deaf = [daemon.client() for _ in range(4)]
    for client in deaf:
        assert never_reads(client, 400) > 10
        for _ in range(5):
            other = daemon.client()
            other.open('a').close()
            other.close()
    t.equal(daemon.metric('trims_connections_dropped_total', reason='system'), 0, 'others that were dropped')
    t.eventually(lambda: daemon.metric('trims_connections_dropped_total', reason='slow-reader') == 4, 'they are dropped')
    assert daemon.metric('trims_replies_held_total') >= 4
    assert 'wire.py' in daemon.log() and 'does not read its answers' in daemon.log()
    for client in deaf:  # what was on the way is there, and behind it the reason
        client.socket.settimeout(PATIENCE)
        t.equal(code_of(lambda client=client: client.answer(-1)), 'LIMIT')
        assert client.gone()


@test
def who_reads_late_gets_every_answer_in_order(t):
    t.model('a')
    daemon = daemon_of_a_user(t, 1024)
    unharmed(t, daemon)
    client = daemon.client()
    requests = [client.open_send('a') for _ in range(120)]  # three descriptors each: more than may be unread
    t.eventually(lambda: daemon.metric('trims_replies_held_total') >= 1, 'answers are held back')
    for request in requests:
        t.equal(client.open_answer(request).opened['hit'], 1)
    t.equal(daemon.metric('trims_leases'), 120)
    client.close()
    unharmed(t, daemon)


@test
def who_comes_again_without_ever_reading_runs_into_its_own_bound(t):
    t.model('a')
    daemon = daemon_of_a_user(t, 4096, max_conns=12, max_leases_per_conn=100000)
    unharmed(t, daemon)
    deaf = []
    for _ in range(40):
        try:
            deaf.append(daemon.client())
        except wire.Fault as fault:
            t.equal(fault.code, 'TOO_MANY_CONNS')
            break
        never_reads(deaf[-1], 400)
    assert 8 <= len(deaf) <= 12, len(deaf)  # dropped, but what it left unread is still there
    for client in deaf:
        client.close()
    t.eventually(lambda: code_of(daemon.client) == '', 'there is room again')
    unharmed(t, daemon)


@test
def a_slow_client_never_delays_another(t):
    t.model('a')
    t.model('b', 9 * MIB)
    server = remote.Server(t, t.models_dir)
    daemon = t.daemon(sources=[server.url], stall_timeout='1h')
    daemon.client().open('a')
    server.fault = remote.stall()
    slow = [daemon.client() for _ in range(50)]
    for client in slow:
        client.open_send('b')
    assert server.reached.wait(PATIENCE)
    quick = daemon.client()
    for _ in range(50):
        t.equal(quick.open('a').opened['hit'], 1)


@test
def deadlines_and_only_if_there_are_kept(t):
    t.model('a', 9 * MIB)
    server = remote.Server(t, t.models_dir)
    server.fault = lambda request: server.released.wait() and False
    daemon = t.daemon(sources=[server.url], stall_timeout='1h')
    client = daemon.client()
    t.equal(code_of(lambda: client.open('a', deadline_ns=50000000)), 'TIMED_OUT')
    server.released.set()
    server.fault = None
    assert code_of(lambda: client.open('a', flags=1)) in ('NOT_FOUND', 'BUSY', 'NO_ROOM', 'NO_TIER'), 'only if there'
    client.open('a').close()
    client.open('a', flags=1)


@test
def only_those_who_may_change_things_do(t):
    if os.getuid() != 0:
        from trimstest import Skip
        raise Skip('needs root, to become somebody else')
    t.model('a')
    t.dir.chmod(0o755)
    daemon = t.daemon(socket_mode='0666')
    unharmed(t, daemon)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            client = wire.Client(daemon.socket)
            client.open('a')  # reading is open to whoever may connect
            denied = all(code_of(lambda name=name: client.call(name, model='a')) == 'DENIED'
                         for name in ('pin', 'unpin', 'evict', 'verify', 'profile'))
            os._exit(0 if denied else 3)
        except BaseException as e:  # pylint: disable=broad-except
            print(f'# {e!r}', flush=True)
            os._exit(4)
    t.equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    unharmed(t, daemon)


main()

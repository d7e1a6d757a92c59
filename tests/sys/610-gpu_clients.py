"""Clients of models on a GPU: what they share, from inside other namespaces, and what happens to them when somebody dies.
On simulated devices, where SIMCUDA_DIR stands for /dev/nvidia*; with TRIMS_GPU_DRIVER on real ones."""
import mmap
import os
import re
import shutil
import subprocess

import models
import remote
import wire
from gpubench import Bench, calls
from gpuclient import CLIENT, DRIVER, EXPORTS, MIB, Client, Machine, sums_of
from keeper import leave_no_helper, until_kept
from trimstest import BUILD, CTL, PATIENCE, Skip, main, program_environment, run, simulated_only, test

# ---- sharing ----

# A root of its own: programs, the socket, the devices' folder, and nothing else of this machine.
CONTAINER = '''set -e
mount -t tmpfs none "$ROOT"
cd "$ROOT"
mkdir usr image run devices proc tmp
for link in lib lib64 bin; do ln -s usr/$link $link; done
mount --rbind /usr usr
mount --rbind "$IMAGE" image
mount --bind "$DEVICES" devices
touch run/mrm.sock topology
mount --bind "$SOCKET" run/mrm.sock
mount --bind "$TOPOLOGY" topology
mount -t proc proc proc
exec chroot . /usr/bin/env -i LD_LIBRARY_PATH=/image SIMCUDA=/topology SIMCUDA_DIR=/devices \\
    TRIMS_CUDA_DRIVER=/image/libsimcuda.so /image/gpu_client /run/mrm.sock'''


def isolated(machine, uid):
    """A client as that user, in user, PID, network, IPC and mount namespaces of its own."""
    simulated_only('what of a real driver belongs into a container is its toolkit\'s business')
    t = machine.t
    if os.environ.get('TRIMS_SANITIZE', 'none') != 'none':
        raise Skip("a sanitizer's runtime is not in the container")
    if os.geteuid() != 0 or not shutil.which('setpriv'):
        raise Skip('becoming another user needs root')
    image, root = t.dir / 'image', t.dir / 'root'
    image.mkdir()
    root.mkdir()
    for program in (CLIENT, DRIVER, BUILD / 'client/libtrims.so.0'):
        shutil.copy(program, image)
    os.chmod(t.dir, 0o755)
    command = ['setpriv', f'--reuid={uid}', f'--regid={uid}', '--clear-groups', 'unshare', '--user', '--mount', '--pid', '--net',
               '--ipc', '--map-root-user', '--fork', '--kill-child']
    probe = subprocess.run([*command, 'true'], stderr=subprocess.PIPE, check=False)
    if probe.returncode:
        raise Skip(f'no namespaces here: {probe.stderr.decode().strip()}')
    environment = program_environment(ROOT=str(root), IMAGE=str(image), DEVICES=str(machine.state),
                                      SOCKET=machine.daemon.socket, TOPOLOGY=machine.environment['SIMCUDA'])
    return Client(t, [*command, 'sh', '-c', CONTAINER], environment)


def shares_from_inside(t, machine, uid):
    want = sums_of(t.model('a', 6 * MIB))
    near, far = machine.client(), isolated(machine, uid)
    copy = near.ok('open a').split()
    t.equal(near.sums(), want)
    held = machine.held()
    t.equal(far.ok('open a').split()[:2], copy[:2], 'the same copy')
    t.equal(far.sums(), want)
    t.equal(machine.held(), held, 'device memory')
    near.ok('close')
    t.equal(far.sums(), want)
    far.ok('private 1')


@test
def another_user_in_other_namespaces_shares_device_memory_by_descriptors(t):
    shares_from_inside(t, Machine(t, gpu_export='vmm-fd', socket_mode='0666'), 65534)


@test
def the_same_user_in_other_namespaces_shares_device_memory_by_ipc_handles(t):
    shares_from_inside(t, Machine(t, gpu_export='cuda-ipc'), 0)


@test
def another_user_is_told_that_ipc_handles_are_not_for_him(t):
    t.model('a')
    answer = isolated(Machine(t, gpu_export='cuda-ipc', socket_mode='0666'), 65534).ask('open a')
    assert answer.startswith('error UNSUPPORTED') and 'NOT_PERMITTED' in answer, answer


@test
def a_copy_is_one_however_many_use_it(t):
    want = sums_of(t.model('a', 6 * MIB))
    for export in EXPORTS:
        machine = Machine(t, gpu_export=export)
        clients = [machine.client() for _ in range(4)]
        clients[0].ok('open a')
        held = machine.held()
        for c in clients:
            c.ok('open a')
        t.equal(machine.held(), held, 'device memory')
        for c in clients:
            c.ok('private 1')
        assert machine.held() > held, 'private copies are counted'
        for c in clients:
            t.equal(c.sums(), want)
            c.ok('close')
        t.equal(machine.held(), held, 'device memory after all have closed')
        t.equal(machine.ctl('evict', 'a', '--tier', 'gpu').rc, 0)
        t.eventually(lambda m=machine, h=held: m.held() < h, 'the memory is free')
        machine.daemon.stop()


@test
def tools_open_models_on_devices(t):
    simulated_only('it takes two devices that nobody else uses')
    tensors = t.model('a', 2 * MIB)
    machine = Machine(t, devices=2)
    name = next(n for n, row in tensors.items() if row[2])
    uuids = set()
    for _ in range(2):
        got = machine.ctl('open', 'a', '--tier', 'gpu', '--json').json
        t.equal((got['tier'], got['export'], got['simulated']), ('gpu', 'vmm-fd', True))
        uuids.add(got['device'])
    t.equal(len(uuids), 1, 'devices of one model')
    t.equal(machine.ctl('cat', 'a', name, '--tier', 'gpu').raw, tensors[name][2])
    (uuid,) = uuids
    (other,) = set(machine.uuids()) - uuids
    got = machine.ctl('open', 'a', '--tier', 'gpu', '--device', other, '--json')
    t.equal((got.rc, got.json['device']), (0, other))
    t.equal(machine.ctl('cat', 'a', name, '--tier', 'gpu', '--device', other).raw, tensors[name][2])
    nowhere = machine.ctl('open', 'a', '--tier', 'gpu', '--device', uuid[:-4] + 'ffff')
    t.equal(nowhere.rc, 1)
    assert 'no device' in nowhere.err, nowhere
    got = run(CTL, '--socket', machine.daemon.socket, 'open', 'a', '--tier', 'gpu', TRIMS_CUDA_DRIVER='/nowhere')
    t.equal(got.rc, 1)
    assert '/nowhere' in got.err, got


@test
def tools_mean_one_device_or_all(t):
    simulated_only('it takes two devices that nobody else uses')
    t.model('a', 2 * MIB)
    machine = Machine(t, devices=2)
    one, two = machine.uuids()

    def tell(*words):
        got = machine.ctl(*words)
        t.equal(got.rc, 0, got)
        return got.out

    def resident(uuid):
        return machine.ctl('open', 'a', '--tier', 'gpu', '--device', uuid, '--resident').rc == 0

    tell('prefetch', 'a', '--tier', 'gpu', '--device', two)
    t.eventually(lambda: resident(two), 'it was fetched to the second device')
    assert not resident(one), 'and to no other'
    tell('pin', 'a', '--tier', 'gpu', '--device', one)
    t.eventually(lambda: resident(one), 'it is pinned on the first')
    t.equal(machine.ctl('unpin', 'a', '--tier', 'gpu', '--device', two).rc, 1, 'nothing is pinned there')
    tell('evict', 'a', '--tier', 'gpu', '--device', two)
    t.eventually(lambda: not resident(two), 'it left the second')
    assert resident(one), 'and no other'
    tell('unpin', 'a', '--tier', 'gpu', '--device', one)
    tell('evict', 'a', '--tier', 'gpu')
    t.eventually(lambda: not resident(one), 'it left every device')
    for verb in ('prefetch', 'pin', 'unpin', 'evict'):
        wrong = machine.ctl(verb, 'a', '--tier', 'host', '--device', one)
        assert wrong.rc == 1 and 'tier gpu only' in wrong.err, wrong
        nowhere = machine.ctl(verb, 'a', '--tier', 'gpu', '--device', one[:-4] + 'ffff')
        assert nowhere.rc == 1 and 'no GPU of that UUID' in nowhere.err, nowhere


# What has a number and the word in it, and is neither a measurement nor anything like one.
NO_FIGURES = re.compile(r'kind="real"|error="GPU_ERROR"|^gpu(-[a-z]+)? +=|^# |^  on GPU-')


@test
def every_figure_of_a_simulated_device_says_so(t):
    simulated_only('real ones are none')
    t.model('a', 9 * MIB)
    machine = Machine(t)
    often = ['--count', '2', '--interval', '10ms']
    for command in (['open', 'a', '--tier', 'gpu'], ['pull', 'a', '--tier', 'gpu'], ['ls'], ['show', 'a'], ['verify', 'a'],
                    ['trace', 'a'], ['links', *often], ['doctor'], ['top', *often], ['stat'], ['stat', '--prometheus']):
        got = machine.ctl(*command)
        t.equal(got.rc, 0, got)
        out = got.out.replace(str(t.dir.parent), '').replace(str(BUILD), '')  # they may be called anything
        lines = [line for line in out.splitlines() if re.search('gpu|^a ', line, re.I) and re.search(r'\d|ready', line) and
                 not NO_FIGURES.search(line)]
        assert lines and all('simulated' in line for line in lines), (command, lines)
    for row in machine.ctl('stat', '--prometheus').out.splitlines():
        assert 'simulated' in row or not row.startswith('trims_open_seconds'), row
    for command in (['open', 'a', '--tier', 'gpu'], ['links'], ['stat']):
        t.equal(machine.ctl(*command, '--json').json['simulated'], True, command)
    for row in machine.ctl('top', *often, '--json').out.splitlines():
        assert '"simulated":true' in row, row
    t.equal([row['simulated'] for row in machine.ctl('verify', 'a', '--json').json['copies'] if row['tier'] == 'gpu'], [True])
    t.equal(machine.ctl('ls', '--json').json['models'][0]['tiers']['gpu']['simulated'], True)
    checks = [row['detail'] for row in machine.ctl('doctor', '--json').json['checks'] if row['name'].startswith('gpu')]
    assert checks and all('simulated' in row for row in checks), checks


# ---- deaths ----

def loading(t, **options):
    """A machine, and a server from which the bytes of a model `slow` stop coming half way."""
    root = t.dir / 'remote'
    models.make(root / 'slow', t.random, 24 * MIB)
    server = remote.Server(t, root)

    def stall(request):
        request.begin_file()
        request.wfile.flush()
        server.released.wait()
        request.reset()
    server.fault = remote.limited(1 << 30, stall, beyond=1)
    return Machine(t, sources=[f'dir:{t.models_dir}', server.url], stall_timeout='1h', **options), server


@test
def a_client_killed_while_its_model_loads_costs_nothing(t):
    t.model('a')
    machine, server = loading(t)
    machine.ctl('open', 'a', '--tier', 'gpu') # the canary is there
    before = machine.held()
    client = machine.client()
    client.ok('open slow now')
    t.equal(client.ok('stream'), 'gpu')
    assert machine.held() >= before + 24 * MIB
    assert server.reached.wait(PATIENCE)
    client.kill()
    daemon = machine.daemon
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'the lease is back')
    t.eventually(lambda: daemon.metric('trims_loads_total', result='cancelled') >= 1, 'the load is cancelled')
    t.equal(machine.ctl('evict', 'slow').rc, 0) # what is half full is kept for who comes next, but needed by nobody
    t.eventually(lambda: machine.held() == before, 'the memory is free')


@test
def a_failed_load_lets_streams_go_and_says_why(t):
    machine, server = loading(t)
    clients = [machine.client() for _ in range(2)]
    for c in clients:
        c.ok('open slow now')
        t.equal(c.ok('stream'), 'gpu')
        c.say('sync')
    assert server.reached.wait(PATIENCE)
    server.fault = remote.status(404)
    server.released.set()
    for c in clients:
        answer = c.answer()
        assert answer.startswith('error ') and 'DISCONNECTED' not in answer, answer


@test
def a_daemon_killed_leaves_computing_clients_alone(t):
    want = sums_of(t.model('a', 6 * MIB))
    machine, server = loading(t)
    ready, waiting = machine.client(), machine.client()
    ready.ok('open a')
    t.equal(ready.sums(), want)
    waiting.ok('open slow now')
    t.equal(waiting.ok('stream'), 'gpu')
    waiting.say('sync')
    assert server.reached.wait(PATIENCE)
    machine.daemon.kill()
    assert waiting.answer().startswith('error DISCONNECTED'), 'the stream is let go'
    t.equal(ready.sums(), want, 'bytes without a daemon')
    assert ready.ask('open a').startswith('error DISCONNECTED')


@test
def a_daemon_come_back_is_told_what_is_still_in_use(t):
    want = sums_of(t.model('a', 6 * MIB))
    machine = Machine(t)
    client = machine.client()
    client.ok('open a')
    machine.daemon.kill()
    t.equal(client.ok('state'), 'leased=0')
    t.equal(client.sums(), want)
    machine.daemon.start()
    client.ok('reconnect')
    t.equal(client.ok('state'), 'leased=0', 'nobody kept the memory for this daemon')
    t.equal(client.sums(), want)
    client.ok('open a')
    t.equal(client.ok('state'), 'leased=1')
    t.equal(client.sums(), want)


@test
def a_daemon_that_got_the_memory_back_gives_the_lease_back(t):
    want = sums_of(t.model('a', 6 * MIB))
    machine = Machine(t, keep_fds='helper')
    leave_no_helper(t, machine.daemon)
    client = machine.client()
    copy = client.ok('open a').split()[0]
    until_kept(t, machine.daemon, 2) # on host and device
    machine.daemon.kill()
    held = machine.held()
    t.equal(client.sums(), want, 'bytes without a daemon')
    machine.daemon.start()
    client.ok('reconnect')
    t.equal(client.ok('state'), 'leased=1')
    t.equal(client.sums(), want)
    other = machine.client()
    t.equal(other.ok('open a').split(), [copy, 'vmm-fd', '1'], 'a hit on the very same copy')
    t.equal(other.sums(), want)
    assert machine.held() <= held + 2 * MIB, 'there is a new canary, but no second copy'
    t.equal(machine.daemon.metric('trims_leases'), 2)
    for c in (client, other):
        c.ok('close')
    t.eventually(lambda: machine.daemon.metric('trims_leases') == 0, 'both leases go back')


@test
def ipc_memory_ends_with_the_daemon(t):
    want = sums_of(t.model('a', 6 * MIB))
    machine = Machine(t, gpu_export='cuda-ipc')
    client = machine.client()
    client.ok('open a')
    t.equal(client.sums(), want)
    machine.daemon.kill()
    t.eventually(lambda: client.ask('sums').startswith('error DISCONNECTED'), 'it is told')


@test
def a_stream_that_waits_for_ipc_memory_is_let_go_when_that_ends(t):
    want = sums_of(t.model('a', 6 * MIB))
    machine, server = loading(t, gpu_export='cuda-ipc')
    waiting = [machine.client() for _ in range(2)]
    for client in waiting:
        t.equal(client.ok('open slow now').split()[1], 'cuda-ipc')
        t.equal(client.ok('stream'), 'gpu')
        client.say('sync')
    assert server.reached.wait(PATIENCE)
    machine.daemon.kill()
    for client in waiting:
        assert client.answer().startswith('error DISCONNECTED'), 'the stream is let go'
        assert client.ask('sums').startswith('error DISCONNECTED'), 'nothing reads what is gone'
    machine.daemon.start()
    for client in waiting:
        client.ok('reconnect')
        t.equal(client.ok('state'), 'leased=0')
        client.ok('open a')
        t.equal(client.sums(), want)


# ---- a client that cheats ----

UUID = 'GPU-00000000-0000-0000-0000-000000000000'


def fault_of(call):
    try:
        call()
    except wire.Fault as fault:
        return fault.code
    return None


@test
def attaching_out_of_order_is_refused_in_words(t):
    simulated_only('wire.py claims to have the simulated driver')
    t.model('a')
    machine = Machine(t)
    uuid = machine.ctl('open', 'a', '--tier', 'gpu', '--json').json['device']
    client = machine.daemon.client()
    t.equal(fault_of(lambda: client.call('open', model='a', tier=3)), 'BAD_REQUEST', 'open before attach')
    t.equal(fault_of(lambda: client.call('verdict', good=1)), 'BAD_REQUEST', 'verdict before attach')
    t.equal(fault_of(lambda: client.call('claim', model='a', copy=1, tier=3, device=uuid)), 'BAD_REQUEST')
    for devices in ('', ',', UUID, ',' * 2000, 'x' * 2048):
        t.equal(fault_of(lambda d=devices: client.call('attach', devices=d, exports=3, simulated=1)), 'NO_TIER', devices)
    t.equal(fault_of(lambda: client.call('attach', devices=uuid, exports=3, simulated=0)), 'NO_TIER', 'a real driver')
    t.equal(fault_of(lambda: client.call('attach', devices=uuid, exports=0, simulated=1)), 'UNSUPPORTED', 'imports nothing')
    first = client.send('attach', devices=uuid, exports=3, simulated=1)
    canary = client.answer(first)
    for fd in canary['fd_list']:
        os.close(fd)
    t.equal(fault_of(lambda: client.call('attach', devices=uuid, exports=3, simulated=1)), 'BAD_REQUEST', 'twice')
    t.equal(fault_of(lambda: client.call('verdict', good=1)), 'BAD_REQUEST', 'with another number')
    client.send('cancel', target=first)
    t.equal(fault_of(lambda: client.answer(first)), 'CANCELLED')
    attached = attach(client, uuid, lambda canary: (1, ''))
    os.close(attached['fd_list'][0])
    again = attach(client, uuid, lambda canary: (0, 'nobody asks'))
    t.equal([again[name] for name in ('export', 'slots')], [attached[name] for name in ('export', 'slots')], 'when attached')
    os.close(again['fd_list'][0])
    t.equal(fault_of(lambda: client.call('open', model='a', tier=3, device=UUID)), 'NO_TIER')
    t.equal(fault_of(lambda: client.call('claim', model='a', copy=99, tier=3, device=uuid)), 'NO_LEASE')
    t.equal(fault_of(lambda: client.call('claim', model='a', copy=1, tier=1, device='')), 'BAD_REQUEST')
    assert client.call('open', model='a', tier=3)['export'] == 1
    machine.daemon.client().open('a')


def attach(client, uuid, verdict):
    """Answers canaries as verdict(fields) says, until something else comes."""
    request = client.send('attach', devices=uuid, exports=3, simulated=1)
    while True:
        fields = client.answer(request)
        if 'seed' not in fields:
            return fields
        good, text = verdict(fields)
        for fd in fields['fd_list']:
            os.close(fd)
        client.send_raw(wire.encode('verdict', request, {'good': good, 'text': text}))


@test
def a_device_that_a_client_cannot_import_from_is_left_to_others(t):
    simulated_only('wire.py claims to have the simulated driver')
    t.model('a')
    machine = Machine(t, devices=2)
    first, second = machine.uuids()
    client = machine.daemon.client()
    tried = []

    def attach_to(good, *devices):
        def verdict(canary):
            tried.append(canary['device'])
            return good, '' if good else 'wrong bytes'
        (fd,) = attach(client, ','.join(devices), verdict)['fd_list']
        page = os.fstat(fd).st_ino
        os.close(fd)
        return page

    def opened(device=''):
        lease = client.call('open', model='a', tier=3, device=device)
        for fd in lease['fd_list']:
            os.close(fd)
        return lease['device']
    page = attach_to(1, second, first)
    t.equal(tried.pop(), second, 'the one that is named first')
    t.equal(fault_of(lambda: attach_to(0, first)), 'UNSUPPORTED')
    t.equal(tried.pop(), first)
    t.equal(opened(), second, 'any device')
    t.equal(fault_of(lambda: opened(first)), 'NO_TIER')
    t.equal(attach_to(1, first), page, "the session's page")
    t.equal(opened(first), first)
    tried.clear()
    attach_to(0, first)
    attach_to(0, second)
    t.equal(tried, [], 'canaries, with both on record')


@test
def each_device_is_tried_before_its_memory_is_believed(t):
    bench = Bench(t, topology='device bytes=64M context=1M\n' * 2)
    daemon = bench.daemon()
    devices = bench.uuids(daemon)

    def imports_of(*opens):
        folder = t.dir / f'counts.{len(list(t.dir.iterdir()))}'
        folder.mkdir()
        client = bench.puppet(daemon, SIMCUDA_COUNT=str(folder))
        made = []
        for name, device in opens:
            client('open', name, 'wait', device)
            counts = calls(folder)
            made.append((counts['cuMemImportFromShareableHandle'], counts['cuDevicePrimaryCtxRetain']))
        client.end()
        return made
    here, there = devices[1], devices[0]
    t.equal(imports_of(('a', here), ('b', here), ('a', there), ('b', there)), [(2, 1), (3, 1), (5, 2), (6, 2)])
    t.equal(imports_of(('a', here), ('a', there)), [(1, 1), (2, 2)], 'of the next process')


@test
def a_spoiled_canary_is_nobody_elses_trouble(t):
    simulated_only('a real canary cannot be spoiled through its descriptor')
    want = sums_of(t.model('a'))
    machine = Machine(t)
    uuid = machine.ctl('open', 'a', '--tier', 'gpu', '--json').json['device']
    seeds = []

    def spoil(fields):
        seeds.append(fields['seed'])
        with mmap.mmap(fields['fd_list'][1], fields['bytes']) as memory: # the simulated driver's descriptors are files
            memory[:64] = bytes(64)
        return 0, 'wrong bytes'

    t.equal(fault_of(lambda: attach(machine.daemon.client(), uuid, spoil)), 'UNSUPPORTED')
    t.equal(len(set(seeds)), 2, 'canaries offered')
    client = machine.client()
    client.ok('open a')
    t.equal(client.sums(), want)


@test
def clients_that_vanish_while_attaching_leave_nothing(t):
    simulated_only('wire.py claims to have the simulated driver')
    t.model('a')
    machine = Machine(t)
    uuid = machine.ctl('open', 'a', '--tier', 'gpu', '--json').json['device']
    daemon = machine.daemon
    before = len(daemon.fds())
    for step in range(20):
        client = daemon.client()
        request = client.send('attach', devices=uuid, exports=3, simulated=1)
        if step % 2:
            for fd in client.answer(request)['fd_list']:
                os.close(fd)
        if step % 4 == 3:
            client.send_raw(wire.encode('verdict', request, {'good': step % 8 == 3, 'text': ''}))
        client.close()
    t.eventually(lambda: daemon.metric('trims_clients') <= 1, 'all are gone')
    t.eventually(lambda: len(daemon.fds()) <= before + 2, 'no descriptor is left')


main()

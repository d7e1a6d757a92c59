"""Clients of models that were loaded by a plan: libtrims reads on the host what the device has not, and nobody can tell by the bytes.
Tensors 1 to 5 of a model (0 is empty) are of 8 MiB each, so each has a chunk of its own."""
import json

from gpuclient import MIB, Machine, sums_of
from keeper import leave_no_helper, until_kept
from trimstest import main, simulated_only, test

DEVICE = 'bytes=128M context=1M'
# Room for the part (28 MiB), canaries and what clients need, and not for the rest: a part that is used grows where it can.
REGISTERS = 'bytes=43M context=1M attr.READ_ONLY_REGISTER=1'
ROOMY = DEVICE + ' attr.READ_ONLY_REGISTER=1'
SHARES = 'bytes=43M context=1M'  # attribute 113 is 0 and 141 is 1
NO_WAY = DEVICE + ' attr.HOST_NUMA_VMM=0'
WHOLE = 40 * MIB
HOST = ('layer.0.weight', 'layer.3.weight')  # numbers 1 and 4
PLAN = 'host=1,4'


def machine(t, device=REGISTERS, **options):
    simulated_only('what a driver registers cannot be chosen')
    return Machine(t, device=device, **{'host_bytes': '256M', **options})


def right(t, client, tensors, where, what=''):
    """All bytes, by the CPU and by the device, and where those tensors are that the plan left out."""
    want = sums_of(tensors)
    t.equal(client.each('device_sums'), want, f'{what}: what the device reads')
    t.equal(client.sums(), want, f'{what}: what is read back')
    t.equal(client.each('places'), {name: where if name in HOST else 'local' for name in tensors}, what)


def device_bytes(client):
    return int(client.each('counts')['device'])


@test
def what_a_plan_leaves_on_the_host_is_read_there(t):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t)
    client = m.client()
    client.ok(f'open a {PLAN}')
    right(t, client, tensors, 'direct')
    t.equal(client.each('counts')['direct'], '2')
    assert device_bytes(client) <= WHOLE - 8 * MIB, 'of two tensors all chunks but the outermost are left out'
    used = m.daemon.metric('trims_tier_used_bytes', tier='gpu')
    assert device_bytes(client) <= used < device_bytes(client) + 2 * MIB, 'only the last piece of the image is rounded up'


@test
def what_the_device_cannot_read_there_is_staged(t):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t, device=NO_WAY)
    client = m.client()
    client.ok(f'open a {PLAN}')
    right(t, client, tensors, 'staged')
    t.equal(client.each('counts')['staged'], '2')
    note = client.ok('note')
    assert note.startswith('dha-staged: ') and '113' in note and '141' in note, note
    client.ok('private 1')
    right(t, client, tensors, 'staged', 'after a private copy was written')
    client.ok('close')
    used = m.daemon.metric('trims_tier_used_bytes', tier='gpu')
    assert m.held() <= used + 6 * MIB, 'what was staged went with its client'  # a canary and contexts beside the copy


@test
def who_knows_of_no_plan_uses_the_copy_all_the_same(t):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t)
    one, other = m.client(), m.client()
    copy = one.ok(f'open a {PLAN}').split()[0]
    t.eventually(lambda: m.daemon.metric('trims_transfers_active') == 0, 'the copy on the host, of which all has arrived, is done')
    t.equal(other.ok('open a').split(), [copy, 'vmm-fd', '1'])
    for client in (one, other):
        right(t, client, tensors, 'direct')
    one.kill()
    right(t, other, tensors, 'direct', 'after the other one was killed')


@test
def handles_are_no_worse_than_descriptors(t):
    tensors = t.model('a', WHOLE, count=5)
    client = machine(t, gpu_export='cuda-ipc').client()
    t.equal(client.ok(f'open a {PLAN}').split()[1], 'cuda-ipc')
    right(t, client, tensors, 'direct')


def arrives(t, device, where, **options):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t, device=device, **options)
    client = m.client()
    client.ok(f'open a now load=5,3 {PLAN}')
    client.ok('wait 4')
    client.ok('wait 5')
    client.ok('stream')
    client.ok('sync')
    right(t, client, tensors, where)
    m.daemon.stop()


@test
def bytes_that_arrive_are_waited_for_on_both_tiers(t):
    arrives(t, REGISTERS, 'direct')


@test
def bytes_that_are_staged_are_waited_for_as_well(t):
    arrives(t, NO_WAY, 'staged')


@test
def bytes_that_are_shared_are_waited_for_as_well(t):
    arrives(t, SHARES, 'numa')
    arrives(t, NO_WAY, 'trusted', direct_trusted='self')


@test
def a_daemon_killed_leaves_both_parts(t):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t, device=ROOMY)  # the next daemon counts what clients hold as taken
    client = m.client()
    client.ok(f'open a {PLAN}')
    m.daemon.kill()
    right(t, client, tensors, 'direct', 'without a daemon')
    t.equal(client.ok('state'), 'leased=0')
    m.daemon.start()
    client.ok('reconnect')
    right(t, client, tensors, 'direct', 'with the next daemon')
    client.ok('close')
    client.ok(f'open a {PLAN}')
    right(t, client, tensors, 'direct', 'opened again')


@test
def both_leases_come_back_with_the_memory(t):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t, device=ROOMY, keep_fds='helper')
    leave_no_helper(t, m.daemon)
    client = m.client()
    client.ok(f'open a {PLAN}')
    until_kept(t, m.daemon, 2)  # on host and device
    m.daemon.kill()
    m.daemon.start()
    client.ok('reconnect')
    t.equal(client.ok('state'), 'leased=1')
    right(t, client, tensors, 'direct', 'with the next daemon')
    t.equal(m.daemon.metric('trims_leases'), 2)
    t.eventually(lambda: m.daemon.log().count('a: checked') == 2, 'what an earlier daemon has left is looked at')
    other = m.client()
    t.equal(other.ok('open a').split()[1:], ['vmm-fd', '1'], 'a hit, perhaps on a copy that has grown')
    t.equal(other.sums(), sums_of(tensors))


@test
def who_holds_a_part_keeps_it_while_it_grows(t):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t, device=ROOMY)
    one, other = m.client(), m.client()
    part = one.ok(f'open a {PLAN}').split()[0]
    t.eventually(lambda: other.ok('open a').split()[0] != part, 'the copy grows')
    t.equal(other.sums(), sums_of(tensors))
    t.equal(set(other.each('places').values()), {'local'})
    right(t, one, tensors, 'direct', 'of who came before')


@test
def leases_on_both_tiers_go_with_their_client(t):
    t.model('a', WHOLE, count=5)
    m = machine(t)
    client = m.client()
    client.ok(f'open a {PLAN}')
    leased = {row['tier']: row['leased'] for row in m.daemon.json('doctor')['tiers']}
    assert leased['host'] >= WHOLE and leased['gpu'] > 0, leased
    client.kill()
    t.eventually(lambda: not any(row['leased'] for row in m.daemon.json('doctor')['tiers']), 'both leases end')


def leased_on_host(daemon):
    return next(row['leased'] for row in daemon.json('doctor')['tiers'] if row['tier'] == 'host')


def shared(daemon, way):
    return (daemon.metric('trims_direct_bytes', way=way), daemon.metric('trims_direct_opens_total', way=way))


def is_shared(t, m, where, way):
    """The whole life of memory in which devices read what they cannot register."""
    tensors = t.model('a', WHOLE, count=5)
    t.equal(shared(m.daemon, way), (0, 0))
    one, other = m.client(), m.client()
    for client in (one, other):
        client.ok(f'open a {PLAN}')
        right(t, client, tensors, where)
        t.equal(client.each('counts')[where], '2')
    note = one.ok('note')
    assert note.startswith(f'{way}: ') and '113' in note, note
    row, = m.daemon.json('show', 'a')['direct']
    t.equal((row['way'], row['users'], row['state'], row['simulated']), (way, 2, 'ready', True))
    t.equal(shared(m.daemon, way), (row['bytes'], 2))
    assert 16 * MIB <= row['bytes'] <= 24 * MIB, row  # two tensors, to the ends of their chunks
    assert way in m.ctl('show', 'a').out
    t.equal(json.loads(m.ctl('open', 'a', '--tier', 'gpu', '--json').out)['on_host'][way]['tensors'], 2)
    assert any(row['name'] == 'direct-access' and row['state'] == 'ok' for row in m.daemon.json('doctor')['checks'])
    one.kill()
    other.ok('private 1')
    right(t, other, tensors, where, 'after the other one was killed')
    other.ok('close')
    t.eventually(lambda: leased_on_host(m.daemon) == 0, 'leases end')
    m.ctl('evict', 'a', '--tier', 'host')
    other.ok(f'open a {PLAN}')
    right(t, other, tensors, where, 'without a host copy')
    t.equal(leased_on_host(m.daemon), 0)
    m.daemon.kill()
    m.daemon.start()
    other.ok('reconnect')
    right(t, other, tensors, where, 'with the next daemon')
    other.ok('close')
    other.ok(f'open a {PLAN}')
    t.equal(other.each('counts')[where], '2', 'opened again')
    other.ok('close')
    m.ctl('evict', 'a', '--tier', 'gpu')
    t.eventually(lambda: shared(m.daemon, way)[0] == 0, 'it goes with the copy')


@test
def what_cannot_be_registered_is_read_in_memory_that_the_driver_shares(t):
    is_shared(t, machine(t, device=DEVICE, gpu_bytes='36M'), 'numa', 'dha-host-numa')


@test
def or_in_memory_of_users_who_are_trusted(t):
    is_shared(t, machine(t, device=NO_WAY, gpu_bytes='36M', direct_trusted='nobody, self'), 'trusted', 'dha-trusted')


@test
def handles_go_with_shared_host_memory(t):
    tensors = t.model('a', WHOLE, count=5)
    client = machine(t, device=SHARES, gpu_export='cuda-ipc').client()
    t.equal(client.ok(f'open a {PLAN}').split()[1], 'cuda-ipc')
    right(t, client, tensors, 'numa')


@test
def a_way_that_fails_leads_to_the_next(t):
    """First on the daemon's side, then on the client's, then for want of room."""
    tensors = t.model('a', WHOLE, count=5)
    cases = [('trusted', {'direct_trusted': 'self', 'faults': 'cuMemGetAllocationGranularity:2=304'}, '', 'GetAllocationGranularity'),
             ('trusted', {'direct_trusted': 'self'}, 'attr:HOST_NUMA_VMM=0', 'cuMemImport'),
             ('staged', {'direct_trusted': 'self'}, 'attr:HOST_NUMA_VMM=0,cuMemHostRegister:*=1', 'cuMemHostRegister'),
             ('staged', {'direct_bytes': '8M'}, '', 'direct-bytes'), ('staged', {'direct_bytes': '0'}, '', 'direct-bytes is 0')]
    for where, options, faults, says in cases:
        m = machine(t, device=DEVICE, **options)
        client = m.client(faults)
        client.ok(f'open a {PLAN}')
        right(t, client, tensors, where, says)
        note = client.ok('note')
        assert note.startswith(f'dha-{where}: ') and says in note, (says, note)
        names = {row['name'] for row in m.daemon.json('doctor')['checks']}
        t.equal(names & {'dha-not-made', 'dha-no-room'}, {'dha-not-made'} if 'faults' in options else
                {'dha-no-room'} if options.get('direct_bytes') == '8M' else set(), says)
        client.ok('close')
        m.daemon.stop()


@test
def who_is_not_trusted_gets_nothing_to_write_to(t):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t, device=NO_WAY, direct_trusted='4242')
    client = m.client()
    client.ok(f'open a {PLAN}')
    right(t, client, tensors, 'staged')
    assert 'direct-trusted does not name user' in client.ok('note')
    t.equal(shared(m.daemon, 'dha-trusted'), (0, 0))


@test
def clients_that_die_while_it_is_filled_leave_nothing(t):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t, device=DEVICE, gpu_bytes='36M', direct_trusted='self')
    for i in range(6):
        client = m.client('attr:HOST_NUMA_VMM=0' if i % 2 else '')
        client.say(f'open a now {PLAN}')
        if t.random.random() < 0.5:
            client.answer()
        client.kill()
        if i == 3:
            m.ctl('evict', 'a')
    client = m.client()
    client.ok(f'open a {PLAN}')
    right(t, client, tensors, 'numa')
    client.say(f'open a now {PLAN}')
    m.daemon.stop()  # whatever it is at
    m.daemon.start()
    client.kill()
    t.eventually(lambda: not any(row['leased'] for row in m.daemon.json('doctor')['tiers']), 'leases end')


@test
def idle_memory_gives_way_to_what_is_asked_for(t):
    tensors = {name: t.model(name, WHOLE, count=5) for name in 'abc'}
    m = machine(t, device=DEVICE, gpu_bytes='100M', direct_bytes='48M')
    clients = {name: m.client() for name in 'abc'}
    for name in 'ab':
        clients[name].ok(f'open {name} {PLAN}')
        right(t, clients[name], tensors[name], 'numa')
    clients['c'].ok(f'open c {PLAN}')
    right(t, clients['c'], tensors['c'], 'staged', 'a and b are in use')
    clients['a'].ok('close')
    clients['c'].ok('close')
    t.eventually(lambda: m.daemon.json('show', 'a')['direct'][0]['users'] == 0, 'nobody has it')
    clients['c'].ok(f'open c {PLAN}')
    right(t, clients['c'], tensors['c'], 'numa', 'a is not')
    right(t, clients['b'], tensors['b'], 'numa')
    clients['a'].ok('open a')
    right(t, clients['a'], tensors['a'], 'staged')


def plan_file(t, name, text):
    path = t.dir / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return str(path)


def by_name(*more, **members):
    """As a planner would write it, with figures of its own beside."""
    rows = [{'tensor': name, 'place': 'dha', 'step': i} for i, name in enumerate(HOST)]
    return {'plan': {'tensors': [*rows, *more], **members}, 'total_ns': 1}


@test
def tools_take_plans_from_files(t):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t)
    path = plan_file(t, 'plan.json', by_name(model='a'))
    got = json.loads(m.ctl('open', 'a', '--tier', 'gpu', '--plan', path, '--json').out)
    t.equal(got['on_host']['dha-registered']['tensors'], 2)
    t.equal(got['on_host']['dha-staged']['tensors'], 0)
    assert got['device_bytes'] <= WHOLE - 8 * MIB, got
    for name in (HOST[1], 'layer.2.weight', 'layer.empty'):
        t.equal(m.ctl('cat', 'a', name, '--tier', 'gpu').raw, tensors[name][2], name)
    said = m.ctl('open', 'a', '--tier', 'gpu').out
    assert '2 tensors (16M) read there' in said, said


@test
def a_prefetch_by_a_plan_loads_by_it(t):
    tensors = t.model('a', WHOLE, count=5)
    m = machine(t)
    m.ctl('prefetch', 'a', '--tier', 'gpu', '--plan', plan_file(t, 'plan.json', by_name()))
    t.eventually(lambda: m.daemon.metric('trims_tier_used_bytes', tier='gpu') > 0, 'the model is on its way')
    client = m.client()
    client.ok('open a')
    right(t, client, tensors, 'direct')


@test
def plans_that_make_no_sense_are_refused_in_words(t):
    t.model('a', WHOLE, count=5)
    m = machine(t)
    cases = [('{', 'line 1'), (by_name({'tensor': 'none', 'place': 'load'}), 'no tensor "none"'),
             (by_name({'tensor': 1, 'place': 'load'}), 'named twice'), (by_name({'tensor': 99, 'place': 'load'}), '99'),
             (by_name(model='b'), 'made for b'), (by_name(keep=1), 'knows no "keep"'),
             (by_name({'tensor': 2, 'place': 'load', 'link': 1}), 'unknown link')]
    for i, (text, says) in enumerate(cases):
        got = m.ctl('open', 'a', '--tier', 'gpu', '--plan', plan_file(t, f'{i}.json', text))
        assert got.rc == 1 and says in got.err, (says, got)
    got = m.ctl('open', 'a', '--tier', 'disk', '--plan', plan_file(t, 'good.json', by_name()))
    assert got.rc == 1 and 'plan is for a model on a GPU or' in got.err, got
    got = m.ctl('open', 'a', '--tier', 'gpu', '--plan', str(t.dir / 'nowhere.json'))
    assert got.rc == 1 and 'nowhere.json' in got.err, got
    got = m.ctl('evict', 'a', '--plan', 'x')
    assert got.rc == 2 and 'knows no option --plan' in got.err, got


main()

"""Every mode of trims-run gives the bits that mode resident gives: cold, partly loaded, evicted in between, two processes at
once, on the host and on simulated devices."""
import contextlib
import json
import os
import shutil
import subprocess
import sys

import remote
import wire
from simgpu import UUIDS
from trimstest import BUILD, GPU_DRIVER, PATIENCE, SIMULATOR, SOURCE, main, program_environment, run, simulated_only, test

sys.path[:0] = [str(SOURCE / 'tests/run')]
import reference  # noqa: E402  pylint: disable=wrong-import-position

RUN = str(BUILD / 'tools/trims-run')
MIB = 1 << 20
INPUT = ('--seed', '7', '--threads', '2')


def make(t, name, family, **keywords):
    model = family(t.random, **keywords)
    model.write(t.models_dir / name)
    return model


ARGUMENTS = {'bert': ('--tokens', '17'), 'roberta': ('--tokens', '11'), 'gpt2': ('--tokens', '9', '--generate', '5'), 'resnet': ()}


def zoo(t):
    """A model of each architecture, in each type of weights; how they are run."""
    make(t, 'bert', reference.Bert, dtype='F16')
    make(t, 'roberta', reference.Bert, kind='roberta', prefix='roberta.')
    make(t, 'gpt2', reference.Gpt2, dtype='BF16')
    make(t, 'resnet', reference.Resnet, dtype='F16', theirs=True)
    return ARGUMENTS


def with_table(t, name, family, rows=8192, layers=2):
    """One whose token table is several chunks long; the table's name."""
    model = family(t.random, hidden=384, layers=layers)
    table = next(name for name in model.stored if 'word_embeddings' in name or 'wte' in name)
    model.config['vocab_size'] = rows
    model.add(table, rows, 384, scale=1)
    model.write(t.models_dir / name)
    return model, table


def sizeable(t):
    """A model of each architecture with a tensor that has a chunk to itself: name, how it is run, its tensors' names, that tensor's."""
    for name, family in ('bert', reference.Bert), ('gpt2', reference.Gpt2):
        model, largest = with_table(t, name, family, rows=6144, layers=1)
        yield name, ARGUMENTS[name], list(model.stored), largest
    model = make(t, 'resnet', reference.Resnet, theirs=True, bottleneck=False, widths=[8, 16, 32, 512])
    yield 'resnet', (), list(model.stored), max(model.stored, key=lambda tensor: len(model.stored[tensor][2]))


def write_plan(t, tensors, host=(), links=(), helpers=(), model='a'):
    """A plan that names every tensor in the order given; its path."""
    rows = [{'tensor': name, 'place': 'dha' if name in host else 'load', 'link': 1 if name in links else 0, 'step': i}
            for i, name in enumerate(tensors)]
    path = t.dir / 'plan.json'
    path.write_text(json.dumps({'model': model, 'tensors': rows, 'helpers': list(helpers)}))
    return path


def command(daemon, name, *arguments):
    return [RUN, 'infer', *([name] if name else []), '--socket', daemon.socket, '--json', *INPUT, *map(str, arguments)]


def infer(t, daemon, name, *arguments, **environment):
    result = run(*command(daemon, name, *arguments), **environment)
    t.equal(result.rc, 0, str(result))
    return result.json


def same(t, started, want, what):
    """All of these end well, with that digest."""
    for p in started:
        out, _ = p.communicate(timeout=PATIENCE)
        t.equal(p.returncode, 0, out.decode())
        t.equal(json.loads(out)['digest'], want, what)


def private(t, daemon, name, *arguments):
    return infer(t, daemon, None, '--mode', 'private', '--file', t.models_dir / name, *arguments)


@test
def modes_on_the_host_give_the_same_bits(t):
    daemon = t.daemon()
    for name, more in zoo(t).items():
        want = private(t, daemon, name, *more)['digest']
        for mode in 'pipeline', 'resident':
            for state in 'cold', 'hit':
                got = infer(t, daemon, name, '--mode', mode, *more)
                t.equal(got['digest'], want, f'{name} {mode} {state}')
                t.equal(got['mode'], mode)
            t.equal(daemon.ctl('evict', name).rc, 0)


@test
def a_pipeline_runs_ahead_of_the_load(t):
    """What the net does not use never comes, and the result is there all the same; the daemon knows the order of execution."""
    model = reference.Bert(t.random, hidden=192, layers=2)
    model.add('unused.weight', 6 * MIB)
    model.write(t.models_dir / 'a')
    server = remote.Server(t, t.models_dir)
    server.fault = remote.stall(after=0, beyond=len(model.safetensors(list(model.stored))) - 20 * MIB)
    daemon = t.daemon(sources=[server.url], stall_timeout='1h', connections=1)
    want = private(t, daemon, 'a')['digest']
    got = infer(t, daemon, 'a', '--mode', 'pipeline')
    t.equal(got['digest'], want)
    t.equal(got['hit'], False)
    (load,) = [row for row in daemon.json('trace', 'a')['loads'] if row['to'] == 'host']
    assert load.get('plan'), load
    resident = t.spawn(*command(daemon, 'a'))
    assert server.reached.wait(PATIENCE), 'something is still missing'
    server.released.set()
    out, _ = resident.communicate(timeout=PATIENCE)
    t.equal(json.loads(out)['digest'], want, 'resident')


@test
def what_is_partly_there_is_waited_for(t):
    """The load stands still in the middle of the layers while two processes want them, each in its mode."""
    server = remote.Server(t, t.models_dir)
    server.fault = remote.stall(after=1000, beyond=3 * MIB)
    daemon = t.daemon(sources=[server.url], stall_timeout='1h')
    for name, more, _, _ in sizeable(t):
        want = private(t, daemon, name, *more)['digest']
        server.reached.clear()
        server.released.clear()
        started = [t.spawn(*command(daemon, name, '--mode', mode, *more)) for mode in ('pipeline', 'resident', 'pipeline')]
        assert server.reached.wait(PATIENCE), name
        t.eventually(lambda: daemon.metric('trims_leases') >= 3, 'all have it open')
        server.released.set()
        same(t, started, want, name)


def evict_meanwhile(t, daemon, name, want, *arguments, **environment):
    # Its own stream: an order that is asked for while the copy goes is refused, with a note.
    p = t.spawn(*command(daemon, name, '--repeat', '40', *arguments), stderr=subprocess.PIPE, env=program_environment(**environment))
    while p.poll() is None:
        daemon.ctl('evict', name)
    out = p.stdout.read().decode()
    t.equal(p.returncode, 0, out + p.stderr.read().decode())
    t.equal(json.loads(out)['digest'], want, f'{name} {arguments}')


@test
def eviction_in_between_changes_nothing(t):
    daemon = t.daemon()
    for name, more in zoo(t).items():
        want = private(t, daemon, name, *more)['digest']
        for mode in 'pipeline', 'resident':
            evict_meanwhile(t, daemon, name, want, '--mode', mode, *more)


@test
def a_dead_daemon_does_not_stop_a_run(t):
    make(t, 'a', reference.Gpt2)
    daemon = t.daemon()
    more = ('--tokens', '6', '--generate', '8', '--repeat', '100')
    want = private(t, daemon, 'a', *more)['digest']
    p = t.spawn(*command(daemon, 'a', '--mode', 'resident', *more))
    t.eventually(lambda: daemon.metric('trims_leases') >= 1 or p.poll() is not None, 'it has the model open')
    daemon.kill()
    out = p.stdout.read().decode()
    p.wait(PATIENCE)
    with contextlib.suppress(KeyError):  # killed before its bytes were there: then it says so
        t.equal(json.loads(out[out.index('{'):])['error']['code'], 'DISCONNECTED')
        return
    t.equal(json.loads(out)['digest'], want)


# ---- simulated devices ----

APART = ('set speed=unlimited\ndevice bytes=64M context=1M attr.READ_ONLY_REGISTER=1\n'
         'device bytes=64M context=1M\n')
# Links take time, so that a helper gets to its part before the own link has taken it back.
LINKED = 'set speed=1\n' + 2 * 'device bytes=256M gbps=0.06 context=1M attr.READ_ONLY_REGISTER=1\n' + 'nvlink 0 1 gbps=20\n'


class Machine:
    def __init__(self, t, devices=APART, **options):
        simulated_only('the CPU cannot compute from the memory of a real one')
        topology = t.dir / 'topology'
        topology.write_text(devices)
        self.t, self.environment = t, {'SIMCUDA': str(topology), 'SIMCUDA_DIR': str(t.dir / 'devices')}
        self.daemon = t.daemon(environment=self.environment, cuda_driver=SIMULATOR, gpu='auto', **options)
        self.client = {'TRIMS_CUDA_DRIVER': GPU_DRIVER, **self.environment}

    def infer(self, name, *arguments):
        return infer(self.t, self.daemon, name, *arguments, **self.client)


@test
def modes_on_a_device_give_the_same_bits(t):
    machine = Machine(t)
    for name, more in zoo(t).items():
        want = private(t, machine.daemon, name, *more)['digest']
        for device in 'cuda:0', 'cuda:1':
            for mode in ('pipeline', 'dha', 'resident') if 'bert' in name else ('pipeline', 'resident'):
                got = machine.infer(name, '--device', device, '--mode', mode, *more)
                t.equal(got['digest'], want, f'{name} {device} {mode}')
                assert got['simulated'] and got['mode'] == mode and got['device'] == device, got
            t.equal(machine.daemon.ctl('evict', name).rc, 0)


@test
def nor_does_eviction_from_a_device(t):
    machine = Machine(t)
    for name, more in zoo(t).items():
        want = private(t, machine.daemon, name, *more)['digest']
        for mode in 'pipeline', 'resident':
            evict_meanwhile(t, machine.daemon, name, want, '--device', 'cuda:0', '--mode', mode, *more, **machine.client)


SMALL = 'device bytes=64M context=1M '
WAYS = SMALL + 'attr.READ_ONLY_REGISTER=1\n' + SMALL + '\n' + SMALL + 'attr.HOST_NUMA_VMM=0\n'


def leave_table(t, kind, device, way, **options):
    """A fresh daemon each: a model that is wanted again and again grows to all of it, idle links are for that."""
    machine = Machine(t, WAYS, **options)
    model, table = with_table(t, 'a', kind)
    want = private(t, machine.daemon, 'a')['digest']
    # GPT-2's table is its head as well, so nobody but a plan reads it from the host.
    more = () if kind is reference.Bert else ('--plan', write_plan(t, list(model.stored), host=[table]))
    got = machine.infer('a', '--device', f'cuda:{device}', '--mode', 'dha', *more)
    t.equal(got['digest'], want, 'cold')
    table_bytes, missing = len(model.stored[table][2]), got['bytes'] - got['plan']['device_bytes']
    assert table_bytes - 8 * MIB <= missing <= table_bytes + MIB, got['plan']
    # The first device reads memory that was registered for reading; the second what is shared for it, the third what it may write,
    # or a copy of this process; those say why.
    staged = int(way == 'dha-staged')
    t.equal((got['plan']['direct_tensors'], got['plan']['staged_tensors']), (1 - staged, staged), str(got['plan']))
    assert not device or got['plan']['note'].startswith(f'{way}: '), got['plan']
    t.equal(got['plan']['note'] == '', device == 0, str(got['plan']))
    for again in 'hit', 'hit':
        t.equal(machine.infer('a', '--device', f'cuda:{device}', '--mode', 'dha', *more)['digest'], want, again)
    t.equal(machine.daemon.ctl('evict', 'a').rc, 0)
    shuffled = list(model.stored)
    t.random.shuffle(shuffled)
    half = [name for name in shuffled if t.random.random() < 0.5] or shuffled[:1]
    plan = write_plan(t, shuffled, host=half)
    t.equal(machine.infer('a', '--device', f'cuda:{device}', '--mode', 'dha', '--plan', plan)['digest'], want, 'at random')


@test
def what_a_plan_leaves_on_the_host_is_read_there(t):
    leave_table(t, reference.Bert, 0, 'dha-registered')


@test
def where_a_device_cannot_read_it_there_is_a_copy(t):
    leave_table(t, reference.Bert, 2, 'dha-staged')


@test
def or_memory_that_is_shared_for_it(t):
    leave_table(t, reference.Bert, 1, 'dha-host-numa')


@test
def or_memory_that_a_trusted_user_may_write(t):
    leave_table(t, reference.Bert, 2, 'dha-trusted', direct_trusted='self')


@test
def a_plan_is_not_followed_with_the_weights_of_another_version(t):
    """The model is replaced between its two opens, by one of the same shapes: layers of one and weights of the other are neither."""
    machine = Machine(t, revalidate=0)
    model = make(t, 'a', reference.Bert)
    make_plan = write_plan(t, list(model.stored), host=[next(iter(model.stored))])
    t.equal(machine.daemon.ctl('pull', 'a').rc, 0)
    fifo = t.dir / 'fifo'
    os.mkfifo(fifo)
    p = t.spawn(*command(machine.daemon, 'a', '--device', 'cuda:0', '--mode', 'dha', '--plan', fifo),
                env=program_environment(**machine.client))
    plan = []

    def asks_for_the_plan():
        try:
            plan.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads it yet
            return p.poll() is not None
        return True
    t.eventually(asks_for_the_plan, 'it has the names and shapes')
    shutil.rmtree(t.models_dir / 'a')
    for name in model.stored:
        model.add(name, *model.stored[name][1])
    model.write(t.models_dir / 'a')
    os.write(plan[0], make_plan.read_bytes())
    os.close(plan[0])
    out, _ = p.communicate(timeout=PATIENCE)
    t.equal((p.returncode, json.loads(out[out.index(b'{'):]).get('error', {}).get('code')), (1, 'CHANGED'), out.decode())


@test
def a_table_that_is_the_head_as_well_is_read_from_the_host_by_plan(t):
    leave_table(t, reference.Gpt2, 0, 'dha-registered')


@test
def every_architecture_gives_the_same_bits_by_any_plan(t):
    machine = Machine(t, LINKED.replace('0.06', '0.6'))
    for name, more, tensors, largest in sizeable(t):
        want = private(t, machine.daemon, name, *more)['digest']
        t.random.shuffle(tensors)
        half = [tensor for tensor in tensors if tensor == largest or t.random.random() < 0.5]
        rest = [tensor for tensor in tensors if tensor not in half] or tensors[:1]
        for mode, host, links in ('dha', half, ()), ('pt', (), tensors), ('pt+dha', half, rest):
            plan = write_plan(t, tensors, host=host, links=links, helpers=[UUIDS[1]], model=name)
            got = machine.infer(name, '--device', 'cuda:0', '--mode', mode, '--plan', plan, *more)
            t.equal(got['digest'], want, f'{name} {mode}')
            t.equal(got['plan']['direct_tensors'] + got['plan']['staged_tensors'] > 0, bool(host), str(got['plan']))
            t.equal(machine.daemon.ctl('evict', name).rc, 0)


@test
def plans_for_a_table_that_is_the_head_as_well_can_be_followed(t):
    """Of the profile's two layers with the same bytes both are read from the host, or the first is loaded."""
    machine = Machine(t)
    _, table = with_table(t, 'a', reference.Gpt2)
    want = private(t, machine.daemon, 'a')['digest']
    profile = None
    for head in 20000, 10**9:  # what was wanted twice may grow to all of it in between
        profile = store_profile(t, machine, profile, head_ns=head)
        t.equal(machine.daemon.ctl('evict', 'a').rc, 0)
        told = machine.daemon.ctl('plan', 'a', '--device', UUIDS[0], '--policy', 'dha', '--json')
        t.equal(told.rc, 0, str(told))
        places = [row['place'] for row in told.json['plan']['tensors'] if row['tensor'] == table]
        t.equal(places, ['load' if head == 10**9 else 'dha'], head)
        path = t.dir / 'made.json'
        path.write_text(told.out)
        if places == ['dha']:
            got = machine.infer('a', '--device', 'cuda:0', '--mode', 'dha', '--plan', path)
            t.equal((got['digest'], got['plan']['direct_tensors']), (want, 1))
        else:  # nothing may be left for mode dha
            opened = machine.daemon.ctl('open', 'a', '--tier', 'gpu', '--device', UUIDS[0], '--plan', path, **machine.client)
            t.equal(opened.rc, 0, str(opened))


@test
def what_comes_over_another_device_s_link_is_the_same(t):
    machine = Machine(t, LINKED)
    model, table = with_table(t, 'a', reference.Bert)
    want = private(t, machine.daemon, 'a')['digest']
    names = [table] + [name for name in model.stored if name != table]
    helped = []
    for mode, host, links in (('pt', (), names[:1]), ('pt', (), names), ('pt+dha', names[:1], names[1:])):
        for device in 0, 1:
            plan = write_plan(t, names, host=host, links=links, helpers=[UUIDS[1 - device]])
            how = ('--device', f'cuda:{device}', '--mode', mode, '--plan', plan)
            for state in 'cold', 'evicted':
                got = machine.infer('a', *how)
                t.equal(got['digest'], want, f'{mode} {device} {state}')
                helped.append(got['plan']['helper_bytes'])
                t.equal(got['plan']['direct_tensors'], len(host))
                t.equal(machine.daemon.ctl('evict', 'a', *(('--tier', 'gpu') if state == 'cold' else ())).rc, 0)
    t.equal(sum(helped), machine.daemon.metric('trims_helper_bytes_total'))
    assert sum(helped) > 0, 'never was a helper in time'
    t.equal(sum(machine.daemon.metric('trims_fallback_total', reason=f'pt-{reason}')
                for reason in ('no-peer', 'no-staging', 'no-such-device', 'helper-lost')), 0)


@test
def two_processes_on_devices_that_help_each_other(t):
    machine = Machine(t, LINKED)
    model, table = with_table(t, 'a', reference.Bert)
    want = private(t, machine.daemon, 'a')['digest']
    names = list(model.stored)
    plans = []
    for device in 0, 1:
        path = write_plan(t, names, links=[table], helpers=[UUIDS[1 - device]])
        plans.append(path.rename(t.dir / f'plan{device}.json'))
    started = [t.spawn(*command(machine.daemon, 'a', '--device', f'cuda:{device}', '--mode', 'pt', '--plan', plans[device]),
                       env=program_environment(**machine.client)) for device in (0, 1, 0)]
    same(t, started, want, 'helped')


@test
def two_processes_on_a_device_at_once(t):
    machine = Machine(t)
    for name, more, tensors, largest in sizeable(t):
        want = private(t, machine.daemon, name, *more)['digest']
        plan = ('--plan', write_plan(t, tensors, host=[largest], model=name))
        started = [t.spawn(*command(machine.daemon, name, '--device', 'cuda:0', '--mode', mode, *more, *(plan if mode == 'dha' else ())),
                           env=program_environment(**machine.client)) for mode in ('pipeline', 'dha', 'resident', 'pipeline')]
        same(t, started, want, name)
        t.equal(machine.daemon.ctl('evict', name).rc, 0)


def check_profile(t, daemon, model, device, **environment):
    result = run(RUN, 'profile', 'a', '--socket', daemon.socket, '--device', device, '--batches', '1,3', '--tokens', '8', '--repeat',
                 '3', **environment)
    t.equal(result.rc, 0, str(result))
    profile, named = result.json, set()
    t.equal(profile['format'], 'trims-profile-1')
    t.equal(profile['source'], 'measured' if device == 'cpu' else 'simulated: no measurement')
    for layer in profile['layers']:
        named.update(layer['tensors'])
        t.equal(layer['bytes'], sum(len(model.stored[name][2]) for name in layer['tensors']), layer['name'])
        t.equal('copy_ns' in layer, layer['bytes'] > 0, layer['name'])
        t.equal([b['batch'] for b in layer['batches']], [1, 3])
        for b in layer['batches']:
            t.equal('dha_ns' in b, device != 'cpu' and layer['bytes'] > 0, layer['name'])
            if 'dha_ns' in b and layer['op'] == 'embed':
                row = layer['bytes'] // model.stored[layer['tensors'][0]][1][0]
                t.equal(b['touched_bytes'], min(layer['bytes'], 8 * b['batch'] * row), layer['name'])
    t.equal(named, set(model.stored), 'tensors')
    (head,) = [layer for layer in profile['layers'] if 'same_as' in layer]
    t.equal((head['name'], profile['layers'][head['same_as']]['name']), ('lm_head', 'wte'))


@test
def a_profile_has_every_layer(t):
    model = make(t, 'a', reference.Gpt2)
    check_profile(t, t.daemon(), model, 'cpu')


@test
def a_profile_on_a_device_has_both_ways(t):
    machine = Machine(t)
    model = make(t, 'a', reference.Gpt2)
    check_profile(t, machine.daemon, model, 'cuda:0', **machine.client)


# ---- bench: mode against mode ----

def bench(t, daemon, *arguments, rc=0, **environment):
    result = run(RUN, 'bench', 'a', '--socket', daemon.socket, '--json', *INPUT, '--warmups', '1', '--rounds', '2', *arguments,
                 **environment)
    t.equal(result.rc, rc, str(result))
    return result.json, {row['mode']: row for row in result.json['modes']}


def check_figures(t, row, runs=2):
    t.equal((row['runs'], row['failed'], row['given_up'], 'why' in row), (runs, 0, False, False), str(row))
    spread = row['total_ms']
    assert 0 < spread['p10'] <= spread['median'] <= spread['p90'] <= spread['p95'], row
    assert row['parts_ms']['execute']['median'] > 0 and row['parts_ms']['process']['median'] > 0, row
    assert 0 < row['from_open_ms']['median'] < spread['median'], row


@test
def a_bench_has_modes_take_turns(t):
    make(t, 'a', reference.Bert)
    daemon = t.daemon()
    report, rows = bench(t, daemon, '--state', 'hit', '--file', t.models_dir / 'a', '--modes', 'private,pipeline,dha,resident')
    t.equal((report['state'], report['page_cache'], report['simulated']), ('hit', {'state': 'warm', 'files': 1}, False))
    t.equal((report['warmups'], report['rounds'], report['out_of_time']), (1, 2, False))
    t.equal(list(rows), ['private', 'pipeline', 'dha', 'resident'])
    for mode in 'private', 'pipeline', 'resident':
        check_figures(t, rows[mode])
        t.equal(round(rows[mode]['over_private'] * rows[mode]['total_ms']['median'], 3),
                round(rows['private']['total_ms']['median'], 3))
        t.equal(rows[mode]['predicted'], None)
    t.equal((rows['dha']['runs'], rows['dha']['failed'], rows['dha']['given_up']), (0, 3, True))
    assert 'wants a GPU' in rows['dha']['why'], rows['dha']
    t.equal(rows['dha']['total_ms'], None)
    t.equal(report['digest'], private(t, daemon, 'a')['digest'])


@test
def a_bench_begins_each_run_as_it_says(t):
    """A miss is one by the daemon's own word; what no run can begin with is a failed run."""
    make(t, 'a', reference.Bert)
    daemon = t.daemon()
    before = daemon.metric('trims_requests_total', tier='host', result='miss')
    report, rows = bench(t, daemon, '--modes', 'resident,private,pipeline', '--warmups', '3', '--budget', '1ms')
    t.equal((report['rounds'], report['out_of_time']), (1, True))
    assert report['warmups'] <= 1, report
    for mode in 'resident', 'pipeline':
        check_figures(t, rows[mode], 1)
    assert daemon.metric('trims_requests_total', tier='host', result='miss') - before >= 2
    assert report['page_cache']['state'].startswith('not looked after'), report
    t.equal((rows['private']['failed'], rows['private']['given_up']), (1 + report['warmups'], False))
    assert '--file' in rows['private']['why'], rows
    holder = t.spawn(RUN, 'infer', 'a', '--socket', daemon.socket, '--repeat', '1000000')
    t.eventually(lambda: daemon.metric('trims_leases') >= 1, 'somebody has it open')
    report, rows = bench(t, daemon, '--modes', 'resident', '--warmups', '0', '--rounds', '1', rc=1)
    t.equal((rows['resident']['runs'], rows['resident']['failed']), (0, 1))
    assert 'somebody else has the model open' in rows['resident']['why'], rows
    holder.kill()
    holder.wait()
    for arguments, words in ((('--modes', 'resident,resident'), 'each once'), (('--modes', ''), 'each once'), (('--rounds', '0'), 'no number'),
                             (('--state', 'warm'), 'neither'), (('--budget', 'x'), 'no time'), (('--repeat', '2'), 'knows no')):
        refused = run(RUN, 'bench', 'a', *arguments)
        t.equal(refused.rc, 2, str(refused))
        assert words in refused.err, refused


def store_profile(t, machine, profile=None, table_ns=20000, head_ns=10**9):
    """One by which the table is read from the host, unless that takes too long, and the rest is loaded (a head that is the table, too,
    takes head_ns to read it there); whatever a simulated device takes."""
    if not profile:
        told = machine.daemon.ctl('profile', 'a', '--device', 'cuda:0', '--json', **machine.client)
        t.equal(told.rc, 0, str(told))
        profile = told.json
    for layer in profile['layers']:
        if layer['bytes']:
            layer['copy_ns'] = 1000 + layer['bytes']
        for batch in layer['batches']:
            batch['exec_ns'] = 10000
            if 'dha_ns' in batch:
                batch['dha_ns'] = table_ns if layer['op'] == 'embed' else head_ns if 'same_as' in layer else 10**9
    client = machine.daemon.client()
    fd = wire.sealed(json.dumps(profile).encode())
    t.equal(client.answer(client.send('profile', fds=[fd], model='a', profile=1))['text'], 'stored')
    os.close(fd)
    return profile


@test
def a_bench_on_a_device_has_the_prediction_beside_it(t):
    # Links as fast as in earnest, or a helper would not be worth its way.
    machine = Machine(t, 'set speed=1\n' + 'device bytes=256M gbps=2 context=1M attr.READ_ONLY_REGISTER=1\n' * 2 + 'nvlink 0 1 gbps=40\n')
    with_table(t, 'a', reference.Bert)
    arguments = ('--device', 'cuda:0', '--file', t.models_dir / 'a', '--warmups', '0', '--rounds', '1')
    few = ('--modes', 'dha,private')
    report, rows = bench(t, machine.daemon, *arguments, *few, **machine.client)
    assert 'no profile' in report['prediction_note'], report
    for row in rows.values():
        check_figures(t, row, 1)
        t.equal(row['predicted'], None)
    t.equal((rows['dha']['planned'], rows['dha']['device_bytes'] < report['bytes']), (False, True))
    profile = store_profile(t, machine)
    report, rows = bench(t, machine.daemon, *arguments, **machine.client)
    t.equal((report['prediction_note'], report['simulated'], report['state']), ('', True, 'miss'))
    for mode, row in rows.items():
        check_figures(t, row, 1)
        t.equal(row['predicted'] is None, mode == 'private', mode)
    t.equal((rows['dha']['planned'], rows['dha']['device_bytes'] < report['bytes']), (True, True))
    t.equal(sorted(rows), ['dha', 'pipeline', 'private', 'pt', 'pt+dha', 'resident'])
    # What a helper is late with comes over the device's own link, so how much came by it is not for a test to say.
    t.equal([(rows[mode]['planned'], rows[mode]['helper_bytes'] >= 0) for mode in ('dha', 'pt', 'pt+dha')], 3 * [(True, True)])
    t.equal(rows['dha']['helper_bytes'], 0)
    over = rows['dha']['over_pipeline']
    assert over['predicted'] > 1 and over['measured'] > 0, over
    # Where nothing is worth reading from the host dha does it all the same, and what has no plan of its own is left out.
    store_profile(t, machine, profile, 10**9)
    report, rows = bench(t, machine.daemon, *arguments, '--modes', 'dha,pt+dha', **machine.client)
    check_figures(t, rows['dha'], 1)
    t.equal((rows['dha']['planned'], rows['dha']['device_bytes'] < report['bytes']), (False, True))
    row = rows['pt+dha']
    t.equal((row['runs'], row['failed'], row['left_out']), (0, 0, True), str(row))
    assert row['why'].startswith('left out: by the plan, nothing is'), row
    text = run(RUN, 'bench', 'a', '--socket', machine.daemon.socket, *arguments, *few, '--state', 'hit',
               **machine.client)
    t.equal(text.rc, 0, str(text))
    for line in text.out.splitlines():
        if line.startswith(('dha', 'private')):
            assert line.split()[1] == '(simulated)' and line.split()[2] == '1', text
    t.equal(text.out.count('simulated'), 4, text.out)
    assert 'predictions are of misses' in text.out, text


@test
def a_mode_that_cannot_be_had_is_refused(t):
    machine = Machine(t)
    model = make(t, 'a', reference.Bert)
    make(t, 'b', reference.Resnet)
    names = list(model.stored)
    hosts = t.dir / 'hosts.json'
    write_plan(t, names, host=names[:1]).rename(hosts)
    loads = write_plan(t, names)
    for model, arguments, words in (
            ('a', ('--mode', 'dha'), 'wants a GPU'), ('a', ('--mode', 'pt'), 'wants a GPU'),
            ('a', ('--plan', loads), 'no use for a plan'), ('a', ('--device', 'cuda:2'), 'sees 2 devices'),
            ('a', ('--device', 'cuda:0', '--mode', 'pipeline', '--plan', loads), 'no use for a plan'),
            ('b', ('--device', 'cuda:0', '--mode', 'dha'), 'this model has none'),
            ('a', ('--device', 'cuda:0', '--mode', 'pt', '--plan', loads), 'nothing is loaded over another link'),
            ('a', ('--device', 'cuda:0', '--mode', 'pt', '--plan', hosts), 'read from the host'),
            ('a', ('--device', 'cuda:0', '--mode', 'pt'), 'name it with --plan'),
            ('a', ('--device', 'cuda:0', '--mode', 'pt+dha', '--plan', hosts), 'nothing is loaded over another link'),
            ('a', ('--device', 'cuda:0', '--mode', 'dha', '--plan', loads), 'nothing is read from the host'),
            ('b', ('--device', 'cuda:0', '--mode', 'dha', '--plan', hosts), 'a')):
        result = run(*command(machine.daemon, model, *arguments), **machine.client)
        t.equal(result.rc, 1, str(result))
        assert words in result.json['error']['text'], result
        assert result.json['error']['code'] in ('BAD_REQUEST', 'NO_TIER', 'UNSUPPORTED'), result
    result = run(*command(machine.daemon, 'a', '--device', 'cuda:0'), TRIMS_CUDA_DRIVER='/nowhere')
    t.equal(result.json['error']['code'], 'NO_TIER', str(result))


@test
def a_model_that_is_not_there_is_refused(t):
    daemon = t.daemon()
    result = run(*command(daemon, 'nothing'))
    t.equal((result.rc, result.json['error']['code']), (1, 'NOT_FOUND'), str(result))
    daemon.stop()
    result = run(*command(daemon, 'nothing'))
    t.equal(result.rc, 3, str(result))


main()

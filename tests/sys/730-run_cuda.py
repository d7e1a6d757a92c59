"""trims-run's CUDA backend: what the CPU backend computes, the same bits in every mode, graphs, waits on the device, and clear
sentences where a library, a call or a device is missing.  On simulated devices and libraries; with TRIMS_GPU_DRIVER on real ones."""
import json
import re
import struct
import sys

try:
    import numpy as np
except ImportError:  # a machine with a GPU need not have it
    print('1..0 # SKIP no numpy')
    sys.exit(0)

import remote
from trimstest import BUILD, GPU_DRIVER, GPU_IS_SIMULATED, PATIENCE, SIMULATOR, SOURCE, main, program_environment, run, simulated_only, test

sys.path[:0] = [str(SOURCE / 'tests/run')]
import reference  # noqa: E402  pylint: disable=wrong-import-position

RUN = str(BUILD / 'tools/trims-run')
LIBRARY = str(BUILD / 'tools/simcuda/libsimcublas.so')
MIB = 1 << 20
CLOSE = 5e-5  # of sums of fp32 products, as in 700-run.py


class Machine:
    def __init__(self, t, **options):
        self.t, self.environment = t, {}
        self.client = {'TRIMS_CUDA_DRIVER': GPU_DRIVER}
        if GPU_IS_SIMULATED:
            self.simulate(t.dir / 'topology', t.dir / 'devices')
        self.daemon = t.daemon(environment=self.environment, cuda_driver=GPU_DRIVER, gpu='auto', **options)

    def simulate(self, topology, devices):
        # The second cannot read host memory that is mapped for reading: what a plan leaves there is shared for it.
        topology.write_text('set speed=unlimited\ndevice bytes=256M context=1M attr.READ_ONLY_REGISTER=1\n'
                            'device bytes=256M context=1M\n')
        self.environment = {'SIMCUDA': str(topology), 'SIMCUDA_DIR': str(devices)}
        self.client |= {'TRIMS_CUBLAS': LIBRARY, 'TRIMS_CUDNN': LIBRARY, **self.environment}

    def command(self, name, *arguments):
        return [RUN, 'infer', *([name] if name else []), '--socket', self.daemon.socket, '--json', '--seed', '7', '--device', 'cuda:0',
                '--backend', 'cuda', *map(str, arguments)]

    def run(self, name, *arguments, **environment):
        return run(*self.command(name, *arguments), **{**self.client, **environment})

    def infer(self, name, *arguments, **environment):
        """(the report, the raw result)"""
        out = self.t.dir / 'result.bin'
        result = self.run(name, *arguments, '--output', out, **environment)
        self.t.equal(result.rc, 0, str(result))
        return result.json, np.fromfile(out, np.float32)

    def private(self, name, *arguments, **environment):
        return self.infer(None, '--mode', 'private', '--file', self.t.models_dir / name, *arguments, **environment)

    def refused(self, code, words, name, *arguments, **environment):
        result = self.run(name, *arguments, **environment)
        self.t.equal(result.rc in (1, 3), True, str(result))
        self.t.equal(result.json['error']['code'], code, str(result))
        assert words in result.json['error']['text'], result


def make(t, name, family, *arguments, **keywords):
    model = family(t.random, *arguments, **keywords)
    model.write(t.models_dir / name)
    return model


def near(t, got, want, what):
    want = np.asarray(want, np.float64)
    t.equal(got.size, want.size, f'{what}: values')
    worst = np.abs(got.reshape(want.shape) - want).max() / max(1, np.abs(want).max())
    assert worst < CLOSE, f'{what}: off by {worst}'


def some_tokens(t, model, most):
    return [t.random.randrange(model.config['vocab_size']) for _ in range(t.random.randint(1, most))]


def listed(tokens):
    return ','.join(map(str, tokens))


@test
def what_is_put_on_the_device_may_be_taken_later(t):
    """As a driver may do whose device reads pageable memory itself; the reference runs have taken it at once."""
    simulated_only('a real driver says neither when it does')
    machine = Machine(t)
    bert, gpt2 = make(t, 'bert', reference.Bert, 'F32', kind='roberta'), make(t, 'gpt2', reference.Gpt2, 'F32', own_head=True)
    topology = t.dir / 'pageable'
    topology.write_text('set speed=unlimited\ndevice bytes=256M attr.PAGEABLE_ACCESS=1\n')
    late = {'SIMCUDA': str(topology), 'SIMCUDA_DIR': str(t.dir / 'late'), 'SIMCUDA_FAULTS': '~cuMemcpyHtoDAsync:*=stall:4'}
    for name, arguments in (('bert', ['--input', listed(some_tokens(t, bert, bert.most))]),
                            ('gpt2', ['--input', listed(some_tokens(t, gpt2, gpt2.most - 3)), '--generate', '3'])):
        _, want = machine.private(name, *arguments)
        _, got = machine.private(name, *arguments, **late)
        t.equal(got.tobytes(), want.tobytes(), name)


@test
def every_architecture_and_type_is_as_the_reference_has_it(t):
    machine = Machine(t)
    for dtype in reference.DTYPES:
        for i, kinds in enumerate(({}, {'act': 'relu'}, {'act': 'gelu_new'}, {'kind': 'roberta', 'prefix': 'roberta.'})):
            name = f'bert{dtype}{i}'
            model = make(t, name, reference.Bert, dtype, **kinds)
            tokens = some_tokens(t, model, model.most)
            report, got = machine.private(name, '--input', listed(tokens))
            near(t, got, model.run(tokens), f'{dtype} {kinds}')
            t.equal(report['backend'], 'cuda')
        model = make(t, f'gpt2{dtype}', reference.Gpt2, dtype, own_head=t.random.random() < 0.5, prefix='transformer.')
        tokens = some_tokens(t, model, model.most - 4)
        want, scores = model.generate(tokens, 4)
        report, got = machine.private(f'gpt2{dtype}', '--input', listed(tokens), '--generate', 4)
        near(t, got, scores, f'gpt2 {dtype}')
        t.equal(report['results'][0]['tokens'], want)
        for bottleneck in False, True:
            name = f'resnet{dtype}{bottleneck}'
            model = make(t, name, reference.Resnet, dtype, True, bottleneck)
            size = model.config['image_size']
            images = model.random.standard_normal((2, 3, size, size)).astype(np.float32)
            np.save(t.dir / 'images.npy', images)
            _, got = machine.private(name, '--input', t.dir / 'images.npy')
            near(t, got, [model.run(image.astype(np.float64)) for image in images], name)


@test
def batches_and_lengths_are_as_the_reference_has_them(t):
    machine = Machine(t)
    model = make(t, 'bert', reference.Bert)
    rows = np.array([[t.random.randrange(model.config['vocab_size']) for _ in range(9)] for _ in range(5)], np.int64)
    np.save(t.dir / 'rows.npy', rows)
    _, got = machine.private('bert', '--input', t.dir / 'rows.npy')
    near(t, got, [model.run(list(row)) for row in rows], 'rows')
    model = make(t, 'gpt2', reference.Gpt2)
    rows = np.array([[t.random.randrange(model.config['vocab_size']) for _ in range(7)] for _ in range(3)], np.int32)
    np.save(t.dir / 'rows.npy', rows)
    report, _ = machine.private('gpt2', '--input', t.dir / 'rows.npy', '--generate', 4)
    t.equal([r['tokens'] for r in report['results']], [model.generate(list(row), 4)[0] for row in rows])


def zoo(t):
    make(t, 'bert', reference.Bert, dtype='F16')
    make(t, 'gpt2', reference.Gpt2)
    make(t, 'resnet', reference.Resnet, 'BF16', theirs=True)
    return {'bert': ('--tokens', '17'), 'gpt2': ('--tokens', '9', '--generate', '5'), 'resnet': ()}


@test
def modes_give_the_same_bits_and_the_cpu_backend_the_same_values(t):
    machine = Machine(t)
    for name, more in zoo(t).items():
        first, result = machine.private(name, *more)
        # It can compute with the memory of simulated devices, not of real ones.
        where = 'cuda:0' if GPU_IS_SIMULATED else 'cpu'
        _, cpu = machine.infer(name, '--backend', 'cpu', '--device', where, '--mode', 'resident', *more)
        near(t, result, cpu, f'{name}: CPU and CUDA backend')
        for device in ('cuda:0', 'cuda:1') if GPU_IS_SIMULATED else ('cuda:0',):
            t.equal(machine.daemon.ctl('evict', name).rc, 0)
            for mode in ('pipeline', 'resident') if name == 'resnet' else ('pipeline', 'dha', 'resident'):  # no tables, no plan
                got, _ = machine.infer(name, '--device', device, '--mode', mode, *more)
                t.equal(got['digest'], first['digest'], f'{name} {device} {mode}')
                t.equal((got['backend'], got['simulated'], got['mode']), ('cuda', GPU_IS_SIMULATED, mode))
                assert not GPU_IS_SIMULATED or LIBRARY in got['note'], got


@test
def a_pass_that_comes_again_is_a_graph(t):
    machine = Machine(t)
    for name, more in zoo(t).items():
        once, _ = machine.infer(name, *more)
        t.equal(once['graph_launches'], 0, 'a cold start pays for no graph')
        for mode in 'resident', 'pipeline':
            again, _ = machine.infer(name, '--mode', mode, '--repeat', '5', *more)
            t.equal(again['digest'], once['digest'], f'{name} {mode}')
            # The first pass of a pipeline waits layer by layer, the next is remembered, the third is the first graph.
            t.equal(again['graph_launches'], {'resident': 4, 'pipeline': 3}[mode], f'{name} {mode}')


@test
def a_private_load_larger_than_its_ring_is_whole(t):
    """Through pinned blocks that are used again; a tensor of 8 bytes, as ResNets have them, leaves none behind it aligned in the file."""
    machine = Machine(t)
    model = reference.Bert(t.random, hidden=384, layers=1)
    rows = model.config['vocab_size'] = 48000
    model.stored = {'counter': ('I64', (), bytes(8)), **model.stored}
    model.stored['embeddings.word_embeddings.weight'] = ('F32', (rows, 384), model.random.random((rows, 384), np.float32).tobytes())
    model.write(t.models_dir / 'a', shards=2)
    assert sum(len(data) for _, _, data in model.stored.values()) > 68 * MIB, 'no more than the ring'
    rows = ('--input', listed(t.random.randrange(rows) for _ in range(model.most)))
    private, _ = machine.private('a', *rows)
    resident, _ = machine.infer('a', *rows)
    t.equal(private['digest'], resident['digest'])


def entry(field):
    """Which entry of the driver's table it is, from 1, and how many there are."""
    text = (SOURCE / 'shared/cuda.def').read_text()
    fields = re.findall(r'^CU\((\w+),', text, re.M)
    return fields.index(field) + 1, len(fields)


@test
def a_driver_without_graphs_runs_call_by_call(t):
    simulated_only('no real driver fails on demand')
    machine = Machine(t)
    make(t, 'a', reference.Bert)
    with_graphs, _ = machine.infer('a', '--repeat', '4')
    number, entries = entry('graph_instantiate')  # of the second table: the first is asked which devices there are
    without, _ = machine.infer('a', '--repeat', '4', SIMCUDA_FAULTS=f'cuGetProcAddress_v2:{entries + number}=500')
    t.equal((with_graphs['graph_launches'], without['graph_launches']), (3, 0))
    assert 'no graphs' in without['note'] and 'no graphs' not in with_graphs['note'], without
    t.equal(without['digest'], with_graphs['digest'])


def counts(folder):
    """How often the processes that counted there called each entry."""
    seen = {}
    for path in folder.glob('*.calls'):
        data = path.read_bytes()
        for at in range(0, len(data) - 63, 64):
            name, n = struct.unpack_from('56sQ', data, at)
            seen[name.rstrip(b'\0').decode()] = seen.get(name.rstrip(b'\0').decode(), 0) + n
    return seen


class Stalled:
    """A load that stands still in the middle of the layers, and a pipeline that has queued all of them all the same."""
    def __init__(self, t):
        simulated_only('it counts the driver\'s calls')
        self.model = reference.Bert(t.random, hidden=384, layers=4)
        self.model.write(t.models_dir / 'a')
        self.server = remote.Server(t, t.models_dir)
        self.server.fault = remote.stall(after=1000, beyond=3 * MIB)
        self.machine = Machine(t, sources=[self.server.url], stall_timeout='1h')
        here, there = t.dir / 'here', t.dir / 'there'
        here.mkdir()
        there.mkdir()
        self.private, _ = self.machine.private('a', SIMCUDA_COUNT=str(here))
        launches = counts(here)['cuLaunchKernel']
        self.process = t.spawn(*self.machine.command('a', '--mode', 'pipeline'),
                               env=program_environment(**self.machine.client, SIMCUDA_COUNT=str(there)))
        assert self.server.reached.wait(PATIENCE)
        t.eventually(lambda: counts(there).get('cuLaunchKernel', 0) >= launches or self.process.poll() is not None, 'all is queued')
        self.calls = counts(there)
        t.equal(self.calls['cuLaunchKernel'], launches)
        t.equal(self.process.poll(), None)

    def end(self):
        out, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, json.loads(out[out.index(b'{'):])


@test
def a_pipeline_waits_on_the_device(t):
    stalled = Stalled(t)
    stalled.server.released.set()
    code, report = stalled.end()
    t.equal(code, 0, str(report))
    t.equal(report['digest'], stalled.private['digest'])
    assert stalled.calls['cuStreamWaitValue64_v2'] > stalled.model.config['num_hidden_layers'], stalled.calls


@test
def a_load_that_fails_fails_the_run(t):
    stalled = Stalled(t)
    stalled.machine.daemon.kill()
    code, report = stalled.end()
    assert code in (1, 3), report
    t.equal(report['error']['code'], 'DISCONNECTED')


@test
def a_profile_has_both_ways(t):
    """Also on a device that cannot register memory that nobody may write, which is the usual one."""
    machine = Machine(t)
    make(t, 'a', reference.Gpt2)
    for device in ('cuda:0', 'cuda:1') if GPU_IS_SIMULATED else ('cuda:0',):
        result = run(RUN, 'profile', 'a', '--socket', machine.daemon.socket, '--device', device, '--backend', 'cuda', '--batches', '1,3',
                     '--tokens', '8', '--repeat', '2', **machine.client)
        t.equal(result.rc, 0, str(result))
        for layer in result.json['layers']:
            t.equal('copy_ns' in layer, layer['bytes'] > 0, layer['name'])
            for b in layer['batches']:
                t.equal('dha_ns' in b, layer['bytes'] > 0, layer['name'])
                assert b['exec_ns'] > 0, layer
        notes = [note.split(':')[0] for note in result.json['notes']]
        if GPU_IS_SIMULATED:
            t.equal(notes, ['host-copied'] if device == 'cuda:1' else [], device)
        t.equal('host-copied: ' in result.err, 'host-copied' in notes, result.err)


@test
def what_is_missing_is_said(t):
    machine = Machine(t)
    make(t, 'bert', reference.Bert)
    make(t, 'resnet', reference.Resnet)
    machine.refused('UNSUPPORTED', 'no cuDNN, which convolutions need', 'resnet', TRIMS_CUDNN='/nowhere/libcudnn.so')
    machine.infer('bert', TRIMS_CUDNN='/nowhere/libcudnn.so')
    machine.refused('UNSUPPORTED', 'no cuBLAS', 'bert', TRIMS_CUBLAS='/nowhere/libcublas.so')
    if GPU_IS_SIMULATED:
        machine.refused('UNSUPPORTED', 'do not work together', 'bert', TRIMS_CUBLAS=SIMULATOR)
    machine.refused('BAD_REQUEST', '--device cuda:N', 'bert', '--device', 'cpu')
    result = machine.run('bert', '--backend', 'tpu')
    t.equal(result.rc, 2, str(result))


@test
def what_a_device_says_is_passed_on(t):
    simulated_only('no real driver fails on demand')
    machine = Machine(t)
    make(t, 'bert', reference.Bert)
    make(t, 'resnet', reference.Resnet)
    for script, code, words in (('cuLaunchKernel:3=1', 'GPU_ERROR', 'trims_run_'), ('~cuLaunchKernel:5=719', 'NO_TIER', 'LAUNCH_FAILED'),
                                ('cuModuleLoadData:1=218', 'GPU_ERROR', 'cuModuleLoadData'),
                                ('cuMemAlloc:4=2', 'NO_MEMORY', 'cuMemAlloc'), ('cuStreamCreate:1=999', 'GPU_ERROR', 'cuStreamCreate'),
                                ('cuGraphLaunch:1=999', 'GPU_ERROR', 'cuGraphLaunch'),
                                ('cuStreamEndCapture:1=901', 'GPU_ERROR', 'cuStreamEndCapture')):
        machine.refused(code, words, 'bert', '--repeat', 3, SIMCUDA_FAULTS=script)
    machine.infer('bert')
    machine.infer('resnet')


main()

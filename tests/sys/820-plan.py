"""trims-ctl plan: what it prints of ready-made profiles, what it draws, what it refuses, and where it has its links from."""
import json
import xml.etree.ElementTree

import models
import wire
from simgpu import UUIDS, attached, gpu_daemon
from trimstest import BUILD, CTL, SOURCE, main, run, test

PROFILES = BUILD / 'tools/profiles'
MACHINE = SOURCE / 'tools/profiles/v100-pcie3.json'
MODELS = sorted(path.stem for path in PROFILES.glob('*.json'))


def plan(model, *arguments):
    return run(CTL, 'plan', model, '--profile', PROFILES / f'{model}.json', *arguments)


def on_v100(model, *arguments):
    got = plan(model, '--machine', MACHINE, '--json', *arguments)
    assert got.rc == 0, got
    return got.json


@test
def every_ready_made_profile_is_planned(t):
    t.equal(len(MODELS), 8)
    for model in MODELS:
        profile = json.loads((PROFILES / f'{model}.json').read_text())
        assert profile['assumed'] and profile['source'] == 'derived', model
        got = on_v100(model)
        totals = {name: policy['total_ns'] for name, policy in got['policies'].items()}
        t.equal(min(totals.values()), got['predicted']['total_ns'])
        assert got['predicted']['exact'], model
        t.equal([layer['name'] for layer in got['layers']], [layer['name'] for layer in profile['layers']])
        t.equal(got['layers'][-1]['exec_end_ns'], got['predicted']['total_ns'])
        loaded = sum(layer['bytes'] for layer in got['layers'] if layer['place'] == 'load')
        t.equal(sum(got['link_bytes'].values()), loaded)
        t.equal(loaded, got['predicted']['resident_bytes'])


@test
def the_plan_that_an_open_takes_names_every_tensor_once(t):
    got = on_v100('bert-base')
    tensors = got['plan']['tensors']
    names = [tensor['tensor'] for tensor in tensors]
    profile = json.loads((PROFILES / 'bert-base.json').read_text())
    t.equal(names, [name for layer in profile['layers'] for name in layer['tensors']])
    t.equal(names[0], 'embeddings.word_embeddings.weight')
    t.equal(tensors[0]['place'], 'dha')
    t.equal([tensor['step'] for tensor in tensors], sorted(tensor['step'] for tensor in tensors))
    t.equal(got['plan']['helpers'], ['gpu2'])
    t.equal({tensor['link'] for tensor in tensors}, {0, 1})
    assert 0 < got['plan']['keep_bytes'] < got['predicted']['resident_bytes']
    t.equal(on_v100('bert-base', '--policy', 'dha')['plan']['helpers'], [])


@test
def policies_are_what_the_text_says(t):
    text = plan('resnet-50', '--machine', MACHINE)
    t.equal(text.rc, 0, text)
    for name in on_v100('resnet-50')['policies']:
        assert f'\n{name} ' in text.out, name
        got = on_v100('resnet-50', '--policy', name)
        t.equal(got['predicted']['total_ns'], got['policies'][name]['total_ns'])
    everything = on_v100('resnet-50', '--policy', 'load-all')
    t.equal({layer['place'] for layer in everything['layers']}, {'load', 'nothing'})
    t.equal(everything['predicted']['pieces'], 1)


@test
def the_timeline_is_drawn(t):
    picture = t.dir / 'plan.svg'
    got = plan('gpt2', '--machine', MACHINE, '--svg', picture)
    t.equal(got.rc, 0, got)
    root = xml.etree.ElementTree.parse(picture).getroot()
    bars = [bar for bar in root.iter() if bar.tag.endswith('}title')]
    texts = [text.text for text in root.iter() if text.tag.endswith('}text')]
    assert len(bars) > 75 and bars[0].text.startswith('wte, '), len(bars)
    assert {'gpu0', 'gpu2', 'execution', 'load', 'run from host'} <= set(texts), texts
    t.equal(plan('gpt2', '--machine', MACHINE, '--svg', t.dir / 'no/such/folder').rc, 1)
    profile = json.loads((PROFILES / 'gpt2.json').read_text())
    profile['layers'][0]['name'] = '\x1b[31m<b>&\n\x7f'
    (t.dir / 'odd.json').write_text(json.dumps(profile))
    got = run(CTL, 'plan', '\x1b[31m', '--profile', t.dir / 'odd.json', '--machine', MACHINE, '--svg', picture)
    t.equal(got.rc, 0, got)
    assert '\x1b' not in got.out + picture.read_text(), got
    xml.etree.ElementTree.parse(picture)


@test
def what_makes_no_sense_is_refused(t):
    bad = t.dir / 'bad.json'
    bad.write_text('{"format": "trims-profile-1", "layers": [{"name": "a"}]}')
    t.equal(run(CTL, 'plan', 'a').rc, 3, 'there is no daemon that could have a profile')
    t.equal(plan('gpt2', '--machine', MACHINE, '--policy', 'none').rc, 2)
    t.equal(plan('gpt2', '--machine', MACHINE, '--device', UUIDS[0]).rc, 2)
    t.equal(plan('gpt2', '--machine', MACHINE, '--batch', '0').rc, 2)
    for got in (plan('gpt2', '--machine', MACHINE, '--batch', '7'), plan('gpt2', '--machine', bad),
                run(CTL, 'plan', 'a', '--machine', MACHINE, '--profile', bad),
                run(CTL, 'plan', 'a', '--machine', MACHINE, '--profile', t.dir / 'none'),
                run(CTL, 'plan', 'a', '--machine', t.dir / 'none', '--profile', PROFILES / 'gpt2.json'),
                plan('gpt2', '--machine', MACHINE, '--measured', t.dir / 'none')):
        t.equal(got.rc, 1, got)
        assert ('.json' in got.err or 'none' in got.err) and 'line -1' not in got.err, got
    machine = json.loads(MACHINE.read_text()) | {'memory_bytes': 100 << 20}
    bad.write_text(json.dumps(machine))
    got = plan('gpt2', '--machine', bad, '--policy', 'pipelined')
    t.equal(got.rc, 1, got)
    assert 'memory_bytes' in got.err, got
    got = plan('gpt2', '--machine', bad, '--json')
    t.equal(got.rc, 0, got)
    assert got.json['predicted']['resident_bytes'] <= 100 << 20
    bad.write_text(json.dumps(machine | {'chunk_bytes': 0}))
    t.equal(plan('gpt2', '--machine', bad).rc, 1)


@test
def without_a_machine_the_daemons_link_counts(t):
    got = plan('gpt2', '--json')
    t.equal(got.rc, 3, got)
    daemon = gpu_daemon(t, topology='set speed=1\n' + 2 * 'device bytes=128M gbps=4\n')
    for uuid in UUIDS:
        got = daemon.json('plan', 'gpt2', '--profile', PROFILES / 'gpt2.json', '--device', uuid)
        t.equal(list(got['link_bytes']), [uuid])
        t.equal(got['plan']['helpers'], [])
        assert 'simulated' in got['machine'], got['machine']
    t.equal(daemon.ctl('plan', 'gpt2', '--profile', PROFILES / 'gpt2.json', '--device', 'GPU-none').rc, 1)


PAIRS = ('set speed=1\nswitch s gbps=1\nswitch u gbps=1\n' + 2 * 'device bytes=256M gbps=0.4 switch=s\n' +
         2 * 'device bytes=256M gbps=0.4 switch=u\n' + 'nvlink 0 2 gbps=40\nnvlink 1 2 gbps=40\n')


@test
def helpers_are_who_the_daemon_says_can_help(t):
    """Devices 0 and 1 share a switch, 2 reaches both over NVLink, 3 none but its neighbour."""
    daemon = gpu_daemon(t, topology=PAIRS)
    uuids = [row['device'] for row in daemon.json('links')['links'] if row['direction'] == 'h2d']
    for target, helpers in ((0, [2]), (1, [2]), (2, [0, 1]), (3, [])):
        got = daemon.json('plan', 'gpt2', '--profile', PROFILES / 'gpt2.json', '--device', uuids[target])
        found = got['plan']['helpers']
        assert len(found) == bool(helpers) and {uuids.index(uuid) for uuid in found} <= set(helpers), (target, found)
        t.equal(max(row['link'] for row in got['plan']['tensors']), len(found))


@test
def a_plan_with_helpers_is_carried_out(t):
    tensors = t.model('a', 64 << 20, count=4)
    daemon = gpu_daemon(t, topology='set speed=1\n' + 2 * 'device bytes=256M gbps=0.3\n' + 'nvlink 0 1 gbps=40\n')
    layers = [{'name': name, 'bytes': len(data), 'tensors': [name], 'batches': [{'batch': 1, 'exec_ns': 1000}]}
              for name, (_, _, data) in tensors.items()]
    (t.dir / 'profile').write_text(json.dumps({'format': 'trims-profile-1', 'model': 'a', 'layers': layers}))
    got = daemon.json('plan', 'a', '--profile', t.dir / 'profile', '--device', UUIDS[0])
    t.equal(got['plan']['helpers'], [UUIDS[1]])
    plan = wire.plan(*((i, 0, row['link']) for i, row in enumerate(got['plan']['tensors'])), helpers=got['plan']['helpers'])
    lease = attached(daemon).open('a', 'gpu', plan=plan)
    t.equal(models.digests(lease.tensors()), models.digests(tensors))
    assert lease.helper_bytes() > 0


main()

"""NAME@REVISION on a hub: every commit is a model of its own, and the plain name is whatever its main branch is now."""
import sys

import models
import wire
from trimstest import SOURCE, main, test

sys.path.insert(0, str(SOURCE / 'tests/source'))
import servers  # noqa: E402  pylint: disable=wrong-import-position

NAME, MIB = 'org/name', 1 << 20
OLD, NEW = 'a' * 40, 'b' * 40


def begin(t, **options):
    """A hub with two commits of one model, main at the old one, the tag v2 at the new one."""
    hub = servers.Hub(t, t.models_dir)
    hub.trees = {commit: t.models_dir / commit for commit in (OLD, NEW)}
    hub.refs = {'main': OLD, 'v1': OLD, 'v2': NEW}
    tensors = {commit: models.digests(t.model(f'{commit}/{NAME}', 5 * MIB)) for commit in hub.trees}
    assert tensors[OLD] != tensors[NEW]
    daemon = t.daemon(sources=['hf://'], environment={'HF_ENDPOINT': hub.url, 'HF_TOKEN': hub.token}, **options)
    return hub, daemon, tensors


def held(client, name):
    return models.digests(client.open(name).tensors())


@test
def two_revisions_opened_at_once_are_two_models(t):
    _, daemon, tensors = begin(t)
    one, other = daemon.client(), daemon.client()
    asked = one.open_send(f'{NAME}@v1'), other.open_send(f'{NAME}@v2')
    leases = one.open_answer(asked[0]), other.open_answer(asked[1])
    t.equal(models.digests(leases[0].tensors()), tensors[OLD])
    t.equal(models.digests(leases[1].tensors()), tensors[NEW])
    t.equal(daemon.metric('trims_models'), 2)
    name, (dtype, _, data) = max(leases[1].tensors().items(), key=lambda row: len(row[1][2]))
    t.equal(daemon.ctl('cat', f'{NAME}@v2', name).raw, data, f'{name} ({dtype}) through libtrims')
    t.equal(daemon.ctl('evict', f'{NAME}@v1').rc, 0)
    t.equal(models.digests(leases[0].tensors()), tensors[OLD])


@test
def a_branch_a_tag_and_a_commit_are_one_model_when_they_are_one_commit(t):
    hub, daemon, tensors = begin(t)
    for name in (NAME, f'{NAME}@main', f'{NAME}@v1', f'{NAME}@{OLD}'):
        t.equal(held(daemon.client(), name), tensors[OLD], name)
    t.equal(daemon.metric('trims_models'), 1)
    ranges = [(e.first, e.last) for e in hub.cdn.asked('model.safetensors')]
    t.equal(len(ranges), len(set(ranges)), f'bytes asked for twice: {ranges}')


@test
def the_plain_name_follows_its_branch_and_the_old_commit_stays_open(t):
    hub, daemon, tensors = begin(t, revalidate=0)
    before = daemon.client().open(NAME)
    t.equal(models.digests(before.tensors()), tensors[OLD])
    hub.refs['main'] = NEW

    def follows():
        client = daemon.client()
        found = held(client, NAME)
        client.close()
        assert found in tensors.values(), 'a mixture'
        return found == tensors[NEW]
    t.eventually(follows, 'the new commit under the plain name')
    t.equal(models.digests(before.tensors()), tensors[OLD], 'what was open before')
    t.equal(held(daemon.client(), f'{NAME}@{OLD}'), tensors[OLD], 'the old commit, asked for by name')
    hub.refs['main'] = OLD  # taken back
    t.eventually(lambda: not follows(), 'the old commit under the plain name again')


@test
def within_its_time_a_name_is_not_asked_for_again(t):
    hub, daemon, tensors = begin(t, revalidate='1h')
    t.equal(held(daemon.client(), NAME), tensors[OLD])
    hub.refs['main'] = NEW
    hub.forget()
    t.equal(held(daemon.client(), NAME), tensors[OLD])
    t.equal(hub.asked(), [], 'requests to the hub')


@test
def a_revision_that_is_not_there_is_refused_by_name(t):
    _, daemon, tensors = begin(t)
    for name in (f'{NAME}@v9', f'{NAME}@{"c" * 40}', 'org/other@v1'):
        try:
            daemon.client().open(name)
            raise AssertionError(f'{name} was served')
        except wire.Fault as fault:
            t.equal(fault.code, 'NOT_FOUND', fault.text)
            assert name in fault.text, fault.text
        said = daemon.ctl('open', name)
        t.equal(said.rc, 1, said)
        assert name in said.err, said
    t.equal(held(daemon.client(), f'{NAME}@v1'), tensors[OLD])


@test
def revisions_survive_a_restart_without_the_hub(t):
    hub, daemon, tensors = begin(t)
    for revision, commit in (('v1', OLD), ('v2', NEW)):
        client = daemon.client()
        t.equal(held(client, f'{NAME}@{revision}'), tensors[commit])
        client.close()
    t.eventually(lambda: daemon.metric('trims_loads_total', result='done') == 4, 'both in memory and on disk')
    daemon.stop()
    hub.close()
    daemon.start()
    for revision, commit in (('v2', NEW), ('v1', OLD)):
        t.equal(held(daemon.client(), f'{NAME}@{revision}'), tensors[commit])


main()

"""trims-ctl: its subcommands, its exit codes, its JSON."""
import json
import os
import re
import signal
import subprocess
import urllib.request

import remote
from trimstest import BUILD, CTL, PATIENCE, SOURCE, main, run, test

COMMANDS = re.findall(r'^COMMAND\((\w+),', (SOURCE / 'tools/ctl/commands.def').read_text(), re.M)


@test
def exit_codes_are_the_documented_ones(t):
    t.model('a')
    daemon = t.daemon()
    t.equal(daemon.ctl('open', 'a').rc, 0)
    for refused in (['open', 'none'], ['cat', 'a', 'none'], ['file', 'a', 'none'], ['open', '../a'], ['show', 'none']):
        got = daemon.ctl(*refused)
        t.equal(got.rc, 1, got)
        assert len(got.err) > 10 and not got.raw, got
    for usage in ([], ['no-such'], ['open'], ['open', 'a', 'b', 'c'], ['ls', '--no-such'],
                  ['open', 'a', '--tier', 'x']):
        t.equal(daemon.ctl(*usage).rc, 2, usage)
    daemon.stop()
    got = daemon.ctl('ls')
    t.equal(got.rc, 3, got)
    assert daemon.socket in got.err, got


@test
def every_command_works_and_prints_JSON_when_asked(t):
    t.model('a')
    daemon = t.daemon()
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    profiles = BUILD / 'tools/profiles'
    arguments = {'cat': None, 'file': None, 'links': None, 'top': ['--count', '1', '--interval', '0.01'],
                 'profile': ['--show'],  # a model that trims-run knows is 830's
                 'plan': ['--profile', profiles / 'gpt2.json', '--machine', SOURCE / 'tools/profiles/v100-pcie3.json']}
    for command in COMMANDS:
        if arguments.get(command, []) is None:
            continue
        takes_model = command not in ('ls', 'stat', 'top', 'doctor')
        got = daemon.ctl(command, *(['a'] if takes_model else []), *arguments.get(command, []))
        t.equal(got.rc, 0, got)
        # What was taken off or dropped cannot be once more.
        again = {'unpin': 'pin', 'evict': 'pull'}.get(command)
        if again:
            t.equal(daemon.ctl(again, 'a').rc, 0)
        got = daemon.ctl(command, *(['a'] if takes_model else []), *arguments.get(command, []), '--json')
        t.equal(got.rc, 0, got)
        for line in [got.out] if command != 'top' else got.out.splitlines():
            json.loads(line)


@test
def help_names_every_command(t):
    got = run(CTL, '--help')
    t.equal(got.rc, 0)
    for command in COMMANDS:
        assert re.search(rf'^\s*{command}\b', got.out, re.M), command


@test
def pull_leaves_the_model_and_trace_tells_of_it(t):
    t.model('a', 9 << 20)
    daemon = t.daemon(sources=[remote.Nginx(t, t.models_dir).url])
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    t.equal(daemon.client().open('a').opened['hit'], 1)
    assert daemon.json('trace', 'a')
    assert 'a' in json.dumps(daemon.json('ls'))


@test
def show_names_the_files_that_do_not_travel(t):
    t.model('a', files={'big.json': b' ' * 5000})
    daemon = t.daemon(max_file_bytes='4K')
    os.mkfifo(t.models_dir / 'a/pipe.json')
    t.equal(daemon.ctl('open', 'a').rc, 0)
    shown = daemon.json('show', 'a')
    t.equal(({row['path'] for row in shown['left_out']}, shown['left_out_count']), ({'big.json', 'pipe.json'}, 2))
    text = daemon.ctl('show', 'a').out
    assert re.search(r'^big.json +5000 bytes are more than the 4096', text, re.M), text
    assert re.search(r'^pipe.json +.*no regular file$', text, re.M), text
    t.equal(daemon.metric('trims_fallback_total', reason='side-cut'), 2)
    assert 'degraded side-cut' in daemon.log(), daemon.log()
    t.equal(daemon.ctl('file', 'a', 'big.json').rc, 1)


@test
def open_hold_holds_until_its_input_ends(t):
    t.model('a')
    daemon = t.daemon()
    holder = t.spawn(CTL, '--socket', daemon.socket, 'open', 'a', '--hold')
    t.eventually(lambda: daemon.metric('trims_leases') == 1, 'it holds')
    holder.stdin.close()
    t.equal(holder.wait(PATIENCE), 0)
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'it let go')


@test
def a_reader_that_goes_away_is_no_error(t):
    t.model('a', 9 << 20, count=1)
    daemon = t.daemon()
    cat = t.spawn(CTL, '--socket', daemon.socket, 'cat', 'a', 'layer.0.weight', stdin=subprocess.DEVNULL)
    cat.stdout.read(10)
    cat.stdout.close()
    assert cat.wait(PATIENCE) in (0, 1, -signal.SIGPIPE)
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'its lease is back')


@test
def counters_are_read_after_the_daemon_died(t):
    t.model('a')
    daemon = t.daemon()
    daemon.client().open('a')
    daemon.kill()
    got = daemon.ctl('stat', '--prometheus')
    t.equal(got.rc, 0, got)
    assert daemon.metric('trims_requests_total', tier='host', result='miss') == 1


@test
def prometheus_text_is_served_where_asked(t):
    t.model('a')
    daemon = t.daemon(metrics='127.0.0.1:0')
    where = '127.0.0.1:' + re.search(r'metrics: serving on port (\d+)', daemon.log())[1]
    daemon.client().open('a')
    served = urllib.request.urlopen(f'http://{where}/metrics', timeout=PATIENCE).read().decode()
    mine = daemon.ctl('stat', '--prometheus').out

    def names(text):
        return set(re.findall(r'^(trims_\w+)', text, re.M))
    t.equal(names(served), names(mine))
    for path, status in (('/healthz', 200), ('/readyz', 200)):
        t.equal(urllib.request.urlopen(f'http://{where}{path}', timeout=PATIENCE).status, status)


@test
def verify_reads_every_byte(t):
    t.model('a', 9 << 20)
    daemon = t.daemon(sources=[remote.Nginx(t, t.models_dir).url], compress='never')
    t.equal(daemon.ctl('pull', 'a').rc, 0)
    t.eventually(lambda: daemon.metric('trims_tier_copies', tier='disk') == 1
                 and daemon.metric('trims_transfers_active') == 0, 'it is on disk')
    t.equal(daemon.ctl('verify', 'a').rc, 0)
    path = max((p for p in daemon.cache_dir.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    with open(path, 'r+b') as f:
        f.seek(path.stat().st_size // 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 1]))
    got = daemon.ctl('verify', 'a', '--json')
    assert got.rc == 1 or 'mismatch' in got.out.lower() or 'damaged' in got.out.lower(), got
    assert daemon.metric('trims_verify_failures_total', tier='disk') >= 1


@test
def a_lease_is_held_until_a_signal_or_the_other_end_of_a_pipe_says_so(t):
    t.model('a')
    daemon = t.daemon()
    for stdin, end in ((subprocess.DEVNULL, lambda p: p.send_signal(signal.SIGTERM)),  # as a script's `&` has it
                       (subprocess.PIPE, lambda p: p.stdin.close())):
        holder = t.spawn(CTL, '--socket', daemon.socket, 'open', 'a', '--hold', stdin=stdin)
        assert holder.stdout.readline().startswith(b'a: ')
        for _ in range(5):  # round trips: it had the time to leave
            t.equal(daemon.metric('trims_leases'), 1)
        end(holder)
        t.equal(holder.wait(PATIENCE), 0)
    t.eventually(lambda: daemon.metric('trims_leases') == 0, 'the lease is back')


main()

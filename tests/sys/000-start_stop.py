"""The daemon starts, says so, reads its configuration, and ends as it should."""
import os
import signal
import socket
import subprocess

from trimstest import CTL, MRM, PATIENCE, faulty, main, program_environment, run, test


@test
def it_starts_and_ends_on_SIGTERM(t):
    daemon = t.daemon()
    daemon.stop()
    assert not os.path.exists(daemon.socket), 'the socket is left behind'


@test
def it_ends_on_SIGINT_too(t):
    daemon = t.daemon()
    daemon.signal(signal.SIGINT)
    t.equal(daemon.wait(), 0)


@test
def it_takes_over_the_socket_of_a_dead_daemon(t):
    daemon = t.daemon()
    daemon.kill()
    daemon.start()
    t.equal(daemon.ctl('ls').rc, 0)


@test
def a_cache_directory_has_one_identity_for_all_runs(t):
    daemon = t.daemon()

    def ids(client):
        return [(client.welcome[kind + '_hi'], client.welcome[kind + '_lo']) for kind in ('identity', 'boot')]

    identity, boot = ids(daemon.client())
    daemon.kill()
    daemon.start()
    again, other_boot = ids(daemon.client())
    t.equal(again, identity)
    assert identity != (0, 0) and boot != other_boot, (identity, boot, other_boot)


@test
def two_daemons_do_not_share_a_socket_or_a_cache_directory(t):
    daemon = t.daemon()
    again = run(*daemon.command)
    assert again.rc not in (0, -signal.SIGSEGV), again
    elsewhere = list(daemon.command)
    elsewhere[2] = str(t.dir / 'other.sock')
    again = run(*elsewhere)
    assert again.rc != 0 and str(daemon.cache_dir) in again.err, again
    t.equal(daemon.ctl('ls').rc, 0, 'the first goes on')


@test
def unknown_options_and_values_are_refused_with_a_sentence(t):
    for bad in (['--no-such'], ['--host-bytes', 'many'], ['--host-bytes', '99999999999G'], ['--policy', 'magic'],
                ['--source', 'gopher://x'], ['--compress', 'maybe'], ['--host-bytes'], ['stray']):
        got = run(MRM, '--socket', t.dir / 's', '--cache-dir', t.dir, *bad)
        assert got.rc in (1, 2) and len(got.err) > 10, got


@test
def help_and_version_are_there(t):
    t.equal(run(MRM, '--help').rc, 0)
    assert '--cache-dir' in run(MRM, '--help').out
    t.equal(run(MRM, '--version').rc, 0)


@test
def a_configuration_file_is_below_the_environment_and_the_command_line(t):
    config = t.dir / 'mrm.conf'
    config.write_text(f'cache-dir = {t.dir}\nhost-bytes = 1M\ndisk-bytes = 2M\npolicy = lru\n'
                      f'source = dir:{t.models_dir}\n')
    got = run(MRM, '--config', config, '--print-config', '--host-bytes', '3M', TRIMS_DISK_BYTES='4M')
    t.equal(got.rc, 0, got)
    values = dict(line.replace(' ', '').split('=', 1) for line in got.out.splitlines()
                  if '=' in line and line[0] != '#')
    t.equal((values['policy'], values['cache-dir']), ('lru', str(t.dir)))
    t.equal([values['host-bytes'], values['disk-bytes']], [str(3 << 20), str(4 << 20)])


@test
def check_says_what_is_wrong_with_a_configuration(t):
    config = t.dir / 'mrm.conf'
    config.write_text(f'cache-dir = {t.dir}\nsource = dir:{t.models_dir}\n')
    t.equal(run(MRM, '--config', config, '--check').rc, 0)
    config.write_text('policy = lru\nno-such-thing = 1\n')
    got = run(MRM, '--config', config, '--check')
    assert got.rc != 0 and 'no-such-thing' in got.err + got.out, got
    for bad, named in ((['--ca-file', t.dir / 'gone.pem'], 'gone.pem'), (['--source', 'http://'], 'http://'),
                       (['--metrics', '127.0.0.1:65536'], '65536')):
        got = run(MRM, '--cache-dir', t.dir, '--check', *bad)
        assert got.rc == 2 and named in got.err, got


@test
def a_second_SIGTERM_ends_it_whatever_the_disk_does(t):
    count, cache = t.dir / 'count', t.dir / 'cache'
    daemon = t.daemon(drain_timeout='10m')
    daemon.stop()  # the first run makes folders
    daemon.environment = faulty(cache, 'count', count=count)
    daemon.start()
    daemon.stop()
    last = int(count.read_text())
    count.unlink()
    daemon.environment = faulty(cache, 'hang', at=last, count=count)
    daemon.start()
    daemon.signal(signal.SIGTERM)
    t.eventually(count.exists, 'the last write hangs')
    t.equal(daemon.process.poll(), None)
    daemon.signal(signal.SIGTERM)
    t.equal(daemon.wait(), -signal.SIGTERM)
    daemon.process.returncode = 0  # as it should be
    daemon.environment = {}
    daemon.start()


@test
def SIGHUP_takes_over_what_can_change(t):
    t.model('a', 1 << 20)
    config = t.dir / 'mrm.conf'
    config.write_text('log-level = info\npolicy = lru\n')
    daemon = t.daemon(arguments=['--config', config])
    config.write_text('log-level = info\npolicy = fifo\nadmin-group = 4711\n')
    daemon.signal(signal.SIGHUP)
    t.eventually(lambda: 'fifo' in daemon.ctl('doctor').out, 'the policy is the new one')
    config.write_text('policy = nonsense\n')
    daemon.signal(signal.SIGHUP)
    t.eventually(lambda: 'nonsense' in daemon.log(), 'the refusal is logged')
    assert 'fifo' in daemon.ctl('doctor').out, 'a bad file changes nothing'
    config.write_text('policy = lru\nadmin-group = nobody-has-this-group\n')
    daemon.signal(signal.SIGHUP)
    t.eventually(lambda: 'not reloaded, the old settings stay: admin-group: there is no group "nobody-has-this-group"'
                 in daemon.log(), 'the refusal is logged')
    doctor = daemon.ctl('doctor').out
    assert 'fifo' in doctor and '4711' in doctor and 'nobody-has-this-group' not in doctor, 'neither it nor what stood beside it'
    t.equal(daemon.ctl('open', 'a').rc, 0)


@test
def systemd_may_hand_it_the_socket(t):
    t.model('a')
    path = t.dir / 'mrm.sock'
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(8)
        early = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        early.connect(str(path))  # before there is a daemon at all
        early.close()
        shell = 'exec 3<&%d; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"' % listener.fileno()
        (t.dir / 'cache').mkdir()
        process = t.spawn('/bin/sh', '-c', shell, 'sh', MRM, '--socket', path, '--cache-dir', t.dir / 'cache',
                          '--source', f'dir:{t.models_dir}', pass_fds=[listener.fileno()], stdout=subprocess.DEVNULL,
                          stderr=open(t.dir / 'mrm.log', 'wb'))
    got = run(CTL, '--socket', path, 'open', 'a')  # waits in the socket's queue until the daemon is up
    t.equal(got.rc, 0, got)
    process.send_signal(signal.SIGTERM)
    t.equal(process.wait(PATIENCE), 0)
    assert path.exists(), 'the socket belongs to whoever handed it over'


@test
def the_watchdog_is_fed_and_the_end_announced(t):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(t.dir / 'watch'))
        listener.settimeout(PATIENCE)
        (t.dir / 'cache').mkdir()
        with open(t.dir / 'mrm.log', 'wb') as log:
            process = t.spawn(MRM, '--socket', t.dir / 's', '--cache-dir', t.dir / 'cache', '--source',
                              f'dir:{t.models_dir}', stdout=log, stderr=log,
                              env=program_environment(NOTIFY_SOCKET=str(t.dir / 'watch'), WATCHDOG_USEC='100000'))
        seen = b''
        while seen.count(b'WATCHDOG=1') < 3:
            seen += listener.recv(4096) + b'\n'
        assert b'READY=1' in seen, seen
        process.send_signal(signal.SIGTERM)
        while b'STOPPING=1' not in seen:
            seen += listener.recv(4096) + b'\n'
        t.equal(process.wait(PATIENCE), 0)


@test
def at_level_debug_every_message_is_a_line_of_the_log(t):
    t.model('a')
    daemon = t.daemon(log_level='debug')
    client = daemon.client()
    client.open('a').close()
    client.report('tiers')  # the CLOSE has been read
    lines = [line for line in daemon.log().splitlines() if ' msg: ' in line]
    for want in ('from #1 ?: HELLO #1', 'to #1 wire.py: WELCOME #1', 'from #1 wire.py: OPEN #2 model="a"',
                 'to #1 wire.py: OPENED #2 lease=', 'from #1 wire.py: CLOSE #3 lease='):
        assert any(want in line for line in lines), f'no {want!r} in {lines}'
    daemon.stop()
    daemon.command[daemon.command.index('debug')] = 'info'
    daemon.log_path.unlink()
    daemon.start()
    daemon.client().open('a')
    assert ' msg: ' not in daemon.log()


main()

"""trims-faas: a function in namespaces of its own uses the daemon by its socket, and sees nothing else."""
import json
import os
import shutil
import subprocess
import sys

from trimstest import BUILD, CTL, SOURCE, Skip, main, program_environment, run, test

sys.path[:0] = [str(SOURCE / 'tests/run')]
import reference  # noqa: E402  pylint: disable=wrong-import-position

FAAS = str(BUILD / 'tools/trims-faas')
MAKE_IMAGE = str(SOURCE / 'tools/faas/make-image')
COLD_START = str(SOURCE / 'tools/faas/cold-start')
RUN = str(BUILD / 'tools/trims-run')


def need_namespaces():
    """Skips where the kernel makes none for us."""
    if os.environ.get('TRIMS_SANITIZE', 'none') != 'none':
        raise Skip("a sanitizer's runtime does not belong into an image")
    probe = subprocess.run(['unshare', '--user', '--mount', '--pid', '--net', '--ipc', '--uts', '--fork', '--map-root-user',
                            'mount', '-t', 'proc', 'proc', '/proc'], stderr=subprocess.PIPE, check=False)
    if probe.returncode:
        raise Skip(f'no namespaces here: {probe.stderr.decode().strip()}')


def image_of(t, *arguments):
    """A function image."""
    need_namespaces()
    image = t.dir / 'image'
    made = run(MAKE_IMAGE, image, *arguments)
    t.equal(made.rc, 0, made)
    return image


def function(t, image, *arguments, prefix=()):
    """What a function printed; its root is made below TMPDIR, and must be gone afterwards."""
    roots = t.dir / 'roots'
    roots.mkdir(exist_ok=True)
    os.chmod(roots, 0o777)
    got = run(*prefix, FAAS, '--image', image, *arguments, TMPDIR=str(roots))
    t.equal(os.listdir(roots), [], 'roots')
    return got


@test
def a_function_reads_a_model_through_the_socket_alone(t):
    t.model('m')
    daemon = t.daemon()
    image = image_of(t, CTL)
    t.equal(daemon.ctl('pull', 'm').rc, 0)
    name = max(daemon.json('show', 'm')['tensors'], key=lambda tensor: tensor['bytes'])['name']
    outside = daemon.ctl('cat', 'm', name)
    inside = function(t, image, '--socket', daemon.socket, '--', '/bin/trims-ctl', 'cat', 'm', name)
    t.equal(inside.rc, 0, inside)
    assert inside.raw == outside.raw and len(inside.raw) > 1000, len(inside.raw)


@test
def another_user_can_start_one(t):
    if os.geteuid() != 0 or not shutil.which('setpriv'):
        raise Skip('becoming another user needs root')
    t.model('m')
    daemon = t.daemon(socket_mode='0666')
    image = image_of(t, CTL)
    for folder in (t.dir, image):
        os.chmod(folder, 0o755)
    got = function(t, image, '--socket', daemon.socket, '--', '/bin/trims-ctl', 'open', 'm',
                   prefix=['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'])
    t.equal(got.rc, 0, got)


@test
def it_sees_nothing_else_and_can_do_nothing(t):
    image = image_of(t, '/bin/sh', '/bin/ls:/bin/ls', '/usr/bin/id:/bin/id')
    (t.dir / 'note').write_text('from outside\n')
    look = r'''
        cd /; ls; id -u; echo $$
        (: > /file) 2>/dev/null && echo wrote to the root
        (: > /bin/file) 2>/dev/null && echo wrote to the image
        (: > /note) 2>/dev/null && echo wrote to what was mounted
        (: > /tmp/file) && echo wrote to /tmp
        (: <&7) 2>/dev/null && echo read a file that its starter had open
        read -r line < /note; echo $line; echo $COLOUR $PATH
        while read -r name rest; do case $name in CapEff:|NoNewPrivs:) echo $name $rest;; esac; done < /proc/self/status
        while read -r line; do case $line in *:*) echo net $line;; esac; done < /proc/net/dev
        '''
    got = function(t, image, '--bind', f'{t.dir}/note:/note', '--env', 'COLOUR=green', '--', '/bin/sh', '-c', look,
                   prefix=['sh', '-c', 'exec "$@" 7< /etc/passwd', 'sh'])
    lines = got.out.splitlines()
    root = sorted(os.listdir(image))
    t.equal(lines[:len(root) + 4], sorted(root + ['dev', 'note', 'proc', 'tmp']), got)
    t.equal(lines[len(root) + 4:len(root) + 6], ['1000', '1'], got)  # a plain user, the first process
    assert 'read a file that its starter had open' not in lines, got
    assert 'wrote to /tmp' in lines and sum(line.startswith('wrote') for line in lines) == 1, got
    assert 'from outside' in lines and 'green' in [line.split(' ')[0] for line in lines], got
    assert 'CapEff: 0000000000000000' in lines and 'NoNewPrivs: 1' in lines, got
    interfaces = [line for line in lines if line.startswith('net') and ':' in line and '|' not in line]
    assert len(interfaces) == 1 and interfaces[0].startswith('net lo:'), got


@test
def it_ends_as_its_program_ends(t):
    image = image_of(t, '/bin/sh')
    t.equal(function(t, image, '--', '/bin/sh', '-c', 'exit 7').rc, 7)
    t.equal(function(t, image, '--', '/bin/sh', '-c', 'kill -9 $$; exit 3').rc, 3)  # nobody kills the first process from inside
    for arguments, rc, words in (
            (['--', '/bin/none'], 125, '/bin/none: No such file'),
            (['--bind', f'{t.dir}/none:/x', '--', '/bin/sh'], 125, 'none: No such file'),
            (['--bind', '/etc:/../x', '--', '/bin/sh'], 2, '/../x'),
            (['--env', 'WRONG', '--', '/bin/sh'], 2, 'WRONG'),
            ([], 2, 'no program')):
        got = function(t, image, *arguments)
        t.equal(got.rc, rc, got)
        assert words in got.err, got
    t.equal(function(t, t.dir / 'no-image', '--', '/bin/sh').rc, 125)
    t.equal(run(FAAS, '--', '/bin/sh').rc, 2)


@test
def it_dies_with_who_started_it(t):
    image = image_of(t, '/bin/sh')
    p = subprocess.Popen([FAAS, '--image', str(image), '--', '/bin/sh', '-c', 'echo up; read -r line'], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, env=program_environment(TMPDIR=str(t.dir)))
    t.equal(p.stdout.readline(), b'up\n')
    p.kill()
    p.wait()
    t.equal(p.stdout.read(), b'')  # its end of the pipe is closed: it is gone, though nobody wrote a line
    p.stdin.close()
    p.stdout.close()


@test
def cold_starts_compute_what_a_process_outside_does(t):
    need_namespaces()
    reference.Bert(t.random).write(t.models_dir / 'm')
    daemon = t.daemon()
    infer = ['m', '--input', '3,1,4,1,5', '--threads', '2', '--json']
    outside = run(RUN, 'infer', '--socket', daemon.socket, *infer)
    t.equal(outside.rc, 0, outside)
    build = t.dir / 'build'  # the image is kept below it
    build.mkdir()
    (build / 'tools').symlink_to(BUILD / 'tools')
    roots = t.dir / 'roots'
    roots.mkdir()
    paths = [line.split()[2] for line in run('ldd', RUN).out.splitlines() if ' => /' in line]
    environment = program_environment(TRIMS_BUILD=str(build), TRIMS_SOCKET=str(daemon.socket), TMPDIR=str(roots))
    for several in 3, 1, 1:  # all at once make the image, one finds it, and to the last one a library has changed since
        each = [subprocess.Popen([COLD_START, *infer], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
                for _ in range(several)]
        for p in each:
            out, err = p.communicate()
            t.equal(p.returncode, 0, err)
            report = json.loads(out)
            t.equal(report['digest'], outside.json['digest'], err)
            times = report['times']
            assert times['total_ns'] >= times['process_ns'] > times['container_ns'] > 0, report
        library = next((build / 'faas-image/lib').glob('libjansson*'))
        t.equal(library.stat().st_size, os.stat(next(path for path in paths if library.name in path)).st_size, several)
        if several == 1:
            with open(library, 'ab') as f:
                f.write(b'of old')
    t.equal(os.listdir(roots), [], 'roots')
    t.equal(os.listdir(build / 'faas-image/bin'), ['trims-run'])
    t.equal(sorted(os.listdir(build)), ['faas-image', 'faas-image.lock', 'tools'])


@test
def a_cold_start_that_cannot_be_says_why(t):
    t.equal(run(COLD_START).rc, 2)
    got = run(COLD_START, 'm', TRIMS_SOCKET=str(t.dir / 'none'))
    t.equal(got.rc, 1, got)
    assert "none: no daemon's socket" in got.err, got
    need_namespaces()
    daemon = t.daemon()
    got = run(COLD_START, 'nobody', TRIMS_BUILD=str(BUILD), TRIMS_SOCKET=daemon.socket, TRIMS_FAAS_IMAGE=str(image_of(t, RUN)))
    t.equal(got.rc, 1, got)
    assert 'nobody' in got.err, got


main()

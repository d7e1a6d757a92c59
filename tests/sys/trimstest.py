"""trimstest - whole programs under test: starts mrm on its own socket and directories, runs trims-ctl, reports TAP.

    from trimstest import main, test
    @test
    def a_model_is_there_after_it_was_opened(t):
        t.model('a')
        daemon = t.daemon()
        t.equal(daemon.ctl('open', 'a').rc, 0)
    main()

Each test has a fresh directory (t.dir) and random numbers (t.random) that TRIMS_SEED repeats.  What it started is ended
when it returns, and must then end well: a daemon stops on SIGTERM with status 0 and leaves no process behind.
Nothing here waits for time to pass.  TRIMS_BUILD names the build directory; NNN-name.py SUBSTRING runs some tests only,
KEEP=1 leaves their directories."""
import contextlib
import json
import os
import pathlib
import random
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

import models
import wire

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get('TRIMS_BUILD', SOURCE / 'build')).resolve()
MRM, CTL = str(BUILD / 'mrm/mrm'), str(BUILD / 'tools/trims-ctl')
PATIENCE = float(os.environ.get('TRIMS_PATIENCE', 120))  # seconds until a wait for an event is a failure
# The driver of tests that open models on devices: the simulator of the build, unless TRIMS_GPU_DRIVER names another one.
SIMULATOR = str(BUILD / 'tools/simcuda/libsimcuda.so')
GPU_DRIVER = os.environ.get('TRIMS_GPU_DRIVER') or SIMULATOR
GPU_IS_SIMULATED = os.path.basename(GPU_DRIVER) == os.path.basename(SIMULATOR)
TESTS = []


class Skip(Exception):
    pass


def test(function):
    TESTS.append(function)
    return function


def program_environment(**more):
    """Ours without what would configure the programs under test."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(('TRIMS_', 'AWS_', 'HF_', 'NOTIFY', 'LISTEN_'))}
    return {**keep, 'LC_ALL': 'C', 'no_proxy': '*', **more}


def simulated_only(why):
    """For a test that a real device cannot be put through."""
    if not GPU_IS_SIMULATED:
        raise Skip(f'simulated devices only: {why}')


def faulty(folder, what, at=0, on=False, count=''):
    """The environment that makes the disk fail below a folder; see faulty.c."""
    if os.environ.get('TRIMS_SANITIZE', 'none') != 'none':
        raise Skip('a sanitizer does not share a process with preloaded faults')
    return {'LD_PRELOAD': str(BUILD / 'tests/sys/libfaulty.so'), 'FAULTY_DIR': str(folder), 'FAULTY_DO': what,
            'FAULTY_AT': str(at), 'FAULTY_COUNT': str(count), **({'FAULTY_ON': '1'} if on else {})}


class Result:
    """What a program that has ended said."""

    def __init__(self, arguments, rc, out, err):
        self.arguments, self.rc, self.raw, self.err = arguments, rc, out, err

    @property
    def out(self):
        return self.raw.decode()

    @property
    def json(self):
        return json.loads(self.raw)

    def __repr__(self):
        return f"{' '.join(self.arguments)}: exit {self.rc}\n{self.raw[-2000:].decode(errors='replace')}{self.err}"


def run(*arguments, stdin=None, timeout=PATIENCE, **environment):
    arguments = [str(a) for a in arguments]
    p = subprocess.run(arguments, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, check=False,
                       env=program_environment(**environment))
    return Result(arguments, p.returncode, p.stdout, p.stderr.decode(errors='replace'))


class Daemon:
    """One mrm.  It is ready, as it says itself, when the constructor returns."""

    def __init__(self, t, sources=None, arguments=(), wrapper=(), environment=None, program=MRM, **options):
        self.t, self.socket = t, str(t.dir / 'mrm.sock')
        self.cache_dir = pathlib.Path(options.pop('cache_dir', t.dir / 'cache'))
        self.cache_dir.mkdir(exist_ok=True)
        options = {'host_bytes': '256M', 'disk_bytes': '256M', 'min_residency': 0, 'negative': 0, 'retry_base': '1ms',
                   'profiler': 'no', **options}
        self.command = [*map(str, wrapper), str(program), '--socket', self.socket, '--cache-dir', str(self.cache_dir)]
        for source in [f'dir:{t.models_dir}'] if sources is None else sources:
            self.command += ['--source', source]
        for name, value in options.items():
            self.command += ['--' + name.replace('_', '-'), str(value)]
        self.command += [str(a) for a in arguments]
        self.environment = environment or {}
        self.log_path = t.dir / 'mrm.log'
        self.process = self.asker = None
        self.start()

    def start(self):
        notify, self.ready = self.t.dir / 'notify', False
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, open(self.log_path, 'ab') as log:
            listener.bind(str(notify))
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True,
                                            env=program_environment(NOTIFY_SOCKET=str(notify), **self.environment))
            self.t.at_end(self.end)
            pidfd = os.pidfd_open(self.process.pid)
            try:
                deadline = time.monotonic() + PATIENCE
                while True:
                    ready, _, _ = select.select([listener, pidfd], [], [], max(0, deadline - time.monotonic()))
                    if listener in ready and b'READY=1' in listener.recv(4096).split(b'\n'):
                        self.ready = True
                        return
                    if listener not in ready:
                        raise AssertionError(f'mrm {"ended" if ready else "is not ready"}:\n{self.log()[-4000:]}')
            finally:
                os.close(pidfd)

    def log(self):
        return self.log_path.read_text(errors='replace')

    def ctl(self, *arguments, **keywords):
        return run(CTL, '--socket', self.socket, *arguments, **keywords)

    def json(self, *arguments):
        """The report, which must be had."""
        result = self.ctl(*arguments, '--json')
        assert result.rc == 0, result
        return result.json

    def metric(self, name, **labels):
        """The sum of a metric's series that have these labels; read from shared memory, also after the daemon died.
        While it lives it is asked something first that makes it bring its gauges up to date."""
        if self.process.poll() is None:
            self.asker = self.asker or self.client()
            self.asker.report('tiers')
        result = self.ctl('stat', '--prometheus')
        assert result.rc == 0, result
        found = [float(m[2]) for m in re.finditer(rf'^{name}(?:{{(.*)}})? (\S+)$', result.out, re.M)
                 if all(f'{k}="{v}"' in (m[1] or '') for k, v in labels.items())]
        assert found, f'no metric {name} {labels} in:\n{result.out}'
        return sum(found)

    def client(self, **keywords):
        client = wire.Client(self.socket, PATIENCE, **keywords)
        self.t.at_end(client.close)
        return client

    def fds(self):
        found = []
        for n in os.listdir(f'/proc/{self.process.pid}/fd'):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.append(os.readlink(f'/proc/{self.process.pid}/fd/{n}'))
        return sorted(found)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(PATIENCE)

    def kill(self):
        """As a power cut would: no warning.  start() brings it back."""
        self.asker = None
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self):
        """SIGTERM; it must end by itself, with status 0 and without children."""
        self.asker = None
        self.signal(signal.SIGTERM)
        rc = self.wait()
        assert rc == 0, f'mrm ended with {rc}:\n{self.log()[-6000:]}'
        # A child that was killed may leave a moment's work of its sanitizer behind; what stays is ours.
        self.t.eventually(lambda: not processes_of(self.process.pid), 'no process is left')

    def end(self):
        """At the end of a test, whatever state it is in."""
        if self.process.poll() is None:
            try:
                self.stop()
            finally:  # one that does not stop shall not stay
                self.process.kill()
                self.process.wait()
        elif self.ready and self.process.returncode not in (0, -signal.SIGKILL) and not self.t.failed:
            raise AssertionError(f'mrm ended with {self.process.returncode}:\n{self.log()[-6000:]}')


def processes_of(session):
    return [p for p in os.listdir('/proc') if p.isdigit() and session_of(p) == session]


def session_of(pid):
    try:
        return int(pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[3])
    except (OSError, IndexError):
        return None


def public_place():
    """The temporary directory, or /tmp where root has a private one: tests of root are other users as well."""
    place = pathlib.Path(tempfile.gettempdir()).resolve()
    private = os.getuid() == 0 and not all(p.stat().st_mode & 1 for p in (place, *place.parents))
    return '/tmp' if private else str(place)


class Test:
    """What a test function gets."""

    def __init__(self, name, seed):
        self.name, self.random, self.failed = name, random.Random(f'{seed} {name}'), False
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix='trims-', dir=public_place()))
        self.models_dir = self.dir / 'models'
        self.models_dir.mkdir()
        self.endings = []

    def at_end(self, function):
        if function not in self.endings:
            self.endings.append(function)

    def daemon(self, *arguments, **keywords):
        return Daemon(self, *arguments, **keywords)

    def daemon_command(self, cache_dir):
        return [MRM, '--socket', self.dir / 'other.sock', '--cache-dir', cache_dir,
                '--source', f'dir:{self.models_dir}']

    def model(self, name, total=1 << 20, **keywords):
        """A random model in t.models_dir; returns its tensors, as models.read() would."""
        return models.make(self.models_dir / name, self.random, total, **keywords)

    def memory_dir(self, room=1 << 28):
        """A directory in memory where there is room: for a test that syncs hundreds of times, none of which needs a disk."""
        shm = '/dev/shm'
        good = os.access(shm, os.W_OK) and shutil.disk_usage(shm).free >= room
        path = pathlib.Path(tempfile.mkdtemp(prefix='trims-', dir=shm if good else self.dir))
        self.at_end(lambda: shutil.rmtree(path, ignore_errors=True))
        return path

    def spawn(self, *arguments, **keywords):
        """A program that goes on while the test does; killed at the end at the latest."""
        p = subprocess.Popen([str(a) for a in arguments], start_new_session=True,
                             **{'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT,
                                'env': program_environment(), **keywords})

        def reap():
            if p.poll() is None:
                p.kill()
            p.wait()
            for pipe in filter(None, (p.stdin, p.stdout, p.stderr)):
                pipe.close()
        self.at_end(reap)
        return p

    def equal(self, got, want, what=''):
        assert got == want, f'{what or "value"}: got {got!r}, want {want!r}'

    def eventually(self, condition, what):
        """Asks again and again, at most every 20 ms: without a pause the processor is spent on asking, not on what is awaited."""
        deadline, pause = time.monotonic() + PATIENCE, 0.0005
        while not condition():
            assert time.monotonic() < deadline, f'never happened: {what}'
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def finish(self):
        """Ends what was started, newest first; the first thing that does not end well is raised."""
        trouble = None
        for function in reversed(self.endings):
            try:
                function()
            except Exception as e:  # pylint: disable=broad-except
                trouble = trouble or e
        if not os.environ.get('KEEP'):
            shutil.rmtree(self.dir, ignore_errors=True)
        if trouble:
            raise trouble


# A check of the sanitizer's own code, not of ours: clang's for threads fails one now and then when many descriptors come and go.
BROKEN_SANITIZER = re.compile(r'ThreadSanitizer: (CHECK failed: \S*(?:sanitizer|tsan)_\S+)')


def run_one(function, seed):
    """'' or what went wrong."""
    t = Test(function.__name__, seed)
    trouble, broken = '', None
    try:
        function(t)
    except Skip:
        raise
    except BaseException:  # pylint: disable=broad-except
        trouble, t.failed = traceback.format_exc(), True
        logs = {log.name: log.read_text(errors='replace') for log in t.dir.glob('*.log')}
        broken = BROKEN_SANITIZER.search('\n'.join([trouble, *logs.values()]))
        trouble += ''.join(f'--- {name}\n{text[-4000:]}' for name, text in logs.items())
    finally:
        try:
            t.finish()
        except Exception:  # pylint: disable=broad-except
            trouble += traceback.format_exc()
    if broken:
        raise Skip(f'the sanitizer itself broke: {broken[1]}')
    return trouble


def cpu_seconds():
    """Of this process, and of those it started and waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main():
    seed = os.environ.get('TRIMS_SEED') or str(time.time_ns())
    chosen = [f for f in TESTS if not sys.argv[1:] or any(part in f.__name__ for part in sys.argv[1:])]
    failed = 0
    print(f'1..{len(chosen)}\n# TRIMS_SEED={seed}', flush=True)
    for number, function in enumerate(chosen, 1):
        title, began, used = function.__name__.replace('_', ' '), time.monotonic(), cpu_seconds()
        try:
            trouble = run_one(function, seed)
        except Skip as why:
            print(f'ok {number} - {title} # SKIP {why}', flush=True)
            continue
        failed += bool(trouble)
        print(''.join(f'# {line}\n' for line in trouble.splitlines()), end='')
        print(f'{"not ok" if trouble else "ok"} {number} - {title} ({time.monotonic() - began:.2f} s, '
              f'of a processor {cpu_seconds() - used:.2f} s)', flush=True)
    sys.exit(1 if failed else 0)

"""keeper - the helper process that holds descriptors while a daemon restarts, as tests see it."""
import os
import signal


def helpers(daemon):
    """Processes that hold this cache directory's keep.sock."""
    inodes = set()
    with open('/proc/net/unix', encoding='utf-8') as f:
        for line in f:
            if line.rstrip().endswith(str(daemon.cache_dir / 'keep.sock')):
                inodes.add(f'socket:[{line.split()[6]}]')
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            if any(os.readlink(f'/proc/{pid}/fd/{n}') in inodes for n in os.listdir(f'/proc/{pid}/fd')):
                found.append(int(pid))
        except OSError:
            pass
    return [p for p in found if p != daemon.process.pid]


def kept(t, **options):
    """A daemon with a helper, which the test does not leave behind."""
    daemon = t.daemon(keep_fds='helper', **options)
    leave_no_helper(t, daemon)
    return daemon


def leave_no_helper(t, daemon):
    def end_helper():
        for pid in helpers(daemon):
            os.kill(pid, signal.SIGKILL)
    t.endings.insert(0, end_helper)


def until_kept(t, daemon, copies):
    """A copy is given away behind its open."""
    t.eventually(lambda: sum('mrm:kept' in fd for pid in helpers(daemon) for fd in
                             (os.readlink(f'/proc/{pid}/fd/{n}') for n in os.listdir(f'/proc/{pid}/fd'))) == copies,
                 f'{copies} copies are kept')

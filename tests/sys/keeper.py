"""keeper - who holds descriptors while a daemon restarts: the helper process as tests see it, or a service manager, which a test
is itself."""
import contextlib
import os
import signal
import socket
import sys
import threading


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


# As a service manager starts a daemon: with what an earlier one has stored behind the standard descriptors.
START = """import fcntl, os, socket, sys
manager, store, *command = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as s:
    s.connect(store)
    names, fds, _, _ = socket.recv_fds(s, 1 << 16, 250)
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 3 + 2 * len(fds)) for fd in fds]
for fd in fds:
    os.close(fd)
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
    os.close(fd)
os.environ |= {'NOTIFY_SOCKET': manager, 'FDSTORE': '250', 'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': str(len(fds)),
               'LISTEN_FDNAMES': names.decode().strip()}
os.execv(command[0], command)
"""


class Manager:
    """Keeps what daemons store with it, in the way of systemd, and gives it to the next one; wrapper: how that is to be started."""

    def __init__(self, t):
        self.told, self.kept = str(t.dir / 'notify'), []  # [(name, descriptor)]
        self.notify, self.store = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)
        self.notify.bind(str(t.dir / 'manager'))
        self.store.bind(str(t.dir / 'store'))
        self.store.listen()
        self.wrapper = [sys.executable, '-c', START, str(t.dir / 'manager'), str(t.dir / 'store')]
        for run in (self.hear, self.give):
            threading.Thread(target=run, daemon=True).start()
        t.at_end(self.end)

    def hear(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                text, fds, _, _ = socket.recv_fds(self.notify, 4096, 4)
                rows = dict(row.split('=', 1) for row in text.decode().splitlines())
                if 'FDSTORE' in rows:
                    self.kept += [(rows['FDNAME'], fd) for fd in fds]
                if 'FDSTOREREMOVE' in rows:
                    self.drop(rows['FDNAME'])
                if 'READY' in rows:
                    self.notify.sendto(text, self.told)

    def give(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.store.accept()
                with peer:
                    names, fds = zip(*self.kept) if self.kept else ((), ())
                    socket.send_fds(peer, [':'.join(names).encode() or b' '], fds)

    def drop(self, *names):
        for row in [row for row in self.kept if row[0] in names]:
            self.kept.remove(row)
            os.close(row[1])

    def end(self):
        for s in (self.notify, self.store):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)  # or the threads would wait for ever
            s.close()
        self.drop(*[name for name, _ in self.kept])

/* yard_read.c - a plain O_DIRECT read of a whole file, several in flight; and a plain fork, exec, wait.
 * Keeps: as many buffers as reads in flight, faulted in before the clock starts. */
#include "shared/check.h"
#include "shared/own.h"
#include "tools/bench/bench.h"
#include "tools/bench/yard.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECE_BYTES (4 * MIB)
#define HUGE_BYTES (2 * MIB)
#define MAX_DEPTH 64

struct job {
	int fd;
	uint64_t bytes;
	uint32_t depth;
	uint8_t *buffers;
	_Atomic uint64_t next; /* offset of the next piece */
};

static void queue_piece(struct io_uring *ring, const struct job *j, uint32_t slot, uint64_t at)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	ASSERT(sqe);
	io_uring_prep_read(sqe, j->fd, j->buffers + slot * PIECE_BYTES, PIECE_BYTES, at);
	io_uring_sqe_set_data64(sqe, slot);
}

/* -ENOSYS or -EPERM: the kernel has no io_uring for us. */
static int read_by_ring(struct job *j)
{
	struct io_uring ring;
	uint64_t at = 0;
	uint32_t flying = 0;
	int r = io_uring_queue_init(MAX_DEPTH, &ring, 0);
	if (r < 0)
		return r;
	for (; flying < j->depth && at < j->bytes; at += PIECE_BYTES)
		queue_piece(&ring, j, flying++, at);
	while (flying) {
		struct io_uring_cqe *cqe;
		r = io_uring_submit_and_wait(&ring, 1);
		if (r < 0 || io_uring_wait_cqe(&ring, &cqe))
			die_errno(r < 0 ? -r : EIO, "io_uring");
		if (cqe->res < 0)
			die_errno(-cqe->res, "the yardstick's read");
		uint32_t slot = (uint32_t)cqe->user_data;
		io_uring_cqe_seen(&ring, cqe);
		flying--;
		if (at < j->bytes) {
			queue_piece(&ring, j, slot, at);
			at += PIECE_BYTES;
			flying++;
		}
	}
	io_uring_queue_exit(&ring);
	return 0;
}

struct reader {
	pthread_t thread;
	struct job *job;
	uint32_t slot;
};

static void *read_pieces(void *arg)
{
	struct reader *me = arg;
	struct job *j = me->job;
	for (uint64_t at; (at = atomic_fetch_add(&j->next, PIECE_BYTES)) < j->bytes;)
		if (pread(j->fd, j->buffers + me->slot * PIECE_BYTES, PIECE_BYTES, (off_t)at) < 0)
			die_errno(errno, "the yardstick's read");
	return NULL;
}

static void read_by_threads(struct job *j)
{
	struct reader readers[MAX_DEPTH];
	for (uint32_t i = 0; i < j->depth; i++) {
		readers[i] = (struct reader){.job = j, .slot = i};
		int r = pthread_create(&readers[i].thread, NULL, read_pieces, &readers[i]);
		if (r)
			die_errno(r, "pthread_create");
	}
	for (uint32_t i = 0; i < j->depth; i++)
		pthread_join(readers[i].thread, NULL);
}

/* Huge pages where the machine has them: a disk that takes a few hundred pieces per request, as virtual ones do, is three
 * times as fast into them, and the yardstick is to be the fastest plain read there is. */
static uint8_t *get_buffers(size_t bytes, uint8_t **aligned)
{
	uint8_t *space = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (space == MAP_FAILED)
		die_errno(errno, "mmap");
	*aligned = (uint8_t *)space + (HUGE_BYTES - (uintptr_t)space % HUGE_BYTES) % HUGE_BYTES;
	madvise(*aligned, bytes, MADV_HUGEPAGE);
	memset(*aligned, 1, bytes);
	return space;
}

uint64_t yard_read_ns(const char *path, uint32_t depth, const char **how)
{
	struct stat st;
	struct job j = {.depth = MIN(depth, MAX_DEPTH)};
	OWN_FD int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		die_errno(errno, "opening %s with O_DIRECT (set TMPDIR to a directory on a disk)", path);
	if (fstat(fd, &st))
		die_errno(errno, "%s", path);
	j.fd = fd;
	j.bytes = (uint64_t)st.st_size;
	size_t all = j.depth * PIECE_BYTES;
	uint8_t *space = get_buffers(all, &j.buffers);
	uint64_t started = bench_now_ns();
	*how = "io_uring";
	if (read_by_ring(&j) < 0) {
		*how = "pread threads";
		read_by_threads(&j);
	}
	uint64_t took = bench_now_ns() - started;
	munmap(space, all + HUGE_BYTES);
	return took;
}

uint32_t yard_daemon_depth(void)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	return (uint32_t)(8 * MAX(2, MIN(cores, 4)));
}

uint64_t yard_run_ns(const char *const argv[])
{
	int status;
	uint64_t started = bench_now_ns();
	pid_t pid = fork();
	if (pid < 0)
		die_errno(errno, "fork");
	if (pid == 0) {
		execv(argv[0], (char *const *)argv);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) != pid)
		die_errno(errno, "waitpid");
	uint64_t took = bench_now_ns() - started;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		die("%s %s ended with wait status %#x", argv[0], argv[1] ? argv[1] : "", status);
	return took;
}

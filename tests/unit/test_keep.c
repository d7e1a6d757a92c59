/* test_keep.c - descriptors that outlive whoever gave them away: a real helper process, and a service manager played by
 * the test. */
#include "mrm/keep/helper.h"
#include "tests/unit/unit.h"

#include "shared/seqpacket.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64], path[128];
static const uint64_t hold_ns = 60 * NS_PER_S;

static void begin(void)
{
	strcpy(dir, "/tmp/trims-keep-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/" HELPER_SOCKET, dir);
}

static void end(void)
{
	unlink(path);
	ck_assert_int_eq(rmdir(dir), 0);
}

static struct keep *open_keep(const char *mode, uint64_t hold)
{
	struct keep *k = NULL;
	struct fault why = {0};
	const struct keep_options o = {.mode = mode, .dir = dir, .hold_ns = hold};
	int e = keep_new(&k, &o, &why);
	ck_assert_msg(e == 0, "%s", why.text);
	return k;
}

static int memory(const char *text)
{
	int fd = memfd_create("keep", MFD_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	return fd;
}

static void put(struct keep *k, const char *name, const char *text)
{
	struct fault why = {0};
	int fd = memory(text), e = keep_put(k, name, fd, &why);
	ck_assert_msg(e == 0, "%s", why.text);
	close(fd);
}

/* What a descriptor of that name has in it. */
static void check_found(struct keep *k, const char *name, const char *text)
{
	size_t n;
	struct kept *f = keep_found(k, &n);
	for (size_t i = 0; i < n; i++) {
		char got[64] = {0};
		if (strcmp(f[i].name, name) != 0)
			continue;
		ck_assert_int_ge(pread(f[i].fd, got, sizeof got - 1, 0), 0);
		ck_assert_str_eq(got, text);
		ck_assert_int_ne(fcntl(f[i].fd, F_GETFD) & FD_CLOEXEC, 0);
		return;
	}
	ck_abort_msg("%s was not kept", name);
}

static size_t count_found(struct keep *k)
{
	size_t n;
	keep_found(k, &n);
	return n;
}

/* Until the helper is gone: its socket hangs up. */
static bool helper_ends(int probe)
{
	struct pollfd p = {.fd = probe, .events = POLLIN};
	char byte;
	return poll(&p, 1, 120000) == 1 && recv(probe, &byte, 1, 0) <= 0;
}

START_TEST(what_is_kept_is_there_for_the_next)
{
	begin();
	struct keep *k = open_keep("helper", hold_ns);
	ck_assert_int_eq(keep_where(k), KEEP_HELPER);
	ck_assert_uint_eq(count_found(k), 0);
	put(k, "one", "first");
	put(k, "two", "second");
	put(k, "one", "instead");
	put(k, "three", "third");
	keep_drop(k, "two");
	keep_drop(k, "never-there");
	keep_free(&k, false);
	k = open_keep("helper", hold_ns);
	ck_assert_uint_eq(count_found(k), 2);
	check_found(k, "one", "instead");
	check_found(k, "three", "third");
	keep_free(&k, true);
	k = open_keep("helper", hold_ns); /* another helper */
	ck_assert_uint_eq(count_found(k), 0);
	keep_free(&k, true);
	end();
}
END_TEST

START_TEST(it_survives_a_process_that_is_killed)
{
	begin();
	pid_t child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		struct keep *k = open_keep("helper", hold_ns);
		put(k, "left", "behind");
		raise(SIGKILL);
	}
	int status;
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	struct keep *k = open_keep("helper", hold_ns);
	ck_assert_uint_eq(count_found(k), 1);
	check_found(k, "left", "behind");
	keep_free(&k, true);
	end();
}
END_TEST

START_TEST(a_helper_that_nobody_comes_back_to_ends)
{
	begin();
	struct keep *k = open_keep("helper", 50 * NS_PER_MS);
	int pair[2];
	ck_assert_int_eq(seqpacket_pair(pair), 0);
	struct fault why;
	ck_assert_int_eq(keep_put(k, "end", pair[1], &why), 0);
	close(pair[1]);
	keep_free(&k, false);
	ck_assert(helper_ends(pair[0])); /* its end of the pair is closed with it */
	close(pair[0]);
	end();
}
END_TEST

START_TEST(garbage_hangs_up_and_harms_nothing)
{
	begin();
	struct keep *k = open_keep("helper", hold_ns);
	put(k, "good", "as ever");
	int probe, n = 0;
	ck_assert_int_eq(seqpacket_connect(path, 60 * NS_PER_S, &probe), 0);
	struct helper_msg m = {.op = HELPER_PUT}; /* no descriptor */
	memset(m.name, 'x', sizeof m.name);       /* no end */
	ck_assert_int_eq(seqpacket_send(probe, &m, sizeof m, NULL, 0, 0), 0);
	ck_assert(helper_ends(probe));
	close(probe);
	ck_assert_int_eq(seqpacket_connect(path, 60 * NS_PER_S, &probe), 0);
	ck_assert_int_eq(seqpacket_send(probe, &n, sizeof n, NULL, 0, 0), 0);
	ck_assert(helper_ends(probe));
	close(probe);
	keep_free(&k, false);
	k = open_keep("helper", hold_ns);
	check_found(k, "good", "as ever");
	keep_free(&k, true);
	end();
}
END_TEST

START_TEST(a_helper_that_was_killed_is_a_clear_error)
{
	begin();
	struct keep *k = open_keep("helper", hold_ns);
	struct ucred peer;
	socklen_t len = sizeof peer;
	int probe, fd = memory("lost");
	ck_assert_int_eq(seqpacket_connect(path, 60 * NS_PER_S, &probe), 0);
	ck_assert_int_eq(getsockopt(probe, SOL_SOCKET, SO_PEERCRED, &peer, &len), 0);
	/* The listener was made by this process, so that is whom the kernel names; the helper is asked for by its own end. */
	struct helper_msg m = {.op = HELPER_END};
	ck_assert_int_eq(seqpacket_send(probe, &m, sizeof m, NULL, 0, 0), 0);
	ck_assert(helper_ends(probe));
	close(probe);
	struct fault why;
	ck_assert_int_lt(keep_put(k, "late", fd, &why), 0);
	ck_assert_int_eq(why.code, TRIMS_E_NO_SYSTEM);
	close(fd);
	keep_free(&k, true);
	end();
}
END_TEST

/* ---- systemd ---- */

static int manager(void)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	snprintf(at.sun_path, sizeof at.sun_path, "%s/notify", dir);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	setenv("NOTIFY_SOCKET", at.sun_path, 1);
	return fd;
}

START_TEST(the_manager_is_given_what_shall_be_kept)
{
	begin();
	int s = manager(), fd = -1;
	setenv("FDSTORE", "16", 1);
	struct keep *k = open_keep("auto", hold_ns);
	ck_assert_int_eq(keep_where(k), KEEP_SYSTEMD);
	put(k, "g1.e0", "kept");
	char text[256] = {0}, got[16] = {0};
	uint32_t n = 0;
	ck_assert_int_gt(seqpacket_recv(s, text, sizeof text - 1, &fd, 1, &n, 0), 0);
	ck_assert_uint_eq(n, 1);
	ck_assert_str_eq(text, "FDSTORE=1\nFDPOLL=0\nFDNAME=trims.g1.e0");
	ck_assert_int_eq(pread(fd, got, sizeof got - 1, 0), 4);
	ck_assert_str_eq(got, "kept");
	close(fd);
	keep_drop(k, "g1.e0");
	memset(text, 0, sizeof text);
	ck_assert_int_gt(recv(s, text, sizeof text - 1, 0), 0);
	ck_assert_str_eq(text, "FDSTOREREMOVE=1\nFDNAME=trims.g1.e0");
	keep_free(&k, true);
	close(s);
	unlink(getenv("NOTIFY_SOCKET"));
	end();
}
END_TEST

START_TEST(what_the_manager_gives_back_is_found)
{
	begin();
	int s = manager(), fd = memory("again");
	char own[16];
	snprintf(own, sizeof own, "%d", (int)getpid());
	ck_assert_int_eq(dup2(fd, 3), 3);
	setenv("LISTEN_PID", own, 1);
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_FDNAMES", "trims.g7.e1", 1);
	struct keep *k = open_keep("systemd", hold_ns);
	ck_assert_uint_eq(count_found(k), 1);
	check_found(k, "g7.e1", "again");
	keep_free(&k, true);
	if (fd != 3)
		close(fd);
	close(s);
	unlink(getenv("NOTIFY_SOCKET"));
	end();
}
END_TEST

START_TEST(without_a_place_nothing_is_kept)
{
	struct fault why;
	begin();
	unsetenv("NOTIFY_SOCKET");
	unsetenv("FDSTORE");
	struct keep *k = open_keep("auto", hold_ns);
	ck_assert_int_eq(keep_where(k), KEEP_NOWHERE);
	int fd = memory("gone");
	ck_assert_int_lt(keep_put(k, "g1", fd, &why), 0);
	close(fd);
	keep_free(&k, true);
	const struct keep_options o = {.mode = "systemd", .dir = dir, .hold_ns = hold_ns};
	ck_assert_int_lt(keep_new(&k, &o, &why), 0);
	ck_assert_ptr_nonnull(strstr(why.text, "NOTIFY_SOCKET"));
	end();
}
END_TEST

static void helper(Suite *s)
{
	UNIT_CASE(s, "helper", what_is_kept_is_there_for_the_next, it_survives_a_process_that_is_killed,
		a_helper_that_nobody_comes_back_to_ends, garbage_hangs_up_and_harms_nothing,
		a_helper_that_was_killed_is_a_clear_error);
}

static void systemd(Suite *s)
{
	UNIT_CASE(s, "systemd", the_manager_is_given_what_shall_be_kept, what_the_manager_gives_back_is_found,
		without_a_place_nothing_is_kept);
}

UNIT_MAIN("keep", helper, systemd)

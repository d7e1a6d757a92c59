/* test_notify.c - mrm/notify: what a service manager passes is taken, anything else is refused. */
#include "mrm/notify.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST 3

static void pass(int fd, const char *pid, const char *count)
{
	char own[16];
	snprintf(own, sizeof own, "%d", (int)getpid());
	if (fd >= 0)
		ck_assert_int_eq(dup2(fd, FIRST), FIRST);
	else
		close(FIRST);
	setenv("LISTEN_PID", pid ? pid : own, 1);
	setenv("LISTEN_FDS", count, 1);
	setenv("LISTEN_FDNAMES", "mrm", 1);
}

static int taken(void)
{
	int fd = -1, e = notify_listen_fd(&fd);
	ck_assert_ptr_null(getenv("LISTEN_PID"));
	ck_assert_ptr_null(getenv("LISTEN_FDS"));
	ck_assert_ptr_null(getenv("LISTEN_FDNAMES"));
	if (!e)
		ck_assert_int_eq(fd, FIRST);
	return e;
}

static int listener(int type)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX}; /* an abstract name that the kernel picks */
	int fd = socket(AF_UNIX, type, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(bind(fd, (void *)&to, sizeof to.sun_family), 0);
	if (type != SOCK_DGRAM)
		ck_assert_int_eq(listen(fd, 4), 0);
	int high = fcntl(fd, F_DUPFD, 20);
	close(fd);
	return high;
}

START_TEST(one_listening_seqpacket_socket_is_taken)
{
	int fd = listener(SOCK_SEQPACKET);
	pass(fd, NULL, "1");
	ck_assert_int_eq(taken(), 0);
	ck_assert(fcntl(FIRST, F_GETFD) & FD_CLOEXEC);
	ck_assert(fcntl(FIRST, F_GETFL) & O_NONBLOCK);
	ck_assert_int_eq(taken(), -ENOENT); /* the second time there is nothing */
	close(fd);
}
END_TEST

START_TEST(nothing_passed_is_no_error)
{
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	ck_assert_int_eq(taken(), -ENOENT);
	pass(-1, NULL, "0");
	ck_assert_int_eq(taken(), -ENOENT);
	pass(-1, NULL, "nonsense");
	ck_assert_int_eq(taken(), -ENOENT);
	int fd = listener(SOCK_SEQPACKET);
	pass(fd, "1", "1"); /* meant for another process */
	ck_assert_int_eq(taken(), -ENOENT);
	close(fd);
}
END_TEST

START_TEST(anything_else_is_refused)
{
	int good = listener(SOCK_SEQPACKET), stream = listener(SOCK_STREAM), datagrams = listener(SOCK_DGRAM);
	int pair[2], file = open("/dev/null", O_RDWR);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	const int bad[] = {stream, datagrams, pair[0], file, -1};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		int high = bad[i] < 0 ? -1 : fcntl(bad[i], F_DUPFD, 40);
		pass(high, NULL, "1");
		ck_assert_msg(taken() == -EINVAL, "%zu", i);
	}
	pass(good, NULL, "2");
	ck_assert_int_eq(taken(), -EINVAL);
	pass(good, NULL, "99999999999999999999");
	ck_assert_int_eq(taken(), -EINVAL);
}
END_TEST

static int manager(bool abstract, char path[64])
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	snprintf(path, 64, "%ctest_notify.%d", abstract ? '@' : '/', (int)getpid());
	if (!abstract)
		snprintf(path, 64, "/tmp/test_notify.%d", (int)getpid());
	memcpy(to.sun_path, path, strlen(path));
	if (abstract)
		to.sun_path[0] = 0;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(fd, (void *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path))), 0);
	return fd;
}

START_TEST(the_manager_hears_what_is_said)
{
	for (int abstract = 0; abstract < 2; abstract++) {
		char path[64], got[200] = "";
		int fd = manager(abstract, path);
		setenv("NOTIFY_SOCKET", path, 1);
		notify_send("READY=1\nSTATUS=serving");
		ck_assert_int_eq(recv(fd, got, sizeof got - 1, 0), 22);
		ck_assert_str_eq(got, "READY=1\nSTATUS=serving");
		notify_reloading();
		ck_assert_int_gt(recv(fd, got, sizeof got - 1, 0), 0);
		unsigned long long usec = 0;
		ck_assert_int_eq(sscanf(got, "RELOADING=1\nMONOTONIC_USEC=%llu", &usec), 1);
		ck_assert_uint_gt(usec, 0);
		close(fd);
		if (!abstract)
			unlink(path);
	}
}
END_TEST

static int listen_at(const char *path, size_t len)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	memcpy(to.sun_path, path, len);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(fd, (void *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)), 0);
	return fd;
}

static bool heard(int fd)
{
	char got[16];
	return recv(fd, got, sizeof got, 0) > 0;
}

START_TEST(an_address_that_is_none_is_told_nothing)
{
	char dir[] = "/tmp/test_notify.XXXXXX", much[300], cut[108] = "";
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(chdir(dir), 0);
	memset(much, 'x', sizeof much);
	memcpy(much, dir, strlen(dir));
	much[strlen(dir)] = '/';
	much[sizeof much - 1] = 0;
	memcpy(cut, much, sizeof cut - 1);
	int near = listen_at("relative", 8), shortened = listen_at(cut, sizeof cut - 1), next = dup(near);
	const char *const paths[] = {NULL, "", "relative", "/tmp/there/is/nobody", much};
	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		if (paths[i])
			setenv("NOTIFY_SOCKET", paths[i], 1);
		else
			unsetenv("NOTIFY_SOCKET");
		notify_send("READY=1");
		ck_assert_msg(!heard(near) && !heard(shortened), "sent for \"%.20s\"", paths[i] ? paths[i] : "(none)");
	}
	int after = dup(near);
	ck_assert_int_eq(after, next + 1); /* nothing stays open */
	setenv("NOTIFY_SOCKET", cut, 1);
	notify_send("READY=1");
	ck_assert(heard(shortened)); /* it would have been heard */
	unlink("relative");
	unlink(cut);
	ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

START_TEST(the_watchdog_is_fed_at_half_its_time)
{
	char own[16];
	snprintf(own, sizeof own, "%d", (int)getpid());
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
	ck_assert_double_eq(notify_watchdog_interval(), 0);
	setenv("WATCHDOG_USEC", "3000000", 1);
	ck_assert_double_eq(notify_watchdog_interval(), 1.5);
	setenv("WATCHDOG_PID", own, 1);
	ck_assert_double_eq(notify_watchdog_interval(), 1.5);
	setenv("WATCHDOG_PID", "1", 1);
	ck_assert_double_eq(notify_watchdog_interval(), 0);
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "activation", one_listening_seqpacket_socket_is_taken, nothing_passed_is_no_error,
		anything_else_is_refused);
	UNIT_CASE(suite, "notifications", the_manager_hears_what_is_said, an_address_that_is_none_is_told_nothing,
		the_watchdog_is_fed_at_half_its_time);
}

UNIT_MAIN("notify", all)

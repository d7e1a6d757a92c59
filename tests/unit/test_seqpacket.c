/* test_seqpacket.c - datagrams and descriptors over a real socket, and what happens when the peer does not play fair. */
#include "shared/seqpacket.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int pair[2];

static unsigned open_fds(void)
{
	unsigned n = 0;
	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) != -1;
	return n;
}

static void setup(void)
{
	ck_assert_int_eq(seqpacket_pair(pair), 0);
}

static void teardown(void)
{
	close(pair[0]);
	close(pair[1]);
}

START_TEST(datagrams_keep_their_edges)
{
	char buf[16];
	uint32_t n;
	ck_assert_int_eq(seqpacket_send(pair[0], "ab", 2, NULL, 0, 0), 0);
	ck_assert_int_eq(seqpacket_send(pair[0], "cde", 3, NULL, 0, 0), 0);
	ck_assert_int_eq(seqpacket_recv(pair[1], buf, sizeof buf, NULL, 0, &n, 0), 2);
	ck_assert_int_eq(seqpacket_recv(pair[1], buf, sizeof buf, NULL, 0, &n, 0), 3);
	ck_assert_mem_eq(buf, "cde", 3);
	ck_assert_uint_eq(n, 0);
	ck_assert_int_eq(seqpacket_recv(pair[1], buf, sizeof buf, NULL, 0, &n, MSG_DONTWAIT), -EAGAIN);
}
END_TEST

START_TEST(descriptors_arrive_close_on_exec)
{
	int out[SEQPACKET_MAX_FDS], in[SEQPACKET_MAX_FDS];
	char buf[4];
	uint32_t n;
	for (int i = 0; i < SEQPACKET_MAX_FDS; i++)
		out[i] = pair[0];
	ck_assert_int_eq(seqpacket_send(pair[0], "x", 1, out, SEQPACKET_MAX_FDS, 0), 0);
	ck_assert_int_eq(seqpacket_recv(pair[1], buf, sizeof buf, in, SEQPACKET_MAX_FDS, &n, 0), 1);
	ck_assert_uint_eq(n, SEQPACKET_MAX_FDS);
	for (uint32_t i = 0; i < n; i++) {
		ck_assert_int_eq(fcntl(in[i], F_GETFD), FD_CLOEXEC);
		close(in[i]);
	}
	ck_assert_int_eq(seqpacket_send(pair[0], "x", 1, out, SEQPACKET_MAX_FDS + 1, 0), -EINVAL);
}
END_TEST

START_TEST(surplus_descriptors_are_closed_and_refused)
{
	unsigned before = open_fds();
	for (uint32_t sent = 1; sent < 6; sent++)
		for (uint32_t max = 0; max < sent; max++) {
			int out[6], in[6];
			char buf[4];
			uint32_t n;
			for (int i = 0; i < 6; i++)
				out[i] = pair[0];
			ck_assert_int_eq(seqpacket_send(pair[0], "x", 1, out, sent, 0), 0);
			ck_assert_int_eq(seqpacket_recv(pair[1], buf, sizeof buf, in, max, &n, 0), -EPROTO);
			ck_assert_uint_eq(n, 0);
		}
	ck_assert_uint_eq(open_fds(), before);
}
END_TEST

START_TEST(a_datagram_too_long_is_refused_with_its_descriptors)
{
	unsigned before = open_fds();
	int in[2];
	char buf[4];
	uint32_t n;
	ck_assert_int_eq(seqpacket_send(pair[0], "12345", 5, pair, 2, 0), 0);
	ck_assert_int_eq(seqpacket_recv(pair[1], buf, sizeof buf, in, 2, &n, 0), -EPROTO);
	ck_assert_uint_eq(n, 0);
	ck_assert_uint_eq(open_fds(), before);
}
END_TEST

START_TEST(a_peer_that_is_gone_is_an_end_and_no_signal)
{
	char buf[4];
	uint32_t n;
	close(pair[0]);
	ck_assert_int_eq(seqpacket_recv(pair[1], buf, sizeof buf, NULL, 0, &n, 0), 0);
	ck_assert_int_eq(seqpacket_send(pair[1], "x", 1, NULL, 0, 0), -EPIPE);
	pair[0] = dup(pair[1]);
}
END_TEST

START_TEST(a_listener_is_found_by_path_and_knows_who_came)
{
	char dir[] = "/tmp/trims-seqpacket-XXXXXX", path[64];
	int listener, client, server, twice;
	struct seqpacket_peer peer;
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/sock", dir);
	ck_assert_int_eq(seqpacket_connect(path, 0, &client), -ENOENT);
	ck_assert_int_eq(seqpacket_listen(path, 4, &listener), 0);
	ck_assert_int_eq(seqpacket_listen(path, 4, &twice), -EADDRINUSE);
	ck_assert_int_eq(seqpacket_accept(listener, &server), -EAGAIN);
	ck_assert_int_eq(seqpacket_connect(path, NS_PER_S, &client), 0);
	ck_assert_int_eq(seqpacket_accept(listener, &server), 0);
	ck_assert_int_eq(seqpacket_peer(server, &peer), 0);
	ck_assert_int_eq(peer.pid, getpid());
	ck_assert_int_eq(peer.uid, getuid());
	close(server);
	close(client);
	close(listener);
	ck_assert_int_eq(seqpacket_connect(path, 0, &client), -ECONNREFUSED);
	unlink(path);
	rmdir(dir);
}
END_TEST

START_TEST(connecting_to_a_full_backlog_gives_up_in_time)
{
	char path[64];
	int listener, clients[3], r = 0;
	snprintf(path, sizeof path, "@trims-test-seqpacket-%d", (int)getpid());
	ck_assert_int_eq(seqpacket_listen(path, 0, &listener), 0);
	for (int i = 0; i < 3 && r == 0; i++)
		r = seqpacket_connect(path, NS_PER_MS, &clients[i]);
	ck_assert_int_eq(r, -EAGAIN);
}
END_TEST

START_TEST(paths_that_no_address_holds_are_refused)
{
	char path[200];
	int fd;
	memset(path, 'p', sizeof path - 1);
	path[sizeof path - 1] = 0;
	ck_assert_int_eq(seqpacket_connect(path, 0, &fd), -ENAMETOOLONG);
	ck_assert_int_eq(seqpacket_listen(path, 1, &fd), -ENAMETOOLONG);
	ck_assert_int_eq(seqpacket_connect("", 0, &fd), -EINVAL);
	path[107] = 0; /* the longest that fits, and it is not there */
	ck_assert_int_eq(seqpacket_connect(path, 0, &fd), -ENOENT);
}
END_TEST

static void sockets(Suite *s)
{
	UNIT_CASE(s, "addresses", a_listener_is_found_by_path_and_knows_who_came,
		connecting_to_a_full_backlog_gives_up_in_time, paths_that_no_address_holds_are_refused);
	TCase *c = tcase_create("datagrams");
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, datagrams_keep_their_edges);
	tcase_add_test(c, descriptors_arrive_close_on_exec);
	tcase_add_test(c, surplus_descriptors_are_closed_and_refused);
	tcase_add_test(c, a_datagram_too_long_is_refused_with_its_descriptors);
	tcase_add_test(c, a_peer_that_is_gone_is_an_end_and_no_signal);
	suite_add_tcase(s, c);
}

UNIT_MAIN("seqpacket", sockets)

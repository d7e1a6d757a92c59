/* test_outbox.c - what a peer that does not read is sent, and what that takes from others. */
#include "mrm/outbox.h"
#include "shared/seqpacket.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define DESCRIPTORS 4096

static struct outbox_ledger ledger;
static int pair[2], other_pair[2], null;

static void setup(void)
{
	ck_assert_int_eq(seqpacket_pair(pair), 0);
	ck_assert_int_eq(seqpacket_pair(other_pair), 0);
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(null, 0);
	outbox_ledger_init(&ledger, DESCRIPTORS);
}

static void teardown(void)
{
	close(pair[0]);
	close(pair[1]);
	close(other_pair[0]);
	close(other_pair[1]);
	close(null);
}

static int send_number(struct outbox *o, uint32_t number, uint32_t n_fds)
{
	int fds[MSG_MAX_FDS];
	for (uint32_t i = 0; i < n_fds; i++)
		fds[i] = null;
	return outbox_send(o, &number, sizeof number, fds, n_fds);
}

/* The next message's number, with n_fds descriptors; UINT32_MAX when there is none. */
static uint32_t read_number(int socket, uint32_t n_fds)
{
	uint32_t number, n;
	int fds[MSG_MAX_FDS];
	ssize_t len = seqpacket_recv(socket, &number, sizeof number, fds, MSG_MAX_FDS, &n, MSG_DONTWAIT);
	if (len == -EAGAIN)
		return UINT32_MAX;
	ck_assert_int_eq(len, sizeof number);
	ck_assert_uint_eq(n, n_fds);
	msg_close_fds(fds, n);
	return number;
}

START_TEST(a_peer_that_reads_is_never_held)
{
	struct outbox o;
	outbox_init(&o, &ledger, pair[0]);
	for (uint32_t i = 0; i < 1000; i++) {
		ck_assert_int_eq(send_number(&o, i, 100), 0);
		ck_assert_uint_eq(read_number(pair[1], 100), i);
		ck_assert(!o.held);
	}
	ck_assert(outbox_is_read(&o));
	ck_assert_uint_eq(ledger.unread, 0);
	outbox_fini(&o);
}
END_TEST

START_TEST(what_may_not_go_waits_in_order_until_all_is_read)
{
	struct outbox o;
	outbox_init(&o, &ledger, pair[0]);
	for (uint32_t i = 0; i < 10; i++)
		ck_assert_int_eq(send_number(&o, i, 100), 0);
	ck_assert(o.held);
	ck_assert_uint_eq(o.unread_fds, 200); /* of at most 260 */
	ck_assert_uint_eq(o.n_queued, 8);
	ck_assert_uint_eq(ledger.queued, o.queued_fds);
	ck_assert_uint_eq(read_number(pair[1], 100), 0);
	ck_assert_int_eq(outbox_flush(&o), 0);
	ck_assert_uint_eq(o.n_queued, 8); /* one is unread yet */
	for (uint32_t i = 1; i < 10; i++) {
		ck_assert_uint_eq(read_number(pair[1], 100), i);
		ck_assert_int_eq(outbox_flush(&o), 0);
	}
	ck_assert_uint_eq(read_number(pair[1], 0), UINT32_MAX);
	ck_assert(!o.held);
	ck_assert_uint_eq(ledger.queued, 0);
	outbox_fini(&o);
}
END_TEST

START_TEST(answers_without_descriptors_are_not_held_but_keep_their_place)
{
	struct outbox o;
	outbox_init(&o, &ledger, pair[0]);
	send_number(&o, 0, MSG_MAX_FDS);
	send_number(&o, 1, MSG_MAX_FDS);
	send_number(&o, 2, 0);
	ck_assert_uint_eq(o.n_queued, 0);
	send_number(&o, 3, 1);
	send_number(&o, 4, 0);
	ck_assert_uint_eq(o.n_queued, 2);
	for (uint32_t i = 0; i < 3; i++)
		ck_assert_uint_eq(read_number(pair[1], i < 2 ? MSG_MAX_FDS : 0), i);
	ck_assert_int_eq(outbox_flush(&o), 0);
	ck_assert_uint_eq(read_number(pair[1], 1), 3);
	ck_assert_uint_eq(read_number(pair[1], 0), 4);
	outbox_fini(&o);
}
END_TEST

START_TEST(a_full_queue_is_told_and_frees_its_descriptors)
{
	struct outbox o;
	outbox_init(&o, &ledger, pair[0]);
	for (uint32_t i = 0; i < OUTBOX_MAX_UNREAD + OUTBOX_MAX_REPLIES; i++)
		ck_assert_int_eq(send_number(&o, i, 1), 0);
	ck_assert_int_eq(send_number(&o, 9999, 1), -ENOBUFS);
	ck_assert_uint_eq(ledger.queued, OUTBOX_MAX_REPLIES);
	outbox_fini(&o);
	ck_assert_uint_eq(ledger.queued, 0);
	ck_assert(!outbox_is_read(&o)); /* what is in flight stays on the ledger */
	ck_assert_uint_eq(ledger.unread, OUTBOX_MAX_UNREAD);
}
END_TEST

START_TEST(who_has_read_everything_is_served_whatever_others_leave_unread)
{
	struct outbox deaf, other;
	outbox_init(&deaf, &ledger, pair[0]);
	outbox_init(&other, &ledger, other_pair[0]);
	ledger.unread = ledger.max_unread; /* many like the first one */
	ck_assert_int_eq(send_number(&deaf, 0, 3), 0);
	ck_assert_int_eq(send_number(&deaf, 1, 3), 0);
	ck_assert(deaf.held);
	for (uint32_t i = 0; i < 5; i++) {
		ck_assert_int_eq(send_number(&other, i, 3), 0);
		ck_assert_uint_eq(read_number(other_pair[1], 3), i);
	}
	ck_assert(!other.held);
	outbox_fini(&deaf);
	outbox_fini(&other);
}
END_TEST

START_TEST(queues_together_have_a_quarter_of_all_descriptors)
{
	struct outbox o;
	outbox_init(&o, &ledger, pair[0]);
	int e = 0;
	for (uint32_t i = 0; !e && i < 64; i++)
		e = send_number(&o, i, MSG_MAX_FDS);
	ck_assert_int_eq(e, -EMFILE);
	ck_assert_uint_le(ledger.queued, DESCRIPTORS / 4);
	outbox_fini(&o);
}
END_TEST

START_TEST(a_peer_that_hung_up_has_nothing_in_flight)
{
	struct outbox o;
	outbox_init(&o, &ledger, pair[0]);
	send_number(&o, 0, 10);
	ck_assert(!outbox_is_read(&o));
	close(pair[1]);
	ck_assert(outbox_is_read(&o));
	ck_assert_uint_eq(ledger.unread, 0);
	ck_assert_int_lt(send_number(&o, 1, 1), 0);
	outbox_fini(&o);
	pair[1] = open("/dev/null", O_RDONLY | O_CLOEXEC); /* for teardown */
}
END_TEST

static void sending(Suite *s)
{
	TCase *tc = tcase_create("sending");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, a_peer_that_reads_is_never_held);
	tcase_add_test(tc, what_may_not_go_waits_in_order_until_all_is_read);
	tcase_add_test(tc, answers_without_descriptors_are_not_held_but_keep_their_place);
	tcase_add_test(tc, a_full_queue_is_told_and_frees_its_descriptors);
	tcase_add_test(tc, who_has_read_everything_is_served_whatever_others_leave_unread);
	tcase_add_test(tc, queues_together_have_a_quarter_of_all_descriptors);
	tcase_add_test(tc, a_peer_that_hung_up_has_nothing_in_flight);
	suite_add_tcase(s, tc);
}

UNIT_MAIN("outbox", sending)

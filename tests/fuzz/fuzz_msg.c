/* fuzz_msg.c - one datagram from a peer: the first byte says how many descriptors come with it, the rest are its bytes.
 * What decodes must encode to the same bytes and descriptors; what does not must leave no descriptor open. */
#include "shared/check.h"
#include "shared/msg.h"
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void check_same(const struct msg *m, const uint8_t *data, size_t size, const int *fds, uint32_t n)
{
	uint8_t again[MSG_MAX_BYTES];
	int fds_again[MSG_MAX_FDS];
	uint32_t n_again;
	char line[64];

	ASSERT(msg_encode(m, again, sizeof again, fds_again, &n_again) == (ssize_t)size);
	ASSERT(!memcmp(again, data, size));
	ASSERT(n_again == n && !memcmp(fds, fds_again, n * sizeof *fds));
	ASSERT(msg_print(m, line, sizeof line) == strlen(line));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fds[MSG_MAX_FDS];
	uint32_t n = 0;
	struct msg m;

	if (size == 0)
		return 0;
	while (n < MIN(data[0], MSG_MAX_FDS)) {
		fds[n] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		ASSERT(fds[n] >= 0);
		n++;
	}
	int r = msg_decode(data + 1, size - 1, fds, n, &m);
	ASSERT(r == 0 || r == -EPROTO);
	if (r == 0) {
		check_same(&m, data + 1, size - 1, fds, n);
		msg_fini(&m);
	}
	for (uint32_t i = 0; i < n; i++)
		ASSERT(fcntl(fds[i], F_GETFD) == -1);
	return 0;
}

/* test_shm.c - mrm/shm: whoever gets the descriptor can read, and that is all. */
#include "mrm/shm.h"
#include "shared/own.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t sizes[] = {1, 4095, 4096, 5000, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB + 12345, 8 * MIB};

static struct shm_region made(uint64_t bytes, bool posix)
{
	struct shm_options o = {.force_posix = posix};
	struct shm_region r;
	struct fault why;
	ck_assert_msg(shm_new(&r, "test", bytes, &o, &why) == 0, "%s", why.text);
	ck_assert_int_eq(r.kind, posix ? SHM_POSIX : SHM_MEMFD);
	return r;
}

/* What the client sees at fd is what the daemon wrote at r->map. */
static void check_shared(const struct shm_region *r)
{
	struct stat st;
	ck_assert_int_eq(fstat(r->fd, &st), 0);
	ck_assert_uint_eq((uint64_t)st.st_size, r->bytes);
	uint8_t *theirs = mmap(NULL, r->bytes, PROT_READ, MAP_SHARED, r->fd, 0), *ours = r->map;
	ck_assert_ptr_ne(theirs, MAP_FAILED);
	for (uint64_t i = 0; i < r->bytes; i += 4001) {
		ours[i] = (uint8_t)(i + 1);
		ck_assert_uint_eq(theirs[i], (uint8_t)(i + 1));
	}
	ours[r->bytes - 1] = 77;
	ck_assert_uint_eq(theirs[r->bytes - 1], 77);
	munmap(theirs, r->bytes);
}

START_TEST(any_size_is_mapped_and_shared)
{
	for (int posix = 0; posix < 2; posix++)
		for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
			struct shm_region r = made(sizes[i], posix);
			check_shared(&r);
			if (r.bytes >= 2 * MIB)
				ck_assert_uint_eq((uintptr_t)r.map % (2 * MIB), 0);
			shm_fini(&r);
			ck_assert_int_eq(r.fd, -1);
			ck_assert_ptr_null(r.map);
			shm_fini(&r);
		}
}
END_TEST

START_TEST(no_client_can_write_resize_or_unseal_a_memfd)
{
	struct shm_region r = made(4 * MIB, false);
	char path[64], byte = 1;
	memset(r.map, 5, r.bytes);
	snprintf(path, sizeof path, "/proc/self/fd/%d", r.fd);
	ck_assert_int_eq(write(r.fd, &byte, 1), -1);
	ck_assert_int_eq(errno, EPERM);
	ck_assert_int_eq(pwrite(r.fd, &byte, 1, 100), -1);
	ck_assert_ptr_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, 0), MAP_FAILED);
	ck_assert_int_eq(ftruncate(r.fd, 0), -1);
	ck_assert_int_eq(ftruncate(r.fd, 8 << 20), -1);
	ck_assert_int_eq(fallocate(r.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
	ck_assert_int_eq(fallocate(r.fd, 0, 4 << 20, 4096), -1);
	ck_assert_int_eq(fcntl(r.fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	int again = open(path, O_RDWR | O_CLOEXEC);
	if (again >= 0) { /* opening it is not refused, writing is */
		ck_assert_int_eq(write(again, &byte, 1), -1);
		ck_assert_ptr_eq(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
		ck_assert_int_eq(ftruncate(again, 0), -1);
		close(again);
	}
	uint8_t *theirs = mmap(NULL, 4096, PROT_READ, MAP_SHARED, r.fd, 0);
	ck_assert_int_eq(mprotect(theirs, 4096, PROT_READ | PROT_WRITE), -1);
	ck_assert_uint_eq(*(uint8_t *)r.map, 5);
	ck_assert_msg(!memcmp(r.map, (char *)r.map + 1, r.bytes - 1), "something was written");
	((uint8_t *)r.map)[9] = 6; /* the daemon itself goes on filling it */
	ck_assert_uint_eq(theirs[9], 6);
	munmap(theirs, 4096);
	shm_fini(&r);
}
END_TEST

START_TEST(posix_memory_is_handed_out_read_only_and_has_no_name)
{
	struct shm_region r = made(MIB, true);
	char link[256] = "", path[64], byte = 1;
	ck_assert_int_eq(fcntl(r.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	ck_assert_int_eq(write(r.fd, &byte, 1), -1);
	ck_assert_int_eq(ftruncate(r.fd, 0), -1);
	ck_assert_ptr_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, 0), MAP_FAILED);
	uint8_t *theirs = mmap(NULL, 4096, PROT_READ, MAP_SHARED, r.fd, 0);
	ck_assert_int_eq(mprotect(theirs, 4096, PROT_READ | PROT_WRITE), -1);
	munmap(theirs, 4096);
	snprintf(path, sizeof path, "/proc/self/fd/%d", r.fd);
	ck_assert_int_gt(readlink(path, link, sizeof link - 1), 0);
	ck_assert_msg(strstr(link, "(deleted)") != NULL, "%s has a name", link);
	shm_fini(&r);
}
END_TEST

START_TEST(small_contents_are_there_at_once)
{
	for (int posix = 0; posix < 2; posix++) {
		struct shm_options o = {.force_posix = posix};
		struct shm_region r;
		struct fault why;
		char back[8] = "";
		ck_assert_int_eq(shm_new_filled(&r, "text", "sealed", 6, &o, &why), 0);
		ck_assert_ptr_null(r.map);
		ck_assert_int_eq(pread(r.fd, back, sizeof back, 0), 6);
		ck_assert_str_eq(back, "sealed");
		shm_fini(&r);
		ck_assert_int_eq(shm_new_filled(&r, "nothing", NULL, 0, &o, &why), 0);
		ck_assert_int_ge(r.fd, 0);
		shm_fini(&r);
		ck_assert_int_eq(shm_new(&r, "nothing", 0, &o, &why), 0);
		ck_assert_int_eq(r.fd, -1);
	}
}
END_TEST

START_TEST(a_long_name_is_cut)
{
	struct shm_options o = {0};
	struct shm_region r;
	struct fault why;
	char name[1000];
	memset(name, 'n', sizeof name - 1);
	name[sizeof name - 1] = 0;
	ck_assert_int_eq(shm_new(&r, name, 4096, &o, &why), 0);
	shm_fini(&r);
}
END_TEST

START_TEST(what_cannot_be_had_is_said)
{
	struct shm_options o = {0};
	struct shm_region r;
	struct fault why = {0};
	ck_assert_int_lt(shm_new(&r, "huge", (uint64_t)1 << 62, &o, &why), 0);
	ck_assert_msg(strstr(why.text, "4611686018427387904") != NULL, "%s", why.text);
}
END_TEST

/* A write to a page that the file system has no room for is a SIGBUS. */
START_TEST(posix_memory_that_is_full_is_an_error_and_not_a_signal)
{
	struct shm_options o = {.force_posix = true};
	struct shm_region r;
	struct fault why = {0};
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("trims", "/dev/shm", "tmpfs", 0, "size=8m") < 0) {
		printf("# no right to mount: not tested here\n");
		return;
	}
	struct shm_region fits = made(5 * MIB, true);
	ck_assert_int_lt(shm_new(&r, "test", 5 * MIB, &o, &why), 0);
	ck_assert_int_eq(why.code, TRIMS_E_NO_MEMORY);
	ck_assert_msg(strstr(why.text, "/dev/shm") != NULL, "%s", why.text);
	memset(fits.map, 1, fits.bytes);
	shm_fini(&fits);
	r = made(5 * MIB, true);
	shm_fini(&r);
}
END_TEST

START_TEST(populating_keeps_what_is_there)
{
	struct shm_machine machine;
	shm_probe(&machine);
	printf("# memfd %d, huge pages %d (%s), %" PRIu32 " nodes\n", machine.memfd, machine.huge, machine.huge_detail,
		machine.numa_nodes);
	ck_assert_uint_ge(machine.numa_nodes, 1);
	for (int huge = 0; huge < 2; huge++)
		for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
			struct shm_region r = made(sizes[i], false);
			uint8_t *p = r.map;
			p[0] = 1;
			p[r.bytes - 1] = 2;
			bool got = shm_populate(p, r.bytes, huge && machine.huge);
			ck_assert(got || (huge && machine.huge)); /* base pages are never worth a complaint */
			ck_assert_uint_eq(p[r.bytes - 1], 2);
			ck_assert(r.bytes == 1 || p[0] == 1);
			ck_assert_uint_eq(p[r.bytes / 2], r.bytes / 2 == 0 ? 2 : 0);
			shm_fini(&r);
		}
}
END_TEST

struct part {
	uint8_t *at;
	uint64_t bytes;
};

static void *populate(void *arg)
{
	const struct part *p = arg;
	shm_populate(p->at, p->bytes, true);
	memset(p->at, (int)(p->bytes >> 12 & 0xff), p->bytes);
	return NULL;
}

START_TEST(parts_are_populated_by_many_threads_at_once)
{
	struct shm_region r = made(32 * MIB, false);
	struct part parts[8];
	pthread_t threads[ARRAY_LEN(parts)];
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		parts[i] = (struct part){(uint8_t *)r.map + i * 4 * MIB, 4 * MIB - i * 4096};
		pthread_create(&threads[i], NULL, populate, &parts[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		ck_assert_uint_eq(*parts[i].at, parts[i].bytes >> 12 & 0xff);
		ck_assert_mem_eq(parts[i].at, parts[i].at + 1, parts[i].bytes - 1);
	}
	shm_fini(&r);
}
END_TEST

START_TEST(a_region_can_be_moved)
{
	struct shm_region r = made(4096, false), other = shm_take(&r);
	ck_assert_int_eq(r.fd, -1);
	ck_assert_ptr_null(r.map);
	ck_assert_int_ge(other.fd, 0);
	shm_fini(&other);
}
END_TEST

static void all(Suite *suite)
{
	UNIT_CASE(suite, "regions", any_size_is_mapped_and_shared, small_contents_are_there_at_once, a_long_name_is_cut,
		what_cannot_be_had_is_said, a_region_can_be_moved);
	UNIT_CASE(suite, "seals", no_client_can_write_resize_or_unseal_a_memfd,
		posix_memory_is_handed_out_read_only_and_has_no_name,
		posix_memory_that_is_full_is_an_error_and_not_a_signal);
	UNIT_CASE(suite, "pages", populating_keeps_what_is_there, parts_are_populated_by_many_threads_at_once);
}

UNIT_MAIN("shm", all)

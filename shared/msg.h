/* msg.h - the messages of the socket: one struct per row of messages.def, and their bytes.
 *
 * Encoding is canonical: a datagram that decodes encodes to the same bytes again.  PROTOCOL.md is the wire format.
 * Thread: any; a struct msg belongs to whoever declared it.
 * Ownership: descriptors in a message to be sent are borrowed.  Descriptors in a decoded message belong to it until
 * msg_take_fd() hands one on; msg_fini() closes the rest.  Never msg_fini() a message whose descriptors are borrowed.
 * A struct msg is as large as its widest type and is never cleared as a whole: read only the fields of its type. */
#ifndef SHARED_MSG_H
#define SHARED_MSG_H

#include "shared/base.h"

#include <sys/types.h>

#define MSG_VERSION 2 /* of the header and bodies below; what HELLO offers and WELCOME grants */
#define MSG_HEADER_BYTES 16
#define MSG_MAX_FDS 131 /* the widest F_FDS row */

enum msg_type {
#define MSG(NAME, name, type, direction, doc) MSG_##NAME = type,
#include "shared/messages.def"
};

enum msg_direction { MSG_C2D, MSG_D2C };

struct msg_fds {
	uint32_t n;
	int fd[MSG_MAX_FDS]; /* the first n count; -1 once taken */
};

/* struct msg_open and so on.  Texts are NUL-terminated. */
#define MSG(NAME, name, type, direction, doc) struct msg_##name {
#define F_U32(field, doc) uint32_t field;
#define F_U64(field, doc) uint64_t field;
#define F_STR(field, max, doc) char field[(max) + 1];
#define F_FDS(field, max, doc) struct msg_fds field;
#define MSG_END };
#include "shared/messages.def"

struct msg {
	uint16_t version, type; /* type: enum msg_type */
	uint64_t request;
	union {
#define MSG(NAME, name, type, direction, doc) struct msg_##name name;
#include "shared/messages.def"
	} u;
};

/* Bytes of the longest datagram: MSG_MAX_BYTES. */
#define MSG(NAME, name, type, direction, doc) struct msg_widest_##name { char header[MSG_HEADER_BYTES];
#define F_U32(field, doc) char field[4];
#define F_U64(field, doc) char field[8];
#define F_STR(field, max, doc) char field[4 + (max)];
#define F_FDS(field, max, doc) char field[4];
#define MSG_END };
#include "shared/messages.def"
union msg_widest {
#define MSG(NAME, name, type, direction, doc) struct msg_widest_##name name;
#include "shared/messages.def"
};
#define MSG_MAX_BYTES sizeof(union msg_widest)

/* Starts a message to be sent: numbers 0, texts and descriptor lists empty. */
void msg_init(struct msg *m, enum msg_type type, uint64_t request);

/* Copies a text into a field of a message: MSG_SET_STR(m.u.open.model, name).  -ENAMETOOLONG: it does not fit, and the
 * field is untouched; -EINVAL: not UTF-8. */
#define MSG_SET_STR(field, text) msg_set_str(field, sizeof(field), text)
int msg_set_str(char *field, size_t size, const char *text);
/* For sentences: always succeeds.  Cuts at a character's boundary and puts '?' for every byte that is not UTF-8. */
#define MSG_SET_TEXT(field, text) msg_set_text(field, sizeof(field), text)
void msg_set_text(char *field, size_t size, const char *text);

/* Writes the datagram to buf and the descriptors that go with it to fds (room for MSG_MAX_FDS, still owned by whoever
 * owned them).  Returns its bytes; -ENOBUFS: cap is too small (MSG_MAX_BYTES never is); -EINVAL: unknown type or version,
 * a text that is not UTF-8 or not terminated, more descriptors than the row allows. */
ssize_t msg_encode(const struct msg *m, uint8_t *buf, size_t cap, int *fds, uint32_t *n_fds);

/* Reads one datagram and takes over its descriptors: they are in *out on success, closed on failure.  -EPROTO: unknown
 * type or version, lengths that do not add up, bytes behind the last field, a text too long, with a NUL or not UTF-8,
 * a descriptor count other than n_fds.  Whether the peer may send this type (msg_direction) is the caller's to check. */
int msg_decode(const uint8_t *buf, size_t len, const int *fds, uint32_t n_fds, struct msg *out);

/* Hands descriptor i on; -1 when there is none or it was taken before. */
int msg_take_fd(struct msg_fds *fds, uint32_t i);
/* The descriptors of a message, NULL for a type that carries none. */
struct msg_fds *msg_fds(struct msg *m);
/* Closes what a decoded message still owns.  May be called again. */
void msg_fini(struct msg *m);
/* Closes n descriptors, with one system call where they are consecutive; entries below 0 are skipped. */
void msg_close_fds(const int *fds, uint32_t n);

/* One line for traces: OPEN #7 model="bert" tier=2 ...; cut at size, always terminated.  Returns the length it has. */
size_t msg_print(const struct msg *m, char *buf, size_t size);
/* "OPEN"; "UNKNOWN" for a number that no row has. */
const char *msg_type_name(uint32_t type);
/* -EINVAL for a number that no row has. */
int msg_direction(uint32_t type, enum msg_direction *out);

#endif

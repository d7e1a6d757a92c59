/* gen_protocol.c - prints the tables of shared/PROTOCOL.md from the tables of the program; protocol.py puts them there. */
#include "shared/msg.h"

#include <stdio.h>

static void message_head(const char *name, int type, enum msg_direction direction, const char *doc)
{
	printf("\n### %s (%d), %s\n\n%s.\n\n", name, type, direction == MSG_C2D ? "client to daemon" : "daemon to client", doc);
	printf("| field | bytes | meaning |\n|---|---|---|\n");
}

static void messages(void)
{
#define MSG(NAME, name, type, direction, doc) message_head(#NAME, type, MSG_##direction, doc);
#define F_U32(field, doc) printf("| `%s` | 4 | %s |\n", #field, doc);
#define F_U64(field, doc) printf("| `%s` | 8 | %s |\n", #field, doc);
#define F_STR(field, max, doc) printf("| `%s` | 4 + n, n at most %d | %s |\n", #field, max, doc);
#define F_FDS(field, max, doc) printf("| `%s` | 4, and up to %d descriptors | %s |\n", #field, max, doc);
#include "shared/messages.def"
}

static void errors(void)
{
	printf("\n## Errors\n\n| code | name | scope | general meaning |\n|---|---|---|---|\n");
#define ERR(number, name, scope, text) printf("| %d | %s | %s | %s |\n", number, #name, #scope, text);
#include "shared/errors.def"
#undef ERR
}

static void reports(void)
{
	printf("\n## Reports\n\n| number | name | about one model | contents |\n|---|---|---|---|\n");
#define REPORT_ROW(number, NAME, name, needs_model, doc)                                                              \
	printf("| %d | `%s` | %s | %s |\n", number, #name, needs_model ? "yes" : "no", doc);
#include "shared/reports.def"
#undef REPORT_ROW
}

int main(void)
{
	printf("## Messages\n\nProtocol version %d. The longest datagram has %zu bytes.\n", MSG_VERSION, MSG_MAX_BYTES);
	messages();
	errors();
	reports();
	return 0;
}

/* http.h - requests: one hop (http_send), and a whole transfer with redirects, retries and resumption (http_transfer).
 * Thread: the worker's.  Owns: a struct http is a curl handle with its open connections. */
#ifndef MRM_SOURCE_HTTP_H
#define MRM_SOURCE_HTTP_H

#include "mrm/source/internal.h"

#define HTTP_NO_END UINT64_MAX
#define HTTP_UNKNOWN UINT64_MAX
/* For "%.*s": a URL without its query, which may hold a signature. */
#define URL_SHOWN(url) (int)strcspn((url), "?#"), (url)
#define HTTP_FIELD 512 /* of a header value that is kept; longer ones count as absent */

struct http_response {
	int status;
	uint64_t length;                /* Content-Length; HTTP_UNKNOWN */
	uint64_t first, last, total;    /* Content-Range; total HTTP_UNKNOWN for '*' */
	bool has_range, accept_ranges, no_ranges, encoded, bad_field;
	uint64_t retry_after_ns;        /* 0: none */
	char etag[HTTP_FIELD];          /* with its quotes; "" unless strong */
	char last_modified[64];
	char location[4096];
	char error_code[64], error_message[HTTP_FIELD]; /* X-Error-Code, X-Error-Message; S3: from the body */
	char region[64];                /* x-amz-bucket-region */
	char body_start[1024];          /* of an error's body */
	/* Of any hop so far: a hub states these on the redirect. */
	char linked_etag[HTTP_FIELD], commit[64];
	uint64_t linked_size;
};

struct http_request {
	struct source *source;
	const char *url;
	bool head;
	bool small;               /* bounded in time as a whole, not only by the stall limit */
	uint64_t first, end;      /* the range asked for; end HTTP_NO_END with first 0: none */
	const char *version;      /* of the listing: becomes If-Match or If-Unmodified-Since; NULL: none */
	/* Called once, when the final headers of a hop are complete and before any body byte: 0 takes the body, > 0 wants
	 * none of it, < 0 ends the request with that. */
	int (*begin)(void *ctx, const struct http_response *response);
	source_sink_fn sink;
	void *ctx;
};

int http_new(struct http **out);
void http_free(struct http **h);

/* One hop.  0: a complete answer, whatever its status (*response says), or the sink had enough.  -EAGAIN: a failure of the
 * connection that another attempt may not meet.  Others are final; the sink's and begin's results pass through. */
int http_send(struct source_worker *w, const struct http_request *rq, struct http_response *response,
	struct fault *why);

struct transfer {
	struct source *source;
	const char *url;
	bool head, small, ranged;
	uint64_t off, end;       /* when ranged; end > off */
	uint64_t total;          /* bytes of the whole file when known; HTTP_UNKNOWN */
	const char *version;     /* NULL: any */
	source_sink_fn sink;     /* NULL: the body is not wanted, the headers are */
	void (*restart)(void *ctx); /* when not ranged: forget what you had, the body comes again */
	void *ctx;
	struct http_response response; /* out: the last answer */
	bool whole;              /* out: a ranged request was answered with the whole file */
};

/* Sends, follows, retries and resumes until the sink had every byte.  Statuses other than 200 and 206 end as faults. */
int http_transfer(struct source_worker *w, struct transfer *t, struct fault *why);

#endif

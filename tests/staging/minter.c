#include "tests/staging/minter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include "tests/lib/token.h"
#include "tests/lib/util.h"

/* A JSON string literal; bytes beyond ASCII go as they are. */
static void add_json(struct blob *out, const char *p, size_t n)
{
	blob_add_c(out, "\"");
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];
		if (c == '"' || c == '\\')
			blob_printf(out, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			blob_printf(out, "\\u%04x", c);
		else
			blob_add(out, &p[i], 1);
	}
	blob_add_c(out, "\"");
}

char *minter_sign(const struct staging_options *o, const char *header, const char *payload)
{
	return token_sign(header, payload, 256, o->secret);
}

static char *signed_here(const struct staging_options *o, const char *sub, size_t n, int64_t ttl_s)
{
	struct blob claims = {0};
	long long now = (long long)time(NULL);
	blob_add_c(&claims, "{\"sub\":");
	add_json(&claims, sub, n);
	if (o->issuer) {
		blob_add_c(&claims, ",\"iss\":");
		add_json(&claims, o->issuer, strlen(o->issuer));
	}
	if (o->audience) {
		blob_add_c(&claims, ",\"aud\":");
		add_json(&claims, o->audience, strlen(o->audience));
	}
	blob_printf(&claims, ",\"iat\":%lld,\"exp\":%lld}", now - 60, now + (long long)ttl_s);
	char *token = minter_sign(o, "{\"alg\":\"HS256\",\"typ\":\"JWT\"}", claims.p);
	blob_free(&claims);
	return token;
}

/* In single quotes of the shell. */
static void add_quoted(struct blob *out, const char *p, size_t n)
{
	blob_add_c(out, "'");
	for (size_t i = 0; i < n; i++)
		if (p[i] == '\'')
			blob_add_c(out, "'\\''");
		else
			blob_add(out, &p[i], 1);
	blob_add_c(out, "'");
}

static char *expand(const char *command, const char *sub, size_t n, int64_t ttl_s)
{
	struct blob out = {0};
	for (const char *at = command; *at;) {
		if (!strncmp(at, "{user}", 6)) {
			add_quoted(&out, sub, n);
			at += 6;
		} else if (!strncmp(at, "{ttl}", 5)) {
			blob_printf(&out, "%lld", (long long)ttl_s);
			at += 5;
		} else {
			blob_add(&out, at++, 1);
		}
	}
	return out.p;
}

static char *printed_by_command(const struct staging_options *o, const char *sub, size_t n, int64_t ttl_s, char *why,
                                size_t why_n)
{
	if (memchr(sub, 0, n)) {
		snprintf(why, why_n, "a command can't be given a NUL");
		return NULL;
	}
	char *command = expand(o->token_command, sub, n, ttl_s);
	FILE *pipe = popen(command, "re");
	char *line = NULL;
	size_t cap = 0;
	ssize_t len = pipe ? getline(&line, &cap, pipe) : -1;
	int status = pipe ? pclose(pipe) : -1;
	free(command);
	while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
		line[--len] = 0;
	if (len > 0 && status == 0)
		return line;
	snprintf(why, why_n, "--token-command %s for \"%.*s\"", status ? "failed" : "printed nothing", (int)n, sub);
	free(line);
	return NULL;
}

char *minter_token(const struct staging_options *o, const char *sub, size_t n, int64_t ttl_s, char *why, size_t why_n)
{
	return o->secret ? signed_here(o, sub, n, ttl_s) : printed_by_command(o, sub, n, ttl_s, why, why_n);
}

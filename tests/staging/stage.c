#include "tests/staging/stage.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>
#include "tests/staging/minter.h"

enum { POLL_US = 5000, TELL_TTY_US = 200000, TELL_US = 5000000 };

/* ---- judging ---- */

static void keep(char **list, size_t room, size_t *n, const char *fmt, va_list ap)
{
	char *text;
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	if (*n < room)
		list[*n] = text;
	else
		free(text);
	++*n;
}

void stage_blame(struct stage *stage, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	keep(stage->result->failures, FAILURES_KEPT, &stage->result->n_failures, fmt, ap);
	va_end(ap);
}

void stage_fail(struct stage *stage, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	keep(stage->result->failures, FAILURES_KEPT, &stage->result->n_failures, fmt, ap);
	va_end(ap);
	longjmp(stage->out, 1);
}

bool stage_check(struct stage *stage, bool ok, const char *fmt, ...)
{
	va_list ap;
	stage->result->checks++;
	if (ok)
		return true;
	va_start(ap, fmt);
	keep(stage->result->failures, FAILURES_KEPT, &stage->result->n_failures, fmt, ap);
	va_end(ap);
	return false;
}

void stage_note(struct stage *stage, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	keep(stage->result->notes, NOTES_KEPT, &stage->result->n_notes, fmt, ap);
	va_end(ap);
	if (stage->result->n_notes > NOTES_KEPT)
		stage->result->n_notes = NOTES_KEPT;
}

void stage_measure(struct stage *stage, enum latency what, uint64_t us)
{
	samples_add(&stage->result->latency[what], us);
}

/* ---- progress ---- */

void stage_doing(struct stage *stage, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(stage->doing, sizeof stage->doing, fmt, ap);
	va_end(ap);
}

static void tell(struct stage *stage, uint64_t now)
{
	bool tty = isatty(STDOUT_FILENO);
	if (now - stage->told_us < (tty ? TELL_TTY_US : TELL_US))
		return;
	stage->told_us = now;
	printf(tty ? "\r\033[K  …     %-12s %6.1f s  %s" : "  …     %-12s %6.1f s  %s\n", stage->result->scenario->name,
	       (double)(now - stage->begin_us) / 1e6, stage->doing);
	fflush(stdout);
}

/* ---- time ---- */

static void bring_back(struct stage *stage, uint64_t now)
{
	struct client *c;
	DL_FOREACH (stage->clients, c) {
		if (!c->returns || !client_is_closed(c))
			continue;
		if (!c->return_at_us) /* not all at once */
			c->return_at_us = now + 100000 + text_hash(c->person->user, strlen(c->person->user)) % 300000;
		else if (now >= c->return_at_us)
			client_return(c);
	}
}

void stage_turn(struct stage *stage)
{
	ws_loop_turn(stage->loop, POLL_US / 1000);
	uint64_t now = clock_us();
	if (now - stage->polled_us < POLL_US)
		return;
	stage->polled_us = now;
	bring_back(stage, now);
	tell(stage, now);
}

bool stage_until(struct stage *stage, bool (*cond)(void *ctx), void *ctx, unsigned timeout_ms)
{
	uint64_t deadline = clock_us() + (uint64_t)timeout_ms * 1000 * patience();
	if (deadline > stage->deadline_us)
		deadline = stage->deadline_us;
	while (!cond(ctx)) {
		uint64_t asked = clock_us();
		do {
			if (clock_us() >= deadline)
				return cond(ctx);
			stage_turn(stage);
		} while (clock_us() - asked < POLL_US);
	}
	return true;
}

void stage_linger(struct stage *stage, unsigned ms)
{
	uint64_t end = clock_us() + (uint64_t)ms * 1000;
	while (clock_us() < end && clock_us() < stage->deadline_us)
		stage_turn(stage);
}

/* ---- HTTP ---- */

static bool is_closed(void *ctx)
{
	return ((struct ws_client *)ctx)->state == WS_CLOSED;
}

int stage_get(struct stage *stage, unsigned url, const char *path, const char *bearer, struct blob *body)
{
	const struct endpoint *to = &stage->options->endpoints[url % stage->options->n_endpoints];
	char *header = bearer ? text_format("Authorization: Bearer %s\r\n", bearer) : strdup("");
	char *raw = text_format("GET %s%s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n", to->prefix, path, to->authority,
	                        header);
	struct ws_request request = {.endpoint = to, .raw = raw};
	struct ws_client *ws = ws_connect(stage->loop, &request);
	stage_until(stage, is_closed, ws, 10000);
	int status = ws->response.status;
	body->n = 0;
	blob_add_c(body, status && ws->response.body.p ? ws->response.body.p : ws->trouble);
	ws_free(ws);
	free(raw);
	free(header);
	return status;
}

/* ---- the play ---- */

void *stage_alloc(struct stage *stage, size_t n, size_t size, void (*finish)(void *memory, size_t n))
{
	struct block *block = calloc(1, sizeof *block + n * size);
	if (!block)
		abort();
	block->n = n;
	block->finish = finish;
	LL_PREPEND(stage->blocks, block);
	return block->memory;
}

/* A deployment that does not know a user of ours at every URL can't be judged by any scenario. */
static void check_reachable(struct stage *stage)
{
	struct person *person = stage_person(stage);
	char *expected = text_format("\"user_id\":\"%s\"", person->user);
	struct blob body = {0};
	for (unsigned i = 0; i < stage->options->n_endpoints; i++) {
		int status = stage_get(stage, i, "/v1/whoami", person->token, &body);
		if (!status)
			stage_blame(stage, "can't run: %s does not answer: %s", stage->options->endpoints[i].url,
			            body.n ? body.p : "no HTTP");
		else if (status != 200 || !strstr(body.p, expected))
			stage_blame(stage, "can't run: %s/v1/whoami of a good user answers %d %.120s",
			            stage->options->endpoints[i].url, status, body.p);
	}
	blob_free(&body);
	free(expected);
	if (stage->result->n_failures)
		longjmp(stage->out, 1);
}

static void play(struct stage *stage, const struct scenario *scenario)
{
	if (setjmp(stage->out))
		return;
	stage_doing(stage, "is the deployment there?");
	check_reachable(stage);
	stage_doing(stage, "%s", scenario->proves);
	if (scenario->needs_chaos && !stage->options->chaos && !stage->options->chaos_drain)
		stage_fail(stage, "can't run: give the command that takes a worker down (--chaos)");
	scenario->play(stage);
	if (clock_us() >= stage->deadline_us)
		stage_fail(stage, "it took longer than %.0f s", (double)(stage->deadline_us - stage->begin_us) / 1e6);
}

static void clear(struct stage *stage)
{
	struct person *person;
	struct claim *claim, *next;
	struct block *block;
	while ((block = stage->blocks)) {
		LL_DELETE(stage->blocks, block);
		if (block->finish)
			block->finish(block->memory, block->n);
		free(block);
	}
	while (stage->clients)
		client_close(stage->clients);
	while ((person = stage->people)) {
		LL_DELETE(stage->people, person);
		free(person->token);
		free(person);
	}
	HASH_ITER (hh, stage->claims, claim, next) {
		HASH_DEL(stage->claims, claim);
		free(claim);
	}
	ws_loop_destroy(stage->loop);
}

void stage_play(const struct staging_options *options, const struct scenario *scenario, uint64_t nonce, unsigned number,
                struct result *result)
{
	struct stage *stage = calloc(1, sizeof *stage);
	if (!stage)
		abort();
	*result = (struct result){.scenario = scenario};
	stage->options = options;
	stage->result = result;
	stage->nonce = (nonce << 5 | (number & 31)) & 0xffffffff;
	stage->loop = ws_loop_create();
	stage->begin_us = stage->told_us = clock_us();
	stage->deadline_us = stage->begin_us + (options->timeout_s * 1000 + options->duration_ms) * 1000 * patience();
	play(stage, scenario);
	clear(stage);
	result->us = clock_us() - stage->begin_us;
	result->passed = result->n_failures == 0 && result->checks > 0;
	if (!result->n_failures && !result->checks)
		stage_blame(stage, "it checked nothing");
	free(stage);
}

void result_finish(struct result *result)
{
	for (size_t i = 0; i < FAILURES_KEPT; i++)
		free(result->failures[i]);
	for (size_t i = 0; i < NOTES_KEPT; i++)
		free(result->notes[i]);
	for (size_t i = 0; i < N_LATENCIES; i++)
		samples_free(&result->latency[i]);
}

/* Links with mutual TLS: whoever has no certificate of the link CA, at either end, is not let in. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>
#include <nng/nng.h>
#include "common/loop_uv.h"
#include "gateway/worker_link.h"
#include "worker/gateway_link.h"

enum { DEADLINE_MS = 20000, QUIET_MS = 1500 };

/* ---- certificates ---- */

struct identity_files {
	char ca[128], cert[128], key[128];
	struct link_tls tls;
};

struct authority {
	EVP_PKEY *key;
	X509 *cert;
};

static void extension_add(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *extension;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	assert_non_null(extension);
	X509_add_ext(cert, extension, -1);
	X509_EXTENSION_free(extension);
}

/* Signed by `by`, or by itself. */
static X509 *certificate_make(EVP_PKEY *key, const char *name, const struct authority *by, long serial)
{
	X509 *cert = X509_new();

	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), serial);
	X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
	X509_set_pubkey(cert, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(cert, X509_get_subject_name(by ? by->cert : cert));
	if (!by) {
		extension_add(cert, cert, NID_basic_constraints, "critical,CA:TRUE");
	} else {
		char san[160];

		snprintf(san, sizeof(san), "DNS:%s", name);
		extension_add(cert, by->cert, NID_subject_alt_name, san);
	}
	assert_true(X509_sign(cert, by ? by->key : key, EVP_sha256()) > 0);
	return cert;
}

static struct authority authority_make(const char *name)
{
	struct authority authority;

	authority.key = EVP_EC_gen("P-256");
	authority.cert = certificate_make(authority.key, name, NULL, 1);
	return authority;
}

static void authority_free(struct authority *authority)
{
	EVP_PKEY_free(authority->key);
	X509_free(authority->cert);
}

static void pem_write(char path[128], const char *dir, const char *who, const char *what, X509 *cert, EVP_PKEY *key)
{
	FILE *file;

	snprintf(path, 128, "%s/%s-%s.pem", dir, who, what);
	file = fopen(path, "w");
	assert_non_null(file);
	if (cert)
		assert_true(PEM_write_X509(file, cert));
	else
		assert_true(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL));
	fclose(file);
}

static void identity_make(struct identity_files *files, const char *dir, const char *who, const char *name,
                          const struct authority *by, const struct authority *trusts)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = certificate_make(key, name, by, 2);

	pem_write(files->ca, dir, who, "ca", trusts->cert, NULL);
	pem_write(files->cert, dir, who, "cert", cert, NULL);
	pem_write(files->key, dir, who, "key", NULL, key);
	files->tls = (struct link_tls){files->ca, files->cert, files->key};
	X509_free(cert);
	EVP_PKEY_free(key);
}

static void identity_unlink(struct identity_files *files)
{
	unlink(files->ca);
	unlink(files->cert);
	unlink(files->key);
}

/* ---- the bench ---- */

struct bench {
	uv_loop_t uv;
	struct loop_uv loop;
	char dir[64], requests_url[64], events_url[64], dial_url[64];
	struct authority ours, theirs;
	struct identity_files gateway_files, worker_files;
	struct worker_transport *gateway;
	struct gateway_transport *worker;
	struct worker_link *link;
	struct gateway_pub *pub;
	bool up;
	unsigned answers, published, asked;
};

static void on_up(void *ctx)
{
	((struct bench *)ctx)->up = true;
}

static void on_down(void *ctx)
{
	((struct bench *)ctx)->up = false;
}

static void on_reply(void *ctx, uint64_t number, enum err err, struct str message)
{
	((struct bench *)ctx)->answers += err == ERR_OK && str_eq_c(message, "secret");
}

static const struct worker_link_events link_events = {.up = on_up, .down = on_down, .reply = on_reply};

static void on_request(void *ctx, request_token token, struct str message)
{
	struct bench *b = ctx;

	b->asked++;
	b->worker->ops->reply(b->worker, token, message);
}

static void on_publication(void *ctx, struct str message)
{
	((struct bench *)ctx)->published++;
}

static void on_tick(struct timer *timer)
{
}

static void turn(struct bench *b)
{
	struct timer tick = {.fn = on_tick};

	timer_set(&b->loop.loop, &tick, 10);
	uv_run(&b->uv, UV_RUN_ONCE);
	timer_cancel(&b->loop.loop, &tick);
}

static void bench_start(struct bench *b)
{
	struct err_info info = {0};

	if (gateway_transport_nng_create(&b->loop, b->requests_url, &b->worker_files.tls, false, 16, &b->worker, &info) != ERR_OK)
		fail_msg("%s", info.text);
	b->worker->on_request = on_request;
	b->worker->ctx = b;
	if (worker_transport_nng_create(&b->loop, b->events_url, &b->gateway_files.tls, &b->gateway, &info) != ERR_OK)
		fail_msg("%s", info.text);
	b->gateway->on_publication = on_publication;
	b->gateway->ctx = b;
	if (b->gateway->ops->link_open(b->gateway, b->dial_url, &link_events, b, &b->link, &info) != ERR_OK)
		fail_msg("%s", info.text);
	if (b->worker->ops->pub_open(b->worker, b->events_url, &b->pub, &info) != ERR_OK)
		fail_msg("%s", info.text);
}

/* Of the kernel's choice, free a moment ago. */
static unsigned free_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t n = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &n), 0);
	close(fd);
	return ntohs(address.sin_port);
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	unsigned port = free_port();

	assert_int_equal(uv_loop_init(&b->uv), 0);
	loop_uv_init(&b->loop, &b->uv);
	snprintf(b->dir, sizeof(b->dir), "/tmp/pinion-tls-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	snprintf(b->requests_url, sizeof(b->requests_url), "tls+tcp://127.0.0.1:%u", port);
	snprintf(b->dial_url, sizeof(b->dial_url), "tls+tcp://127.0.0.1:%u", port);
	snprintf(b->events_url, sizeof(b->events_url), "tls+tcp://127.0.0.1:%u", free_port());
	b->ours = authority_make("link CA");
	b->theirs = authority_make("another CA");
	identity_make(&b->gateway_files, b->dir, "gateway", "gateway-0", &b->ours, &b->ours);
	identity_make(&b->worker_files, b->dir, "worker", "localhost", &b->ours, &b->ours);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	if (b->gateway)
		b->gateway->ops->destroy(b->gateway);
	if (b->worker)
		b->worker->ops->destroy(b->worker);
	loop_uv_close(&b->loop);
	uv_run(&b->uv, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&b->uv), 0);
	authority_free(&b->ours);
	authority_free(&b->theirs);
	identity_unlink(&b->gateway_files);
	identity_unlink(&b->worker_files);
	assert_int_equal(rmdir(b->dir), 0);
	free(b);
	return 0;
}

static void await_up(struct bench *b)
{
	uint64_t until = loop_now(&b->loop.loop) + DEADLINE_MS;

	while (!b->up) {
		assert_true(loop_now(&b->loop.loop) < until);
		turn(b);
	}
}

static void both_ways_work(struct bench *b)
{
	uint64_t until = loop_now(&b->loop.loop) + DEADLINE_MS;

	await_up(b);
	b->gateway->ops->request_send(b->link, 1, str_c("secret"), DEADLINE_MS);
	while (!b->answers || !b->published) {
		assert_true(loop_now(&b->loop.loop) < until);
		b->worker->ops->pub_send(b->pub, str_c("news"));
		turn(b);
	}
}

/* Several handshakes are tried in this time; none may end in a message. */
static void nothing_gets_through(struct bench *b)
{
	uint64_t until = loop_now(&b->loop.loop) + QUIET_MS;

	while (loop_now(&b->loop.loop) < until) {
		b->gateway->ops->request_send(b->link, 1, str_c("secret"), 100);
		b->worker->ops->pub_send(b->pub, str_c("news"));
		turn(b);
		assert_int_equal(b->answers + b->published + b->asked, 0);
	}
}

static void both_ends_with_certificates_of_the_link_ca_speak(void **state)
{
	bench_start(*state);
	both_ways_work(*state);
}

static void the_name_is_checked_where_the_url_has_one(void **state)
{
	struct bench *b = *state;

	snprintf(b->dial_url, sizeof(b->dial_url), "tls+tcp4://localhost:%s", strrchr(b->requests_url, ':') + 1);
	bench_start(b);
	both_ways_work(b);
}

static void a_worker_of_another_name_is_refused(void **state)
{
	struct bench *b = *state;

	identity_unlink(&b->worker_files);
	identity_make(&b->worker_files, b->dir, "worker", "elsewhere", &b->ours, &b->ours);
	snprintf(b->dial_url, sizeof(b->dial_url), "tls+tcp4://localhost:%s", strrchr(b->requests_url, ':') + 1);
	bench_start(b);
	for (int i = 0; i < 50; i++)
		turn(b);
	assert_false(b->up);
}

static void a_gateway_with_a_certificate_of_another_ca_is_refused(void **state)
{
	struct bench *b = *state;

	identity_unlink(&b->gateway_files);
	identity_make(&b->gateway_files, b->dir, "gateway", "gateway-0", &b->theirs, &b->ours);
	bench_start(b);
	nothing_gets_through(b);
}

static void a_worker_with_a_certificate_of_another_ca_is_refused(void **state)
{
	struct bench *b = *state;

	identity_unlink(&b->worker_files);
	identity_make(&b->worker_files, b->dir, "worker", "localhost", &b->theirs, &b->ours);
	bench_start(b);
	nothing_gets_through(b);
}

static void tls_without_files_and_a_key_of_another_certificate_are_errors(void **state)
{
	struct bench *b = *state;
	struct link_tls mixed = {b->worker_files.ca, b->worker_files.cert, b->gateway_files.key};
	struct link_tls some = {.ca_file = b->worker_files.ca};
	struct link_tls gone = {b->worker_files.ca, b->worker_files.cert, "/nonexistent"};
	struct gateway_transport *worker;
	struct err_info info = {0};

	assert_int_equal(gateway_transport_nng_create(&b->loop, b->requests_url, NULL, false, 1, &worker, &info), ERR_CONFIG);
	assert_int_equal(gateway_transport_nng_create(&b->loop, b->requests_url, &some, false, 1, &worker, &info), ERR_CONFIG);
	assert_int_equal(gateway_transport_nng_create(&b->loop, b->requests_url, &gone, false, 1, &worker, &info), ERR_CONFIG);
	assert_int_equal(gateway_transport_nng_create(&b->loop, b->requests_url, &mixed, false, 1, &worker, &info), ERR_CONFIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(both_ends_with_certificates_of_the_link_ca_speak, setup, teardown),
		cmocka_unit_test_setup_teardown(the_name_is_checked_where_the_url_has_one, setup, teardown),
		cmocka_unit_test_setup_teardown(a_worker_of_another_name_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_gateway_with_a_certificate_of_another_ca_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_worker_with_a_certificate_of_another_ca_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(tls_without_files_and_a_key_of_another_certificate_are_errors, setup, teardown),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	nng_fini();
	return failed;
}

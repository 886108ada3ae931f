#include "tests/lib/token.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "tests/lib/util.h"

char *token_base64(const void *p, size_t n)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const unsigned char *in = p;
	char *out = malloc(n * 4 / 3 + 4), *o = out;
	if (!out)
		abort();
	for (size_t i = 0; i < n; i += 3) {
		unsigned v = (unsigned)in[i] << 16 | (i + 1 < n ? (unsigned)in[i + 1] << 8 : 0) | (i + 2 < n ? in[i + 2] : 0);
		*o++ = digits[v >> 18];
		*o++ = digits[v >> 12 & 63];
		if (i + 1 < n)
			*o++ = digits[v >> 6 & 63];
		if (i + 2 < n)
			*o++ = digits[v & 63];
	}
	*o = 0;
	return out;
}

char *token_sign(const char *header, const char *payload, int bits, const char *secret)
{
	unsigned char mac[EVP_MAX_MD_SIZE];
	unsigned mac_len = 0;
	char *h = token_base64(header, strlen(header)), *p = token_base64(payload, strlen(payload));
	char *input = text_format("%s.%s", h, p);
	const EVP_MD *md = bits == 512 ? EVP_sha512() : bits == 384 ? EVP_sha384() : EVP_sha256();
	if (secret)
		HMAC(md, secret, (int)strlen(secret), (unsigned char *)input, strlen(input), mac, &mac_len);
	char *s = token_base64(mac, mac_len);
	char *token = text_format("%s.%s", input, s);
	free(h);
	free(p);
	free(input);
	free(s);
	return token;
}

/* A JSON string literal; bytes beyond ASCII go as they are. */
static void write_string(struct blob *out, const char *p, size_t n)
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

char *token_make_n(const char *sub, size_t n, int64_t ttl_s)
{
	struct blob payload = {0};
	long long now = (long long)time(NULL);
	blob_add_c(&payload, "{\"sub\":");
	write_string(&payload, sub, n);
	blob_printf(&payload, ",\"iat\":%lld,\"exp\":%lld}", now, now + (long long)ttl_s);
	char *token = token_sign("{\"alg\":\"HS256\",\"typ\":\"JWT\"}", payload.p, 256, TOKEN_SECRET);
	blob_free(&payload);
	return token;
}

char *token_make(const char *sub, int64_t ttl_s)
{
	return token_make_n(sub, strlen(sub), ttl_s);
}

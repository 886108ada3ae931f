#include "tests/staging/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(struct staging_options, field)

static const struct option_def options[] = {
	{"url", OPTION_LIST, AT(url), NULL, 0, 0, "URL",
         "A gateway: http(s)://HOST[:PORT][/PATH]. Once or more; clients are spread over all, and return by another."},
	{"ca", OPTION_STRING, AT(ca), NULL, 0, 0, "FILE", "Certificates (PEM) to trust for https instead of the system's."},
	{"jwt-hs256-file", OPTION_STRING, AT(jwt_hs256_file), NULL, 0, 0, "FILE",
         "The secret that signs the deployment's tokens; or, where that is not at hand:"},
	{"token-command", OPTION_STRING, AT(token_command), NULL, 0, 0, "CMD",
         "A shell command that prints a token for {user}. {user} stands quoted. Where it has a {ttl}, that is the seconds the "
         "token must hold, which may be negative: an expired one; without it `tokens` can't run, and fails."},
	{"issuer", OPTION_STRING, AT(issuer), NULL, 0, 0, "S", "The iss of tokens that are signed here."},
	{"audience", OPTION_STRING, AT(audience), NULL, 0, 0, "S", "The aud of tokens that are signed here."},
	{"scenario", OPTION_LIST, AT(scenario), NULL, 0, 0, "NAME",
         "What to run, in this order. Default: every scenario, those that kill or drain only where --chaos says how."},
	{"list", OPTION_BOOL, AT(list), NULL, 0, 0, NULL, "Print the scenarios and what each proves."},
	{"users", OPTION_UINT, AT(users), "50", 2, 20000, "N", "How many users the scenarios with a crowd have."},
	{"duration", OPTION_STRING, AT(duration), "20s", 0, 0, "T", "How long sustained parts last: 90, 90s or 5m."},
	{"timeout-s", OPTION_UINT, AT(timeout_s), "180", 10, 86400, "SECONDS",
         "How long one scenario may take beyond --duration before it has failed."},
	{"agent", OPTION_STRING, AT(agent), "script", 0, 0, "NAME", "The deployment's agent of kind script."},
	{"other-agent", OPTION_STRING, AT(other_agent), "demo", 0, 0, "NAME", "Its agent of kind demo."},
	{"timeout-agent", OPTION_STRING, AT(timeout_agent), NULL, 0, 0, "NAME",
         "An agent of kind script with a short run_seconds, for `crash`. Default: --agent, whose 120 s are then waited for."},
	{"chaos", OPTION_STRING, AT(chaos), NULL, 0, 0, "CMD",
         "A shell command that takes down the worker {worker}: with {signal} KILL in `worker-loss`, TERM in `drain`."},
	{"chaos-drain", OPTION_STRING, AT(chaos_drain), NULL, 0, 0, "CMD", "The one for `drain`, where it is another."},
	{"junit", OPTION_STRING, AT(junit), NULL, 0, 0, "FILE", "Write a JUnit XML report."},
	{"json", OPTION_STRING, AT(json), NULL, 0, 0, "FILE", "Write a JSON report."},
	{"tap", OPTION_STRING, AT(tap), NULL, 0, 0, "FILE", "Write a TAP report."},
};

static const struct config_spec spec = {
	.program = "pinion-staging",
	.summary = "Validates a running deployment from outside, as its clients: each scenario proves one promise.",
	.epilog = "Examples:\n"
		  "  pinion-staging --url http://127.0.0.1:8080 --jwt-hs256-file .pinion/jwt.key\n"
		  "  pinion-staging --url https://chat.example.com --token-command 'mint --sub {user} --ttl {ttl}' --users 500\n"
		  "  pinion-staging --url http://127.0.0.1:8080,http://127.0.0.1:8081 --jwt-hs256-file .pinion/jwt.key \\\n"
		  "      --users 2000 --chaos 'kill -{signal} $(cat .pinion/run/{worker}.pid)' --junit report.xml\n"
		  "\n"
		  "Exit status: 0 every selected scenario ran and passed; 1 one failed or could not run; 2 wrong usage.\n"
		  "Every run makes users of its own (usr_ and 12 random digits) and leaves their threads behind.\n",
	.options = options,
	.n_options = sizeof(options) / sizeof(options[0]),
};

static bool refuse(const char *flag, const char *value, const char *why)
{
	fprintf(stderr, "pinion-staging: --%s %s: %s\n", flag, value ? value : "", why);
	return false;
}

static bool read_duration(struct staging_options *o)
{
	char *rest;
	uint64_t n = strtoull(o->duration, &rest, 10);
	uint64_t unit = !strcmp(rest, "m") ? 60000 : !strcmp(rest, "s") || !*rest ? 1000 : 0;
	if (rest == o->duration || !unit || !n || n > 86400)
		return refuse("duration", o->duration, "say 90, 90s or 5m");
	o->duration_ms = n * unit;
	return true;
}

static bool read_urls(struct staging_options *o)
{
	char why[256];
	if (!o->url.n)
		return refuse("url", NULL, "which deployment? Give the URL of at least one gateway");
	if (o->url.n > URLS_MAX)
		return refuse("url", NULL, "32 at most");
	for (; o->n_endpoints < o->url.n; o->n_endpoints++) {
		const char *url = o->url.items[o->n_endpoints];
		if (!endpoint_init(&o->endpoints[o->n_endpoints], url, o->ca, why, sizeof why))
			return refuse("url", url, why);
	}
	return true;
}

static bool read_secret(struct staging_options *o)
{
	struct err_info info = {0};
	size_t len;
	if (!o->jwt_hs256_file == !o->token_command)
		return refuse("jwt-hs256-file", o->jwt_hs256_file, "give either this or --token-command");
	if (o->token_command && !strstr(o->token_command, "{user}"))
		return refuse("token-command", o->token_command, "without {user} it can't know whom the token is for");
	if (o->jwt_hs256_file && config_read_secret(o->jwt_hs256_file, 4096, &o->secret, &len, &info) != ERR_OK)
		return refuse("jwt-hs256-file", o->jwt_hs256_file, info.text);
	return true;
}

enum config_verdict staging_options_load(struct staging_options *o, int argc, char **argv)
{
	enum config_verdict verdict = config_load(&spec, o, argc, argv);
	if (verdict == CONFIG_EXIT || verdict == CONFIG_BAD || o->list)
		return verdict;
	return read_duration(o) && read_secret(o) && read_urls(o) ? verdict : CONFIG_BAD;
}

void staging_options_free(struct staging_options *o)
{
	for (unsigned i = 0; i < o->n_endpoints; i++)
		endpoint_finish(&o->endpoints[i]);
	free(o->secret);
	config_free(&spec, o);
}

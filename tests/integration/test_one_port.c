/*
 * Several gateways on one port: connections spread over them, and when one dies its clients resume at the others, at the same address.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <cmocka.h>
#include "tests/lib/chat.h"
#include "tests/lib/cluster.h"

enum { GATEWAYS = 3, CLIENTS = 60 };

static void share_the_port(struct cluster *c)
{
	for (unsigned i = 1; i < GATEWAYS; i++) {
		c->gateways[i].port = c->gateways[0].port;
		cluster_start_gateway(c, i, true);
		cluster_wait_workers(c, i, 2);
	}
}

static void enter(struct cluster *c, struct chat **chats)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		char user[32];
		snprintf(user, sizeof user, "usr_%012x", 0x900000 + i);
		chats[i] = chat_enter_as(c->loop, cluster_port(c, 0), user);
	}
}

static unsigned sessions_at(const struct node *node)
{
	return (unsigned)node_metric(node, "pinion_gateway_sockets");
}

static void connections_spread_and_resume_at_the_same_address(void **state)
{
	struct cluster *c = *state;
	struct chat *chats[CLIENTS];
	char runs[CLIENTS][40];
	unsigned moved = 0;

	share_the_port(c);
	enter(c, chats);
	for (unsigned g = 0; g < GATEWAYS; g++) {
		print_message("gateway %u has %u of %u\n", g, sessions_at(&c->gateways[g]), (unsigned)CLIENTS);
		assert_in_range(sessions_at(&c->gateways[g]), 1, CLIENTS - GATEWAYS + 1);
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		chat_start(chats[i],
		           chat_script("[{\"stream\":{\"tokens\":100,\"interval_ms\":10,\"bytes\":20}},{\"say\":\"done\"}]"),
		           "script", runs[i]);
	cluster_kill(&c->gateways[1]);
	for (unsigned i = 0; i < CLIENTS; i++) {
		const struct chat_event *end = chat_wait_end(chats[i], runs[i], 20000);
		if (!end) { /* its gateway was the one */
			struct chat *again = chat_resume(chats[i], cluster_port(c, 0));
			assert_true(chat_wait_welcome(again, 10000));
			chat_free(chats[i]);
			chats[i] = again;
			end = chat_wait_end(again, runs[i], 20000);
			moved++;
		}
		assert_non_null(end);
		assert_string_equal(end->type, "agent_completed");
	}
	print_message("%u clients resumed at another gateway of the same port\n", moved);
	assert_in_range(moved, 1, CLIENTS - 1);
	for (unsigned i = 0; i < CLIENTS; i++) {
		chat_check(chats[i]);
		chat_free(chats[i]);
	}
	cluster_passed(c);
}

static int set_up(void **state)
{
	struct cluster_args args = {.gateways = 1, .workers = 2};
	*state = cluster_start(&args);
	return 0;
}

static int tear_down(void **state)
{
	cluster_stop(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(connections_spread_and_resume_at_the_same_address, set_up, tear_down),
	};
	return cmocka_run_group_tests_name("one_port", tests, NULL, NULL);
}

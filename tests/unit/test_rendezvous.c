#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "common/rendezvous.h"

#define NODES 10
#define KEYS 10000

static char names[NODES][16];
static struct str nodes[NODES];

static struct str key(size_t i, char text[24])
{
	return str_of(text, (size_t)snprintf(text, 24, "usr_%012zx", i * 7919));
}

static int make_nodes(void **state)
{
	for (size_t i = 0; i < NODES; i++)
		nodes[i] = str_of(names[i], (size_t)snprintf(names[i], sizeof(names[i]), "worker-%zu", i));
	return 0;
}

static void order_is_a_permutation_by_falling_weight(void **state)
{
	size_t order[NODES];
	char text[24];

	for (size_t k = 0; k < 100; k++) {
		struct str user = key(k, text);
		unsigned seen = 0;

		rendezvous_order(user, nodes, NODES, order);
		for (size_t i = 0; i < NODES; i++) {
			seen |= 1u << order[i];
			if (i > 0)
				assert_true(rendezvous_weight(user, nodes[order[i - 1]]) >=
				            rendezvous_weight(user, nodes[order[i]]));
		}
		assert_int_equal(seen, (1u << NODES) - 1);
	}
}

static void keys_spread_evenly(void **state)
{
	size_t count[NODES] = {0}, order[NODES];
	char text[24];

	for (size_t k = 0; k < KEYS; k++) {
		rendezvous_order(key(k, text), nodes, NODES, order);
		count[order[0]]++;
	}
	for (size_t i = 0; i < NODES; i++)
		assert_in_range(count[i], KEYS / NODES * 85 / 100, KEYS / NODES * 115 / 100);
}

static void taking_a_node_moves_only_its_own_keys(void **state)
{
	size_t before[NODES], after[NODES], moved = 0;
	char text[24];

	for (size_t k = 0; k < KEYS; k++) {
		rendezvous_order(key(k, text), nodes, NODES, before);
		rendezvous_order(key(k, text), nodes, NODES - 1, after);
		if (before[0] == NODES - 1) {
			moved++;
			assert_int_equal(after[0], before[1]);
		} else {
			assert_int_equal(after[0], before[0]);
		}
	}
	assert_true(moved > 0);
}

static void order_does_not_depend_on_the_listing(void **state)
{
	struct str turned[NODES];
	size_t a[NODES], b[NODES];
	char text[24];

	for (size_t i = 0; i < NODES; i++)
		turned[i] = nodes[NODES - 1 - i];
	for (size_t k = 0; k < 100; k++) {
		rendezvous_order(key(k, text), nodes, NODES, a);
		rendezvous_order(key(k, text), turned, NODES, b);
		for (size_t i = 0; i < NODES; i++)
			assert_true(str_eq(nodes[a[i]], turned[b[i]]));
	}
}

static void weight_is_the_same_in_every_version(void **state)
{
	assert_true(rendezvous_weight(str_c("usr_4a8f9c2b1e5d"), str_c("worker-0")) == UINT64_C(0xd53c58eae9c5682e));
	assert_true(rendezvous_weight(str_c(""), str_c("")) == UINT64_C(0x8932c885a3fe960e));
}

static void border_between_key_and_node_counts(void **state)
{
	assert_true(rendezvous_weight(str_c("ab"), str_c("c")) != rendezvous_weight(str_c("a"), str_c("bc")));
}

static void hundreds_of_nodes_none_and_one_work(void **state)
{
	static char many_names[300][16];
	struct str many[300];
	size_t order[300];

	rendezvous_order(str_c("k"), NULL, 0, order);
	rendezvous_order(str_c("k"), nodes, 1, order);
	assert_int_equal(order[0], 0);
	for (size_t i = 0; i < 300; i++)
		many[i] = str_of(many_names[i], (size_t)snprintf(many_names[i], 16, "w%zu", i));
	rendezvous_order(str_c("k"), many, 300, order);
	for (size_t i = 1; i < 300; i++)
		assert_true(rendezvous_weight(str_c("k"), many[order[i - 1]]) >= rendezvous_weight(str_c("k"), many[order[i]]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order_is_a_permutation_by_falling_weight),
		cmocka_unit_test(keys_spread_evenly),
		cmocka_unit_test(taking_a_node_moves_only_its_own_keys),
		cmocka_unit_test(order_does_not_depend_on_the_listing),
		cmocka_unit_test(weight_is_the_same_in_every_version),
		cmocka_unit_test(border_between_key_and_node_counts),
		cmocka_unit_test(hundreds_of_nodes_none_and_one_work),
	};

	return cmocka_run_group_tests(tests, make_nodes, NULL);
}

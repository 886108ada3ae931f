/*
 * faults.h - what a bad link does to messages: loses some, doubles some, delivers some late and so out of order.
 *
 * The rates come from the environment: PINION_FAULTS="seed=7,lost=30,doubled=30,late=30,late_ms=40", in thousandths.
 * The faulty programs put this around their NNG transport; what it did is told on stderr at the end
 * ("faults: publications 1234 lost 30 doubled 31 late 29 requests …"). Thread: the loop's.
 */
#ifndef PINION_TESTS_LIB_FAULTS_H
#define PINION_TESTS_LIB_FAULTS_H

#include <stdbool.h>
#include <stdint.h>
#include "common/bytes.h"
#include "common/loop.h"
#include "tests/lib/util.h"

enum fate { FATE_PASSES, FATE_LOST, FATE_DOUBLED, FATE_LATE };

struct fault_counts {
	uint64_t all, lost, doubled, late;
};

struct faults {
	struct loop *loop;
	struct random random;
	uint32_t lost, doubled, late, late_ms;
	struct held *held; /* messages that come late */
	struct fault_counts publications, requests;
};

void faults_init(struct faults *faults, struct loop *loop);
/* Forgets what is held, tells what was done. */
void faults_finish(struct faults *faults, const char *who);
/* Draws what becomes of the next message. */
enum fate faults_draw(struct faults *faults, struct fault_counts *counts);
/* 1 to late_ms. */
uint32_t faults_delay(struct faults *faults);
/* deliver(ctx, number, message) in delay_ms. The message is copied. */
void faults_hold(struct faults *faults, uint32_t delay_ms, void *ctx, uint64_t number, struct str message,
                 void (*deliver)(void *ctx, uint64_t number, struct str message));
/* Forgets what is held for ctx; gone (may be NULL) is called for each. */
void faults_forget(struct faults *faults, void *ctx, void (*gone)(void *ctx, uint64_t number));

#endif

/* main.c - pinion-worker. */
#include "worker/program.h"

int main(int argc, char **argv)
{
	return worker_program(argc, argv, NULL);
}

/* main.c - pinion-gateway. */
#include "gateway/program.h"

int main(int argc, char **argv)
{
	return gateway_program(argc, argv, NULL);
}

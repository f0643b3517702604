/* Computes for 50 ms in a chain of five functions and ends at once. Prints its line of JSON before the end. */
#include "chain.h"

static struct spell spell;

ALONE long s05(long n) {
    begin(&spell);
    compute_here(50000000);
    finish(&spell);
    return n;
}

ALONE long s04(long n) { return s05(n + 1) + 1; }
ALONE long s03(long n) { return s04(n + 1) + 1; }
ALONE long s02(long n) { return s03(n + 1) + 1; }
ALONE long s01(long n) { return s02(n + 1) + 1; }

int main(int argc, char **argv) {
    (void)argv;
    sink += (unsigned long)s01(argc);
    print_truth("short50ms", &spell, 1, 0);
    _exit(0);
}

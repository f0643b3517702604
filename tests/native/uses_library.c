/* Calls the library. Arguments: MODE (cpu, sleep) SECONDS ROLE, which it prints. */
#include "chain.h"

long enter(const char *mode, long n);

static struct spell spell;

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    begin(&spell);
    long long end = spell.from_ns + (long long)(atof(argv[2]) * 1e9);
    while (clock_ns(CLOCK_MONOTONIC) < end)
        sink += (unsigned long)enter(argv[1], argc);
    finish(&spell);
    print_truth(argv[3], &spell, 1, 0);
    return 0;
}

/* A program that executes another one after some time, which has the same code under other names at the same addresses.
 *
 * Built with -DNAME=... for its names and role; or with -DPASS, which executes the next program at once.
 * Arguments: SECONDS [NEXT ARGUMENTS...]; of the one that passes on: NEXT ARGUMENTS... */
#include "chain.h"

#ifdef PASS
int main(int argc, char **argv) {
    if (argc > 1)
        execv(argv[1], argv + 1);
    return 3;
}
#else
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

ALONE long JOIN(NAME, 02)(long n) {
    volatile long space[5];
    space[n % 5] = n;
    compute_here(5000000);
    return space[n % 5] + 1;
}

ALONE long JOIN(NAME, 01)(long n) {
    volatile long space[9];
    space[n % 9] = n;
    return JOIN(NAME, 02)(n + 1) + space[n % 9];
}

#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    struct spell spell;
    begin(&spell);
    long long end = spell.from_ns + (long long)(atof(argv[1]) * 1e9);
    for (long turn = 1; clock_ns(CLOCK_MONOTONIC) < end; turn++)
        sink += (unsigned long)JOIN(NAME, 01)(turn);
    finish(&spell);
    print_truth(TEXT(NAME), &spell, 1, 0);
    if (argc > 2)
        execv(argv[2], argv + 2);
    return argc > 2 ? 3 : 0;
}
#endif

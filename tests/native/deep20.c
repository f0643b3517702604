/* A chain of 20 functions with frames of different sizes, in main or in a thread: f01 calls f02 ... calls f20.
 *
 * Arguments: MODE (cpu, sleep, read, futex) WHERE (main, thread) SECONDS [unlink | replace FILE]: the last two take the program's own
 * file away, or put another one in its place, before the chain begins. Each descent makes another frame size in f07. */
#include "chain.h"

static const char *mode;

ALONE long f20(long n) {
    volatile long space[5];
    space[n % 5] = n;
    do_as_asked(mode);
    return space[n % 5] + 1;
}

#define LEVEL(name, next, words)                                                                                       \
    ALONE long name(long n) {                                                                                          \
        volatile long space[words];                                                                                    \
        space[n % (words)] = n;                                                                                        \
        long result = next(n + 1);                                                                                     \
        return result + space[n % (words)];                                                                            \
    }

LEVEL(f19, f20, 3)
LEVEL(f18, f19, 17)
LEVEL(f17, f18, 40)
LEVEL(f16, f17, 1)
LEVEL(f15, f16, 129)
LEVEL(f14, f15, 7)
LEVEL(f13, f14, 11)
LEVEL(f12, f13, 64)
LEVEL(f11, f12, 2)
LEVEL(f10, f11, 23)
LEVEL(f09, f10, 200)
LEVEL(f08, f09, 9)

ALONE long f07(long n) {
    /* A stack that differs from descent to descent, so that each is a place of its own. */
    size_t len = 16 + (size_t)(n * 2654435761UL >> 7) % 2000;
    volatile char *space = alloca(len);
    space[0] = space[len - 1] = (char)n;
    long result = f08(n + 1);
    return result + space[0];
}

LEVEL(f06, f07, 31)
LEVEL(f05, f06, 4)
LEVEL(f04, f05, 77)
LEVEL(f03, f04, 13)
LEVEL(f02, f03, 6)
LEVEL(f01, f02, 50)

static double seconds;
static struct spell spell;

ALONE void *descend(void *unused) {
    begin(&spell);
    long long end = spell.from_ns + (long long)(seconds * 1e9);
    for (long turn = 1; clock_ns(CLOCK_MONOTONIC) < end; turn++)
        sink += (unsigned long)f01(turn);
    finish(&spell);
    return unused;
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    mode = argv[1];
    seconds = atof(argv[3]);
    if (argc > 4 && strcmp(argv[4], "unlink") == 0 && unlink(argv[0]) != 0)
        return 4;
    if (argc > 5 && strcmp(argv[4], "replace") == 0 && rename(argv[5], argv[0]) != 0)
        return 4;
    prepare(mode);
    run_in(argv[2], descend);
    print_truth("deep20", &spell, 1, 0);
    return 0;
}

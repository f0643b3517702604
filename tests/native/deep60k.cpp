// A stack that is 60 KiB deep: 24 methods with frames of some 2,600 bytes each, k01 outermost.
//
// Arguments: MODE (cpu, sleep, read, futex) WHERE (main, thread) SECONDS. Prints how deep the stack was from the outermost function
// to the innermost.
#include "chain.h"

static const char *mode;
static double seconds;
static spell spells[1];
static char *outermost;
static long depth_bytes;

extern "C" {

ALONE long k24(long n) {
    volatile char space[2400];
    space[n % 2400] = static_cast<char>(n);
    depth_bytes = outermost - const_cast<char *>(&space[0]);
    do_as_asked(mode);
    return space[n % 2400];
}

#define LEVEL(name, next)                                                                                              \
    ALONE long name(long n) {                                                                                          \
        volatile char space[2560];                                                                                     \
        space[n % 2560] = static_cast<char>(n);                                                                        \
        return next(n + 1) + space[n % 2560];                                                                          \
    }

LEVEL(k23, k24)
LEVEL(k22, k23)
LEVEL(k21, k22)
LEVEL(k20, k21)
LEVEL(k19, k20)
LEVEL(k18, k19)
LEVEL(k17, k18)
LEVEL(k16, k17)
LEVEL(k15, k16)
LEVEL(k14, k15)
LEVEL(k13, k14)
LEVEL(k12, k13)
LEVEL(k11, k12)
LEVEL(k10, k11)
LEVEL(k09, k10)
LEVEL(k08, k09)
LEVEL(k07, k08)
LEVEL(k06, k07)
LEVEL(k05, k06)
LEVEL(k04, k05)
LEVEL(k03, k04)
LEVEL(k02, k03)
LEVEL(k01, k02)

ALONE void *descend(void *unused) {
    char here;
    outermost = &here;
    begin(&spells[0]);
    long long end = spells[0].from_ns + static_cast<long long>(seconds * 1e9);
    for (long turn = 1; clock_ns(CLOCK_MONOTONIC) < end; turn++)
        sink += static_cast<unsigned long>(k01(turn));
    finish(&spells[0]);
    return unused;
}
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    mode = argv[1];
    seconds = atof(argv[3]);
    prepare(mode);
    run_in(argv[2], descend);
    print_truth("deep60k", spells, 1, depth_bytes);
    return 0;
}

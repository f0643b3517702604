/* Thousands of distinct stacks: each wait is at the end of another chain of calls through eight levels of a hundred functions each.
 *
 * Arguments: TURNS. Two threads, each on a CPU of its own where there are two, wait for a millisecond TURNS times. The functions are
 * called hXX < gXX < fXX ... < aXX, the innermost first: XX of h, g and f are free, the others follow from them, so that a name that
 * is wrong shows. Each h, g and f together wait at an instruction and a depth of the stack of their own: a place of its own. */
#define _GNU_SOURCE
#include "chain.h"
#include <sched.h>

#define ROWS 100
typedef long (*step)(long h, long g, long f);

static inline __attribute__((always_inline)) void wait_here(void) {
    struct timespec time = {0, 1000000};
#if defined(__x86_64__)
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "0"(SYS_nanosleep), "D"(&time), "S"(0) : "rcx", "r11", "memory");
#else
    nanosleep(&time, NULL);
#endif
}

#define TEN(level, tens)                                                                                               \
    ROW(level, tens##0) ROW(level, tens##1) ROW(level, tens##2) ROW(level, tens##3) ROW(level, tens##4)                \
    ROW(level, tens##5) ROW(level, tens##6) ROW(level, tens##7) ROW(level, tens##8) ROW(level, tens##9)
#define HUNDRED(level)                                                                                                 \
    TEN(level, 0) TEN(level, 1) TEN(level, 2) TEN(level, 3) TEN(level, 4) TEN(level, 5) TEN(level, 6) TEN(level, 7)    \
    TEN(level, 8) TEN(level, 9)

#define ROW(level, row)                                                                                                \
    ALONE long level##row(long h, long g, long f) {                                                                            \
        wait_here();                                                                                                   \
        return h + g + f + 1##row;                                                                                     \
    }
HUNDRED(h)
#undef ROW
#define ROW(level, row) level##row,
static const step rows_h[ROWS] = {HUNDRED(h)};
#undef ROW

/* The depth of the stack differs from row to row. */
#define ROW(level, row)                                                                                                \
    ALONE long level##row(long h, long g, long f) {                                                                            \
        volatile char space[16 + 32 * (1##row - 100)];                                                                 \
        space[0] = (char)h;                                                                                            \
        return rows_h[h](h, g, f) + space[0];                                                                          \
    }
HUNDRED(g)
#undef ROW
#define ROW(level, row) level##row,
static const step rows_g[ROWS] = {HUNDRED(g)};
#undef ROW

#define ROW(level, row)                                                                                                \
    ALONE long level##row(long h, long g, long f) {                                                                    \
        volatile char space[16 + 3200 * ((1##row - 100) % 10)];                                                        \
        space[0] = (char)h;                                                                                            \
        return rows_g[g](h, g, f) + space[0];                                                                          \
    }
HUNDRED(f)
#define NEXT(h, g, f) rows_f[f](h, g, f)
#define TABLE(level) static const step rows_##level[ROWS] = {HUNDRED(level)};
#undef ROW
#define ROW(level, row) level##row,
TABLE(f)
#undef ROW
#define ROW(level, row)                                                                                                \
    ALONE long level##row(long h, long g, long f) { return NEXT(h, g, f) + 1##row; }
HUNDRED(e)
#undef ROW
#undef NEXT
#define NEXT(h, g, f) rows_e[(h + g + f) % ROWS](h, g, f)
#define ROW(level, row) level##row,
TABLE(e)
#undef ROW
#define ROW(level, row)                                                                                                \
    ALONE long level##row(long h, long g, long f) { return NEXT(h, g, f) + 1##row; }
HUNDRED(d)
#undef ROW
#undef NEXT
#define NEXT(h, g, f) rows_d[(h + 2 * g + f) % ROWS](h, g, f)
#define ROW(level, row) level##row,
TABLE(d)
#undef ROW
#define ROW(level, row)                                                                                                \
    ALONE long level##row(long h, long g, long f) { return NEXT(h, g, f) + 1##row; }
HUNDRED(c)
#undef ROW
#undef NEXT
#define NEXT(h, g, f) rows_c[(h + 3 * g + f) % ROWS](h, g, f)
#define ROW(level, row) level##row,
TABLE(c)
#undef ROW
#define ROW(level, row)                                                                                                \
    ALONE long level##row(long h, long g, long f) { return NEXT(h, g, f) + 1##row; }
HUNDRED(b)
#undef ROW
#undef NEXT
#define NEXT(h, g, f) rows_b[(h + 4 * g + f) % ROWS](h, g, f)
#define ROW(level, row) level##row,
TABLE(b)
#undef ROW
#define ROW(level, row)                                                                                                \
    ALONE long level##row(long h, long g, long f) { return NEXT(h, g, f) + 1##row; }
HUNDRED(a)
#undef ROW
#define ROW(level, row) level##row,
TABLE(a)

static long turns;
static struct spell spells[2];

ALONE void *work(void *of) {
    struct spell *spell = of;
    long index = spell - spells;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((int)index, &one);
    sched_setaffinity(0, sizeof one, &one);
    begin(spell);
    for (long turn = 0; turn < turns; turn++) {
        /* Each thread has fifty of the hundred rows of h. */
        long h = index * 50 + turn % 50, g = turn / 50 % ROWS, f = turn / (50 * ROWS) % 10;
        sink += (unsigned long)rows_a[(h + 5 * g + f) % ROWS](h, g, f);
    }
    finish(spell);
    return of;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    turns = atol(argv[1]);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, work, &spells[i]) != 0)
            return 3;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    print_truth("many", spells, 2, 0);
    return 0;
}

/* What the programs that are looked at share: functions that stay what they are, clocks, and waits of known kinds.
 *
 * Each program prints one line of JSON at its end: for each thread its id and from when to when (CLOCK_MONOTONIC) it was within the
 * chain of functions that the test expects. Built -O2 -fomit-frame-pointer -fno-optimize-sibling-calls by the tests. */
#ifndef CHAIN_H
#define CHAIN_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <alloca.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* Never inlined, cloned, merged with an equal one, or analysed by its callers. */
#if defined(__GNUC__) && !defined(__clang__)
#define ALONE __attribute__((noinline, noclone, noipa))
#else
#define ALONE __attribute__((noinline))
#endif

static volatile unsigned long sink;

static inline long long clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Computes for so much time of this thread, in the caller: it has no frame of its own. */
static inline __attribute__((always_inline)) void compute_here(long long ns) {
    long long end = clock_ns(CLOCK_THREAD_CPUTIME_ID) + ns;
    do {
        for (unsigned long turn = 0; turn < 200000; turn++)
            sink = sink * 2654435761UL + turn;
    } while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < end);
}

#define WAIT_NS 2000000L

static int timer_fd = -1;

/* Waits 2 ms in the system call that the first letter of `mode` names: sleep, read, futex. Anything else computes for 5 ms. */
static inline __attribute__((always_inline)) void do_as_asked(const char *mode) {
    struct timespec time = {0, WAIT_NS};
    static int word = 0;
    unsigned long long ticks;
    switch (mode[0]) {
    case 's':
        nanosleep(&time, NULL);
        break;
    case 'r':
        if (read(timer_fd, &ticks, sizeof ticks) != sizeof ticks)
            _exit(3);
        break;
    case 'f':
        syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
        break;
    default:
        compute_here(5000000);
    }
}

static inline void prepare(const char *mode) {
    struct itimerspec every = {{0, WAIT_NS}, {0, WAIT_NS}};
    if (mode[0] == 'r') {
        timer_fd = timerfd_create(CLOCK_MONOTONIC, 0);
        if (timer_fd < 0 || timerfd_settime(timer_fd, 0, &every, NULL) != 0)
            _exit(3);
    }
}

struct spell {
    int tid;
    long long from_ns, to_ns;
};

static inline void begin(struct spell *spell) {
    spell->tid = (int)syscall(SYS_gettid);
    spell->from_ns = clock_ns(CLOCK_MONOTONIC);
}

static inline void finish(struct spell *spell) { spell->to_ns = clock_ns(CLOCK_MONOTONIC); }

/* Calls `body` in main or in a thread, as `where` says. Without a frame of its own. */
static inline __attribute__((always_inline)) void run_in(const char *where, void *(*body)(void *)) {
    pthread_t thread;
    if (strcmp(where, "thread") != 0) {
        body(NULL);
        return;
    }
    if (pthread_create(&thread, NULL, body, NULL) != 0)
        _exit(3);
    pthread_join(thread, NULL);
}

static inline void print_truth(const char *role, const struct spell *spells, int count, long depth_bytes) {
    printf("{\"role\": \"%s\", \"pid\": %d, \"depth_bytes\": %ld, \"threads\": [", role, getpid(), depth_bytes);
    for (int i = 0; i < count; i++)
        printf("%s{\"tid\": %d, \"from_ns\": %lld, \"to_ns\": %lld}", i ? ", " : "", spells[i].tid, spells[i].from_ns,
               spells[i].to_ns);
    printf("]}\n");
    fflush(stdout);
}

#endif
